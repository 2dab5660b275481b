//! Compares retrieval scores and recalls with the values of the original.

use super::recorded::{Tensors, json};
use super::retrieval;
use super::subject::Subject;
use crate::Outcome;
use std::sync::atomic::AtomicBool;
use vlct_model::Planes;
use vlct_tasks::scoring::{PairScorer, Recalls, score_image};

pub(super) fn scores_and_recalls_equal_the_original(subject: &Subject) -> Outcome {
    for (directory, compute) in subject.recorded("model") {
        let mut model = retrieval::model(&directory)?;
        model.set_compute(compute);
        let t = Tensors::open(directory.join("retrieval_scores.safetensors"))?;
        let [image_count, _] = t.shape("scores")?;
        let (texts, images) = (t.texts("text_ids", "text_masks")?, t.rows("images", image_count)?);
        let size = model.config().image_size();
        let images: Vec<Planes> = images.iter().map(|image| Planes::square(image, size)).collect();
        let single: Vec<f32> = images
            .iter()
            .flat_map(|image| score_image(model.vlc(), *image, &texts))
            .collect();
        let want = t.f32("scores")?;
        subject.close("scores of single images", &single, &want, 2e-5)?;
        let scorer = PairScorer::new(model.vlc());
        let scores = scorer.score_all(
            &scorer.embed_images(&images),
            &texts,
            &AtomicBool::new(false),
            &mut |_| (),
        );
        let scores = scores.ok_or("scoring was stopped")?;
        subject.close("scores", &scores, &want, 2e-5)?;
        let image_indices: Vec<usize> = t.i64("caption_image_index")?.iter().map(|i| *i as usize).collect();
        let recalls = Recalls::from_scores(&scores, &image_indices);
        let want = json(&directory.join("retrieval_recall.json"))?;
        for (key, direction, got) in [
            ("R@1", "image_retrieval", recalls.ir_r1),
            ("R@1", "text_retrieval", recalls.tr_r1),
            ("R@5", "image_retrieval", recalls.ir_r5),
            ("R@5", "text_retrieval", recalls.tr_r5),
        ] {
            let want = want[key][direction].as_f64();
            let want = want.ok_or_else(|| format!("no recall {key} of {direction} is recorded"))?;
            let difference = (got - want).abs();
            if difference.is_nan() || difference >= 1e-6 {
                return Err(format!("{key} of {direction}: {got} instead of {want}"));
            }
        }
    }
    Ok(())
}
