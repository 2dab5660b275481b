//! `vlct predict features`: values of the last layer, as a safetensors file or a NumPy array.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use vlct_model::files::{self, Header, StateDict, StoredTensor, Style};
use vlct_predict::features::{Kind, features};
use vlct_predict::{Item, PredictError, batches, npy};
use vlct_util::{IoError, at, atomic};

use super::options::{InputOptions, ModelOptions};
use crate::hints::with_hint;
use crate::output::{Failure, check_directory, check_new, print};
use vlct_util::text::counted;

/// Write the features of images and texts to a file
///
/// `pooled` has one feature for the text with its image, `text` one for each token, `patches` one for each patch of the image, in
/// row-major order. A model of width D and P patches has the shapes D, tokens × D and P × D.
#[derive(Args)]
#[command(
    override_usage = "vlct predict features --load PATH --out FILE [OPTIONS] [IMAGE] [--text TEXT]",
    after_help = "\
Lines of --input have the keys image and text; one of them may be missing.

A safetensors file has the tensors pooled, text and patches, for many inputs 0.pooled, 0.text and so on, and the inputs in its metadata.
An .npy file has one kind: for many inputs [inputs, D] (pooled) or [inputs, P, D] (patches).

Examples:
  vlct predict features --load vlc_baseset.ckpt --out photo.safetensors photo.jpg --text \"a dog\"
  vlct predict features --load vlc_baseset.ckpt --kind pooled --out photos.npy photos"
)]
pub struct FeaturesArgs {
    /// An image file or a directory of images
    #[arg(value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// Text that belongs to the image, or that is encoded without an image
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// File to write: .safetensors or .npy
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    pub overwrite: bool,
    /// Kinds of features [default: all; pooled for .npy]
    #[arg(long, value_enum, value_name = "KIND")]
    pub kind: Vec<KindName>,
    #[command(flatten)]
    pub model: ModelOptions,
    #[command(flatten)]
    pub inputs: InputOptions,
}

/// Kinds of features.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KindName {
    /// One feature for the text with its image
    Pooled,
    /// One feature for each token of the text
    Text,
    /// One feature for each patch of the image
    Patches,
}

/// Formats of the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Safetensors,
    Npy,
}

/// Writes features.
pub fn run(args: &FeaturesArgs) -> Result<(), Failure> {
    let extension = args
        .out
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let format = match extension.as_str() {
        "safetensors" => Format::Safetensors,
        "npy" => Format::Npy,
        _ => return Err(Failure::Usage("--out takes a file .safetensors or .npy".into())),
    };
    let kinds: Vec<Kind> = match (args.kind.as_slice(), format) {
        ([], Format::Safetensors) => Kind::ALL.to_vec(),
        ([], Format::Npy) => vec![Kind::Pooled],
        (kinds, _) => kinds.iter().map(|kind| kind.kind()).collect(),
    };
    if format == Format::Npy && kinds.len() != 1 {
        return Err(Failure::Usage("an .npy file has one --kind of features".into()));
    }
    check_directory(&args.out)?;
    check_new(&args.out, args.overwrite)?;
    let images: Vec<&Path> = args.image.iter().map(PathBuf::as_path).collect();
    let usage = "[IMAGE] [--text TEXT]";
    let list = match (images.as_slice(), &args.text) {
        ([], None) => args.inputs.given(usage)?,
        (images, text) => args.inputs.records(images, text.as_deref(), usage)?,
    };
    let predictor = args.model.open(&[])?;
    let preparation = predictor.preparation();
    let (mut state, mut inputs, mut failed) = (StateDict::new(), Vec::new(), 0);
    batches::run(
        list.records,
        args.inputs.batches(),
        |record| {
            let image = match record.images.is_empty() {
                true => None,
                false => Some(preparation.image(record.image()?)?.values),
            };
            let text = preparation.text(record.text.as_deref().unwrap_or_default())?;
            Ok(Item { image, text })
        },
        |items| features(&predictor, items, &kinds),
        |record, result| {
            let number = inputs.len() + failed;
            let tensors = match result {
                Ok(tensors) => tensors,
                Err(error) if !list.many => return Err(Failure::from(error)),
                // The rows of an array have no names, so that a missing row would shift all others.
                Err(error) if format == Format::Npy => {
                    return Err(Failure::Failed(format!(
                        "input {number}: {}; a .safetensors file leaves such inputs out",
                        with_hint(&error)
                    )));
                }
                Err(error) => {
                    log::warn!("input {number} is left out: {}", with_hint(&error));
                    failed += 1;
                    return Ok(());
                }
            };
            for (kind, tensor) in tensors {
                let values = tensor.clone().into_f32().unwrap_or_default();
                if !values.iter().all(|value| value.is_finite()) {
                    return Err(PredictError::NotFinite.into());
                }
                let name = match list.many {
                    true => format!("{number}.{}", kind.name()),
                    false => kind.name().to_owned(),
                };
                state.insert(name, tensor);
            }
            let record = record.unwrap_or_default();
            let images: Vec<String> = record.images.iter().map(|image| image.display().to_string()).collect();
            inputs.push(json!({"number": number, "images": images, "text": record.text}));
            Ok(())
        },
    )?;
    let count = inputs.len();
    if state.is_empty() {
        return Err(Failure::Failed(
            "no input has features of this kind; nothing is written".into(),
        ));
    }
    match format {
        Format::Safetensors => {
            let header = Header {
                metadata: vec![("inputs".into(), serde_json::Value::from(inputs).to_string())],
                ..Style::Vlc.into()
            };
            files::write(&args.out, &state, &header)?;
        }
        Format::Npy => write_npy(&args.out, state, list.many)?,
    }
    print(&format!(
        "wrote {}: features of {}\n",
        args.out.display(),
        counted(count, "input")
    ))?;
    match failed {
        0 => Ok(()),
        failed => Err(Failure::Failed(format!(
            "{failed} of {} could not be read",
            counted(failed + count, "input")
        ))),
    }
}

/// Writes tensors of equal shapes as one array.
fn write_npy(path: &Path, state: StateDict, many: bool) -> Result<(), Failure> {
    let tensors: Vec<StoredTensor> = state.into_iter().map(|(_, tensor)| tensor).collect();
    let first = tensors.first().map_or(&[][..], |tensor| &tensor.shape);
    if tensors.iter().any(|tensor| tensor.shape != first) {
        let reason =
            "the texts have different numbers of tokens, so their features are not one array; use .safetensors";
        return Err(Failure::Failed(format!("{}: {reason}", path.display())));
    }
    let shape = match many {
        true => [&[tensors.len()], first].concat(),
        false => first.to_vec(),
    };
    let values: Vec<f32> = tensors
        .into_iter()
        .filter_map(StoredTensor::into_f32)
        .flatten()
        .collect();
    let written = atomic::write(path, |out| npy::write(out, &shape, &values));
    written.map_err(|error| PredictError::from(at::<IoError>(path)(error)).into())
}

impl KindName {
    fn kind(self) -> Kind {
        match self {
            Self::Pooled => Kind::Pooled,
            Self::Text => Kind::Text,
            Self::Patches => Kind::Patches,
        }
    }
}
