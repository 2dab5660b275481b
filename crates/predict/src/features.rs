//! Features of images and texts: the values of the last layer.

use vlct_model::files::StoredTensor;
use vlct_tensor::Tape;

use crate::Predictor;
use crate::item::{Item, rows, with_inputs};

/// A kind of features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The pooled feature of the text with its image, `[width]`.
    Pooled,
    /// A feature of each token of the text, from `[CLS]` to `[SEP]`, `[tokens, width]`.
    Text,
    /// A feature of each patch of the image in row-major order, without the class token, `[patches, width]`. Missing without an image.
    Patches,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Pooled, Self::Text, Self::Patches];

    /// Returns the name of the tensor.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pooled => "pooled",
            Self::Text => "text",
            Self::Patches => "patches",
        }
    }
}

/// Computes features of items, for each item those of `kinds` that it has.
pub fn features(predictor: &Predictor, items: &[Item], kinds: &[Kind]) -> Vec<Vec<(Kind, StoredTensor)>> {
    let model = predictor.model();
    let tape = Tape::inference(model.compute());
    let encoded = with_inputs(items, |inputs| model.encode(&tape, inputs, None));
    let width = encoded.features.columns();
    let values = encoded.features.tensor().to_host();
    let pooled = rows(&model.pool(&tape, &encoded, 0..items.len()));
    let matrix = |rows: std::ops::Range<usize>| {
        let values = values[rows.start * width..rows.end * width].to_vec();
        StoredTensor::f32([rows.len(), width], values)
    };
    let feature = |i: usize, kind: Kind| match kind {
        Kind::Pooled => Some(StoredTensor::f32([width], pooled[i].clone())),
        Kind::Text => Some(matrix(encoded.text_rows(i))),
        Kind::Patches => items[i].image.is_some().then(|| {
            let rows = encoded.image_rows(i);
            matrix(rows.start + 1..rows.end)
        }),
    };
    (0..items.len())
        .map(|i| {
            kinds
                .iter()
                .filter_map(|kind| Some((*kind, feature(i, *kind)?)))
                .collect()
        })
        .collect()
}
