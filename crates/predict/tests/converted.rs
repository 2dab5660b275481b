//! Converted weight files give the predictions of the files that they were made of, without further options.

use std::path::{Path, PathBuf};

use vlct_golden::{Tensors, assert_close};
use vlct_model::sizes::GivenHeads;
use vlct_model::{Inputs, Sequence};
use vlct_predict::{Head, OpenOptions, Predictor};
use vlct_tasks::description::{ExportOptions, Names, convert, export};
use vlct_tasks::planes;
use vlct_tensor::{Precision, Tape};
use vlct_text::Tokenizer;

/// Bound of differences, relative to the largest magnitude over the compared tensors.
const BOUND: f32 = 2e-5;

fn open(path: &Path, vocabulary: Option<&Path>) -> Predictor {
    let options = OpenOptions {
        precision: Some(Precision::F32),
        truncate: true,
        tokenizer: vocabulary.map(|path| Tokenizer::from_file(path, true).expect("a vocabulary")),
        ..OpenOptions::default()
    };
    Predictor::open(path, &Head::ALL, &options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns what a model computes for the recorded questions: logits of answers if it has them, else pooled features.
fn results(predictor: &Predictor, root: &Path) -> Vec<f32> {
    let cases = vlct_golden::json(root.join("cases.json"));
    let (model, preparation) = (predictor.model(), predictor.preparation());
    let tape = Tape::inference(model.compute());
    let mut results = Vec::new();
    for case in cases["vqa"].as_array().expect("cases") {
        let image = case["images"][0].as_str().expect("a name");
        let decoded = root.join("images").join(format!("{image}.decoded.png"));
        let path = match decoded.exists() {
            true => decoded,
            false => root.join("images").join(image),
        };
        let image = preparation.image(&path).expect("an image").values;
        let text = preparation
            .text(case["text"].as_str().expect("a text"))
            .expect("tokens");
        let inputs = Inputs {
            images: vec![planes(&image)],
            texts: vec![&text],
            sequences: &[Sequence::FIRST_PAIR],
        };
        let pooled = model.encode_pooled(&tape, &inputs, None);
        let result = match model.config().heads.vqa {
            Some(_) => model.vqa_logits(&tape, &pooled),
            None => pooled,
        };
        results.extend_from_slice(&result.tensor().to_host());
    }
    results
}

fn paths(directory: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| directory.join(name)).collect()
}

#[test]
fn models_of_hugging_face_keep_what_their_settings_say() {
    for root in vlct_golden::vilt_directories("") {
        for name in ["hf/vqa", "hf/vqa_bin", "hf/nlvr2", "hf/irtr", "hf/mlm", "export/hf"] {
            let directory = tempfile::tempdir().expect("a directory");
            let of_input = open(&root.join(name), None);
            let want = results(&of_input, &root);
            let outputs = paths(
                directory.path(),
                &["a.safetensors", "b.ckpt", "c.safetensors", "d.ckpt", "e.ckpt"],
            );
            let inputs = [
                &root.join(name),
                &root.join(name),
                &outputs[1],
                &outputs[0],
                &outputs[2],
            ];
            let vilt = Some(Names::Vilt);
            for ((input, output), names) in inputs.into_iter().zip(&outputs).zip([None, None, None, vilt, vilt]) {
                convert(input, output, names, GivenHeads::default()).expect("converted");
                let converted = open(output, None);
                let what = format!("{name}: {}", output.display());
                assert!(results(&converted, &root) == want, "{what}");
                assert_eq!(converted.model().config(), of_input.model().config(), "{what}");
                assert_eq!(converted.heads(), of_input.heads(), "{what}");
                assert!(converted.notes().is_empty(), "{what}: {:?}", converted.notes());
                if of_input.task().is_some() {
                    assert_eq!(converted.task(), of_input.task(), "{what}");
                }
            }
            // And back: the same directory.
            let back = directory.path().join("back");
            export(&outputs[4], &back, &ExportOptions::default()).expect("exported");
            assert!(results(&open(&back, None), &root) == want, "{name}");
        }
    }
}

#[test]
fn published_files_keep_what_their_configuration_says() {
    for root in vlct_golden::vilt_directories("") {
        let vocabulary = root.join("vocab.txt");
        for name in [
            "native/vqa.ckpt",
            "native/nlvr2.ckpt",
            "native/mlm_itm.ckpt",
            "export/vlc_vqa.ckpt",
        ] {
            let directory = tempfile::tempdir().expect("a directory");
            let want = results(&open(&root.join(name), Some(&vocabulary)), &root);
            let vilt = Some(Names::Vilt);
            for (output, names) in [
                ("a.safetensors", None),
                ("b.ckpt", None),
                ("c.safetensors", vilt),
                ("d.ckpt", vilt),
            ] {
                let output = directory.path().join(output);
                let converted = convert(&root.join(name), &output, names, GivenHeads::default()).expect("converted");
                let predictor = open(&output, Some(&vocabulary));
                assert!(results(&predictor, &root) == want, "{name}: {}", output.display());
                assert!(predictor.notes().is_empty(), "{:?}", predictor.notes());
                let of_decoder = converted.report.left_out.iter().filter(|name| name.contains("decoder"));
                let drops_decoder = name.contains("vlc") && names.is_some();
                assert_eq!(of_decoder.count() > 0, drops_decoder, "{:?}", converted.report.left_out);
            }
        }
    }
}

#[test]
fn a_model_of_vlc_has_the_logits_of_transformers_in_its_layout() {
    for root in vlct_golden::vilt_directories("") {
        let directory = tempfile::tempdir().expect("a directory");
        let out = directory.path().join("model");
        let options = ExportOptions {
            tokenizer: Some(Tokenizer::from_file(root.join("vocab.txt"), true).expect("a vocabulary")),
            ..ExportOptions::default()
        };
        export(&root.join("export/vlc_vqa.ckpt"), &out, &options).expect("exported");
        let golden = Tensors::open(root.join("export/golden.safetensors"));
        let cases = golden.names().iter().filter(|name| name.ends_with(".logits")).count();
        let want: Vec<f32> = (0..cases)
            .flat_map(|i| golden.f32(&format!("case{i}.logits_by_transformers")))
            .collect();
        assert_close("export", &results(&open(&out, None), &root), &want, BOUND);
    }
}
