//! Rules that adapt a tensor of a file to the shape in the model.

use super::super::TensorView;
use super::super::state::Dtype;
use super::{AdaptError, CLASSIFIER_HEAD};
use crate::position;

/// The modality table. Its rows are text, image and, for NLVR2, the second image.
const TOKEN_TYPES: &str = "token_type_embeddings.weight";
/// The table of text positions.
const TEXT_POSITIONS: &str = "text_embeddings.position_embeddings.weight";
/// Last components of the names of patch position tables.
const PATCH_POSITIONS: [&str; 2] = ["pos_embed", "decoder_pos_embed"];

/// How the values of a parameter are made from those of a tensor of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The same values.
    Same,
    /// The first values.
    First,
    /// The second half of the values: row 1 of two rows.
    SecondHalf,
    /// All values, then the last `width` values again.
    RepeatLast {
        /// Number of repeated values.
        width: usize,
    },
    /// A table of patch positions, resized.
    ResizePositions {
        /// Width of the table.
        width: usize,
        /// Number of patches per side in the file.
        from: usize,
        /// Number of patches per side in the model.
        to: usize,
    },
}

impl Fit {
    /// Writes the values of the parameter, which are made from a tensor of floating-point numbers, to `out`. Returns whether all are finite.
    ///
    /// # Panics
    /// Panics if the tensor has integers, or its shape is not one for which [`rule`] returned this value.
    pub(crate) fn read(self, tensor: &TensorView, out: &mut [f32]) -> bool {
        let is_finite = if self == Self::Same {
            tensor.read_f32(out)
        } else {
            let mut values = vec![0.0; tensor.shape().iter().product()];
            let is_finite = tensor.read_f32(&mut values);
            self.write(&values, out);
            is_finite
        };
        is_finite.unwrap_or_else(|| unreachable!("the types were checked"))
    }

    /// Writes the values of the parameter, which are made from `values`, to `out`.
    ///
    /// # Panics
    /// Panics if the lengths are not those of the shapes for which [`rule`] returned this value.
    pub(crate) fn write(self, values: &[f32], out: &mut [f32]) {
        match self {
            Self::Same => out.copy_from_slice(values),
            Self::First => out.copy_from_slice(&values[..out.len()]),
            Self::SecondHalf => out.copy_from_slice(&values[values.len() / 2..]),
            Self::RepeatLast { width } => {
                let (first, last) = out.split_at_mut(values.len());
                first.copy_from_slice(values);
                last.copy_from_slice(&values[values.len() - width..]);
            }
            Self::ResizePositions { width, from, to } => {
                out.copy_from_slice(&position::resize(values, width, from, to))
            }
        }
    }
}

/// The result of [`rule`].
pub(super) enum Rule {
    /// The tensor has the shape in the model.
    Same,
    /// The tensor is adapted. The text describes the change.
    Adapted(Fit, String),
    /// The tensor is not loaded, because it belongs to the head of a classifier with another number of classes. The text describes the
    /// difference.
    OtherClasses(String),
}

/// Returns the rule that adapts a tensor of shape `found` to `shape`.
///
/// # Errors
/// Returns an [`AdaptError`] if no rule applies or the values of a tensor to adapt are not floating-point numbers.
pub(super) fn rule(name: &str, found: &[usize], dtype: Dtype, shape: &[usize]) -> Result<Rule, AdaptError> {
    if found == shape {
        return Ok(Rule::Same);
    }
    let last_part = name.rsplit('.').next().unwrap_or(name);
    let (fit, change) = match (found, shape) {
        (&[1, from, width], &[1, to, model_width]) if PATCH_POSITIONS.contains(&last_part) && width == model_width => {
            let (from, to) = (grid(name, from)?, grid(name, to)?);
            let change = format!("{from}×{from} → {to}×{to} patches");
            (Fit::ResizePositions { width, from, to }, change)
        }
        // The row of the second image is initialised with that of the first.
        (&[2, width], &[3, model_width]) if name == TOKEN_TYPES && width == model_width => {
            (Fit::RepeatLast { width }, "row 2 copied from row 1".to_owned())
        }
        (&[3, width], &[2, model_width]) if name == TOKEN_TYPES && width == model_width => {
            (Fit::First, "row 2 left out".to_owned())
        }
        (&[from, width], &[to, model_width]) if name == TEXT_POSITIONS && width == model_width && to < from => {
            (Fit::First, format!("the first {to} of {from} positions"))
        }
        (found, _) if CLASSIFIER_HEAD.contains(&name) => {
            let classes = |shape: &[usize]| shape.first().copied().unwrap_or(0);
            return Ok(Rule::OtherClasses(format!(
                "{} classes instead of {}",
                classes(found),
                classes(shape)
            )));
        }
        (found, expected) => {
            return Err(AdaptError::Shape {
                name: name.to_owned(),
                found: found.to_vec(),
                expected: expected.to_vec(),
            });
        }
    };
    if !dtype.is_floating() {
        return Err(AdaptError::NotFloating {
            name: name.to_owned(),
            dtype,
        });
    }
    Ok(Rule::Adapted(fit, change))
}

/// Returns the number of patches per side of a position table with `rows` rows; the first row is that of the class token.
fn grid(name: &str, rows: usize) -> Result<usize, AdaptError> {
    let patches = rows.saturating_sub(1);
    let side = patches.isqrt();
    if side == 0 || side * side != patches {
        return Err(AdaptError::NotSquare {
            name: name.to_owned(),
            rows,
        });
    }
    Ok(side)
}
