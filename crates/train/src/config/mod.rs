//! Configuration: one table of keys, the command grammar, recipes.
//!
//! The way of a configuration: words after `with` → [`resolve`] (literals, named configs, precedence; types and ranges
//! against [`KEYS`]) → [`Config`] → [`validate`](crate::spec::validate) (do the values agree?) → [`Plan`](crate::plan::Plan) (steps, epochs, validations,
//! once the number of batches is known). Printing, help text and `config.toml` are made from the same table.

mod error;
mod grammar;
mod literal;
mod print;
mod recipes;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod update;
mod value;

pub use error::ConfigError;
pub use grammar::{Resolved, resolve};
pub use literal::{parse, parse_literal};
pub use print::{help, help_about, named_configs};
pub use recipes::{RECIPES, Recipe};
pub use table::{AUTO, Config, KEYS, Key};
pub use types::{DecayPower, FastDevRun, KeyType, LossNames, NumGpus, Range, ValCheckInterval, Warmup};
pub use value::Value;
