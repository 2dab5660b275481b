//! Compares the predictions of ViLT models, in Hugging Face's layout and in the published one, with recorded logits and hidden states.

use std::path::Path;

use serde_json::Value;
use vlct_golden::{Tensors, assert_close};
use vlct_model::{Inputs, Sequence};
use vlct_predict::fill::{Fill, masked_text};
use vlct_predict::matching::Matching;
use vlct_predict::nlvr2::Nlvr2;
use vlct_predict::probes::words;
use vlct_predict::retrieve::{ReadImage, Retrieval};
use vlct_predict::vqa::Vqa;
use vlct_predict::{Head, Item, OpenOptions, PairItem, Predictor};
use vlct_tasks::planes;
use vlct_tensor::{Precision, Tape};
use vlct_text::Tokenizer;

/// Bound of differences, relative to the largest magnitude over the compared tensors.
const BOUND: f32 = 2e-5;

/// Opens a model in f32. Published files do not have the vocabulary.
fn open(root: &Path, name: &str) -> Predictor {
    let is_published = !root.join(name).is_dir();
    let options = OpenOptions {
        precision: Some(Precision::F32),
        truncate: true,
        tokenizer: is_published.then(|| Tokenizer::from_file(root.join("vocab.txt"), true).expect("a vocabulary")),
        ..OpenOptions::default()
    };
    Predictor::open(&root.join(name), &Head::ALL, &options).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn roots() -> Vec<std::path::PathBuf> {
    vlct_golden::vilt_directories("")
}

/// Returns the cases of a set, each with its text and the paths of its images. The JPEG is replaced by its recorded decoding.
fn cases(root: &Path, set: &str) -> Vec<(Value, String, Vec<std::path::PathBuf>)> {
    let all = vlct_golden::json(root.join("cases.json"));
    let cases = all[set].as_array().expect("cases");
    let path = |name: &Value| {
        let name = name.as_str().expect("a name");
        let decoded = root.join("images").join(format!("{name}.decoded.png"));
        if decoded.exists() {
            decoded
        } else {
            root.join("images").join(name)
        }
    };
    cases
        .iter()
        .map(|case| {
            let images = case["images"].as_array().expect("names").iter().map(path).collect();
            (case.clone(), case["text"].as_str().expect("a text").to_owned(), images)
        })
        .collect()
}

/// Returns the inputs of a set for a model, and compares their tokens with the recorded ones.
fn items(predictor: &Predictor, root: &Path, set: &str) -> Vec<Item> {
    let preparation = predictor.preparation();
    let item = |(case, text, images): (Value, String, Vec<std::path::PathBuf>)| {
        let ids = match set {
            "mlm" => masked_text(preparation, &text),
            _ => preparation.text(&text),
        };
        let ids = ids.expect("a text");
        let tokens: Vec<Value> = preparation
            .tokenizer()
            .tokens(&ids)
            .into_iter()
            .map(Value::from)
            .collect();
        assert_eq!(Value::from(tokens), case["tokens"], "{text}");
        Item {
            image: Some(preparation.image(&images[0]).expect("an image").values),
            text: ids,
        }
    };
    cases(root, set).into_iter().map(item).collect()
}

/// Computes results one by one and in one batch, and compares both with the tensors `case<i>.NAME`.
fn compare<I>(
    what: &str,
    want: &Tensors,
    prefix: &str,
    name: &str,
    items: &[I],
    logits: impl Fn(&[I]) -> Vec<Vec<f32>>,
) {
    let want: Vec<f32> = (0..items.len())
        .flat_map(|i| want.f32(&format!("{prefix}case{i}.{name}")))
        .collect();
    let single: Vec<f32> = items
        .iter()
        .flat_map(|item| logits(std::slice::from_ref(item)).concat())
        .collect();
    assert_close(&format!("{what}, one by one"), &single, &want, BOUND);
    assert_close(&format!("{what}, in a batch"), &logits(items).concat(), &want, BOUND);
}

#[test]
fn answers_equal_the_recorded_logits() {
    for root in roots() {
        for (name, golden, prefix) in [
            ("hf/vqa", "hf/vqa", ""),
            ("hf/vqa_bin", "hf/vqa", ""),
            ("hf/vqa_f16", "hf/vqa_half", "f16."),
            ("hf/vqa_bf16", "hf/vqa_half", "bf16."),
            ("native/vqa.ckpt", "native/vqa", ""),
            ("export/vlc_vqa.ckpt", "export/golden", ""),
        ] {
            let predictor = open(&root, name);
            let file = match golden {
                "export/golden" => root.join("export/golden.safetensors"),
                golden => root.join(format!("{golden}.golden.safetensors")),
            };
            let want = Tensors::open(file);
            let items = items(&predictor, &root, "vqa");
            let model = predictor.model();
            let logits = |items: &[Item]| answer_logits(model, &Tape::inference(model.compute()), items);
            compare(name, &want, prefix, "logits", &items, logits);
            if name.starts_with("hf/") {
                let config = vlct_golden::json(root.join(name).join("config.json"));
                let vqa = Vqa::new(&predictor, None).expect("names of answers");
                let logits = vqa.logits(&items[..1]);
                let best = (0..logits[0].len())
                    .max_by(|a, b| logits[0][*a].total_cmp(&logits[0][*b]))
                    .expect("a logit");
                let named = &config["id2label"][best.to_string()];
                assert_eq!(Value::from(vqa.answers(&logits[0], 1)[0].name.clone()), *named);
                assert!(predictor.notes().is_empty(), "{:?}", predictor.notes());
            }
        }
        // The export of a VLC model has the logits of transformers in its own layout.
        let predictor = open(&root, "export/hf");
        let want = Tensors::open(root.join("export/golden.safetensors"));
        let items = items(&predictor, &root, "vqa");
        let model = predictor.model();
        let logits = |items: &[Item]| answer_logits(model, &Tape::inference(model.compute()), items);
        compare("export/hf", &want, "", "logits_by_transformers", &items, logits);
    }
}

/// Computes the logits of answers, also for a model without names of answers.
fn answer_logits(model: &vlct_model::Vlc, tape: &Tape, items: &[Item]) -> Vec<Vec<f32>> {
    let images = items
        .iter()
        .map(|item| planes(item.image.as_ref().expect("an image")))
        .collect();
    let sequence = |i| Sequence {
        text: Some(i),
        image: Some(i),
        ..Sequence::FIRST_PAIR
    };
    let sequences: Vec<Sequence> = (0..items.len() as u32).map(sequence).collect();
    let inputs = Inputs {
        images,
        texts: items.iter().map(|item| item.text.as_slice()).collect(),
        sequences: &sequences,
    };
    let logits = model.vqa_logits(tape, &model.encode_pooled(tape, &inputs, None));
    let values = logits.tensor().to_host();
    values.chunks_exact(logits.columns()).map(<[f32]>::to_vec).collect()
}

#[test]
fn hidden_states_equal_the_recorded_ones() {
    for root in roots() {
        for (name, golden) in [("hf/vqa", "hf/vqa"), ("native/vqa.ckpt", "native/vqa")] {
            let predictor = open(&root, name);
            let want = Tensors::open(root.join(format!("{golden}.golden.safetensors")));
            let item = &items(&predictor, &root, "vqa")[1];
            let model = predictor.model();
            let inputs = Inputs {
                images: vec![planes(item.image.as_ref().expect("an image"))],
                texts: vec![&item.text],
                sequences: &[Sequence::FIRST_PAIR],
            };
            let tape = Tape::inference(model.compute());
            let mut seen = Vec::new();
            let encoded = model.encode_tracing(&tape, &inputs, None, &mut |name, value| {
                if name.starts_with("block") {
                    seen.push((name.to_owned(), value.tensor().to_host().into_owned()));
                }
            });
            assert_eq!(seen.len(), model.config().backbone.depth);
            for (block, got) in seen {
                assert_close(&block, &got, &want.f32(&format!("case1.{block}")), BOUND);
            }
            assert_close(
                "final",
                &encoded.features.tensor().to_host(),
                &want.f32("case1.final"),
                BOUND,
            );
            let pooled = model.pool(&tape, &encoded, 0..1);
            assert_close("pooled", &pooled.tensor().to_host(), &want.f32("case1.pooled"), BOUND);
        }
    }
}

#[test]
fn statements_about_two_images_equal_the_recorded_logits() {
    for root in roots() {
        for (name, golden) in [("hf/nlvr2", "hf/nlvr2"), ("native/nlvr2.ckpt", "native/nlvr2")] {
            let predictor = open(&root, name);
            let want = Tensors::open(root.join(format!("{golden}.golden.safetensors")));
            let preparation = predictor.preparation();
            let item = |(_, text, images): (Value, String, Vec<std::path::PathBuf>)| PairItem {
                images: [&images[0], &images[1]].map(|path| preparation.image(path).expect("an image").values),
                text: preparation.text(&text).expect("a text"),
            };
            let items: Vec<PairItem> = cases(&root, "nlvr2").into_iter().map(item).collect();
            let task = Nlvr2::new(&predictor).expect("a head");
            let logits = |items: &[PairItem]| task.logits(items).into_iter().map(|row| row.to_vec()).collect();
            compare(name, &want, "", "logits", &items, logits);
        }
    }
}

#[test]
fn retrieval_scores_equal_the_recorded_ones() {
    for root in roots() {
        for (name, golden) in [("hf/irtr", "hf/irtr"), ("native/irtr.ckpt", "native/irtr")] {
            let predictor = open(&root, name);
            let want = Tensors::open(root.join(format!("{golden}.golden.safetensors")));
            let items = items(&predictor, &root, "irtr");
            let task = Retrieval::new(&predictor).expect("a head");
            // Every image with every text; the recorded pairs are the diagonal.
            let images: Vec<ReadImage> = items
                .iter()
                .map(|item| ReadImage::Pixels(item.image.clone().expect("an image"), None))
                .collect();
            let texts: Vec<Vec<u32>> = items.iter().map(|item| item.text.clone()).collect();
            let scores = task.scores(&images, &texts).expect("scores");
            let diagonal: Vec<f32> = (0..items.len()).map(|i| scores[i][i]).collect();
            let recorded: Vec<f32> = (0..items.len())
                .flat_map(|i| want.f32(&format!("case{i}.logits")))
                .collect();
            assert_close(name, &diagonal, &recorded, BOUND);
            if want.has("case0.itm_logits") {
                let task = Matching::new(&predictor).expect("a head");
                let logits = |items: &[Item]| task.logits(items).into_iter().map(|row| row.to_vec()).collect();
                compare(name, &want, "", "itm_logits", &items, logits);
            }
        }
    }
}

#[test]
fn masked_words_equal_the_recorded_logits() {
    for root in roots() {
        for (name, golden, tensor) in [
            ("hf/mlm", "hf/mlm", "logits"),
            ("hf/mlm_v5", "hf/mlm_v5", "logits_at_masks"),
            ("native/mlm_itm.ckpt", "native/mlm_itm", "logits_at_masks"),
        ] {
            let predictor = open(&root, name);
            let want = Tensors::open(root.join(format!("{golden}.golden.safetensors")));
            let items = items(&predictor, &root, "mlm");
            if tensor == "logits" {
                let all = |item: &Item| {
                    let positions: Vec<usize> = (0..item.text.len()).collect();
                    words::logits(
                        predictor.model(),
                        &item.text,
                        item.image.as_ref().expect("an image"),
                        &positions,
                    )
                    .concat()
                };
                compare(name, &want, "", tensor, &items, |items| items.iter().map(all).collect());
            } else {
                let task = Fill::new(&predictor).expect("a head");
                let logits = |items: &[Item]| task.logits(items).into_iter().map(|masks| masks.concat()).collect();
                compare(name, &want, "", tensor, &items, logits);
            }
        }
    }
}
