//! The outputs of MAE's fine-tuning script: `log.txt` with a JSON object per epoch, and `checkpoint-{epoch}.pth`.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use vlct_checkpoint::TensorRef;
use vlct_model::files;
use vlct_model::files::training::{Group, ParameterState, Setting, Training};
use vlct_tensor::optimizer::Rule;
use vlct_util::{at, atomic};

use crate::error::{Result, TrainError};
use crate::groups::ParameterGroup;
use crate::weights::Weights;

/// Name of the log in the output directory.
const LOG_FILE: &str = "log.txt";

/// The training of an epoch, for the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct EpochRecord {
    /// Epoch, from 0.
    pub epoch: u64,
    /// Mean of the largest learning rate of a group over the steps of the epoch.
    pub learning_rate: f64,
    /// Mean loss.
    pub loss: f64,
}

/// The results of a validation, for the log. Accuracies are fractions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TestRecord {
    pub loss: f64,
    pub accuracy: f64,
    pub top5: f64,
}

/// Writes the line of an epoch to `log.txt` in the directory `run`. Lines of this epoch and later ones, such as those of a run that was
/// killed before it saved its state, are replaced.
pub(crate) fn log(run: &Path, record: &EpochRecord, test: TestRecord, parameters: usize) -> Result<()> {
    let path = run.join(LOG_FILE);
    let written = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(at::<TrainError>(&path)(error)),
    };
    let is_earlier = |line: &&str| {
        let epoch = serde_json::from_str::<Value>(line).ok();
        epoch
            .and_then(|line| line.get("epoch")?.as_u64())
            .is_some_and(|epoch| epoch < record.epoch)
    };
    let mut line = Map::new();
    for (key, value) in [
        ("train_lr", record.learning_rate),
        ("train_loss", record.loss),
        ("test_loss", test.loss),
        ("test_acc1", 100.0 * test.accuracy),
        ("test_acc5", 100.0 * test.top5),
    ] {
        line.insert(key.into(), value.into());
    }
    line.insert("epoch".into(), record.epoch.into());
    line.insert("n_parameters".into(), parameters.into());
    let line = Value::Object(line).to_string();
    atomic::write(&path, |out| {
        for kept in written.lines().filter(is_earlier) {
            writeln!(out, "{kept}")?;
        }
        writeln!(out, "{line}")
    })
    .map_err(at::<TrainError>(&path))
}

/// Writes the weights after epoch `epoch`, whose last learning rate was `rate`, with the state of the optimiser to
/// `checkpoint-{epoch}.pth` in the directory `run`, and removes such files of all epochs but the last `keep`.
pub(crate) fn save(run: &Path, weights: &Weights, rule: Rule, epoch: u64, rate: f64, keep: Option<u64>) -> Result<()> {
    let parameters = weights.model.parameters();
    let group = |group: &ParameterGroup| Group {
        settings: settings(rule, group, rate),
        parameters: group.members.len(),
    };
    let members = weights.groups.iter().flat_map(|group| &group.members);
    let state = |name: &String| {
        let id = parameters.id(name)?;
        let moments = weights.optimizer.moment_names().iter().enumerate();
        Some(ParameterState {
            step: weights.optimizer.steps()[id.index()],
            moments: moments
                .map(|(m, moment)| TensorRef {
                    name: moment,
                    shape: &parameters.get(id).shape,
                    data: weights.optimizer.moment(m, id).clone(),
                })
                .collect(),
        })
    };
    let training = Training {
        epoch,
        heads: weights.model.config().heads(),
        layer_norm_eps: weights.model.config().layer_norm_eps(),
        groups: weights.groups.iter().map(group).collect(),
        parameters: members.filter_map(state).collect(),
    };
    let tensors: Vec<TensorRef> = weights.model_tensors().collect();
    files::training::write_training(&checkpoint(run, epoch), &tensors, &training)?;
    let Some(keep) = keep else { return Ok(()) };
    for old in 0..(epoch + 1).saturating_sub(keep) {
        let path = checkpoint(run, old);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at::<TrainError>(&path)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// Returns the settings of a parameter group, with the names and constants of PyTorch's AdamW or MAE's LARS.
fn settings(rule: Rule, group: &ParameterGroup, rate: f64) -> Vec<(&'static str, Setting)> {
    let mut settings = vec![
        ("lr", Setting::Number(rate * group.learning_rate_scale)),
        ("weight_decay", Setting::Number(group.weight_decay)),
    ];
    match rule {
        Rule::Lars => settings.extend([
            ("momentum", Setting::Number(0.9)),
            ("trust_coefficient", Setting::Number(0.001)),
        ]),
        _ => settings.extend([
            ("betas", Setting::Pair([0.9, 0.999])),
            ("eps", Setting::Number(1e-8)),
            ("amsgrad", Setting::Flag(false)),
            ("lr_scale", Setting::Number(group.learning_rate_scale)),
        ]),
    }
    settings
}

fn checkpoint(run: &Path, epoch: u64) -> PathBuf {
    run.join(format!("checkpoint-{epoch}.pth"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_has_a_line_for_each_epoch_in_the_published_order() {
        let directory = tempfile::tempdir().unwrap();
        let write = |epoch: u64, loss: f64| {
            let record = EpochRecord {
                epoch,
                learning_rate: 0.5,
                loss,
            };
            let test = TestRecord {
                loss: 1.5,
                accuracy: 0.25,
                top5: 0.75,
            };
            log(directory.path(), &record, test, 10).unwrap();
            std::fs::read_to_string(directory.path().join(LOG_FILE)).unwrap()
        };
        let first = write(0, 2.0);
        assert_eq!(
            first,
            "{\"train_lr\":0.5,\"train_loss\":2.0,\"test_loss\":1.5,\"test_acc1\":25.0,\"test_acc5\":75.0,\"epoch\":0,\"n_parameters\":10}\n"
        );
        assert_eq!(write(1, 1.0).lines().count(), 2);
        // A resumed run repeats an epoch.
        let again = write(1, 0.5);
        assert_eq!(again.lines().count(), 2);
        assert!(
            again.starts_with(&first) && again.contains("\"train_loss\":0.5"),
            "{again}"
        );
    }
}
