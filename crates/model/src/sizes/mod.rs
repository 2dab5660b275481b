//! The sizes of a model, derived from its weight file.
//!
//! Most sizes follow from shapes. The numbers of attention heads do not: they are those that the file states or, if it states none, follow
//! from the widths per head of the published models.

mod error;
mod hugging_face;

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;

use indexmap::IndexMap;

pub use error::SizeError;

use crate::blocks::BACKBONE_EPS;
use crate::config::{Backbone, Heads, Positions, Variant, VlcConfig};
pub use crate::files::GivenHeads;
use crate::files::heads::Statements;
use crate::files::{BACKBONE_PREFIX, Style, TensorProblem, WeightIndex};
use crate::position::sine_cosine;
use crate::vit::VitConfig;

/// Width per head of the encoder of every published model except the huge one.
const WIDTH_PER_HEAD: usize = 64;
/// Width per head of the decoder of every published model.
const DECODER_WIDTH_PER_HEAD: usize = 32;
/// Upper bound of every size of a model, far above those of any model. It excludes overflows of products.
const MAX_SIZE: usize = 1 << 20;
/// Upper bound of the number of patches per side of an image, and of the number of blocks.
const MAX_GRID: usize = 1 << 12;
/// The position table.
const POSITIONS: &str = "transformer.pos_embed";
/// A table is the sine-cosine table if no value differs by more than this; bfloat16 rounds values up to 1 by 2⁻⁹.
const FIXED_TABLE_BOUND: f32 = 0.01;
/// Upper bound of the number of classes of a head, and of tokens.
const MAX_CLASSES: usize = 1 << 30;

/// The sizes of a model, and the assumptions by which they were derived.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Sizes and heads. Dropout is off.
    pub config: VlcConfig,
    /// Numbers of attention heads that the file does not state.
    pub assumptions: Vec<Assumption>,
    /// Which model of the family it is.
    pub origin: Origin,
}

/// The program that made a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// VLC.
    Vlc,
    /// ViLT as published.
    Vilt {
        /// Whether the file says so. Otherwise it is recognised by its tensors: the position table is learned, and there is no decoder.
        is_stated: bool,
    },
    /// ViLT in Hugging Face's transformers.
    HuggingFaceVilt,
}

impl Origin {
    fn variant(self) -> Variant {
        match self {
            Self::Vlc => Variant::VLC,
            Self::Vilt { .. } => Variant::VILT,
            Self::HuggingFaceVilt => Variant::HUGGING_FACE_VILT,
        }
    }
}

/// Sizes of the encoder of a VLC model, a MAE or an image classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSizes {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width.
    pub width: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Number of attention heads.
    pub heads: usize,
    /// ε of the layer norms, if the file states another one than MAE's.
    pub layer_norm_eps: Option<f32>,
    /// The assumption about the number of heads, if the file does not state it.
    pub assumption: Option<Assumption>,
}

/// A part of the model with attention heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The encoder.
    Encoder,
    /// The decoder of masked autoencoding.
    Decoder,
}

/// A number of attention heads that the file does not state, derived from the width per head of the published models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assumption {
    /// The part of the model.
    pub part: Part,
    /// The assumed number of heads.
    pub heads: usize,
    /// Width of the part.
    pub width: usize,
}

impl std::fmt::Display for Assumption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { part, heads, width } = self;
        let of_part = match part {
            Part::Encoder => "",
            Part::Decoder => " of the decoder",
        };
        write!(
            f,
            "the file does not state the number of attention heads{of_part}: {heads}, one per {} of width {width}, as in the published \
             models",
            width / heads
        )
    }
}

/// Derives the sizes of the model in a weight file. A decoder whose number of heads is unknown is left out.
///
/// # Errors
/// Returns a [`SizeError`] if a tensor is missing or has a shape of no VLC model, or if the number of heads of the encoder is unknown.
pub fn derive(file: &WeightIndex, given: GivenHeads) -> Result<Sizes, SizeError> {
    let tensors = Tensors::new(file);
    let statements = Statements::new(file.format, &file.summary);
    if file.summary.hugging_face {
        let [width, ..] = tensors.shape::<4>("transformer.patch_embed.proj.weight")?;
        hugging_face::check_heads(&statements, width)?;
    }
    let EncoderSizes {
        patch_size,
        width,
        depth,
        heads,
        assumption,
        ..
    } = derive_encoder(&tensors, &statements, BACKBONE_PREFIX, given.encoder)?;
    let mut assumptions: Vec<Assumption> = assumption.into_iter().collect();
    let (decoder_width, decoder_depth, decoder_heads) =
        decoder(&tensors, &statements, given.decoder, &mut assumptions)?;

    let [_, rows, _] = tensors.shape(POSITIONS)?;
    let grid = (rows - 1).isqrt();
    if grid == 0 || grid * grid + 1 != rows {
        return Err(SizeError::NotSquare {
            name: POSITIONS.into(),
            rows,
        });
    }
    let [vocab_size, _] = tensors.shape("text_embeddings.word_embeddings.weight")?;
    let [max_text_len, _] = tensors.shape("text_embeddings.position_embeddings.weight")?;
    let [token_types, _] = tensors.shape("token_type_embeddings.weight")?;
    let nlvr2 = tensors.classes("nlvr2_classifier")?.is_some();
    let origin = origin(file, &tensors, &statements, width, grid);
    let mut variant = origin.variant();
    if let (Origin::HuggingFaceVilt, Some(eps)) = (origin, statements.layer_norm_eps()) {
        (variant.layer_norm_eps, variant.text_layer_norm_eps) = (eps, eps);
    }
    let config = VlcConfig {
        image_size: grid * patch_size,
        backbone: Backbone {
            patch_size,
            width,
            depth,
            heads,
            decoder_width,
            decoder_depth,
            decoder_heads,
        },
        vocab_size,
        max_text_len,
        variant,
        // A table of two rows is extended for the second image.
        token_types: token_types.max(if nlvr2 { 3 } else { 2 }),
        drop_rate: 0.0,
        heads: Heads {
            mlm: tensors.contains("mlm_score.bias"),
            itm: tensors.contains("itm_score.fc.weight"),
            vqa: tensors.classes("vqa_classifier")?,
            nlvr2,
            labels: tensors.classes("labels_classifier")?,
            rank: tensors.contains("rank_output.weight"),
        },
    };
    check(&config)?;
    if origin == Origin::HuggingFaceVilt {
        hugging_face::check(&statements, &config)?;
    }
    Ok(Sizes {
        config,
        assumptions,
        origin,
    })
}

/// Returns which model of the family is in a file, whose position table has `grid · grid` patches.
fn origin(file: &WeightIndex, tensors: &Tensors, statements: &Statements, width: usize, grid: usize) -> Origin {
    if file.summary.hugging_face {
        return Origin::HuggingFaceVilt;
    }
    if let Some(is_vlc) = statements.is_vlc() {
        return match is_vlc {
            true => Origin::Vlc,
            false => Origin::Vilt { is_stated: true },
        };
    }
    let has_decoder = ["transformer.mask_token", "transformer.decoder_embed.weight"]
        .iter()
        .any(|name| tensors.contains(name));
    let is_fixed = || {
        let table = file.tensors.get(POSITIONS)?;
        let mut values = vec![0.0; table.shape().iter().product()];
        table.read_f32(&mut values)?;
        let fixed = width.is_multiple_of(4).then(|| sine_cosine(width, grid))?;
        let is_near = |(value, fixed): (&f32, f32)| (value - fixed).abs() < FIXED_TABLE_BOUND;
        Some(values.len() == fixed.len() && values.iter().zip(fixed).all(is_near))
    };
    match has_decoder || is_fixed() == Some(true) {
        true => Origin::Vlc,
        false => Origin::Vilt { is_stated: false },
    }
}

/// Derives the sizes of the encoder in a weight file of a VLC model, a MAE or an image classifier. `heads` is the number of attention heads
/// if the caller knows it.
///
/// # Errors
/// Returns a [`SizeError`] if a tensor is missing or has a shape of no encoder, or if the number of heads is unknown.
pub fn encoder(file: &WeightIndex, heads: Option<usize>) -> Result<EncoderSizes, SizeError> {
    let tensors = Tensors::new(file);
    let statements = Statements::new(file.format, &file.summary);
    let prefix = match file.style {
        Style::Mae => "",
        Style::Vlc => BACKBONE_PREFIX,
    };
    derive_encoder(&tensors, &statements, prefix, heads)
}

/// Derives the sizes of an encoder whose tensors have names that begin with `prefix`.
fn derive_encoder(
    tensors: &Tensors,
    statements: &Statements,
    prefix: &str,
    heads: Option<usize>,
) -> Result<EncoderSizes, SizeError> {
    let [width, _, patch_size, _] = tensors.shape(&format!("{prefix}patch_embed.proj.weight"))?;
    let stated = heads.or_else(|| statements.encoder(width));
    let by_width = || (width % WIDTH_PER_HEAD == 0).then_some(width / WIDTH_PER_HEAD);
    let Some(heads) = stated.or_else(by_width) else {
        return Err(SizeError::UnknownHeads { part: "encoder", width });
    };
    check_heads("encoder", heads, width)?;
    Ok(EncoderSizes {
        patch_size,
        width,
        depth: tensors.blocks(&format!("{prefix}blocks"))?,
        heads,
        layer_norm_eps: statements.layer_norm_eps().filter(|eps| *eps != BACKBONE_EPS),
        assumption: stated.is_none().then_some(Assumption {
            part: Part::Encoder,
            heads,
            width,
        }),
    })
}

/// Checks sizes that come from an untrusted file: a model with these sizes can be built, and its forward pass does not panic.
///
/// # Errors
/// Returns [`SizeError::OutOfRange`], [`SizeError::ImageSize`] or [`SizeError::Heads`] for the first size that is wrong.
pub fn check(config: &VlcConfig) -> Result<(), SizeError> {
    let b = &config.backbone;
    check_encoder(config.image_size, b.patch_size, b.width, b.depth, b.heads)?;
    in_range("vocabulary size", config.vocab_size, 1..=MAX_CLASSES)?;
    in_range("text length", config.max_text_len, 2..=MAX_SIZE)?;
    let least = if config.heads.nlvr2 { 3 } else { 2 };
    in_range("number of token types", config.token_types, least..=MAX_SIZE)?;
    let Variant {
        positions,
        layer_norm_eps,
        text_layer_norm_eps,
    } = config.variant;
    for eps in [layer_norm_eps, text_layer_norm_eps] {
        if !(eps > 0.0 && eps < 1.0) {
            return Err(SizeError::Epsilon(eps.to_string()));
        }
    }
    if config.has_decoder() && positions == Positions::Learned {
        return Err(SizeError::LearnedPositionsWithDecoder);
    }
    if config.has_decoder() {
        in_range("width of the decoder", b.decoder_width, 1..=MAX_SIZE)?;
        in_range("depth of the decoder", b.decoder_depth, 1..=MAX_GRID)?;
        check_heads("decoder", b.decoder_heads, b.decoder_width)?;
    }
    for classes in [config.heads.vqa, config.heads.labels].into_iter().flatten() {
        in_range("number of classes", classes, 1..=MAX_CLASSES)?;
    }
    Ok(())
}

/// Checks the sizes of an image classifier, as [`check`] does.
///
/// # Errors
/// Returns [`SizeError::OutOfRange`], [`SizeError::ImageSize`] or [`SizeError::Heads`] for the first size that is wrong.
pub fn check_vit(config: &VitConfig) -> Result<(), SizeError> {
    check_encoder(
        config.image_size,
        config.patch_size,
        config.width,
        config.depth,
        config.heads,
    )?;
    in_range("number of classes", config.classes, 1..=MAX_CLASSES)
}

fn check_encoder(
    image_size: usize,
    patch_size: usize,
    width: usize,
    depth: usize,
    heads: usize,
) -> Result<(), SizeError> {
    in_range("patch size", patch_size, 1..=MAX_SIZE)?;
    in_range("width", width, 1..=MAX_SIZE)?;
    in_range("depth", depth, 1..=MAX_GRID)?;
    in_range("image size", image_size, patch_size..=MAX_SIZE)?;
    if !image_size.is_multiple_of(patch_size) {
        return Err(SizeError::ImageSize { image_size, patch_size });
    }
    in_range("number of patches per side", image_size / patch_size, 1..=MAX_GRID)?;
    check_heads("encoder", heads, width)
}

fn in_range(name: &'static str, value: usize, range: RangeInclusive<usize>) -> Result<(), SizeError> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(SizeError::OutOfRange { name, value }),
    }
}

/// Returns width, depth and number of heads of the decoder; zeros if there is none, or its number of heads is unknown.
fn decoder(
    tensors: &Tensors,
    statements: &Statements,
    given: Option<usize>,
    assumptions: &mut Vec<Assumption>,
) -> Result<(usize, usize, usize), SizeError> {
    let embed = "transformer.decoder_embed.weight";
    if !tensors.contains(embed) {
        return Ok((0, 0, 0));
    }
    let [width, _] = tensors.shape(embed)?;
    let by_width = || (width % DECODER_WIDTH_PER_HEAD == 0).then_some(width / DECODER_WIDTH_PER_HEAD);
    let stated = given.or_else(|| statements.decoder(width));
    let Some(heads) = stated.or_else(by_width) else {
        return Ok((0, 0, 0));
    };
    if stated.is_none() {
        assumptions.push(Assumption {
            part: Part::Decoder,
            heads,
            width,
        });
    }
    check_heads("decoder", heads, width)?;
    Ok((width, tensors.blocks("transformer.decoder_blocks")?, heads))
}

fn check_heads(part: &'static str, heads: usize, width: usize) -> Result<(), SizeError> {
    match heads > 0 && width.is_multiple_of(heads) {
        true => Ok(()),
        false => Err(SizeError::Heads { part, heads, width }),
    }
}

/// The shapes of the file's tensors.
struct Tensors<'f> {
    shapes: HashMap<&'f str, &'f [usize]>,
    unreadable: &'f IndexMap<String, TensorProblem>,
}

impl<'f> Tensors<'f> {
    fn new(file: &'f WeightIndex) -> Self {
        Self {
            shapes: file.shapes().map(|(name, shape, _)| (name, shape)).collect(),
            unreadable: &file.unreadable,
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// Returns the shape of a tensor, which has `N` axes, none of length 0.
    fn shape<const N: usize>(&self, name: &str) -> Result<[usize; N], SizeError> {
        let shape = self.shapes.get(name);
        let shape = shape.ok_or_else(|| match self.unreadable.get(name) {
            Some(problem) => SizeError::Unreadable {
                name: name.to_owned(),
                problem: problem.clone(),
            },
            None => SizeError::Missing(name.to_owned()),
        })?;
        let axes: Option<[usize; N]> = (*shape).try_into().ok();
        axes.filter(|axes| !axes.contains(&0)).ok_or_else(|| SizeError::Shape {
            name: name.to_owned(),
            shape: shape.to_vec(),
        })
    }

    /// Returns the number of blocks `NAME.0`, `NAME.1`, …, none of which is missing. A block is in the file if one of its tensors is.
    fn blocks(&self, name: &str) -> Result<usize, SizeError> {
        let unreadable = self.unreadable.keys().map(String::as_str);
        let numbers: BTreeSet<usize> = self
            .shapes
            .keys()
            .copied()
            .chain(unreadable)
            .filter_map(|tensor| {
                tensor
                    .strip_prefix(name)?
                    .strip_prefix('.')?
                    .split_once('.')?
                    .0
                    .parse()
                    .ok()
            })
            .collect();
        match numbers.iter().enumerate().find(|(block, number)| block != *number) {
            None => Ok(numbers.len()),
            Some((block, later)) => Err(SizeError::MissingBlock {
                block: format!("{name}.{block}"),
                later: *later,
            }),
        }
    }

    /// Returns the number of classes of a classifier; `None` if there is no classifier of this name.
    fn classes(&self, name: &str) -> Result<Option<usize>, SizeError> {
        let weight = format!("{name}.3.weight");
        match self.contains(&weight) {
            true => self.shape(&weight).map(|[classes, _]| Some(classes)),
            false => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
