//! Compares a fine-tuning step of retrieval with the values of the original.

use super::recorded::{Tensors, config, load};
use super::subject::{Subject, equal};
use super::{measure_value, unmasked_sequence};
use crate::Outcome;
use std::path::Path;
use vlct_data::loader::{Pixels, Position};
use vlct_model::Model;
use vlct_model::config::Heads;
use vlct_tasks::retrieval::{Retrieval, RetrievalSpec};
use vlct_tasks::{Batch, Sample, Target, Task, Text};
use vlct_tensor::Tape;

/// Returns the recorded batch, with dropout disabled, and the task. Each image has its own caption and the recorded false captions.
pub(super) fn batch(t: &Tensors) -> Result<(Batch, Retrieval), String> {
    let name = |i: usize, suffix: &str| format!("false_text_{i}_{suffix}");
    let mut captions = vec![t.texts("text_ids", "text_masks")?];
    while t.has(&name(captions.len() - 1, "ids"))? {
        let i = captions.len() - 1;
        captions.push(t.texts(&name(i, "ids"), &name(i, "masks"))?);
    }
    if captions.len() == 1 {
        return Err("no false captions are recorded".into());
    }
    let images = t.rows("image", captions[0].len())?;
    let samples = images.into_iter().enumerate().map(|(i, image)| Sample {
        item: i,
        images: vec![Pixels::square(image)],
        texts: captions.iter().map(|c| Text::unmasked(c[i].clone())).collect(),
        sequences: (0..captions.len() as u32).map(unmasked_sequence).collect(),
        target: Target::Class(0),
    });
    let batch = Batch::collate(Position::default(), samples.collect());
    let false_texts = captions.len() - 1;
    let spec = RetrievalSpec { false_texts };
    Ok((batch, Retrieval { spec }))
}

/// Returns the recorded model.
pub(super) fn model(directory: &Path) -> Result<Model, String> {
    let heads = Heads {
        itm: true,
        rank: true,
        ..Heads::default()
    };
    load(directory, "irtr.ckpt", config(directory, heads)?.0)
}

pub(super) fn one_ranking_step_equals_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let t = Tensors::open(directory.join("irtr_step.safetensors"))?;
        let (mut model, (batch, task)) = (model(&directory)?, batch(&t)?);
        model.set_compute(compute);
        let tape = Tape::new(model.compute());
        let outcome = task.forward(&model, &tape, &batch);
        let scores = outcome.logits.as_ref().ok_or("there are no scores")?;
        let want = [batch.len(), 1 + task.spec.false_texts];
        equal("shape of the scores", [scores.rows(), scores.columns()], want)?;
        let loss = measure_value(&outcome, "irtr/irtr_loss")?;
        subject.close("irtr_loss", &[loss], &t.f32("irtr_loss")?, 1e-5)?;
        subject.gradients(&model, tape, outcome.total(), &t)?;
    }
    Ok(())
}
