//! Formats of a configuration (list, JSON, and the `config.toml` of a run directory), and help for its keys.

use std::fmt::Write;

use crate::error::ConfigError;
use crate::named_config::{NAMED_CONFIGS, NamedConfig};
use crate::table::{Config, KEYS, Key};
use crate::value::{Value, toml_entries};

impl Config {
    /// Returns the keys whose values differ from the base configuration.
    pub fn changed(&self) -> impl Iterator<Item = &'static Key> {
        let base = Self::default();
        KEYS.iter().filter(move |key| (key.get)(self) != (key.get)(&base))
    }

    /// Formats all keys and values as Python literals, one per line. Lines whose values differ from the base configuration begin
    /// with `*` and end with the base value.
    pub fn print(&self) -> String {
        let base = Self::default();
        let mut text = String::from("Configuration (* differs from the base configuration):\n");
        let mut line = |name: &str, value: &Value, default: &Value| {
            let mark = if value == default { ' ' } else { '*' };
            let _ = write!(text, "{mark} {name} = {value}");
            if value != default {
                let _ = write!(text, "    (base: {default})");
            }
            text.push('\n');
        };
        for key in KEYS {
            let (value, default) = ((key.get)(self), (key.get)(&base));
            match (&value, &default) {
                (Value::Dict(entries), Value::Dict(defaults)) => {
                    for ((entry, value), (_, default)) in entries.iter().zip(defaults) {
                        line(&format!("{}.{entry}", key.name), value, default);
                    }
                }
                _ => line(key.name, &value, &default),
            }
        }
        text
    }

    /// Returns all keys and values as a JSON object.
    pub fn to_json(&self) -> serde_json::Value {
        let entries = KEYS.iter().map(|key| (key.name.to_string(), (key.get)(self).to_json()));
        serde_json::Value::Object(entries.collect())
    }

    /// Formats all keys and values as TOML, with the sections of the table as comments. `None` is written as the string
    /// `"None"`. [`Config::from_toml`] parses the text to the same configuration.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for key in KEYS {
            if key.section != section {
                section = key.section;
                let _ = writeln!(text, "{}# {section}", if text.is_empty() { "" } else { "\n" });
            }
            let _ = writeln!(text, "{} = {}", key.name, (key.get)(self).to_toml());
        }
        text
    }

    /// Parses a configuration in TOML. Missing keys have their base values.
    ///
    /// # Errors
    /// Returns an error if the text is not TOML (the error's path is `config.toml`), a key is unknown, or a value has the wrong type
    /// or is out of range.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let settings = toml_entries(text).map_err(|reason| ConfigError::File {
            path: "config.toml".into(),
            reason,
        })?;
        for (key, value) in settings {
            config.set(&key, &value)?;
        }
        Ok(config)
    }
}

/// Lists the named configs, each with its purpose and the keys that it sets.
pub fn named_configs() -> String {
    let mut text = String::from("Named configs (later ones override earlier ones, KEY=VALUE overrides all):\n");
    for named_config in NAMED_CONFIGS {
        let _ = writeln!(text, "\n  {}\n    {}", named_config.name, named_config.summary());
        for (key, value) in named_config.settings().unwrap_or_default() {
            let value = match value {
                Value::Str(s) if s == "None" => Value::None,
                value => value,
            };
            let _ = writeln!(text, "      {key} = {value}");
        }
    }
    text
}

/// Returns the help for all keys: type, base value, range and meaning.
pub fn help() -> String {
    let mut text = String::new();
    let mut section = "";
    for key in KEYS {
        if key.section != section {
            section = key.section;
            let _ = writeln!(text, "{}{section}", if text.is_empty() { "" } else { "\n" });
        }
        let _ = writeln!(text, "  {}", heading(key));
        let _ = writeln!(text, "      {}", key.help);
    }
    text
}

/// Returns the help for a key, or the comment of a named config.
///
/// # Errors
/// Returns [`ConfigError::UnknownKey`] if the word is neither a key nor a named config.
pub fn help_about(word: &str) -> Result<String, ConfigError> {
    if let Some(key) = Key::find(word) {
        return Ok(format!("{}\n    {}\n", heading(key), key.help));
    }
    match NamedConfig::find(word) {
        Some(named_config) => Ok(format!("{}\n\n{}", named_config.name, named_config.description())),
        None => {
            let names = KEYS.iter().map(|k| k.name).chain(NAMED_CONFIGS.iter().map(|c| c.name));
            Err(ConfigError::UnknownKey {
                key: word.into(),
                nearest: vlct_util::text::nearest(word, names).into(),
            })
        }
    }
}

fn heading(key: &Key) -> String {
    let mut text = format!("{} = {}    ({}", key.name, key.default(), (key.type_name)());
    if key.range != crate::types::Range::Any {
        let _ = write!(text, "; {}", key.range);
    }
    text.push(')');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::resolve;
    use crate::literal;
    use proptest::prelude::*;

    #[test]
    fn print_marks_changed_values() {
        let c = resolve(&["batch_size=8", "loss_names.itm=0.5", "max_steps=None"])
            .unwrap()
            .config;
        let text = c.print();
        let marked: Vec<&str> = text.lines().filter(|l| l.starts_with("* ")).collect();
        assert_eq!(
            marked,
            [
                "* loss_names.itm = 0.5    (base: 1)",
                "* batch_size = 8    (base: 4096)",
                "* max_steps = None    (base: 25000)"
            ]
        );
        assert!(text.contains("\n  exp_name = 'vlc'\n"));
        assert_eq!(
            c.changed().map(|k| k.name).collect::<Vec<_>>(),
            ["loss_names", "batch_size", "max_steps"]
        );
    }

    #[test]
    fn every_base_value_is_in_range_and_documented() {
        let help = help();
        for key in KEYS {
            let default = key.default();
            let mut config = Config::default();
            config.set(key.name, &default).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(config, Config::default());
            assert!(help.contains(&format!("  {} = {default}", key.name)), "{}", key.name);
            assert!(key.help.ends_with('.') && !key.help.contains('\n'), "{}", key.name);
            assert!(help_about(key.name).unwrap().contains(key.help));
        }
        assert!(help_about("step25k").unwrap().contains("25,000"));
        assert!(help_about("batchsize").unwrap_err().to_string().contains("batch_size"));
    }

    #[test]
    fn named_configs_are_listed_with_the_keys_that_they_set() {
        let text = named_configs();
        for named_config in NAMED_CONFIGS {
            assert!(text.contains(&format!("\n  {}\n", named_config.name)));
        }
        assert!(text.contains("      max_steps = None\n") && text.contains("      max_steps = 50000\n"));
    }

    #[test]
    fn json_and_toml_keep_every_named_config() {
        let directory = tempfile::tempdir().unwrap();
        for named_config in NAMED_CONFIGS {
            let config = resolve(&[named_config.name, "precision=16", "num_gpus=[0]"])
                .unwrap()
                .config;
            assert_eq!(
                Config::from_toml(&config.to_toml()),
                Ok(config.clone()),
                "{}",
                named_config.name
            );
            let path = directory.path().join("config.json");
            std::fs::write(&path, config.to_json().to_string()).unwrap();
            assert_eq!(
                resolve(&[path.to_str().unwrap()]).unwrap().config,
                config,
                "{}",
                named_config.name
            );
        }
        assert!(Config::from_toml("seeed = 1").unwrap_err().to_string().contains("seed"));
        assert!(Config::from_toml("seed = ").unwrap_err().to_string().contains("line 1"));
    }

    proptest! {
        #[test]
        fn toml_keeps_every_configuration(
            keys in prop::collection::vec((0..KEYS.len(), 0usize..14, any::<String>(), any::<f64>(), any::<i64>()), 0..12)
        ) {
            let mut config = Config::default();
            for (key, kind, text, number, integer) in keys {
                let value = match kind {
                    0 => Value::None,
                    1 => Value::Bool(integer % 2 == 0),
                    2 => Value::Int(integer),
                    3 => Value::Int(integer.rem_euclid(100)),
                    4 => Value::Float(number),
                    5 => Value::Float(number.abs().fract()),
                    6 => Value::List(vec![Value::Int(integer % 9)]),
                    7 => Value::Str("None".into()),
                    8 => literal::parse_value(&text),
                    _ => Value::Str(text),
                };
                let _ = config.set(KEYS[key].name, &value);
            }
            prop_assert_eq!(Config::from_toml(&config.to_toml()), Ok(config));
        }

        #[test]
        fn arbitrary_toml_never_panics(text in any::<String>()) {
            let _ = Config::from_toml(&text);
        }
    }
}
