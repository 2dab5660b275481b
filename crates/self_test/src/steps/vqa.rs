//! Compares a fine-tuning step of visual question answering with the values of the original.

use super::recorded::{Tensors, config, load};
use super::subject::{Subject, equal};
use super::{argmax, logits, measure_value, unmasked_sequence};
use crate::Outcome;
use std::path::Path;
use vlct_data::loader::{Pixels, Position};
use vlct_model::Model;
use vlct_model::config::Heads;
use vlct_tasks::vqa::Vqa;
use vlct_tasks::{Batch, Sample, Target, Task, Text};
use vlct_tensor::Tape;

/// Returns the recorded batch of questions, with dropout disabled.
pub(super) fn batch(t: &Tensors) -> Result<Batch, String> {
    let texts = t.texts("text_ids", "text_masks")?;
    let images = t.rows("image", texts.len())?;
    let targets = t.rows("vqa_targets", texts.len())?;
    let target = |row: Vec<f32>| {
        let nonzero = (0u32..).zip(row).filter(|(_, score)| *score > 0.0);
        Target::Scores(nonzero.collect())
    };
    let samples = texts.into_iter().zip(images.into_iter().zip(targets)).enumerate();
    let samples = samples.map(|(i, (ids, (image, row)))| Sample {
        item: i,
        images: vec![Pixels::square(image)],
        texts: vec![Text::unmasked(ids)],
        sequences: vec![unmasked_sequence(0)],
        target: target(row),
    });
    Ok(Batch::collate(Position::default(), samples.collect()))
}

/// Returns the recorded model.
pub(super) fn model(directory: &Path, t: &Tensors) -> Result<Model, String> {
    let [_, answers] = t.shape("vqa_logits")?;
    let heads = Heads {
        vqa: Some(answers),
        ..Heads::default()
    };
    load(directory, "vqa.ckpt", config(directory, heads)?.0)
}

pub(super) fn losses_and_gradients_equal_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let t = Tensors::open(directory.join("vqa_step.safetensors"))?;
        let ([_, answers], recorded) = (t.shape("vqa_logits")?, t.f32("vqa_targets")?);
        let (mut model, batch) = (model(&directory, &t)?, batch(&t)?);
        model.set_compute(compute);
        let tape = Tape::new(model.compute());
        let outcome = Vqa::default().forward(&model, &tape, &batch);
        let logits = logits(&outcome)?;
        subject.close("vqa_logits", &logits, &t.f32("vqa_logits")?, 2e-5)?;
        let loss = measure_value(&outcome, "vqa/loss")?;
        subject.close("vqa_loss", &[loss], &t.f32("vqa_loss")?, 1e-5)?;
        let rows = logits.chunks_exact(answers).zip(recorded.chunks_exact(answers));
        let score: f32 = rows.map(|(logits, targets)| targets[argmax(logits)]).sum();
        // The measure is the sum of the scores; a report divides it by the number of questions.
        equal("vqa/score", measure_value(&outcome, "vqa/score")?, score)?;
        subject.gradients(&model, tape, outcome.total(), &t)?;
    }
    Ok(())
}
