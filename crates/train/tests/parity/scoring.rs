//! Compares retrieval scores and recalls with the values of the original.

use super::{TestDevice, config, load, recorded_models, texts};
use std::sync::atomic::AtomicBool;
use vlct_golden::{Tensors, assert_close, json};
use vlct_model::Planes;
use vlct_model::config::Heads;
use vlct_tasks::scoring::{PairScorer, Recalls, score_image};

pub(super) fn retrieval_scores_and_recalls_equal_the_original(device: TestDevice) {
    for (directory, compute) in recorded_models(device) {
        let heads = Heads {
            itm: true,
            rank: true,
            ..Heads::default()
        };
        let mut model = load(&directory, "irtr.ckpt", config(&directory, heads).0);
        model.set_compute(compute);
        let t = Tensors::open(directory.join("retrieval_scores.safetensors"));
        let image_count = t.shape("scores")[0];
        let (texts, images) = (texts(&t, "text_ids", "text_masks"), t.f32("images"));
        let size = model.config().image_size();
        let images = images.chunks_exact(images.len() / image_count);
        let images: Vec<Planes> = images.map(|image| Planes::square(image, size)).collect();
        let single: Vec<f32> = images
            .iter()
            .flat_map(|image| score_image(model.vlc(), *image, &texts))
            .collect();
        assert_close("scores of single images", &single, &t.f32("scores"), 2e-5);
        let scorer = PairScorer::new(model.vlc());
        let scores = scorer.score_all(
            &scorer.embed_images(&images),
            &texts,
            &AtomicBool::new(false),
            &mut |_| (),
        );
        let scores = scores.expect("not stopped");
        assert_close("scores", &scores, &t.f32("scores"), 2e-5);
        let image_indices: Vec<usize> = t.i64("caption_image_index").iter().map(|i| *i as usize).collect();
        let recalls = Recalls::from_scores(&scores, &image_indices);
        let want = json(directory.join("retrieval_recall.json"));
        for (key, image_recall, text_recall) in [
            ("R@1", recalls.ir_r1, recalls.tr_r1),
            ("R@5", recalls.ir_r5, recalls.tr_r5),
        ] {
            let want = |direction: &str| want[key][direction].as_f64().expect("recall");
            assert!((image_recall - want("image_retrieval")).abs() < 1e-6, "{key}");
            assert!((text_recall - want("text_retrieval")).abs() < 1e-6, "{key}");
        }
    }
}
