//! Hints for errors of the libraries: the options and commands of `vlct` that resolve them.

use std::error::Error;
use std::path::Path;

use vlct_config::ConfigError;
use vlct_data::DataError;
use vlct_data::datasets::Published;
use vlct_data::error::MissingFile;
use vlct_data::webdataset::tar_stem;
use vlct_hub::HubError;
use vlct_model::sizes::SizeError;
use vlct_predict::{Head, PredictError};
use vlct_prepare::error::{PrepareError, VgqaFile};
use vlct_tasks::description::{ConvertError, ExportError, WeightsError};
use vlct_train::TrainError;
use vlct_train::trainer::run_of;

use crate::shell::shell_word;

/// Returns the message of an error, followed by a hint if there is one.
pub fn with_hint(error: &(dyn Error + 'static)) -> String {
    match hint(error) {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

fn hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(TrainError::Data(error)) = error.downcast_ref() {
        return data_hint(error);
    }
    if let Some(TrainError::Config(error)) = error.downcast_ref() {
        return config_hint(error).map(Into::into);
    }
    if let Some(hint) = error.downcast_ref().and_then(train_hint) {
        return Some(hint.into());
    }
    if let Some(error) = error.downcast_ref() {
        return prepare_hint(error);
    }
    if let Some(error) = error.downcast_ref() {
        return predict_hint(error);
    }
    if let Some(error) = error.downcast_ref() {
        return config_hint(error).map(Into::into);
    }
    if let Some(hint) = error.downcast_ref().and_then(export_hint) {
        return Some(hint.into());
    }
    if let Some(HubError::Io(_)) = error.downcast_ref() {
        return Some("HF_HOME names another directory for downloads".into());
    }
    if let Some(ConvertError::Weights(error)) = error.downcast_ref() {
        return weights_hint(error).map(Into::into);
    }
    error.downcast_ref().and_then(data_hint)
}

fn export_hint(error: &ExportError) -> Option<&'static str> {
    match error {
        ExportError::SeveralHeads { .. } => Some("name it with --head"),
        ExportError::TokenizerSize { .. } => Some("--tokenizer takes the vocab.txt of the model"),
        ExportError::Weights(error) => weights_hint(error),
        _ => None,
    }
}

fn weights_hint(error: &WeightsError) -> Option<&'static str> {
    match error {
        WeightsError::Sizes {
            source: SizeError::UnknownHeads { .. },
            ..
        } => Some("give it with --heads"),
        _ => None,
    }
}

fn train_hint(error: &TrainError) -> Option<&'static str> {
    match error {
        TrainError::MissingDataRoot => Some("`vlct quickstart` generates its own data"),
        TrainError::OtherModelKind { is_classifier, .. } => Some(match is_classifier {
            true => "`vlct imagenet --resume RUN` continues it",
            false => "`vlct run with RUN/config.toml resume_from=RUN` continues it",
        }),
        TrainError::OtherOptimizer { .. } => Some("--finetune begins with the weights alone"),
        TrainError::UnknownHeads { .. } => Some("give it with --heads"),
        TrainError::OtherBatchSize { .. } => {
            Some("resume with the --batch_size that it began with, or begin a new run with --finetune")
        }
        TrainError::NoValidationImages { .. } => Some("or hold some out with --val_fraction 0.1"),
        _ => None,
    }
}

fn config_hint(error: &ConfigError) -> Option<&'static str> {
    match error {
        ConfigError::UnknownKey { .. } => Some("`vlct run help` lists all keys"),
        ConfigError::UnknownNamedConfig { .. } => Some("`vlct run print_named_configs` lists them"),
        _ => None,
    }
}

fn data_hint(error: &DataError) -> Option<String> {
    match error {
        DataError::MissingFiles { directory, missing } => Some(missing_files_hint(directory, missing)),
        DataError::UnknownDataset { name, directory, .. } => {
            let other_directory = match directory.is_dir() {
                true => "",
                false => "give data_root the directory that has the Arrow files, or ",
            };
            Some(format!(
                "{other_directory}make them: {}",
                prepare_command(name, directory)
            ))
        }
        DataError::NoValidation { .. } => Some("--val_fraction 0.1 holds out a tenth".into()),
        DataError::Unfinished { .. } => Some("if it was stopped, the same vlct prepare command resumes it".into()),
        DataError::Locked { .. } => Some("wait until it ends, or use another --out".into()),
        DataError::Compressed { path, compression, .. } if *compression == "gzip" && tar_stem(path).is_some() => {
            Some("or make Arrow files with vlct prepare webdataset, which reads it as it is".into())
        }
        DataError::OtherPreparation { .. } => {
            Some("the command that began it resumes it; --overwrite starts again".into())
        }
        _ => None,
    }
}

fn prepare_hint(error: &PrepareError) -> Option<String> {
    let hint = match error {
        PrepareError::MissingAnnotations(_) => "--root is the directory that the downloads were unpacked into",
        PrepareError::MissingDirectory(_) => {
            "--root is the directory that the downloads were unpacked into, and --splits can leave out what you do not have"
        }
        PrepareError::MissingFile {
            what: VgqaFile::Questions,
            ..
        } => "vlct map-vg-mscoco writes it",
        PrepareError::MissingFile {
            what: VgqaFile::Vocabulary,
            ..
        } => "--labels names another vocabulary",
        PrepareError::MissingTable { extension, .. } => {
            return Some(format!("name the table with --annotations FILE.{extension}"));
        }
        PrepareError::NoUsableRow { missing: Some(_), .. } => "paths are relative to --root",
        PrepareError::UnknownRowSplit { .. } => "or give the file with --annotations SPLIT=FILE",
        PrepareError::TooManyMalformedRows { first, .. } => return prepare_hint(first),
        PrepareError::MixedDirectories { .. } => "or give one of them as --root",
        PrepareError::UnexpectedAnnotations { .. } => "omit --annotations",
        PrepareError::NoFrequentAnswer { .. } => "or give a smaller --min-answers",
        PrepareError::OtherVocabulary { .. } => "or use another --out",
        PrepareError::OutputExists { .. } => "replace them with --overwrite, or use another --out",
        PrepareError::Data(error) => return data_hint(error),
        _ => return None,
    };
    Some(hint.into())
}

fn predict_hint(error: &PredictError) -> Option<String> {
    match error {
        PredictError::Data(error) => data_hint(error),
        PredictError::NoHead { found, needed, .. } => {
            let tasks: Vec<&str> = TASKS_OF_HEADS
                .iter()
                .filter(|(_, heads)| heads.is_empty() || heads.iter().any(|head| found.contains(head)))
                .map(|(task, _)| *task)
                .collect();
            let zero_shot = match needed.contains(&Head::Labels) && tasks.contains(&"classify") {
                true => " (classify with --classes FILE)",
                false => "",
            };
            Some(format!("vlct predict can use it for {}{zero_shot}", tasks.join(", ")))
        }
        PredictError::NoNames { what: "answers", .. } => Some("name them with --answers FILE".into()),
        PredictError::OtherVocabulary { .. } => Some("leave out --tokenizer: the file contains its vocabulary".into()),
        PredictError::TokenizerSize { .. } => Some("--tokenizer takes a vocab.txt".into()),
        PredictError::TextTooLong { .. } => Some("shorten it, or use --truncate".into()),
        PredictError::Description(WeightsError::Sizes {
            path,
            source: SizeError::Missing(_),
        }) => {
            // The file of an epoch does not name the classes.
            let run = run_of(path)?;
            Some(format!(
                "give the run directory, which names the classes: --load {}",
                shell_word(run.display())
            ))
        }
        PredictError::Description(error) => weights_hint(error).map(Into::into),
        _ => None,
    }
}

/// The tasks of `vlct predict`, each with the heads one of which it needs.
const TASKS_OF_HEADS: [(&str, &[Head]); 9] = [
    ("vqa", &[Head::Vqa]),
    ("match", &[Head::Matching]),
    ("nlvr2", &[Head::Nlvr2]),
    ("classify", &[Head::Labels, Head::Matching]),
    ("retrieve", &[Head::Ranking, Head::Matching]),
    ("fill", &[Head::MaskedWords]),
    ("repaint", &[Head::Decoder]),
    ("align", &[]),
    ("features", &[]),
];

fn missing_files_hint(directory: &Path, missing: &[MissingFile]) -> String {
    let mut datasets: Vec<&str> = missing.iter().map(|file| file.dataset.as_str()).collect();
    datasets.dedup();
    let first_shard_exists = |file: &str| {
        let shard = file.trim_end_matches(".arrow").rsplit_once('_');
        shard.is_some_and(|(name, number)| {
            number.parse::<u64>().is_ok() && directory.join(format!("{name}_0.arrow")).exists()
        })
    };
    let fewer_shards_hint = if missing
        .iter()
        .any(|file| !file.allows_fewer_shards && first_shard_exists(&file.file))
    {
        ", or fewer_shards=True if there are no more"
    } else {
        ""
    };
    let commands: Vec<String> = datasets.iter().map(|name| prepare_command(name, directory)).collect();
    format!(
        "give data_root the directory that has the Arrow files of {}{fewer_shards_hint}, or make them: {}",
        datasets.join(", "),
        commands.join("; ")
    )
}

/// Returns the command that makes the files of a dataset.
fn prepare_command(name: &str, data_root: &Path) -> String {
    let out = shell_word(data_root.display());
    match Published::find(name) {
        Some(dataset) => format!("vlct prepare {} --root RAW --out {out}", dataset.preparation),
        None => format!("vlct prepare jsonl --root IMAGES --annotations FILE.jsonl --name {name} --out {out}"),
    }
}

#[cfg(test)]
mod tests {
    use vlct_data::datasets::{FileRules, Split, files};

    use super::*;

    fn message(directory: &Path, name: &str, rules: &FileRules) -> String {
        with_hint(&TrainError::Data(
            files(directory, name, Split::Train, rules).unwrap_err(),
        ))
    }

    #[test]
    fn hint_for_missing_files_is_the_command_that_makes_them() {
        let directory = tempfile::tempdir().unwrap();
        let out = directory.path().display();
        let unknown = message(directory.path(), "photos", &FileRules::default());
        let command = "vlct prepare jsonl --root IMAGES --annotations FILE.jsonl --name photos --out";
        assert!(unknown.ends_with(&format!("; make them: {command} {out}")), "{unknown}");

        let missing = message(directory.path(), "sbu", &FileRules::default());
        let command = format!("or make them: vlct prepare sbu --root RAW --out {out}");
        assert!(
            missing.ends_with(&command) && !missing.contains("fewer_shards"),
            "{missing}"
        );
        std::fs::write(directory.path().join("sbu_0.arrow"), "").unwrap();
        assert!(message(directory.path(), "sbu", &FileRules::default()).contains("or fewer_shards=True"));
        // A shard that is missing before an existing one is an error even with fewer_shards=True.
        std::fs::write(directory.path().join("sbu_2.arrow"), "").unwrap();
        let gap = message(
            directory.path(),
            "sbu",
            &FileRules {
                fewer_shards: true,
                ..FileRules::default()
            },
        );
        assert!(gap.contains("sbu_1.arrow") && !gap.contains("fewer_shards"), "{gap}");
    }
}
