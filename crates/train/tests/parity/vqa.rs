//! One fine-tuning step of visual question answering against the numbers of the original.

use super::{assert_gradients, config, load, texts};
use std::path::Path;
use vlct_golden::{Tensors, assert_close, directories};
use vlct_model::Vlc;
use vlct_model::config::Heads;
use vlct_tensor::Tape;
use vlct_train::objectives::VqaStep;

/// A recorded batch of questions, in the form that the objective takes.
pub(super) struct Recorded {
    texts: Vec<Vec<u32>>,
    pictures: Vec<f32>,
    targets: Vec<Vec<(u32, f32)>>,
}

impl Recorded {
    pub(super) fn read(t: &Tensors) -> Self {
        let named = |row: &[f32]| {
            let named = (0u32..).zip(row).filter(|(_, score)| **score > 0.0);
            named.map(|(answer, score)| (answer, *score)).collect()
        };
        Self {
            texts: texts(t, "text_ids", "text_masks"),
            pictures: t.f32("image"),
            targets: t
                .f32("vqa_targets")
                .chunks_exact(t.shape("vqa_logits")[1])
                .map(named)
                .collect(),
        }
    }

    pub(super) fn step(&self) -> VqaStep<'_> {
        VqaStep {
            texts: self.texts.iter().map(Vec::as_slice).collect(),
            pictures: self
                .pictures
                .chunks_exact(self.pictures.len() / self.texts.len())
                .collect(),
            targets: self.targets.iter().map(Vec::as_slice).collect(),
            dropout: None,
        }
    }
}

/// The recorded model.
pub(super) fn model(folder: &Path, t: &Tensors) -> Vlc {
    let heads = Heads {
        vqa: Some(t.shape("vqa_logits")[1]),
        ..Heads::default()
    };
    load(folder, "vqa.ckpt", config(folder, heads).0)
}

#[test]
fn one_answering_step_equals_the_original() {
    for folder in directories("model") {
        let t = Tensors::open(folder.join("vqa_step.safetensors"));
        let (answers, recorded) = (t.shape("vqa_logits")[1], t.f32("vqa_targets"));
        let (model, batch) = (model(&folder, &t), Recorded::read(&t));
        let step = batch.step();
        let tape = Tape::new(model.compute());
        let outcome = step.run(&model, &tape);
        let logits = outcome.logits.tensor().to_host().to_vec();
        assert_close("vqa_logits", &logits, &t.f32("vqa_logits"), 2e-5);
        assert_close("vqa_loss", &[outcome.total.tensor().item()], &t.f32("vqa_loss"), 1e-5);
        let best = |logits: &[f32]| (0..answers).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        let rows = logits.chunks_exact(answers).zip(recorded.chunks_exact(answers));
        let score: f32 = rows.map(|(logits, targets)| targets[best(logits)]).sum();
        assert_eq!(outcome.score, score);
        assert_gradients(&model, tape, &outcome.total, &t);
    }
}
