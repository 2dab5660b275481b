//! Tests that the named configs and the published commands give the published values.

use super::*;

#[test]
fn named_configs_resolve_and_document_their_command() {
    for named_config in NAMED_CONFIGS {
        resolve(&[named_config.name]).unwrap_or_else(|e| panic!("{}: {e}", named_config.name));
        assert!(!named_config.summary().is_empty());
        let description = named_config.description();
        for part in ["vlct ", named_config.name] {
            assert!(
                description.contains(part),
                "{} does not mention {part}",
                named_config.name
            );
        }
    }
}

#[test]
fn published_pre_training_command_gives_the_published_values() {
    let pretrain = resolve(&[
        "data_root=/d",
        "num_gpus=1",
        "num_nodes=1",
        "task_mlm_itm_mae",
        "per_gpu_batchsize=8",
        "whole_word_masking=True",
        "step25k",
        "image_size=384",
        "pretrain_path=/mae.pth",
        "log_dir=logs",
        "mae_weight=1.0",
    ])
    .unwrap()
    .config;
    assert_eq!(
        (pretrain.image_size, pretrain.mask_ratio, pretrain.use_mae),
        (384, 0.6, true)
    );
    assert_eq!((pretrain.max_epoch, pretrain.max_steps), (100, Some(25_000)));
    assert_eq!(pretrain.loss_names.active().collect::<Vec<_>>(), ["itm", "mlm", "mae"]);
    assert_eq!(pretrain.exp_name, "mlm_itm_mae");
    assert!(pretrain.is_pretrain && pretrain.whole_word_masking);
}

/// The values that a published fine-tuning config sets.
struct FineTuning {
    name: &'static str,
    exp_name: &'static str,
    dataset: &'static str,
    task: &'static str,
    batch_size: u64,
    max_epoch: u64,
    draw_false_text: u64,
    get_recall_metric: bool,
}

const FINE_TUNING: [FineTuning; 4] = [
    FineTuning {
        name: "task_finetune_vqa_mae_randaug",
        exp_name: "finetune_vqa_randaug",
        dataset: "vqa",
        task: "vqa",
        batch_size: 256,
        max_epoch: 10,
        draw_false_text: 0,
        get_recall_metric: false,
    },
    FineTuning {
        name: "task_finetune_nlvr2_mae_randaug",
        exp_name: "finetune_nlvr2_randaug",
        dataset: "nlvr2",
        task: "nlvr2",
        batch_size: 128,
        max_epoch: 20,
        draw_false_text: 0,
        get_recall_metric: false,
    },
    FineTuning {
        name: "task_finetune_irtr_coco_mae_randaug",
        exp_name: "finetune_irtr_coco_randaug",
        dataset: "coco",
        task: "irtr",
        batch_size: 256,
        max_epoch: 20,
        draw_false_text: 15,
        get_recall_metric: false,
    },
    FineTuning {
        name: "task_finetune_irtr_f30k_mae_randaug",
        exp_name: "finetune_irtr_f30k_mae_randaug",
        dataset: "f30k",
        task: "irtr",
        batch_size: 256,
        max_epoch: 10,
        draw_false_text: 15,
        get_recall_metric: true,
    },
];

#[test]
fn published_fine_tuning_commands_give_the_published_values() {
    for expected in FINE_TUNING {
        let name = expected.name;
        let c = resolve(&[
            "data_root=/d",
            name,
            "per_gpu_batchsize=4",
            "load_path=/w/vlc_baseset.ckpt",
            "learning_rate=5e-4",
        ])
        .unwrap()
        .config;
        assert_eq!(
            (c.exp_name.as_str(), &c.datasets[..]),
            (expected.exp_name, &[expected.dataset.to_string()][..]),
            "{name}"
        );
        assert_eq!(c.loss_names.active().collect::<Vec<_>>(), [expected.task], "{name}");
        assert_eq!(
            (c.batch_size, c.max_epoch, c.max_steps),
            (expected.batch_size, expected.max_epoch, None),
            "{name}"
        );
        assert_eq!(
            (c.draw_false_text, c.get_recall_metric),
            (expected.draw_false_text, expected.get_recall_metric),
            "{name}"
        );
        assert_eq!(
            (c.warmup_steps, c.is_pretrain),
            (Warmup::Fraction(0.1), false),
            "{name}"
        );
        assert_eq!(c.train_transform_keys, ["mae_randaug"], "{name}");
        assert_eq!(c.val_transform_keys, ["mae_test"], "{name}");
        assert_eq!(
            c.loss_names.itm,
            if expected.task == "irtr" { 0.5 } else { 0.0 },
            "{name}"
        );
    }
    let vqa = resolve(&["task_finetune_vqa_mae_randaug"]).unwrap().config;
    assert_eq!(
        (vqa.val_check_interval, vqa.lr_mult),
        (ValCheckInterval::Fraction(0.1), 10.0)
    );
}

#[test]
fn step_configs_set_the_number_of_steps() {
    for (name, steps) in [("step25k", 25), ("step50k", 50), ("step100k", 100), ("step200k", 200)] {
        let c = resolve(&["task_finetune_vqa_mae_randaug", name]).unwrap().config;
        assert_eq!((c.max_steps, c.max_epoch), (Some(steps * 1000), 100));
    }
}
