//! Synthetic data: images of coloured shapes with captions, questions and answers, statements about pairs, and classes, in the Arrow
//! files of the real datasets. Compare CLEVR (arXiv 1612.06890) and NLVR.
//!
//! * A [`Scene`] is a function of (seed, index): one to four objects of one to three kinds on a background. Colours, shapes, sizes,
//!   fills, counts and positions are independent and uniform, so a word that names one of them cannot be predicted from its
//!   neighbours; [`TextBaseline`] measures this.
//! * [`render`] draws a scene; [`captions`], [`questions`], [`statements`] and [`class_of`] describe it.
//! * Texts contain neither "left" nor "right", because training mirrors images, which must not make a caption false. For the same
//!   reason, the direction of stripes is not named. "Above", "below", "beside", "in front of" and "behind" are invariant.
//! * A size is named only if either size would have fitted, and a height ("near the top") only if all objects of the kind are clearly in
//!   one third.

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
