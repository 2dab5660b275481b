use std::path::PathBuf;

use super::super::{StateDict, StoredTensor, Style, convert, position_ids, read};
use super::*;
use crate::files::TensorData;

type Target = [(String, Vec<usize>)];

/// Fits the tensors of `state` to those of a model. Unchanged tensors keep their element type; adapted tensors are f32.
fn adapt(state: StateDict, target: &Target, options: Options) -> Result<(StateDict, LoadReport), AdaptError> {
    let shapes = state
        .iter()
        .map(|(name, tensor)| (name, tensor.shape.as_slice(), tensor.data.dtype()));
    let plan = plan(shapes, &IndexMap::new(), target, options)?;
    let tensors: Vec<StoredTensor> = state.into_iter().map(|(_, tensor)| tensor).collect();
    let make = |step: &Step| {
        let (name, shape) = &target[step.target];
        let tensor = match step.source {
            None => position_ids(shape),
            Some((source, Fit::Same)) => tensors[source].clone(),
            Some((source, fit)) => {
                let mut out = vec![0.0; shape.iter().product()];
                fit.write(&tensors[source].to_f32().unwrap(), &mut out);
                StoredTensor::f32(shape.clone(), out)
            }
        };
        (name.clone(), tensor)
    };
    Ok((plan.steps.iter().map(make).collect(), plan.report))
}

/// The default options, with any number of missing tensors.
fn partial() -> Options {
    Options {
        partial: true,
        ..Options::default()
    }
}

/// Returns names and shapes of a state dict, the target of a model with the same tensors.
fn target_of(state: &StateDict) -> Vec<(String, Vec<usize>)> {
    state
        .iter()
        .map(|(name, tensor)| (name.to_owned(), tensor.shape.clone()))
        .collect()
}

fn change_shape(target: &mut Target, name: &str, change: impl FnOnce(&mut Vec<usize>)) {
    change(&mut target.iter_mut().find(|(n, _)| n == name).unwrap().1);
}

fn golden_states(name: &str) -> Vec<StateDict> {
    let paths: Vec<PathBuf> = vlct_golden::directories("model").iter().map(|f| f.join(name)).collect();
    let states: Vec<_> = paths
        .iter()
        .filter(|p| p.exists())
        .map(|p| read(p).unwrap().state)
        .collect();
    assert!(!states.is_empty(), "no {name} among the golden data");
    states
}

fn backbone_only() -> Options {
    Options {
        scope: Scope::Backbone,
        ..Options::default()
    }
}

/// Makes a state dict whose tensors have the values 0, 1, 2, ….
fn state_of_shapes(tensors: &[(&str, &[usize])]) -> StateDict {
    let tensor = |shape: &[usize]| {
        let count = shape.iter().product::<usize>();
        StoredTensor::f32(shape, (0..count).map(|i| i as f32).collect())
    };
    tensors
        .iter()
        .map(|(name, shape)| (name.to_string(), tensor(shape)))
        .collect()
}

#[test]
fn a_state_dict_with_the_names_and_shapes_of_the_model_is_unchanged() {
    for name in ["pretrain.ckpt", "vqa.ckpt", "nlvr2.ckpt", "irtr.ckpt"] {
        for state in golden_states(name) {
            let (adapted, report) = adapt(state.clone(), &target_of(&state), Options::default()).unwrap();
            assert_eq!(adapted, state);
            let want = LoadReport {
                matched: state.len(),
                ..LoadReport::default()
            };
            assert_eq!(report, want);
            assert_eq!(report.to_string(), format!("loaded {0} of {0} tensors", state.len()));
        }
    }
}

#[test]
fn loads_the_backbone_with_and_without_its_prefix() {
    for (model, mae) in golden_states("pretrain.ckpt").into_iter().zip(golden_states("mae.pth")) {
        let target = target_of(&model);
        let (prefixed, _) = convert::rename(mae.clone(), Style::Mae, Style::Vlc);
        let sources = [prefixed, mae.clone()];
        for scope in [Scope::Backbone, Scope::Model] {
            for source in &sources {
                let options = Options { scope, ..partial() };
                let (adapted, report) = adapt(source.clone(), &target, options).unwrap();
                assert_eq!(report.matched, mae.len());
                assert_eq!(report.unexpected, [""; 0]);
                let is_pooler_missing = report.missing.iter().any(|name| name == "pooler.dense.weight");
                assert_eq!(is_pooler_missing, scope == Scope::Model);
                for (name, tensor) in mae.iter() {
                    assert_eq!(adapted.get(&format!("transformer.{name}")), Some(tensor), "{name}");
                }
            }
        }
        // A file of the whole model is loaded into the backbone of a model, and into a backbone alone.
        let (adapted, report) = adapt(model.clone(), &target, backbone_only()).unwrap();
        assert!(adapted.names().all(|name| name.starts_with(BACKBONE_PREFIX)));
        assert!(report.missing.is_empty() && !report.unexpected.is_empty());
        let (adapted, report) = adapt(model, &target_of(&mae), backbone_only()).unwrap();
        assert!(report.missing.is_empty());
        assert!(adapted.contains("cls_token"));
    }
}

#[test]
fn resizes_position_tables_to_the_image_size() {
    let mut resized = 0;
    for directory in vlct_golden::directories("model") {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_name().unwrap().to_string_lossy().starts_with("pos_embed_") {
                continue;
            }
            let want = vlct_golden::Tensors::open(&path);
            let model = read(&directory.join("pretrain.ckpt")).unwrap().state;
            let mae = read(&directory.join("mae.pth")).unwrap().state;
            let mut target = target_of(&model);
            for name in want.names() {
                change_shape(&mut target, &format!("transformer.{name}"), |shape| {
                    *shape = want.shape(&name)
                });
            }
            // One source has names without the prefix, the other source has names with the prefix.
            let (prefixed, _) = convert::rename(mae.clone(), Style::Mae, Style::Vlc);
            for source in [mae, prefixed] {
                let (adapted, report) = adapt(source, &target, partial()).unwrap();
                assert_eq!(report.resized.len(), want.names().len(), "{report}");
                assert!(
                    report.to_string().contains("\nresized: transformer.pos_embed ("),
                    "{report}"
                );
                for name in want.names() {
                    let got = adapted.f32(&format!("transformer.{name}")).unwrap();
                    vlct_golden::assert_close(&name, &got, &want.f32(&name), 2e-6);
                    resized += 1;
                }
            }
        }
    }
    assert!(resized > 0);
    let error = adapt(
        state_of_shapes(&[("pos_embed", &[1, 4, 2])]),
        &[("pos_embed".into(), vec![1, 5, 2])],
        backbone_only(),
    );
    assert!(matches!(error, Err(AdaptError::NotSquare { rows: 4, .. })));
    let error = adapt(
        state_of_shapes(&[("pos_embed", &[1, 1, 2])]),
        &[("pos_embed".into(), vec![1, 5, 2])],
        backbone_only(),
    );
    assert!(matches!(error, Err(AdaptError::NotSquare { rows: 1, .. })));
    let error = adapt(
        state_of_shapes(&[("pos_embed", &[1, 5, 2])]),
        &[("pos_embed".into(), vec![1, 5, 3])],
        backbone_only(),
    );
    assert!(matches!(error, Err(AdaptError::Shape { .. })));
}

#[test]
fn resizes_half_precision_tables() {
    let ones = StoredTensor::new(vec![1, 5, 1], TensorData::F16(vec![0x3c00; 5]));
    let source: StateDict = [("pos_embed".to_owned(), ones)].into_iter().collect();
    let (adapted, _) = adapt(source, &[("pos_embed".into(), vec![1, 10, 1])], backbone_only()).unwrap();
    vlct_golden::assert_close("ones", &adapted.f32("pos_embed").unwrap(), &[1.0; 10], 1e-6);
}

#[test]
fn adapts_token_types_to_two_or_three_rows() {
    const NAME: &str = "token_type_embeddings.weight";
    for (two, three) in golden_states("pretrain.ckpt")
        .into_iter()
        .zip(golden_states("nlvr2.ckpt"))
    {
        let width = two.get(NAME).unwrap().shape[1];
        let (adapted, report) = adapt(two.clone(), &target_of(&three), Options::default()).unwrap();
        let (before, after) = (two.f32(NAME).unwrap(), adapted.f32(NAME).unwrap());
        assert_eq!(after[..2 * width], before[..]);
        assert_eq!(after[2 * width..], before[width..]);
        assert_eq!(report.resized, [format!("{NAME} (row 2 copied from row 1)")]);

        let (adapted, _) = adapt(three.clone(), &target_of(&two), partial()).unwrap();
        assert_eq!(adapted.f32(NAME).unwrap()[..], three.f32(NAME).unwrap()[..2 * width]);
        // The token types of the text embedding are another table, which is not adapted.
        let text_table = format!("text_embeddings.{NAME}");
        assert_eq!(adapted.get(&text_table), three.get(&text_table));
        let mut target = target_of(&two);
        change_shape(&mut target, &text_table, |shape| shape[0] = 3);
        let error = adapt(two, &target, Options::default());
        assert!(matches!(error, Err(AdaptError::Shape { name, .. }) if name == text_table));
    }
}

#[test]
fn makes_the_retrieval_head_from_the_matching_head() {
    for (model, source) in golden_states("irtr.ckpt")
        .into_iter()
        .zip(golden_states("pretrain.ckpt"))
    {
        let mut target = target_of(&model);
        let (adapted, report) = adapt(source.clone(), &target, Options::default()).unwrap();
        let width = model.get("rank_output.weight").unwrap().shape[1];
        let matching = source.f32("itm_score.fc.weight").unwrap();
        assert_eq!(adapted.f32("rank_output.weight").unwrap()[..], matching[width..]);
        assert_eq!(
            adapted.f32("rank_output.bias").unwrap()[..],
            source.f32("itm_score.fc.bias").unwrap()[1..]
        );
        assert_eq!(adapted.get("rank_output.weight").unwrap().shape, [1, width]);
        assert_eq!(report.derived.len(), 2);
        assert!(report.missing.is_empty(), "{report}");
        // The order of the model's tensors does not matter.
        target.reverse();
        let (reversed, _) = adapt(source.clone(), &target, Options::default()).unwrap();
        assert_eq!(reversed.get("rank_output.weight"), adapted.get("rank_output.weight"));
        // The file's retrieval head is used, except with `skip_heads`.
        let (kept, report) = adapt(model.clone(), &target, Options::default()).unwrap();
        assert_eq!(kept.get("rank_output.weight"), model.get("rank_output.weight"));
        assert!(report.derived.is_empty());
        let skip_heads = Options {
            skip_heads: true,
            ..Options::default()
        };
        let (fresh, report) = adapt(model.clone(), &target, skip_heads).unwrap();
        let matching = model.f32("itm_score.fc.weight").unwrap();
        assert_eq!(fresh.f32("rank_output.weight").unwrap()[..], matching[width..]);
        assert_eq!(report.skipped, ["rank_output.weight", "rank_output.bias"]);
        // If the file has neither head, the retrieval head is missing.
        let mut neither = source.clone();
        neither.remove("itm_score.fc.weight");
        neither.remove("itm_score.fc.bias");
        let (_, report) = adapt(neither, &target, Options::default()).unwrap();
        assert!(report.missing.contains(&"rank_output.weight".to_owned()));
    }
}

#[test]
fn skip_heads_ignores_the_heads_of_the_file() {
    for state in golden_states("vqa.ckpt") {
        let target = target_of(&state);
        let skip_heads = Options {
            skip_heads: true,
            ..Options::default()
        };
        let (adapted, report) = adapt(state, &target, skip_heads).unwrap();
        assert!(adapted.names().all(|name| !name.starts_with("vqa_classifier.")));
        assert!(!report.skipped.is_empty());
        assert_eq!(report.skipped, report.missing);
        assert!(report.unexpected.is_empty());
    }
}

#[test]
fn shortens_but_does_not_extend_text_positions() {
    const POSITIONS: &str = "text_embeddings.position_embeddings.weight";
    for state in golden_states("pretrain.ckpt") {
        let rows = state.get(POSITIONS).unwrap().shape[0];
        let target_with = |rows: usize| {
            let mut target = target_of(&state);
            change_shape(&mut target, POSITIONS, |shape| shape[0] = rows);
            change_shape(&mut target, POSITION_IDS, |shape| shape[1] = rows);
            target
        };
        let (adapted, report) = adapt(state.clone(), &target_with(rows - 3), Options::default()).unwrap();
        let kept = adapted.f32(POSITIONS).unwrap().into_owned();
        assert_eq!(kept[..], state.f32(POSITIONS).unwrap()[..kept.len()]);
        let ids: Vec<i64> = (0..rows as i64 - 3).collect();
        assert_eq!(adapted.get(POSITION_IDS).unwrap().data, TensorData::I64(ids));
        assert_eq!(
            report.resized,
            [format!("{POSITIONS} (the first {} of {rows} positions)", rows - 3)]
        );

        let error = adapt(state.clone(), &target_with(rows + 1), Options::default())
            .unwrap_err()
            .to_string();
        let width = state.get(POSITIONS).unwrap().shape[1];
        let want = format!(
            "tensor {POSITIONS} has shape [{rows}, {width}] in the file and [{}, {width}] in the model",
            rows + 1
        );
        assert_eq!(error, want);
    }
}

#[test]
fn position_ids_are_optional() {
    for state in golden_states("pretrain.ckpt") {
        let mut without_ids = state.clone();
        without_ids.remove(POSITION_IDS).unwrap();
        let (adapted, report) = adapt(without_ids.clone(), &target_of(&state), Options::default()).unwrap();
        assert_eq!(adapted, state);
        assert_eq!(report.derived, [POSITION_IDS]);
        let (adapted, report) = adapt(state, &target_of(&without_ids), Options::default()).unwrap();
        assert_eq!(adapted, without_ids);
        assert!(report.unexpected.is_empty());
    }
}

#[test]
fn rejects_files_without_a_matching_name() {
    let target = vec![
        ("transformer.norm.weight".to_owned(), vec![2]),
        (POSITION_IDS.to_owned(), vec![1, 4]),
    ];
    let error = adapt(
        state_of_shapes(&[("fc.weight", &[2, 2]), ("fc.bias", &[2])]),
        &target,
        Options::default(),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "none of the file's tensors (fc.weight, fc.bias) belongs to the model (transformer.norm.weight, \
         text_embeddings.position_ids): is it the right file?"
    );
    // A file with only the position ids is rejected, and so is an empty file.
    assert!(adapt(state_of_shapes(&[(POSITION_IDS, &[1, 4])]), &target, Options::default()).is_err());
    assert!(adapt(StateDict::new(), &target, Options::default()).is_err());
}

#[test]
fn ignores_a_classifier_head_with_another_number_of_classes() {
    let source = state_of_shapes(&[("norm.weight", &[2]), ("head.weight", &[3, 2]), ("head.bias", &[3])]);
    let target = vec![
        ("norm.weight".to_owned(), vec![2]),
        ("head.weight".to_owned(), vec![5, 2]),
        ("head.bias".to_owned(), vec![5]),
    ];
    let (adapted, report) = adapt(source, &target, Options::default()).unwrap();
    assert_eq!(adapted.len(), 1);
    assert_eq!(report.missing, ["head.weight", "head.bias"]);
    assert_eq!(report.skipped[0], "head.weight (3 classes instead of 5)");
}

#[test]
fn reports_abbreviate_long_lists() {
    let mut names: Vec<String> = (0..8).map(|i| format!("n{i}")).collect();
    let report = LoadReport {
        matched: 1,
        missing: names.clone(),
        unexpected: names[..4].to_vec(),
        ..LoadReport::default()
    };
    assert_eq!(
        report.to_string(),
        "loaded 1 of 9 tensors\nnot in the file, so they start at random: n0, n1, n2, n3, n4, n5, n6, n7\nnot used: n0, n1, n2, n3"
    );
    names.extend(["transformer.blocks.0.norm1.bias", "transformer.blocks.1.norm1.bias"].map(str::to_owned));
    names.extend(
        [
            "transformer.cls_token",
            "pooler.dense.weight",
            "pooler.dense.bias (12 values)",
        ]
        .map(str::to_owned),
    );
    assert_eq!(
        abbreviate(&names[4..]),
        "n4, n5, n6, n7, transformer.blocks.* (2), transformer.cls_token, pooler.* (2)"
    );
    let names: Vec<String> = (0..20).map(|i| format!("n{i}")).collect();
    assert!(abbreviate(&names).ends_with("n14, n15 and 4 more"));
}

#[test]
fn prefers_names_with_the_prefix() {
    let source = state_of_shapes(&[("norm.weight", &[3]), ("transformer.norm.weight", &[2])]);
    let target = vec![("transformer.norm.weight".to_owned(), vec![2])];
    let (adapted, report) = adapt(source, &target, Options::default()).unwrap();
    assert_eq!(adapted.get("transformer.norm.weight").unwrap().shape, [2]);
    assert_eq!(report.unexpected, ["norm.weight"]);
}

#[test]
fn a_file_with_fewer_than_nearly_all_tensors_is_rejected_unless_a_part_is_asked_for() {
    for state in golden_states("pretrain.ckpt") {
        let target = target_of(&state);
        let without = |is_removed: &dyn Fn(&str) -> bool| -> StateDict {
            state
                .clone()
                .into_iter()
                .filter(|(name, _)| !is_removed(name))
                .collect()
        };
        // One tensor of many may be missing, but not a block.
        let (_, report) = adapt(
            without(&|name| name == "pooler.dense.bias"),
            &target,
            Options::default(),
        )
        .unwrap();
        assert_eq!(report.missing, ["pooler.dense.bias"]);
        let part = without(&|name| name.starts_with("transformer.blocks.0."));
        let error = adapt(part.clone(), &target, Options::default())
            .unwrap_err()
            .to_string();
        let needed = state.len() - 1;
        let want = format!(
            "the file has {} of the {needed} tensors that the model needs, not transformer.blocks.* (12)",
            needed - 12
        );
        assert_eq!(error, want);
        let (_, report) = adapt(part, &target, partial()).unwrap();
        assert_eq!(report.missing.len(), 12);
        // A model that is used without its decoder does not need it.
        let part = without(&|name| is_of_decoder(name));
        assert!(matches!(
            adapt(part.clone(), &target, Options::default()),
            Err(AdaptError::Incomplete { .. })
        ));
        let without_decoder = Options {
            without_decoder: true,
            ..Options::default()
        };
        adapt(part, &target, without_decoder).unwrap();
        // Weights of MAE are not those of the whole model.
        let backbone = without(&|name| !name.starts_with(BACKBONE_PREFIX));
        assert!(adapt(backbone, &target, Options::default()).is_err());
    }
    // Heads of downstream tasks start fresh.
    for (state, source) in golden_states("vqa.ckpt")
        .into_iter()
        .zip(golden_states("pretrain.ckpt"))
    {
        let (_, report) = adapt(source, &target_of(&state), Options::default()).unwrap();
        assert!(report.missing.iter().all(|name| name.starts_with("vqa_classifier.")));
    }
}

#[test]
fn published_image_classifiers_are_complete_backbones() {
    for (model, mae) in golden_states("pretrain.ckpt").into_iter().zip(golden_states("mae.pth")) {
        let target = target_of(&model);
        let width = mae.get("cls_token").unwrap().shape[2];
        let mut classifier: StateDict = mae
            .into_iter()
            .filter(|(name, _)| !is_of_decoder(name) && !name.starts_with("norm."))
            .collect();
        assert!(
            adapt(classifier.clone(), &target, backbone_only()).is_err(),
            "no last norm"
        );
        // Fine-tuned with average pooling, as by MAE.
        for name in ["fc_norm.weight", "fc_norm.bias", "head.weight"] {
            classifier.insert(name, StoredTensor::f32([width], vec![1.0; width]));
        }
        let (_, report) = adapt(classifier, &target, backbone_only()).unwrap();
        assert_eq!(report.unexpected, ["fc_norm.weight", "fc_norm.bias", "head.weight"]);
        assert!(report.missing.contains(&"transformer.norm.weight".to_owned()));
    }
}

#[test]
fn an_unreadable_tensor_is_an_error_only_if_the_model_needs_it() {
    let state = state_of_shapes(&[("transformer.cls_token", &[1]), ("transformer.norm.bias", &[1])]);
    let mut target = target_of(&state);
    target.push(("vqa_classifier.0.bias".into(), vec![1]));
    let problem = || TensorProblem::UnsupportedDtype("complex64".into());
    let plan = |unreadable: &str, removed: &str, options: Options| {
        let shapes = state.iter().filter(|(name, _)| *name != removed);
        let shapes = shapes.map(|(name, tensor)| (name, tensor.shape.as_slice(), tensor.data.dtype()));
        let unreadable = IndexMap::from([(unreadable.to_owned(), problem())]);
        plan(shapes, &unreadable, &target, options).map(|plan| plan.report)
    };
    let report = plan("freqs", "", Options::default()).unwrap();
    assert_eq!(report.unexpected, ["freqs (has the unsupported type complex64)"]);
    for name in ["transformer.norm.bias", "norm.bias"] {
        let error = plan(name, "transformer.norm.bias", partial()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("tensor {name}, which the model needs, has the unsupported type complex64")
        );
    }
    let fresh_heads = Options {
        skip_heads: true,
        ..Options::default()
    };
    let head = "vqa_classifier.0.bias";
    assert_eq!(plan(head, "", fresh_heads).unwrap().missing, [head]);
    assert!(plan(head, "", Options::default()).is_err());
}
