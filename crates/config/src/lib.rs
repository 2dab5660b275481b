//! Configuration: the table of keys, the grammar of the command line, and named configs.
//!
//! [`resolve`] turns the words after `with` on the command line into a [`Config`]: it parses literals, applies named configs
//! and checks types and ranges against [`KEYS`]. Printing, help and `config.toml` use the same table. The crate `train` checks that the
//! values of different keys agree. [`launch`] reads the rank of a process from environment variables.

mod error;
mod grammar;
pub mod launch;
mod literal;
mod named_config;
mod print;
mod set;
mod table;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use error::ConfigError;
pub use grammar::{Resolved, resolve};
pub use named_config::{NAMED_CONFIGS, NamedConfig};
pub use print::{help, help_about, named_configs};
pub use table::{AUTO, Config, KEYS, Key};
pub use types::{DecayPower, FastDevRun, KeyType, LossNames, NumGpus, Range, ValCheckInterval, Warmup};
pub use value::Value;
