//! What the words of a run and the weight files that it begins with determine.

use std::collections::HashSet;
use std::path::Path;

use vlct_image::Normalisation;
use vlct_model::config::{Backbone, Positions, Variant};
use vlct_model::files::{self, WeightIndex};
use vlct_model::sizes::{GivenHeads, Part};
use vlct_tasks::description::{DescribedWeights, WeightsError};

use super::sizes::Candidate;
use log::warn;
use vlct_config::{Config, KEYS, NamedConfig, Value};
use vlct_text::Tokenizer;
use vlct_train::error::{Result, TrainError};
use vlct_train::paths;
use vlct_train::spec;
use vlct_train::trainer::{self, Threads};

/// Keys other than sizes that [`take_sizes`] may set.
const TAKEN: [&str; 13] = [
    "vocab_size",
    "max_text_len",
    "tokenizer",
    "layer_norm_eps",
    "text_layer_norm_eps",
    "train_transform_keys",
    "val_transform_keys",
    "size_divisor",
    "image_mean",
    "image_std",
    "is_pretrain",
    "use_mae",
    "loss_names",
];
/// The backbone of ViLT.
const VILT: &str = "vit_base_patch32_384";

/// The keys of the sizes of the model in `load_path`, with their values.
#[derive(Debug, Default)]
pub(super) struct WeightSizes {
    /// Sizes that the file determines.
    pub known: Vec<(&'static str, Value)>,
    /// Numbers of attention heads that the file does not state.
    pub assumed: Vec<(&'static str, Value)>,
    /// The assumptions by which these numbers were derived, as sentences.
    pub assumptions: Vec<String>,
}

/// Sets the sizes of the model, and the tokenizer, to those of `load_path`, if `words`, the words of the configuration after `with`, set no
/// size but `image_size`. Keys that the words set stay as they are. Returns the keys that change, with their values; empty if none changes.
/// If the words set a size, a warning names the others that the weights have.
///
/// Models of the published base size keep the image size of the configuration. A file that cannot be read changes nothing, because the
/// run that loads it reports why.
///
/// # Errors
/// Returns an error if a word or a size is not valid.
pub fn take_sizes(config: &mut Config, words: &[&str]) -> Result<String> {
    let given = given_keys(words)?;
    // A named config of ViLT sets `vit`, and the user the sizes.
    let is_vit_given = words.iter().any(|word| word.trim().starts_with("vit="));
    let is_size = |key: &str| Candidate::has_key(key) && key != "image_size" && (key != "vit" || is_vit_given);
    let is_model_given = given.iter().any(|key| is_size(key));
    if config.load_path.is_empty() || config.load_partial {
        return Ok(String::new());
    }
    if let Some(from) = config.resume_from.clone() {
        return match is_model_given {
            true => Ok(String::new()),
            false => take_from_run(config, &given, &from),
        };
    }
    // Reading weights uses the threads of the run.
    trainer::use_threads(Threads::from_config(config))?;
    let Ok(weights) = sizes_of_weights(config) else {
        return Ok(String::new());
    };
    let before = config.clone();
    let tokenizer = config_of_weights(&config.load_path).map(|run| ("tokenizer", Value::Str(run.tokenizer)));
    for (key, value) in weights.known.into_iter().chain(weights.assumed).chain(tokenizer) {
        // A dictionary counts as a whole.
        if !given.contains(key.split('.').next().unwrap_or(key)) {
            config.set(key, &value)?;
        }
    }
    let changed = changes(&before, config);
    if is_model_given {
        let of = |config: &Config| spec::model(config).ok();
        if of(config) != of(&before) {
            warn!(
                "sizes are set, so that no others are taken from load_path, whose model has also {changed}; set these too, or no size"
            );
        }
        *config = before;
        return Ok(String::new());
    }
    if !changed.is_empty() {
        weights.assumptions.iter().for_each(|assumption| warn!("{assumption}"));
    }
    Ok(changed)
}

/// Sets the keys that [`take_sizes`] may set to their values in the run `from`, which is continued, unless they are in `given`. Returns the
/// keys that change, with their values.
fn take_from_run(config: &mut Config, given: &HashSet<String>, from: &str) -> Result<String> {
    let run = paths::find_checkpoint(from)
        .ok()
        .and_then(|path| paths::config_of(&path));
    let Some(run) = run else { return Ok(String::new()) };
    let before = config.clone();
    let is_taken = |key: &str| Candidate::has_key(key) || key == "image_size" || TAKEN.contains(&key);
    for key in KEYS
        .iter()
        .filter(|key| is_taken(key.name) && !given.contains(key.name))
    {
        config.set(key.name, &(key.get)(&run))?;
    }
    Ok(changes(&before, config))
}

/// Returns the keys whose values differ, with their new values.
fn changes(before: &Config, config: &Config) -> String {
    let changed: Vec<String> = KEYS
        .iter()
        .filter(|key| (key.get)(config) != (key.get)(before))
        .map(|key| format!("{}={}", key.name, (key.get)(config)))
        .collect();
    changed.join(" ")
}

/// Returns the configuration of the run that `load_path` belongs to; `None` if it is not the path of a run.
pub(super) fn config_of_weights(load_path: &str) -> Option<Config> {
    paths::config_of(&paths::find_weights(Path::new(load_path)).ok()?)
}

/// Returns the keys that words after `with` set. Dictionaries count as a whole.
pub(super) fn given_keys(words: &[&str]) -> Result<HashSet<String>> {
    let mut keys = HashSet::new();
    for word in words {
        match word.split_once('=') {
            Some((key, _)) => drop(keys.insert(key.trim().split('.').next().unwrap_or_default().to_string())),
            None => match NamedConfig::find(word.trim()) {
                Some(named) => keys.extend(named.settings()?.into_iter().map(|(key, _)| key)),
                // Files have whole configurations, of which nothing is replaced.
                None => keys.extend(KEYS.iter().map(|key| key.name.to_string())),
            },
        }
    }
    Ok(keys)
}

/// Returns the sizes of the model in `load_path`; empty without `load_path`. Reads the header of this file and of `pretrain_path`.
///
/// # Errors
/// Returns an error if a file cannot be read, or if `load_path` is not a VLC model and the user does not ask for a part of it.
pub(super) fn sizes_of_weights(config: &Config) -> Result<WeightSizes> {
    if !config.pretrain_path.is_empty() {
        files::index(&files::map(Path::new(&config.pretrain_path))?)?;
    }
    if config.load_path.is_empty() {
        return Ok(WeightSizes::default());
    }
    let file = files::map(Path::new(&config.load_path))?;
    let path = file.path();
    let index = files::index(&file)?;
    let given = GivenHeads {
        encoder: config.heads,
        decoder: config.decoder_heads,
    };
    let described = match DescribedWeights::read(path, &index, given) {
        Ok(described) => described,
        Err(WeightsError::ImageClassifier { path }) => return Err(TrainError::ImageClassifier { path }),
        Err(WeightsError::Sizes { .. }) if config.load_partial => return Ok(WeightSizes::default()),
        Err(error) => return Err(error.into()),
    };
    let assumptions = &described.assumptions;
    let is_assumed = |key: &str| {
        let parts = assumptions.iter().map(|assumption| assumption.part);
        parts.map(key_of_heads).any(|assumed| assumed == key)
    };
    let tokenizer = tokenizer_of(path, &index, &described.tokenizer).map(|tokenizer| ("tokenizer", tokenizer));
    let keys = keys(&described).into_iter().chain(tokenizer);
    let (assumed, known): (Vec<_>, Vec<_>) = keys.partition(|(key, _)| is_assumed(key));
    let of_heads = assumptions.iter().map(|assumption| {
        let key = key_of_heads(assumption.part);
        format!("{assumption}; set {key}=N if the model has another number")
    });
    let assumptions = of_heads.chain(described.notes.iter().cloned());
    let assumptions = assumptions.map(|assumption| format!("{}: {assumption}", path.display()));
    Ok(WeightSizes {
        known,
        assumed,
        assumptions: assumptions.collect(),
    })
}

/// Returns the value of the key `tokenizer` for a model of Hugging Face with a vocabulary of its own: the directory of the model.
fn tokenizer_of(path: &Path, index: &WeightIndex, tokenizer: &Tokenizer) -> Option<Value> {
    let base = Tokenizer::bert_base_uncased();
    let is_base = tokenizer.lower_case() && tokenizer.vocabulary().iter().eq(base.vocabulary().iter());
    let directory = path.parent().filter(|_| index.summary.hugging_face && !is_base)?;
    Some(Value::Str(directory.to_str()?.into()))
}

/// Returns the key of the number of attention heads of a part of the model.
fn key_of_heads(part: Part) -> &'static str {
    match part {
        Part::Encoder => "heads",
        Part::Decoder => "decoder_heads",
    }
}

/// Returns the keys of the sizes of a model with their values, and for ViLT those of its images. For models of the published base size, the
/// image size is left out: their position tables are resized to an image size for which the time suffices.
fn keys(weights: &DescribedWeights) -> Vec<(&'static str, Value)> {
    let model = &weights.model;
    let Backbone {
        patch_size,
        width,
        depth,
        heads,
        decoder_width,
        decoder_depth,
        decoder_heads,
    } = model.backbone;
    let size = |(key, size): (&'static str, usize)| (key, Value::Int(size as i64));
    let mut keys: Vec<_> = [("vocab_size", model.vocab_size), ("max_text_len", model.max_text_len)]
        .map(size)
        .into();
    let is_vilt = model.variant.positions == Positions::Learned;
    let vit = if is_vilt { VILT } else { &Config::default().vit };
    let is_published = Backbone::from_name(vit).is_some_and(|base| {
        (patch_size, width, depth, heads) == (base.patch_size, base.width, base.depth, base.heads)
            && Backbone::position_size(vit).is_none_or(|size| size == model.image_size)
    });
    if !is_published {
        let sizes = [
            ("image_size", weights.format.size),
            ("patch_size", patch_size),
            ("hidden_size", width),
            ("depth", depth),
            ("heads", heads),
        ];
        keys.extend(sizes.map(size));
        if decoder_depth > 0 {
            let decoder = [
                ("decoder_width", decoder_width),
                ("decoder_depth", decoder_depth),
                ("decoder_heads", decoder_heads),
            ];
            keys.extend(decoder.map(size));
        }
    }
    let published = if is_vilt { Variant::VILT } else { Variant::VLC };
    for (key, eps, published) in [
        ("layer_norm_eps", model.variant.layer_norm_eps, published.layer_norm_eps),
        (
            "text_layer_norm_eps",
            model.variant.text_layer_norm_eps,
            published.text_layer_norm_eps,
        ),
    ] {
        if eps != published {
            keys.push((key, Value::Float(decimal(eps))));
        }
    }
    let (format, published) = (weights.format, weights.transform.published_format(weights.format.size));
    if weights.transform.keeps_proportions() && format.multiple != published.multiple {
        keys.push(size(("size_divisor", format.multiple)));
    }
    if format.normalisation != published.normalisation {
        let channels = |values: [f32; 3]| Value::List(values.map(|value| Value::Float(decimal(value))).into());
        let Normalisation { mean, deviation } = format.normalisation;
        keys.extend([("image_mean", channels(mean)), ("image_std", channels(deviation))]);
    }
    if is_vilt {
        if !is_published {
            keys.push(size(("position_size", model.image_size)));
        }
        let transform = |kind: &str| Value::List(vec![Value::Str(kind.into())]);
        let kind = weights.transform.name();
        keys.extend([
            ("vit", Value::Str(VILT.into())),
            ("train_transform_keys", transform(kind)),
            ("val_transform_keys", transform(kind)),
            // There is no decoder of masked autoencoding.
            ("is_pretrain", Value::Bool(false)),
            ("use_mae", Value::Bool(false)),
            ("loss_names.mae", Value::Int(0)),
        ]);
    }
    keys
}

/// Returns the number that is printed for a value of f32, such as 1e-12.
fn decimal(value: f32) -> f64 {
    format!("{value:e}").parse().unwrap_or_else(|_| f64::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_config::resolve;

    #[test]
    fn a_missing_or_foreign_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.pth");
        for key in ["load_path", "pretrain_path"] {
            let word = format!("{key}={}", file.display());
            let config = resolve(&["own_data", &word]).unwrap().config;
            std::fs::remove_file(&file).ok();
            assert!(sizes_of_weights(&config).is_err(), "{key}: a missing file");
            std::fs::write(&file, b"no weights").unwrap();
            assert!(sizes_of_weights(&config).is_err(), "{key}: not a weight file");
        }
    }

    /// Returns a model whose width leaves the numbers of heads open.
    fn small_model() -> vlct_model::Vlc {
        let backbone = Backbone {
            patch_size: 8,
            width: 128,
            depth: 1,
            heads: 4,
            decoder_width: 96,
            decoder_depth: 1,
            decoder_heads: 4,
        };
        vlct_model::Vlc::new(vlct_model::VlcConfig {
            image_size: 16,
            backbone,
            vocab_size: 104,
            max_text_len: 16,
            token_types: 2,
            variant: vlct_model::config::Variant::VLC,
            drop_rate: 0.0,
            heads: Default::default(),
        })
    }

    #[test]
    fn numbers_of_heads_that_a_file_does_not_state_are_assumptions() {
        let model = small_model();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.safetensors");
        files::write(&file, &model.state_dict(), &files::Style::Vlc.into()).unwrap();
        let sizes = |word: &str| {
            let load_path = format!("load_path={}", file.display());
            let config = resolve(&["own_data", &load_path, word]).unwrap().config;
            sizes_of_weights(&config).unwrap()
        };
        let found = sizes("seed=0");
        let (heads, decoder_heads) = (("heads", Value::Int(2)), ("decoder_heads", Value::Int(3)));
        assert_eq!(found.assumed, [heads, decoder_heads.clone()]);
        assert!(found.assumptions[1].ends_with("set decoder_heads=N if the model has another number"));
        let found = sizes("heads=4");
        assert_eq!(found.assumed, [decoder_heads]);
        assert!(found.known.contains(&("heads", Value::Int(4))));
        let header = files::Header {
            heads: GivenHeads {
                encoder: Some(4),
                decoder: Some(4),
            },
            ..files::Style::Vlc.into()
        };
        files::write(&file, &model.state_dict(), &header).unwrap();
        let found = sizes("seed=0");
        assert_eq!((found.assumed, found.assumptions), (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_run_takes_the_sizes_of_its_weights_unless_it_sets_any() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.safetensors");
        files::write(&file, &small_model().state_dict(), &files::Style::Vlc.into()).unwrap();
        let load_path = format!("load_path={}", file.display());
        let take = |word: &str| {
            let words = ["task_finetune_labels", &load_path, word];
            let mut config = resolve(&words).unwrap().config;
            let changed = take_sizes(&mut config, &words).unwrap();
            (config, changed)
        };
        let (config, changed) = take("seed=0");
        assert_eq!(
            (config.image_size, config.hidden_size, config.heads),
            (16, Some(128), Some(2))
        );
        assert!(
            changed.contains("hidden_size=128") && changed.contains("max_text_len=16"),
            "{changed}"
        );
        assert_eq!(take("image_size=32").0.image_size, 32);
        assert_eq!(take("image_size=32").0.hidden_size, Some(128));
        let missing = format!("load_path={}", directory.path().join("none").display());
        for word in [
            "hidden_size=128",
            "depth=1",
            "load_partial=True",
            "load_path=''",
            "resume_from=x",
            &missing,
        ] {
            let (config, changed) = take(word);
            assert_eq!(changed, "", "{word}");
            assert_eq!(config.image_size, Config::default().image_size, "{word}");
        }
    }

    #[test]
    fn a_run_takes_the_values_of_images_that_its_weights_state() {
        for root in vlct_golden::vilt_directories("hf") {
            let directory = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(root.join("vqa")).unwrap() {
                let from = entry.unwrap().path();
                std::fs::copy(&from, directory.path().join(from.file_name().unwrap())).unwrap();
            }
            let settings = directory.path().join("preprocessor_config.json");
            let mut json: serde_json::Value = vlct_golden::json(&settings);
            json["image_mean"] = serde_json::json!([0.48, 0.4578, 0.4082]);
            json["size_divisor"] = 16.into();
            std::fs::write(&settings, json.to_string()).unwrap();
            let load_path = format!("load_path={}", directory.path().display());
            let words = [
                "task_finetune_vqa",
                "data_root=x",
                "per_gpu_batchsize=1",
                "patch_size=8",
                "test_only=True",
                &load_path,
            ];
            let mut config = resolve(&words).unwrap().config;
            // `patch_size` counts as a size that the words set.
            assert_eq!(take_sizes(&mut config, &words).unwrap(), "");
            let words: Vec<&str> = words
                .into_iter()
                .filter(|word| !word.starts_with("patch_size"))
                .collect();
            take_sizes(&mut config, &words).unwrap();
            assert_eq!(
                (config.image_mean, config.image_std, config.size_divisor),
                (Some([0.48, 0.4578, 0.4082]), Some([0.5; 3]), 16)
            );
            let spec = vlct_train::spec::RunSpec::resolve(&config).unwrap();
            let format = spec.data.format();
            assert_eq!((format.multiple, format.normalisation.mean[0]), (16, 0.48));
            let file = files::map(directory.path()).unwrap();
            let index = files::index(&file).unwrap();
            vlct_train::agreement::check(file.path(), &index, &spec).unwrap();
            config.image_mean = None;
            let spec = vlct_train::spec::RunSpec::resolve(&config).unwrap();
            let error = vlct_train::agreement::check(file.path(), &index, &spec)
                .unwrap_err()
                .to_string();
            assert!(error.contains("image_mean=[0.48, 0.4578, 0.4082]"), "{error}");
        }
    }
}
