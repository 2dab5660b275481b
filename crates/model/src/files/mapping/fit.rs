//! Rules that adapt a tensor of a file to the shape in the model.

use std::borrow::Cow;

use super::super::state::StoredTensor;
use super::{AdaptError, CLASSIFIER_HEAD};
use crate::position;

/// The modality table. Its rows are text, image and, for NLVR2, the second image.
const TOKEN_TYPES: &str = "token_type_embeddings.weight";
/// The table of text positions.
const TEXT_POSITIONS: &str = "text_embeddings.position_embeddings.weight";
/// Last components of the names of patch position tables.
const PATCH_POSITIONS: [&str; 2] = ["pos_embed", "decoder_pos_embed"];

/// The result of [`fit`].
pub(super) enum Fitted {
    /// The unchanged tensor.
    Same(StoredTensor),
    /// A tensor with the shape in the model, and a description of the change.
    Adapted(StoredTensor, String),
    /// No tensor, because the file's tensor belongs to the head of a classifier with another number of classes. The text
    /// describes the difference.
    OtherClasses(String),
}

/// Adapts a tensor to `shape` by the rule for its name.
///
/// # Errors
/// Returns an [`AdaptError`] if no rule applies or the values are not floating-point numbers.
pub(super) fn fit(name: &str, tensor: StoredTensor, shape: &[usize]) -> Result<Fitted, AdaptError> {
    if tensor.shape == shape {
        return Ok(Fitted::Same(tensor));
    }
    let last_part = name.rsplit('.').next().unwrap_or(name);
    match (tensor.shape.as_slice(), shape) {
        (&[1, from, width], &[1, to, model_width]) if PATCH_POSITIONS.contains(&last_part) && width == model_width => {
            let (from_grid, to_grid) = (grid(name, from)?, grid(name, to)?);
            let resized = position::resize(&f32_values(name, &tensor)?, width, from_grid, to_grid);
            let change = format!("{from_grid}×{from_grid} → {to_grid}×{to_grid} patches");
            Ok(Fitted::Adapted(StoredTensor::f32(shape, resized), change))
        }
        (&[2, width], &[3, model_width]) if name == TOKEN_TYPES && width == model_width => {
            // The row of the second image is initialised with that of the first.
            let mut rows = f32_values(name, &tensor)?.into_owned();
            rows.extend_from_within(width..);
            let change = "row 2 copied from row 1".to_owned();
            Ok(Fitted::Adapted(StoredTensor::f32(shape, rows), change))
        }
        (&[3, width], &[2, model_width]) if name == TOKEN_TYPES && width == model_width => Ok(Fitted::Adapted(
            first_rows(name, &tensor, shape)?,
            "row 2 left out".to_owned(),
        )),
        (&[from, width], &[to, model_width]) if name == TEXT_POSITIONS && width == model_width && to < from => {
            let change = format!("the first {to} of {from} positions");
            Ok(Fitted::Adapted(first_rows(name, &tensor, shape)?, change))
        }
        (found, _) if CLASSIFIER_HEAD.contains(&name) => {
            let classes = |shape: &[usize]| shape.first().copied().unwrap_or(0);
            Ok(Fitted::OtherClasses(format!(
                "{} classes instead of {}",
                classes(found),
                classes(shape)
            )))
        }
        (found, expected) => Err(AdaptError::Shape {
            name: name.to_owned(),
            found: found.to_vec(),
            expected: expected.to_vec(),
        }),
    }
}

/// Returns the values in single precision.
pub(super) fn f32_values<'t>(name: &str, tensor: &'t StoredTensor) -> Result<Cow<'t, [f32]>, AdaptError> {
    tensor.to_f32().ok_or_else(|| AdaptError::NotFloating {
        name: name.to_owned(),
        dtype: tensor.data.dtype(),
    })
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

fn first_rows(name: &str, tensor: &StoredTensor, shape: &[usize]) -> Result<StoredTensor, AdaptError> {
    let values = f32_values(name, tensor)?;
    let count = shape.iter().product::<usize>();
    Ok(StoredTensor::f32(shape, values[..count].to_vec()))
}
