//! The types of keys, their conversion from and to a [`Value`], and the ranges of keys.

use std::fmt;

use crate::value::Value;
use serde::{Deserialize, Serialize};
use vlct_data::datasets;
use vlct_image::{Background, Orientation};
use vlct_tensor::Precision;

/// The type of a key.
pub trait KeyType: Sized {
    /// Returns the type's name in help texts and errors.
    fn type_name() -> String;
    /// Converts a [`Value`] to this type. Returns `None` if the value has another type.
    fn from_value(value: &Value) -> Option<Self>;
    /// Converts to a [`Value`]. [`KeyType::from_value`] is the inverse.
    fn to_value(&self) -> Value;
}

impl KeyType for bool {
    fn type_name() -> String {
        "bool".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Bool(*self)
    }
}

/// Returns the value of an int or of a float without fraction, such as `4e3`.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(i) => Some(*i),
        // Up to 2^53, a float represents every integer exactly.
        Value::Float(f) if f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0 => Some(*f as i64),
        _ => None,
    }
}

macro_rules! integer_types {
    ($($type:ty),+) => {$(
        impl KeyType for $type {
            fn type_name() -> String {
                "int".into()
            }
            fn from_value(value: &Value) -> Option<Self> {
                integer(value)?.try_into().ok()
            }
            fn to_value(&self) -> Value {
                // Every value was converted from an i64 or is a base value of the table, so the conversion does not fail.
                Value::Int(i64::try_from(*self).unwrap_or(i64::MAX))
            }
        }
    )+};
}
integer_types!(i64, u64, usize);

impl KeyType for f64 {
    fn type_name() -> String {
        "float".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Float(*self)
    }
}

impl KeyType for String {
    fn type_name() -> String {
        "str".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Str(s) => Some(s.clone()),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::Str(self.clone())
    }
}

impl KeyType for Vec<String> {
    fn type_name() -> String {
        "list of str".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => items.iter().map(String::from_value).collect(),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        Value::List(self.iter().map(KeyType::to_value).collect())
    }
}

/// A value of each channel: red, green and blue.
impl KeyType for [f64; 3] {
    fn type_name() -> String {
        "list of 3 floats".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        let Value::List(items) = value else { return None };
        let numbers: Option<Vec<f64>> = items.iter().map(f64::from_value).collect();
        numbers?.try_into().ok()
    }
    fn to_value(&self) -> Value {
        Value::List(self.map(Value::Float).into())
    }
}

/// The string `"None"` means `None`, because TOML has no null.
impl<T: KeyType> KeyType for Option<T> {
    fn type_name() -> String {
        format!("{} or None", T::type_name())
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            Value::Str(s) if s == "None" => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::None, KeyType::to_value)
    }
}

/// Switches of the tasks, not factors of their losses. A value above 0 adds the task's head to the model, a value of at least 1 also
/// trains and measures the task.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossNames {
    /// Switch of image-text matching with word-patch alignment.
    pub itm: f64,
    /// Switch of masked language modelling.
    pub mlm: f64,
    /// Switch of visual question answering.
    pub vqa: f64,
    /// Switch of natural language for visual reasoning, with two images per sample.
    pub nlvr2: f64,
    /// Switch of image-text retrieval.
    pub irtr: f64,
    /// Switch of masked autoencoding, which is computed together with `mlm` if `use_mae` is set.
    pub mae: f64,
    /// Switch of labels of images with texts.
    pub labels: f64,
}

impl LossNames {
    /// Returns names and switches: those of the published configuration in its order, then `labels`.
    pub fn entries(&self) -> [(&'static str, f64); 7] {
        [
            ("itm", self.itm),
            ("mlm", self.mlm),
            ("vqa", self.vqa),
            ("nlvr2", self.nlvr2),
            ("irtr", self.irtr),
            ("mae", self.mae),
            ("labels", self.labels),
        ]
    }

    /// Returns the tasks that are trained and measured: those whose switch is at least 1.
    pub fn active(&self) -> impl Iterator<Item = &'static str> {
        self.entries().into_iter().filter(|(_, s)| *s >= 1.0).map(|(n, _)| n)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut f64> {
        Some(match name {
            "itm" => &mut self.itm,
            "mlm" => &mut self.mlm,
            "vqa" => &mut self.vqa,
            "nlvr2" => &mut self.nlvr2,
            "irtr" => &mut self.irtr,
            "mae" => &mut self.mae,
            "labels" => &mut self.labels,
            _ => return None,
        })
    }
}

/// An entry that the dictionary lacks is 0.
impl KeyType for LossNames {
    fn type_name() -> String {
        "dict of numbers".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        let Value::Dict(entries) = value else {
            return None;
        };
        let mut switches = Self::default();
        for (name, value) in entries {
            *switches.get_mut(name)? = f64::from_value(value)?;
        }
        Some(switches)
    }
    fn to_value(&self) -> Value {
        let entry = |(name, switch): (&str, f64)| {
            let is_integer = switch.fract() == 0.0 && switch.abs() < 1e15;
            let value = if is_integer {
                Value::Int(switch as i64)
            } else {
                Value::Float(switch)
            };
            (name.to_string(), value)
        };
        Value::Dict(self.entries().map(entry).into())
    }
}

/// Length of the warm-up. An int is a number of optimiser steps, a float is a fraction of all steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Warmup {
    /// Number of optimiser steps.
    Steps(u64),
    /// Fraction of all optimiser steps.
    Fraction(f64),
}

impl KeyType for Warmup {
    fn type_name() -> String {
        "int (steps) or float (fraction of all steps)".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(i) => Some(Self::Steps((*i).try_into().ok()?)),
            Value::Float(f) => Some(Self::Fraction(*f)),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        match self {
            Self::Steps(n) => n.to_value(),
            Self::Fraction(f) => Value::Float(*f),
        }
    }
}

/// Interval between validations. An int is a number of micro-batches, a float is a fraction of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum ValCheckInterval {
    /// Fraction of an epoch.
    Fraction(f64),
    /// Number of micro-batches.
    Batches(u64),
}

impl KeyType for ValCheckInterval {
    fn type_name() -> String {
        "float (fraction of an epoch) or int (micro-batches)".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(i) => Some(Self::Batches((*i).try_into().ok()?)),
            Value::Float(f) => Some(Self::Fraction(*f)),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        match self {
            Self::Batches(n) => n.to_value(),
            Self::Fraction(f) => Value::Float(*f),
        }
    }
}

/// Decay of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum DecayPower {
    /// Polynomial decay with this power: the distance to `end_lr` is proportional to `(1 - progress)^power`. Power 1 is linear.
    Polynomial(f64),
    /// Half a period of a cosine, from the peak to 0.
    Cosine,
}

impl KeyType for DecayPower {
    fn type_name() -> String {
        "number or 'cosine'".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Str(s) if s == "cosine" => Some(Self::Cosine),
            value => f64::from_value(value).map(Self::Polynomial),
        }
    }
    fn to_value(&self) -> Value {
        match self {
            // The published configuration has an int.
            Self::Polynomial(p) if p.fract() == 0.0 && p.abs() < 1e15 => Value::Int(*p as i64),
            Self::Polynomial(p) => Value::Float(*p),
            Self::Cosine => Value::Str("cosine".into()),
        }
    }
}

/// The devices of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum NumGpus {
    /// The number of devices; −1 means all.
    Count(i64),
    /// The ids of the devices.
    List(Vec<i64>),
}

impl NumGpus {
    /// Returns the number of devices; `None` for −1, which means all.
    pub fn count(&self) -> Option<u64> {
        match self {
            Self::Count(n) => (*n).try_into().ok(),
            Self::List(devices) => Some(devices.len() as u64),
        }
    }
}

impl KeyType for NumGpus {
    fn type_name() -> String {
        "int or list of int".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => items.iter().map(i64::from_value).collect::<Option<_>>().map(Self::List),
            value => i64::from_value(value).map(Self::Count),
        }
    }
    fn to_value(&self) -> Value {
        match self {
            Self::Count(n) => Value::Int(*n),
            Self::List(devices) => Value::List(devices.iter().map(|d| Value::Int(*d)).collect()),
        }
    }
}

/// Number of batches of a trial run: `False` is 0 and means no trial run, `True` is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FastDevRun(pub u64);

impl KeyType for FastDevRun {
    fn type_name() -> String {
        "bool or int".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(Self(u64::from(*b))),
            value => u64::from_value(value).map(Self),
        }
    }
    fn to_value(&self) -> Value {
        match self.0 {
            0 => Value::Bool(false),
            1 => Value::Bool(true),
            n => n.to_value(),
        }
    }
}

/// Both `16` and `'bf16'` mean bfloat16.
impl KeyType for Precision {
    fn type_name() -> String {
        "32, 16 or 'bf16'".into()
    }
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(32) => Some(Self::F32),
            Value::Int(16) => Some(Self::Bf16),
            Value::Str(s) if s == "32" => Some(Self::F32),
            Value::Str(s) if s == "16" || s == "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }
    fn to_value(&self) -> Value {
        match self {
            Self::F32 => Value::Int(32),
            Self::Bf16 => Value::Str("bf16".into()),
        }
    }
}

/// Implements keys whose values are texts with `FromStr` and `Display`.
macro_rules! text_keys {
    ($($type:ty: $name:literal),+ $(,)?) => {$(
        impl KeyType for $type {
            fn type_name() -> String {
                $name.into()
            }
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::Str(text) => text.parse().ok(),
                    _ => None,
                }
            }
            fn to_value(&self) -> Value {
                Value::Str(self.to_string())
            }
        }
    )+};
}

text_keys! {
    Background: "'keep', 'white', 'black' or '#rrggbb'",
    Orientation: "'upright' or 'as_stored'",
}

/// The allowed values of a key. For a list, every element must be allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Range {
    /// All values; floats must be finite.
    Any,
    /// An interval.
    Numbers {
        /// Lower end.
        low: f64,
        /// Whether the lower end is allowed.
        low_included: bool,
        /// Upper end.
        high: f64,
        /// Whether the upper end is allowed.
        high_included: bool,
    },
    /// A float from 0 to 1, or an int of at least `least`.
    FractionOrCount {
        /// The smallest int. If it is above 0, the float 0.0 is not allowed.
        least: i64,
    },
    /// A string that is one of these words.
    OneOf(&'static [&'static str]),
    /// A string that is one of these words or the name of a custom dataset.
    OneOfOrName(&'static [&'static str]),
}

/// The range of values of at least `low`.
pub(crate) const fn at_least(low: f64) -> Range {
    Range::Numbers {
        low,
        low_included: true,
        high: f64::INFINITY,
        high_included: false,
    }
}

/// The range from `low` to `high`, both included.
pub(crate) const fn between(low: f64, high: f64) -> Range {
    Range::Numbers {
        low,
        low_included: true,
        high,
        high_included: true,
    }
}

/// The range of values above `low`.
pub(crate) const fn above(low: f64) -> Range {
    Range::Numbers {
        low,
        low_included: false,
        high: f64::INFINITY,
        high_included: false,
    }
}

/// The range from `low`, included, to `high`, excluded.
pub(crate) const fn half_open(low: f64, high: f64) -> Range {
    Range::Numbers {
        low,
        low_included: true,
        high,
        high_included: false,
    }
}

impl Range {
    /// Whether the value is in the range. Values of other types, such as text for an interval, count as allowed: the type is checked
    /// separately.
    pub fn allows(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::List(items)) => items.iter().all(|v| self.allows(v)),
            (_, Value::Float(f)) if !f.is_finite() => false,
            (Range::FractionOrCount { least }, Value::Int(i)) => i >= least,
            (Range::FractionOrCount { least }, Value::Float(f)) => {
                *f <= 1.0 && (*f > 0.0 || (*f == 0.0 && *least == 0))
            }
            (Range::OneOf(words), Value::Str(s)) => words.contains(&s.as_str()),
            (Range::OneOfOrName(words), Value::Str(s)) => words.contains(&s.as_str()) || datasets::is_custom_name(s),
            (
                Range::Numbers {
                    low,
                    low_included,
                    high,
                    high_included,
                },
                value,
            ) => {
                let Some(number) = f64::from_value(value) else {
                    return true;
                };
                (number > *low || (*low_included && number == *low))
                    && (number < *high || (*high_included && number == *high))
            }
            _ => true,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Range::Any => f.write_str("any value"),
            Range::Numbers {
                low,
                low_included,
                high,
                high_included,
            } => {
                write!(f, "{} {low}", if *low_included { "at least" } else { "above" })?;
                match (high.is_infinite(), high_included) {
                    (true, _) => Ok(()),
                    (false, true) => write!(f, " and at most {high}"),
                    (false, false) => write!(f, " and below {high}"),
                }
            }
            Range::FractionOrCount { least: 0 } => f.write_str("a float from 0.0 to 1.0 or an int of at least 0"),
            Range::FractionOrCount { least } => {
                write!(f, "a float above 0.0 and at most 1.0, or an int of at least {least}")
            }
            Range::OneOf(words) => write!(f, "one of {}", words.join(", ")),
            Range::OneOfOrName(words) => write!(
                f,
                "one of {}, or the name of a custom dataset (letters, digits, - and _)",
                words.join(", ")
            ),
        }
    }
}
