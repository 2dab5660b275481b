//! One fine-tuning step of visual question answering against the numbers of the original.

use super::{assert_gradients, config, load, texts};
use vlct_golden::{Tensors, assert_close, folders};
use vlct_model::config::Heads;
use vlct_tensor::Tape;
use vlct_train::objectives::VqaStep;

#[test]
fn one_answering_step_equals_the_original() {
    for folder in folders("model") {
        let t = Tensors::open(folder.join("vqa_step.safetensors"));
        let answers = t.shape("vqa_logits")[1];
        let heads = Heads {
            vqa: Some(answers),
            ..Heads::default()
        };
        let model = load(&folder, "vqa.ckpt", config(&folder, heads).0);
        let (texts, pictures) = (texts(&t, "text_ids", "text_masks"), t.f32("image"));
        let recorded = t.f32("vqa_targets");
        let named = |row: &[f32]| {
            let named = (0u32..).zip(row).filter(|(_, score)| **score > 0.0);
            named.map(|(answer, score)| (answer, *score)).collect()
        };
        let targets: Vec<Vec<(u32, f32)>> = recorded.chunks_exact(answers).map(named).collect();
        let step = VqaStep {
            texts: texts.iter().map(Vec::as_slice).collect(),
            pictures: pictures.chunks_exact(pictures.len() / texts.len()).collect(),
            targets: targets.iter().map(Vec::as_slice).collect(),
            dropout: None,
        };
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
