use vlct_config::resolve;
use vlct_tensor::Device;

/// Words that every tested configuration contains.
const COMMON_WORDS: [&str; 3] = ["data_root=/d", "per_gpu_batchsize=8", "batch_size=64"];

fn validate(words: &[&str]) -> Result<Vec<String>, String> {
    let words: Vec<&str> = COMMON_WORDS.iter().chain(words).copied().collect();
    super::validate(&resolve(&words).unwrap().config).map_err(|e| e.to_string())
}

#[test]
fn accepts_the_base_configuration() {
    assert_eq!(validate(&[]), Ok(vec![]));
    assert_eq!(validate(&["num_gpus=0"]), Ok(vec![]));
    assert_eq!(validate(&["num_gpus=[3]"]), Ok(vec![]));
    assert_eq!(validate(&["num_gpus=4", "num_nodes=2", "device=cpu"]), Ok(vec![]));
    let uneven = validate(&["num_gpus=3", "device=cpu"]).unwrap();
    assert_eq!(
        uneven,
        ["batch_size=64 is not a multiple of per_gpu_batchsize=8 times 3 ranks: an optimiser step takes 48 samples"]
    );
}

#[test]
fn accepts_custom_datasets_with_every_task() {
    for words in [
        &["datasets=['my-cats_2']"][..],
        &["datasets=['coco','mine']", "get_recall_metric=True"],
        &["datasets=['mine']", "get_recall_metric=True"],
    ] {
        assert_eq!(validate(words), Ok(vec![]), "{words:?}");
    }
    assert!(validate(&["task_finetune_vqa_mae_randaug", "datasets=['mine']"]).is_ok());
}

#[test]
fn rejects_contradictions() {
    for (words, part) in [
        (&["per_gpu_batchsize=0"][..], "per_gpu_batchsize is not set"),
        (&["per_gpu_batchsize=128"], "smaller than one micro-batch"),
        (
            &["train_transform_keys=pixelbert", "val_transform_keys=pixelbert"],
            "has a position table for squares",
        ),
        (
            &["task_finetune_vqa", "val_transform_keys=mae_test"],
            "val_transform_keys gives squares",
        ),
        (
            &["task_finetune_vqa", "patch_size=24", "position_size=96"],
            "patch_size=24 does not divide size_divisor=32",
        ),
        (&["task_finetune_vqa", "image_size=16"], "image_size=16 is too small"),
        (&["task_finetune_vqa", "is_pretrain=True"], "set is_pretrain=False"),
        (
            &["num_gpus=16", "device=cpu"],
            "batch_size=64 is smaller than one micro-batch of 128",
        ),
        (&["num_gpus=8", "num_nodes=2", "device=cpu"], "micro-batch of 128"),
        (&["num_gpus=-2"], "not a number of devices"),
        (&["use_mae=True"], "needs loss_names.mae=1"),
        (&["loss_names.mae=1"], "needs use_mae=True"),
        (
            &["loss_names.mae=1", "use_mae=True", "loss_names.mlm=0"],
            "needs loss_names.mlm=1",
        ),
        (&["task_mlm_itm_mae", "is_pretrain=False"], "needs is_pretrain=True"),
        (&["task_mlm_itm_mae", "mask_ratio=0"], "keeps 196 of 196"),
        (&["task_mlm_itm_mae", "mask_ratio=0.999"], "keeps 0 of 196"),
        (&["loss_names={'itm':0,'mlm':0}"], "no task is active"),
        (&["datasets=[]"], "datasets is empty"),
        (&["datasets="], "datasets is empty"),
        (&["datasets=''"], "datasets is empty"),
        (&["exp_name=../x"], "exp_name=\"../x\" is not a name"),
        (&["exp_name='a\\nb'"], "exp_name=\"a\\nb\" is not a name"),
        (&["train_transform_keys=[]"], "train_transform_keys is empty"),
        (&["image_only=True"], "image_only=True"),
        (
            &["task_finetune_vqa_mae_randaug", "datasets=['coco']"],
            "loss_names.vqa is active",
        ),
        (
            &["task_finetune_nlvr2_mae_randaug", "datasets=['nlvr2','vqa']"],
            "dataset \"vqa\"",
        ),
        (&["datasets=['vqa']"], "loss_names.itm is active"),
        (&["draw_false_image=0"], "set draw_false_image=1"),
        (
            &["task_finetune_irtr_coco_mae_randaug", "draw_false_text=0"],
            "set draw_false_text=15",
        ),
        (
            &["get_recall_metric=True", "recall_limit=9"],
            "recall_limit=9 is less than the 10 candidates",
        ),
        (
            &["get_recall_metric=True", "recall_rerank=1"],
            "recall_rerank=1 is less than the 10 candidates",
        ),
        (
            &["get_recall_metric=True", "loss_names.itm=0"],
            "needs a head that scores pairs",
        ),
        (
            &["get_recall_metric=True", "loss_names.irtr=0.5", "datasets=['vg']"],
            "needs coco, f30k or a custom dataset",
        ),
        (&["data_root="], "data_root is not set"),
        (&["end_lr=1e-4"], "must be greater than end_lr"),
        (&["image_size=100"], "image_size=100"),
        (&["hidden_size=512"], "contradicts vit"),
        (&["ema_evaluation=True"], "set ema_decay"),
        (&["ema_evaluation=True", "ema_decay=0"], "set ema_decay"),
        (&["load_ema=True"], "set load_path"),
        (
            &[
                "task_finetune_irtr_coco_mae_randaug",
                "patience=3",
                "get_recall_metric=False",
            ],
            "set get_recall_metric=True",
        ),
        (&["freeze_blocks=13"], "the encoder has 12 blocks"),
        (
            &["freeze_blocks=3", "vit=mae_vit_base_patch16", "depth=2"],
            "set at most 2",
        ),
    ] {
        let message = validate(words).expect_err(&words.join(" "));
        assert!(
            message.contains(part) && !message.contains('\n'),
            "{words:?}: {message}"
        );
    }
}

#[test]
fn every_named_config_is_valid() {
    for named in vlct_config::NAMED_CONFIGS {
        // A task of labels has no published dataset.
        let datasets = match resolve(&[named.name]).unwrap().config.datasets.is_empty() {
            true => "datasets=['mine']",
            false => "seed=0",
        };
        validate(&[named.name, datasets]).unwrap_or_else(|error| panic!("{}: {error}", named.name));
    }
    let size = crate::spec::model_size(&resolve(&["quickstart"]).unwrap().config).unwrap();
    assert!(size.width < 512 && size.depth < 12);
}

#[test]
fn warns_of_bf16_on_cpus_without_fast_bf16() {
    let warnings = validate(&["precision=bf16"]).unwrap();
    if Device::default().bf16_is_fast() {
        assert!(warnings.is_empty(), "{warnings:?}");
    } else {
        assert!(
            warnings.len() == 1 && warnings[0].contains("computed in f32"),
            "{warnings:?}"
        );
    }
}

#[test]
fn warns_of_values_without_effect() {
    for (words, part) in [
        (&["batch_size=20"][..], "takes 16 samples"),
        (&["per_gpu_batchsize=1"], "has no matching pair"),
        (&["datasets=['mine','mine']"], "datasets has mine more than once"),
        (&["num_heads=8"], "num_heads=8 has no effect: the model has 12"),
        (&["val_check_interval=1"], "1.0 validates once per epoch"),
        (&["val_transform_keys=['mae','mae_test']"], "only the first"),
        (&["test_only=True"], "randomly initialised"),
        (&["test_only=True", "load_path=x.ckpt"], "masks 75 %"),
        (
            &["test_only=True", "load_path=a.ckpt", "resume_from=x"],
            "resume_from has no effect",
        ),
        (&["max_epoch=10"], "max_epoch=10 has no effect"),
        (&["max_steps=100"], "does not reach its peak"),
        (&["decay_power=cosine", "end_lr=1e-6"], "end_lr=0.000001 has no effect"),
        (&["task_finetune_vqa_mae_randaug"], "lr_mult=10 has no effect"),
        (&["freeze_blocks=2", "load_path=a.ckpt"], "saves no backward pass"),
        (
            &["freeze_text_embedding=True", "pretrain_path=a.pth"],
            "freezes randomly initialised weights",
        ),
        (&["freeze_image_embedding=True"], "freezes randomly initialised weights"),
        (&["vgqa=True"], "vgqa=True has no effect"),
        (
            &["vqa_test_split=test-dev"],
            "vqa_test_split=\"test-dev\" has no effect",
        ),
        (&["vqa_annotations=a.json"], "vqa_annotations has no effect"),
        (&["vqa_answers=a.pkl"], "vqa_answers has no effect"),
        (
            &[
                "task_finetune_vqa_mae_randaug",
                "datasets=['mine']",
                "vqav2_label_size=7",
            ],
            "that of their training split",
        ),
        (
            &["datasets=['mine']", "honest_validation=True"],
            "honest_validation=True has no effect",
        ),
        (
            &["task_finetune_irtr_coco_mae_randaug", "batch_size=64"],
            "use the last",
        ),
    ] {
        let warnings = validate(words).unwrap_or_else(|e| panic!("{words:?}: {e}"));
        assert!(warnings.iter().any(|w| w.contains(part)), "{words:?}: {warnings:?}");
    }
    assert_eq!(
        validate(&["vit=mae_vit_large_patch16", "num_heads=16", "num_layers=24"]),
        Ok(vec![])
    );
}
