//! What options and commands of this program help against an error of a library.

use std::error::Error;
use std::path::Path;

use vlct_data::DataError;
use vlct_data::datasets::preparation;
use vlct_data::error::MissingFile;
use vlct_train::TrainError;

/// The message of an error, with a hint if there is one.
pub fn with_hint(error: &(dyn Error + 'static)) -> String {
    let data = match error.downcast_ref() {
        Some(TrainError::Data(error)) => Some(error),
        _ => error.downcast_ref(),
    };
    match data.and_then(hint) {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

fn hint(error: &DataError) -> Option<String> {
    match error {
        DataError::MissingFiles { directory, missing } => Some(missing_files(directory, missing)),
        DataError::UnknownDataset { name, directory, .. } => {
            Some(format!("make them: {}", prepare_command(name, directory)))
        }
        DataError::Unfinished { .. } => Some("if it was stopped, the same vlct prepare command goes on with it".into()),
        DataError::Locked { .. } => Some("wait for it, or give another --out".into()),
        DataError::OtherPreparation { .. } => {
            Some("the same command as then goes on with it, --overwrite begins anew".into())
        }
        _ => None,
    }
}

fn missing_files(directory: &Path, missing: &[MissingFile]) -> String {
    let mut datasets: Vec<&str> = missing.iter().map(|file| file.dataset.as_str()).collect();
    datasets.dedup();
    let first_shard_exists = |file: &str| {
        let shard = file.trim_end_matches(".arrow").rsplit_once('_');
        shard.is_some_and(|(name, number)| {
            number.parse::<u64>().is_ok() && directory.join(format!("{name}_0.arrow")).exists()
        })
    };
    let fewer = if missing
        .iter()
        .any(|file| !file.is_gap && first_shard_exists(&file.file))
    {
        ", or fewer_shards=True if there are no more"
    } else {
        ""
    };
    let commands: Vec<String> = datasets.iter().map(|name| prepare_command(name, directory)).collect();
    format!(
        "give data_root the directory that has the Arrow files of {}{fewer}, or make them: {}",
        datasets.join(", "),
        commands.join("; ")
    )
}

/// The command that makes the files of a dataset.
fn prepare_command(name: &str, data_root: &Path) -> String {
    let out = data_root.display();
    match preparation(name) {
        Some(preparation) => format!("vlct prepare {preparation} --root RAW --out {out}"),
        None => format!("vlct prepare jsonl --root IMAGES --annotations FILE.jsonl --name {name} --out {out}"),
    }
}

#[cfg(test)]
mod tests {
    use vlct_data::datasets::{Shards, Split, files};

    use super::*;

    fn message(directory: &Path, name: &str, shards: Shards) -> String {
        with_hint(&TrainError::Data(
            files(directory, name, Split::Train, shards).unwrap_err(),
        ))
    }

    #[test]
    fn missing_files_come_with_the_command_that_makes_them() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().display();
        let unknown = message(directory.path(), "photos", Shards::All);
        let command = "vlct prepare jsonl --root IMAGES --annotations FILE.jsonl --name photos --out";
        assert!(unknown.ends_with(&format!("; make them: {command} {out}")), "{unknown}");

        let missing = message(directory.path(), "sbu", Shards::All);
        let command = format!("or make them: vlct prepare sbu --root RAW --out {out}");
        assert!(
            missing.ends_with(&command) && !missing.contains("fewer_shards"),
            "{missing}"
        );
        std::fs::write(directory.path().join("sbu_0.arrow"), "").unwrap();
        assert!(message(directory.path(), "sbu", Shards::All).contains("or fewer_shards=True"));
        // A gap between shards is not a smaller download.
        std::fs::write(directory.path().join("sbu_2.arrow"), "").unwrap();
        let gap = message(directory.path(), "sbu", Shards::AsFound);
        assert!(gap.contains("sbu_1.arrow") && !gap.contains("fewer_shards"), "{gap}");
    }
}
