//! Synthetic data: images of coloured shapes with captions, questions and answers, statements about pairs, and classes, written as the
//! Arrow files of the published datasets. CLEVR (arXiv 1612.06890) and NLVR are similar.
//!
//! * A [`Scene`] is a function of (seed, index): one to four objects of one to three kinds on a background. Colours, shapes, sizes,
//!   fills, counts and positions are nearly independent and uniform, so a word for an attribute cannot be predicted from the words
//!   beside it; [`TextBaseline`] measures this.
//! * [`render`] makes the image of a scene; [`captions`], [`questions`], [`Contrast`] and [`class_of`] describe it.
//! * Training mirrors images, and every text must be true of the mirrored image too. Texts therefore do not name left, right or the
//!   direction of stripes.
//! * Texts name a size only if both sizes fit the layout, and a height ("near the top") only if all objects of a kind are clearly in
//!   one third of the image.

mod captions;
mod config;
mod labels;
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
pub use labels::labelled_text;
pub use questions::{QUESTIONS_PER_IMAGE, answers, questions};
pub use render::render;
pub use scene::{Background, BackgroundStyle, Kind, Object, Scene};
pub use statements::{Contrast, STATEMENTS_PER_PAIR, class_of};
pub use text_baseline::TextBaseline;
pub use words::{Colour, Height, Pattern, Relation, Shape, Size, content_words, vocabulary};
pub use write::write;

pub use vlct_data::{DataError, Result};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth;
