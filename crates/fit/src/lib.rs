//! Chooses the configuration of a pre-training run for a dataset: sizes of the model, batch, learning rate, warm-up, number of steps and
//! validation, from the number of captions, the speed of this machine, and the time that the run may take.
//!
//! The recipe `own_data` has what does not depend on these. Every key that the user gives stays as it is.

mod facts;
mod given;
mod sizes;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use indicatif::HumanCount;
use log::warn;
use vlct_model::files;
use vlct_text::Tokenizer;
use vlct_util::text::counted;

use vlct_config::{Config, Value, resolve};
use vlct_logs::duration_text;
use vlct_tasks::texts::CutTexts;
use vlct_train::error::Result;
use vlct_train::trainer::{self, Threads};
use vlct_train::vocabulary;
use vlct_train::weights;

pub use facts::{Divisible, Facts};
pub use given::take_sizes;
use given::{WeightSizes, config_of_weights, given_keys, sizes_of_weights};
use sizes::{Candidate, FROM_SCRATCH, FROM_WEIGHTS};

/// Largest number of samples per optimiser step that is chosen.
const BATCH: u64 = 64;
/// Smallest number of optimiser steps of an epoch, if the batch can be small enough.
const STEPS_PER_EPOCH: u64 = 8;
/// Smallest number of samples per optimiser step that is chosen: with fewer, a step has too few pairs for a useful gradient of matching.
const MIN_BATCH: u64 = 16;
/// Largest number of epochs that is chosen: after more, the small model only memorises.
const MAX_EPOCHS: u64 = 200;
/// Share of the time for training; the rest is for validations, checkpoints and the slower moments of a machine.
const TRAINING_SHARE: f64 = 0.88;
/// Number of validations of a run.
const VALIDATIONS: u64 = 20;
/// Largest share of the training time for validations.
const VALIDATION_SHARE: f64 = 0.05;
/// Share of the images that is held out if there are no validation files.
const HELD_OUT: f64 = 0.1;
/// Smallest number of images that is held out of a small dataset: with fewer, an accuracy is chance.
const MIN_HELD_OUT: f64 = 20.0;
/// Largest share of the images that is held out of a small dataset.
const MAX_HELD_OUT_SHARE: f64 = 0.25;
/// Largest number of images that is held out.
const MAX_HELD_OUT: f64 = 1000.0;
/// Warm-up as a share of the run.
const WARMUP: f64 = 0.1;
/// Longest warm-up in epochs.
const MAX_WARMUP_EPOCHS: u64 = 20;
/// Seconds between checkpoints.
const CHECKPOINT_SECONDS: f64 = 300.0;
/// Number of captions below which little of what is learned holds for other images.
const FEW_CAPTIONS: u64 = 1000;
/// Smallest value of `vocab_size`.
const MIN_VOCABULARY: usize = 104;
/// What was measured with few captions (docs/own-data.md).
const MEASURED_RESULTS: &str = "On generated images with simple captions, 200 captions reached about 80 % in matching other images (chance: \
                                50 %), 2,000 captions 95 %; with photographs and free captions expect less";
/// Number of samples below which a model that begins with random weights has not learned to match.
const FEW_SAMPLES: u64 = 50_000;
/// Number of tokens of a word above which a vocabulary of the captions is suggested.
const MANY_TOKENS: f64 = 1.8;
/// Fraction of unknown words above which a vocabulary of the captions is suggested.
const MANY_UNKNOWN: f64 = 0.01;

/// Values that were chosen together, with the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Keys and values.
    pub values: Vec<(&'static str, Value)>,
    /// Why, in a few words.
    pub reason: String,
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values: Vec<String> = self
            .values
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        write!(f, "{}\n    {}", values.join(" "), self.reason)
    }
}

/// A configuration and how it was chosen.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The configuration.
    pub config: Config,
    /// What the data are.
    pub facts: Facts,
    /// Number of captions that the run validates on.
    pub validation_captions: u64,
    /// What was chosen and why, in the order of the decisions.
    pub choices: Vec<Choice>,
    /// What to expect of the run and what would make it better.
    pub remarks: Vec<Remark>,
}

/// What to expect of a run, or what would make it better.
#[derive(Clone, Debug, PartialEq)]
pub enum Remark {
    /// Little of what is learned will hold for other images.
    FewCaptions {
        /// Number of captions that the run trains on.
        captions: u64,
    },
    /// The run is too short to learn to match images and captions.
    FewSamples {
        /// Number of samples of the run.
        samples: u64,
        /// Time in which the run would have enough samples, in seconds.
        seconds_needed: f64,
    },
    /// The model begins with random weights.
    RandomWeights,
    /// The vocabulary does not suit the captions.
    OtherVocabulary {
        /// Mean number of tokens of a word.
        tokens_per_word: f64,
        /// Fraction of the words that are unknown.
        unknown_words: f64,
    },
    /// The model reads only the beginnings of some captions.
    CutTexts(CutTexts),
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FewCaptions { captions } => write!(
                f,
                "{} few: most of what is learned will hold for these images only. {MEASURED_RESULTS}. More images, several \
                 captions for each, or the weights of a trained model (load_path=RUN) help",
                match captions {
                1 => "1 caption is".to_string(),
                captions => format!("{} captions are", HumanCount(*captions)),
            }
            ),
            Self::FewSamples {
                samples,
                seconds_needed,
            } => write!(
                f,
                "in this time the model sees {}; to learn to match images and captions, it needs some {}, which take about {}",
                counted(HumanCount(*samples), "sample"),
                HumanCount(FEW_SAMPLES),
                duration_text(*seconds_needed)
            ),
            Self::RandomWeights => f.write_str(
                "the model begins with random weights. With MAE weights (pretrain_path=mae_pretrain_vit_base_full.pth), the base model knows \
                 photographs already; its steps take far longer",
            ),
            Self::OtherVocabulary {
                tokens_per_word,
                unknown_words,
            } => write!(
                f,
                "the vocabulary of English divides a word of these captions into {tokens_per_word:.1} tokens, and {:.1} % of the words are \
                 unknown: a vocabulary of the captions suits them better",
                100.0 * unknown_words
            ),
            Self::CutTexts(cut) => write!(f, "{cut}"),
        }
    }
}

/// The choice in progress.
struct Chooser<'a> {
    config: Config,
    /// Keys that the user has set.
    given: HashSet<String>,
    facts: Facts,
    choices: Vec<Choice>,
    stop: &'a AtomicBool,
}

/// Chooses the configuration of a run that takes about `hours`, or that has `max_steps` optimiser steps if the user sets this key.
/// `words` are words of `vlct run with`, which replace what would be chosen; they contain `data_root` and `datasets`. Measures the speed
/// of this machine. Returns `None` if `stop` is set before the end.
///
/// # Errors
/// Returns an error if a word is wrong, or data or weights cannot be read.
pub fn fit(words: &[String], hours: f64, stop: &AtomicBool) -> Result<Option<Fit>> {
    let words: Vec<&str> = std::iter::once("own_data")
        .chain(words.iter().map(String::as_str))
        .collect();
    let config = resolve(&words)?.config;
    trainer::use_threads(Threads::from_config(&config))?;
    // An unsuitable file is an error now, not after the measurements.
    let weights = sizes_of_weights(&config)?;
    let facts = Facts::read(&config)?;
    let mut chooser = Chooser {
        given: given_keys(&words[1..])?,
        config,
        facts,
        choices: Vec::new(),
        stop,
    };
    chooser.choose_validation()?;
    chooser.choose_text(weights)?;
    chooser.check_vocabulary()?;
    let Some(seconds) = chooser.choose_model(hours)? else {
        return Ok(None);
    };
    chooser.choose_length(seconds, hours)?;
    let remarks = chooser.remarks(seconds);
    let validation_captions = chooser.validation_captions();
    let Chooser {
        config, facts, choices, ..
    } = chooser;
    Ok(Some(Fit {
        config,
        facts,
        validation_captions,
        choices,
        remarks,
    }))
}

impl Chooser<'_> {
    /// Sets the values whose keys the user has not set, and records them with the reason.
    fn choose(&mut self, values: Vec<(&'static str, Value)>, reason: String) -> Result<()> {
        let values: Vec<_> = values
            .into_iter()
            .filter(|(key, _)| !self.given.contains(*key))
            .collect();
        for (key, value) in &values {
            self.config.set(key, value)?;
        }
        if !values.is_empty() {
            self.choices.push(Choice { values, reason });
        }
        Ok(())
    }

    fn is_given(&self, key: &str) -> bool {
        self.given.contains(key)
    }

    /// Whether the run begins with weights of the published sizes.
    fn has_weights(&self) -> bool {
        !self.config.load_path.is_empty() || !self.config.pretrain_path.is_empty()
    }

    /// Holds out images of the datasets without validation files.
    fn choose_validation(&mut self) -> Result<()> {
        let Divisible { names, images, .. } = &self.facts.divisible;
        let all = *images as f64;
        let fraction = (MIN_HELD_OUT / all)
            .clamp(HELD_OUT, MAX_HELD_OUT_SHARE)
            .min(MAX_HELD_OUT / all);
        // Image-text matching needs two.
        if names.is_empty() || all * fraction < 2.0 {
            return Ok(());
        }
        // Three digits suffice, and are readable.
        let fraction = (fraction * 1e3).ceil() / 1e3;
        let reason = format!(
            "{}: about {} of {} images are held out",
            match names.len() == self.config.datasets.len() {
                true => "there are no validation files".into(),
                false => format!("no validation files of {}", names.join(", ")),
            },
            HumanCount((all * fraction) as u64),
            HumanCount(*images)
        );
        self.choose(vec![("val_fraction", Value::Float(fraction))], reason)
    }

    /// Number of captions that are held out of the training files.
    fn held_out_captions(&self) -> u64 {
        (self.facts.divisible.captions as f64 * self.config.val_fraction) as u64
    }

    /// Number of captions that the run trains on.
    fn training_captions(&self) -> u64 {
        (self.facts.captions - self.held_out_captions()).max(1)
    }

    /// Number of captions that the run validates on.
    fn validation_captions(&self) -> u64 {
        self.facts.validation_captions + self.held_out_captions()
    }

    /// Chooses the longest text, and the size of the vocabulary if the user names one. `weights` are the sizes of the model in
    /// `load_path`.
    fn choose_text(&mut self, weights: WeightSizes) -> Result<()> {
        let load_path = self.config.load_path.clone();
        if let Some(run) = config_of_weights(&load_path) {
            let reason = format!("as in the run {load_path}");
            return self.choose(sizes::sizes_of_run(&run), reason);
        }
        let has_vocabulary = weights.known.iter().any(|(key, _)| *key == "vocab_size");
        weights.assumptions.iter().for_each(|assumption| warn!("{assumption}"));
        self.choose(weights.known, format!("as in {load_path}"))?;
        self.choose(
            weights.assumed,
            format!("assumed from the width, because {load_path} does not state it"),
        )?;
        // A model that was trained with 40 tokens keeps its table of positions.
        if load_path.is_empty() {
            let tokens = self.facts.texts.most();
            let length = tokens.next_multiple_of(8).clamp(16, 128);
            self.choose(
                vec![("max_text_len", Value::Int(length as i64))],
                format!("99 % of the captions have at most {tokens} tokens"),
            )?;
        }
        if self.is_given("tokenizer") && !has_vocabulary {
            let tokens = Tokenizer::named(&self.config.tokenizer)?.len();
            self.choose(
                vec![("vocab_size", Value::Int(tokens.max(MIN_VOCABULARY) as i64))],
                format!("the tokens of {}", self.config.tokenizer),
            )?;
        }
        Ok(())
    }

    /// Returns an error if the weights of `load_path` were trained with another vocabulary.
    fn check_vocabulary(&self) -> Result<()> {
        let is_gone = vocabulary::is_gone(&self.config.tokenizer);
        if self.config.load_path.is_empty() || self.config.load_partial || is_gone {
            return Ok(());
        }
        let file = files::map(Path::new(&self.config.load_path))?;
        // The run repeats the warning.
        weights::compare_vocabularies(file.path(), &files::index(&file)?, &self.config.tokenizer)?;
        Ok(())
    }

    /// Chooses the largest model for which time and captions suffice, with its batch and learning rate. Returns the measured seconds of an
    /// optimiser step, or `None` if the stop flag is set.
    fn choose_model(&mut self, hours: f64) -> Result<Option<f64>> {
        // A given width or backbone is a model of its own; other given sizes replace those of a candidate.
        let has_sizes = self.is_given("vit")
            || self.is_given("hidden_size")
            || self
                .choices
                .iter()
                .any(|choice| choice.values.iter().any(|(key, _)| *key == "hidden_size"));
        let candidates: &[Candidate] = match self.has_weights() {
            true => &FROM_WEIGHTS,
            false => &FROM_SCRATCH,
        };
        let candidates = if has_sizes { &candidates[..1] } else { candidates };
        let mut best = None;
        for candidate in candidates {
            let batch = self.batch_size(candidate);
            let mut trial = self.config.clone();
            let sizes = match has_sizes {
                true => Vec::new(),
                false => candidate.keys(self.facts.side),
            };
            for (key, value) in batch.iter().chain(&sizes).filter(|(key, _)| !self.is_given(key)) {
                trial.set(key, value)?;
            }
            let Some(seconds) = trainer::seconds_per_step(&trial, self.stop)? else {
                return Ok(None);
            };
            // A batch that is larger than the data is an epoch.
            let in_step = trial.batch_size.min(self.training_captions());
            let seconds = seconds * in_step as f64 / trial.batch_size as f64;
            let samples = self.steps(seconds, hours) * in_step;
            if best.is_some() && !candidate.suits(self.training_captions(), samples) {
                break;
            }
            best = Some((candidate, seconds, samples));
        }
        let Some((candidate, seconds, samples)) = best else {
            unreachable!("there is at least one candidate");
        };
        if !has_sizes {
            let captions = self.training_captions();
            self.choose(
                candidate.keys(self.facts.side),
                format!(
                    "model `{}`: the largest for {} and about {} samples, which this machine trains in that time",
                    candidate.name,
                    counted(HumanCount(captions), "caption"),
                    rounded(samples)
                ),
            )?;
        }
        let batch = self.batch_size(candidate);
        self.choose(
            batch,
            format!(
                "{} per epoch; a step takes {} on this machine (measured)",
                counted(self.steps_per_epoch_with(self.batch_of()), "optimiser step"),
                duration_text(seconds)
            ),
        )?;
        // The rate is proportional to the square root of the batch, which is the usual rule for Adam.
        let in_step = self.config.batch_size.min(self.training_captions());
        let rate = candidate.learning_rate * (in_step as f64 / BATCH as f64).sqrt();
        self.choose(
            vec![("learning_rate", Value::Float(two_digits(rate)))],
            format!("for this model and batches of {}", self.config.batch_size),
        )?;
        Ok(Some(seconds))
    }

    /// Returns the keys of the batch with their values.
    fn batch_size(&self, candidate: &Candidate) -> Vec<(&'static str, Value)> {
        let batch = self.batch_of();
        vec![
            ("batch_size", Value::Int(batch as i64)),
            ("per_gpu_batchsize", Value::Int(batch.min(candidate.micro_batch) as i64)),
        ]
    }

    /// Returns the samples per optimiser step.
    fn batch_of(&self) -> u64 {
        let largest = (self.training_captions() / STEPS_PER_EPOCH).clamp(MIN_BATCH, BATCH);
        match self.is_given("batch_size") {
            true => self.config.batch_size,
            false => 1 << largest.ilog2(),
        }
    }

    fn steps_per_epoch_with(&self, batch: u64) -> u64 {
        self.training_captions().div_ceil(batch)
    }

    /// Returns the number of optimiser steps that the user sets by `max_steps` or `max_epoch`.
    fn given_steps(&self) -> Option<u64> {
        match self.config.max_steps {
            Some(steps) if self.is_given("max_steps") => Some(steps),
            _ if self.is_given("max_epoch") || self.is_given("max_steps") => {
                Some(self.config.max_epoch * self.steps_per_epoch_with(self.config.batch_size))
            }
            _ => None,
        }
    }

    /// Returns the number of optimiser steps in the time of the run, or the number that the user sets.
    fn steps(&self, seconds: f64, hours: f64) -> u64 {
        self.given_steps()
            .unwrap_or(((3600.0 * hours * TRAINING_SHARE / seconds) as u64).max(1))
    }

    /// Chooses the number of steps, the warm-up, the validations and the checkpoints.
    fn choose_length(&mut self, seconds: f64, hours: f64) -> Result<()> {
        let captions = self.training_captions();
        let steps_per_epoch = self.steps_per_epoch_with(self.config.batch_size);
        let affordable = self.steps(seconds, hours);
        let limit = match self.given_steps() {
            Some(steps) => steps,
            None => affordable.min(MAX_EPOCHS * steps_per_epoch),
        };
        // The run ends with a validation.
        let epochs = limit / steps_per_epoch;
        let every = (epochs / VALIDATIONS).max(1);
        let steps = match epochs / every * every * steps_per_epoch {
            0 => limit,
            whole => whole,
        };
        let length = |steps: u64| match steps as f64 / steps_per_epoch as f64 {
            e if e < 10.0 => format!("{e:.1} epochs"),
            e => format!("{e:.0} epochs"),
        };
        let reason = match affordable > limit {
            true => format!(
                "{}: more would only memorise {}; about {} instead of {}",
                length(steps),
                counted(HumanCount(captions), "caption"),
                duration_text(steps as f64 * seconds / TRAINING_SHARE),
                duration_text(3600.0 * hours)
            ),
            false => format!(
                "{}, about {} with validations",
                length(steps),
                duration_text(steps as f64 * seconds / TRAINING_SHARE)
            ),
        };
        self.choose(vec![("max_steps", Value::Int(steps as i64))], reason)?;
        let steps = self.given_steps().unwrap_or(steps);

        let warmup = ((steps as f64 * WARMUP) as u64).min(MAX_WARMUP_EPOCHS * steps_per_epoch);
        self.choose(
            vec![("warmup_steps", Value::Int(warmup as i64))],
            format!("a tenth of the run, and at most {MAX_WARMUP_EPOCHS} epochs"),
        )?;

        let validation_batches = self.validation_captions().div_ceil(self.config.per_gpu_batchsize);
        if validation_batches > 0 {
            let fraction = match epochs {
                // The run ends within its first epoch, with a validation.
                0 => steps as f64 / steps_per_epoch as f64,
                epochs if epochs < VALIDATIONS => (epochs as f64 / VALIDATIONS as f64).max(0.05),
                _ => 1.0,
            };
            // A batch of a validation takes a third of a batch of training.
            let grad_steps = self.config.batch_size / self.config.per_gpu_batchsize;
            let affordable = 3.0 * VALIDATION_SHARE * (steps * grad_steps) as f64 / VALIDATIONS as f64;
            let limit = (affordable as u64).max(1);
            let limit = if limit >= validation_batches { 0 } else { limit };
            self.choose(
                vec![
                    ("check_val_every_n_epoch", Value::Int(every as i64)),
                    ("val_check_interval", Value::Float(fraction)),
                    ("limit_val_batches", Value::Int(limit as i64)),
                ],
                format!(
                    "about {VALIDATIONS} validations, which take at most {:.0} % of the time",
                    100.0 * VALIDATION_SHARE
                ),
            )?;
        }
        let every = ((CHECKPOINT_SECONDS / seconds) as u64).max(1);
        self.choose(
            vec![("checkpoint_every", Value::Int(every as i64))],
            format!("a checkpoint every {}", duration_text(CHECKPOINT_SECONDS)),
        )?;
        Ok(())
    }

    /// Returns what to expect and what would help. `seconds` is the time of an optimiser step.
    fn remarks(&self, seconds: f64) -> Vec<Remark> {
        let mut remarks = Vec::new();
        let captions = self.training_captions();
        let in_step = self.config.batch_size.min(captions);
        let samples = self.given_steps().or(self.config.max_steps).unwrap_or_default() * in_step;
        // With more epochs, the model would only memorise.
        let is_complete = samples / captions >= MAX_EPOCHS - 1;
        if captions < FEW_CAPTIONS && self.config.load_path.is_empty() {
            remarks.push(Remark::FewCaptions { captions });
        }
        if !self.has_weights() {
            if samples < FEW_SAMPLES && !is_complete {
                let steps = FEW_SAMPLES as f64 / in_step as f64;
                remarks.push(Remark::FewSamples {
                    samples,
                    seconds_needed: steps * seconds / TRAINING_SHARE,
                });
            }
            remarks.push(Remark::RandomWeights);
        }
        if self.config.tokenizer == "bert-base-uncased"
            && (self.facts.texts.tokens_per_word > MANY_TOKENS || self.facts.texts.unknown_words > MANY_UNKNOWN)
        {
            remarks.push(Remark::OtherVocabulary {
                tokens_per_word: self.facts.texts.tokens_per_word,
                unknown_words: self.facts.texts.unknown_words,
            });
        }
        remarks.extend(self.facts.texts.cut(self.config.max_text_len).map(Remark::CutTexts));
        remarks
    }
}

/// Rounds a number to two significant digits.
fn two_digits(value: f64) -> f64 {
    format!("{value:.1e}").parse().unwrap_or(value)
}

/// Formats a number of samples with two significant digits.
fn rounded(samples: u64) -> HumanCount {
    HumanCount(two_digits(samples as f64) as u64)
}
