//! Writes zip archives that `torch.load` of PyTorch 1.6 and later accepts, also with `weights_only=True`.

use std::io::{Seek, Write};

use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

use super::super::GivenHeads;
use super::super::error::Problem;
use super::super::heads::{DECODER_HYPER_PARAMETER, ENCODER_HYPER_PARAMETER};
use super::super::state::{StateDict, StoredTensor};
use super::super::{Header, Style};
use super::tensor::storage_class;
use vlct_pickle::Writer;

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

/// Writes the tensors as a checkpoint. Values are converted in small chunks.
pub(in super::super) fn write(out: impl Write + Seek, state: &StateDict, header: &Header) -> Result<(), Problem> {
    let mut zip = ZipWriter::new(out);
    let mut add_entry = |name: &str, length: u64, write: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>| {
        // With a fixed date, equal weights give equal bytes.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .with_alignment(ALIGNMENT)
            .large_file(length >= ZIP64_FROM);
        zip.start_file(format!("{DIRECTORY}/{name}"), options)?;
        write(&mut zip)?;
        Ok::<(), Problem>(())
    };
    let mut add_small_entry =
        |name: &str, bytes: &[u8]| add_entry(name, bytes.len() as u64, &mut |out| out.write_all(bytes));
    add_small_entry("data.pkl", &content_pickle(state, header))?;
    add_small_entry(".format_version", b"1")?;
    add_small_entry(".storage_alignment", ALIGNMENT.to_string().as_bytes())?;
    add_small_entry("byteorder", b"little")?;
    for (index, (_, tensor)) in state.iter().enumerate() {
        let length = tensor.data.len() as u64 * tensor.data.dtype().size() as u64;
        add_entry(&format!("data/{index}"), length, &mut |out| tensor.data.write_le(out))?;
    }
    add_entry("version", VERSION.len() as u64, &mut |out| {
        out.write_all(VERSION.as_bytes())
    })?;
    zip.finish()?.flush()?;
    Ok(())
}

fn content_pickle(state: &StateDict, header: &Header) -> Vec<u8> {
    let mut pickle = Writer::new();
    pickle.empty_dict();
    let under = match header.style {
        Style::Vlc => {
            let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            pickle.text("epoch").int(number(header.epoch)).set_item();
            pickle.text("global_step").int(number(header.global_step)).set_item();
            pickle
                .text("pytorch-lightning_version")
                .text(LIGHTNING_VERSION)
                .set_item();
            write_heads(&mut pickle, header.heads);
            "state_dict"
        }
        Style::Mae => "model",
    };
    pickle.text(under);
    write_ordered_dict(&mut pickle);
    for (index, (name, tensor)) in state.iter().enumerate() {
        pickle.text(name);
        write_tensor(&mut pickle, index, tensor);
        pickle.set_item();
    }
    pickle.set_item();
    pickle.finish()
}

/// Writes the numbers of attention heads where Lightning has the configuration: `{"hyper_parameters": {"config": {"num_heads": …}}}`.
fn write_heads(pickle: &mut Writer, heads: GivenHeads) {
    if heads == GivenHeads::default() {
        return;
    }
    pickle.text("hyper_parameters").empty_dict().text("config").empty_dict();
    for (key, heads) in [
        (ENCODER_HYPER_PARAMETER, heads.encoder),
        (DECODER_HYPER_PARAMETER, heads.decoder),
    ] {
        if let Some(heads) = heads {
            pickle.text(key).int(heads as i64).set_item();
        }
    }
    pickle.set_item().set_item();
}

fn write_ordered_dict(pickle: &mut Writer) {
    pickle.global("collections", "OrderedDict").empty_tuple().reduce();
}

/// Writes the call `torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)`.
fn write_tensor(pickle: &mut Writer, index: usize, tensor: &StoredTensor) {
    pickle.global("torch._utils", "_rebuild_tensor_v2").mark();
    pickle
        .mark()
        .text("storage")
        .global("torch", storage_class(tensor.data.dtype()));
    pickle
        .text(&index.to_string())
        .text("cpu")
        .int(tensor.data.len() as i64);
    pickle.tuple().persistent().int(0);
    write_sizes(pickle, &tensor.shape);
    write_sizes(pickle, &strides(&tensor.shape));
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
