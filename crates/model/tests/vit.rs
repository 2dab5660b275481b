//! Compares the image classifier with the values of Hugging Face, and drop path with its definition. `vlct-self-test` compares it with the
//! original.

use std::collections::HashMap;

use vlct_golden::{Tensors, assert_close};
use vlct_model::files::{self, Options, StateDict, StoredTensor, Style};
use vlct_model::{DropPath, Vit, VitConfig};
use vlct_tensor::{Compute, Tape};

/// The weights and the ε of the layer norms are those of Hugging Face.
#[test]
fn logits_match_those_of_hugging_face() {
    for directory in vlct_golden::vilt_directories("vit") {
        let config = vlct_golden::json(directory.join("config.json"));
        let size = |key: &str| config[key].as_u64().expect("a size") as usize;
        let config = VitConfig {
            image_size: size("image_size"),
            patch_size: size("patch_size"),
            width: size("hidden_size"),
            depth: size("num_hidden_layers"),
            heads: size("num_attention_heads"),
            classes: config["id2label"].as_object().expect("names of classes").len(),
            global_pool: false,
            drop_path: 0.0,
            layer_norm_eps: config["layer_norm_eps"].as_f64().expect("a number") as f32,
            linear_probe: false,
        };
        let t = Tensors::open(directory.join("golden.safetensors"));
        let shape = t.shape("pixel_values");
        let images = t.f32("pixel_values");
        let images: Vec<&[f32]> = images.chunks_exact(images.len() / shape[0]).collect();
        let files = files::map(&directory).expect("a file");
        let index = files::index(&files).expect("weights");
        let (model, report) = Vit::read(config, &index).expect("a model");
        assert_eq!(report.unexpected, [""; 0]);
        let tape = Tape::inference(model.compute());
        let logits = model.logits(&tape, &images);
        assert_close("logits", &logits.tensor().to_host(), &t.f32("logits"), 2e-5);
    }
}

fn small(global_pool: bool) -> Vit {
    let mut model = Vit::new(VitConfig {
        image_size: 8,
        patch_size: 4,
        width: 8,
        depth: 2,
        heads: 2,
        classes: 3,
        global_pool,
        drop_path: 0.5,
        layer_norm_eps: 1e-6,
        linear_probe: false,
    });
    model.parameters_mut().fill(|id, _, values| {
        let value = |i: usize| ((i * 7919 + id.index() * 31) % 1013) as f32 / 1013.0 - 0.4;
        values.iter_mut().enumerate().for_each(|(i, v)| *v = value(i));
    });
    model
}

#[test]
fn factors_of_drop_path_apply_to_the_sublayers_of_each_image() {
    for global_pool in [true, false] {
        let model = small(global_pool);
        let images: [Vec<f32>; 2] = [3, 5].map(|k| (0..3 * 64).map(|i| ((i * k) % 11) as f32 / 5.0 - 1.0).collect());
        let logits = |images: &[&[f32]], drop_path: Option<&DropPath>| {
            let tape = Tape::inference(Compute::default());
            model
                .training_logits(&tape, images, drop_path)
                .0
                .tensor()
                .to_host()
                .into_owned()
        };
        let both = [images[0].as_slice(), images[1].as_slice()];
        let factors = |first: f32, second: f32| DropPath {
            factors: vec![[vec![first, second], vec![first, second]]; 2],
        };
        let plain = logits(&both, None);
        assert_eq!(plain, logits(&both, Some(&factors(1.0, 1.0))));
        let dropped = logits(&both, Some(&factors(0.0, 1.0)));
        assert_eq!(dropped[3..], plain[3..], "the other image does not change");
        // Without any sublayer, the head reads the embedding: scaling the last weights of sublayers changes nothing.
        let mut without = small(global_pool);
        for name in [
            "blocks.0.attn.proj",
            "blocks.0.mlp.fc2",
            "blocks.1.attn.proj",
            "blocks.1.mlp.fc2",
        ] {
            for part in ["weight", "bias"] {
                let id = without.parameters().id(&format!("{name}.{part}")).expect("declared");
                let zeros = vec![0.0; without.parameters().get(id).len()];
                without.parameters_mut().set(id, &zeros);
            }
        }
        let tape = Tape::inference(Compute::default());
        let want = without.logits(&tape, &both[..1]).tensor().to_host().into_owned();
        assert_close("without sublayers", &dropped[..3], &want, 1e-5);
        assert_ne!(logits(&both, Some(&factors(2.0, 1.0)))[..3], plain[..3]);
    }
}

#[test]
fn rates_of_drop_path_grow_linearly() {
    let mut config = VitConfig::from_name("vit_base_patch16", 224, 1000).expect("known");
    config.drop_path = 0.11;
    assert_eq!(config.drop_rate(0), 0.0);
    assert!((config.drop_rate(11) - 0.11).abs() < 1e-7 && (config.drop_rate(1) - 0.01).abs() < 1e-7);
    assert_eq!(VitConfig::from_name("vit_tiny", 224, 10), None);
    let parameters: usize = config
        .parameters()
        .iter()
        .map(|(_, shape, _)| shape.iter().product::<usize>())
        .sum();
    assert_eq!(parameters, 86_567_656, "ViT-B/16 with 1,000 classes");
}

/// The encoder of a VLC checkpoint, of a MAE file, of timm's MAE without decoder and of another classifier are loaded; the head and the last
/// norm start fresh.
#[test]
fn weights_of_vlc_mae_and_classifiers_are_loaded() {
    let source = small(false);
    let names: HashMap<String, Vec<f32>> = source
        .parameters()
        .iter()
        .map(|(id, p)| (p.name.clone(), source.parameters().tensor(id).to_host().into_owned()))
        .collect();
    let directory = tempfile::tempdir().expect("a temporary directory");
    for (prefix, file) in [
        ("transformer.", "vlc.ckpt"),
        ("", "mae.pth"),
        ("", "model.safetensors"),
        ("module.", "wrapped.pth"),
    ] {
        let state: StateDict = source
            .parameters()
            .iter()
            .filter(|(_, p)| !p.name.starts_with("head."))
            .map(|(_, p)| {
                (
                    format!("{prefix}{}", p.name),
                    StoredTensor::f32(p.shape.clone(), names[&p.name].clone()),
                )
            })
            .collect();
        let path = directory.path().join(file);
        files::write(&path, &state, &Style::Mae.into()).expect("written");
        for global_pool in [true, false] {
            let mut model = Vit::new(VitConfig {
                global_pool,
                image_size: 16,
                ..source.config().clone()
            });
            let mapped = files::map(&path).expect("a file");
            let report = model
                .load(&files::index(&mapped).expect("weights"), Options::default())
                .expect("loaded");
            let fresh: Vec<&str> = report.missing.iter().map(String::as_str).collect();
            let want: &[&str] = match global_pool {
                true => &["head.weight", "head.bias", "fc_norm.weight", "fc_norm.bias"],
                false => &["head.weight", "head.bias"],
            };
            assert_eq!(fresh, want, "{file}");
            assert_eq!(report.resized, ["pos_embed (2×2 → 4×4 patches)"]);
            let id = model.parameters().id("blocks.1.mlp.fc1.weight").expect("declared");
            assert_eq!(
                model.parameters().tensor(id).to_host().to_vec(),
                names["blocks.1.mlp.fc1.weight"]
            );
        }
    }
}
