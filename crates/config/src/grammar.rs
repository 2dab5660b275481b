//! Resolves the words after `with` on the command line: `KEY=VALUE`, named configs and config files.
//!
//! A word with `=` sets a key; dots address entries of a dictionary (`loss_names.itm=0.5`). Any other word is a named
//! config or the path of a `.json` or `.toml` file. The configuration starts with the base values. Named configs and files are
//! applied in order, so a later one overrides the keys and dictionary entries of an earlier one. `KEY=VALUE` overrides all
//! named configs and files, including those that come after it.

use std::io::Read;
use std::path::Path;

use crate::error::ConfigError;
use crate::named_config::{NAMED_CONFIGS, NamedConfig};
use crate::table::{Config, KEYS};
use crate::value::{Value, toml_entries};
use vlct_tensor::Precision;
use vlct_util::text::nearest;

/// Maximum size of a config file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A resolved configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The configuration. Its values have the right types and ranges; the crate `train` checks that they agree.
    pub config: Config,
    /// Notes for the user about the resolution, one line each.
    pub notes: Vec<String>,
}

/// Resolves the words after `with` to a configuration.
///
/// # Errors
/// Returns an error if a key or named config is unknown, a value has the wrong type or is out of range, or a file cannot be read.
pub fn resolve<S: AsRef<str>>(words: &[S]) -> Result<Resolved, ConfigError> {
    let mut config = Config::default();
    let mut assignments = Vec::new();
    for word in words {
        let word = word.as_ref();
        match word.split_once('=') {
            Some((key, value)) => assignments.push((key.trim(), Config::parse_value(key.trim(), value.trim()))),
            None => apply_name(&mut config, word.trim())?,
        }
    }
    let mut notes = Vec::new();
    for (key, value) in &assignments {
        config.set(key, value)?;
        let is_16 = matches!(value, Value::Int(16)) || matches!(value, Value::Str(s) if s == "16");
        if *key == "precision" && is_16 && config.precision == Some(Precision::Bf16) {
            notes.push("precision=16 selects bfloat16; there is no IEEE half precision and no loss scaling".into());
        }
    }
    Ok(Resolved { config, notes })
}

/// Applies the named config or config file `name`.
fn apply_name(config: &mut Config, name: &str) -> Result<(), ConfigError> {
    if let Some(named_config) = NamedConfig::find(name) {
        return named_config
            .settings()?
            .iter()
            .try_for_each(|(key, value)| config.set(key, value));
    }
    let path = Path::new(name);
    match path.extension().and_then(|e| e.to_str()) {
        Some("json" | "toml") => apply_file(config, path),
        Some("yaml" | "yml" | "pickle" | "pkl") => Err(ConfigError::File {
            path: path.into(),
            reason: "this format is not supported: write the settings as .json or .toml".into(),
        }),
        _ => Err(ConfigError::UnknownNamedConfig {
            name: name.into(),
            nearest: nearest_word(name),
        }),
    }
}

fn nearest_word(word: &str) -> String {
    let names = NAMED_CONFIGS.iter().map(|c| c.name).chain(KEYS.iter().map(|k| k.name));
    let name = nearest(word, names);
    match NamedConfig::find(name) {
        Some(named_config) => named_config.name.into(),
        None => format!("{name}=VALUE"),
    }
}

fn apply_file(config: &mut Config, path: &Path) -> Result<(), ConfigError> {
    let file_error = |reason: String| ConfigError::File {
        path: path.into(),
        reason,
    };
    let mut bytes = Vec::new();
    let length = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|e| file_error(e.to_string()))?;
    if length as u64 > MAX_FILE_BYTES {
        return Err(file_error(format!(
            "the file is larger than the limit for config files, {MAX_FILE_BYTES} bytes"
        )));
    }
    let text = String::from_utf8(bytes).map_err(|e| file_error(e.to_string()))?;
    let settings = if path.extension().is_some_and(|e| e == "json") {
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| file_error(e.to_string()))?;
        match Value::from_json(&json) {
            Value::Dict(entries) => entries,
            _ => return Err(file_error("the file must contain one object of keys and values".into())),
        }
    } else {
        toml_entries(&text).map_err(file_error)?
    };
    for (key, value) in &settings {
        config.set(key, value).map_err(|e| file_error(e.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NumGpus, ValCheckInterval, Warmup};
    use proptest::prelude::*;

    fn config(words: &[&str]) -> Config {
        resolve(words).unwrap_or_else(|e| panic!("{words:?}: {e}")).config
    }

    fn error(words: &[&str]) -> String {
        resolve(words).expect_err(&words.join(" ")).to_string()
    }

    #[test]
    fn sets_keys_to_values() {
        let c = config(&[
            "data_root = /data/arrow",
            "learning_rate=5e-4",
            "max_steps=None",
            "warmup_steps=0.1",
            "val_check_interval=1",
            "loss_names.itm=0.5",
            "loss_names={'mae': 1}",
            "datasets=[\"coco\", 'vg']",
            "num_gpus=0,1",
            "batch_size=1_024",
            "exp_name=a=b",
            "pretrain_path=",
            "fast_dev_run=True",
        ]);
        assert_eq!(c.data_root, "/data/arrow");
        assert_eq!(c.learning_rate, 5e-4);
        assert_eq!(c.max_steps, None);
        assert_eq!(c.warmup_steps, Warmup::Fraction(0.1));
        assert_eq!(c.val_check_interval, ValCheckInterval::Batches(1));
        assert_eq!((c.loss_names.itm, c.loss_names.mlm, c.loss_names.mae), (0.5, 1.0, 1.0));
        assert_eq!(c.datasets, ["coco", "vg"]);
        assert_eq!(c.num_gpus, NumGpus::List(vec![0, 1]));
        assert_eq!(c.batch_size, 1024);
        assert_eq!(c.exp_name, "a=b");
        assert_eq!(c.pretrain_path, "");
        assert_eq!(c.fast_dev_run.0, 1);
        assert_eq!(config(&["batch_size=4e3"]).batch_size, 4000);
    }

    #[test]
    fn texts_and_lists_of_texts_need_no_quotes() {
        for (word, datasets) in [
            ("datasets=coco", &["coco"][..]),
            ("datasets=photos,laion", &["photos", "laion"]),
            ("datasets=[photos, laion]", &["photos", "laion"]),
            ("datasets=2020,photos,", &["2020", "photos"]),
            ("datasets=2020", &["2020"]),
            ("datasets=1e5", &["1e5"]),
            ("datasets=\"coco\"", &["coco"]),
            ("datasets='coco','vg'", &["coco", "vg"]),
            ("datasets=('coco',)", &["coco"]),
        ] {
            assert_eq!(config(&[word]).datasets, datasets, "{word}");
        }
        for (word, name) in [
            ("exp_name=1e5", "1e5"),
            ("exp_name=5", "5"),
            ("exp_name='\"5\"'", "\"5\""),
            ("exp_name=007", "007"),
            ("exp_name=True", "True"),
            ("exp_name=1_000", "1_000"),
        ] {
            assert_eq!(config(&[word]).exp_name, name, "{word}");
        }
    }

    #[test]
    fn key_values_override_named_configs_and_later_words_override_earlier_ones() {
        let vqa = "task_finetune_vqa_mae_randaug";
        assert_eq!(config(&["learning_rate=5e-4", vqa]).learning_rate, 5e-4);
        assert_eq!(config(&[vqa, "learning_rate=5e-4"]).learning_rate, 5e-4);
        assert_eq!(config(&["seed=1", "seed=2"]).seed, 2);
        assert_eq!(config(&["step50k", vqa]).max_steps, None);
        assert_eq!(config(&[vqa, "step50k"]).max_steps, Some(50_000));
        // A key that only the earlier config sets keeps its value.
        let merged = config(&["task_mlm_itm_mae", vqa]);
        assert_eq!(
            (merged.mask_ratio, merged.lr_mult),
            (config(&["task_mlm_itm_mae"]).mask_ratio, 10.0)
        );
        assert_ne!(merged.mask_ratio, config(&[vqa]).mask_ratio);
        // Fine-tuning has no masked patches, even after a config of pre-training.
        assert!(!merged.use_mae);
        // Entries of a dictionary merge one by one.
        let loss_names = config(&["loss_names.mlm=1", vqa]).loss_names;
        assert_eq!((loss_names.itm, loss_names.mlm, loss_names.vqa), (0.0, 1.0, 1.0));
    }

    #[test]
    fn errors_name_the_nearest_key_and_the_expected_type() {
        for (words, parts) in [
            (
                &["batchsize=3"][..],
                &["unknown key \"batchsize\"", "\"batch_size\""][..],
            ),
            (&["loss_names.itmm=1"], &["\"loss_names.itm\""]),
            (&["itm=1"], &["\"loss_names.itm\""]),
            (&["batch_size.x=1"], &["unknown key \"batch_size.x\""]),
            (&["step25"], &["unknown named config \"step25\"", "step25k"]),
            (&["batch_size"], &["batch_size=VALUE"]),
            (
                &["test_only=true"],
                &["test_only='true'", "expected bool", "did you mean True?"],
            ),
            (&["test_only=1"], &["expected bool", "did you mean True?"]),
            (&["max_steps=null"], &["expected int or None", "did you mean None?"]),
            (&["batch_size='8'"], &["did you mean 8?"]),
            (&["datasets=coco,vqa/"], &["datasets", "vqa/", "is out of range"]),
            (&["exp_name=[5]"], &["expected str", "exp_name='\"[5]\"'"]),
            (&["load_path=None"], &["expected str", "load_path="]),
            (&["batch_size=2.5"], &["batch_size=2.5: expected int"]),
            (&["loss_names=3"], &["expected dict of numbers"]),
            (&["loss_names.itm='a'"], &["loss_names.itm='a': expected number"]),
            (
                &["loss_names.itm=-1"],
                &["loss_names.itm=-1 is out of range: must be at least 0"],
            ),
            (
                &["mask_ratio=1.0"],
                &["mask_ratio=1.0 is out of range: must be at least 0 and below 1"],
            ),
            (&["learning_rate=0"], &["must be above 0"]),
            (&["learning_rate=1e999"], &["out of range"]),
            (&["warmup_steps=2500.0"], &["a float from 0.0 to 1.0 or an int"]),
            (&["val_check_interval=0.0"], &["a float above 0.0"]),
            (&["val_check_interval=0"], &["an int of at least 1"]),
            (
                &["optim_type=adamax"],
                &["one of adamw, adam, sgd", "did you mean 'adamw'?"],
            ),
            (
                &["datasets=['coco','vqa/']"],
                &["or the name of a custom dataset", "did you mean 'vqa'?"],
            ),
            (&["precision=8"], &["expected 32, 16 or 'bf16' or None"]),
            (&["x.yaml"], &["x.yaml", ".json or .toml"]),
            (&["=3"], &["unknown key"]),
        ] {
            let message = error(words);
            for part in parts {
                assert!(message.contains(part), "{words:?}: {message:?} lacks {part:?}");
            }
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn reads_config_files() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_string()
        };
        let json = write(
            "a.json",
            r#"{"batch_size": 8, "max_steps": null, "loss_names": {"itm": 0}}"#,
        );
        let toml = write(
            "b.toml",
            "batch_size = 16\nmax_steps = \"None\"\n[loss_names]\nvqa = 1\n",
        );
        let c = config(&[&json, &toml]);
        assert_eq!(
            (c.batch_size, c.max_steps, c.loss_names.itm, c.loss_names.vqa),
            (16, None, 0.0, 1.0)
        );
        assert_eq!(config(&[&toml, &json]).batch_size, 8);
        for (name, text, part) in [
            ("c.json", "[1]", "one object"),
            ("d.json", "{", "EOF"),
            ("e.toml", "seed = 1\nbatch_size = ", "line 2"),
            ("f.toml", "batchsize = 3", "\"batch_size\""),
        ] {
            let message = error(&[&write(name, text)]);
            assert!(
                message.contains(part) && message.contains(name) && !message.contains('\n'),
                "{message}"
            );
        }
        assert!(error(&["/nowhere/g.json"]).contains("/nowhere/g.json"));
    }

    #[test]
    fn notes_that_16_selects_bf16() {
        for word in ["precision=16", "precision='16'"] {
            let resolved = resolve(&[word]).unwrap();
            assert_eq!(resolved.config.precision, Some(Precision::Bf16));
            assert_eq!(resolved.notes.len(), 1);
        }
        let resolved = resolve(&["precision=bf16"]).unwrap();
        assert_eq!(
            (resolved.config.precision, resolved.notes.len()),
            (Some(Precision::Bf16), 0)
        );
        assert_eq!(config(&["precision=32"]).precision, Some(Precision::F32));
    }

    proptest! {
        #[test]
        fn arbitrary_words_never_panic(words in prop::collection::vec("[a-z_.]{0,12}=?[^/]{0,12}", 0..4)) {
            let _ = resolve(&words);
        }
    }
}
