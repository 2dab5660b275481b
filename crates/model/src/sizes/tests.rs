use super::*;
use crate::Vlc;
use crate::files::{self, StateDict, StoredTensor, TensorData};
use std::path::Path;

/// Writes tensors to a safetensors file and calls `check` with its index.
fn with_index<T>(state: &StateDict, check: impl FnOnce(&WeightIndex) -> T) -> T {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("weights.safetensors");
    files::write(&path, state, &files::Style::Vlc.into()).expect("written");
    let file = files::map(&path).expect("mapped");
    check(&files::index(&file).expect("an index"))
}

fn golden_state(directory: &Path) -> StateDict {
    files::read(&directory.join("pretrain.ckpt"))
        .expect("a checkpoint")
        .state
}

#[test]
fn golden_files_have_their_recorded_sizes_and_weights() {
    for directory in vlct_golden::directories("model") {
        let sizes = vlct_golden::json(directory.join("config.json"));
        let size = |key: &str| sizes[key].as_u64().expect("a size") as usize;
        for (name, heads) in [
            ("pretrain.ckpt", (true, true, None, false, false)),
            ("vqa.ckpt", (false, false, Some(size("vqa_labels")), false, false)),
            ("nlvr2.ckpt", (false, false, None, true, false)),
            ("irtr.ckpt", (false, true, None, false, true)),
        ] {
            let path = directory.join(name);
            if !path.exists() {
                continue;
            }
            let file = files::map(&path).expect("mapped");
            let index = files::index(&file).expect("an index");
            let given = GivenHeads {
                encoder: None,
                decoder: Some(size("decoder_heads")),
            };
            let Sizes {
                config,
                assumptions,
                origin,
            } = derive(&index, given).expect("sizes");
            assert_eq!((origin, config.variant), (Origin::Vlc, Variant::VLC));
            assert!(assumptions.is_empty(), "{assumptions:?}");
            let b = &config.backbone;
            assert_eq!([b.patch_size, b.width, b.depth], ["patch", "dim", "depth"].map(size));
            assert_eq!(
                [b.heads, b.decoder_width, b.decoder_depth],
                ["heads", "decoder_dim", "decoder_depth"].map(size)
            );
            assert_eq!(
                [config.image_size, config.vocab_size, config.max_text_len],
                ["image_size", "vocab_size", "max_text_len"].map(size)
            );
            let h = config.heads;
            assert_eq!((h.mlm, h.itm, h.vqa, h.nlvr2, h.rank), heads, "{name}");
            let (model, report) = Vlc::read(config, &index).expect("a model");
            assert!(report.unexpected.is_empty(), "{report}");
            let state = files::read(&path).expect("a checkpoint").state;
            let copy = model.state_dict();
            for (name, tensor) in state.iter().filter(|(_, tensor)| tensor.data.dtype().is_floating()) {
                assert_eq!(copy.get(name), Some(tensor), "{name}");
            }
        }
    }
}

#[test]
fn errors_name_missing_and_malformed_tensors() {
    let state = golden_state(&vlct_golden::directories("model")[0]);
    for name in ["text_embeddings.word_embeddings.weight", "transformer.pos_embed"] {
        let mut damaged = state.clone();
        damaged.remove(name);
        let error = with_index(&damaged, |index| derive(index, heads(4))).unwrap_err();
        assert_eq!(error, SizeError::Missing(name.into()));
        damaged.insert(name, StoredTensor::f32([0, 4], vec![]));
        let error = with_index(&damaged, |index| derive(index, heads(4))).unwrap_err();
        assert!(matches!(error, SizeError::Shape { .. }), "{error}");
    }
    let error = with_index(&state, |index| derive(index, heads(7))).unwrap_err();
    assert!(error.to_string().contains("7 attention heads do not divide"), "{error}");
}

#[test]
fn a_gap_between_blocks_is_an_error() {
    let state = golden_state(&vlct_golden::directories("model")[0]);
    for part in ["transformer.blocks", "transformer.decoder_blocks"] {
        let block = format!("{part}.0");
        let keep = |name: &str| !name.strip_prefix(&block).is_some_and(|rest| rest.starts_with('.'));
        let damaged: StateDict = state.clone().into_iter().filter(|(name, _)| keep(name)).collect();
        let given = GivenHeads {
            decoder: Some(1),
            ..heads(4)
        };
        let error = with_index(&damaged, |index| derive(index, given)).unwrap_err();
        assert_eq!(error, SizeError::MissingBlock { block, later: 1 });
    }
    // A block that lacks one tensor counts, so that reading names the tensor.
    let mut damaged = state.clone();
    damaged.remove("transformer.blocks.1.norm1.weight");
    let depth = |state: &StateDict| {
        with_index(state, |index| derive(index, heads(4)))
            .expect("sizes")
            .config
            .backbone
            .depth
    };
    assert_eq!(depth(&damaged), depth(&state));
}

fn heads(encoder: usize) -> GivenHeads {
    GivenHeads {
        encoder: Some(encoder),
        decoder: None,
    }
}

#[test]
fn impossible_sizes_are_errors() {
    let state = golden_state(&vlct_golden::directories("model")[0]);
    let config = with_index(&state, |index| derive(index, heads(4)))
        .expect("sizes")
        .config;
    assert_eq!(check(&config), Ok(()));
    let changes: [fn(&mut VlcConfig); 9] = [
        |c| c.backbone.patch_size = 0,
        |c| c.backbone.width = usize::MAX,
        |c| c.backbone.heads = 0,
        |c| c.backbone.depth = 0,
        |c| c.image_size += 1,
        |c| c.max_text_len = 1,
        |c| c.token_types = 1,
        |c| c.backbone.decoder_heads = 7,
        |c| c.heads.vqa = Some(0),
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut changed = config.clone();
        change(&mut changed);
        // The decoder counts only if there is one.
        let has_effect = config.has_decoder() || i != 7;
        assert_eq!(check(&changed).is_err(), has_effect, "change {i}");
    }
    let pairs = VlcConfig {
        heads: Heads {
            nlvr2: true,
            ..config.heads
        },
        ..config
    };
    assert!(check(&pairs).is_err(), "two token types are too few for two images");
    let classifier = VitConfig::from_name("vit_base_patch16", 224, 10).expect("a published variant");
    assert_eq!(check_vit(&classifier), Ok(()));
    let changes: [fn(&mut VitConfig); 6] = [
        |c| c.patch_size = 0,
        |c| c.width = usize::MAX,
        |c| c.heads = 5,
        |c| c.depth = 0,
        |c| c.image_size = 225,
        |c| c.classes = 0,
    ];
    for (i, change) in changes.iter().enumerate() {
        let mut changed = classifier.clone();
        change(&mut changed);
        assert!(check_vit(&changed).is_err(), "change {i}");
    }
}

#[test]
fn an_assumed_number_of_heads_is_reported() {
    let directory = &vlct_golden::directories("model")[0];
    let state = golden_state(directory);
    let width = state.get("transformer.cls_token").expect("a tensor").shape[2];
    let derived = with_index(&state, |index| derive(index, GivenHeads::default()));
    match derived {
        Ok(sizes) => assert!(sizes.assumptions[0].part == Part::Encoder, "{sizes:?}"),
        Err(error) => assert!(
            matches!(error, SizeError::UnknownHeads { .. }) && !width.is_multiple_of(WIDTH_PER_HEAD),
            "{error}"
        ),
    }
}

#[test]
fn reading_rejects_missing_and_integer_weights() {
    use crate::files::mapping::AdaptError;
    let mut state = golden_state(&vlct_golden::directories("model")[0]);
    let config = with_index(&state, |index| derive(index, heads(4)))
        .expect("sizes")
        .config;
    let name = "pooler.dense.bias";
    let length = state.remove(name).expect("a weight").shape[0];
    let read = |state: &StateDict| with_index(state, |index| Vlc::read(config.clone(), index).err());
    assert_eq!(read(&state), Some(AdaptError::Missing { name: name.into() }));
    state.insert(name, StoredTensor::new(vec![length], TensorData::I64(vec![1; length])));
    let error = read(&state).expect("an error");
    assert!(matches!(error, AdaptError::NotFloating { name: n, .. } if n == name));
}

#[test]
fn models_of_the_family_are_told_apart() {
    let origin_of = |path: &Path| {
        let file = files::map(path).expect("mapped");
        let sizes = derive(
            &files::index(&file).expect("an index"),
            GivenHeads {
                encoder: Some(3),
                decoder: None,
            },
        );
        sizes.map(|sizes| (sizes.origin, sizes.config))
    };
    let directory = tempfile::tempdir().expect("a directory");
    for root in vlct_golden::vilt_directories("") {
        for name in ["vqa", "nlvr2", "irtr", "mlm", "mlm_v5", "vqa_bin", "vqa_bf16"] {
            let (origin, config) = origin_of(&root.join("hf").join(name)).expect("sizes");
            assert_eq!(
                (origin, config.variant),
                (Origin::HuggingFaceVilt, Variant::HUGGING_FACE_VILT)
            );
            let h = config.heads;
            let [vqa, nlvr2, rank, mlm] = ["vqa", "nlvr2", "irtr", "mlm"].map(|head| name.starts_with(head));
            assert_eq!(
                (h.vqa.is_some(), h.nlvr2, h.rank, h.mlm),
                (vqa, nlvr2, rank, mlm),
                "{name}"
            );
            assert!(!h.itm && !config.has_decoder());
        }
        for name in ["vqa", "nlvr2", "irtr", "mlm_itm"] {
            let path = root.join("native").join(format!("{name}.ckpt"));
            let (origin, config) = origin_of(&path).expect("sizes");
            assert_eq!(
                (origin, config.variant),
                (Origin::Vilt { is_stated: true }, Variant::VILT)
            );
            // Without hyper-parameters, the tensors tell.
            let state = files::read(&path).expect("a checkpoint").state;
            let bare = directory.path().join("bare.safetensors");
            files::write(&bare, &state, &files::Style::Vlc.into()).expect("written");
            assert_eq!(origin_of(&bare), Ok((Origin::Vilt { is_stated: false }, config)));
        }
        // VLC's table without its decoder, also in half precision.
        let state = files::read(&root.join("export/vlc_vqa.ckpt"))
            .expect("a checkpoint")
            .state;
        let half = |mut values: Vec<f32>| {
            values
                .iter_mut()
                .for_each(|value| *value = f32::from_bits(value.to_bits() & 0xffff_0000));
            values
        };
        let tensors = state
            .into_iter()
            .filter(|(name, _)| !name.contains("decoder_") && !name.ends_with("mask_token"));
        let bare: StateDict = tensors
            .map(|(name, tensor)| {
                let shape = tensor.shape.clone();
                let tensor = match tensor.data.dtype().is_floating() {
                    true => StoredTensor::f32(shape, half(tensor.into_f32().expect("numbers"))),
                    false => tensor,
                };
                (name, tensor)
            })
            .collect();
        let path = directory.path().join("vlc.safetensors");
        files::write(&path, &bare, &files::Style::Vlc.into()).expect("written");
        assert_eq!(origin_of(&path).expect("sizes").0, Origin::Vlc);
    }
}

#[test]
fn configurations_that_contradict_the_tensors_are_errors_of_one_line() {
    let directory = tempfile::tempdir().expect("a directory");
    for root in vlct_golden::vilt_directories("hf") {
        let [weights, config] = ["model.safetensors", "config.json"].map(|name| directory.path().join(name));
        std::fs::copy(root.join("vqa/model.safetensors"), &weights).expect("copied");
        let right = vlct_golden::json(root.join("vqa/config.json"));
        for (key, value) in [
            ("hidden_size", serde_json::json!(1)),
            ("num_hidden_layers", serde_json::json!("two")),
            ("intermediate_size", serde_json::json!(1)),
            ("patch_size", serde_json::json!([8, 8])),
            ("image_size", serde_json::json!(7)),
            ("vocab_size", serde_json::json!(-1)),
            ("max_position_embeddings", serde_json::json!(1e300)),
            ("id2label", serde_json::json!({"0": "yes"})),
            ("hidden_act", serde_json::json!("relu")),
            ("model_type", serde_json::json!("bert")),
            ("layer_norm_eps", serde_json::json!(10.0)),
            ("layer_norm_eps", serde_json::json!("x")),
            ("num_attention_heads", serde_json::json!(5)),
            ("num_attention_heads", serde_json::json!("3")),
            ("qkv_bias", serde_json::json!(false)),
            ("num_channels", serde_json::json!(1)),
        ] {
            let mut changed = right.clone();
            changed[key] = value;
            std::fs::write(&config, changed.to_string()).expect("written");
            let file = files::map(&weights).expect("mapped");
            let error = derive(&files::index(&file).expect("an index"), GivenHeads::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("config.json has {key} = ")) && !error.contains('\n'),
                "{error}"
            );
        }
    }
}
