mod archives;

use super::super::{StateDict, StoredTensor, Style, TensorData, WeightFile, read_bytes};
use super::legacy::legacy_file;
use super::*;
use vlct_pickle::Writer;

/// Appends a tensor with storage `key`: `_rebuild_tensor_v2(storage, offset, shape, strides, False, OrderedDict())`.
fn write_tensor(
    pickle: &mut Writer,
    class: &str,
    key: &str,
    location: &str,
    offset: i64,
    shape: &[i64],
    strides: &[i64],
) {
    pickle.global("torch._utils", "_rebuild_tensor_v2").mark();
    write_storage(pickle, class, key, location);
    pickle.int(offset);
    write_sizes(pickle, shape);
    write_sizes(pickle, strides);
    pickle
        .bool(false)
        .global("collections", "OrderedDict")
        .empty_tuple()
        .reduce();
    pickle.tuple().reduce();
}

fn write_storage(pickle: &mut Writer, class: &str, key: &str, location: &str) {
    let module = if location.starts_with("cuda") {
        "torch.cuda"
    } else {
        "torch"
    };
    pickle
        .mark()
        .text("storage")
        .global(module, class)
        .text(key)
        .text(location)
        .int(0);
    pickle.tuple().persistent();
}

fn write_sizes(pickle: &mut Writer, sizes: &[i64]) {
    pickle.mark();
    for size in sizes {
        pickle.int(*size);
    }
    pickle.tuple();
}

/// Returns the pickle of `{under: {"w": …}}`. `write_value` writes the value of `w`.
fn pickle_of(under: &str, write_value: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut pickle = Writer::new();
    pickle.empty_dict().text(under).empty_dict().text("w");
    write_value(&mut pickle);
    pickle.set_item().set_item();
    pickle.finish()
}

fn read_little_endian(content: &[u8], storages: &[(&str, &[u8])]) -> Result<WeightFile, Problem> {
    read_in_byte_order(content, storages, false)
}

fn read_in_byte_order(content: &[u8], storages: &[(&str, &[u8])], big_endian: bool) -> Result<WeightFile, Problem> {
    let content = vlct_pickle::parse(content).unwrap();
    let length = storages.iter().map(|(_, bytes)| bytes.len()).sum();
    let storage = |bytes| Storage { bytes, crc32: None };
    let storages = Storages {
        storages: storages
            .iter()
            .map(|(key, bytes)| (key.to_string(), storage(*bytes)))
            .collect(),
        big_endian,
    };
    Ok(index(&content, &storages, length, Format::TorchZip)?
        .with_plain_names()
        .decode())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Returns a storage with the values 0 to 11.
fn zero_to_eleven() -> Vec<u8> {
    floats(&(0..12).map(|i| i as f32).collect::<Vec<_>>())
}

fn read_view(offset: i64, shape: &[i64], strides: &[i64]) -> Result<StoredTensor, TensorProblem> {
    let content = pickle_of("state_dict", |p| {
        write_tensor(p, "FloatStorage", "s", "cpu", offset, shape, strides)
    });
    tensor_w(&content, &[("s", &zero_to_eleven())])
}

/// Returns the tensor `w`, or the error for it.
fn tensor_w(content: &[u8], storages: &[(&str, &[u8])]) -> Result<StoredTensor, TensorProblem> {
    let file = read_little_endian(content, storages).unwrap();
    match file.state.get("w") {
        Some(tensor) => Ok(tensor.clone()),
        None => Err(file.unreadable["w"].clone()),
    }
}

#[test]
fn reads_views_of_a_storage() {
    for (offset, shape, strides, want) in [
        (2, &[2i64, 3][..], &[3i64, 1][..], &[2.0, 3.0, 4.0, 5.0, 6.0, 7.0][..]),
        // A transposed view, every second value, a repeated value, and axes of length 1, whose stride has no effect.
        (0, &[3, 2], &[1, 3], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        (1, &[3], &[2], &[1.0, 3.0, 5.0]),
        (5, &[4], &[0], &[5.0, 5.0, 5.0, 5.0]),
        (0, &[2, 1, 2], &[2, i64::MAX, 1], &[0.0, 1.0, 2.0, 3.0]),
        (0, &[2, 1, 2], &[4, i64::MAX, 2], &[0.0, 2.0, 4.0, 6.0]),
        (11, &[], &[], &[11.0]),
        (99, &[0, 5], &[5, 1], &[]),
    ] {
        let tensor = read_view(offset, shape, strides).unwrap();
        assert_eq!(tensor.to_f32().unwrap(), want, "{offset} {shape:?} {strides:?}");
        assert_eq!(tensor.shape, shape.iter().map(|n| *n as usize).collect::<Vec<_>>());
    }
}

#[test]
fn rejects_layouts_beyond_the_storage() {
    for (offset, shape, strides) in [
        (0, &[13i64][..], &[1i64][..]),
        (12, &[1], &[1]),
        (0, &[2, 2], &[11, 1]),
        (0, &[1 << 40, 1 << 40], &[0, 0]),
        (0, &[2], &[i64::MAX]),
        (i64::MAX, &[2, 2], &[i64::MAX, i64::MAX]),
    ] {
        let error = read_view(offset, shape, strides).unwrap_err().to_string();
        assert!(
            error.starts_with("shape") && error.contains("storage of 12 values"),
            "{error}"
        );
    }
    for (offset, shape, strides) in [
        (-1, &[1i64][..], &[1i64][..]),
        (0, &[-1], &[1]),
        (0, &[2], &[-1]),
        (0, &[2], &[]),
    ] {
        let error = read_view(offset, shape, strides).unwrap_err().to_string();
        assert!(error.starts_with("malformed"), "{error}");
    }
}

#[test]
fn limits_the_size_of_tensors_with_a_shared_storage() {
    let unreadable = |shapes: &[i64], strides: i64| -> Vec<String> {
        let mut pickle = Writer::new();
        pickle.empty_dict();
        for (i, length) in shapes.iter().enumerate() {
            pickle.text(&format!("w{i}"));
            write_tensor(&mut pickle, "FloatStorage", "s", "cpu", 0, &[*length], &[strides]);
            pickle.set_item();
        }
        let content = pickle.finish();
        let content = vlct_pickle::parse(&content).unwrap();
        let values = zero_to_eleven();
        let storages = Storages {
            storages: HashMap::from([(
                "s".to_owned(),
                Storage {
                    bytes: &values,
                    crc32: None,
                },
            )]),
            big_endian: false,
        };
        let index = index(&content, &storages, values.len(), Format::TorchZip)
            .unwrap()
            .with_plain_names();
        index.unreadable.keys().cloned().collect()
    };
    // Tied weights share a storage.
    assert_eq!(unreadable(&[12, 12], 1), [""; 0]);
    // Repeated values can be more than the file has, but not without limit. The tensors before and after are read.
    let limit = MIN_DECODED as i64 / 4;
    assert_eq!(unreadable(&[limit - 24, 12, 12], 0), [""; 0]);
    assert_eq!(unreadable(&[limit - 23, 12, 12], 0), ["w2"]);
    assert_eq!(unreadable(&[12, i64::MAX, limit, 12], 0), ["w1", "w2"]);
}

#[test]
fn reads_every_element_type_in_both_byte_orders() {
    for (class, bytes, want) in [
        ("FloatStorage", &1.5f32.to_le_bytes()[..], TensorData::F32(vec![1.5])),
        ("DoubleStorage", &1.5f64.to_le_bytes(), TensorData::F64(vec![1.5])),
        ("HalfStorage", &[0, 0x3c], TensorData::F16(vec![0x3c00])),
        ("BFloat16Storage", &[0x80, 0x3f], TensorData::BF16(vec![0x3f80])),
        ("LongStorage", &(-2i64).to_le_bytes(), TensorData::I64(vec![-2])),
        ("IntStorage", &(-2i32).to_le_bytes(), TensorData::I32(vec![-2])),
        ("ShortStorage", &(-2i16).to_le_bytes(), TensorData::I16(vec![-2])),
        ("CharStorage", &[254], TensorData::I8(vec![-2])),
        ("ByteStorage", &[254], TensorData::U8(vec![254])),
        ("BoolStorage", &[1], TensorData::Bool(vec![true])),
    ] {
        let content = pickle_of("model", |p| write_tensor(p, class, "0", "cuda:3", 0, &[1], &[1]));
        let file = read_little_endian(&content, &[("0", bytes)]).unwrap();
        assert_eq!(file.state.get("w").unwrap().data, want);
        let swapped: Vec<u8> = bytes.iter().rev().copied().collect();
        let file = read_in_byte_order(&content, &[("0", &swapped)], true).unwrap();
        assert_eq!(file.state.get("w").unwrap().data, want, "big-endian");
    }
    let content = pickle_of("model", |p| {
        write_tensor(p, "ComplexFloatStorage", "0", "cpu", 0, &[1], &[1])
    });
    let error = tensor_w(&content, &[("0", &[0; 8])]).unwrap_err().to_string();
    assert_eq!(error, "has the unsupported type ComplexFloatStorage");
    let content = pickle_of("model", |p| write_tensor(p, "FloatStorage", "0", "cpu", 0, &[1], &[1]));
    let error = tensor_w(&content, &[]).unwrap_err().to_string();
    assert_eq!(error, "its storage \"0\" is not in the file");
}

#[test]
fn reads_parameters_subclasses_and_tensors_of_untyped_storages() {
    let parameter = pickle_of("state_dict", |p| {
        p.global("torch._utils", "_rebuild_parameter").mark();
        write_tensor(p, "FloatStorage", "s", "cpu", 0, &[2], &[1]);
        p.bool(true).empty_dict().tuple().reduce();
    });
    let subclass = pickle_of("state_dict", |p| {
        p.global("torch._tensor", "_rebuild_from_type_v2").mark();
        p.global("torch._utils", "_rebuild_tensor_v2")
            .global("torch", "Tensor")
            .mark();
        write_storage(p, "FloatStorage", "s", "cpu");
        p.int(0);
        write_sizes(p, &[2]);
        write_sizes(p, &[1]);
        p.tuple().empty_dict().tuple().reduce();
    });
    let untyped = |dtype: &str| {
        pickle_of("state_dict", |p| {
            p.global("torch._utils", "_rebuild_tensor_v3").mark();
            write_storage(p, "UntypedStorage", "s", "cpu");
            p.int(0);
            // The shape is a `torch.Size`.
            p.global("torch", "Size").mark();
            write_sizes(p, &[2]);
            p.tuple().reduce();
            write_sizes(p, &[1]);
            p.bool(false).empty_dict().global("torch", dtype).tuple().reduce();
        })
    };
    for content in [parameter, subclass, untyped("float32")] {
        let file = read_little_endian(&content, &[("s", &zero_to_eleven())]).unwrap();
        assert_eq!(file.state.f32("w").unwrap(), [0.0, 1.0].as_slice());
    }
    let error = tensor_w(&untyped("float8_e4m3fn"), &[("s", &zero_to_eleven())]);
    assert_eq!(error.unwrap_err().to_string(), "has the unsupported type float8_e4m3fn");
    let sparse = pickle_of("state_dict", |p| {
        p.global("torch._utils", "_rebuild_sparse_tensor")
            .empty_tuple()
            .reduce();
    });
    let error = tensor_w(&sparse, &[]).unwrap_err().to_string();
    assert_eq!(error, "has the unsupported type _rebuild_sparse_tensor");
}

#[test]
fn rejects_cyclic_wrappers() {
    // The parameter wraps itself: its arguments are a list in the memo, to which the parameter is appended later.
    let mut content = b"\x80\x02}X\x05\0\0\0model}X\x01\0\0\0w".to_vec();
    content.extend(b"ctorch._utils\n_rebuild_parameter\n]q\x00Rq\x010h\x00h\x01a0h\x01ss.");
    let error = tensor_w(&content, &[]).unwrap_err().to_string();
    assert_eq!(error, "malformed tensor: too many wrappers");
}

#[test]
fn finds_weights_under_state_dict_and_at_the_top_level() {
    let write_one_value = |p: &mut Writer| write_tensor(p, "FloatStorage", "s", "cpu", 0, &[1], &[1]);
    // A `model` without tensors, here the name of the architecture, is not the weights.
    let mut pickle = Writer::new();
    pickle.empty_dict().text("model").text("vit_base").set_item();
    pickle.text("state_dict").empty_dict().text("w");
    write_one_value(&mut pickle);
    pickle.set_item().text("note").text("x").set_item().set_item();
    let file = read_little_endian(&pickle.finish(), &[("s", &zero_to_eleven())]).unwrap();
    assert_eq!(file.summary.weights_under.as_deref(), Some("state_dict"));
    assert_eq!(file.summary.entries, [("model".to_owned(), "\"vit_base\"".to_owned())]);
    assert_eq!(file.summary.skipped, ["note"]);

    let mut pickle = Writer::new();
    pickle.empty_dict().text("epoch").int(4).set_item().text("w");
    write_one_value(&mut pickle);
    pickle.set_item();
    let file = read_little_endian(&pickle.finish(), &[("s", &zero_to_eleven())]).unwrap();
    assert_eq!((file.summary.weights_under, file.summary.epoch), (None, Some(4)));
    assert_eq!(file.state.len(), 1);

    // Weights of the model under any key, and under the usual keys in the order of the keys.
    let with_keys = |keys: &[(&[&str], &str)]| {
        let mut pickle = Writer::new();
        pickle.empty_dict();
        for (path, tensor) in keys {
            for key in *path {
                pickle.text(key).empty_dict();
            }
            pickle.text(tensor);
            write_one_value(&mut pickle);
            for _ in *path {
                pickle.set_item();
            }
            pickle.set_item();
        }
        let file = read_little_endian(&pickle.finish(), &[("s", &zero_to_eleven())]);
        file.map(|file| file.summary.weights_under.unwrap_or_default())
    };
    let token = "module.cls_token";
    for (keys, want) in [
        (&[(&["module"][..], token)][..], "module"),
        (&[(&["model_state_dict"], token)], "model_state_dict"),
        (&[(&["teacher"], token)], "teacher"),
        (&[(&["mine"], token)], "mine"),
        (&[(&["state", "model"], token)], "state.model"),
        (&[(&["model", "state_dict"], token)], "model.state_dict"),
        (
            &[(&["optimizer"], token), (&["state_dict_ema"], token)],
            "state_dict_ema",
        ),
        (&[(&["model_ema"], token), (&["module"], token)], "module"),
        (
            &[(&["student"], token), (&["teacher"], token), (&["ema"], token)],
            "teacher",
        ),
        (&[(&["state_dict"], token), (&["model"], token)], "model"),
        (&[(&["model"], "fc.weight"), (&["mine"], token)], "mine"),
        (&[(&["model"], "fc.weight"), (&["state_dict"], "fc.weight")], "model"),
        (&[(&[], "fc.weight"), (&["network"], "fc.weight")], ""),
    ] {
        assert_eq!(with_keys(keys).unwrap(), want, "{keys:?}");
    }
    let error = with_keys(&[(&["optimizer"], token), (&["mine"], "fc.weight")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "holds no named tensors: it has optimizer (1 entries: \"module.cls_token\"), mine (1 entries: \"fc.weight\")"
    );

    for content in [&b"N."[..], b"].", b"}.", b"}X\x05\0\0\0model}s."] {
        assert!(matches!(
            read_little_endian(content, &[]),
            Err(Problem::NoWeights { .. })
        ));
    }
}

#[test]
fn errors_name_unsupported_callables() {
    let write_system_call = |p: &mut Writer| {
        p.global("os", "system")
            .mark()
            .text("touch vlct-was-here")
            .tuple()
            .reduce();
    };
    let mut root = Writer::new();
    write_system_call(&mut root);
    let mut module = Writer::new();
    module
        .empty_dict()
        .text("model")
        .global("models", "Vit")
        .empty_tuple()
        .reduce()
        .set_item();
    for (content, entry, callable) in [
        (pickle_of("state_dict", write_system_call), "`state_dict`", "os.system"),
        (root.finish(), "its content", "os.system"),
        (module.finish(), "`model`", "models.Vit"),
    ] {
        let error = read_little_endian(&content, &[("s", &zero_to_eleven())])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{entry} would be made by calling {callable},")),
            "{error}"
        );
    }
    // An entry beside tensors does not prevent reading them.
    let beside = pickle_of("state_dict", |p| {
        write_tensor(p, "FloatStorage", "s", "cpu", 0, &[1], &[1]);
        p.set_item().text("x");
        write_system_call(p);
    });
    let file = read_little_endian(&beside, &[("s", &zero_to_eleven())]).unwrap();
    assert!(file.state.contains("w"));
    assert_eq!(file.unreadable["x"].to_string(), "would be made by calling os.system");
    let mut with_line_break = Writer::new();
    with_line_break
        .empty_dict()
        .text("model")
        .global("a", "b\rc")
        .empty_tuple()
        .reduce()
        .set_item();
    let error = read_little_endian(&with_line_break.finish(), &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("calling a.b\u{fffd}c,"), "{error}");
    assert!(!std::path::Path::new("vlct-was-here").exists());
}

#[test]
fn reads_the_format_before_version_1_6() {
    // The storage is a view of storage 7 that begins at value 3.
    let content = pickle_of("model", |p| {
        p.global("torch._utils", "_rebuild_tensor_v2").mark();
        p.mark()
            .text("storage")
            .global("torch", "FloatStorage")
            .text("7")
            .text("cuda:0")
            .int(12);
        p.mark().text("8").int(3).int(4).tuple();
        p.tuple().persistent().int(1);
        write_sizes(p, &[2]);
        write_sizes(p, &[1]);
        p.tuple().reduce();
    });
    let values = zero_to_eleven();
    let file = read_bytes(&legacy_file(&content, &[("7", 12, &values)])).unwrap();
    assert_eq!(file.format, Format::TorchLegacy);
    assert_eq!(file.state.f32("w").unwrap(), [4.0, 5.0].as_slice());

    for (storages, want) in [
        (&[("7", 13i64, &values[..])][..], "storage \"7\" is truncated"),
        (&[("7", -1, &values[..])], "storage \"7\" is truncated"),
        (&[("7", i64::MAX, &values[..])], "storage \"7\" is truncated"),
        (&[("9", 12, &values[..])], "storage \"9\" belongs to no tensor"),
    ] {
        let error = read_bytes(&legacy_file(&content, storages)).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    }
    let error = read_bytes(&legacy_file(&content, &[])).unwrap().unreadable["w"].to_string();
    assert_eq!(error, "its storage \"7\" is not in the file");
    let mut wrong_protocol = legacy_file(&content, &[("7", 12, &values)]);
    // Changes the low byte of the protocol number.
    wrong_protocol[18] = 1;
    let error = read_bytes(&wrong_protocol).unwrap_err().to_string();
    assert!(error.contains("protocol 769, expected 1001"), "{error}");
}
