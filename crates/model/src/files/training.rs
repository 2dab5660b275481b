//! The state of training in PyTorch checkpoints of MAE's scripts: `{"model": …, "optimizer": …, "epoch": …}`.

use std::path::Path;

use vlct_util::atomic;

use super::error::{FileError, Problem};
use super::source::WeightFiles;
use super::{Format, format_of, torch};
use vlct_checkpoint::TensorRef;

pub use super::torch::{Group, ParameterState, Setting, StoredParameter, StoredTraining, Training};

/// Writes weights with the state of their training as a PyTorch file. The file appears under its name when it is complete and flushed to
/// the disk.
///
/// # Errors
/// Returns a [`FileError`] if the file cannot be written.
pub fn write_training(path: &Path, weights: &[TensorRef], training: &Training) -> Result<(), FileError> {
    let written = atomic::write(path, |out| torch::write_training(out, weights, training));
    written.map_err(|problem: Problem| FileError::new(path, problem))
}

/// Finds the state of training in a mapped weight file, and verifies the checksums of its tensors. Returns `None` if the file has no
/// optimiser or no epoch.
///
/// # Errors
/// Returns a [`FileError`] if the content is damaged.
pub fn training(files: &WeightFiles) -> Result<Option<StoredTraining<'_>>, FileError> {
    let found = files.single().map_or(Ok(None), training_bytes);
    found.map_err(|problem| FileError::new(files.path(), problem))
}

/// Finds the state of training in the content of a weight file, as [`training`] does.
///
/// # Errors
/// Returns a [`Problem`] if the content is damaged.
pub fn training_bytes(bytes: &[u8]) -> Result<Option<StoredTraining<'_>>, Problem> {
    match format_of(bytes) {
        Some(Format::TorchZip) => torch::training_in_archive(bytes),
        Some(Format::TorchLegacy) => torch::training_in_legacy(bytes),
        Some(Format::Safetensors) | None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files;
    use vlct_pickle::Writer;
    use vlct_tensor::Device;

    /// Writes three parameters in two groups, the last of which has no updates.
    fn write(path: &Path) {
        let names = ["cls_token", "head.weight", "head.bias"];
        let tensor = |name, values: &[f32]| TensorRef {
            name,
            shape: &[2, 1],
            data: Device::cpu().tensor(2, 1, values),
        };
        let weights: Vec<TensorRef> = names.iter().map(|name| tensor(name, &[1.0, 2.0])).collect();
        let state = |step: u64| ParameterState {
            step,
            moments: vec![
                tensor("exp_avg", &[0.5, step as f32]),
                tensor("exp_avg_sq", &[4.0, 5.0]),
            ],
        };
        let group = |parameters| Group {
            settings: vec![
                ("lr", Setting::Number(0.25)),
                ("betas", Setting::Pair([0.9, 0.999])),
                ("amsgrad", Setting::Flag(false)),
            ],
            parameters,
        };
        let training = Training {
            epoch: 7,
            heads: 2,
            layer_norm_eps: 1e-12,
            groups: vec![group(2), group(1)],
            parameters: vec![state(3), state(4), state(0)],
        };
        write_training(path, &weights, &training).unwrap();
    }

    #[test]
    fn the_state_of_training_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint-7.pth");
        write(&path);
        let mapped = files::map(&path).unwrap();
        let index = files::index(&mapped).unwrap();
        assert_eq!(index.tensors.len(), 3, "the weights alone");
        let config = &index.summary.hyper_parameters["config"];
        assert_eq!(
            (&config["num_heads"], config["layer_norm_eps"].as_f64()),
            (&2.into(), Some(1e-12f32.into()))
        );
        let stored = training(&mapped).unwrap().unwrap();
        assert_eq!(stored.epoch, 7);
        let steps: Vec<u64> = stored.parameters.iter().map(|parameter| parameter.step).collect();
        assert_eq!(steps, [3, 4, 0]);
        let names: Vec<&String> = stored.parameters[1].moments.keys().collect();
        assert_eq!(names, ["exp_avg", "exp_avg_sq"]);
        let mut values = [0.0; 2];
        assert_eq!(
            stored.parameters[1].moments["exp_avg"].read_f32(&mut values),
            Some(true)
        );
        assert_eq!(values, [0.5, 4.0]);
        assert!(stored.parameters[2].moments.is_empty());

        // A weight file without an optimiser has no state.
        files::write(&path, &files::read(&path).unwrap().state, &files::Style::Mae.into()).unwrap();
        assert!(training(&files::map(&path).unwrap()).unwrap().is_none());
    }

    #[test]
    fn a_changed_byte_of_a_moment_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint-7.pth");
        write(&path);
        let mut bytes = std::fs::read(&path).unwrap();
        let value = 0.5f32.to_le_bytes();
        let place = bytes
            .windows(8)
            .position(|w| w[..4] == value && w[4..] == 4.0f32.to_le_bytes());
        bytes[place.unwrap()] ^= 1;
        let error = training_bytes(&bytes).err().unwrap().to_string();
        assert!(error.contains("the state of the optimiser is damaged"), "{error}");
    }

    /// Returns a file in the format before PyTorch 1.6 without tensors, with an optimiser that `write` writes.
    fn file_with_optimizer(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut pickle = Writer::new();
        pickle
            .empty_dict()
            .text("epoch")
            .int(3)
            .set_item()
            .text("optimizer")
            .empty_dict();
        write(&mut pickle);
        pickle.set_item();
        torch::legacy_file(&pickle.finish(), &[])
    }

    #[test]
    fn malformed_states_are_errors_and_other_objects_are_not_executed() {
        let groups = |pickle: &mut Writer, members: &[i64]| {
            pickle
                .text("param_groups")
                .empty_list()
                .mark()
                .empty_dict()
                .text("params")
                .empty_list()
                .mark();
            members.iter().for_each(|member| {
                pickle.int(*member);
            });
            pickle.append_items().set_item().append_items().set_item();
        };
        let read = |bytes: &[u8]| {
            let found = training_bytes(bytes).map(|found| found.map(|found| found.parameters.len()));
            found.map_err(|error| error.to_string())
        };
        let whole = file_with_optimizer(|p| {
            p.text("state").empty_dict().int(1).empty_dict();
            p.text("step")
                .int(5)
                .set_item()
                .text("hook")
                .global("os", "system")
                .set_item();
            p.set_item().set_item();
            groups(p, &[0, 1]);
        });
        assert_eq!(read(&whole), Ok(Some(2)));
        let repeated = file_with_optimizer(|p| {
            p.text("state").empty_dict().set_item();
            groups(p, &[0, 0]);
        });
        assert!(read(&repeated).unwrap_err().contains("param_groups"));
        let no_number = file_with_optimizer(|p| {
            p.text("state")
                .empty_dict()
                .int(0)
                .empty_dict()
                .text("step")
                .text("x")
                .set_item()
                .set_item()
                .set_item();
            groups(p, &[0]);
        });
        assert!(read(&no_number).unwrap_err().contains("number of updates"));
        let no_groups = file_with_optimizer(|p| {
            p.text("state").empty_dict().set_item();
        });
        assert_eq!(read(&no_groups), Ok(None));
    }
}
