//! Writes zip archives that `torch.load` of PyTorch 1.6 and later accepts, also with `weights_only=True`.

use std::io::{Seek, Write};

use serde_json::{Map, Value};
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

use super::super::GivenHeads;
use super::super::error::Problem;
use super::super::heads::{DECODER_HYPER_PARAMETER, ENCODER_HYPER_PARAMETER, LAYER_NORM_EPS};
use super::super::state::{Dtype, StateDict, StoredTensor, TensorData, write_chunks};
use super::super::{Header, Style};
use super::tensor::storage_class;
use super::training::{Setting, Training};
use vlct_checkpoint::TensorRef;
use vlct_pickle::Writer;
use vlct_tensor::Tensor;

/// The directory of all entries. PyTorch accepts any name.
const DIRECTORY: &str = "archive";
/// Alignment of storages in bytes, as PyTorch aligns them for memory-mapping.
const ALIGNMENT: u16 = 64;
/// Minimum size of an entry that needs the 64-bit fields of the zip format, in bytes.
const ZIP64_FROM: u64 = u32::MAX as u64;
/// Version of the serialisation, `kProducedFileFormatVersion` of PyTorch 1.6 and later.
const VERSION: &str = "3\n";
/// Lightning's version in the checkpoint, the same as in the published VLC checkpoints.
const LIGHTNING_VERSION: &str = "1.1.4";

/// A tensor to write, without its name.
struct Written<'a> {
    shape: &'a [usize],
    dtype: Dtype,
    values: Values<'a>,
}

/// The values of a tensor to write.
enum Values<'a> {
    Stored(&'a TensorData),
    /// Values in single precision on a device.
    OnDevice(&'a Tensor),
}

impl Written<'_> {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Writes the values in small chunks.
    fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        match self.values {
            Values::Stored(data) => data.write_le(out),
            Values::OnDevice(tensor) => write_chunks(out, &tensor.to_host(), f32::to_le_bytes),
        }
    }
}

impl<'a> From<&'a StoredTensor> for Written<'a> {
    fn from(tensor: &'a StoredTensor) -> Self {
        Self {
            shape: &tensor.shape,
            dtype: tensor.data.dtype(),
            values: Values::Stored(&tensor.data),
        }
    }
}

impl<'a> From<&'a TensorRef<'a>> for Written<'a> {
    fn from(tensor: &'a TensorRef<'a>) -> Self {
        Self {
            shape: tensor.shape,
            dtype: Dtype::F32,
            values: Values::OnDevice(&tensor.data),
        }
    }
}

/// Writes the tensors as a checkpoint.
pub(in super::super) fn write(out: impl Write + Seek, state: &StateDict, header: &Header) -> Result<(), Problem> {
    let mut content = Content::new();
    let weights: Vec<(&str, Written)> = state.iter().map(|(name, tensor)| (name, tensor.into())).collect();
    match header.style {
        Style::Vlc => {
            content.number("epoch", header.epoch);
            content.number("global_step", header.global_step);
            let version = content.pickle.text("pytorch-lightning_version");
            version.text(LIGHTNING_VERSION).set_item();
            write_configuration(
                &mut content.pickle,
                header.configuration.clone(),
                header.heads,
                header.layer_norm_eps,
            );
            content.weights("state_dict", weights);
        }
        Style::Mae => {
            content.weights("model", weights);
            write_configuration(&mut content.pickle, Map::new(), header.heads, header.layer_norm_eps);
        }
    }
    if let Some(description) = &header.description {
        content.pickle.text("description").text(description).set_item();
    }
    content.write(out)
}

/// Writes weights with the state of their training, as MAE's scripts do: `{"model": …, "optimizer": …, "epoch": …}`.
pub(in super::super) fn write_training(
    out: impl Write + Seek,
    weights: &[TensorRef],
    training: &Training,
) -> Result<(), Problem> {
    let mut content = Content::new();
    content.weights("model", weights.iter().map(|tensor| (tensor.name, tensor.into())));
    content.optimizer(training);
    content.number("epoch", training.epoch);
    let heads = GivenHeads {
        encoder: Some(training.heads),
        decoder: None,
    };
    write_configuration(&mut content.pickle, Map::new(), heads, Some(training.layer_norm_eps));
    content.write(out)
}

/// The content of an archive: a pickle, and the tensors to which it refers.
struct Content<'a> {
    pickle: Writer,
    tensors: Vec<Written<'a>>,
}

impl<'a> Content<'a> {
    fn new() -> Self {
        let mut pickle = Writer::new();
        pickle.empty_dict();
        Self {
            pickle,
            tensors: Vec::new(),
        }
    }

    fn number(&mut self, key: &str, value: u64) {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        self.pickle.text(key).int(value).set_item();
    }

    fn weights(&mut self, under: &str, weights: impl IntoIterator<Item = (&'a str, Written<'a>)>) {
        self.pickle.text(under);
        write_ordered_dict(&mut self.pickle);
        for (name, tensor) in weights {
            self.pickle.text(name);
            self.tensor(tensor);
            self.pickle.set_item();
        }
        self.pickle.set_item();
    }

    /// Pushes a tensor, whose values are those of the next storage.
    fn tensor(&mut self, tensor: Written<'a>) {
        write_tensor(&mut self.pickle, self.tensors.len(), &tensor);
        self.tensors.push(tensor);
    }

    /// Writes the state dict of an optimiser: `{"state": {0: {"step": …, "exp_avg": …}}, "param_groups": [{"lr": …, "params": [0]}]}`.
    fn optimizer(&mut self, training: &'a Training) {
        self.pickle.text("optimizer").empty_dict().text("state").empty_dict();
        for (index, parameter) in training.parameters.iter().enumerate() {
            if parameter.step == 0 {
                continue;
            }
            self.pickle.int(index as i64).empty_dict();
            self.number("step", parameter.step);
            for moment in &parameter.moments {
                self.pickle.text(moment.name);
                self.tensor(moment.into());
                self.pickle.set_item();
            }
            self.pickle.set_item();
        }
        self.pickle.set_item().text("param_groups").empty_list().mark();
        let mut first = 0;
        for group in &training.groups {
            self.pickle.empty_dict();
            for (key, setting) in &group.settings {
                self.pickle.text(key);
                match setting {
                    Setting::Number(value) => self.pickle.float(*value),
                    Setting::Pair([a, b]) => self.pickle.mark().float(*a).float(*b).tuple(),
                    Setting::Flag(value) => self.pickle.bool(*value),
                };
                self.pickle.set_item();
            }
            self.pickle.text("params").empty_list().mark();
            for index in first..first + group.parameters {
                self.pickle.int(index as i64);
            }
            self.pickle.append_items().set_item();
            first += group.parameters;
        }
        self.pickle.append_items().set_item().set_item();
    }

    /// Writes the archive.
    fn write(self, out: impl Write + Seek) -> Result<(), Problem> {
        let mut zip = ZipWriter::new(out);
        match self.write_entries(&mut zip) {
            Ok(()) => Ok(zip.finish()?.flush()?),
            Err(problem) => {
                // Dropping an unfinished archive tries to finish it, and prints the error of that to standard error.
                std::mem::forget(zip);
                Err(problem)
            }
        }
    }

    fn write_entries(self, zip: &mut ZipWriter<impl Write + Seek>) -> Result<(), Problem> {
        let mut add_entry = |name: &str, length: u64, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>| {
            // With a fixed date, equal weights give equal bytes.
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .last_modified_time(DateTime::default())
                .with_alignment(ALIGNMENT)
                .large_file(length >= ZIP64_FROM);
            zip.start_file(format!("{DIRECTORY}/{name}"), options)?;
            write(&mut *zip)?;
            Ok::<(), Problem>(())
        };
        let mut add_small_entry =
            |name: &str, bytes: &[u8]| add_entry(name, bytes.len() as u64, &mut |out| out.write_all(bytes));
        add_small_entry("data.pkl", &self.pickle.finish())?;
        add_small_entry(".format_version", b"1")?;
        add_small_entry(".storage_alignment", ALIGNMENT.to_string().as_bytes())?;
        add_small_entry("byteorder", b"little")?;
        for (index, tensor) in self.tensors.iter().enumerate() {
            let length = tensor.len() as u64 * tensor.dtype.size() as u64;
            add_entry(&format!("data/{index}"), length, &mut |out| tensor.write(out))?;
        }
        add_entry("version", VERSION.len() as u64, &mut |out| {
            out.write_all(VERSION.as_bytes())
        })
    }
}

/// Writes what the tensors do not tell where Lightning has the configuration: `{"hyper_parameters": {"config": {"num_heads": …}}}`.
fn write_configuration(
    pickle: &mut Writer,
    mut configuration: Map<String, Value>,
    heads: GivenHeads,
    layer_norm_eps: Option<f32>,
) {
    for (key, heads) in [
        (ENCODER_HYPER_PARAMETER, heads.encoder),
        (DECODER_HYPER_PARAMETER, heads.decoder),
    ] {
        configuration.extend(heads.map(|heads| (key.to_owned(), heads.into())));
    }
    configuration.extend(layer_norm_eps.map(|eps| (LAYER_NORM_EPS.to_owned(), f64::from(eps).into())));
    if configuration.is_empty() {
        return;
    }
    pickle.text("hyper_parameters").empty_dict().text("config");
    write_json(pickle, &Value::Object(configuration)).set_item().set_item();
}

/// Pushes plain data.
fn write_json<'w>(pickle: &'w mut Writer, value: &Value) -> &'w mut Writer {
    match value {
        Value::Null => pickle.none(),
        Value::Bool(value) => pickle.bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(value) => pickle.int(value),
            None => pickle.float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => pickle.text(text),
        Value::Array(values) => {
            pickle.empty_list().mark();
            for value in values {
                write_json(pickle, value);
            }
            pickle.append_items()
        }
        Value::Object(entries) => {
            pickle.empty_dict();
            for (key, value) in entries {
                write_json(pickle.text(key), value).set_item();
            }
            pickle
        }
    }
}

fn write_ordered_dict(pickle: &mut Writer) {
    pickle.global("collections", "OrderedDict").empty_tuple().reduce();
}

/// Writes the call `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`.
fn write_tensor(pickle: &mut Writer, index: usize, tensor: &Written) {
    pickle.global("torch._utils", "_rebuild_tensor_v2").mark();
    pickle
        .mark()
        .text("storage")
        .global("torch", storage_class(tensor.dtype));
    pickle.text(&index.to_string()).text("cpu").int(tensor.len() as i64);
    pickle.tuple().persistent().int(0);
    write_sizes(pickle, tensor.shape);
    write_sizes(pickle, &strides(tensor.shape));
    pickle.bool(false);
    write_ordered_dict(pickle);
    pickle.tuple().reduce();
}

fn write_sizes(pickle: &mut Writer, sizes: &[usize]) {
    pickle.mark();
    for size in sizes {
        pickle.int(*size as i64);
    }
    pickle.tuple();
}

/// Returns row-major strides, in values.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        // PyTorch treats an axis of length 0 like one of length 1.
        strides[axis - 1] = strides[axis] * shape[axis].max(1);
    }
    strides
}
