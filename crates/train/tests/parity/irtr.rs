//! One fine-tuning step of retrieval against the numbers of the original.

use super::{assert_gradients, config, load, texts};
use vlct_golden::{Tensors, assert_close, folders};
use vlct_model::config::Heads;
use vlct_tensor::Tape;
use vlct_train::objectives::IrtrStep;

#[test]
fn one_ranking_step_equals_the_original() {
    for folder in folders("model") {
        let t = Tensors::open(folder.join("irtr_step.safetensors"));
        let heads = Heads {
            itm: true,
            rank: true,
            ..Heads::default()
        };
        let model = load(&folder, "irtr.ckpt", config(&folder, heads).0);
        let mut captions = vec![texts(&t, "text_ids", "text_masks")];
        let name = |i: usize, what: &str| format!("false_text_{i}_{what}");
        captions.extend(
            (0..)
                .take_while(|i| t.has(&name(*i, "ids")))
                .map(|i| texts(&t, &name(i, "ids"), &name(i, "masks"))),
        );
        assert!(captions.len() > 1, "false captions");
        let (pictures, batch) = (t.f32("image"), captions[0].len());
        let step = IrtrStep {
            pictures: pictures.chunks_exact(pictures.len() / batch).collect(),
            texts: (0..batch)
                .map(|p| captions.iter().map(|c| c[p].as_slice()).collect())
                .collect(),
            dropout: None,
        };
        let tape = Tape::new(model.compute());
        let outcome = step.run(&model, &tape);
        assert_eq!(
            (outcome.scores.rows(), outcome.scores.columns()),
            (batch, captions.len())
        );
        assert_close("irtr_loss", &[outcome.total.tensor().item()], &t.f32("irtr_loss"), 1e-5);
        assert_gradients(&model, tape, &outcome.total, &t);
    }
}
