//! Pooler and task heads.

use super::blocks::{Find, Linear, Norm};
use super::{Encoded, Vlc};
use vlct_tensor::{ParameterId, Tape, Var};

/// ε of BERT's prediction head.
const MLM_EPS: f32 = 1e-12;

/// ε of PyTorch's layer norms, which the question-answering head leaves as it is.
const VQA_EPS: f32 = 1e-5;

/// Parameters of the masked-language head; its output table is not tied to the word table.
pub(super) struct Mlm {
    dense: Linear,
    norm: Norm,
    decoder: ParameterId,
    bias: ParameterId,
}

impl Mlm {
    pub fn new(find: &Find) -> Self {
        Self {
            dense: find.linear("mlm_score.transform.dense"),
            norm: find.norm("mlm_score.transform.LayerNorm"),
            decoder: find.id("mlm_score.decoder.weight"),
            bias: find.id("mlm_score.bias"),
        }
    }
}

/// Parameters of the question-answering head, numbered as in the published sequence of layers.
pub(super) struct Vqa {
    hidden: Linear,
    norm: Norm,
    answers: Linear,
}

impl Vqa {
    pub fn new(find: &Find) -> Self {
        Self {
            hidden: find.linear("vqa_classifier.0"),
            norm: find.norm("vqa_classifier.1"),
            answers: find.linear("vqa_classifier.3"),
        }
    }
}

impl Vlc {
    /// `tanh` of a linear map of each sequence's first token: `[sequences.len(), width]`.
    pub fn pool(&self, tape: &Tape, encoded: &Encoded, sequences: std::ops::Range<usize>) -> Var {
        let rows: Vec<u32> = sequences.map(|s| encoded.offsets[s] as u32).collect();
        self.pool_first(tape, &tape.rows(&encoded.features, rows))
    }

    /// `tanh` of a linear map of the first tokens, `[sequences, width]`.
    pub(super) fn pool_first(&self, tape: &Tape, first: &Var) -> Var {
        tape.tanh(&self.pooler.forward(tape, &self.parameters, first, None))
    }

    /// Vocabulary logits for the named rows of the encoding: `[rows, vocab_size]`.
    ///
    /// # Panics
    /// Panics if the model has no such head.
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

    /// Matching logits of pooled sequences: `[sequences, 2]`, class 1 = the text belongs to the image.
    ///
    /// # Panics
    /// Panics if the model has no such head.
    pub fn itm_logits(&self, tape: &Tape, pooled: &Var) -> Var {
        expect(&self.itm, "image-text matching").forward(tape, &self.parameters, pooled, None)
    }

    /// Answer logits of pooled sequences: `[sequences, answers]`.
    ///
    /// # Panics
    /// Panics if the model has no such head.
    pub fn vqa_logits(&self, tape: &Tape, pooled: &Var) -> Var {
        let (p, head) = (&self.parameters, expect(&self.vqa, "question-answering"));
        let x = head.hidden.forward(tape, p, pooled, None);
        let x = tape.gelu(&head.norm.forward(tape, p, &x, VQA_EPS));
        head.answers.forward(tape, p, &x, None)
    }

    /// Ranking scores of pooled sequences: `[sequences, 1]`. A model without a ranking head ranks by the matching logit,
    /// from which that head is initialised.
    ///
    /// # Panics
    /// Panics if the model has neither head.
    pub fn rank_scores(&self, tape: &Tape, pooled: &Var) -> Var {
        if let Some(rank) = &self.rank {
            return rank.forward(tape, &self.parameters, pooled, None);
        }
        let logits = self.itm_logits(tape, pooled);
        let one_by_one = tape.reshape(&logits, 2 * logits.rows(), 1);
        tape.rows(
            &one_by_one,
            (0..logits.rows() as u32).map(|s| 2 * s + 1).collect::<Vec<_>>(),
        )
    }
}

fn expect<'a, T>(head: &'a Option<T>, what: &str) -> &'a T {
    head.as_ref().unwrap_or_else(|| panic!("the model has no {what} head"))
}
