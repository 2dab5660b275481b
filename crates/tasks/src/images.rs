//! Classes of images, as in ImageNet: one class for each image, read by an image classifier.

use std::collections::HashMap;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use vlct_data::datasets::{Answer, Contents, Dataset};
use vlct_data::loader::Pixels;
use vlct_data::random::{Purpose, stream};
use vlct_model::{DropPath, Model, Sequence, VitConfig};
use vlct_tensor::Tape;

use crate::batch::{Batch, Sample, Target, target_scores};
use crate::confusion::{ClassResult, Confusion};
use crate::metrics::{Phase, Report, Tally};
use crate::mixup::MixupSpec;
use crate::probabilities::{softmax, top};
use crate::rows::{Row, Rows};
use crate::sample::{SampleContext, SampleError, Unreadable};
use crate::task::{Outcome, Task};

/// Number of classes of an image that are kept for the metrics and the predictions.
pub(crate) const TOP: usize = 5;

/// Settings of the task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImagesSpec {
    /// The name of each class, by id.
    pub names: Vec<String>,
    /// Label smoothing: the part of the target that is shared by all classes, in training.
    pub smoothing: f32,
    /// Mixup and CutMix in training.
    pub mixup: Option<MixupSpec>,
}

/// The task of classifying images.
#[derive(Clone, Debug)]
pub struct Images {
    spec: ImagesSpec,
    ids: HashMap<String, u32>,
}

impl Images {
    /// Makes the task.
    pub fn new(spec: ImagesSpec) -> Self {
        let ids = (0..).zip(&spec.names).map(|(id, name)| (name.clone(), id)).collect();
        Self { spec, ids }
    }

    /// Returns the class of an item whose image cannot be read; `None` if the item has no class that is known.
    fn class_of(&self, data: &dyn Dataset, item: usize) -> Option<u32> {
        self.ids.get(&data.class_name(item)?).copied()
    }
}

impl Task for Images {
    fn contents(&self) -> Contents {
        Contents::Labels
    }

    /// Makes a sequence of the image alone.
    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let target = match cx.answer() {
            Answer::Labels(names) => match names.as_slice() {
                [name] => match self.ids.get(name) {
                    Some(id) => Target::Class(*id),
                    None => return Err(cx.fatal(&format!("class {name:?} is not one of the model's classes"))),
                },
                names => return Err(cx.fatal(&format!("{} classes instead of one", names.len()))),
            },
            _ => Target::None,
        };
        Ok(Sample {
            item: cx.item(),
            sequences: vec![Sequence::FIRST_IMAGE],
            images: vec![cx.image(0, &mut cx.rng(Purpose::Augmentation))?],
            texts: Vec::new(),
            target,
        })
    }

    /// Mixes the images of a micro-batch with each other. A mixed image has both classes as its target.
    fn finish_batch(&self, seed: u64, batch: &mut Batch) {
        let Some(mixup) = self.spec.mixup.as_ref().filter(|mixup| mixup.is_active()) else {
            return;
        };
        let Some(classes) = batch.classes() else { return };
        let Some([side, _]) = batch.images.first().map(Pixels::size) else {
            return;
        };
        let rng = &mut stream(seed, Purpose::Mixup, batch.position.epoch, batch.position.batch);
        let mut images: Vec<&mut [f32]> = batch.images.iter_mut().map(|image| &mut **image).collect();
        let weights = mixup.mix(&mut images, side, rng);
        let pairs = classes.iter().zip(classes.iter().rev()).zip(weights);
        batch.targets = pairs
            .map(|((own, other), weight)| match own == other {
                true => Target::Scores(vec![(*own, 1.0)]),
                false => Target::Scores(vec![(*own, weight), (*other, 1.0 - weight)]),
            })
            .collect();
    }

    /// Computes logits `[images, classes]` and the cross-entropy, in training with smoothed and mixed targets.
    ///
    /// # Panics
    /// Panics if the model is not an image classifier.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let model = model.vit();
        let images: Vec<&[f32]> = batch.images.iter().map(|image| &**image).collect();
        let drop_path = batch
            .dropout
            .and_then(|key| draw_drop_path(model.config(), images.len(), key));
        let (logits, statistics) = match batch.dropout {
            Some(_) => model.training_logits(tape, &images, drop_path.as_ref()),
            None => (model.logits(tape, &images), None),
        };
        let mut outcome = Outcome {
            logits: Some(logits.clone()),
            statistics,
            ..Outcome::default()
        };
        let smoothing = if batch.dropout.is_some() {
            self.spec.smoothing
        } else {
            0.0
        };
        let classes = batch.classes();
        let loss = match &classes {
            Some(classes) if smoothing == 0.0 => tape.cross_entropy(&logits, classes.clone()),
            _ => {
                let one = |target: &Target| match target {
                    Target::Class(class) => Target::Scores(vec![(*class, 1.0)]),
                    other => other.clone(),
                };
                let targets: Vec<Target> = batch.targets.iter().map(one).collect();
                match target_scores(tape.device(), &targets, logits.columns(), smoothing) {
                    Some(targets) => tape.soft_cross_entropy(&logits, targets),
                    None => return outcome,
                }
            }
        };
        outcome = outcome.with_loss("images/loss", &loss, 1.0);
        if let Some(classes) = classes {
            let hits = tape.hits(&logits, &classes);
            outcome = outcome.with_sum("images/accuracy", hits, batch.len());
        }
        outcome.loss = Some(loss);
        outcome
    }

    fn record(&self, data: &dyn Dataset, batch: &Batch, outcome: &Outcome, rows: &mut Rows) -> vlct_data::Result<()> {
        for Unreadable { item, reason } in &batch.unreadable {
            let class = self.class_of(data, *item);
            let reason = reason.clone();
            rows.insert(*item, Row::Unreadable { class, reason });
        }
        let Some(logits) = &outcome.logits else { return Ok(()) };
        let (columns, values) = (logits.columns(), logits.tensor().to_host());
        let samples = batch.items.iter().zip(&batch.targets);
        for ((item, target), logits) in samples.zip(values.chunks_exact(columns)) {
            if let Target::Class(class) = target {
                let probabilities = softmax(logits);
                let top = top(logits, TOP).into_iter();
                let top = top.map(|class| (class as u32, probabilities[class])).collect();
                rows.insert(*item, Row::Class { class: *class, top });
            }
        }
        Ok(())
    }

    /// Reports loss and accuracy and, in evaluation, the part of the images whose class is among the five of the largest logits
    /// (`top5`), and the accuracy of each class. The best checkpoint is selected by accuracy. In evaluation, accuracies are those of the
    /// images that can be read; the images that replace the others are counted in the loss only.
    fn report(&self, phase: Phase, tally: &Tally, rows: &Rows) -> Report {
        if phase == Phase::Train || rows.is_empty() {
            return Report::from_tally(phase, tally, &["images/accuracy", "images/loss"], &["images/accuracy"]);
        }
        let metric = |name: &str| phase.metric_name(&format!("images/{name}"));
        let classes = Confusion::of_rows(&self.spec.names, rows).classes();
        let images: u64 = classes.iter().map(|class| class.images).sum();
        let correct: u64 = classes.iter().map(|class| class.correct).sum();
        let is_among_top = |row: &&Row| matches!(row, Row::Class { class, top } if top.iter().any(|(predicted, _)| predicted == class));
        let among = rows.values().filter(is_among_top).count();
        let accuracy = correct as f64 / images as f64;
        let mut report = Report::from_tally(phase, tally, &["images/loss"], &[]);
        report.values.insert(0, (metric("accuracy_epoch"), accuracy));
        report.values.push((metric("top5_epoch"), among as f64 / images as f64));
        report.selection.push(accuracy);
        let detail = |result: &ClassResult| {
            let name = &self.spec.names[result.class as usize];
            (metric(&format!("accuracy/{name}")), result.accuracy())
        };
        report.details = classes.iter().map(detail).collect();
        report
    }
}

/// Draws which sublayers are left out for which of `images` images; `None` if none is ever left out. `key` is the micro-batch's key for
/// random decisions of the forward pass: seed, purpose, epoch, batch.
fn draw_drop_path(config: &VitConfig, images: usize, [seed, _, epoch, batch]: [u64; 4]) -> Option<DropPath> {
    if config.drop_path <= 0.0 {
        return None;
    }
    let mut rng = stream(seed, Purpose::DropPath, epoch, batch);
    let mut factors = |rate: f32| -> Vec<f32> {
        let keep = 1.0 - rate;
        let draw = |_| if rng.random::<f32>() < keep { 1.0 / keep } else { 0.0 };
        (0..images).map(draw).collect()
    };
    let of_block = |block| {
        let rate = config.drop_rate(block);
        [factors(rate), factors(rate)]
    };
    Some(DropPath {
        factors: (0..config.depth).map(of_block).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mixup::MixupMode;
    use vlct_data::loader::{Pixels, Position};
    use vlct_model::Vit;
    use vlct_tensor::Compute;

    fn config(drop_path: f32) -> VitConfig {
        VitConfig {
            image_size: 8,
            patch_size: 4,
            width: 8,
            depth: 3,
            heads: 2,
            classes: 7,
            global_pool: true,
            drop_path,
            layer_norm_eps: 1e-6,
            linear_probe: false,
        }
    }

    fn model() -> Model {
        let mut model = Vit::new(config(0.0));
        vlct_model::initialise::initialise_vit(&mut model, |i| stream(3, Purpose::Initialisation, 0, i));
        // Larger weights, so that the classes differ.
        let head = model.parameters().id("head.weight").unwrap();
        let values: Vec<f32> = model
            .parameters()
            .tensor(head)
            .to_host()
            .iter()
            .map(|v| v * 100.0)
            .collect();
        model.parameters_mut().set(head, &values);
        model.into()
    }

    fn batch(classes: &[u32], is_training: bool) -> Batch {
        let samples = classes.iter().enumerate().map(|(item, class)| Sample {
            item,
            images: vec![Pixels::square(
                (0..192)
                    .map(|i| ((i * (item + 2)) % 13) as f32 / 6.0 - 1.0)
                    .collect::<Vec<_>>(),
            )],
            texts: Vec::new(),
            sequences: vec![Sequence::FIRST_IMAGE],
            target: Target::Class(*class),
        });
        let mut batch = Batch::collate(Position { epoch: 1, batch: 2 }, samples.collect());
        batch.dropout = is_training.then_some([5, 0, 1, 2]);
        batch
    }

    fn task(smoothing: f32, mixup: Option<MixupSpec>) -> Images {
        Images::new(ImagesSpec {
            names: (0..7).map(|i| format!("class {i}")).collect(),
            smoothing,
            mixup,
        })
    }

    fn loss(task: &Images, batch: &Batch) -> f32 {
        let outcome = task.forward(&model(), &Tape::inference(Compute::default()), batch);
        outcome.total().tensor().item()
    }

    /// Cross-entropy with the target `on` at the classes and the rest divided among all classes.
    fn smoothed(batch: &Batch, smoothing: f32) -> f32 {
        let model = model();
        let tape = Tape::inference(Compute::default());
        let images: Vec<&[f32]> = batch.images.iter().map(|image| &**image).collect();
        let logits = model.vit().logits(&tape, &images).tensor().to_host().into_owned();
        let rows = logits.chunks_exact(7).zip(batch.classes().unwrap());
        let losses = rows.map(|(row, class)| {
            let log_sum = row.iter().map(|v| v.exp()).sum::<f32>().ln();
            let negative_log: Vec<f32> = row.iter().map(|v| log_sum - v).collect();
            let mean = negative_log.iter().sum::<f32>() / 7.0;
            (1.0 - smoothing) * negative_log[class as usize] + smoothing * mean
        });
        losses.sum::<f32>() / batch.len() as f32
    }

    #[test]
    fn the_loss_is_smoothed_in_training_only() {
        for smoothing in [0.0, 0.1] {
            let task = task(smoothing, None);
            let (training, evaluation) = (batch(&[1, 6, 1], true), batch(&[1, 6, 1], false));
            assert!((loss(&task, &training) - smoothed(&training, smoothing)).abs() < 1e-5);
            assert!((loss(&task, &evaluation) - smoothed(&evaluation, 0.0)).abs() < 1e-5);
        }
    }

    #[test]
    fn mixed_images_have_both_classes_as_target() {
        let mixup = MixupSpec {
            mixup_alpha: 0.8,
            cutmix_alpha: 1.0,
            cutmix_minmax: None,
            probability: 1.0,
            switch_probability: 0.5,
            mode: MixupMode::Elem,
        };
        let task = task(0.1, Some(mixup));
        let mut mixed = batch(&[0, 3, 3, 5], true);
        let before = mixed.images.clone();
        task.finish_batch(5, &mut mixed);
        assert_ne!(mixed.images, before);
        assert_eq!(
            mixed.targets[1],
            Target::Scores(vec![(3, 1.0)]),
            "both images have the class"
        );
        let Target::Scores(scores) = &mixed.targets[0] else {
            panic!("scores")
        };
        assert_eq!((scores[0].0, scores[1].0), (0, 5));
        assert!((scores[0].1 + scores[1].1 - 1.0).abs() < 1e-6);
        assert!(loss(&task, &mixed).is_finite());
        let mut again = batch(&[0, 3, 3, 5], true);
        task.finish_batch(5, &mut again);
        assert_eq!(again, mixed, "a function of seed, epoch and micro-batch");
        let mut other = batch(&[0, 3, 3, 5], true);
        task.finish_batch(6, &mut other);
        assert_ne!(other.images, mixed.images);
    }

    #[test]
    fn drop_path_leaves_sublayers_out_with_their_rate() {
        assert_eq!(draw_drop_path(&config(0.0), 4, [1, 0, 0, 0]), None);
        let drawn = draw_drop_path(&config(0.4), 10_000, [1, 0, 0, 0]).unwrap();
        for (block, sublayers) in drawn.factors.iter().enumerate() {
            let rate = 0.2 * block as f32;
            for factors in sublayers {
                let dropped = factors.iter().filter(|f| **f == 0.0).count() as f32 / 1e4;
                assert!((dropped - rate).abs() < 0.02, "block {block}: {dropped}");
                let kept = 1.0 / (1.0 - rate);
                assert!(factors.iter().all(|f| *f == 0.0 || (f - kept).abs() < 1e-6));
            }
        }
        assert_ne!(drawn.factors[1][0], drawn.factors[1][1], "sublayers are independent");
    }

    #[test]
    fn the_report_has_top_5_and_the_accuracy_of_each_class() {
        let task = task(0.0, None);
        let row = |class, top: &[u32]| Row::Class {
            class,
            top: top.iter().map(|class| (*class, 0.2)).collect(),
        };
        let rows: Rows = [
            (0, row(0, &[0, 1, 2, 3, 4])),
            (1, row(0, &[1, 2, 3, 4, 0])),
            (2, row(6, &[1, 2, 3, 4, 5])),
            (3, row(2, &[2, 1, 3, 4, 5])),
            (
                4,
                Row::Unreadable {
                    class: Some(3),
                    reason: "4.jpg: not an image".into(),
                },
            ),
        ]
        .into();
        let report = task.report(Phase::Val, &Tally::default(), &rows);
        let values = [("images/val/accuracy_epoch", 0.5), ("images/val/top5_epoch", 0.75)];
        assert_eq!(report.values, values.map(|(name, value)| (name.to_string(), value)));
        assert_eq!(report.the_metric(), 0.5);
        let details: Vec<(&str, f64)> = report
            .details
            .iter()
            .map(|(name, value)| (name.as_str(), *value))
            .collect();
        assert_eq!(
            details,
            [
                ("images/val/accuracy/class 0", 0.5),
                ("images/val/accuracy/class 2", 1.0),
                ("images/val/accuracy/class 6", 0.0)
            ]
        );
    }
}
