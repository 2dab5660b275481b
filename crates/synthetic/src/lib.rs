//! The generated picture world: scenes of coloured shapes, drawn and described.
//!
//! It stands in for real data where none is at hand: pictures with captions, questions and answers, statements about
//! pairs, and classes, written through the same Arrow writers as the real datasets.
//!
//! * A [`Scene`] is drawn from (seed, number) alone: one to four objects of one to three kinds on a background.
//!   Colours, shapes, sizes, fills, counts and places are independent and uniform, so a word that names one of them
//!   cannot be guessed from its neighbours ([`TextBaseline`] measures how far guessing gets).
//! * [`render`] draws it; [`captions`], [`questions`], [`statements`] and [`class_of`] describe it.
//! * Nothing ever says "left" or "right": training mirrors pictures, which must not make a caption false. For the
//!   same reason slanting stripes are just "striped". "Above", "below", "beside", "in front of" and "behind" survive.
//! * A size is named only where either size would have fitted, a height ("near the top") only where all objects of
//!   the kind lie clearly in one third.

mod captions;
mod config;
mod phrases;
mod questions;
mod render;
mod scene;
mod shapes;
mod statements;
mod text_baseline;
mod words;
mod write;

pub use captions::{CAPTIONS_PER_IMAGE, captions};
pub use config::{ImageFormat, SyntheticConfig};
pub use questions::{QUESTIONS_PER_IMAGE, answers, questions};
pub use render::render;
pub use scene::{Backdrop, Background, Kind, Object, Scene};
pub use statements::{STATEMENTS_PER_PAIR, class_of, statements};
pub use text_baseline::TextBaseline;
pub use words::{Colour, Height, Pattern, Relation, Shape, Size, content_words, vocabulary};
pub use write::write;

pub use vlct_data::{DataError, Result};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth;
