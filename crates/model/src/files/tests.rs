use std::path::PathBuf;

use proptest::prelude::*;

use super::convert::rename;
use super::*;
use vlct_checkpoint as checkpoint;

/// Returns the paths of all golden checkpoints.
fn checkpoints() -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for directory in vlct_golden::directories("model") {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "ckpt" || e == "pth") {
                paths.push(path);
            }
        }
    }
    paths.sort();
    assert!(!paths.is_empty(), "no checkpoints among the golden data");
    paths
}

/// Returns the paths of the golden files `name`.
fn golden_files(name: &str) -> Vec<PathBuf> {
    let directories = vlct_golden::directories("model");
    let paths: Vec<_> = directories
        .iter()
        .map(|directory| directory.join(name))
        .filter(|p| p.exists())
        .collect();
    assert!(!paths.is_empty(), "no {name} among the golden data");
    paths
}

/// Returns tensors of every element type, sorted neither by name nor by type.
fn all_dtypes() -> StateDict {
    let mut state = StateDict::new();
    state.insert(
        "text_embeddings.z",
        StoredTensor::f32([2, 3], vec![1.0, -2.0, 3.5, f32::MIN, 0.0, -0.0]),
    );
    state.insert(
        "b",
        StoredTensor::new(vec![3], TensorData::Bool(vec![true, false, true])),
    );
    state.insert("ids", StoredTensor::new(vec![1, 2], TensorData::I64(vec![i64::MIN, 7])));
    state.insert("h", StoredTensor::new(vec![2], TensorData::F16(vec![0x3c00, 0xc000])));
    state.insert("bf", StoredTensor::new(vec![1], TensorData::BF16(vec![0x3f80])));
    state.insert("d", StoredTensor::new(vec![1], TensorData::F64(vec![0.1])));
    state.insert("scalar", StoredTensor::f32([], vec![4.0]));
    state.insert("empty", StoredTensor::f32([0, 4], vec![]));
    state.insert("i32", StoredTensor::new(vec![1], TensorData::I32(vec![-5])));
    state.insert("i16", StoredTensor::new(vec![1], TensorData::I16(vec![-300])));
    state.insert("i8", StoredTensor::new(vec![1], TensorData::I8(vec![-3])));
    state.insert("u8", StoredTensor::new(vec![2], TensorData::U8(vec![0, 255])));
    state
}

fn sorted(state: StateDict) -> Vec<(String, StoredTensor)> {
    let mut tensors: Vec<_> = state.into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    tensors
}

#[test]
fn reads_golden_checkpoints() {
    for path in checkpoints() {
        let file = read(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_mae = name.starts_with("mae");
        assert_eq!(file.style, if is_mae { Style::Mae } else { Style::Vlc });
        assert_eq!(
            file.summary.weights_under.as_deref(),
            Some(if is_mae { "model" } else { "state_dict" })
        );
        assert_eq!(
            file.format,
            if name.contains("legacy") {
                Format::TorchLegacy
            } else {
                Format::TorchZip
            }
        );
        assert!(file.summary.skipped.is_empty(), "{:?}", file.summary.skipped);
        let prefix = if is_mae { "" } else { BACKBONE_PREFIX };
        let table = file.state.get(&format!("{prefix}pos_embed")).unwrap();
        let width = table.shape[2];
        let grid = (table.shape[1] - 1).isqrt();
        // The position table is not trained, so its values are known.
        let table = table.to_f32().unwrap();
        vlct_golden::assert_within(&name, &table, &crate::position::sine_cosine(width, grid), 1e-6);
        for (tensor_name, tensor) in file.state.iter() {
            if let Some(values) = tensor.to_f32() {
                assert!(values.iter().all(|v| v.is_finite()), "{name}: {tensor_name}");
            }
        }
    }
}

#[test]
fn summary_describes_the_other_entries_of_a_lightning_checkpoint() {
    for path in golden_files("pretrain.ckpt") {
        let summary = read(&path).unwrap().summary;
        assert!(summary.epoch.is_some() && summary.global_step.is_some());
        let entry = |name: &str| summary.entry(name).unwrap();
        assert!(entry("callbacks").contains("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"));
        assert!(entry("hyper_parameters").contains("mask_ratio"));
        assert!(!summary.entries.iter().any(|(key, _)| key == "state_dict"));
    }
}

#[test]
fn both_pytorch_formats_give_the_same_content() {
    for path in golden_files("pretrain.ckpt") {
        let zip = read(&path).unwrap();
        let legacy = read(&path.with_file_name("pretrain_legacy.ckpt")).unwrap();
        assert!(!zip.state.is_empty());
        assert_eq!(zip.state, legacy.state);
        assert!(zip.state.names().eq(legacy.state.names()), "order of names");
        // Only the archive has checksums.
        let summary = Summary {
            has_checksums: false,
            ..zip.summary.clone()
        };
        assert!(zip.summary.has_checksums);
        assert_eq!(summary, legacy.summary);
    }
}

#[test]
fn writing_and_reading_keeps_names_and_values() {
    let directory = tempfile::tempdir().unwrap();
    let mut states = vec![all_dtypes()];
    states.extend(checkpoints().iter().map(|path| read(path).unwrap().state));
    for state in states {
        let header = Header {
            epoch: 3,
            global_step: 70_000,
            ..Style::detect(state.names()).into()
        };
        for extension in ["ckpt", "pth", "safetensors"] {
            let path = directory.path().join("weights").with_extension(extension);
            write(&path, &state, &header).unwrap();
            let back = read(&path).unwrap();
            assert_eq!(back.style, header.style);
            if extension == "safetensors" {
                // The writer groups tensors by the size of their values.
                assert_eq!(sorted(back.state), sorted(state.clone()));
            } else {
                assert_eq!(back.format, Format::TorchZip);
                assert!(back.state.names().eq(state.names()), "order of names");
                assert_eq!(back.state, state);
            }
            if extension == "safetensors" || header.style == Style::Vlc {
                assert_eq!((back.summary.epoch, back.summary.global_step), (Some(3), Some(70_000)));
            }
        }
    }
}

#[test]
fn equal_weights_give_equal_bytes() {
    let directory = tempfile::tempdir().unwrap();
    for extension in ["pth", "safetensors"] {
        let path = directory.path().join("a").with_extension(extension);
        let header = Header {
            metadata: vec![("task".into(), "vqa".into()), ("config".into(), "{}".into())],
            ..Style::Vlc.into()
        };
        write(&path, &all_dtypes(), &header).unwrap();
        let first = std::fs::read(&path).unwrap();
        for _ in 0..4 {
            write(&path, &all_dtypes(), &header).unwrap();
            assert!(std::fs::read(&path).unwrap() == first, "{extension}");
        }
    }
}

#[test]
fn another_reader_reads_written_safetensors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    for source in golden_files("vqa.ckpt") {
        let state = read(&source).unwrap().state;
        write(&path, &state, &Style::Vlc.into()).unwrap();
        let tensors = vlct_golden::Tensors::open(&path);
        for (name, tensor) in state.iter() {
            assert_eq!(tensors.shape(name), tensor.shape);
            if let Some(values) = tensor.to_f32() {
                assert!(tensors.f32(name) == *values, "{name}");
            }
        }
    }
}

#[test]
fn convert_changes_names_in_both_directions() {
    let directory = tempfile::tempdir().unwrap();
    let mae = directory.path().join("mae.safetensors");
    let back = directory.path().join("back.ckpt");
    for path in golden_files("vqa.ckpt") {
        let state = read(&path).unwrap().state;
        let report = convert(&path, &mae, Some(Style::Mae).into()).unwrap();
        assert!(report.left_out.iter().any(|name| name == "pooler.dense.weight"));
        assert!(
            report.to_string().contains("names changed from VLC to MAE\nleft out"),
            "{report}"
        );
        let converted = read(&mae).unwrap();
        assert_eq!(converted.style, Style::Mae);
        for name in ["cls_token", "decoder_pred.weight"] {
            assert_eq!(
                converted.state.get(name),
                state.get(&format!("transformer.{name}")),
                "{name}"
            );
        }
        let report = convert(&mae, &back, Some(Style::Vlc).into()).unwrap();
        assert!(report.left_out.is_empty());
        let restored = read(&back).unwrap();
        assert_eq!(restored.summary.weights_under.as_deref(), Some("state_dict"));
        let backbone = state
            .into_iter()
            .filter(|(name, _)| name.starts_with(BACKBONE_PREFIX))
            .collect();
        assert_eq!(sorted(restored.state), sorted(backbone));
    }
    // If no naming scheme is given, the names, the epoch and the step are kept.
    for path in golden_files("pretrain.ckpt") {
        convert(&path, &back, None.into()).unwrap();
        let (before, after) = (read(&path).unwrap(), read(&back).unwrap());
        assert_eq!(before.state, after.state);
        assert_eq!(before.summary.global_step, after.summary.global_step);
    }
    let text_only: StateDict = [("text_embeddings.x".to_owned(), StoredTensor::f32([1], vec![0.0]))]
        .into_iter()
        .collect();
    write(&back, &text_only, &Style::Vlc.into()).unwrap();
    let error = convert(&back, &mae, Some(Style::Mae).into()).unwrap_err();
    assert!(
        error.to_string().contains("no tensors of the image backbone"),
        "{error}"
    );
}

#[test]
fn moments_and_averages_of_a_checkpoint_are_not_weights() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    let (trained, frozen) = ("transformer.norm.bias", "transformer.pos_embed");
    let [moment, average] = ["optimizer.exp_avg.", "ema."].map(|prefix| format!("{prefix}{trained}"));
    let save = |names: &[(&str, f32)]| {
        let tensors: Vec<_> = names
            .iter()
            .map(|(name, value)| checkpoint::TensorRef {
                name,
                shape: &[1],
                data: vlct_tensor::Device::default().tensor(1, 1, &[*value]),
            })
            .collect();
        checkpoint::save(&path, &tensors, &serde_json::Value::Null, &serde_json::Value::Null).unwrap();
    };
    let values = |state: &StateDict| -> Vec<(String, f32)> {
        state
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.to_f32().unwrap()[0]))
            .collect()
    };
    save(&[(trained, 1.0), (frozen, 2.0), (&moment, 3.0), (&average, 4.0)]);
    let weights = [(trained.to_owned(), 1.0), (frozen.to_owned(), 2.0)];
    assert_eq!(values(&read(&path).unwrap().state), weights);
    let converted = directory.path().join("converted.safetensors");
    assert_eq!(convert(&path, &converted, None.into()).unwrap().tensors, 2);
    assert_eq!(values(&read(&converted).unwrap().state), weights);
    let summary = checkpoint::inspect(&path).unwrap();
    assert_eq!((summary.tensors, summary.optimizer, summary.averages), (2, true, true));

    save(&[(trained, 1.0), (&moment, 3.0)]);
    assert!(!checkpoint::inspect(&path).unwrap().averages);
}

#[test]
fn a_changed_bit_in_a_checkpoint_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    let tensor = checkpoint::TensorRef {
        name: "transformer.norm.bias",
        shape: &[2],
        data: vlct_tensor::Device::default().tensor(1, 2, &[1.0, -1.0]),
    };
    checkpoint::save(
        &path,
        &[tensor],
        &serde_json::json!({"epoch": 3}),
        &serde_json::Value::Null,
    )
    .unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(read_bytes(&bytes).unwrap().state.len(), 1);
    for bit in 0..8 * bytes.len() {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read_bytes(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    *bytes.last_mut().unwrap() ^= 1;
    let message = read_bytes(&bytes).unwrap_err().to_string();
    assert!(
        message.starts_with("the content was altered: the checksum does not match; use"),
        "{message}"
    );
}

#[test]
fn tensors_of_other_types_in_a_safetensors_file_are_listed() {
    let header = br#"{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"codes":{"dtype":"U16","shape":[2],"data_offsets":[4,8]},"f8":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[8,9]}}"#;
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 9]].concat();
    let file = read_bytes(&bytes).unwrap();
    assert_eq!(file.state.names().collect::<Vec<_>>(), ["w"]);
    let unreadable: Vec<String> = file
        .unreadable
        .iter()
        .map(|(name, problem)| format!("{name} {problem}"))
        .collect();
    assert_eq!(
        unreadable,
        [
            "codes has the unsupported type U16",
            "f8 has the unsupported type F8_E4M3"
        ]
    );
}

#[test]
fn wrapped_files_convert_to_the_names_and_values_of_plain_ones() {
    let directory = tempfile::tempdir().unwrap();
    let wrapped = directory.path().join("wrapped.pth");
    for name in ["pretrain.ckpt", "mae.pth"] {
        for path in golden_files(name) {
            let plain = read(&path).unwrap();
            for wrap in [
                |name: &str| format!("module.{name}"),
                |name: &str| format!("model._orig_mod.{name}"),
                |name: &str| {
                    name.replacen("transformer.", "transformer.module.", 1)
                        .replace(".norm", "._orig_mod.norm")
                },
            ] {
                let mut state: StateDict = plain
                    .state
                    .clone()
                    .into_iter()
                    .map(|(name, t)| (wrap(&name), t))
                    .collect();
                state.insert("n_averaged", StoredTensor::new(vec![], TensorData::I64(vec![7])));
                write(&wrapped, &state, &plain.style.into()).unwrap();
                let read_back = read(&wrapped).unwrap();
                assert_eq!(read_back.style, plain.style);
                assert!(read_back.state.contains("n_averaged"));
                assert!(!read_back.summary.removed_prefixes.is_empty());
                for (style, expected) in [
                    (Style::Vlc, rename(plain.state.clone(), plain.style, Style::Vlc).0),
                    (Style::Mae, rename(plain.state.clone(), plain.style, Style::Mae).0),
                ] {
                    let converted = directory.path().join("converted.safetensors");
                    let report = convert(&wrapped, &converted, Some(style).into()).unwrap();
                    assert!(report.to_string().contains(", without "), "{report}");
                    let mut got = read(&converted).unwrap().state;
                    got.remove("n_averaged");
                    assert!(sorted(got) == sorted(expected), "{}: {style}", path.display());
                }
            }
        }
    }
}

/// Files that PyTorch has written, each with what other programs stumble over: a name of 21 characters, wrappers, a stray buffer, a tensor
/// of an unusual type, another layout of the values. All have the tensors of `base.safetensors`.
#[test]
fn files_with_odd_names_and_tensors_have_the_weights_of_a_plain_file() {
    let mut files = 0;
    for directory in vlct_golden::directories("weights") {
        let base = read(&directory.join("base.safetensors")).unwrap().state;
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let file = read(&path).unwrap_or_else(|e| panic!("{e}"));
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert_eq!(file.style, Style::Vlc, "{name}");
            let not_weights: Vec<&str> = file
                .state
                .names()
                .chain(file.unreadable.keys().map(String::as_str))
                .filter(|tensor| !base.contains(tensor))
                .collect();
            let want = match name.as_str() {
                "averaged_model.pth" => "n_averaged",
                "lightning_metric.ckpt" => "train_acc.total",
                "complex.ckpt" => "freqs",
                "expanded.ckpt" => "logit_scale",
                "float8.ckpt" => "scale",
                "sparse.ckpt" => "adjacency",
                "u16.safetensors" => "codes",
                "quantised.ckpt" => "odd_q",
                "sparse_csr.ckpt" => "odd_csr",
                "nested.ckpt" => "odd_nested",
                "u64.ckpt" => "odd_u64",
                _ => "",
            };
            assert_eq!(not_weights.join(", "), want, "{name}");
            for (tensor, weights) in base.iter() {
                let is_expanded = name == "expanded_positions.ckpt" && tensor == "transformer.pos_embed";
                let got = file.state.f32(tensor).unwrap();
                match is_expanded {
                    true => assert!(got.iter().all(|value| *value == 1.0)),
                    false => assert!(got == weights.to_f32().unwrap(), "{name}: {tensor}"),
                }
            }
            files += 1;
        }
    }
    assert!(files >= 20);
}

#[test]
fn only_pytorch_files_get_position_ids() {
    let directory = tempfile::tempdir().unwrap();
    for path in golden_files("pretrain.ckpt") {
        let mut state = read(&path).unwrap().state;
        state.remove(POSITION_IDS).unwrap();
        let source = directory.path().join("source.safetensors");
        write(&source, &state, &Style::Vlc.into()).unwrap();
        for (extension, has_ids) in [("safetensors", false), ("ckpt", true)] {
            let converted = directory.path().join("converted").with_extension(extension);
            convert(&source, &converted, Some(Style::Vlc).into()).unwrap();
            assert_eq!(read(&converted).unwrap().state.contains(POSITION_IDS), has_ids);
        }
    }
}

#[test]
fn values_that_are_not_finite_are_counted() {
    let mut state = all_dtypes();
    state.insert(
        "transformer.norm.bias",
        StoredTensor::f32([3], vec![f32::NAN, 1.0, f32::NEG_INFINITY]),
    );
    state.insert("mask", StoredTensor::new(vec![2], TensorData::F16(vec![0x7c00, 0])));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("w.safetensors");
    write(&path, &state, &Style::Vlc.into()).unwrap();
    let files = map(&path).unwrap();
    let found = index(&files).unwrap().non_finite();
    assert_eq!(found.of_model, [("transformer.norm.bias".to_owned(), 2)]);
    assert_eq!(found.others, [("mask".to_owned(), 1)]);
}

#[test]
fn rejects_truncated_files() {
    /// Difference in bytes between tested lengths.
    const STEP: usize = 97;
    let directory = tempfile::tempdir().unwrap();
    let safetensors = directory.path().join("w.safetensors");
    let pth = directory.path().join("w.pth");
    write(&safetensors, &all_dtypes(), &Style::Vlc.into()).unwrap();
    write(&pth, &all_dtypes(), &Style::Vlc.into()).unwrap();
    let mut paths = checkpoints();
    paths.extend([safetensors, pth]);
    for path in paths {
        let bytes = std::fs::read(&path).unwrap();
        // The last 60 bytes, in the directory of an archive or the last tensor, are removed one by one.
        let lengths = (0..bytes.len()).step_by(STEP).chain(bytes.len() - 60..bytes.len());
        for length in lengths {
            assert!(
                read_bytes(&bytes[..length]).is_err(),
                "{} truncated to {length} bytes",
                path.display()
            );
        }
    }
}

#[test]
fn errors_identify_other_kinds_of_files() {
    for (bytes, want) in [
        (&b""[..], "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (b"\x80\x04N.", "a Python pickle that torch.save did not write"),
        (b"hello", "unknown format"),
        (b"\x1f\x8b\x08\0", "is compressed with gzip"),
        (b"\xff\xff\xff\xff\x08\0\0\0", "is an Arrow stream"),
        (b"PAR1", "is a Parquet file"),
        (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
        (b"{\"a\": 1, \"b\": 2}", "is a JSON file"),
        (b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "without data.pkl"),
        (b"\x02\0\0\0\0\0\0\0{}", "no named tensors"),
    ] {
        let message = read_bytes(bytes).unwrap_err().to_string();
        assert!(message.contains(want), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    assert!(read_bytes(&tar).unwrap_err().to_string().contains("tar archive"));

    let directory = tempfile::tempdir().unwrap();
    #[cfg(unix)]
    {
        let message = read(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(message.ends_with("is not a regular file"), "{message}");
    }
    let missing = directory.path().join("none.ckpt");
    let message = read(&missing).unwrap_err().to_string();
    assert!(message.starts_with(&missing.display().to_string()), "{message}");
    let message = write(&directory.path().join("x.onnx"), &all_dtypes(), &Style::Vlc.into())
        .unwrap_err()
        .to_string();
    assert!(message.contains(".safetensors"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn changed_bytes_never_panic(
        extension in prop::sample::select(vec!["ckpt", "safetensors"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("w").with_extension(extension);
        write(&path, &all_dtypes(), &Style::Vlc.into()).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        for (index, value) in changes {
            let position = index.index(bytes.len());
            bytes[position] = value;
        }
        let _ = read_bytes(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop::sample::select(vec![
            &b""[..], b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
        ]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = read_bytes(&[start, &bytes].concat());
    }

    /// Most changes affect the pickle, which is at the start of both formats.
    #[test]
    fn changed_checkpoints_never_panic(
        name in prop::sample::select(vec!["pretrain.ckpt", "pretrain_legacy.ckpt"]),
        changes in prop::collection::vec((0..16_384usize, any::<u8>()), 1..6),
    ) {
        let mut bytes = std::fs::read(&golden_files(name)[0]).unwrap();
        for (position, value) in changes {
            let position = position % bytes.len();
            bytes[position] = value;
        }
        if let Err(problem) = read_bytes(&bytes) {
            prop_assert!(!problem.to_string().contains('\n'), "{}", problem);
        }
    }
}
