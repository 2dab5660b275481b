//! The tensors of a model with Hugging Face's names of ViLT, one head at a time: the way back of [`super::vilt`].

use super::super::{POSITION_IDS, StateDict, StoredTensor};
use super::head::ViltHead;
use super::{PARTS, vilt};

/// The tensors of a model of Hugging Face.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exported {
    /// The tensors by Hugging Face's names, in single precision.
    pub state: StateDict,
    /// The published names of tensors that the model does not have there. They are not in `state`.
    pub left_out: Vec<String>,
}

/// Gives the tensors of a model, which have the published names, Hugging Face's names, and splits query, key and value. The bias of the
/// head for masked words gets both of its names, which different versions of transformers read.
pub fn export(state: StateDict, head: ViltHead) -> Exported {
    let mut exported = Exported::default();
    for (name, tensor) in state {
        let shape = tensor.shape.clone();
        let parts = parts(&name, &shape);
        let names = parts.iter().map(|part| vilt::names_of_hugging_face(part, head));
        let names: Option<Vec<Vec<String>>> = names.collect();
        match (names, tensor.into_f32()) {
            (Some(names), Some(values)) => {
                let (rows, length) = (shape.first().map(|rows| rows / parts.len()), values.len() / parts.len());
                let part_shape: Vec<usize> = rows.into_iter().chain(shape.iter().skip(1).copied()).collect();
                for (i, names) in names.into_iter().enumerate() {
                    let part = StoredTensor::f32(part_shape.clone(), values[i * length..][..length].to_vec());
                    for name in names {
                        exported.state.insert(name, part.clone());
                    }
                }
            }
            // Version 4 of transformers makes them itself.
            _ if name == POSITION_IDS => {}
            _ => exported.left_out.push(name),
        }
    }
    exported
}

/// Returns the names of the parts in which transformers has a tensor: query, key and value, or the tensor itself.
fn parts(name: &str, shape: &[usize]) -> Vec<String> {
    let is_whole = shape.first().is_some_and(|rows| rows.is_multiple_of(PARTS.len()));
    match name.split_once(".attn.qkv.").filter(|_| is_whole) {
        Some((block, tensor)) => PARTS
            .iter()
            .map(|part| format!("{block}.attn.{part}.{tensor}"))
            .collect(),
        None => vec![name.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{read, write_plain};
    use super::*;
    use serde_json::Value;

    const MODELS: [(&str, ViltHead, &str); 5] = [
        ("hf/vqa", ViltHead::Vqa, "native/vqa.ckpt"),
        ("hf/nlvr2", ViltHead::Nlvr2, "native/nlvr2.ckpt"),
        ("hf/irtr", ViltHead::Ranking, "native/irtr.ckpt"),
        ("hf/mlm", ViltHead::MaskedWords, "native/mlm_itm.ckpt"),
        ("export/hf", ViltHead::Vqa, "export/vlc_vqa.ckpt"),
    ];

    #[test]
    fn published_files_have_the_tensors_of_the_recorded_models() {
        for root in vlct_golden::vilt_directories("") {
            for (of_hugging_face, head, native) in MODELS {
                let Exported { state, left_out } = export(read(&root.join(native)).unwrap().state, head);
                let want = vlct_golden::Tensors::open(root.join(of_hugging_face).join("model.safetensors"));
                for name in want.names() {
                    let tensor = state.get(&name).unwrap_or_else(|| panic!("{native}: {name}"));
                    assert_eq!(tensor.shape, want.shape(&name), "{name}");
                    assert!(tensor.to_f32().unwrap()[..] == want.f32(&name)[..], "{native}: {name}");
                }
                // Version 4 of transformers does not write the second name of the bias.
                let more: Vec<&str> = state.names().filter(|name| !want.has(name)).collect();
                match head {
                    ViltHead::MaskedWords => assert_eq!(more, ["mlm_score.decoder.bias"]),
                    _ => assert_eq!(more, [""; 0], "{native}"),
                }
                let is_expected = |name: &String| {
                    name.starts_with("itm_score.")
                        || name.starts_with("transformer.decoder_")
                        || name == "transformer.mask_token"
                };
                assert!(left_out.iter().all(is_expected), "{left_out:?}");
            }
        }
    }

    #[test]
    fn names_are_those_of_the_recorded_table() {
        let texts = |value: &Value| -> Vec<String> {
            let of_block = |name: &Value| name.as_str().expect("a name").replace("{i}", "7");
            match value {
                Value::Array(names) => names.iter().map(of_block).collect(),
                Value::Null => Vec::new(),
                name => vec![of_block(name)],
            }
        };
        for root in vlct_golden::vilt_directories("") {
            let table = vlct_golden::json(root.join("name_map_vilt.json"));
            let mut checked = 0;
            for head in ViltHead::ALL.into_iter().filter(|head| *head != ViltHead::Labels) {
                let parts_of = |part: &str| table[part].as_array().expect("a table").clone();
                for entry in [parts_of("common"), parts_of(head.architecture())].concat() {
                    let native = &texts(&entry["native"])[0];
                    let want = [texts(&entry["hf"]), texts(&entry["hf_also"])].concat();
                    let mut got: Vec<String> = parts(native, &[3])
                        .iter()
                        .flat_map(|part| vilt::names_of_hugging_face(part, head).expect("names"))
                        .collect();
                    got.sort_by_key(|name| want.iter().position(|other| other == name));
                    assert_eq!(got, want, "{native}");
                    checked += 1;
                }
                for native in texts(&table["native_only"]) {
                    let native = native.replace('*', "embed.weight");
                    assert_eq!(vilt::names_of_hugging_face(&native, head), None, "{native}");
                }
            }
            assert!(checked > 100, "{checked} names");
        }
    }

    #[test]
    fn reading_and_exporting_again_gives_the_same_tensors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        for root in vlct_golden::vilt_directories("") {
            for (of_hugging_face, head, _) in MODELS {
                let first = export(read(&root.join(of_hugging_face)).unwrap().state, head);
                assert!(first.left_out.is_empty(), "{:?}", first.left_out);
                write_plain(&path, &first.state).unwrap();
                let file = read(&path).unwrap();
                assert_eq!(file.summary.entries, [("format".to_owned(), "pt".to_owned())]);
                assert!(export(file.state, head) == first, "{of_hugging_face}");
            }
        }
    }

    #[test]
    fn tensors_of_other_heads_and_of_other_models_are_left_out() {
        let tensor = |shape: &[usize]| StoredTensor::f32(shape, vec![0.5; shape.iter().product()]);
        let names = [
            "vqa_classifier.0.weight",
            "nlvr2_classifier.0.weight",
            "labels_classifier.0.weight",
            "mlm_score.bias",
            "rank_output.weight",
            "transformer.decoder_blocks.0.attn.qkv.weight",
            "transformer.fc_norm.weight",
            "transformer.blocks.0.attn.qkv.bias",
            "transformer.blocks.x",
            "n_averaged",
            "",
        ];
        let state: StateDict = names.iter().map(|name| ((*name).to_owned(), tensor(&[4]))).collect();
        for head in ViltHead::ALL {
            let exported = export(state.clone(), head);
            // A tensor whose rows are not three parts is not split, so it has no name.
            assert!(
                exported
                    .left_out
                    .contains(&"transformer.blocks.0.attn.qkv.bias".to_owned())
            );
            assert_eq!(exported.left_out.len(), names.len() - 1, "{head}");
            assert_eq!(exported.state.len(), 1 + usize::from(head == ViltHead::MaskedWords));
        }
    }
}
