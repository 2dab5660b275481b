//! `vlct train DATASET... [KEY=VALUE]...`: chooses the configuration of a pre-training run for datasets and machine, and trains.

use std::fmt::Write;
use std::path::Path;

use log::{info, warn};
use serde_json::{Map, json};
use vlct_config::NamedConfig;
use vlct_data::datasets::{Contents, contents};
use vlct_fit::{Fit, Remark};
use vlct_tasks::metrics::accuracy_margin;
use vlct_train::trainer::{self, CONFIG_FILE, Control, Finished};
use vlct_util::text::counted;

use crate::args::Train;
use crate::output::{Failure, print, with_thousands_separators};
use crate::ranks::{Place, check_interruption, quiet_other_ranks};
use crate::references;
use crate::shell::shell_word;
use crate::signals::Signals;

/// Name of the metric of image-text matching.
const MATCHING: &str = "itm/val/accuracy_epoch";
/// Name of the metric of masked words.
const MASKED_WORDS: &str = "mlm/val/accuracy_epoch";
/// Accuracy of matching below which a model has hardly learned to match.
const NEAR_CHANCE: f64 = 0.6;

/// Runs the command.
pub fn run(args: &Train) -> Result<(), Failure> {
    quiet_other_ranks();
    let mut words = words(args)?;
    references::resolve_words(&mut words)?;
    // Ctrl-C ends a download at once.
    let signals = Signals::listen()?;
    let place = Place::find(&vlct_config::resolve(&words)?.config)?;
    let fit = || vlct_fit::fit(&words, args.hours, signals.stop_flag());
    if args.plan {
        let Some(fit) = fit()? else { return signals.check() };
        return print(&match args.json {
            true => format!("{}\n", to_json(&fit)),
            false => describe(&fit),
        });
    }
    let device = place.device();
    let ranks = place.join(&signals)?;
    let mut chosen = None;
    let control = Control {
        stop: signals.stop_flag(),
        progress: ranks.is_first(),
        run_directory: None,
        device,
    };
    let result = trainer::run_chosen(&control, ranks.collectives(), || {
        let fit = fit()?;
        if let Some(fit) = &fit {
            info!("{}", describe(fit).trim_end());
        }
        let config = fit.as_ref().map(|fit| fit.config.clone());
        chosen = fit;
        Ok(config)
    });
    let finished = ranks.finish(result, |error| Failure::Failed(crate::hints::with_hint(error)))?;
    let Some(finished) = finished else {
        return signals.check();
    };
    if let (Some(run), Some(fit)) = (&finished.run, &chosen) {
        print(&summary(&finished, run, validated_captions(fit)))?;
    }
    check_interruption(&finished, &signals)
}

/// Returns the number of captions of a validation.
fn validated_captions(fit: &Fit) -> u64 {
    let config = &fit.config;
    match config.limit_val_batches {
        0 => fit.validation_captions,
        limit => fit
            .validation_captions
            .min(limit.saturating_mul(config.per_gpu_batchsize)),
    }
}

/// Returns the run directory of a run directory, of a directory of a checkpoint or of a checkpoint; other paths as they are.
fn run_of(path: &Path) -> &Path {
    let mut directories = path.ancestors().take(3);
    directories
        .find(|path| path.join(CONFIG_FILE).is_file())
        .unwrap_or(path)
}

/// Returns the words of `vlct run with` that the arguments stand for.
fn words(args: &Train) -> Result<Vec<String>, Failure> {
    let is_update = |word: &&String| word.contains('=') || NamedConfig::find(word).is_some();
    let (updates, datasets): (Vec<&String>, Vec<&String>) = args.words.iter().partition(is_update);
    let mut keys = updates.iter().filter_map(|update| update.split_once('='));
    let resumed = keys.find(|(key, _)| key.trim() == "resume_from").map(|(_, from)| from);
    let run = datasets.iter().find(|name| Path::new(name).join(CONFIG_FILE).is_file());
    if let Some(from) = resumed.or(run.map(|run| run.as_str())) {
        return Err(Failure::Usage(format!(
            "a run that is continued keeps its configuration, which leaves nothing to choose: vlct run with {} resume_from={}",
            shell_word(run_of(Path::new(from)).join(CONFIG_FILE).display()),
            shell_word(from)
        )));
    }
    if let Some(file) = datasets
        .iter()
        .find(|name| name.ends_with(".toml") || name.ends_with(".json"))
    {
        return Err(Failure::Usage(format!(
            "{file} is a configuration, which leaves nothing to choose: `vlct run with {}` trains with it",
            shell_word(file)
        )));
    }
    if let Some(path) = datasets
        .iter()
        .find(|name| name.contains(['/', '\\']) || Path::new(name).is_file())
    {
        return Err(Failure::Usage(format!(
            "{path} is a path, not the name of a dataset: `vlct prepare` makes a dataset of images and captions, such as vlct prepare csv \
             --root IMAGES --annotations TABLE.csv --name photos --out {}",
            shell_word(args.data_root.display())
        )));
    }
    if !datasets.is_empty()
        && let Some(update) = updates
            .iter()
            .find(|update| update.starts_with("datasets") || update.starts_with("data_root"))
    {
        return Err(Failure::Usage(format!(
            "{update} beside the names of datasets: name all datasets as words of their own, and their directory by --data-root"
        )));
    }
    if datasets.is_empty() {
        return Err(Failure::Usage(
            "no dataset is named: vlct train NAME, where NAME is the --name of `vlct prepare`".into(),
        ));
    }
    let mut names: Vec<String> = Vec::new();
    // A word can be a list: a,b.
    let all = datasets.iter().flat_map(|word| word.split(','));
    for name in all.map(str::trim).filter(|name| !name.is_empty()) {
        let quoted = format!("{name:?}");
        if names.contains(&quoted) {
            return Err(Failure::Usage(format!(
                "the dataset {name} is named twice, so each of its captions would count twice in an epoch"
            )));
        }
        check_contents(&args.data_root, name)?;
        names.push(quoted);
    }
    let mut words = vec![
        format!("data_root={}", args.data_root.display()),
        format!("datasets=[{}]", names.join(", ")),
    ];
    words.extend(updates.into_iter().cloned());
    Ok(words)
}

/// Rejects a dataset without captions, and names the command that trains on it. Other errors of a dataset are found when it is opened.
fn check_contents(data_root: &Path, name: &str) -> Result<(), Failure> {
    let Ok(contents) = contents(data_root, name) else {
        return Ok(());
    };
    let named_config = match contents {
        Contents::Captions => return Ok(()),
        Contents::Questions => "task_finetune_vqa_mae_randaug",
        Contents::Pairs => "task_finetune_nlvr2_mae_randaug",
        Contents::Labels => "task_finetune_labels",
    };
    Err(Failure::Failed(format!(
        "{name} is a dataset of {contents}, and `vlct train` pre-trains on images with captions: fine-tune a pre-trained model on it, with \
         vlct run with data_root={} datasets={name} {named_config} per_gpu_batchsize=8 load_path=RUN (docs/fine-tuning.md)",
        shell_word(data_root.display())
    )))
}

/// Describes the data, the choices and the remarks.
fn describe(fit: &Fit) -> String {
    let facts = &fit.facts;
    let mut text = format!(
        "{} of {} for training, {} for validation; the shorter side of a typical image has {}\n\nchosen:\n",
        counted(with_thousands_separators(facts.captions), "caption"),
        counted(with_thousands_separators(facts.images), "image"),
        counted(with_thousands_separators(facts.validation_captions), "caption"),
        counted(facts.side, "pixel")
    );
    for choice in &fit.choices {
        let _ = writeln!(text, "  {choice}");
    }
    if !fit.remarks.is_empty() {
        text.push_str("\nnote:\n");
    }
    for remark in &fit.remarks {
        let _ = writeln!(text, "  {}", with_hint(remark));
    }
    text
}

/// Returns a remark with the command that helps.
fn with_hint(remark: &Remark) -> String {
    let hint = match remark {
        Remark::RandomWeights => ": `--plan` with this key shows how long",
        Remark::OtherVocabulary { .. } => ": `vlct vocabulary` makes one",
        Remark::FewSamples { .. } | Remark::FewCaptions { .. } | Remark::CutTexts(_) => "",
    };
    format!("{remark}{hint}")
}

fn to_json(fit: &Fit) -> serde_json::Value {
    let facts = &fit.facts;
    let choices: Vec<_> = fit
        .choices
        .iter()
        .map(|choice| {
            let values: Map<_, _> = choice
                .values
                .iter()
                .map(|(key, value)| ((*key).into(), value.to_json()))
                .collect();
            json!({ "values": values, "reason": choice.reason })
        })
        .collect();
    json!({
        "captions": facts.captions,
        "images": facts.images,
        "validation_captions": facts.validation_captions,
        "image_side": facts.side,
        "choices": choices,
        "remarks": fit.remarks.iter().map(with_hint).collect::<Vec<_>>(),
        "config": fit.config.to_json(),
    })
}

/// Describes the result of a run and names the commands that use it.
fn summary(finished: &Finished, run: &Path, held_out: u64) -> String {
    let mut text = String::new();
    let metric = |name: &str| {
        finished
            .best_metrics
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    };
    if let Some((_, step)) = finished.best {
        let _ = writeln!(
            text,
            "best checkpoint: step {step}, the best of all validations on {}",
            counted(held_out, "held-out caption")
        );
    }
    // A batch of one caption has no matching pair.
    if let Some(accuracy) = metric(MATCHING).filter(|_| held_out > 1) {
        let _ = writeln!(
            text,
            "  matching of held-out images and captions: {:.1} % ± {:.1} % (chance: 50 %)",
            100.0 * accuracy,
            100.0 * accuracy_margin(accuracy, held_out)
        );
        if accuracy < NEAR_CHANCE {
            warn!(
                "the model has hardly learned to match images and captions: it needs more images, more time, or trained weights"
            );
        }
    }
    if let Some(accuracy) = metric(MASKED_WORDS) {
        let _ = writeln!(text, "  masked words of held-out captions: {:.1} %", 100.0 * accuracy);
    }
    let _ = writeln!(text, "run: {}", run.display());
    let word = shell_word(run.display());
    if finished.interrupted {
        let config = shell_word(run.join(CONFIG_FILE).display());
        let _ = writeln!(text, "continue: vlct run with {config} resume_from={word}");
    } else {
        let _ = writeln!(
            text,
            "try it:\n  vlct report {word}\n  vlct predict match --load {word} IMAGE \"TEXT\""
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Train {
        Train {
            words: words.iter().map(|word| word.to_string()).collect(),
            data_root: "data".into(),
            hours: 1.0,
            plan: false,
            json: false,
        }
    }

    #[test]
    fn words_are_datasets_or_updates() {
        let words = words(&args(&["photos,own", "step25k", "seed=1", "laion"])).unwrap();
        assert_eq!(
            words,
            [
                "data_root=data",
                "datasets=[\"photos\", \"own\", \"laion\"]",
                "step25k",
                "seed=1"
            ]
        );
    }

    #[test]
    fn other_words_get_a_hint() {
        for (word, part) in [
            (&["run/config.toml"][..], "vlct run with run/config.toml"),
            (&["photos/train"], "vlct prepare csv"),
            (&["seed=1"], "no dataset is named"),
            (&["a,b", "a"], "a is named twice"),
        ] {
            match words(&args(word)) {
                Err(Failure::Usage(message)) => assert!(message.contains(part), "{word:?}: {message}"),
                other => panic!("{word:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_run_is_continued_by_another_command() {
        let directory = tempfile::tempdir().unwrap();
        let run = directory.path().to_str().unwrap();
        std::fs::create_dir(directory.path().join("last")).unwrap();
        let command = format!("vlct run with {run}/config.toml resume_from=");
        std::fs::write(directory.path().join(CONFIG_FILE), "").unwrap();
        let (from, file) = (
            format!("resume_from={run}"),
            format!("resume_from={run}/last/checkpoint.safetensors"),
        );
        let config = format!("{run}/config.toml");
        for word in [
            &[&from[..]][..],
            &["photos", "seed=1", &from],
            &["photos", &file],
            &[&config, &from],
            &[run],
        ] {
            match words(&args(word)) {
                Err(Failure::Usage(message)) => assert!(message.contains(&command), "{word:?}: {message}"),
                other => panic!("{word:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_summary_of_an_interrupted_run_says_how_to_continue() {
        let mut finished = Finished {
            run: None,
            steps: 5,
            interrupted: true,
            seconds: 1.0,
            metrics: Vec::new(),
            best: Some((1.5, 4)),
            best_metrics: vec![(MATCHING.into(), 0.875)],
        };
        let text = summary(&finished, Path::new("r"), 200);
        assert!(
            text.contains("captions: 87.5 % ± 4.7 %") && text.contains("resume_from=r"),
            "{text}"
        );
        finished.interrupted = false;
        assert!(summary(&finished, Path::new("r"), 200).contains("vlct predict match --load r"));
        let text = summary(&finished, Path::new("my runs/r"), 200);
        assert!(
            text.contains("run: my runs/r\n") && text.contains("vlct report 'my runs/r'"),
            "{text}"
        );
    }
}
