//! The model's names of the tensors in a file: the only place that knows which prefixes wrappers add to names.
//!
//! Data parallelism, `torch.compile`, Lightning and others add components to names, at their beginning (`module.cls_token`) or within
//! (`transformer._orig_mod.cls_token`), and a training program can keep the model in an attribute (`backbone.cls_token`). A component is
//! removed only from a name that is a name of the model without it. Other names, such as those of a metric's buffers, are unchanged,
//! and do not affect the model's names. Names of Hugging Face's models become those of MAE and ViLT (see [`hugging_face`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use indexmap::IndexSet;

use super::{BACKBONE_PREFIX, hugging_face};

/// Components that wrappers add at any place of a name: data parallelism, Lightning modules, `torch.compile`, fully sharded data
/// parallelism, activation checkpointing, Lightning Fabric, Opacus. No name of the model has such a component.
const WRAPPERS: [&str; 8] = [
    "module",
    "model",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_fpw_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "_module",
];
/// The wrapper that programs other than VLC's and MAE's use as a name of their own.
const COMMON_WRAPPER: &str = "model";

/// First components of the names of VLC, except `transformer`.
const VLC: [&str; 9] = [
    "text_embeddings",
    "token_type_embeddings",
    "pooler",
    "mlm_score",
    "itm_score",
    "rank_output",
    "vqa_classifier",
    "nlvr2_classifier",
    "labels_classifier",
];
/// First components of the names of image transformers (ViT, DeiT, MAE), which other models do not have.
const BACKBONE: [&str; 11] = [
    "cls_token",
    "pos_embed",
    "mask_token",
    "decoder_pos_embed",
    "patch_embed",
    "blocks",
    "decoder_embed",
    "decoder_blocks",
    "decoder_norm",
    "decoder_pred",
    "dist_token",
];
/// First components of the names of image transformers, which other models have too.
const COMMON: [&str; 4] = ["norm", "fc_norm", "head", "head_dist"];

/// Tensors that every backbone has. A prefix is that of a backbone if it precedes one of these names and the names of blocks.
const SIGNATURES: [&str; 4] = [
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
];
/// The first block, with and without the backbone's prefix.
const FIRST_BLOCK: [&str; 2] = ["transformer.blocks.0.", "blocks.0."];

/// Names of copies of a model. If a file has several copies, the first of these is used if no copy has another name.
const COPIES: [&str; 2] = ["teacher", "student"];
/// Components of the names of averages of a model, which are used if the file has no other copy.
const AVERAGES: [&str; 4] = ["ema", "averaged", "swa", "momentum"];

/// The model's names of a file's tensors.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PlainNames {
    /// A name for each tensor, unique. Names that are not those of the model are unchanged.
    pub names: Vec<String>,
    /// The prefixes that were removed from names, such as `module.`.
    pub removed: Vec<String>,
    /// Whether names of Hugging Face became those of MAE or ViLT.
    pub hugging_face: bool,
}

/// Whether a name without prefixes is one of VLC or of an image transformer.
pub(super) fn is_of_model(name: &str) -> bool {
    kind(name) != Kind::Other
}

/// Whether the names are those of VLC or of an image transformer, possibly with prefixes.
pub(super) fn are_of_model<'n>(names: impl Iterator<Item = &'n str> + Clone) -> bool {
    let cores: Vec<String> = Core::of_all(names).into_iter().map(|core| core.name).collect();
    let root = root(&cores);
    cores
        .iter()
        .any(|core| kind(core) == Kind::Own || under(core, &root).is_some_and(|core| kind(core) == Kind::Own))
}

/// Returns the model's names. If two names are the same without prefixes, the tensor whose name has fewer additional components gets the
/// model's name, the first one of equal ones; the other name is unchanged. A name of Hugging Face counts as one with a further component.
pub(super) fn plain(names: &[&str]) -> PlainNames {
    let cores = Core::of_all(names.iter().copied());
    let core_names: Vec<String> = cores.iter().map(|core| core.name.clone()).collect();
    let root = root(&core_names);
    let has_own = core_names
        .iter()
        .any(|core| kind(under(core, &root).unwrap_or(core)) == Kind::Own);
    let candidate = |core: &Core| -> Option<(String, usize)> {
        let is_name = |name: &str| match kind(name) {
            Kind::Own => true,
            Kind::Common => has_own || !core.removed.contains(&COMMON_WRAPPER),
            Kind::Other => false,
        };
        let additional = core.removed.len() + usize::from(core.hugging_face);
        if let Some(name) = under(&core.name, &root).filter(|name| is_name(name)) {
            return Some((name.to_owned(), additional + root.matches('.').count()));
        }
        is_name(&core.name).then(|| (core.name.clone(), additional))
    };
    let candidates: Vec<Option<(String, usize)>> = cores.iter().map(candidate).collect();
    let mut chosen: HashMap<&str, usize> = HashMap::new();
    for (i, found) in candidates.iter().enumerate() {
        let Some((name, additional)) = found else { continue };
        match chosen.entry(name) {
            Entry::Vacant(entry) => drop(entry.insert(i)),
            Entry::Occupied(mut entry) => {
                if candidates[*entry.get()]
                    .as_ref()
                    .is_some_and(|(_, least)| additional < least)
                {
                    entry.insert(i);
                }
            }
        }
    }
    let mut removed = IndexSet::new();
    let mut hugging_face = false;
    let mut plain = Vec::with_capacity(names.len());
    for (i, original) in names.iter().enumerate() {
        match &candidates[i] {
            Some((name, _)) if chosen.get(name.as_str()) == Some(&i) => {
                hugging_face |= cores[i].hugging_face;
                if name != original {
                    removed.extend(cores[i].removed.iter().map(|component| format!("{component}.")));
                    if !root.is_empty() && *name != cores[i].name {
                        removed.insert(root.clone());
                    }
                }
                plain.push(name.clone());
            }
            _ => plain.push((*original).to_owned()),
        }
    }
    PlainNames {
        names: plain,
        removed: removed.into_iter().collect(),
        hugging_face,
    }
}

/// Whether a key or a prefix names an average of a model's weights.
pub(super) fn is_average(name: &str) -> bool {
    components_of(name).any(|component| {
        let component = component.to_ascii_lowercase();
        component.split('_').any(|word| AVERAGES.contains(&word))
    })
}

/// Returns the order in which copies of a model are used, by key or prefix: an ordinary name, then those of [`COPIES`], then averages.
pub(super) fn copy_order(name: &str) -> usize {
    let copy = COPIES
        .iter()
        .position(|copy| components_of(name).any(|component| component == *copy));
    match (is_average(name), copy) {
        (true, _) => COPIES.len() + 1,
        (false, Some(copy)) => copy + 1,
        (false, None) => 0,
    }
}

fn components_of(name: &str) -> impl Iterator<Item = &str> {
    name.split('.').filter(|component| !component.is_empty())
}

/// A name without the components of wrappers, and with the name of MAE or ViLT instead of Hugging Face's.
struct Core {
    name: String,
    /// The removed components.
    removed: Vec<&'static str>,
    /// Whether the name in the file is one of Hugging Face.
    hugging_face: bool,
}

impl Core {
    fn of_all<'n>(names: impl Iterator<Item = &'n str>) -> Vec<Self> {
        let mut cores: Vec<Self> = names.map(Self::of).collect();
        let of_model = hugging_face::model_names(&cores.iter().map(|core| core.name.as_str()).collect::<Vec<_>>());
        for (core, of_model) in cores.iter_mut().zip(of_model) {
            if let Some(name) = of_model {
                core.name = name;
                core.hugging_face = true;
            }
        }
        cores
    }

    fn of(name: &str) -> Self {
        let mut core = String::with_capacity(name.len());
        let mut removed = Vec::new();
        let mut components = name.split('.').peekable();
        while let Some(component) = components.next() {
            let is_last = components.peek().is_none();
            match WRAPPERS.iter().find(|wrapper| **wrapper == component) {
                // The last component is that of the tensor.
                Some(wrapper) if !is_last => removed.push(*wrapper),
                _ => {
                    core.push_str(component);
                    if !is_last {
                        core.push('.');
                    }
                }
            }
        }
        Self {
            name: core,
            removed,
            hugging_face: false,
        }
    }
}

/// Whose name a name is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A name of VLC or an image transformer.
    Own,
    /// A name of an image transformer and of many other models.
    Common,
    /// Another name.
    Other,
}

fn kind(name: &str) -> Kind {
    let (first, rest) = name.split_once('.').unwrap_or((name, ""));
    if VLC.contains(&first) || BACKBONE.contains(&first) {
        return Kind::Own;
    }
    match name.strip_prefix(BACKBONE_PREFIX) {
        Some(_) if matches!(kind_of_backbone(rest), Kind::Own | Kind::Common) => Kind::Own,
        // Another model's transformer, or a tensor that VLC does not have.
        Some(_) => Kind::Common,
        None => kind_of_backbone(name),
    }
}

fn kind_of_backbone(name: &str) -> Kind {
    let first = name.split('.').next().unwrap_or(name);
    match (BACKBONE.contains(&first), COMMON.contains(&first)) {
        (true, _) => Kind::Own,
        (_, true) => Kind::Common,
        _ => Kind::Other,
    }
}

/// Returns the rest of a name that begins with `root`.
fn under<'n>(name: &'n str, root: &str) -> Option<&'n str> {
    name.strip_prefix(root)
}

/// Returns the prefix of the model in a file: empty if names without a prefix are those of a model. `cores` are names without wrappers.
fn root(cores: &[String]) -> String {
    let mut roots: IndexSet<&str> = IndexSet::new();
    for core in cores {
        for signature in SIGNATURES {
            let prefix = core.strip_suffix(signature);
            let Some(prefix) = prefix.filter(|prefix| prefix.is_empty() || prefix.ends_with('.')) else {
                continue;
            };
            let outer = prefix.strip_suffix(BACKBONE_PREFIX).unwrap_or(prefix);
            if outer.is_empty() || outer.ends_with('.') {
                roots.insert(outer);
            }
        }
    }
    let has_blocks = |root: &str| {
        cores
            .iter()
            .filter_map(|core| core.strip_prefix(root))
            .any(|rest| FIRST_BLOCK.iter().any(|block| rest.starts_with(block)))
    };
    if roots.contains("") {
        return String::new();
    }
    let mut found: Vec<&str> = roots.into_iter().filter(|root| has_blocks(root)).collect();
    // The sort is stable: of equal ones, the first in the file is used.
    found.sort_by_key(|root| copy_order(root));
    found.first().map_or(String::new(), |root| (*root).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Heads, VlcConfig};
    use proptest::prelude::*;

    /// Returns the names of a model with every head.
    fn model_names() -> Vec<String> {
        let config = VlcConfig {
            image_size: 16,
            backbone: Backbone {
                patch_size: 8,
                width: 8,
                depth: 2,
                heads: 1,
                decoder_width: 8,
                decoder_depth: 1,
                decoder_heads: 1,
            },
            vocab_size: 104,
            max_text_len: 8,
            token_types: 2,
            variant: crate::config::Variant::VLC,
            drop_rate: 0.0,
            heads: Heads {
                mlm: true,
                itm: true,
                vqa: Some(3),
                nlvr2: true,
                labels: Some(4),
                rank: true,
            },
        };
        config.parameters().into_iter().map(|(name, ..)| name).collect()
    }

    fn backbone_names() -> Vec<String> {
        let names = model_names();
        let backbone = names.iter().filter_map(|name| name.strip_prefix(BACKBONE_PREFIX));
        backbone.map(str::to_owned).collect()
    }

    fn plain_of(names: &[String]) -> PlainNames {
        plain(&names.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn prefixed(prefix: &str, names: &[String]) -> Vec<String> {
        names.iter().map(|name| format!("{prefix}{name}")).collect()
    }

    #[test]
    fn names_of_the_model_are_unchanged() {
        for names in [model_names(), backbone_names()] {
            let plain = plain_of(&names);
            assert_eq!(plain.names, names);
            assert!(plain.removed.is_empty());
        }
    }

    #[test]
    fn prefixes_are_removed_beside_stray_names() {
        for names in [model_names(), backbone_names()] {
            for prefix in [
                "module.",
                "_orig_mod.",
                "model.",
                "model._orig_mod.",
                "module.module.",
                "_fsdp_wrapped_module.",
                "backbone.",
                "module.backbone.",
                "student.",
                "teacher.module.",
                "visual_encoder.",
                "lit.vlc.",
            ] {
                let mut given = prefixed(prefix, &names);
                for stray in ["n_averaged", "metric.best", "loss.module.weight"] {
                    given.insert(given.len() / 2, stray.to_owned());
                }
                let found = plain_of(&given);
                for (name, stray) in found.names.iter().zip(&given) {
                    assert!(names.contains(name) || name == stray, "{prefix}: {name}");
                }
                let kept: Vec<&String> = found.names.iter().filter(|name| names.contains(name)).collect();
                assert_eq!(kept, names.iter().collect::<Vec<_>>(), "{prefix}");
                assert!(!found.removed.is_empty() && found.removed.iter().all(|part| prefix.contains(part.as_str())));
            }
        }
    }

    #[test]
    fn names_of_other_models_are_unchanged() {
        for names in [
            &[
                "model.embed_tokens.weight",
                "model.layers.0.q_proj.weight",
                "model.norm.weight",
                "lm_head.weight",
            ][..],
            &[
                "layers.0.blocks.0.norm1.weight",
                "layers.0.blocks.0.mlp.fc1.weight",
                "layers.1.blocks.0.norm1.weight",
            ],
            &["module", "model", "w"],
            &[".", "..", "", "a..b", "module."],
        ] {
            let found = plain(names);
            assert_eq!(found.names, names);
            assert!(found.removed.is_empty(), "{names:?}");
            assert!(!are_of_model(names.iter().copied()), "{names:?}");
        }
    }

    #[test]
    fn one_of_several_copies_is_the_model() {
        let names = backbone_names();
        for (order, first) in [
            (&["", "teacher."][..], ""),
            (&["student.", "teacher."], "teacher."),
            (&["ema.", "student."], "student."),
            (&["model_ema.", "net."], "net."),
            (&["a.", "b."], "a."),
        ] {
            let given: Vec<String> = order.iter().flat_map(|prefix| prefixed(prefix, &names)).collect();
            let found = plain_of(&given);
            for (before, after) in given.iter().zip(&found.names) {
                let expected = before
                    .strip_prefix(first)
                    .filter(|rest| names.iter().any(|name| name == rest));
                assert_eq!(after, expected.unwrap_or(before), "{order:?}");
            }
        }
    }

    #[test]
    fn of_equal_names_the_one_with_fewest_additions_is_used() {
        let found = plain(&["module.cls_token", "cls_token", "module.module.cls_token"]);
        assert_eq!(
            found.names,
            ["module.cls_token", "cls_token", "module.module.cls_token"]
        );
        let found = plain(&["module._orig_mod.cls_token", "_orig_mod.cls_token", "module.cls_token"]);
        assert_eq!(
            found.names,
            ["module._orig_mod.cls_token", "cls_token", "module.cls_token"]
        );
        assert_eq!(found.removed, ["_orig_mod."]);
    }

    proptest! {
        #[test]
        fn wrappers_at_any_place_are_removed(
            is_backbone in any::<bool>(),
            // For each name, positions and wrappers to insert.
            inserted in prop::collection::vec(
                prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(&WRAPPERS[..])), 0..4),
                130,
            ),
            strays in prop::collection::vec("[a-c]{1,3}(\\.[a-c]{1,3}){0,2}", 0..4),
        ) {
            let names = if is_backbone { backbone_names() } else { model_names() };
            let mut given: Vec<String> = names
                .iter()
                .zip(inserted.iter().cycle())
                .map(|(name, inserted)| {
                    let mut components: Vec<&str> = name.split('.').collect();
                    for (position, wrapper) in inserted {
                        components.insert(position.index(components.len()), wrapper);
                    }
                    components.join(".")
                })
                .collect();
            let strays: IndexSet<String> = strays.into_iter().collect();
            given.extend(strays.iter().cloned());
            let found = plain_of(&given);
            prop_assert_eq!(&found.names[..names.len()], &names[..]);
            prop_assert_eq!(&found.names[names.len()..], &strays.into_iter().collect::<Vec<_>>()[..]);
        }

        #[test]
        fn names_stay_unique(names in prop::collection::hash_set(
            "((module|model|_orig_mod|ema|backbone|transformer|blocks|0|cls_token|norm|w|vit)\\.){0,4}\
             (cls_token|pos_embed|w|norm|module|blocks\\.0\\.norm1\\.weight|encoder\\.layer\\.0\\.layernorm_before\\.weight|\
             embeddings\\.patch_embeddings\\.projection\\.weight|patch_embed\\.proj\\.weight)",
            0..40,
        )) {
            let names: Vec<String> = names.into_iter().collect();
            let found = plain_of(&names);
            let unique: std::collections::HashSet<&String> = found.names.iter().collect();
            prop_assert_eq!(unique.len(), names.len());
        }
    }
}
