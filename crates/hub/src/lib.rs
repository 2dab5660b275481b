//! Weights of the Hugging Face Hub: references to repositories, downloads that resume, and the cache of Python's `huggingface_hub`.
//!
//! [`Reference::parse`] recognises the two references, and [`locate`] returns the local path of the weights, after downloading what is
//! missing.

mod cache;
mod client;
mod content;
mod error;
mod event;
mod fetch;
mod listing;
mod reference;
mod selection;
mod settings;
mod tls;
mod transfer;
mod url;

pub use error::HubError;
pub use event::Event;
pub use fetch::{fetch, locate};
pub use reference::{Reference, Repository};
pub use settings::Settings;
