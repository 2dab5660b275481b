//! Hugging Face's names of ViLT (`ViltForQuestionAnswering`, `ViltForImagesAndTextClassification`, `ViltForImageAndTextRetrieval`,
//! `ViltForMaskedLM`, `ViltModel`) and the published names, which VLC has too.
//!
//! The encoder is under `vilt.` or, in a `ViltModel`, at the top level. Heads are beside it. Both classifiers are called `classifier`; the
//! one of pairs of images has a square hidden layer.

use super::super::{BACKBONE_PREFIX, POSITION_IDS};
use super::head::ViltHead;
use super::{ENCODER, TEXT_EMBEDDING, block_name, name_of_block, split_tensor};

/// The name under which models with heads have the encoder.
const ENCODER_PREFIX: &str = "vilt.";
/// The published name of the text embedding.
const NATIVE_TEXT_EMBEDDING: &str = "text_embeddings.";
/// The word table. A file is one of ViLT only if it has it.
const WORDS: &str = "embeddings.text_embeddings.word_embeddings.weight";
/// The other tensors and layers of the encoder that an image transformer does not have, and the published names.
const OTHER: [(&str, &str); 2] = [
    ("embeddings.token_type_embeddings", "token_type_embeddings"),
    ("pooler.dense", "pooler.dense"),
];
/// Beginnings of the names of heads that are the published ones.
const HEADS: [&str; 2] = ["mlm_score.", "rank_output."];
/// Version 5 of transformers has the bias of the head for masked words under the first name, version 4 under both.
pub(in super::super) const MASKED_WORDS_BIAS: [&str; 2] = ["mlm_score.decoder.bias", "mlm_score.bias"];
/// The weight of the head for masked words, which version 5 does not save if it is the word table.
pub(in super::super) const MASKED_WORDS_WEIGHT: &str = "mlm_score.decoder.weight";
/// A layer by which a file has a head for masked words.
pub(in super::super) const MASKED_WORDS_LAYER: &str = "mlm_score.transform.dense.weight";
/// Hugging Face's name of a classifier's tensors, and the published ones of the classifier of one image, of pairs of images, and of labels.
const CLASSIFIER: &str = "classifier.";
pub(in super::super) const CLASSIFIER_OF_ONE: &str = "vqa_classifier.";
pub(in super::super) const CLASSIFIER_OF_PAIRS: &str = "nlvr2_classifier.";
const CLASSIFIER_OF_LABELS: &str = "labels_classifier.";
/// The hidden layer of a classifier.
pub(in super::super) const HIDDEN_LAYER: &str = "0.weight";

/// Returns the published name of each tensor, `None` for those that are not of a ViLT model with Hugging Face's names. What precedes the
/// names of the model is kept. A classifier has the name of that of one image; what it is follows from its shape.
pub(in super::super) fn native_names(names: &[&str]) -> Vec<Option<String>> {
    let root = names.iter().find_map(|name| {
        let root = name.strip_suffix(WORDS)?;
        (root.is_empty() || root.ends_with('.')).then_some(root)
    });
    let Some(root) = root else {
        return vec![None; names.len()];
    };
    let outer = root
        .strip_suffix(ENCODER_PREFIX)
        .filter(|outer| outer.is_empty() || outer.ends_with('.'));
    let of_encoder = |name: &str| name.strip_prefix(root).and_then(encoder_name);
    let of_head = |name: &str| name.strip_prefix(outer.unwrap_or(root)).and_then(head_name);
    names
        .iter()
        .map(|name| {
            let native = of_encoder(name).or_else(|| of_head(name))?;
            Some(format!("{}{native}", outer.unwrap_or(root)))
        })
        .collect()
}

/// Returns the published name of a tensor of the encoder.
fn encoder_name(name: &str) -> Option<String> {
    if let Some(text) = name.strip_prefix(TEXT_EMBEDDING) {
        return Some(format!("{NATIVE_TEXT_EMBEDDING}{text}"));
    }
    if let Some((prefix, block)) = block_name(name) {
        return prefix.is_empty().then(|| format!("{BACKBONE_PREFIX}{block}"));
    }
    let (layer, tensor) = split_tensor(name);
    let find = |table: &[(&str, &str)], prefix: &str| {
        let (_, native) = table.iter().find(|(of_hugging_face, _)| *of_hugging_face == layer)?;
        Some(format!("{prefix}{native}{tensor}"))
    };
    find(&ENCODER, BACKBONE_PREFIX).or_else(|| find(&OTHER, ""))
}

/// Returns the published name of a tensor of a head.
fn head_name(name: &str) -> Option<String> {
    if let Some(rest) = name.strip_prefix(CLASSIFIER) {
        return Some(format!("{CLASSIFIER_OF_ONE}{rest}"));
    }
    if name == MASKED_WORDS_BIAS[0] {
        return Some(MASKED_WORDS_BIAS[1].to_owned());
    }
    HEADS.iter().any(|head| name.starts_with(head)).then(|| name.to_owned())
}

/// Returns Hugging Face's names of a tensor with a published name, in a model with this head; `None` if there is no such tensor. The parts
/// of `attn.qkv` are `attn.query`, `attn.key` and `attn.value`.
pub(super) fn names_of_hugging_face(native: &str, head: ViltHead) -> Option<Vec<String>> {
    let encoder = |name: String| Some(vec![format!("{ENCODER_PREFIX}{name}")]);
    if let Some(text) = native.strip_prefix(NATIVE_TEXT_EMBEDDING) {
        return encoder(format!("{TEXT_EMBEDDING}{text}")).filter(|_| native != POSITION_IDS);
    }
    if let Some(block) = native.strip_prefix(BACKBONE_PREFIX).and_then(name_of_block) {
        return encoder(block);
    }
    if let Some(rest) = classifier(head).and_then(|classifier| native.strip_prefix(classifier)) {
        return Some(vec![format!("{CLASSIFIER}{rest}")]);
    }
    if head == ViltHead::MaskedWords && native == MASKED_WORDS_BIAS[1] {
        return Some(MASKED_WORDS_BIAS.map(str::to_owned).to_vec());
    }
    let is_of_head = match head {
        ViltHead::MaskedWords => native.starts_with(HEADS[0]),
        ViltHead::Ranking => native.starts_with(HEADS[1]),
        _ => false,
    };
    if is_of_head {
        return Some(vec![native.to_owned()]);
    }
    let (layer, tensor) = split_tensor(native);
    let find = |table: &[(&str, &str)], layer: &str| {
        let (of_hugging_face, _) = table.iter().find(|(_, native)| *native == layer)?;
        encoder(format!("{of_hugging_face}{tensor}"))
    };
    let of_backbone = layer.strip_prefix(BACKBONE_PREFIX);
    of_backbone
        .and_then(|layer| find(&ENCODER, layer))
        .or_else(|| find(&OTHER, layer))
}

/// Returns the beginning of the published names of a classifier's tensors; `None` for other heads.
fn classifier(head: ViltHead) -> Option<&'static str> {
    match head {
        ViltHead::Vqa => Some(CLASSIFIER_OF_ONE),
        ViltHead::Nlvr2 => Some(CLASSIFIER_OF_PAIRS),
        ViltHead::Labels => Some(CLASSIFIER_OF_LABELS),
        ViltHead::Ranking | ViltHead::MaskedWords => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Header, StateDict, Style, read, write};
    use super::*;

    /// Directories of Hugging Face's models, and the published files with the same weights.
    const PAIRS: [(&str, &str); 5] = [
        ("vqa", "vqa"),
        ("vqa_bin", "vqa"),
        ("nlvr2", "nlvr2"),
        ("irtr", "irtr"),
        ("mlm", "mlm_itm"),
    ];

    fn renamed(state: &StateDict, rename: impl Fn(&str) -> Option<String>) -> StateDict {
        let tensors = state.iter();
        tensors
            .filter_map(|(name, tensor)| Some((rename(name)?, tensor.clone())))
            .collect()
    }

    #[test]
    fn recorded_models_have_the_tensors_of_the_published_files() {
        for root in vlct_golden::vilt_directories("") {
            for (of_hugging_face, native) in PAIRS {
                let file = read(&root.join("hf").join(of_hugging_face)).unwrap();
                assert_eq!(file.style, Style::Vlc);
                assert!(file.summary.hugging_face && file.unreadable.is_empty());
                let native = read(&root.join("native").join(format!("{native}.ckpt"))).unwrap();
                assert!(!native.summary.hugging_face);
                let is_here = |name: &&str| !name.starts_with("itm_score.") && !name.ends_with("position_ids");
                for name in native.state.names().filter(is_here) {
                    assert!(
                        file.state.get(name) == native.state.get(name),
                        "{of_hugging_face}: {name}"
                    );
                }
                let of_model = file.state.names().filter(is_here).count();
                assert_eq!(
                    of_model,
                    native.state.names().filter(is_here).count(),
                    "{of_hugging_face}"
                );
            }
        }
    }

    #[test]
    fn a_head_for_masked_words_without_a_weight_has_the_word_table() {
        for root in vlct_golden::vilt_directories("hf") {
            let tied = read(&root.join("mlm_v5")).unwrap().state;
            let other = read(&root.join("mlm")).unwrap().state;
            let words = "text_embeddings.word_embeddings.weight";
            assert!(tied.get(MASKED_WORDS_WEIGHT) == tied.get(words));
            assert!(other.get(MASKED_WORDS_WEIGHT) != other.get(words));
            assert!(tied.get("mlm_score.bias") == other.get("mlm_score.bias") && tied.get("mlm_score.bias").is_some());
        }
    }

    #[test]
    fn models_with_other_prefixes_have_the_same_tensors() {
        type Form = fn(&str) -> Option<String>;
        let forms: [(&str, Form); 4] = [
            ("module.", |name| Some(format!("module.{name}"))),
            ("model.", |name| Some(format!("model.{name}"))),
            ("net.", |name| Some(format!("net.{name}"))),
            // An encoder alone.
            ("", |name| name.strip_prefix("vilt.").map(str::to_owned)),
        ];
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        for root in vlct_golden::vilt_directories("hf") {
            let file = root.join("nlvr2/model.safetensors");
            let tensors = vlct_golden::Tensors::open(&file);
            let tensor = |name: &String| {
                let tensor = super::super::super::StoredTensor::f32(tensors.shape(name), tensors.f32(name));
                (name.clone(), tensor)
            };
            let state: StateDict = tensors.names().iter().map(tensor).collect();
            let want = read(&file).unwrap().state;
            for (prefix, form) in forms {
                let header: Header = Style::Vlc.into();
                write(&path, &renamed(&state, form), &header).unwrap();
                let read = read(&path).unwrap();
                assert!(read.summary.hugging_face);
                assert_eq!(read.summary.removed_prefixes.concat(), prefix);
                let has_heads = prefix.is_empty();
                for (name, tensor) in want
                    .iter()
                    .filter(|(name, _)| !has_heads || !name.contains("classifier"))
                {
                    assert!(read.state.get(name) == Some(tensor), "{prefix}: {name}");
                }
            }
        }
    }

    #[test]
    fn names_of_other_models_are_not_those_of_vilt() {
        for names in [
            &["bert.embeddings.word_embeddings.weight", "classifier.weight"][..],
            &["vit.embeddings.cls_token", "encoder.layer.0.layernorm_before.weight"],
            &["xembeddings.text_embeddings.word_embeddings.weight"],
            &["vilt.", "", ".", "embeddings.text_embeddings."],
        ] {
            assert!(native_names(names).iter().all(Option::is_none), "{names:?}");
        }
    }
}
