//! Predictions of a model for image files and texts.
//!
//! ```text
//! checkpoint ──▶ Predictor (model, Preparation)
//! image file, text ── Preparation ──▶ Item ── Vqa, Matching, Nlvr2, … ──▶ logits ──▶ answers with scores
//!                     (loader threads)
//! ```
//!
//! [`Predictor::open`] reads a checkpoint of a run, a published checkpoint or any other weight file, and derives from it all that is needed:
//! sizes, names of answers, the tokenizer. Each task is a type that is made of a predictor and maps prepared inputs to logits. [`batches`]
//! prepares many inputs on threads, ahead of the model.

pub mod batches;
pub mod classify;
pub mod clusters;
pub mod error;
pub mod features;
pub mod fill;
pub mod head;
pub mod images;
pub mod item;
pub mod matching;
pub mod nlvr2;
pub mod npy;
pub mod open;
pub mod overlay;
pub mod preparation;
pub mod probes;
pub mod records;
pub mod retrieve;
pub mod scores;
pub mod similarities;
pub mod vqa;

pub use error::{PredictError, Result};
pub use head::Head;
pub use item::{Item, PairItem};
pub use open::{OpenOptions, Predictor, compute};
pub use preparation::Preparation;
pub use records::Record;
pub use scores::Scored;
