//! The settings that a run has written to its directory or its checkpoints.

use std::path::Path;

use log::warn;
use vlct_config::Config;

use super::settings::{Change, Settings, Sizes};
use crate::error::{Result, TrainError};
use crate::paths;

/// The settings that a run wrote to its directory.
#[derive(Clone, Debug, PartialEq)]
pub enum RunSettings {
    /// The keys of `vlct run` and `vlct train`.
    Keys(Box<Config>),
    /// The settings of `vlct imagenet`.
    Classifier(Box<Settings>),
}

impl RunSettings {
    /// Reads the text of a `config.toml`.
    ///
    /// # Errors
    /// Returns an error if the text has the settings of no run.
    pub fn parse(text: &str) -> Result<Self> {
        match Settings::is_text_of(text) {
            true => Ok(Self::Classifier(Box::new(Settings::from_toml(text)?))),
            false => Ok(Self::Keys(Box::new(Config::from_toml(text)?))),
        }
    }

    /// Reads `config.toml` in a run directory.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or has the settings of no run.
    pub fn read(run: &Path) -> Result<Self> {
        Self::parse(&paths::read_text(run)?)
    }
}

/// Warns of settings, as TOML, that have changed since a run began and affect its result.
///
/// # Errors
/// Returns [`TrainError::OtherBatchSize`] if the size of micro-batches differs and the run continues `within_epoch`,
/// [`TrainError::OtherHeads`] if the number of attention heads differs, and an error if the text is not TOML.
pub(crate) fn warn_of_changes(before: &str, now: &str, within_epoch: bool) -> Result<()> {
    const WITHOUT_EFFECT_ON_RESULT: [&str; 6] =
        ["device", "num_workers", "keep", "finetune", "data_path", "start_epoch"];
    let (before, now) = (Settings::from_toml(before)?, Settings::from_toml(now)?);
    // The position in an epoch is counted in micro-batches, so their size must not change.
    if within_epoch && before.batch_size != now.batch_size {
        return Err(TrainError::OtherBatchSize {
            before: before.batch_size,
            now: now.batch_size,
        });
    }
    let keeps_step = before.samples_per_step() == now.samples_per_step();
    for Change { name, before, now } in with_all_sizes(now).changes(&with_all_sizes(before)) {
        // The same micro-batches, divided among another number of ranks.
        if keeps_step && ["ranks", "accum_iter"].contains(&name.as_str()) {
            continue;
        }
        let text = |value: Option<String>| value.unwrap_or_else(|| "not set".into());
        if name == "heads" {
            let (before, now) = (text(before), text(now));
            return Err(TrainError::OtherHeads { before, now });
        }
        if !WITHOUT_EFFECT_ON_RESULT.contains(&name.as_str()) {
            warn!(
                "{name} was {} when the run began and is {} now",
                text(before),
                text(now)
            );
        }
    }
    Ok(())
}

/// Replaces the name of the model by its sizes, so that the same sizes are the same settings, whether they were named, given or taken from
/// weights.
fn with_all_sizes(mut settings: Settings) -> Settings {
    if let Ok(model) = settings.vit(1) {
        settings.model.clear();
        settings.sizes = Sizes {
            patch_size: Some(model.patch_size),
            width: Some(model.width),
            depth: Some(model.depth),
            heads: Some(model.heads),
            layer_norm_eps: Some(model.layer_norm_eps),
        };
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::published;
    use super::*;

    #[test]
    fn settings_are_distinguished_from_keys() {
        let text = published().to_toml().unwrap();
        assert!(matches!(RunSettings::parse(&text), Ok(RunSettings::Classifier(read)) if *read == published()));
        let keys = Config::default();
        assert!(matches!(RunSettings::parse(&keys.to_toml()), Ok(RunSettings::Keys(read)) if *read == keys));
        assert!(RunSettings::parse(&text.replace("epochs", "epoch")).is_err());
        assert!(!vlct_config::KEYS.iter().any(|key| key.name == "data_path"));
    }

    #[test]
    fn sizes_are_compared_however_they_are_given() {
        let mut given = published();
        given.model = "vit_large_patch16".into();
        given.sizes = Sizes {
            width: Some(768),
            depth: Some(12),
            heads: Some(12),
            ..Sizes::default()
        };
        assert_eq!(with_all_sizes(given.clone()), with_all_sizes(published()));
        given.sizes.heads = Some(6);
        let changes = with_all_sizes(given).changes(&with_all_sizes(published()));
        assert_eq!(changes.len(), 1);
        assert_eq!(
            (changes[0].name.as_str(), changes[0].now.as_deref()),
            ("heads", Some("6"))
        );
    }

    #[test]
    fn another_micro_batch_cannot_be_resumed() {
        let text = |settings: &Settings| toml::to_string(settings).unwrap();
        let mut other = published();
        other.batch_size = 16;
        assert!(warn_of_changes(&text(&published()), &text(&other), true).is_err());
        other.batch_size = 32;
        other.epochs = 120;
        assert!(warn_of_changes(&text(&published()), &text(&other), true).is_ok());
        assert!(warn_of_changes("x", &text(&other), true).is_err());
    }
}
