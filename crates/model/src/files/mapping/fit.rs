//! One tensor of a file against the shape the model has for it.

use std::borrow::Cow;

use super::super::state::StoredTensor;
use super::{AdaptError, CLASSIFIER_HEAD};
use crate::position;

/// The table of modalities: text, image, and for NLVR2 the second image.
const TOKEN_TYPES: &str = "token_type_embeddings.weight";
/// The table of text positions.
const TEXT_POSITIONS: &str = "text_embeddings.position_embeddings.weight";
/// Tables of patch positions, by the last part of their names.
const PATCH_POSITIONS: [&str; 2] = ["pos_embed", "decoder_pos_embed"];

/// A tensor made to fit.
pub(super) enum Fitted {
    /// As it was.
    Same(StoredTensor),
    /// With another shape, and how it came by it.
    Adapted(StoredTensor, String),
    /// Not loaded: a classifier for another number of classes.
    NewHead(String),
}

/// Brings a tensor to the given shape, if a rule says how.
pub(super) fn fit(name: &str, tensor: StoredTensor, shape: &[usize]) -> Result<Fitted, AdaptError> {
    if tensor.shape == shape {
        return Ok(Fitted::Same(tensor));
    }
    let last_part = name.rsplit('.').next().unwrap_or(name);
    match (tensor.shape.as_slice(), shape) {
        (&[1, from, width], &[1, to, wanted]) if PATCH_POSITIONS.contains(&last_part) && width == wanted => {
            let (from_grid, to_grid) = (grid(name, from)?, grid(name, to)?);
            let resized = position::resize(&floating(name, &tensor)?, width, from_grid, to_grid);
            let how = format!("{from_grid}×{from_grid} → {to_grid}×{to_grid} patches");
            Ok(Fitted::Adapted(StoredTensor::f32(shape, resized), how))
        }
        (&[2, width], &[3, wanted]) if name == TOKEN_TYPES && width == wanted => {
            // The second image starts out as another image.
            let mut rows = floating(name, &tensor)?.into_owned();
            rows.extend_from_within(width..);
            let how = "row 2 copied from row 1".to_owned();
            Ok(Fitted::Adapted(StoredTensor::f32(shape, rows), how))
        }
        (&[3, width], &[2, wanted]) if name == TOKEN_TYPES && width == wanted => Ok(Fitted::Adapted(
            first_rows(name, &tensor, shape)?,
            "row 2 left out".to_owned(),
        )),
        (&[from, width], &[to, wanted]) if name == TEXT_POSITIONS && width == wanted && to < from => {
            let how = format!("the first {to} of {from} positions");
            Ok(Fitted::Adapted(first_rows(name, &tensor, shape)?, how))
        }
        (found, _) if CLASSIFIER_HEAD.contains(&name) => {
            let classes = |shape: &[usize]| shape.first().copied().unwrap_or(0);
            Ok(Fitted::NewHead(format!(
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

/// The values in single precision.
pub(super) fn floating<'t>(name: &str, tensor: &'t StoredTensor) -> Result<Cow<'t, [f32]>, AdaptError> {
    tensor.to_f32().ok_or_else(|| AdaptError::NotFloating {
        name: name.to_owned(),
        dtype: tensor.data.dtype(),
    })
}

/// The patches along each side of a table with that many rows, one of them the class token's.
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
    let values = floating(name, tensor)?;
    let count = shape.iter().product::<usize>();
    Ok(StoredTensor::f32(shape, values[..count].to_vec()))
}
