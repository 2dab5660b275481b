//! Sizes of a model.

use crate::blocks::{BACKBONE_EPS, TEXT_EPS};

/// Sizes and heads of a VLC model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct VlcConfig {
    /// Side of the square images for which the position table has a row per patch, in pixels. With [`Positions::Fixed`], all images
    /// are of this size.
    pub image_size: usize,
    /// Backbone sizes.
    pub backbone: Backbone,
    /// Rows of the word embedding table.
    pub vocab_size: usize,
    /// Maximum number of tokens of a text: the rows of the text position table.
    pub max_text_len: usize,
    /// Rows of the modality table: 2, or 3 for pairs of images.
    pub token_types: usize,
    /// Dropout probability of the text embedding.
    pub drop_rate: f32,
    /// Heads of the model.
    pub heads: Heads,
    /// Position table and layer norms.
    #[serde(default)]
    pub variant: Variant,
}

/// What differs between the models of the family beside their sizes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Variant {
    /// The position table of image patches.
    pub positions: Positions,
    /// ε of the layer norms of the encoder and the decoder.
    pub layer_norm_eps: f32,
    /// ε of the layer norms of the text embedding and of the head for masked words.
    pub text_layer_norm_eps: f32,
}

impl Variant {
    /// VLC.
    pub const VLC: Self = Self {
        positions: Positions::Fixed,
        layer_norm_eps: BACKBONE_EPS,
        text_layer_norm_eps: TEXT_EPS,
    };
    /// ViLT (Kim et al. 2021, [arXiv:2102.03334](https://arxiv.org/abs/2102.03334)) as published.
    pub const VILT: Self = Self {
        positions: Positions::Learned,
        ..Self::VLC
    };
    /// ViLT in Hugging Face's transformers, which has one ε for all layer norms.
    pub const HUGGING_FACE_VILT: Self = Self {
        layer_norm_eps: TEXT_EPS,
        ..Self::VILT
    };
}

impl Default for Variant {
    fn default() -> Self {
        Self::VLC
    }
}

/// The position table of image patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// The sine-cosine table of one square, as in MAE. It is not trained.
    Fixed,
    /// A learned table, which is interpolated to the patches of each image.
    Learned,
}

/// Sizes of the transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Backbone {
    /// Side of a patch, in pixels.
    pub patch_size: usize,
    /// Width of the encoder.
    pub width: usize,
    /// Number of encoder blocks.
    pub depth: usize,
    /// Number of attention heads of the encoder.
    pub heads: usize,
    /// Width of the decoder of masked autoencoding; 0 if there is no decoder.
    pub decoder_width: usize,
    /// Number of decoder blocks.
    pub decoder_depth: usize,
    /// Number of attention heads of the decoder.
    pub decoder_heads: usize,
}

/// The name of ViLT's backbone.
const VILT: &str = "vit_base_patch32_384";
/// Side of the square of the position table of ViLT's backbone, in pixels.
const VILT_POSITION_SIZE: usize = 384;

impl Backbone {
    /// Returns the side, in pixels, of the square of the learned position table of a published variant; `None` if its table is fixed.
    pub fn position_size(name: &str) -> Option<usize> {
        (name == VILT).then_some(VILT_POSITION_SIZE)
    }

    /// Returns the sizes of a published variant; `None` if the name is unknown. Short and long names are accepted
    /// (`mae_vit_base_patch16`, `mae_vit_base_patch16_dec512d8b`).
    pub fn from_name(name: &str) -> Option<Self> {
        let (patch_size, width, depth, heads) = match name.strip_suffix("_dec512d8b").unwrap_or(name) {
            VILT => {
                return Some(Self {
                    patch_size: 32,
                    width: 768,
                    depth: 12,
                    heads: 12,
                    decoder_width: 0,
                    decoder_depth: 0,
                    decoder_heads: 0,
                });
            }
            "mae_vit_base_patch16" => (16, 768, 12, 12),
            "mae_vit_large_patch16" => (16, 1024, 24, 16),
            "mae_vit_huge_patch14" => (14, 1280, 32, 16),
            _ => return None,
        };
        Some(Self {
            patch_size,
            width,
            depth,
            heads,
            decoder_width: 512,
            decoder_depth: 8,
            decoder_heads: 16,
        })
    }
}

/// The heads of a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Heads {
    /// Whether there is a head for masked language modelling.
    pub mlm: bool,
    /// Whether there is a head for image-text matching.
    pub itm: bool,
    /// Number of answers of the head for visual question answering; `None` if there is no such head.
    pub vqa: Option<usize>,
    /// Whether there is a head that classifies a statement about two images as false or true.
    #[serde(default)]
    pub nlvr2: bool,
    /// Number of labels of the head for labels of image-text pairs; `None` if there is no such head.
    #[serde(default)]
    pub labels: Option<usize>,
    /// Whether there is a head that ranks captions for retrieval. It is initialised from the matching head, whose weights are then
    /// frozen.
    pub rank: bool,
}

impl VlcConfig {
    /// Whether there is a decoder of masked autoencoding.
    pub fn has_decoder(&self) -> bool {
        self.backbone.decoder_width > 0
    }

    /// Returns the number of patches per side of the position table.
    pub fn grid(&self) -> usize {
        self.image_size / self.backbone.patch_size
    }

    /// Returns the number of patches of the position table.
    pub fn patches(&self) -> usize {
        self.grid() * self.grid()
    }

    /// Returns the largest number of patches of an image. Images that keep their proportions are at most 1333/800 times as long as the square
    /// of the position table.
    pub fn most_patches(&self) -> usize {
        match self.variant.positions {
            Positions::Fixed => self.patches(),
            Positions::Learned => self.patches() * 1333 / 800,
        }
    }

    /// Returns the number of values of a patch in all channels.
    pub fn patch_values(&self) -> usize {
        3 * self.backbone.patch_size * self.backbone.patch_size
    }

    /// Returns name and shape of each parameter and whether it is trainable, in the order of the published state dict.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>, bool)> {
        let b = &self.backbone;
        let (d, e, n) = (b.width, b.decoder_width, self.patches());
        let mut list = ParameterList(Vec::new());
        list.add("text_embeddings.word_embeddings.weight", &[self.vocab_size, d]);
        list.add("text_embeddings.position_embeddings.weight", &[self.max_text_len, d]);
        list.add("text_embeddings.token_type_embeddings.weight", &[2, d]);
        list.add_norm("text_embeddings.LayerNorm", d);
        list.add("token_type_embeddings.weight", &[self.token_types, d]);
        list.add("transformer.cls_token", &[1, 1, d]);
        match self.variant.positions {
            Positions::Fixed => list.add_frozen("transformer.pos_embed", &[1, n + 1, d]),
            Positions::Learned => list.add("transformer.pos_embed", &[1, n + 1, d]),
        }
        if self.has_decoder() {
            list.add("transformer.mask_token", &[1, 1, e]);
            list.add_frozen("transformer.decoder_pos_embed", &[1, n + 1, e]);
        }
        list.add(
            "transformer.patch_embed.proj.weight",
            &[d, 3, b.patch_size, b.patch_size],
        );
        list.add("transformer.patch_embed.proj.bias", &[d]);
        (0..b.depth).for_each(|i| list.add_block(&format!("transformer.blocks.{i}"), d));
        list.add_norm("transformer.norm", d);
        if self.has_decoder() {
            list.add_linear("transformer.decoder_embed", d, e);
            (0..b.decoder_depth).for_each(|i| list.add_block(&format!("transformer.decoder_blocks.{i}"), e));
            list.add_norm("transformer.decoder_norm", e);
            list.add_linear("transformer.decoder_pred", e, self.patch_values());
        }
        list.add_linear("pooler.dense", d, d);
        if self.heads.mlm {
            list.add("mlm_score.bias", &[self.vocab_size]);
            list.add_linear("mlm_score.transform.dense", d, d);
            list.add_norm("mlm_score.transform.LayerNorm", d);
            list.add("mlm_score.decoder.weight", &[self.vocab_size, d]);
        }
        match self.heads {
            Heads {
                itm: true, rank: true, ..
            } => {
                list.add_frozen("itm_score.fc.weight", &[2, d]);
                list.add_frozen("itm_score.fc.bias", &[2]);
            }
            Heads { itm: true, .. } => list.add_linear("itm_score.fc", d, 2),
            _ => {}
        }
        if let Some(answers) = self.heads.vqa {
            list.add_classifier("vqa_classifier", d, 2 * d, answers);
        }
        if self.heads.nlvr2 {
            list.add_classifier("nlvr2_classifier", 2 * d, 2 * d, 2);
        }
        if let Some(labels) = self.heads.labels {
            list.add_classifier("labels_classifier", d, 2 * d, labels);
        }
        if self.heads.rank {
            list.add_linear("rank_output", d, 1);
        }
        list.0
    }
}

/// Name and shape of each parameter, and whether it is trainable.
pub(crate) struct ParameterList(pub Vec<(String, Vec<usize>, bool)>);

impl ParameterList {
    pub fn add(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_string(), shape.to_vec(), true));
    }

    fn add_frozen(&mut self, name: &str, shape: &[usize]) {
        self.0.push((name.to_string(), shape.to_vec(), false));
    }

    pub fn add_linear(&mut self, name: &str, input: usize, output: usize) {
        self.add(&format!("{name}.weight"), &[output, input]);
        self.add(&format!("{name}.bias"), &[output]);
    }

    pub fn add_norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }

    fn add_classifier(&mut self, name: &str, input: usize, hidden: usize, classes: usize) {
        self.add_linear(&format!("{name}.0"), input, hidden);
        self.add_norm(&format!("{name}.1"), hidden);
        self.add_linear(&format!("{name}.3"), hidden, classes);
    }

    pub fn add_block(&mut self, name: &str, width: usize) {
        self.add_norm(&format!("{name}.norm1"), width);
        self.add_linear(&format!("{name}.attn.qkv"), width, 3 * width);
        self.add_linear(&format!("{name}.attn.proj"), width, width);
        self.add_norm(&format!("{name}.norm2"), width);
        self.add_linear(&format!("{name}.mlp.fc1"), width, 4 * width);
        self.add_linear(&format!("{name}.mlp.fc2"), 4 * width, width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parameter<'a> = (&'a str, &'a [usize], bool);

    fn base(heads: Heads) -> VlcConfig {
        VlcConfig {
            image_size: 384,
            backbone: Backbone::from_name("mae_vit_base_patch16").expect("known"),
            vocab_size: 30522,
            max_text_len: 40,
            token_types: 2,
            drop_rate: 0.1,
            heads,
            variant: Variant::VLC,
        }
    }

    /// The expected counts are those of the published models.
    #[test]
    fn base_model_has_the_published_number_of_parameters() {
        let config = base(Heads {
            mlm: true,
            itm: true,
            ..Heads::default()
        });
        let count = |filter: &dyn Fn(&str, bool) -> bool| -> usize {
            config
                .parameters()
                .iter()
                .filter(|(n, _, t)| filter(n, *t))
                .map(|(_, s, _)| s.iter().product::<usize>())
                .sum()
        };
        assert_eq!(count(&|_, _| true), 160_526_140);
        assert_eq!(count(&|_, trainable| trainable), 159_787_580);
        let decoder = |n: &str| n.starts_with("transformer.decoder_") || n == "transformer.mask_token";
        assert_eq!(count(&|n, t| t && decoder(n)), 26_008_320);
        assert_eq!(
            count(&|n, t| t && n.starts_with("transformer.") && !decoder(n)),
            85_647_360
        );
    }

    #[test]
    fn heads_have_the_published_order_and_a_ranking_head_freezes_the_matching_head() {
        let all = base(Heads {
            mlm: false,
            itm: true,
            vqa: Some(3129),
            nlvr2: true,
            labels: Some(7),
            rank: true,
        })
        .parameters();
        let pooler = all
            .iter()
            .position(|(n, ..)| n == "pooler.dense.bias")
            .expect("declared");
        let heads: Vec<Parameter> = all[pooler + 1..].iter().map(|(n, s, t)| (&n[..], &s[..], *t)).collect();
        let want: [Parameter; 22] = [
            ("itm_score.fc.weight", &[2, 768], false),
            ("itm_score.fc.bias", &[2], false),
            ("vqa_classifier.0.weight", &[1536, 768], true),
            ("vqa_classifier.0.bias", &[1536], true),
            ("vqa_classifier.1.weight", &[1536], true),
            ("vqa_classifier.1.bias", &[1536], true),
            ("vqa_classifier.3.weight", &[3129, 1536], true),
            ("vqa_classifier.3.bias", &[3129], true),
            ("nlvr2_classifier.0.weight", &[1536, 1536], true),
            ("nlvr2_classifier.0.bias", &[1536], true),
            ("nlvr2_classifier.1.weight", &[1536], true),
            ("nlvr2_classifier.1.bias", &[1536], true),
            ("nlvr2_classifier.3.weight", &[2, 1536], true),
            ("nlvr2_classifier.3.bias", &[2], true),
            ("labels_classifier.0.weight", &[1536, 768], true),
            ("labels_classifier.0.bias", &[1536], true),
            ("labels_classifier.1.weight", &[1536], true),
            ("labels_classifier.1.bias", &[1536], true),
            ("labels_classifier.3.weight", &[7, 1536], true),
            ("labels_classifier.3.bias", &[7], true),
            ("rank_output.weight", &[1, 768], true),
            ("rank_output.bias", &[1], true),
        ];
        assert_eq!(heads, want);
    }

    #[test]
    fn accepts_short_and_long_names_of_variants() {
        assert_eq!(
            Backbone::from_name("mae_vit_huge_patch14"),
            Backbone::from_name("mae_vit_huge_patch14_dec512d8b")
        );
        assert_eq!(Backbone::from_name("vit_b"), None);
    }
}
