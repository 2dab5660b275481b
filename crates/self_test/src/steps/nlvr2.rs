//! Compares a fine-tuning step on pairs of images with the values of the original.

use super::recorded::{Tensors, config, load};
use super::subject::{Subject, equal};
use super::{logits, measure_value};
use crate::Outcome;
use std::path::Path;
use vlct_data::loader::{Pixels, Position};
use vlct_model::config::Heads;
use vlct_model::{Model, Sequence, VlcConfig};
use vlct_tasks::nlvr2::{Nlvr2, Nlvr2Spec};
use vlct_tasks::{Batch, Sample, Subset, Target, Task, Text};
use vlct_tensor::Tape;

/// The task; its setting does not affect the forward pass.
pub(super) const TASK: Nlvr2 = Nlvr2 {
    spec: Nlvr2Spec {
        selection: Subset::Test,
    },
};

/// Makes a sample of a statement, the values of its left and right image, and whether the statement is true.
pub(super) fn sample(item: usize, text: Vec<u32>, images: [Pixels; 2], is_true: bool) -> Sample {
    let sequence = |group: u8| Sequence {
        group,
        text: Some(0),
        image: Some(group.into()),
        token_type: 1 + u32::from(group),
        mask: None,
    };
    Sample {
        item,
        images: images.into(),
        texts: vec![Text::unmasked(text)],
        sequences: vec![sequence(0), sequence(1)],
        target: Target::Class(is_true.into()),
    }
}

/// Returns the recorded batch, with dropout disabled.
pub(super) fn batch(t: &Tensors) -> Result<Batch, String> {
    let texts = t.texts("text_ids", "text_masks")?;
    let [left, right] = [t.rows("image_0", texts.len())?, t.rows("image_1", texts.len())?];
    let images = left.into_iter().zip(right);
    let samples = texts.into_iter().zip(images).zip(t.f32("nlvr2_labels")?).enumerate();
    let samples = samples.map(|(i, ((text, (left, right)), label))| {
        let images = [Pixels::square(left), Pixels::square(right)];
        sample(i, text, images, label == 1.0)
    });
    Ok(Batch::collate(Position::default(), samples.collect()))
}

/// Returns the heads and token types of a model for pairs of images.
pub(super) fn with_pairs(config: VlcConfig) -> VlcConfig {
    let heads = Heads {
        nlvr2: true,
        ..Heads::default()
    };
    VlcConfig {
        token_types: 3,
        heads,
        ..config
    }
}

/// Returns the recorded model.
pub(super) fn model(directory: &Path) -> Result<Model, String> {
    let (config, _) = config(directory, Heads::default())?;
    load(directory, "nlvr2.ckpt", with_pairs(config))
}

pub(super) fn losses_and_gradients_equal_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let t = Tensors::open(directory.join("nlvr2_step.safetensors"))?;
        let (mut model, batch) = (model(&directory)?, batch(&t)?);
        model.set_compute(compute);
        let tape = Tape::new(model.compute());
        let outcome = TASK.forward(&model, &tape, &batch);
        let logits = logits(&outcome)?;
        subject.close("nlvr2_logits", &logits, &t.f32("nlvr2_logits")?, 2e-5)?;
        let loss = measure_value(&outcome, "nlvr2/loss")?;
        subject.close("nlvr2_loss", &[loss], &t.f32("nlvr2_loss")?, 1e-5)?;
        let labels = t.f32("nlvr2_labels")?;
        let hits = logits.chunks_exact(2).zip(&labels);
        let hits = hits.filter(|(row, label)| f32::from(u8::from(row[1] > row[0])) == **label);
        let accuracy = measure_value(&outcome, "nlvr2/accuracy")?;
        equal("nlvr2/accuracy", accuracy, hits.count() as f32)?;
        subject.gradients(&model, tape, outcome.total(), &t)?;
    }
    Ok(())
}
