//! Counts of the rows of tables that are left out.

use vlct_util::text::counted;

/// Maximum number of rows that a remark names.
const MAX_EXAMPLES: usize = 5;

/// The rows of a split that are left out for the same reason.
#[derive(Default)]
pub(super) struct LeftOutRows {
    count: usize,
    /// Names of the first rows.
    examples: Vec<String>,
}

impl LeftOutRows {
    /// Counts a row. `name` returns its name for messages.
    pub fn add(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(name());
        }
    }

    /// Returns the remark about the rows, if there are any. `reason` completes "3 rows …".
    pub fn remark(&self, split: &str, reason: &str) -> Option<String> {
        self.remark_of("row", split, reason)
    }

    /// Like [`Self::remark`], for something else than rows; `noun` is its name.
    pub fn remark_of(&self, noun: &str, split: &str, reason: &str) -> Option<String> {
        (self.count > 0).then(|| {
            let more = if self.count > self.examples.len() { "; …" } else { "" };
            let examples = self.examples.join("; ");
            let rows = counted(self.count, noun);
            format!("{split}: left out {rows} {reason} ({examples}{more})")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_count_all_rows_and_name_the_first() {
        let mut rows = LeftOutRows::default();
        assert_eq!(rows.remark("train", "without a label"), None);
        rows.add(|| "a.csv, line 2".into());
        let remark = rows.remark("train", "without a label").unwrap();
        assert_eq!(remark, "train: left out 1 row without a label (a.csv, line 2)");
        for line in 3..12 {
            rows.add(|| format!("line {line}"));
        }
        let remark = rows.remark("val", "without a label").unwrap();
        assert_eq!(
            remark,
            "val: left out 10 rows without a label (a.csv, line 2; line 3; line 4; line 5; line 6; …)"
        );
    }
}
