//! One fine-tuning step of retrieval against the numbers of the original.

use super::{assert_gradients, config, load, texts};
use std::path::Path;
use vlct_golden::{Tensors, assert_close, directories};
use vlct_model::Vlc;
use vlct_model::config::Heads;
use vlct_tensor::Tape;
use vlct_train::objectives::IrtrStep;

/// A recorded batch of pictures, each with its caption and false ones, in the form that the objective takes.
pub(super) struct Recorded {
    pictures: Vec<f32>,
    /// First the true captions, then each set of false ones.
    captions: Vec<Vec<Vec<u32>>>,
}

impl Recorded {
    pub(super) fn read(t: &Tensors) -> Self {
        let mut captions = vec![texts(t, "text_ids", "text_masks")];
        let name = |i: usize, what: &str| format!("false_text_{i}_{what}");
        captions.extend(
            (0..)
                .take_while(|i| t.has(&name(*i, "ids")))
                .map(|i| texts(t, &name(i, "ids"), &name(i, "masks"))),
        );
        assert!(captions.len() > 1, "false captions");
        Self {
            pictures: t.f32("image"),
            captions,
        }
    }

    fn batch(&self) -> usize {
        self.captions[0].len()
    }

    pub(super) fn step(&self) -> IrtrStep<'_> {
        IrtrStep {
            pictures: self.pictures.chunks_exact(self.pictures.len() / self.batch()).collect(),
            texts: (0..self.batch())
                .map(|p| self.captions.iter().map(|c| c[p].as_slice()).collect())
                .collect(),
            dropout: None,
        }
    }
}

/// The recorded model.
pub(super) fn model(folder: &Path) -> Vlc {
    let heads = Heads {
        itm: true,
        rank: true,
        ..Heads::default()
    };
    load(folder, "irtr.ckpt", config(folder, heads).0)
}

#[test]
fn one_ranking_step_equals_the_original() {
    for folder in directories("model") {
        let t = Tensors::open(folder.join("irtr_step.safetensors"));
        let (model, recorded) = (model(&folder), Recorded::read(&t));
        let tape = Tape::new(model.compute());
        let outcome = recorded.step().run(&model, &tape);
        assert_eq!(
            (outcome.scores.rows(), outcome.scores.columns()),
            (recorded.batch(), recorded.captions.len())
        );
        assert_close("irtr_loss", &[outcome.total.tensor().item()], &t.f32("irtr_loss"), 1e-5);
        assert_gradients(&model, tape, &outcome.total, &t);
    }
}
