//! The arithmetic mean of the weights of several files, such as the last checkpoints of a run.

mod stated;

use std::io;
use std::path::{Path, PathBuf};

use indexmap::IndexSet;
use serde_json::{Value, json};
use vlct_checkpoint::{self as checkpoint, CheckpointError, TensorRef};
use vlct_model::files::{self, Dtype, FileError, Format, Header, StateDict, StoredTensor, TensorData, WeightFile};
use vlct_tensor::Device;

use crate::description::WeightsError;
use stated::Stated;

/// The result of averaging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AverageReport {
    /// The averaged files.
    pub files: Vec<PathBuf>,
    /// Number of tensors written.
    pub tensors: usize,
    /// Number of values written.
    pub parameters: usize,
    /// Tensors of the files whose values cannot be read, each with the reason. They are not written.
    pub left_out: Vec<String>,
}

/// The weights of several files cannot be averaged.
#[derive(Debug, thiserror::Error)]
pub enum AverageError {
    /// A weight file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A checkpoint cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The settings of a model are invalid, or contradict its tensors.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A directory cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A directory has no checkpoint.
    #[error(
        "{path}: the directory has no kept checkpoints (step_000123, …), which runs with keep_checkpoints=N have; give such a run or \
         weight files",
        path = path.display()
    )]
    NoCheckpoints {
        /// The directory.
        path: PathBuf,
    },
    /// There are fewer than two files.
    #[error("{found} weight file cannot be averaged: give at least two, or a run with several kept checkpoints")]
    TooFew {
        /// Number of files.
        found: usize,
    },
    /// The output is one of the inputs.
    #[error("{path}: the output is also an input; name another output", path = path.display())]
    OutputIsInput {
        /// The file.
        path: PathBuf,
    },
    /// Two checkpoints have different descriptions.
    #[error(
        "{path}: `{field}` in the description differs from that of {first}: average checkpoints of one model and task",
        path = path.display(), first = first.display()
    )]
    OtherDescription {
        /// The checkpoint.
        path: PathBuf,
        /// The checkpoint that it is compared with.
        first: PathBuf,
        /// Name of the first field that differs.
        field: String,
    },
    /// A mean is not finite, so a file has values that are not.
    #[error(
        "the mean of tensor {} is not finite, so the weights of a file are damaged",
        vlct_util::text::one_line(name)
    )]
    NotFinite {
        /// Name of the tensor.
        name: String,
    },
    /// Two files differ in a tensor.
    #[error(
        "{path}: tensor {name} {problem} {first}: average files of one model",
        path = path.display(), first = first.display(), name = vlct_util::text::one_line(name)
    )]
    OtherTensor {
        /// The file.
        path: PathBuf,
        /// The file that it is compared with.
        first: PathBuf,
        /// Name of the tensor.
        name: String,
        /// The difference, such as "is not in".
        problem: String,
    },
}

/// Writes the mean of the weights of `inputs` as `output`, whose extension determines the format. An input is a weight file, a directory
/// with a checkpoint, or a run directory, which stands for the checkpoints that the run keeps.
///
/// Means are computed in double precision. The description is that of the first checkpoint that has one, or that of a model of Hugging Face, as
/// the settings beside its weights state it. If there is one, a file `.safetensors` is a checkpoint without moments, else a weight file as
/// [`files::write()`] makes.
///
/// # Errors
/// Returns an error if an input cannot be read, there are fewer than two files, files differ in names or shapes of tensors or in their
/// descriptions, or `output` cannot be written.
pub fn average(inputs: &[PathBuf], output: &Path) -> Result<AverageReport, AverageError> {
    let format = files::written_format(output)?;
    let mut paths = Vec::new();
    for input in inputs {
        paths.extend(weight_files(input)?);
    }
    let canonical = |path: &Path| path.canonicalize().ok();
    if let Some(path) = paths
        .iter()
        .find(|path| canonical(path).is_some_and(|input| Some(input) == canonical(output)))
    {
        return Err(AverageError::OutputIsInput { path: path.clone() });
    }
    let [first, others @ ..] = paths.as_slice() else {
        return Err(AverageError::TooFew { found: 0 });
    };
    if others.is_empty() {
        return Err(AverageError::TooFew { found: 1 });
    }
    let description = common_description(&paths)?;
    let mut left_out = IndexSet::new();
    let mut read = |path: &Path| -> Result<WeightFile, FileError> {
        let file = files::read(path)?;
        left_out.extend(
            file.unreadable
                .iter()
                .map(|(name, problem)| format!("{name} ({problem})")),
        );
        Ok(file)
    };
    let mut sums = Sums::new(read(first)?);
    for path in others {
        let file = read(path)?;
        sums.add(file).map_err(|(name, problem)| AverageError::OtherTensor {
            path: path.clone(),
            first: first.clone(),
            name,
            problem,
        })?;
    }
    let mut header = sums.header.clone();
    let state = sums.into_means(paths.len());
    let not_finite = |tensor: &StoredTensor| {
        tensor
            .to_f32()
            .is_some_and(|values| values.iter().any(|v| !v.is_finite()))
    };
    if let Some((name, _)) = state.iter().find(|(_, tensor)| not_finite(tensor)) {
        return Err(AverageError::NotFinite { name: name.to_owned() });
    }
    let report = AverageReport {
        files: paths,
        tensors: state.len(),
        parameters: state.parameters(),
        left_out: left_out.into_iter().collect(),
    };
    match description {
        Some(description) if format == Format::Safetensors => {
            save_checkpoint(output, &state, header.global_step, &description)?
        }
        None if format == Format::Safetensors => files::write(output, &state, &header)?,
        description => {
            header.description = description.map(|json| json.to_string());
            files::write(output, &files::with_position_ids(state), &header)?;
        }
    }
    Ok(report)
}

/// Returns the weight files of an input.
fn weight_files(input: &Path) -> Result<Vec<PathBuf>, AverageError> {
    if !input.is_dir() {
        return Ok(vec![input.to_path_buf()]);
    }
    // A run directory stands for its kept checkpoints, and another directory for its weights.
    let is_run = [checkpoint::last_path(input), checkpoint::best_path(input)]
        .iter()
        .any(|path| path.is_file());
    if let Some(file) = files::find(input).ok().filter(|_| !is_run) {
        return Ok(vec![file]);
    }
    let steps = checkpoint::steps(input).map_err(|source| AverageError::Directory {
        path: input.to_path_buf(),
        source,
    })?;
    let kept = steps.into_iter().map(|step| checkpoint::step_path(input, step));
    let kept: Vec<PathBuf> = kept.filter(|path| path.is_file()).collect();
    if kept.is_empty() {
        return Err(AverageError::NoCheckpoints {
            path: input.to_path_buf(),
        });
    }
    Ok(kept)
}

/// Returns the description that all files have that state one; `None` if no file does.
fn common_description(paths: &[PathBuf]) -> Result<Option<Value>, AverageError> {
    let mut common: Option<(&PathBuf, Stated)> = None;
    for path in paths {
        let Some(stated) = Stated::read(path)? else { continue };
        match &common {
            None => common = Some((path, stated)),
            Some((first, expected)) => {
                if let Some(field) = expected.difference(&stated) {
                    return Err(AverageError::OtherDescription {
                        path: path.clone(),
                        first: first.to_path_buf(),
                        field,
                    });
                }
            }
        }
    }
    Ok(common.map(|(_, stated)| stated.json))
}

/// Sums of the tensors of several files.
struct Sums {
    tensors: Vec<(String, Vec<usize>, Sum)>,
    /// The header of the first file, with the largest numbers of epochs and steps of all files.
    header: Header,
}

/// The sum of a tensor.
enum Sum {
    /// The sum, and the element type of the mean: that of the first file if it is float64, else float32.
    Floats(Vec<f64>, Dtype),
    /// A tensor of integers or booleans, which is the same in all files.
    Same(StoredTensor),
}

impl Sums {
    fn new(file: files::WeightFile) -> Self {
        let header = Header::of(&file);
        let tensors = without_position_ids(file.state).map(|(name, tensor)| {
            let sum = match &tensor.data {
                TensorData::F64(values) => Sum::Floats(values.clone(), Dtype::F64),
                _ => match tensor.to_f32() {
                    Some(values) => Sum::Floats(values.iter().map(|value| f64::from(*value)).collect(), Dtype::F32),
                    None => Sum::Same(tensor.clone()),
                },
            };
            (name, tensor.shape, sum)
        });
        Self {
            tensors: tensors.collect(),
            header,
        }
    }

    /// Adds the tensors of a file. Returns the name of the first tensor that differs in shape or kind, and the difference, as the error.
    fn add(&mut self, file: files::WeightFile) -> Result<(), (String, String)> {
        let other = Header::of(&file);
        self.header.epoch = self.header.epoch.max(other.epoch);
        self.header.global_step = self.header.global_step.max(other.global_step);
        let mut state: StateDict = without_position_ids(file.state).collect();
        let same_number = state.len() == self.tensors.len();
        for (name, shape, sum) in &mut self.tensors {
            let Some(tensor) = state.get(name) else {
                return Err((name.clone(), "is missing, but it is in".into()));
            };
            if tensor.shape != *shape {
                let problem = format!("has shape {:?}, not {shape:?} as in", tensor.shape);
                return Err((name.clone(), problem));
            }
            match (sum, &tensor.data, tensor.to_f32()) {
                (Sum::Floats(sums, _), TensorData::F64(values), _) => {
                    sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                }
                (Sum::Floats(sums, _), _, Some(values)) => {
                    sums.iter_mut()
                        .zip(&*values)
                        .for_each(|(sum, value)| *sum += f64::from(*value));
                }
                (Sum::Same(same), ..) if same == tensor => {}
                _ => return Err((name.clone(), "has other values or another type than in".into())),
            }
        }
        if !same_number {
            self.tensors.iter().for_each(|(name, ..)| drop(state.remove(name)));
            let name = state.names().next().unwrap_or_default().to_owned();
            return Err((name, "is not in".into()));
        }
        Ok(())
    }

    fn into_means(self, count: usize) -> StateDict {
        let tensors = self.tensors.into_iter().map(|(name, shape, sum)| {
            let tensor = match sum {
                Sum::Same(tensor) => tensor,
                Sum::Floats(mut sums, dtype) => {
                    sums.iter_mut().for_each(|sum| *sum /= count as f64);
                    let data = match dtype {
                        Dtype::F64 => TensorData::F64(sums),
                        _ => TensorData::F32(sums.into_iter().map(|mean| mean as f32).collect()),
                    };
                    StoredTensor::new(shape, data)
                }
            };
            (name, tensor)
        });
        tensors.collect()
    }
}

/// Returns the tensors except the position ids, which not every file has, and whose values are always the same.
fn without_position_ids(state: StateDict) -> impl Iterator<Item = (String, StoredTensor)> {
    state.into_iter().filter(|(name, _)| name != files::POSITION_IDS)
}

/// Writes a checkpoint without moments. Its state has only the number of steps.
fn save_checkpoint(path: &Path, state: &StateDict, step: u64, description: &Value) -> Result<(), AverageError> {
    let mut tensors = Vec::with_capacity(state.len());
    for (name, tensor) in state.iter() {
        let values = state
            .f32(name)
            .map_err(|error| CheckpointError::Invalid(error.to_string()))?;
        tensors.push(TensorRef {
            name,
            shape: &tensor.shape,
            data: Device::cpu().tensor(1, values.len(), &values),
        });
    }
    checkpoint::save(path, &tensors, &json!({ checkpoint::STEP_KEY: step }), description)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Description;
    use std::fs;
    use vlct_model::files::Style;

    /// Saves a checkpoint with a weight, its moment and its average, which must not be averaged.
    fn save(path: &Path, value: f32, step: u64, description: Value) {
        let name = "transformer.norm.weight";
        let [moment, average] =
            [checkpoint::MOMENT_PREFIX, checkpoint::AVERAGE_PREFIX].map(|prefix| format!("{prefix}{name}"));
        let values = [value, -value, 3.0];
        let tensors = [name, &moment, &average].map(|name| TensorRef {
            name,
            shape: &[3],
            data: Device::cpu().tensor(1, 3, &values),
        });
        checkpoint::save(path, &tensors, &json!({"global_step": step}), &description).unwrap();
    }

    fn weights_of(path: &Path) -> Vec<(String, Vec<f32>)> {
        let state = without_position_ids(files::read(path).unwrap().state);
        let mut weights: Vec<_> = state
            .filter_map(|(name, tensor)| Some((name, tensor.to_f32()?.to_vec())))
            .collect();
        weights.sort_by(|a, b| a.0.cmp(&b.0));
        weights
    }

    fn weights(path: &Path) -> Vec<f32> {
        let state = files::read(path).unwrap().state;
        let names: Vec<&str> = state.names().collect();
        assert_eq!(names, ["transformer.norm.weight"]);
        state.f32(names[0]).unwrap().into_owned()
    }

    fn error(inputs: &[PathBuf], output: &Path) -> String {
        let message = average(inputs, output).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn averages_the_kept_checkpoints_of_a_run() {
        let run = tempfile::tempdir().unwrap();
        let run = run.path();
        for (step, value) in [(2, 1.0), (4, 2.0), (1_000_000, 6.0)] {
            save(
                &checkpoint::step_path(run, step),
                value,
                step,
                json!({"model": {"width": 8}}),
            );
        }
        fs::create_dir(run.join("step_000006")).unwrap();
        let output = run.join("mean.safetensors");
        let report = average(&[run.to_path_buf()], &output).unwrap();
        assert_eq!((report.files.len(), report.tensors, report.parameters), (3, 1, 3));
        assert_eq!(weights(&output), [3.0, -3.0, 3.0]);
        let summary = checkpoint::inspect(&output).unwrap();
        assert_eq!(
            (summary.step, summary.optimizer, summary.averages),
            (Some(1_000_000), false, false)
        );
        let description = checkpoint::load(&output).unwrap().description().cloned();
        assert_eq!(description, Some(json!({"model": {"width": 8}})));

        // The numbers of heads that the files state are kept.
        let of_heads = |name: &str, heads: usize| {
            let header = Header {
                heads: files::GivenHeads {
                    encoder: Some(heads),
                    decoder: None,
                },
                ..Style::Vlc.into()
            };
            let mut state = StateDict::new();
            state.insert(
                "transformer.patch_embed.proj.weight",
                StoredTensor::f32([8, 1], vec![1.0; 8]),
            );
            files::write(&run.join(name), &state, &header).unwrap();
            run.join(name)
        };
        let inputs = [of_heads("a.safetensors", 4), of_heads("b.ckpt", 4)];
        for name in ["c.safetensors", "c.ckpt"] {
            average(&inputs, &run.join(name)).unwrap();
            let header = Header::of(&files::read(&run.join(name)).unwrap());
            assert_eq!(header.heads.encoder, Some(4), "{name}");
        }

        // A directory of one checkpoint and a file of another format, written as a third format.
        let (other, output) = (run.join("other.ckpt"), run.join("mean.pth"));
        files::convert(&checkpoint::step_path(run, 4), &other, None.into()).unwrap();
        average(&[run.join("step_000002"), other], &output).unwrap();
        assert_eq!(weights(&output), [1.5, -1.5, 3.0]);
    }

    #[test]
    fn averages_of_models_of_hugging_face_keep_their_settings() {
        for root in vlct_golden::vilt_directories("") {
            let directory = tempfile::tempdir().unwrap();
            let copy = |name: &str, changed: &str, change: &dyn Fn(&mut Value)| {
                let to = directory.path().join(name);
                fs::create_dir(&to).unwrap();
                for entry in fs::read_dir(root.join("hf/vqa")).unwrap() {
                    let from = entry.unwrap().path();
                    fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
                }
                let mut json: Value = vlct_golden::json(to.join(changed));
                change(&mut json);
                fs::write(to.join(changed), json.to_string()).unwrap();
                to
            };
            let first = copy("first", "config.json", &|_| ());
            let same = copy("same", "config.json", &|_| ());
            let expected = Stated::read(&first.join("model.safetensors")).unwrap().unwrap().json;
            assert!(expected["task"]["vqa"]["answers"][2].is_string(), "{expected}");
            for name in ["mean.safetensors", "mean.ckpt"] {
                let output = directory.path().join(name);
                average(&[first.clone(), same.clone()], &output).unwrap();
                assert_eq!(weights_of(&output), weights_of(&first), "{name}");
                let description = Description::of_file(&output).unwrap();
                assert_eq!(serde_json::to_value(description).unwrap(), expected, "{name}");
                // The mean of a model of Hugging Face and of a checkpoint.
                average(
                    &[first.clone(), output],
                    &directory.path().join(format!("again_{name}")),
                )
                .unwrap();
            }
            let other_answer = copy("answer", "config.json", &|json| {
                json["id2label"]["2"] = "elsewhere".into()
            });
            let other_mean = copy("mean", "preprocessor_config.json", &|json| {
                json["image_mean"][0] = 0.25.into()
            });
            for (other, part) in [(other_answer, "`task.vqa.answers`"), (other_mean, "`inputs.mean`")] {
                let message = error(&[first.clone(), other], &directory.path().join("no.safetensors"));
                assert!(message.contains(part), "{message}");
            }
            // The description of a checkpoint can be any JSON.
            let text = directory.path().join("text.safetensors");
            save(&text, 1.0, 1, json!("a text"));
            let message = error(&[first.clone(), text], &directory.path().join("no.safetensors"));
            assert!(message.contains("`description`"), "{message}");
            let broken = copy("broken", "config.json", &|json| json["num_attention_heads"] = 7.into());
            let message = error(&[first, broken], &directory.path().join("no.safetensors"));
            assert!(message.contains("7"), "{message}");
        }
    }

    #[test]
    fn means_are_computed_in_double_precision_and_integers_must_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let write = |name: &str, value: f32, count: i64| {
            let mut state = StateDict::new();
            state.insert("blocks.0.w", StoredTensor::f32([1], vec![value]));
            state.insert("half", StoredTensor::new(vec![1], TensorData::F16(vec![0x3c00])));
            state.insert("d", StoredTensor::new(vec![1], TensorData::F64(vec![f64::from(value)])));
            state.insert("count", StoredTensor::new(vec![1], TensorData::I64(vec![count])));
            files::write(&path(name), &state, &Style::Mae.into()).unwrap();
            path(name)
        };
        let inputs = [1e9, 1.0, -1e9, 3.0].map(|value| write(&format!("{value}.pth"), value, 7));
        let output = path("mean.safetensors");
        average(&inputs, &output).unwrap();
        let state = files::read(&output).unwrap().state;
        // In single precision, 1e9 + 1 is 1e9.
        assert_eq!(*state.f32("blocks.0.w").unwrap(), [1.0]);
        assert_eq!(state.get("d").unwrap().data, TensorData::F64(vec![1.0]));
        assert_eq!(state.get("half").unwrap().data, TensorData::F32(vec![1.0]));
        assert_eq!(state.get("count").unwrap().data, TensorData::I64(vec![7]));
        let [first, ..] = inputs;
        let message = error(&[first, write("other.pth", 1.0, 8)], &output);
        assert!(message.contains("tensor count has other values"), "{message}");
    }

    #[test]
    fn files_that_cannot_be_averaged_are_described() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let output = path("mean.safetensors");
        let (a, b, c) = (path("a.safetensors"), path("b.safetensors"), path("c.safetensors"));
        save(&a, 1.0, 1, json!({"model": {"width": 8, "depth": 2}, "weights": "raw"}));
        save(&b, 1.0, 1, json!({"model": {"width": 8, "depth": 3}, "weights": "raw"}));
        let message = error(&[a.clone(), b], &output);
        assert!(
            message.contains("`model.depth` in the description differs"),
            "{message}"
        );
        let mut state = files::read(&a).unwrap().state;
        let write = |state: &StateDict| files::write(&c, state, &Style::Vlc.into()).unwrap();
        state.insert("transformer.more", StoredTensor::f32([1], vec![1.0]));
        write(&state);
        let message = error(&[a.clone(), c.clone()], &output);
        assert!(message.contains("tensor transformer.more is not in"), "{message}");
        let message = error(&[c.clone(), a.clone()], &output);
        assert!(message.contains("tensor transformer.more is missing"), "{message}");
        state.remove("transformer.more");
        state.insert("transformer.norm.weight", StoredTensor::f32([1, 3], vec![0.0; 3]));
        write(&state);
        let message = error(&[a.clone(), c.clone()], &output);
        assert!(message.contains("has shape [1, 3], not [3] as in"), "{message}");

        assert!(error(std::slice::from_ref(&a), &output).contains("1 weight file cannot be averaged"));
        assert!(error(&[directory.path().to_path_buf()], &output).contains("keep_checkpoints=N"));
        assert!(error(&[a.clone(), c.clone()], &a).contains("the output is also an input"));
        assert!(error(&[a.clone(), c.clone()], &path("mean.txt")).contains("extension"));
        assert!(error(&[a, path("missing.ckpt")], &output).contains("missing.ckpt"));
        assert!(!output.exists());
    }
}
