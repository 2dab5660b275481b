//! Compares a fine-tuning step of retrieval with the values of the original.

use super::{TestDevice, assert_gradients, config, load, measure_value, recorded_models, texts, unmasked_sequence};
use std::path::Path;
use vlct_data::loader::{Pixels, Position};
use vlct_golden::{Tensors, assert_close};
use vlct_model::Model;
use vlct_model::config::Heads;
use vlct_tasks::retrieval::{Retrieval, RetrievalSpec};
use vlct_tasks::{Batch, Sample, Target, Task, Text};
use vlct_tensor::Tape;

/// Returns the recorded batch, with dropout disabled, and the task. Each image has its own caption and the recorded false captions.
pub(super) fn batch(t: &Tensors) -> (Batch, Retrieval) {
    let name = |i: usize, suffix: &str| format!("false_text_{i}_{suffix}");
    let mut captions = vec![texts(t, "text_ids", "text_masks")];
    captions.extend(
        (0..)
            .take_while(|i| t.has(&name(*i, "ids")))
            .map(|i| texts(t, &name(i, "ids"), &name(i, "masks"))),
    );
    assert!(captions.len() > 1, "no false captions are recorded");
    let images = t.f32("image");
    let images = images.chunks_exact(images.len() / captions[0].len());
    let samples = images.enumerate().map(|(i, image)| Sample {
        item: i,
        images: vec![Pixels::square(image.to_vec())],
        texts: captions.iter().map(|c| Text::unmasked(c[i].clone())).collect(),
        sequences: (0..captions.len() as u32).map(unmasked_sequence).collect(),
        target: Target::Class(0),
    });
    let batch = Batch::collate(Position::default(), samples.collect());
    let false_texts = captions.len() - 1;
    let spec = RetrievalSpec { false_texts };
    (batch, Retrieval { spec })
}

/// Returns the recorded model.
pub(super) fn model(directory: &Path) -> Model {
    let heads = Heads {
        itm: true,
        rank: true,
        ..Heads::default()
    };
    load(directory, "irtr.ckpt", config(directory, heads).0)
}

pub(super) fn one_ranking_step_equals_the_original(device: TestDevice) {
    for (directory, compute) in recorded_models(device) {
        let t = Tensors::open(directory.join("irtr_step.safetensors"));
        let (mut model, (batch, task)) = (model(&directory), batch(&t));
        model.set_compute(compute);
        let tape = Tape::new(model.compute());
        let outcome = task.forward(&model, &tape, &batch);
        let scores = outcome.logits.as_ref().expect("scores");
        assert_eq!(
            (scores.rows(), scores.columns()),
            (batch.len(), 1 + task.spec.false_texts)
        );
        let loss = measure_value(&outcome, "irtr/irtr_loss");
        assert_close("irtr_loss", &[loss], &t.f32("irtr_loss"), 1e-5);
        assert_gradients(&model, tape, outcome.total(), &t);
    }
}
