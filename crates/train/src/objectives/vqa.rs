//! One step of visual question answering: a classifier over the answers that are frequent in training.

use super::{Pools, argmax};
use vlct_model::Vlc;
use vlct_tensor::{Tape, Tensor, Var};

/// Everything that a step reads, in parallel lists.
#[derive(Clone, Debug)]
pub struct VqaStep<'a> {
    /// Token ids of the questions, from `[CLS]` to `[SEP]`.
    pub texts: Vec<&'a [u32]>,
    /// Pictures `[3, S, S]`, seen whole.
    pub pictures: Vec<&'a [f32]>,
    /// Numbers of the right answers and how right each of them is, from 0 to 1. Of an answer named twice the later counts.
    pub targets: Vec<&'a [(u32, f32)]>,
    /// Key of the text embedding's dropout; `None`: no dropout.
    pub dropout: Option<[u64; 4]>,
}

/// Result of one step.
pub struct VqaOutcome {
    /// What is minimised: binary cross-entropy, summed over the answers, averaged over the questions.
    pub total: Var,
    /// `[questions, answers]`.
    pub logits: Var,
    /// How right the most probable answers are, summed over the questions.
    pub score: f32,
}

impl VqaStep<'_> {
    /// Runs the model and computes the loss.
    ///
    /// # Panics
    /// If the lists differ in length, the model has no head for answers or an answer's number is outside it.
    pub fn run(&self, model: &Vlc, tape: &Tape) -> VqaOutcome {
        let questions = self.texts.len();
        assert!(
            self.pictures.len() == questions && self.targets.len() == questions,
            "a picture and targets for each question"
        );
        let mut pools = Pools::default();
        pools.extend(0, &self.texts, &self.pictures, None);
        let pooled = model.read(tape, &pools.inputs(), self.dropout);
        let logits = model.vqa_logits(tape, &pooled);
        let answers = logits.columns();
        let targets = dense(&self.targets, answers);
        let score = logits
            .tensor()
            .to_host()
            .chunks_exact(answers)
            .zip(targets.chunks_exact(answers))
            .map(|(logits, targets)| targets[argmax(logits)])
            .sum();
        let targets = Tensor::from_slice(questions, answers, &targets);
        VqaOutcome {
            total: tape.binary_cross_entropy(&logits, targets),
            logits,
            score,
        }
    }
}

/// One row of `answers` values per question, 0 where nothing is said.
fn dense(targets: &[&[(u32, f32)]], answers: usize) -> Vec<f32> {
    let mut rows = vec![0f32; targets.len() * answers];
    for (row, targets) in rows.chunks_exact_mut(answers).zip(targets) {
        for (answer, score) in *targets {
            row[*answer as usize] = *score;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_named_twice_the_later_counts() {
        let targets: [&[(u32, f32)]; 3] = [&[(2, 0.3), (0, 1.0), (2, 0.9)], &[], &[(1, 0.6)]];
        assert_eq!(dense(&targets, 3), [1.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.6, 0.0]);
    }
}
