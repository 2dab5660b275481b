//! Compares a pre-training step and ten training steps with the values of the original.

use super::{TestDevice, argmax, assert_gradients, assert_parameter, config, load, measure_value, recorded_models};
use vlct_data::loader::{Pixels, Position};
use vlct_golden::{Tensors, assert_close, assert_within};
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
pub(super) fn task() -> Pretrain {
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
    Pretrain::new(spec, 0).expect("a valid specification")
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
    pub(super) fn read(t: &Tensors, prefix: &str, mask_ratio: f64) -> Self {
        let key = |name: &str| format!("{prefix}{name}");
        let samples = t.shape(&key("text_ids"))[0];
        let rows = |name: &str| -> Vec<Vec<i64>> {
            let values = t.i64(&key(name));
            values
                .chunks_exact(values.len() / samples)
                .map(<[i64]>::to_vec)
                .collect()
        };
        let float_rows = |name: &str| -> Vec<Vec<f32>> {
            let values = t.f32(&key(name));
            values
                .chunks_exact(values.len() / samples)
                .map(<[f32]>::to_vec)
                .collect()
        };
        let lengths: Vec<usize> = rows("text_masks")
            .iter()
            .map(|m| m.iter().filter(|v| **v != 0).count())
            .collect();
        let ids = |name: &str| -> Vec<Vec<u32>> {
            rows(name)
                .iter()
                .zip(&lengths)
                .map(|(r, n)| r[..*n].iter().map(|v| *v as u32).collect())
                .collect()
        };
        // The original permutes a list of labels whose first half is 1.
        let permutation = t.i64(&key("itm_permutation"));
        let matched = permutation.iter().map(|i| (*i as usize) < samples / 2).collect();
        let masks = |name: &str| {
            float_rows(name)
                .iter()
                .map(|n| PatchMask::from_noise(n, mask_ratio))
                .collect()
        };
        Self {
            texts: ids("text_ids"),
            mlm_texts: ids("text_ids_mlm"),
            labels: rows("text_labels_mlm")
                .iter()
                .zip(&lengths)
                .map(|(r, n)| r[..*n].iter().map(|v| u32::try_from(*v).ok()).collect())
                .collect(),
            lengths,
            images: float_rows("image"),
            false_images: float_rows("false_image_0"),
            matched,
            mlm_masks: masks("mask_noise_mlm"),
            itm_masks: masks("mask_noise_itm"),
        }
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
fn assert_packed(
    got: &[f32],
    rows: impl Fn(usize) -> Vec<usize>,
    t: &Tensors,
    name: &str,
    lengths: &[usize],
    padded_text_len: usize,
) {
    let (shape, padded) = (t.shape(name), t.f32(name));
    let (length, width) = (shape[1], shape[2]);
    let (mut packed, mut recorded) = (Vec::new(), Vec::new());
    for (s, n) in lengths.iter().enumerate() {
        let valid = (0..length).filter(|i| i < n || *i >= padded_text_len);
        for (row, position) in rows(s).into_iter().zip(valid) {
            packed.extend_from_slice(&got[row * width..][..width]);
            recorded.extend_from_slice(&padded[(s * length + position) * width..][..width]);
        }
    }
    assert_close(name, &packed, &recorded, 2e-5);
}

pub(super) fn one_pretraining_step_equals_the_original(device: TestDevice) {
    for (directory, compute) in recorded_models(device) {
        let (config, mask_ratio) = config(&directory, HEADS);
        let text_length = config.max_text_len;
        let mut model = load(&directory, "pretrain.ckpt", config);
        model.set_compute(compute);
        let t = Tensors::open(directory.join("pretrain_step.safetensors"));
        let recorded = RecordedBatch::read(&t, "", mask_ratio);
        let samples = recorded.lengths.len();
        let labels: Vec<f32> = recorded.matched.iter().map(|m| *m as u8 as f32).collect();
        assert_eq!(labels, t.f32("itm_labels"));

        let tape = Tape::new(model.compute());
        let mut intermediates = Vec::new();
        let outcome = task().forward_tracing(model.vlc(), &tape, &recorded.batch(), &mut |name, v| {
            intermediates.push((name.to_string(), v.tensor().to_host().to_vec()));
        });
        let mut logits = |name: &str| {
            let index = intermediates.iter().position(|(n, _)| n == name).expect("logits");
            intermediates.remove(index).1
        };
        let (mlm_logits, itm_logits) = (logits("mlm_logits"), logits("itm_logits"));
        let kept = recorded.mlm_masks[0].kept.len();
        for (name, values) in &intermediates {
            for (objective, first) in [("mlm", 0), ("itm", samples)] {
                let golden = format!("act.{objective}.{name}");
                assert!(t.has(&golden), "{golden}");
                let lengths = recorded.lengths.iter().chain(&recorded.lengths);
                let (image_tokens, padded_text_len) = if name == "text_embeddings" {
                    (0, t.shape(&golden)[1])
                } else {
                    (1 + kept, text_length)
                };
                let starts: Vec<usize> = lengths
                    .scan(0, |row, n| {
                        let start = *row;
                        *row += n + image_tokens;
                        Some(start)
                    })
                    .collect();
                let rows =
                    |s: usize| (starts[first + s]..starts[first + s] + recorded.lengths[s] + image_tokens).collect();
                assert_packed(values, rows, &t, &golden, &recorded.lengths, padded_text_len);
            }
        }

        let (padded, classes) = (t.f32("mlm_logits"), t.shape("mlm_logits")[2]);
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
        assert_close("mlm_logits", &mlm_logits, &want, 2e-5);
        assert_close("itm_logits", &itm_logits, &t.f32("itm_logits"), 2e-5);

        let [mlm, mae, itm, wpa] = LOSSES.map(|key| measure_value(&outcome, key));
        for (name, loss) in [("mlm_loss", mlm), ("mae_loss", mae), ("itm_loss", itm)] {
            assert_close(name, &[loss], &t.f32(&format!("loss.{name}")), 1e-5);
        }
        assert_within("itm_wpa_loss", &[wpa], &t.f32("loss.itm_wpa_loss"), 1e-6);
        let predictions = mlm_logits
            .chunks_exact(classes)
            .zip(recorded.labels.iter().flatten().flatten());
        let hits = predictions
            .filter(|(row, label)| argmax(row) == **label as usize)
            .count();
        // The measure is the number of hits; a report divides it by the number of masked tokens.
        assert_eq!(measure_value(&outcome, "mlm/accuracy"), hits as f32);
        assert_close("total", &[outcome.total().tensor().item()], &t.f32("loss.total"), 1e-5);

        assert_gradients(&model, tape, outcome.total(), &t);
    }
}

pub(super) fn pooled_features_and_decoder_equal_the_original(device: TestDevice) {
    for (directory, compute) in recorded_models(device) {
        let (config, mask_ratio) = config(&directory, HEADS);
        let mut model = load(&directory, "pretrain.ckpt", config);
        model.set_compute(compute);
        let t = Tensors::open(directory.join("pretrain_step.safetensors"));
        let recorded = RecordedBatch::read(&t, "", mask_ratio);
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
            assert_close(&name, &pooled.tensor().to_host(), &t.f32(&name), 2e-5);
            if objective == "mlm" {
                let all_patches = |m: &PatchMask| (0..m.ids_restore.len() as u32).collect();
                let prediction = model
                    .vlc()
                    .decode(
                        &tape,
                        &encoded,
                        0..texts.len(),
                        &masks.iter().collect::<Vec<_>>(),
                        all_patches,
                    )
                    .tensor()
                    .to_host()
                    .to_vec();
                let shape = t.shape("act.mlm.decoder_pred");
                let (tokens, width) = (shape[1], shape[2]);
                // The recorded prediction of each image begins with the class token.
                let want: Vec<f32> = t
                    .f32("act.mlm.decoder_pred")
                    .chunks_exact(tokens * width)
                    .flat_map(|image| image[width..].to_vec())
                    .collect();
                assert_close("decoder_pred", &prediction, &want, 2e-5);
            }
        }
    }
}

/// Runs the ten recorded training steps. Returns the losses of each step, in the order of [`LOSSES`].
pub(super) fn run_ten_steps(model: &mut Model, t: &Tensors, mask_ratio: f64) -> Vec<[f32; 4]> {
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
    let train_step = |(step, rate): (usize, f32)| {
        let recorded = RecordedBatch::read(t, &format!("{step}."), mask_ratio);
        let tape = Tape::new(model.compute());
        let outcome = task().forward(model, &tape, &recorded.batch());
        let losses = LOSSES.map(|key| measure_value(&outcome, key));
        gradients.clear();
        tape.backward(outcome.total(), 1.0, &mut gradients);
        drop(outcome);
        optimizer.step(model.parameters_mut(), &gradients, None, |id| {
            let group = groups
                .iter()
                .find(|g| g.members.iter().any(|m| *m == parameters[id.index()].name));
            Hyperparameters {
                learning_rate: rate as f64,
                weight_decay: group.expect("in a group").weight_decay,
            }
        });
        losses
    };
    t.f32("lrs").into_iter().enumerate().map(train_step).collect()
}

pub(super) fn ten_training_steps_equal_the_original(device: TestDevice) {
    for (directory, compute) in recorded_models(device) {
        let (config, mask_ratio) = config(&directory, HEADS);
        let mut model = load(&directory, "pretrain.ckpt", config);
        model.set_compute(compute);
        let t = Tensors::open(directory.join("pretrain_10_steps.safetensors"));
        let losses = t.f32("losses");
        for (step, got) in run_ten_steps(&mut model, &t, mask_ratio).iter().enumerate() {
            let want = &losses[step * 4..][..4];
            for i in 0..3 {
                assert_close(&format!("step {step} loss {i}"), &got[i..=i], &want[i..=i], 1e-5);
            }
            assert_within(&format!("step {step} alignment"), &got[3..], &want[3..], 1e-6);
        }
        for (id, parameter) in model.parameters().iter() {
            let want = t.f32(&format!("final.{}", parameter.name));
            assert_parameter(&parameter.name, &model.parameters().tensor(id).to_host(), &want, 5e-3);
        }
    }
}
