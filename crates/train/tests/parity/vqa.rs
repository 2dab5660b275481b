//! Compares a fine-tuning step of visual question answering with the values of the original.

use super::{
    TestDevice, argmax, assert_gradients, config, load, measure_value, recorded_models, texts, unmasked_sequence,
};
use std::path::Path;
use vlct_data::loader::{Pixels, Position};
use vlct_golden::{Tensors, assert_close};
use vlct_model::Model;
use vlct_model::config::Heads;
use vlct_tasks::vqa::Vqa;
use vlct_tasks::{Batch, Sample, Target, Task, Text};
use vlct_tensor::Tape;

/// Returns the recorded batch of questions, with dropout disabled.
pub(super) fn batch(t: &Tensors) -> Batch {
    let texts = texts(t, "text_ids", "text_masks");
    let images = t.f32("image");
    let images = images.chunks_exact(images.len() / texts.len());
    let targets = t.f32("vqa_targets");
    let targets = targets.chunks_exact(t.shape("vqa_logits")[1]);
    let target = |row: &[f32]| {
        let nonzero = (0u32..).zip(row).filter(|(_, score)| **score > 0.0);
        Target::Scores(nonzero.map(|(answer, score)| (answer, *score)).collect())
    };
    let samples = texts.into_iter().zip(images.zip(targets)).enumerate();
    let samples = samples.map(|(i, (ids, (image, row)))| Sample {
        item: i,
        images: vec![Pixels::square(image.to_vec())],
        texts: vec![Text::unmasked(ids)],
        sequences: vec![unmasked_sequence(0)],
        target: target(row),
    });
    Batch::collate(Position::default(), samples.collect())
}

/// Returns the recorded model.
pub(super) fn model(directory: &Path, t: &Tensors) -> Model {
    let heads = Heads {
        vqa: Some(t.shape("vqa_logits")[1]),
        ..Heads::default()
    };
    load(directory, "vqa.ckpt", config(directory, heads).0)
}

pub(super) fn vqa_losses_and_gradients_match_the_original(device: TestDevice) {
    for (directory, compute) in recorded_models(device) {
        let t = Tensors::open(directory.join("vqa_step.safetensors"));
        let (answers, recorded) = (t.shape("vqa_logits")[1], t.f32("vqa_targets"));
        let (mut model, batch) = (model(&directory, &t), batch(&t));
        model.set_compute(compute);
        let tape = Tape::new(model.compute());
        let outcome = Vqa::default().forward(&model, &tape, &batch);
        let logits = outcome.logits.as_ref().expect("logits").tensor().to_host().to_vec();
        assert_close("vqa_logits", &logits, &t.f32("vqa_logits"), 2e-5);
        assert_close(
            "vqa_loss",
            &[measure_value(&outcome, "vqa/loss")],
            &t.f32("vqa_loss"),
            1e-5,
        );
        let rows = logits.chunks_exact(answers).zip(recorded.chunks_exact(answers));
        let score: f32 = rows.map(|(logits, targets)| targets[argmax(logits)]).sum();
        // The measure is the sum of the scores; a report divides it by the number of questions.
        assert_eq!(measure_value(&outcome, "vqa/score"), score);
        assert_gradients(&model, tape, outcome.total(), &t);
    }
}
