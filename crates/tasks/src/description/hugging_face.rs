//! The settings beside the weights of a ViLT model of Hugging Face: `preprocessor_config.json` or `processor_config.json`, the tokenizer's
//! files, and the names of answers in `config.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;
use vlct_image::{ImageFormat, Normalisation, TransformKind};
use vlct_model::VlcConfig;
use vlct_text::{Tokenizer, TokenizerDirectory};
use vlct_util::read_at_most;

use super::error::WeightsError;
use crate::spec::TaskSpec;
use crate::vqa::VqaSpec;

/// The files with the settings of images, in the order in which they are looked for. Version 5 of transformers writes the second one.
pub(super) const IMAGE_SETTINGS: [&str; 2] = ["preprocessor_config.json", "processor_config.json"];
/// The key of the settings of images in the second file.
const NESTED_SETTINGS: &str = "image_processor";
/// Maximum size of a file with settings in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// The sizes of a model, and the names of its answers.
pub(super) const CONFIG: &str = "config.json";
/// The settings of the tokenizer.
pub(super) const TOKENIZER_SETTINGS: &str = "tokenizer_config.json";
/// The vocabulary, a token a line.
pub(super) const VOCABULARY: &str = "vocab.txt";
/// Pillow's number of the bicubic filter.
pub(super) const BICUBIC: u64 = 3;
/// Largest difference of a rescaling factor from 1/255.
const RESCALE_BOUND: f64 = 1e-9;
/// Beginning of the names that transformers gives to labels without a name.
pub(super) const NO_NAME: &str = "LABEL_";

/// The settings of a model.
pub(super) struct Settings {
    pub images: ImageSettings,
    pub tokenizer: Tokenizer,
    /// Whether the tokenizer is beside the weights.
    pub has_vocabulary: bool,
    /// Maximum number of tokens of a text, if it is stated.
    pub max_text_len: Option<usize>,
    pub task: Option<TaskSpec>,
    /// What was assumed, as sentences.
    pub notes: Vec<String>,
}

/// How image files become values.
#[derive(Clone, Copy)]
pub(super) struct ImageSettings {
    pub format: ImageFormat,
    pub transform: TransformKind,
}

/// Reads the settings beside the weight file `path`. `config` is the content of `config.json`.
///
/// # Errors
/// Returns an error if a file cannot be read, or a setting is invalid or not supported.
pub(super) fn read(path: &Path, config: &Value, model: &VlcConfig) -> Result<Settings, WeightsError> {
    let mut notes = Vec::new();
    if config.is_null() {
        notes.push(
            "there is no config.json beside the weights: heads and epsilon are those of the published ViLT models"
                .to_owned(),
        );
    }
    if let Some(limit) = config.get("max_image_length").and_then(Value::as_u64) {
        notes.push(format!(
            "config.json limits the model to {limit} random patches of an image, which predictions do not do"
        ));
    }
    let images = match image_settings(path)? {
        Some((file, settings)) => parse_image_settings(&settings).map_err(|reason| setting(&file, reason))?,
        None => {
            notes.push(format!(
                "there is no {} beside the weights: images are prepared as for the published ViLT models",
                IMAGE_SETTINGS[0]
            ));
            let transform = TransformKind::Pixelbert;
            ImageSettings {
                format: vlct_image::TransformSpec::Named(transform).published_format(model.image_size),
                transform,
            }
        }
    };
    let found = TokenizerDirectory::read(path.parent().unwrap_or(Path::new("")))?;
    let has_vocabulary = found.is_some();
    let (tokenizer, max_text_len) = tokenizer(found, &mut notes);
    if has_vocabulary && tokenizer.len() < model.vocab_size {
        notes.push(format!(
            "the vocabulary has {} tokens and the model {} word embeddings: the last embeddings stand for no token",
            tokenizer.len(),
            model.vocab_size
        ));
    }
    let answers = model.heads.vqa.and_then(|count| answers(config, count));
    Ok(Settings {
        images,
        tokenizer,
        has_vocabulary,
        max_text_len,
        task: answers.map(|answers| TaskSpec::Vqa(VqaSpec { answers })),
        notes,
    })
}

fn setting(path: &Path, reason: String) -> WeightsError {
    WeightsError::Setting {
        path: path.to_path_buf(),
        reason,
    }
}

/// Reads a JSON file beside `path`; `None` if there is none.
fn json_beside(path: &Path, name: &str) -> Result<Option<(PathBuf, Value)>, WeightsError> {
    let file = path.with_file_name(name);
    if !file.is_file() {
        return Ok(None);
    }
    let content = read_at_most(&file, MAX_BYTES, "a file with settings")?;
    match serde_json::from_slice(&content) {
        Ok(value) => Ok(Some((file, value))),
        Err(error) => Err(setting(&file, format!("it is not valid JSON: {error}"))),
    }
}

/// Returns the settings of images and their file; `None` if there is none.
fn image_settings(path: &Path) -> Result<Option<(PathBuf, Value)>, WeightsError> {
    for name in IMAGE_SETTINGS {
        if let Some((file, mut settings)) = json_beside(path, name)? {
            let nested = settings.get_mut(NESTED_SETTINGS).map(Value::take);
            return Ok(Some((file, nested.unwrap_or(settings))));
        }
    }
    Ok(None)
}

/// Interprets the settings of images.
///
/// # Errors
/// Returns a sentence about the setting that is invalid or not supported.
fn parse_image_settings(settings: &Value) -> Result<ImageSettings, String> {
    let flag = |key: &str, default: bool| match settings.get(key) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(other) => Err(format!("{key} is {other} instead of true or false")),
    };
    if !settings.is_object() {
        return Err("it is not a dictionary of settings".into());
    }
    if !flag("do_resize", true)? {
        return Err("do_resize is false, which is not supported: images are always resized".into());
    }
    if flag("do_center_crop", false)? {
        return Err("do_center_crop is true, which is not supported".into());
    }
    if let Some(filter) = settings.get("resample").filter(|filter| **filter != BICUBIC) {
        return Err(format!(
            "resample is {filter}, which is not supported: only {BICUBIC} (bicubic) is"
        ));
    }
    let factor = settings
        .get("rescale_factor")
        .map(|factor| factor.as_f64().unwrap_or(f64::NAN));
    let is_other = |factor: f64| (factor - 1.0 / 255.0).abs() > RESCALE_BOUND || factor.is_nan();
    if !flag("do_rescale", true)? || factor.is_some_and(is_other) {
        return Err("the levels of pixels are not divided by 255, which is not supported".into());
    }
    let normalisation = match flag("do_normalize", true)? {
        true => Normalisation {
            mean: channels(settings, "image_mean")?.unwrap_or(Normalisation::SYMMETRIC.mean),
            deviation: channels(settings, "image_std")?.unwrap_or(Normalisation::SYMMETRIC.deviation),
        },
        false => Normalisation {
            mean: [0.0; 3],
            deviation: [1.0; 3],
        },
    };
    let (size, transform) = size(settings.get("size").unwrap_or(&Value::Null))?;
    let multiple = match settings.get("size_divisor") {
        None | Some(Value::Null) => ImageFormat::VILT_MULTIPLE,
        Some(multiple) => positive(multiple).ok_or_else(|| format!("size_divisor is {multiple}"))?,
    };
    Ok(ImageSettings {
        format: ImageFormat {
            size,
            multiple,
            normalisation,
        },
        transform,
    })
}

/// Returns the size of images, and the transform that follows from the form in which it is stated. Files of 2022 have the shorter side as a
/// number.
fn size(size: &Value) -> Result<(usize, TransformKind), String> {
    let shorter = size.get("shortest_edge").unwrap_or(size);
    if let Some(shorter) = positive(shorter) {
        return Ok((shorter, TransformKind::Pixelbert));
    }
    let side = |key: &str| size.get(key).and_then(positive);
    match (side("height"), side("width")) {
        (Some(height), Some(width)) if height == width => Ok((height, TransformKind::MaeTest)),
        (Some(height), Some(width)) => Err(format!(
            "images of {width} x {height} pixels are not supported: only squares and a shorter side are"
        )),
        _ => Err(format!("size is {size} instead of a shorter side, or height and width")),
    }
}

fn positive(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|number| *number > 0)
}

/// Returns a number for each channel; `None` if there is no such setting.
fn channels(settings: &Value, key: &str) -> Result<Option<[f32; 3]>, String> {
    let Some(value) = settings.get(key).filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let numbers = value
        .as_array()
        .map(|numbers| numbers.iter().map(|number| Some(number.as_f64()? as f32)));
    let numbers: Option<Vec<f32>> = numbers.and_then(Iterator::collect);
    let numbers = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
    numbers
        .map(Some)
        .ok_or_else(|| format!("{key} is {value} instead of three numbers"))
}

/// Returns the tokenizer, and the largest number of tokens of a text, if it is stated.
fn tokenizer(found: Option<TokenizerDirectory>, notes: &mut Vec<String>) -> (Tokenizer, Option<usize>) {
    match found {
        Some(TokenizerDirectory { tokenizer, max_len }) => (tokenizer, max_len),
        None => {
            notes.push(
                "there is no tokenizer beside the weights: the vocabulary is that of bert-base-uncased".to_owned(),
            );
            (Tokenizer::bert_base_uncased(), None)
        }
    }
}

/// Returns the names of `count` answers; `None` if they have none. Files on the Hub have some of them as numbers.
fn answers(config: &Value, count: usize) -> Option<Vec<Option<String>>> {
    let names = config.get("id2label")?.as_object()?;
    let name = |id: usize| match names.get(&id.to_string())? {
        Value::String(name) if *name == format!("{NO_NAME}{id}") => None,
        Value::String(name) => Some(name.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    };
    let names: Vec<Option<String>> = (0..count).map(name).collect();
    names.iter().any(Option::is_some).then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_settings_are_read() {
        for root in vlct_golden::vilt_directories("") {
            let sizes = vlct_golden::json(root.join("sizes.json"));
            let number = |part: &str, key: &str| sizes[part][key].as_u64().expect("a number") as usize;
            let of = |directory: &str| {
                let file = root.join(directory).join("model.safetensors");
                let (_, settings) = image_settings(&file).unwrap().expect("settings");
                (file.clone(), parse_image_settings(&settings).unwrap())
            };
            for directory in ["hf/vqa", "hf/nlvr2", "hf/vqa_bin", "hf/mlm_v5"] {
                let (file, images) = of(directory);
                assert_eq!(images.transform, TransformKind::Pixelbert);
                assert_eq!(images.format.size, number("vilt", "shortest_edge"));
                assert_eq!(images.format.multiple, number("vilt", "size_divisor"));
                assert_eq!(images.format.normalisation, Normalisation::SYMMETRIC);
                let mut notes = Vec::new();
                let found = TokenizerDirectory::read(file.parent().expect("a directory")).unwrap();
                let (tokenizer, max_text_len) = tokenizer(found, &mut notes);
                assert_eq!(
                    (tokenizer.len(), tokenizer.lower_case()),
                    (number("vilt", "vocab_size"), true)
                );
                assert_eq!(max_text_len, Some(number("vilt", "max_text_len")));
                assert!(notes.is_empty(), "{notes:?}");
                let vocabulary = Tokenizer::from_file(root.join("vocab.txt"), true).unwrap();
                assert!(
                    vocabulary.vocabulary().iter().eq(tokenizer.vocabulary().iter()),
                    "{directory}"
                );
            }
            let (_, images) = of("export/hf");
            assert_eq!(
                (images.transform, images.format.size),
                (TransformKind::MaeTest, number("vlc", "image_size"))
            );
            assert_eq!(images.format.normalisation, Normalisation::IMAGENET);
            let config = vlct_golden::json(root.join("hf/vqa/config.json"));
            let count = number("vilt", "answers");
            let answers = answers(&config, count).expect("names");
            assert_eq!(answers.len(), count);
            assert_eq!(answers[2].as_deref(), config["id2label"]["2"].as_str());
        }
    }

    #[test]
    fn settings_that_are_not_supported_are_named() {
        let settings =
            |text: &str| parse_image_settings(&serde_json::from_str(text).unwrap()).map(|images| images.format.size);
        assert_eq!(settings(r#"{"size": 384}"#), Ok(384));
        assert_eq!(
            settings(r#"{"size": {"height": 64, "width": 64}, "do_normalize": null}"#),
            Ok(64)
        );
        for (text, part) in [
            ("[]", "not a dictionary"),
            ("{}", "size is null"),
            (r#"{"size": 0}"#, "size is 0"),
            (r#"{"size": {"height": 64, "width": 32}}"#, "32 x 64"),
            (r#"{"size": 64, "do_resize": false}"#, "do_resize is false"),
            (r#"{"size": 64, "do_resize": "yes"}"#, "do_resize is \"yes\""),
            (r#"{"size": 64, "do_center_crop": true}"#, "do_center_crop"),
            (r#"{"size": 64, "resample": 2}"#, "resample is 2"),
            (r#"{"size": 64, "rescale_factor": 1}"#, "divided by 255"),
            (r#"{"size": 64, "do_rescale": false}"#, "divided by 255"),
            (r#"{"size": 64, "image_mean": [0.5, 0.5]}"#, "image_mean is [0.5,0.5]"),
            (r#"{"size": 64, "size_divisor": -1}"#, "size_divisor is -1"),
        ] {
            let reason = settings(text).unwrap_err();
            assert!(reason.contains(part) && !reason.contains('\n'), "{text}: {reason}");
        }
    }

    #[test]
    fn answers_without_a_name_are_left_out() {
        let config: Value =
            serde_json::from_str(r#"{"id2label": {"0": 0, "1": "yes", "2": "LABEL_2", "3": null}}"#).unwrap();
        let names = ["0", "yes"].map(|name| Some(name.to_owned()));
        assert_eq!(answers(&config, 5), Some([&names[..], &[None, None, None]].concat()));
        let config: Value = serde_json::from_str(r#"{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}"#).unwrap();
        assert_eq!(answers(&config, 2), None);
        assert_eq!(answers(&Value::Null, 2), None);
    }
}
