//! Models whose sizes are derived from a weight file, and the probability that a caption belongs to an image.

use super::Vlc;
use crate::config::{Backbone, Heads, VlcConfig};
use crate::files::mapping::AdaptError;
use crate::files::{Options, StateDict, StateError, adapt};
use crate::{Inputs, Sequence};
use vlct_tensor::Tape;

impl VlcConfig {
    /// Derives the sizes of a pre-trained model from its weights, which have VLC's names. Image size, vocabulary and text length
    /// follow from the shapes of the embedding tables. The model gets a matching head and a masked-language head if `state`
    /// contains them.
    ///
    /// `backbone` has the sizes that shapes do not determine, such as the number of attention heads.
    ///
    /// # Errors
    /// Returns [`AdaptError::Missing`] if `state` lacks a table, and [`AdaptError::NotSquare`] if the number of rows of the position
    /// table is not one more than a square.
    pub fn from_weights(backbone: Backbone, state: &StateDict) -> Result<Self, AdaptError> {
        let axis_size = |name: &str, axis: usize| {
            let size = state.get(name).and_then(|tensor| tensor.shape.get(axis).copied());
            size.ok_or_else(|| AdaptError::Missing { name: name.into() })
        };
        let positions = "transformer.pos_embed";
        let position_rows = axis_size(positions, 1)?;
        let grid = position_rows.saturating_sub(1).isqrt();
        if grid == 0 || grid * grid + 1 != position_rows {
            return Err(AdaptError::NotSquare {
                name: positions.into(),
                rows: position_rows,
            });
        }
        Ok(Self {
            image_size: grid * backbone.patch_size,
            backbone,
            vocab_size: axis_size("text_embeddings.word_embeddings.weight", 0)?,
            max_text_len: axis_size("text_embeddings.position_embeddings.weight", 0)?,
            token_types: axis_size("token_type_embeddings.weight", 0)?,
            drop_rate: 0.0,
            heads: Heads {
                mlm: state.contains("mlm_score.bias"),
                itm: state.contains("itm_score.fc.weight"),
                ..Heads::default()
            },
        })
    }
}

impl Vlc {
    /// Makes a model with the weights `state` and the sizes of [`VlcConfig::from_weights`].
    ///
    /// # Errors
    /// Returns the errors of [`VlcConfig::from_weights`] and [`adapt`], [`AdaptError::Missing`] if `state` lacks a weight, and
    /// [`AdaptError::NotFloating`] if a weight has integer or boolean values.
    pub fn from_weights(backbone: Backbone, state: StateDict) -> Result<Self, AdaptError> {
        let mut model = Self::new(VlcConfig::from_weights(backbone, &state)?);
        let (state, report) = adapt(state, &model.shapes(), Options::default())?;
        if let Some(name) = report.missing.first() {
            return Err(AdaptError::Missing { name: name.clone() });
        }
        model.load(&state).map_err(|error| match error {
            StateError::Missing(name) => AdaptError::Missing { name },
            StateError::NotFloating { name, dtype } => AdaptError::NotFloating { name, dtype },
        })?;
        Ok(model)
    }

    /// Returns the probability, 0 to 1, that the text belongs to the image. All patches are visible.
    ///
    /// `text` has the token ids from `[CLS]` to `[SEP]`, `pixels` the normalised values `[3, image_size, image_size]`.
    ///
    /// # Panics
    /// Panics if the model has no matching head or the inputs violate the conditions of [`Vlc::encode`].
    pub fn match_probability(&self, text: &[u32], pixels: &[f32]) -> f32 {
        let inputs = Inputs {
            images: vec![pixels],
            texts: vec![text],
            sequences: &[Sequence::FIRST_PAIR],
        };
        let tape = Tape::inference(self.compute());
        let pooled = self.encode_pooled(&tape, &inputs, None);
        let logits = self.itm_logits(&tape, &pooled);
        match *logits.tensor().to_host() {
            [mismatch, matched] => 1.0 / (1.0 + (mismatch - matched).exp()),
            ref other => unreachable!("{} logits for one pair", other.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{StoredTensor, TensorData, read};

    fn golden_backbone_and_state(directory: &std::path::Path) -> (Backbone, StateDict) {
        let sizes = vlct_golden::json(directory.join("config.json"));
        let size = |key: &str| sizes[key].as_u64().expect("a size") as usize;
        let backbone = Backbone {
            patch_size: size("patch"),
            width: size("dim"),
            depth: size("depth"),
            heads: size("heads"),
            decoder_width: size("decoder_dim"),
            decoder_depth: size("decoder_depth"),
            decoder_heads: size("decoder_heads"),
        };
        let state = read(&directory.join("pretrain.ckpt")).expect("a checkpoint").state;
        (backbone, state)
    }

    #[test]
    fn model_has_the_sizes_and_weights_of_the_file() {
        for directory in vlct_golden::directories("model") {
            let sizes = vlct_golden::json(directory.join("config.json"));
            let (backbone, state) = golden_backbone_and_state(&directory);
            let model = Vlc::from_weights(backbone, state.clone()).expect("a model");
            assert_eq!(model.config().image_size as u64, sizes["image_size"]);
            assert_eq!(model.config().vocab_size as u64, sizes["vocab_size"]);
            assert_eq!(model.config().max_text_len as u64, sizes["max_text_len"]);
            let name = "pooler.dense.weight";
            assert_eq!(model.state_dict().f32(name).unwrap(), state.f32(name).unwrap());
        }
    }

    #[test]
    fn error_names_the_missing_weight() {
        let (backbone, state) = golden_backbone_and_state(&vlct_golden::directories("model")[0]);
        for name in ["text_embeddings.word_embeddings.weight", "pooler.dense.weight"] {
            let mut damaged = state.clone();
            damaged.remove(name);
            let error = Vlc::from_weights(backbone, damaged).err().expect("an error");
            assert_eq!(error, AdaptError::Missing { name: name.into() });
        }
    }

    #[test]
    fn integer_weights_are_an_error() {
        let (backbone, mut state) = golden_backbone_and_state(&vlct_golden::directories("model")[0]);
        let name = "pooler.dense.bias";
        let length = state.get(name).expect("a weight").shape[0];
        state.insert(name, StoredTensor::new(vec![length], TensorData::I64(vec![1; length])));
        let error = Vlc::from_weights(backbone, state).err().expect("an error");
        assert!(matches!(error, AdaptError::NotFloating { name: n, .. } if n == name));
    }

    #[test]
    fn match_probability_is_the_softmax_of_the_matching_logits() {
        let (backbone, state) = golden_backbone_and_state(&vlct_golden::directories("model")[0]);
        let model = Vlc::from_weights(backbone, state).expect("a model");
        let pixels: Vec<f32> = (0..3 * model.config().image_size.pow(2))
            .map(|i| (i % 7) as f32 / 3.0 - 1.0)
            .collect();
        let text = [101, 7, 9, 102];
        let inputs = Inputs {
            images: vec![&pixels],
            texts: vec![&text],
            sequences: &[Sequence::FIRST_PAIR],
        };
        let tape = Tape::inference(model.compute());
        let encoded = model.encode(&tape, &inputs, None);
        let logits = model.itm_logits(&tape, &model.pool(&tape, &encoded, 0..1));
        let exp: Vec<f64> = logits.tensor().to_host().iter().map(|l| f64::from(*l).exp()).collect();
        let probability = f64::from(model.match_probability(&text, &pixels));
        assert!((probability - exp[1] / (exp[0] + exp[1])).abs() < 1e-6);
    }
}
