//! Pooler and task heads.

use super::blocks::{Linear, Norm, ParameterIds};
use super::{Encoded, Vlc};
use vlct_tensor::{ParameterId, Tape, Var};

/// ε of BERT's prediction head.
const MLM_EPS: f32 = 1e-12;

/// ε of the question-answering head's layer norm, PyTorch's default.
const VQA_EPS: f32 = 1e-5;

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

/// Parameters of the question-answering head.
pub(super) struct Vqa {
    hidden: Linear,
    norm: Norm,
    answers: Linear,
}

impl Vqa {
    pub fn new(ids: &ParameterIds) -> Self {
        Self {
            hidden: ids.linear("vqa_classifier.0"),
            norm: ids.norm("vqa_classifier.1"),
            answers: ids.linear("vqa_classifier.3"),
        }
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
        let x = head.norm.forward(tape, p, &x, MLM_EPS);
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
        let (p, head) = (&self.parameters, expect(&self.vqa, "question-answering"));
        let x = head.hidden.forward(tape, p, pooled, None);
        let x = tape.gelu(&head.norm.forward(tape, p, &x, VQA_EPS));
        head.answers.forward(tape, p, &x, None)
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
