//! Pooler and task heads.

use super::{Encoded, Vlc};
use crate::blocks::{Linear, Norm, ParameterIds};
use vlct_tensor::{ParameterId, Parameters, Tape, Var};

/// ε of the classifiers' layer norms, PyTorch's default.
const CLASSIFIER_EPS: f32 = 1e-5;

/// Parameters of the masked-language head. `decoder` is not tied to the word table.
pub(super) struct Mlm {
    dense: Linear,
    norm: Norm,
    decoder: ParameterId,
    bias: ParameterId,
}

impl Mlm {
    pub fn new(ids: &ParameterIds) -> Self {
        Self {
            dense: ids.linear("mlm_score.transform.dense"),
            norm: ids.norm("mlm_score.transform.LayerNorm"),
            decoder: ids.id("mlm_score.decoder.weight"),
            bias: ids.id("mlm_score.bias"),
        }
    }
}

/// Parameters of a classifier with one hidden layer.
pub(super) struct Classifier {
    hidden: Linear,
    norm: Norm,
    classes: Linear,
}

impl Classifier {
    /// Returns the classifier with the parameters `{name}.0` (hidden layer), `{name}.1` (norm) and `{name}.3` (classes).
    pub fn new(ids: &ParameterIds, name: &str) -> Self {
        Self {
            hidden: ids.linear(&format!("{name}.0")),
            norm: ids.norm(&format!("{name}.1")),
            classes: ids.linear(&format!("{name}.3")),
        }
    }

    /// Computes logits `[rows, classes]` of `x [rows, width]`.
    fn forward(&self, tape: &Tape, parameters: &Parameters, x: &Var) -> Var {
        let x = self.hidden.forward(tape, parameters, x, None);
        let x = tape.gelu(&self.norm.forward(tape, parameters, &x, CLASSIFIER_EPS));
        self.classes.forward(tape, parameters, &x, None)
    }
}

impl Vlc {
    /// Pools sequences: `tanh` of a linear map of each sequence's first token, `[sequences.len(), width]`.
    pub fn pool(&self, tape: &Tape, encoded: &Encoded, sequences: std::ops::Range<usize>) -> Var {
        let rows: Vec<u32> = sequences.map(|s| encoded.offsets[s] as u32).collect();
        self.pool_first(tape, &tape.rows(&encoded.features, rows))
    }

    /// Returns `tanh` of a linear map of `first`, the first tokens of sequences `[sequences, width]`.
    pub(super) fn pool_first(&self, tape: &Tape, first: &Var) -> Var {
        tape.tanh(&self.pooler.forward(tape, &self.parameters, first, None))
    }

    /// Computes vocabulary logits for `rows` of the encoder's output: `[rows, vocab_size]`.
    ///
    /// # Panics
    /// Panics if the model has no masked-language head.
    pub fn mlm_logits(&self, tape: &Tape, encoded: &Encoded, rows: Vec<u32>) -> Var {
        let (p, head) = (&self.parameters, expect(&self.mlm, "masked-language"));
        let x = tape.rows(&encoded.features, rows);
        let x = tape.gelu(&head.dense.forward(tape, p, &x, None));
        let x = head.norm.forward(tape, p, &x, self.config.variant.text_layer_norm_eps);
        tape.linear(
            &x,
            &tape.parameter(p, head.decoder),
            Some(&tape.parameter(p, head.bias)),
            None,
        )
    }

    /// Computes matching logits of pooled sequences: `[sequences, 2]`. Class 1 means that the text belongs to the image.
    ///
    /// # Panics
    /// Panics if the model has no matching head.
    pub fn itm_logits(&self, tape: &Tape, pooled: &Var) -> Var {
        expect(&self.itm, "image-text matching").forward(tape, &self.parameters, pooled, None)
    }

    /// Computes answer logits of pooled sequences: `[sequences, answers]`.
    ///
    /// # Panics
    /// Panics if the model has no question-answering head.
    pub fn vqa_logits(&self, tape: &Tape, pooled: &Var) -> Var {
        expect(&self.vqa, "question-answering").forward(tape, &self.parameters, pooled)
    }

    /// Computes logits of statements about pairs of images: `[pairs, 2]`. Class 1 means that the statement is true. `pooled` has the
    /// sequences of the left images, then those of the right images, `[2·pairs, width]`.
    ///
    /// # Panics
    /// Panics if the model has no head for pairs of images, or the number of sequences is odd.
    pub fn nlvr2_logits(&self, tape: &Tape, pooled: &Var) -> Var {
        let pairs = pooled.rows() / 2;
        assert_eq!(pooled.rows(), 2 * pairs, "two sequences for each pair of images");
        // Left and right of each pair become neighbours, and then one row.
        let order: Vec<u32> = (0..pairs as u32).flat_map(|i| [i, i + pairs as u32]).collect();
        let joined = tape.reshape(&tape.rows(pooled, order), pairs, 2 * pooled.columns());
        expect(&self.nlvr2, "image-pair").forward(tape, &self.parameters, &joined)
    }

    /// Computes label logits of pooled sequences: `[sequences, labels]`.
    ///
    /// # Panics
    /// Panics if the model has no label head.
    pub fn labels_logits(&self, tape: &Tape, pooled: &Var) -> Var {
        expect(&self.labels, "label").forward(tape, &self.parameters, pooled)
    }

    /// Computes ranking scores of pooled sequences: `[sequences, 1]`. Without a ranking head, the score is the matching logit of
    /// class 1, from which a ranking head would be initialised.
    ///
    /// # Panics
    /// Panics if the model has neither a ranking nor a matching head.
    pub fn rank_scores(&self, tape: &Tape, pooled: &Var) -> Var {
        if let Some(rank) = &self.rank {
            return rank.forward(tape, &self.parameters, pooled, None);
        }
        let logits = self.itm_logits(tape, pooled);
        let column = tape.reshape(&logits, 2 * logits.rows(), 1);
        tape.rows(
            &column,
            (0..logits.rows() as u32).map(|s| 2 * s + 1).collect::<Vec<_>>(),
        )
    }
}

fn expect<'a, T>(head: &'a Option<T>, name: &str) -> &'a T {
    head.as_ref().unwrap_or_else(|| panic!("the model has no {name} head"))
}
