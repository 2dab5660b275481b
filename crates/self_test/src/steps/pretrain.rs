//! Compares a pre-training step and ten training steps with the values of the original.

use super::recorded::{Tensors, config, load};
use super::subject::{Subject, equal};
use super::{argmax, measure_value};
use crate::Outcome;
use vlct_data::loader::{Pixels, Position};
use vlct_model::config::Heads;
use vlct_model::{Inputs, Model, PatchMask, Planes, Sequence};
use vlct_tasks::pretrain::{MATCHING, MODELLING, Pretrain, PretrainSpec};
use vlct_tasks::{Batch, Sample, Target, Task, Text};
use vlct_tensor::optimizer::{Hyperparameters, Optimizer, Rule};
use vlct_tensor::{Gradients, Tape};
use vlct_text::MaskingConfig;
use vlct_train::groups::{Parameter, pretrain_groups};

/// The heads of the recorded pre-training model.
pub(super) const HEADS: Heads = Heads {
    mlm: true,
    itm: true,
    vqa: None,
    nlvr2: false,
    labels: None,
    rank: false,
};

/// Keys of the recorded losses in `Outcome::measures`, in the order of the tensor `losses`.
pub(super) const LOSSES: [&str; 4] = ["mlm/loss", "mae/loss", "itm/loss", "itm/wpa_loss"];

/// Returns the pre-training task with all objectives. It draws no masks, because the batches have recorded masks.
pub(super) fn task() -> Result<Pretrain, String> {
    let spec = PretrainSpec {
        mlm: true,
        mae: Some(1.0),
        itm: true,
        masking: MaskingConfig {
            whole_word: false,
            probability: 0.0,
            max_text_len: 0,
        },
        mask_ratio: None,
    };
    Pretrain::new(spec, 0).map_err(|e| e.to_string())
}

/// A recorded batch.
pub(super) struct RecordedBatch {
    /// Number of tokens of each text, without padding.
    lengths: Vec<usize>,
    texts: Vec<Vec<u32>>,
    mlm_texts: Vec<Vec<u32>>,
    /// Original ids of the masked tokens of `mlm_texts`.
    labels: Vec<Vec<Option<u32>>>,
    images: Vec<Vec<f32>>,
    false_images: Vec<Vec<f32>>,
    /// Whether image-text matching pairs a sample with its own image. If not, the sample has its false image.
    matched: Vec<bool>,
    mlm_masks: Vec<PatchMask>,
    itm_masks: Vec<PatchMask>,
}

impl RecordedBatch {
    pub(super) fn read(t: &Tensors, prefix: &str, mask_ratio: f64) -> Result<Self, String> {
        let key = |name: &str| format!("{prefix}{name}");
        let [samples, _] = t.shape(&key("text_ids"))?;
        let rows = |name: &str| t.integer_rows(&key(name), samples);
        let float_rows = |name: &str| t.rows(&key(name), samples);
        let lengths: Vec<usize> = rows("text_masks")?
            .iter()
            .map(|m| m.iter().filter(|v| **v != 0).count())
            .collect();
        let ids = |name: &str| -> Result<Vec<Vec<u32>>, String> {
            let texts = rows(name)?.into_iter().zip(&lengths);
            Ok(texts
                .map(|(r, n)| r[..*n].iter().map(|v| *v as u32).collect())
                .collect())
        };
        // The original permutes a list of labels whose first half is 1.
        let permutation = t.i64(&key("itm_permutation"))?;
        let matched = permutation.iter().map(|i| (*i as usize) < samples / 2).collect();
        let masks = |name: &str| -> Result<Vec<PatchMask>, String> {
            let noise = float_rows(name)?;
            Ok(noise.iter().map(|n| PatchMask::from_noise(n, mask_ratio)).collect())
        };
        Ok(Self {
            texts: ids("text_ids")?,
            mlm_texts: ids("text_ids_mlm")?,
            labels: rows("text_labels_mlm")?
                .iter()
                .zip(&lengths)
                .map(|(r, n)| r[..*n].iter().map(|v| u32::try_from(*v).ok()).collect())
                .collect(),
            images: float_rows("image")?,
            false_images: float_rows("false_image_0")?,
            matched,
            mlm_masks: masks("mask_noise_mlm")?,
            itm_masks: masks("mask_noise_itm")?,
            lengths,
        })
    }

    /// Returns the batch as the loader makes it ([`Batch`]); dropout is disabled.
    pub(super) fn batch(&self) -> Batch {
        let sample = |i: usize| {
            let sequence = |group, text, image, mask: &PatchMask| Sequence {
                group,
                text: Some(text),
                image: Some(image),
                token_type: 1,
                mask: Some(mask.clone()),
            };
            let mut images = vec![self.images[i].clone()];
            if !self.matched[i] {
                images.push(self.false_images[i].clone());
            }
            let masked = Text {
                ids: self.mlm_texts[i].clone(),
                labels: self.labels[i].clone(),
            };
            Sample {
                item: i,
                sequences: vec![
                    sequence(MODELLING, 0, 0, &self.mlm_masks[i]),
                    sequence(MATCHING, 1, images.len() as u32 - 1, &self.itm_masks[i]),
                ],
                images: images.into_iter().map(Pixels::square).collect(),
                texts: vec![masked, Text::unmasked(self.texts[i].clone())],
                target: Target::Class(self.matched[i] as u32),
            }
        };
        Batch::collate(Position::default(), (0..self.texts.len()).map(sample).collect())
    }
}

/// Compares the packed matrix `got` with the recorded padded activation `name`, `[batch, length, width]`. Sequence `s` has the packed rows
/// `rows(s)`: `lengths[s]` text tokens, then image tokens, which begin at position `padded_text_len` of the padded activation.
fn compare_packed(
    subject: &Subject,
    got: &[f32],
    rows: impl Fn(usize) -> Vec<usize>,
    t: &Tensors,
    name: &str,
    lengths: &[usize],
    padded_text_len: usize,
) -> Outcome {
    let ([_, length, width], padded) = (t.shape(name)?, t.f32(name)?);
    let (mut packed, mut recorded) = (Vec::new(), Vec::new());
    for (s, n) in lengths.iter().enumerate() {
        let valid = (0..length).filter(|i| i < n || *i >= padded_text_len);
        for (row, position) in rows(s).into_iter().zip(valid) {
            packed.extend_from_slice(&got[row * width..][..width]);
            recorded.extend_from_slice(&padded[(s * length + position) * width..][..width]);
        }
    }
    subject.close(name, &packed, &recorded, 2e-5)
}

pub(super) fn one_pretraining_step_equals_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let (config, mask_ratio) = config(&directory, HEADS)?;
        let text_length = config.max_text_len;
        let mut model = load(&directory, "pretrain.ckpt", config)?;
        model.set_compute(compute);
        let t = Tensors::open(directory.join("pretrain_step.safetensors"))?;
        let recorded = RecordedBatch::read(&t, "", mask_ratio)?;
        let labels: Vec<f32> = recorded.matched.iter().map(|m| *m as u8 as f32).collect();
        equal("itm_labels", labels, t.f32("itm_labels")?)?;

        let tape = Tape::new(model.compute());
        let mut intermediates = Vec::new();
        let outcome = task()?.forward_tracing(model.vlc(), &tape, &recorded.batch(), &mut |name, v| {
            intermediates.push((name.to_string(), v.tensor().to_host().to_vec()));
        });
        let mut logits = |name: &str| {
            let index = intermediates.iter().position(|(n, _)| n == name);
            let index = index.ok_or_else(|| format!("there are no {name}"))?;
            Ok::<_, String>(intermediates.remove(index).1)
        };
        let (mlm_logits, itm_logits) = (logits("mlm_logits")?, logits("itm_logits")?);
        for (name, values) in &intermediates {
            compare_activation(subject, &recorded, &t, text_length, name, values)?;
        }

        let (padded, [_, _, classes]) = (t.f32("mlm_logits")?, t.shape("mlm_logits")?);
        let want: Vec<f32> = recorded
            .labels
            .iter()
            .enumerate()
            .flat_map(|(s, l)| {
                l.iter()
                    .enumerate()
                    .filter(|(_, l)| l.is_some())
                    .map(move |(i, _)| s * text_length + i)
            })
            .flat_map(|row| padded[row * classes..][..classes].to_vec())
            .collect();
        subject.close("mlm_logits", &mlm_logits, &want, 2e-5)?;
        subject.close("itm_logits", &itm_logits, &t.f32("itm_logits")?, 2e-5)?;

        for (name, key) in ["mlm_loss", "mae_loss", "itm_loss"].into_iter().zip(LOSSES) {
            let loss = measure_value(&outcome, key)?;
            subject.close(name, &[loss], &t.f32(&format!("loss.{name}"))?, 1e-5)?;
        }
        let wpa = measure_value(&outcome, LOSSES[3])?;
        subject.within("itm_wpa_loss", &[wpa], &t.f32("loss.itm_wpa_loss")?, 1e-6)?;
        let predictions = mlm_logits
            .chunks_exact(classes)
            .zip(recorded.labels.iter().flatten().flatten());
        let hits = predictions
            .filter(|(row, label)| argmax(row) == **label as usize)
            .count();
        // The measure is the number of hits; a report divides it by the number of masked tokens.
        equal("mlm/accuracy", measure_value(&outcome, "mlm/accuracy")?, hits as f32)?;
        let total = outcome.total().tensor().item();
        subject.close("total", &[total], &t.f32("loss.total")?, 1e-5)?;

        subject.gradients(&model, tape, outcome.total(), &t)?;
    }
    Ok(())
}

/// Compares an activation of both objectives, whose sequences follow each other, with the recorded ones.
fn compare_activation(
    subject: &Subject,
    recorded: &RecordedBatch,
    t: &Tensors,
    text_length: usize,
    name: &str,
    values: &[f32],
) -> Outcome {
    let samples = recorded.lengths.len();
    for (objective, first) in [("mlm", 0), ("itm", samples)] {
        let golden = format!("act.{objective}.{name}");
        let (image_tokens, padded_text_len) = if name == "text_embeddings" {
            let [_, length, _] = t.shape(&golden)?;
            (0, length)
        } else {
            (1 + recorded.mlm_masks[0].kept.len(), text_length)
        };
        let lengths = recorded.lengths.iter().chain(&recorded.lengths);
        let starts: Vec<usize> = lengths
            .scan(0, |row, n| {
                let start = *row;
                *row += n + image_tokens;
                Some(start)
            })
            .collect();
        let rows = |s: usize| (starts[first + s]..starts[first + s] + recorded.lengths[s] + image_tokens).collect();
        compare_packed(subject, values, rows, t, &golden, &recorded.lengths, padded_text_len)?;
    }
    Ok(())
}

pub(super) fn pooled_features_and_decoder_equal_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let (config, mask_ratio) = config(&directory, HEADS)?;
        let mut model = load(&directory, "pretrain.ckpt", config)?;
        model.set_compute(compute);
        let t = Tensors::open(directory.join("pretrain_step.safetensors"))?;
        let recorded = RecordedBatch::read(&t, "", mask_ratio)?;
        let tape = Tape::inference(model.compute());
        let itm_image = |i: usize| {
            let source = if recorded.matched[i] {
                &recorded.images
            } else {
                &recorded.false_images
            };
            source[i].clone()
        };
        let itm_images: Vec<Vec<f32>> = (0..recorded.texts.len()).map(itm_image).collect();
        for (objective, texts, images, masks) in [
            ("mlm", &recorded.mlm_texts, &recorded.images, &recorded.mlm_masks),
            ("itm", &recorded.texts, &itm_images, &recorded.itm_masks),
        ] {
            let sequences: Vec<Sequence> = (0..texts.len())
                .map(|i| Sequence {
                    group: 0,
                    text: Some(i as u32),
                    image: Some(i as u32),
                    token_type: 1,
                    mask: Some(masks[i].clone()),
                })
                .collect();
            let inputs = Inputs {
                images: images
                    .iter()
                    .map(|image| Planes::square(image, model.config().image_size()))
                    .collect(),
                texts: texts.iter().map(Vec::as_slice).collect(),
                sequences: &sequences,
            };
            let encoded = model.vlc().encode(&tape, &inputs, None);
            let pooled = model.vlc().pool(&tape, &encoded, 0..texts.len());
            let name = format!("act.{objective}.pooled");
            subject.close(&name, &pooled.tensor().to_host(), &t.f32(&name)?, 2e-5)?;
            if objective == "mlm" {
                let all_patches = |m: &PatchMask| (0..m.ids_restore.len() as u32).collect();
                let masks: Vec<&PatchMask> = masks.iter().collect();
                let prediction = model.vlc().decode(&tape, &encoded, 0..texts.len(), &masks, all_patches);
                let [_, tokens, width] = t.shape("act.mlm.decoder_pred")?;
                // The recorded prediction of each image begins with the class token.
                let want: Vec<f32> = t
                    .f32("act.mlm.decoder_pred")?
                    .chunks_exact(tokens * width)
                    .flat_map(|image| image[width..].to_vec())
                    .collect();
                subject.close("decoder_pred", &prediction.tensor().to_host(), &want, 2e-5)?;
            }
        }
    }
    Ok(())
}

/// Runs the ten recorded training steps. Returns the losses of each step, in the order of [`LOSSES`].
pub(super) fn run_ten_steps(model: &mut Model, t: &Tensors, mask_ratio: f64) -> Result<Vec<[f32; 4]>, String> {
    let mut optimizer = Optimizer::new(Rule::AdamW, model.parameters());
    let mut gradients = Gradients::new(model.parameters());
    let properties: Vec<(String, usize, bool)> = model
        .parameters()
        .iter()
        .map(|(_, p)| (p.name.clone(), p.shape.len(), !p.trainable))
        .collect();
    let parameters: Vec<Parameter> = properties
        .iter()
        .map(|(name, dimensions, frozen)| Parameter {
            name,
            dimensions: *dimensions,
            frozen: *frozen,
        })
        .collect();
    let groups = pretrain_groups(&parameters, 0.01, 1.0);
    let weight_decay = |parameter: &Parameter| {
        let group = groups.iter().find(|g| g.members.iter().any(|m| *m == parameter.name));
        let group = group.ok_or_else(|| format!("{} is in no group", parameter.name))?;
        Ok(group.weight_decay)
    };
    let weight_decays = parameters
        .iter()
        .map(weight_decay)
        .collect::<Result<Vec<_>, String>>()?;
    let train_step = |(step, rate): (usize, f32)| {
        let recorded = RecordedBatch::read(t, &format!("{step}."), mask_ratio)?;
        let tape = Tape::new(model.compute());
        let outcome = task()?.forward(model, &tape, &recorded.batch());
        let mut losses = [0f32; 4];
        for (loss, key) in losses.iter_mut().zip(LOSSES) {
            *loss = measure_value(&outcome, key)?;
        }
        gradients.clear();
        tape.backward(outcome.total(), 1.0, &mut gradients);
        drop(outcome);
        optimizer.step(model.parameters_mut(), &gradients, None, |id| Hyperparameters {
            learning_rate: rate as f64,
            weight_decay: weight_decays[id.index()],
        });
        Ok(losses)
    };
    t.f32("lrs")?.into_iter().enumerate().map(train_step).collect()
}

pub(super) fn ten_training_steps_equal_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let (config, mask_ratio) = config(&directory, HEADS)?;
        let mut model = load(&directory, "pretrain.ckpt", config)?;
        model.set_compute(compute);
        let t = Tensors::open(directory.join("pretrain_10_steps.safetensors"))?;
        let losses = t.rows("losses", 10)?;
        let steps = run_ten_steps(&mut model, &t, mask_ratio)?;
        equal("number of steps", steps.len(), losses.len())?;
        for (step, (got, want)) in steps.iter().zip(&losses).enumerate() {
            for i in 0..3 {
                subject.close(&format!("step {step} loss {i}"), &got[i..=i], &want[i..=i], 1e-5)?;
            }
            subject.within(&format!("step {step} alignment"), &got[3..], &want[3..], 1e-6)?;
        }
        for (id, parameter) in model.parameters().iter() {
            let want = t.f32(&format!("final.{}", parameter.name))?;
            subject.parameter(&parameter.name, &model.parameters().tensor(id).to_host(), &want, 5e-3)?;
        }
    }
    Ok(())
}
