use super::*;
use serde_json::Value;
use vlct_data::answers::Vocabulary;
use vlct_golden::{Tensors, json, vilt_directories};
use vlct_model::files::{Header, StateDict, Style};
use vlct_model::sizes::GivenHeads;

/// Inputs, and the recorded directories with the same models.
const MODELS: [(&str, &str); 9] = [
    ("export/vlc_vqa.ckpt", "export/hf"),
    ("export/hf", "export/hf"),
    ("hf/vqa", "hf/vqa"),
    ("hf/vqa_bin", "hf/vqa"),
    ("hf/nlvr2", "hf/nlvr2"),
    ("native/vqa.ckpt", "hf/vqa"),
    ("native/nlvr2.ckpt", "hf/nlvr2"),
    ("native/irtr.ckpt", "hf/irtr"),
    ("native/mlm_itm.ckpt", "hf/mlm"),
];
/// Keys of recorded files that depend on the version of transformers, or are its defaults.
const OF_VERSION: [&str; 10] = [
    "dtype",
    "torch_dtype",
    "transformers_version",
    "added_tokens_decoder",
    "clean_up_tokenization_spaces",
    "do_basic_tokenize",
    "extra_special_tokens",
    "never_split",
    "strip_accents",
    "tokenize_chinese_chars",
];

/// Returns what a published file, which is a file and not a directory, does not contain.
fn options(root: &Path, input: &str, recorded: &str) -> ExportOptions {
    if root.join(input).is_dir() {
        return ExportOptions::default();
    }
    let config = root.join(recorded).join(CONFIG);
    let names = Vocabulary::open(config).ok().filter(|_| input.contains("vqa"));
    ExportOptions {
        tokenizer: Some(Tokenizer::from_file(root.join("vocab.txt"), true).unwrap()),
        names: names.map(|names| {
            (0..names.len() as u32)
                .map(|id| names.answer(id).map(str::to_owned))
                .collect()
        }),
        ..ExportOptions::default()
    }
}

fn described(path: &Path) -> DescribedWeights {
    let mapped = files::map(path).unwrap();
    let index = files::index(&mapped).unwrap();
    DescribedWeights::read(mapped.path(), &index, GivenHeads::default()).unwrap()
}

#[test]
fn files_are_those_of_the_recorded_directories() {
    for root in vilt_directories("") {
        let temporary = tempfile::tempdir().unwrap();
        for (i, (input, recorded)) in MODELS.into_iter().enumerate() {
            let out = temporary.path().join(format!("model-{i}"));
            let report = export(&root.join(input), &out, &options(&root, input, recorded)).unwrap();
            let recorded = root.join(recorded);
            for name in [CONFIG, IMAGE_SETTINGS[0], TOKENIZER_SETTINGS, SPECIAL_TOKENS] {
                if !recorded.join(name).exists() {
                    continue;
                }
                let (got, want) = (json(out.join(name)), json(recorded.join(name)));
                for (key, want) in want.as_object().unwrap() {
                    let is_class_of_square = name == TOKENIZER_SETTINGS && key == "processor_class";
                    if !OF_VERSION.contains(&key.as_str()) && !is_class_of_square {
                        assert_eq!(got[key], *want, "{input}: {name}: {key}");
                    }
                }
            }
            assert_eq!(json(out.join(CONFIG))["architectures"][0], report.architecture);
            let text = |path: PathBuf| std::fs::read_to_string(path).unwrap();
            let vocabulary = text(root.join("vocab.txt"));
            assert_eq!(text(out.join(VOCABULARY)).trim_end(), vocabulary.trim_end());
            let (got, want) = (Tensors::open(out.join(WEIGHTS)), Tensors::open(recorded.join(WEIGHTS)));
            for name in want.names() {
                assert_eq!(got.shape(&name), want.shape(&name), "{input}: {name}");
                assert!(got.f32(&name) == want.f32(&name), "{input}: {name}");
            }
            let more: Vec<String> = got.names().into_iter().filter(|name| !want.has(name)).collect();
            let is_masked = report.architecture == "ViltForMaskedLM";
            assert_eq!(more.concat(), if is_masked { "mlm_score.decoder.bias" } else { "" });
            assert_eq!(report.tensors, got.names().len());
            let has_itm = input.contains("itm") || input.contains("irtr.ckpt");
            assert_eq!(
                report.left_out.iter().any(|name| name.starts_with("itm_score.")),
                has_itm
            );
            assert_eq!(
                report
                    .left_out
                    .iter()
                    .any(|name| name.starts_with("transformer.decoder_")),
                input.contains("vlc")
            );
            let of_eps = report.notes.iter().filter(|note| note.contains('ε')).count();
            assert_eq!(
                of_eps,
                usize::from(input.ends_with(".ckpt")),
                "{input}: {:?}",
                report.notes
            );
        }
        let entries = std::fs::read_dir(temporary.path()).unwrap();
        assert_eq!(entries.count(), MODELS.len(), "temporary directories are left");
    }
}

#[test]
fn a_written_directory_describes_the_model_that_it_was_made_of() {
    for root in vilt_directories("") {
        for (input, recorded) in MODELS {
            let temporary = tempfile::tempdir().unwrap();
            let out = temporary.path().join("model");
            let options = options(&root, input, recorded);
            export(&root.join(input), &out, &options).unwrap();
            let (got, of_input) = (described(&out), described(&root.join(input)));
            let eps = of_input.model.variant.text_layer_norm_eps;
            let mut want = of_input.model.clone();
            (want.backbone, want.variant) = (got.model.backbone, got.model.variant);
            want.heads.itm = false;
            assert_eq!(got.model, want, "{input}");
            assert_eq!(
                (got.model.variant.layer_norm_eps, got.model.variant.text_layer_norm_eps),
                (eps, eps)
            );
            assert_eq!(
                (got.format, &got.transform),
                (of_input.format, &of_input.transform),
                "{input}"
            );
            assert_eq!(got.max_text_len, of_input.max_text_len);
            assert!(got.notes.is_empty() && got.assumptions.is_empty(), "{:?}", got.notes);
            let tokenizer = options.tokenizer.unwrap_or(of_input.tokenizer);
            assert!(got.tokenizer.vocabulary().iter().eq(tokenizer.vocabulary().iter()));
            if let (None, Some(TaskSpec::Vqa(want))) = (&options.names, &of_input.task) {
                assert!(matches!(&got.task, Some(TaskSpec::Vqa(spec)) if spec == want));
            }
            if let (Some(names), Some(TaskSpec::Vqa(spec))) = (&options.names, &got.task) {
                assert_eq!(spec.answers, *names);
            }
        }
    }
}

/// Writes a published model with the tensors of `more`, and without those whose names begin with `without`.
fn changed(root: &Path, directory: &Path, more: &str, without: &str) -> PathBuf {
    let read = |name: &str| files::read(&root.join("native").join(name)).unwrap().state;
    let (state, more) = (read("mlm_itm.ckpt"), read(more));
    let added = more.into_iter().filter(|(name, _)| name.contains("classifier"));
    let kept = state
        .into_iter()
        .filter(|(name, _)| without.is_empty() || !name.starts_with(without));
    let state: StateDict = kept.chain(added).collect();
    let header = Header {
        heads: GivenHeads {
            encoder: Some(3),
            decoder: None,
        },
        ..Style::Vlc.into()
    };
    let path = directory.join("changed.ckpt");
    files::write(&path, &state, &header).unwrap();
    path
}

#[test]
fn the_head_is_that_of_the_task_or_the_only_one_or_a_chosen_one() {
    let root = &vilt_directories("")[0];
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let mut options = options(root, "native/mlm_itm.ckpt", "hf/mlm");
    let run = |path: &Path, name: &str, options: &ExportOptions| {
        let report = export(path, &directory.join(name), options);
        report
            .map(|report| report.architecture)
            .map_err(|error| error.to_string())
    };
    let several = changed(root, directory, "vqa.ckpt", "");
    let error = run(&several, "a", &options).unwrap_err();
    assert!(
        error.contains("several: visual question answering, masked words"),
        "{error}"
    );
    for (head, architecture) in [
        (ViltHead::Vqa, "ViltForQuestionAnswering"),
        (ViltHead::MaskedWords, "ViltForMaskedLM"),
    ] {
        options.head = Some(head);
        assert_eq!(run(&several, architecture, &options), Ok(architecture));
    }
    options.head = Some(ViltHead::Nlvr2);
    let error = run(&several, "a", &options).unwrap_err();
    assert!(error.contains("no head for statements about two images"), "{error}");
    options.head = None;
    let none = changed(root, directory, "irtr.ckpt", "mlm_score.");
    let error = run(&none, "a", &options).unwrap_err();
    assert!(error.contains("has: none") && !error.contains('\n'), "{error}");
    assert!(!directory.join("a").exists());
}

#[test]
fn errors_name_the_directory_and_the_reason() {
    let root = &vilt_directories("")[0];
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("model");
    let error = |options: &ExportOptions, input: &str, out: &Path| {
        let error = export(&root.join(input), out, options).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let native = options(root, "native/vqa.ckpt", "hf/vqa");
    // The published vocabulary has more tokens than the model.
    let found = error(&ExportOptions::default(), "native/vqa.ckpt", &out);
    assert!(found.contains("has 30522 tokens, but the model has 129"), "{found}");
    let names = vec![Some("yes".into()); 21];
    let found = error(
        &ExportOptions {
            names: Some(names),
            ..native.clone()
        },
        "native/vqa.ckpt",
        &out,
    );
    assert!(found.contains("21 names of answers, but the head has 20"), "{found}");
    let found = error(&native, "mae/model.safetensors", &out);
    assert!(found.contains("model.safetensors"), "{found}");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine.txt"), "").unwrap();
    for path in [&out, &out.join("mine.txt")] {
        let found = error(&native, "native/vqa.ckpt", path);
        assert!(found.contains("not an empty directory"), "{found}");
    }
    let missing = temporary.path().join("missing/model");
    let found = error(&native, "native/vqa.ckpt", &missing);
    assert!(found.contains("missing/model: No such file"), "{found}");
    std::fs::remove_file(out.join("mine.txt")).unwrap();
    export(&root.join("native/vqa.ckpt"), &out, &native).unwrap();
}

#[test]
fn the_model_card_has_metadata_license_and_differences() {
    let root = &vilt_directories("")[0];
    let temporary = tempfile::tempdir().unwrap();
    let card = |name: &str, license: Option<&str>| {
        let out = temporary.path().join(name);
        let options = ExportOptions {
            license: license.map(str::to_owned),
            ..options(root, "export/vlc_vqa.ckpt", "export/hf")
        };
        export(&root.join("export/vlc_vqa.ckpt"), &out, &options).unwrap();
        std::fs::read_to_string(out.join(CARD)).unwrap()
    };
    let unknown = card("a", None);
    for part in [
        "---\nlicense: other\nlibrary_name: transformers\npipeline_tag: visual-question-answering\n",
        "license of the weights is not known",
        "ViltForQuestionAnswering.from_pretrained",
        "max_length=40",
        "transformer.decoder_",
        "ε for all layer norms, which is 1e-12 here",
        "Optimiser steps: 10",
    ] {
        assert!(unknown.contains(part), "{part:?} is not in {unknown}");
    }
    let known = card("b", Some("mit"));
    assert!(
        known.contains("license: \"mit\"") && !known.contains("not known"),
        "{known}"
    );
}

#[test]
fn classes_without_a_name_have_the_one_of_transformers() {
    let root = &vilt_directories("")[0];
    let temporary = tempfile::tempdir().unwrap();
    let out = temporary.path().join("model");
    let mut options = options(root, "native/vqa.ckpt", "hf/vqa");
    options.names = Some(vec![Some("yes".into()), None]);
    export(&root.join("native/vqa.ckpt"), &out, &options).unwrap();
    let config = json(out.join(CONFIG));
    assert_eq!(config["id2label"]["0"], "yes");
    assert_eq!(config["id2label"]["19"], "LABEL_19");
    assert_eq!(config["label2id"]["LABEL_1"], Value::from(1));
    match described(&out).task {
        Some(TaskSpec::Vqa(spec)) => assert_eq!(spec.answers.iter().flatten().collect::<Vec<_>>(), ["yes"]),
        task => panic!("{task:?}"),
    }
}
