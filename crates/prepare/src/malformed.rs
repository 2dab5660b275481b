//! Counts of the rows of a file that cannot be used.

use std::path::Path;

use crate::{PrepareError, Result};
use vlct_util::text::counted;

/// Maximum number of rows that a remark describes.
const MAX_EXAMPLES: usize = 5;

/// The rows of a table, or the entries of an annotation file, that cannot be used because they are malformed, beside those that can.
#[derive(Debug, Default)]
pub(crate) struct MalformedRows {
    rows: u64,
    malformed: u64,
    first: Option<PrepareError>,
    /// What is wrong with the first rows.
    examples: Vec<String>,
}

impl MalformedRows {
    /// Counts a row that can be used.
    pub fn keep(&mut self) {
        self.rows += 1;
    }

    /// Counts a row that cannot be used.
    ///
    /// # Errors
    /// Returns `error` if it is not of a row.
    pub fn leave_out(&mut self, error: PrepareError) -> Result<()> {
        if !error.is_of_row() {
            return Err(error);
        }
        self.rows += 1;
        self.malformed += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(match &error {
                PrepareError::MalformedRow { reason, .. } => reason.clone(),
                PrepareError::UnknownRowSplit { row, split, .. } => format!("{row} has the unknown split {split:?}"),
                other => other.to_string(),
            });
        }
        self.first.get_or_insert(error);
        Ok(())
    }

    /// Returns the remark about the rows of the file `path` that cannot be used, if there are any.
    ///
    /// # Errors
    /// Returns an error if at least half of the rows cannot be used: then the file is not what it seems, or its reader is wrong.
    pub fn remark(self, path: &Path) -> Result<Option<String>> {
        let Some(first) = self.first else { return Ok(None) };
        if 2 * self.malformed >= self.rows {
            return Err(match self.rows {
                1 => first,
                rows => PrepareError::TooManyMalformedRows {
                    first: Box::new(first),
                    malformed: self.malformed,
                    rows,
                },
            });
        }
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let more = if self.malformed > self.examples.len() as u64 {
            "; …"
        } else {
            ""
        };
        Ok(Some(format!(
            "{name}: left out {} that cannot be used ({}{more})",
            counted(self.malformed, "row"),
            self.examples.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_malformed_rows_are_a_remark_and_many_an_error() {
        let path = Path::new("d/a.csv");
        let error = |row: u64| PrepareError::malformed_row(path, format!("line {row} is odd"));
        let count = |good: u64, bad: u64| {
            let mut rows = MalformedRows::default();
            (0..good).for_each(|_| rows.keep());
            (0..bad).for_each(|row| rows.leave_out(error(row)).unwrap());
            rows.remark(path)
        };
        assert_eq!(count(3, 0).unwrap(), None);
        assert_eq!(count(0, 0).unwrap(), None);
        assert_eq!(
            count(2, 1).unwrap().unwrap(),
            "a.csv: left out 1 row that cannot be used (line 0 is odd)"
        );
        let many = count(100, 7).unwrap().unwrap();
        assert!(
            many.starts_with("a.csv: left out 7 rows") && many.ends_with("line 4 is odd; …)"),
            "{many}"
        );
        assert_eq!(
            count(1, 1).unwrap_err().to_string(),
            "d/a.csv: line 0 is odd (1 of 2 rows cannot be used)"
        );
        assert_eq!(count(0, 1).unwrap_err().to_string(), "d/a.csv: line 0 is odd");
        let mut rows = MalformedRows::default();
        assert!(rows.leave_out(PrepareError::EmptyRow).is_err());
    }
}
