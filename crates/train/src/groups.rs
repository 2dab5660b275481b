//! Parameter groups: parameters that share a learning rate and a weight decay.

use std::collections::HashMap;

use crate::spec::{GroupRule, OptimizerSpec};

/// The properties of a parameter that determine its group. The functions of this module take the parameters in the order of the
/// model's state dict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameter<'a> {
    /// Published name, such as `transformer.blocks.0.norm1.weight`.
    pub name: &'a str,
    /// Number of dimensions; 1 for biases and norms.
    pub dimensions: usize,
    /// Whether the parameter is never trained, like the position tables.
    pub frozen: bool,
}

/// Parameters that share a learning rate and a weight decay.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterGroup {
    /// The name: `decay`, `head_no_decay`, `layer_3_decay`, ….
    pub name: String,
    /// Factor of the run's learning rate.
    pub learning_rate_scale: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Names of the parameters.
    pub members: Vec<String>,
}

/// In pre-training, parameters whose name contains one of these strings have no weight decay. The list is that of the original, so
/// some entries are redundant.
const NO_DECAY: [&str; 9] = [
    "bias",
    "LayerNorm.bias",
    "LayerNorm.weight",
    "norm.bias",
    "norm.weight",
    "norm1.bias",
    "norm1.weight",
    "norm2.bias",
    "norm2.weight",
];

/// In pre-training, parameters whose name contains one of these strings belong to a task head. As in the original, the heads of
/// pre-training are not in the list. The original has no head for labels.
const HEADS: [&str; 4] = [
    "vqa_classifier",
    "nlvr2_classifier",
    "snli_classifier",
    "labels_classifier",
];

/// Returns the groups of a run. `depth` is the number of encoder blocks.
pub fn groups(optimizer: &OptimizerSpec, parameters: &[Parameter<'_>], depth: usize) -> Vec<ParameterGroup> {
    match optimizer.groups {
        GroupRule::Heads { lr_mult } => pretrain_groups(parameters, optimizer.weight_decay, lr_mult),
        GroupRule::Layers { layer_decay } => layer_decay_groups(parameters, optimizer.weight_decay, depth, layer_decay),
        GroupRule::ClassifierLayers { layer_decay } => {
            vit_layer_decay_groups(parameters, optimizer.weight_decay, depth, layer_decay)
        }
    }
}

/// Returns the groups of pre-training. There are always four, possibly empty: the body with and without weight decay, and the task
/// heads with and without weight decay. The learning rate of heads is multiplied by `lr_mult`. Frozen parameters are members
/// too, as in the original, whose optimiser state dict has entries for them.
pub fn pretrain_groups(parameters: &[Parameter<'_>], weight_decay: f64, lr_mult: f64) -> Vec<ParameterGroup> {
    let mut groups = [
        ("decay", 1.0, weight_decay),
        ("no_decay", 1.0, 0.0),
        ("head_decay", lr_mult, weight_decay),
        ("head_no_decay", lr_mult, 0.0),
    ]
    .map(|(name, learning_rate_scale, weight_decay)| ParameterGroup {
        name: name.into(),
        learning_rate_scale,
        weight_decay,
        members: Vec::new(),
    });
    for parameter in parameters {
        let name_contains = |parts: &[&str]| parts.iter().any(|part| parameter.name.contains(part));
        let group = 2 * usize::from(name_contains(&HEADS)) + usize::from(name_contains(&NO_DECAY));
        groups[group].members.push(parameter.name.into());
    }
    groups.into()
}

/// Returns the groups of fine-tuning. With `n = depth + 1`, the learning rate of layer `l` is multiplied by `layer_decay^(n - l)`.
/// Embeddings are layer 0, block `i` is layer `i + 1`, and everything after the encoder is layer `n`. One-dimensional parameters
/// have no weight decay. Groups are in the order of their first members. Frozen parameters are in no group.
pub fn layer_decay_groups(
    parameters: &[Parameter<'_>],
    weight_decay: f64,
    depth: usize,
    layer_decay: f64,
) -> Vec<ParameterGroup> {
    let layer_of = |name: &str| match name.strip_prefix("transformer.") {
        Some("mask_token") => 0,
        Some(rest) => backbone_layer(rest, depth),
        None if name.starts_with("text_embeddings") || name.starts_with("token_type_embeddings") => 0,
        None => depth + 1,
    };
    groups_by_layer(parameters, weight_decay, depth, layer_decay, layer_of, |p| {
        p.dimensions != 1
    })
}

/// Returns the groups of ImageNet fine-tuning: the rules of [`layer_decay_groups`], applied to the parameter names of a ViT classifier.
/// In addition, the class token and the position table have no weight decay.
pub fn vit_layer_decay_groups(
    parameters: &[Parameter<'_>],
    weight_decay: f64,
    depth: usize,
    layer_decay: f64,
) -> Vec<ParameterGroup> {
    let has_decay = |p: &Parameter<'_>| p.dimensions != 1 && p.name != "cls_token" && p.name != "pos_embed";
    groups_by_layer(
        parameters,
        weight_decay,
        depth,
        layer_decay,
        |name| backbone_layer(name, depth),
        has_decay,
    )
}

/// Returns the layer of a backbone parameter. `name` is the parameter's name without `transformer.`.
fn backbone_layer(name: &str, depth: usize) -> usize {
    let block = |rest: &str| rest.split('.').next().and_then(|number| number.parse::<usize>().ok());
    match name {
        "cls_token" | "pos_embed" => 0,
        _ if name.starts_with("patch_embed") => 0,
        _ => match name.strip_prefix("blocks.").and_then(block) {
            Some(block) if block < depth => block + 1,
            _ => depth + 1,
        },
    }
}

/// Groups the trainable parameters by layer and by whether they have weight decay.
fn groups_by_layer(
    parameters: &[Parameter<'_>],
    weight_decay: f64,
    depth: usize,
    layer_decay: f64,
    layer_of: impl Fn(&str) -> usize,
    has_decay: impl Fn(&Parameter<'_>) -> bool,
) -> Vec<ParameterGroup> {
    let mut groups: Vec<ParameterGroup> = Vec::new();
    let mut group_indices: HashMap<(usize, bool), usize> = HashMap::new();
    for parameter in parameters.iter().filter(|p| !p.frozen) {
        let (layer, decays) = (layer_of(parameter.name), has_decay(parameter));
        let index = *group_indices.entry((layer, decays)).or_insert_with(|| {
            groups.push(ParameterGroup {
                name: format!("layer_{layer}_{}", if decays { "decay" } else { "no_decay" }),
                learning_rate_scale: layer_decay.powf((depth + 1 - layer) as f64),
                weight_decay: if decays { weight_decay } else { 0.0 },
                members: Vec::new(),
            });
            groups.len() - 1
        });
        groups[index].members.push(parameter.name.into());
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RunSpec;
    use serde_json::Value as Json;
    use vlct_config::Config;

    /// Names and numbers of dimensions of a model's parameters, in the order of its state dict.
    struct ParameterNames(Vec<(String, usize)>);

    impl ParameterNames {
        fn add(&mut self, name: &str, dimensions: usize) {
            self.0.push((name.into(), dimensions));
        }

        fn add_linear(&mut self, name: &str) {
            self.add(&format!("{name}.weight"), 2);
            self.add(&format!("{name}.bias"), 1);
        }

        fn add_norm(&mut self, name: &str) {
            self.add(&format!("{name}.weight"), 1);
            self.add(&format!("{name}.bias"), 1);
        }

        fn add_blocks(&mut self, name: &str, depth: usize) {
            for i in 0..depth {
                self.add_norm(&format!("{name}.{i}.norm1"));
                self.add_linear(&format!("{name}.{i}.attn.qkv"));
                self.add_linear(&format!("{name}.{i}.attn.proj"));
                self.add_norm(&format!("{name}.{i}.norm2"));
                self.add_linear(&format!("{name}.{i}.mlp.fc1"));
                self.add_linear(&format!("{name}.{i}.mlp.fc2"));
            }
        }

        fn vlc(depth: usize, decoder_depth: usize) -> Self {
            let mut names = Self(Vec::new());
            for table in ["word", "position", "token_type"] {
                names.add(&format!("text_embeddings.{table}_embeddings.weight"), 2);
            }
            names.add_norm("text_embeddings.LayerNorm");
            names.add("token_type_embeddings.weight", 2);
            for table in ["cls_token", "pos_embed", "mask_token", "decoder_pos_embed"] {
                names.add(&format!("transformer.{table}"), 3);
            }
            names.add("transformer.patch_embed.proj.weight", 4);
            names.add("transformer.patch_embed.proj.bias", 1);
            names.add_blocks("transformer.blocks", depth);
            names.add_norm("transformer.norm");
            names.add_linear("transformer.decoder_embed");
            names.add_blocks("transformer.decoder_blocks", decoder_depth);
            names.add_norm("transformer.decoder_norm");
            names.add_linear("transformer.decoder_pred");
            names.add_linear("pooler.dense");
            names
        }

        fn parameters(&self) -> Vec<Parameter<'_>> {
            let is_frozen = |name: &str| name.starts_with("transformer.") && name.ends_with("pos_embed");
            self.0
                .iter()
                .map(|(name, dimensions)| Parameter {
                    name,
                    dimensions: *dimensions,
                    frozen: is_frozen(name),
                })
                .collect()
        }
    }

    fn assert_groups(got: &[ParameterGroup], recorded: &Json, recorded_scale: impl Fn(&Json) -> f64) {
        let recorded = recorded.as_array().unwrap();
        assert_eq!(got.len(), recorded.len());
        for (group, want) in got.iter().zip(recorded) {
            let members: Vec<&str> = want["params"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| v.as_str().unwrap())
                .collect();
            assert_eq!(group.members, members, "{}", group.name);
            assert_eq!(
                Some(group.weight_decay),
                want["weight_decay"].as_f64(),
                "{}",
                group.name
            );
            let scale = recorded_scale(want);
            assert!(
                (group.learning_rate_scale - scale).abs() <= 1e-14 * scale,
                "{}: {scale}",
                group.name
            );
        }
    }

    /// Returns the numbers of encoder and decoder blocks.
    fn depths(directory: &std::path::Path) -> (usize, usize) {
        let sizes = vlct_golden::json(directory.join("config.json"));
        let size = |name: &str| sizes[name].as_u64().unwrap() as usize;
        (size("depth"), size("decoder_depth"))
    }

    /// Returns the largest recorded value of `key`.
    fn largest(recorded: &Json, key: &str) -> f64 {
        recorded
            .as_array()
            .unwrap()
            .iter()
            .map(|g| g[key].as_f64().unwrap())
            .fold(0.0, f64::max)
    }

    #[test]
    fn pre_training_groups_equal_those_of_the_original() {
        for directory in vlct_golden::directories("model") {
            let recorded = vlct_golden::json(directory.join("pretrain_param_groups.json"));
            let (depth, decoder_depth) = depths(&directory);
            let mut names = ParameterNames::vlc(depth, decoder_depth);
            names.add("mlm_score.bias", 1);
            names.add_linear("mlm_score.transform.dense");
            names.add_norm("mlm_score.transform.LayerNorm");
            names.add("mlm_score.decoder.weight", 2);
            names.add_linear("itm_score.fc");
            let (rate, weight_decay) = (largest(&recorded, "lr"), largest(&recorded, "weight_decay"));
            let groups = pretrain_groups(&names.parameters(), weight_decay, 1.0);
            assert_groups(&groups, &recorded, |g| g["lr"].as_f64().unwrap() / rate);
        }
    }

    #[test]
    fn fine_tuning_groups_equal_those_of_the_original() {
        for directory in vlct_golden::directories("model") {
            let recorded = vlct_golden::json(directory.join("vqa_layer_decay_groups.json"));
            let (depth, decoder_depth) = depths(&directory);
            let mut names = ParameterNames::vlc(depth, decoder_depth);
            names.add_linear("vqa_classifier.0");
            names.add_norm("vqa_classifier.1");
            names.add_linear("vqa_classifier.3");
            let (rate, weight_decay) = (largest(&recorded, "lr"), largest(&recorded, "weight_decay"));
            let config = Config {
                is_pretrain: false,
                weight_decay,
                lr_mult: 10.0,
                ..Config::default()
            };
            let spec = RunSpec::resolve(&config).unwrap();
            let groups = groups(&spec.optimizer, &names.parameters(), depth);
            assert_groups(&groups, &recorded, |g| g["lr"].as_f64().unwrap() / rate);
        }
    }

    #[test]
    fn imagenet_groups_equal_those_of_the_original() {
        for directory in vlct_golden::directories("imagenet") {
            let recorded = vlct_golden::json(directory.join("layer_decay_groups.json"));
            // Layers 0 to `depth + 1` have two groups each. One of all these groups contains `head.weight`, so the count is 2 × depth + 3.
            let has_head = |g: &Json| g["params"].as_array().unwrap().iter().any(|p| p == "head.weight");
            let depth = recorded.as_array().unwrap().iter().filter(|g| !has_head(g)).count() / 2 - 1;
            let mut names = ParameterNames(Vec::new());
            names.add("cls_token", 3);
            names.add("pos_embed", 3);
            names.add("patch_embed.proj.weight", 4);
            names.add("patch_embed.proj.bias", 1);
            names.add_blocks("blocks", depth);
            names.add_linear("head");
            names.add_norm("fc_norm");
            let groups = vit_layer_decay_groups(&names.parameters(), largest(&recorded, "weight_decay"), depth, 0.65);
            assert_groups(&groups, &recorded, |g| g["lr_scale"].as_f64().unwrap());
        }
    }

    #[test]
    fn the_base_model_has_28_layer_groups() {
        let names = ParameterNames::vlc(12, 8);
        let groups = layer_decay_groups(&names.parameters(), 0.01, 12, 0.5);
        assert_eq!(groups.len(), 28);
        assert_eq!(groups[0].name, "layer_0_decay");
        assert!((groups[0].learning_rate_scale - 1.2207e-4).abs() < 1e-8);
        assert_eq!(groups[2].name, "layer_1_no_decay");
        assert_eq!(groups.last().unwrap().learning_rate_scale, 1.0);
        assert!(
            groups
                .iter()
                .all(|g| !g.members.iter().any(|m| m.ends_with("pos_embed")))
        );
    }

    #[test]
    fn pretrain_groups_finds_task_heads_by_their_names() {
        let names = [
            "vqa_classifier.1.weight",
            "vqa_classifier.0.bias",
            "mlm_score.bias",
            "transformer.mask_token",
        ];
        let parameters = names.map(|name| Parameter {
            name,
            dimensions: 1,
            frozen: false,
        });
        let groups = pretrain_groups(&parameters, 0.01, 10.0);
        let members: Vec<&[String]> = groups.iter().map(|g| &g.members[..]).collect();
        assert_eq!(members, [&[names[3]], &[names[2]], &[names[0]], &[names[1]]]);
        assert_eq!((groups[2].learning_rate_scale, groups[2].weight_decay), (10.0, 0.01));
    }
}
