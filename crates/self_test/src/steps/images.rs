//! Compares a fine-tuning step of the image classifier with the values of the original.

use super::recorded::Tensors;
use super::subject::{Subject, equal};
use super::{logits, measure_value};
use crate::Outcome;
use vlct_data::loader::{Pixels, Position};
use vlct_model::{Model, Sequence, Vit, VitConfig};
use vlct_tasks::images::{Images, ImagesSpec};
use vlct_tasks::{Batch, Sample, Target, Task};
use vlct_tensor::Tape;

/// The recorded files: with the mean of all patches, and with the class token.
pub(super) const FILES: [&str; 2] = ["vit_global_pool.safetensors", "vit_cls_token.safetensors"];

/// Returns the classifier of a golden file.
pub(super) fn model(t: &Tensors) -> Result<Model, String> {
    let [width, _, patch_size, _] = t.shape("param.patch_embed.proj.weight")?;
    let [_, _, image_size, _] = t.shape("images")?;
    let [_, classes] = t.shape("logits")?;
    let recorded: Vec<String> = t
        .names()?
        .into_iter()
        .filter(|name| name.starts_with("param."))
        .collect();
    let is_norm = |name: &&String| name.starts_with("param.blocks.") && name.ends_with("norm1.bias");
    let config = VitConfig {
        image_size,
        patch_size,
        width,
        depth: recorded.iter().filter(is_norm).count(),
        heads: 4,
        classes,
        global_pool: t.has("param.fc_norm.weight")?,
        drop_path: 0.0,
        layer_norm_eps: 1e-6,
        linear_probe: false,
    };
    let mut model = Vit::new(config);
    let parameters: Vec<_> = model.parameters().iter().map(|(id, p)| (id, p.name.clone())).collect();
    equal("number of recorded parameters", recorded.len(), parameters.len())?;
    for (id, name) in parameters {
        model.parameters_mut().set(id, &t.f32(&format!("param.{name}"))?);
    }
    Ok(model.into())
}

/// Returns the task and the recorded batch, whose images have several classes with weights, as mixup makes them.
pub(super) fn batch(t: &Tensors) -> Result<(Images, Batch), String> {
    let [images, _, _, _] = t.shape("images")?;
    let [_, classes] = t.shape("logits")?;
    let rows = t
        .rows("images", images)?
        .into_iter()
        .zip(t.rows("soft_targets", images)?);
    let samples = rows.enumerate().map(|(i, (image, weights))| Sample {
        item: i,
        images: vec![Pixels::square(image)],
        texts: Vec::new(),
        sequences: vec![Sequence::FIRST_IMAGE],
        target: Target::Scores((0..).zip(weights).collect()),
    });
    let spec = ImagesSpec {
        names: (0..classes).map(|i| i.to_string()).collect(),
        ..ImagesSpec::default()
    };
    let batch = Batch::collate(Position::default(), samples.collect());
    Ok((Images::new(spec), batch))
}

pub(super) fn logits_loss_and_gradients_equal_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("imagenet") {
        for file in FILES {
            let t = Tensors::open(directory.join(file))?;
            let (mut model, (task, batch)) = (model(&t)?, batch(&t)?);
            model.set_compute(compute);
            let tape = Tape::new(model.compute());
            let outcome = task.forward(&model, &tape, &batch);
            let compare = || {
                subject.close("logits", &logits(&outcome)?, &t.f32("logits")?, 2e-5)?;
                let loss = measure_value(&outcome, "images/loss")?;
                subject.close("loss", &[loss], &t.f32("loss")?, 1e-5)?;
                subject.gradients(&model, tape, outcome.total(), &t)
            };
            compare().map_err(|e| format!("{file}: {e}"))?;
        }
    }
    Ok(())
}
