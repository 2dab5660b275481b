//! Compares models, their losses, gradients and training steps with the values of the original, and steps in bfloat16 with steps in f32.
//!
//! A check is a function of a [`Subject`]: a device and directories of golden data.

mod bf16;
mod cases;
mod generated;
mod images;
mod nlvr2;
mod pretrain;
mod recorded;
mod retrieval;
mod scoring;
mod subject;
mod vqa;

pub use subject::Subject;

use crate::Outcome;
use vlct_model::Sequence;
use vlct_tasks::Outcome as StepOutcome;

/// A check of steps.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// The name of the module and what is checked.
    pub name: &'static str,
    /// The part of the golden data that the check needs.
    pub part: Option<&'static str>,
    /// Whether the check is of computation in bfloat16, which the device must have.
    pub is_bf16: bool,
    /// Runs the check.
    pub run: fn(&Subject) -> Outcome,
}

const fn recorded(name: &'static str, part: &'static str, run: fn(&Subject) -> Outcome) -> Step {
    Step {
        name,
        part: Some(part),
        is_bf16: false,
        run,
    }
}

const fn bf16(name: &'static str, part: Option<&'static str>, run: fn(&Subject) -> Outcome) -> Step {
    Step {
        name,
        part,
        is_bf16: true,
        run,
    }
}

/// All checks of steps.
pub const STEPS: [Step; 14] = [
    recorded(
        "pretrain::one_pretraining_step_equals_the_original",
        "model",
        pretrain::one_pretraining_step_equals_the_original,
    ),
    recorded(
        "pretrain::pooled_features_and_decoder_equal_the_original",
        "model",
        pretrain::pooled_features_and_decoder_equal_the_original,
    ),
    recorded(
        "pretrain::ten_training_steps_equal_the_original",
        "model",
        pretrain::ten_training_steps_equal_the_original,
    ),
    recorded(
        "vqa::losses_and_gradients_equal_the_original",
        "model",
        vqa::losses_and_gradients_equal_the_original,
    ),
    recorded(
        "nlvr2::losses_and_gradients_equal_the_original",
        "model",
        nlvr2::losses_and_gradients_equal_the_original,
    ),
    recorded(
        "retrieval::one_ranking_step_equals_the_original",
        "model",
        retrieval::one_ranking_step_equals_the_original,
    ),
    recorded(
        "scoring::scores_and_recalls_equal_the_original",
        "model",
        scoring::scores_and_recalls_equal_the_original,
    ),
    recorded(
        "images::logits_loss_and_gradients_equal_the_original",
        "imagenet",
        images::logits_loss_and_gradients_equal_the_original,
    ),
    bf16(
        "bf16::errors_of_recorded_steps_are_within_their_bounds",
        Some("model"),
        bf16::errors_of_recorded_steps_are_within_their_bounds,
    ),
    bf16(
        "bf16::errors_of_recorded_classifiers_are_within_their_bounds",
        Some("imagenet"),
        bf16::errors_of_recorded_classifiers_are_within_their_bounds,
    ),
    bf16(
        "bf16::errors_of_generated_steps_are_within_their_bounds",
        None,
        bf16::errors_of_generated_steps_are_within_their_bounds,
    ),
    bf16(
        "bf16::recomputing_activations_changes_no_bit",
        Some("model"),
        bf16::recomputing_activations_changes_no_bit,
    ),
    bf16(
        "bf16::errors_of_ten_training_steps_are_within_their_bounds",
        Some("model"),
        bf16::errors_of_ten_training_steps_are_within_their_bounds,
    ),
    Step {
        name: "generated::equal_steps_have_equal_bits",
        part: None,
        is_bf16: false,
        run: bf16::equal_steps_have_equal_bits,
    },
];

/// Makes a sequence of the text with index `text` and of image 0. All patches are visible.
fn unmasked_sequence(text: u32) -> Sequence {
    Sequence {
        group: 0,
        text: Some(text),
        image: Some(0),
        token_type: 1,
        mask: None,
    }
}

/// Returns the value of the measure `key`: a loss, or the sum of a score over the batch.
fn measure_value(outcome: &StepOutcome, key: &str) -> Result<f32, String> {
    let measure = outcome.measures.iter().find(|measure| measure.key == key);
    Ok(measure.ok_or_else(|| format!("there is no measure {key}"))?.value())
}

/// Returns the logits of a step.
fn logits(outcome: &StepOutcome) -> Result<Vec<f32>, String> {
    let logits = outcome.logits.as_ref().ok_or("there are no logits")?;
    Ok(logits.tensor().to_host().to_vec())
}

/// Returns the index of the largest value, the first one of equal values.
fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}
