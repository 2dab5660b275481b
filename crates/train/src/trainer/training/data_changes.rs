//! Differences between the data of a resumed run and the data of its beginning.

use indicatif::HumanCount;
use vlct_data::datasets::FileIdentity;
use vlct_util::text::{counted, escape_control};

use crate::state::DataIdentity;

/// Describes how the data have changed since the run began, in one line for each dataset that both have. Returns nothing for a
/// checkpoint that does not say which data it was trained on.
pub(super) fn describe(before: &DataIdentity, now: &DataIdentity) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for file in &now.train {
        // A dataset that is new or gone is a change of the key `datasets`, which is reported as such.
        if !names.contains(&file.dataset.as_str()) && before.train.iter().any(|old| old.dataset == file.dataset) {
            names.push(&file.dataset);
        }
    }
    names
        .into_iter()
        .filter_map(|name| {
            let change = change_of_training(&of_dataset(&before.train, name), &of_dataset(&now.train, name));
            let change =
                change.or_else(|| change_of_validation(&of_dataset(&before.val, name), &of_dataset(&now.val, name)))?;
            Some(format!("{}: {change}", escape_control(name)))
        })
        .collect()
}

fn of_dataset<'f>(files: &'f [FileIdentity], name: &str) -> Vec<&'f FileIdentity> {
    files.iter().filter(|file| file.dataset == name).collect()
}

fn change_of_training(before: &[&FileIdentity], now: &[&FileIdentity]) -> Option<String> {
    let changes = changes(before, now)?;
    let items = |files: &[&FileIdentity]| -> Vec<u64> { files.iter().map(|file| file.items).collect() };
    let consequence = match items(before) == items(now) {
        true => "the samples differ",
        false => "the order of samples differs",
    };
    Some(format!(
        "{changes}: {consequence}, so the run is not an exact continuation"
    ))
}

fn change_of_validation(before: &[&FileIdentity], now: &[&FileIdentity]) -> Option<String> {
    let changes = changes(before, now)?;
    Some(format!(
        "{changes} (validation split): values of validations before and after are not comparable"
    ))
}

/// Describes the first change, and counts the other files that changed; `None` if the files have the same content in the same order.
fn changes(before: &[&FileIdentity], now: &[&FileIdentity]) -> Option<String> {
    if before.len() == now.len() && before.iter().zip(now).all(|(old, new)| old.has_content_of(new)) {
        return None;
    }
    let find = |files: &[&FileIdentity], name: &str| files.iter().find(|file| file.file == name).copied().cloned();
    let gone = before.iter().filter(|old| find(now, &old.file).is_none());
    let gone = gone.map(|old| {
        format!(
            "{} was there when the run began and is not there now",
            escape_control(&old.file)
        )
    });
    let others = now.iter().filter_map(|new| match find(before, &new.file) {
        Some(old) => change(&old, new),
        None => Some(format!("{} was added since the run began", escape_control(&new.file))),
    });
    // Files that are unequal at the same position, but equal under the same names, are in another order.
    let mut changes: Vec<String> = others.chain(gone).collect();
    if changes.is_empty() {
        changes.push("its files are read in another order than when the run began".into());
    }
    let first = changes.swap_remove(0);
    Some(match changes.len() {
        0 => first,
        others => format!("{first}, and {} changed too", counted(others, "other file")),
    })
}

/// Describes how a file has changed; `None` if it has the same content.
fn change(old: &FileIdentity, new: &FileIdentity) -> Option<String> {
    let name = escape_control(&new.file);
    let counts = [
        (old.rows, new.rows, "row"),
        (old.items, new.items, "text"),
        (old.bytes, new.bytes, "byte"),
    ];
    if let Some((old, new, noun)) = counts.into_iter().find(|(old, new, _)| old != new) {
        let old = counted(HumanCount(old), noun);
        return Some(format!(
            "{name} had {old} when the run began and has {} now",
            HumanCount(new)
        ));
    }
    (old.digest != new.digest)
        .then(|| format!("{name} has other texts or labels than when the run began, or the same in another order"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, rows: u64) -> FileIdentity {
        FileIdentity {
            dataset: name.split('_').next().unwrap_or_default().into(),
            file: format!("{name}.arrow"),
            rows,
            items: rows,
            bytes: 100 * rows,
            digest: rows,
        }
    }

    fn data(train: &[FileIdentity], val: &[FileIdentity]) -> DataIdentity {
        DataIdentity {
            train: train.to_vec(),
            val: val.to_vec(),
        }
    }

    #[test]
    fn names_the_file_and_what_differs() {
        let before = data(
            &[file("photos_train_0", 1800), file("photos_train_1", 5)],
            &[file("photos_val", 4)],
        );
        let with = |change: &dyn Fn(&mut DataIdentity)| {
            let mut now = before.clone();
            change(&mut now);
            describe(&before, &now)
        };
        assert!(with(&|_| ()).is_empty());
        let continuation = "so the run is not an exact continuation";
        assert_eq!(
            with(&|now| now.train[0] = file("photos_train_0", 2000)),
            [format!(
                "photos: photos_train_0.arrow had 1,800 rows when the run began and has 2,000 now: the order of samples differs, {continuation}"
            )]
        );
        let texts =
            "photos_train_1.arrow has other texts or labels than when the run began, or the same in another order";
        assert_eq!(
            with(&|now| now.train[1].digest = 9),
            [format!("photos: {texts}: the samples differ, {continuation}")]
        );
        let bytes = with(&|now| now.train[1].bytes = 1000);
        assert!(
            bytes[0].contains("had 500 bytes when the run began and has 1,000 now"),
            "{bytes:?}"
        );
        let added = with(&|now| {
            now.train[0].digest = 9;
            now.train.push(file("photos_train_2", 6));
        });
        assert!(
            added[0].contains(", and 1 other file changed too: the order of samples differs"),
            "{added:?}"
        );
        let gone = with(&|now| drop(now.train.pop()));
        assert!(
            gone[0].contains("photos_train_1.arrow was there when the run began"),
            "{gone:?}"
        );
        let swapped = with(&|now| now.train.swap(0, 1));
        assert!(swapped[0].contains("in another order"), "{swapped:?}");
        // Equal files under other names, with the same order, are no change.
        assert!(with(&|now| now.train[1].file = "photos_train_7.arrow".into()).is_empty());
        let val = with(&|now| now.val[0] = file("photos_val", 5));
        assert!(
            val[0].ends_with("(validation split): values of validations before and after are not comparable"),
            "{val:?}"
        );
    }

    #[test]
    fn says_nothing_of_new_datasets_and_old_checkpoints() {
        let now = data(&[file("photos_train", 3), file("birds_train", 4)], &[]);
        assert!(describe(&DataIdentity::default(), &now).is_empty());
        assert!(describe(&data(&[file("photos_train", 3)], &[]), &now).is_empty());
        let both = data(&[file("photos_train", 5), file("birds_train", 5)], &[]);
        assert_eq!(describe(&both, &now).len(), 2);
    }
}
