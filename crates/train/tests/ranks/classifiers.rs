//! Classification of images with drop path and mixed images, and linear probing with its batch norm.

use std::path::Path;

use tempfile::TempDir;
use vlct_classes::ClassSplits;
use vlct_tasks::mixup::MixupMode;
use vlct_tasks::{Report, Rows};
use vlct_tensor::DeviceName;
use vlct_train::imagenet::{Augmentation, Optimisation, Settings, Sizes};
use vlct_train::trainer::classifiers;

use crate::support::{
    RANKS, assert_same, assert_same_checkpoints, control, data, json_lines, on_ranks, records, run_of,
};

fn settings(linear_probe: bool) -> Settings {
    Settings {
        batch_size: 4,
        epochs: 3,
        start_epoch: 0,
        accum_iter: 4,
        ranks: 1,
        model: "vit_base_patch16".into(),
        sizes: Sizes {
            patch_size: Some(8),
            width: Some(16),
            depth: Some(2),
            heads: Some(2),
            layer_norm_eps: None,
        },
        input_size: 32,
        linear_probe,
        drop_path: if linear_probe { 0.0 } else { 0.2 },
        global_pool: !linear_probe,
        finetune: None,
        data_path: data().join("classes"),
        val_fraction: 0.0,
        device: DeviceName::Cpu,
        seed: 0,
        num_workers: 2,
        keep: Some(1),
        optimisation: Optimisation {
            clip_grad: None,
            weight_decay: if linear_probe { 0.0 } else { 0.05 },
            lr: Some(3e-3),
            blr: 1e-3,
            layer_decay: 0.75,
            min_lr: 1e-6,
            warmup_epochs: 1.0,
            ema_decay: None,
        },
        augmentation: Augmentation {
            color_jitter: None,
            aa: if linear_probe {
                String::new()
            } else {
                "rand-m9-mstd0.5-inc1".into()
            },
            min_crop_area: 0.08,
            hflip: 0.5,
            smoothing: if linear_probe { 0.0 } else { 0.1 },
            reprob: if linear_probe { 0.0 } else { 0.25 },
            remode: "pixel".into(),
            recount: 1,
            mixup: if linear_probe { 0.0 } else { 0.8 },
            cutmix: if linear_probe { 0.0 } else { 1.0 },
            cutmix_minmax: None,
            mixup_prob: 1.0,
            mixup_switch_prob: 0.5,
            mixup_mode: MixupMode::Batch,
        },
    }
}

fn train(settings: &Settings, ranks: usize, run: &Path) {
    let results = on_ranks(ranks, &|collectives, stop| {
        let splits = ClassSplits::open(&settings.data_path, &settings.rules())?;
        let spec = settings.run_spec(splits.train.class_names().to_vec())?;
        classifiers::train_rank(spec, splits, &control(stop, collectives, run), collectives)
    });
    for result in results {
        assert!(!result.expect("a run").interrupted);
    }
}

#[test]
fn classifiers_have_the_losses_and_predictions_of_one_rank() {
    for linear_probe in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let settings = settings(linear_probe);
        RANKS
            .into_iter()
            .for_each(|ranks| train(&settings, ranks, &run_of(&directory, ranks)));
        let alone = run_of(&directory, 1);
        // 70 images are 17 whole micro-batches of 4 and 4 steps.
        assert_eq!(json_lines(&alone.join("log.txt")).len(), 3);
        for ranks in [2, 4] {
            let run = run_of(&directory, ranks);
            let case = format!("{ranks} ranks, linear probing {linear_probe}");
            let losses = assert_same(&case, &records(&run), &records(&alone));
            assert_same(
                &case,
                &json_lines(&run.join("log.txt")),
                &json_lines(&alone.join("log.txt")),
            );
            let weights = assert_same_checkpoints(&case, &run, &alone);
            println!("{case}: losses differ by {losses:.1e}, tensors of checkpoints by {weights:.1e}");
            assert_eq!(predicted(&run), predicted(&alone), "{case}");
            assert!(run.join("checkpoint-2.pth").is_file());
        }
        // All evaluate the weights of one rank.
        let mut tested = settings;
        tested.finetune = Some(vlct_checkpoint::last_path(&alone));
        let results: Vec<_> = RANKS.into_iter().map(|ranks| evaluate(&tested, ranks)).collect();
        assert_eq!(results[0].1.len(), 26);
        assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
    }
}

/// Evaluates weights on several ranks, all of which get the same results.
fn evaluate(settings: &Settings, ranks: usize) -> (Report, Rows) {
    let results = on_ranks(ranks, &|collectives, stop| {
        let splits = ClassSplits::open(&settings.data_path, &settings.rules())?;
        let spec = settings.run_spec(splits.train.class_names().to_vec())?;
        classifiers::evaluate_rank(&spec, splits, &control(stop, collectives, Path::new("")), collectives)
    });
    let results = results
        .into_iter()
        .map(|result| result.expect("an evaluation").expect("not stopped"));
    let mut results: Vec<_> = results.map(|evaluation| (evaluation.report, evaluation.rows)).collect();
    assert!(results.iter().all(|result| *result == results[0]));
    results.swap_remove(0)
}

/// Returns the image, the class and the predicted class of each row of `predictions.csv`.
fn predicted(run: &Path) -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(run.join("predictions.csv")).expect("predictions");
    let columns = |line: &str| line.split(',').take(3).map(str::to_owned).collect();
    text.lines().map(columns).collect()
}
