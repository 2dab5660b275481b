//! VLC: one transformer over caption tokens and image patches (arXiv 2205.09256, section 3).

mod blocks;
mod decoder;
mod embed;
mod heads;
mod load;
#[cfg(test)]
mod tests;

use crate::config::VlcConfig;
use blocks::{Block, Linear, Norm};
use std::ops::Range;
use std::sync::Arc;
use vlct_tensor::ops::Varlen;
use vlct_tensor::{Compute, ParameterId, Parameters, Tape, Var};

/// ε of the backbone's layer norms.
const BACKBONE_EPS: f32 = 1e-6;

/// The model: its sizes, its weights, and where each of them is used.
pub struct Vlc {
    config: VlcConfig,
    parameters: Parameters,
    compute: Compute,
    text: embed::Text,
    image: embed::Image,
    token_types: ParameterId,
    blocks: Vec<Block>,
    norm: Norm,
    decoder: decoder::Decoder,
    pooler: Linear,
    mlm: Option<heads::Mlm>,
    itm: Option<Linear>,
    vqa: Option<heads::Vqa>,
    rank: Option<Linear>,
}

/// Which tokens the last block computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// All of them.
    All,
    /// The first of each sequence.
    First,
}

/// A caption and a picture that are read together.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Token ids from `[CLS]` to `[SEP]`, no padding.
    pub text: &'a [u32],
    /// The picture.
    pub picture: Picture<'a>,
}

/// A picture as the encoder takes it.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Normalised values `[3, image_size, image_size]`.
    pub pixels: &'a [f32],
    /// The visible patches; `None`: all, in order.
    pub kept: Option<&'a [u32]>,
    /// Row of the modality table: 1, or 2 for the second picture of a pair.
    pub token_type: u32,
}

/// What the encoder gives: one packed matrix and where everything is in it.
pub struct Encoded {
    /// `[tokens, width]`, sequence after sequence, each its text and then its image tokens (class token first).
    pub features: Var,
    /// Start of each sequence and the total.
    pub offsets: Arc<[usize]>,
    text_lengths: Vec<usize>,
}

impl Encoded {
    /// Rows of a sequence's text tokens.
    pub fn text_rows(&self, sequence: usize) -> Range<usize> {
        let start = self.offsets[sequence];
        start..start + self.text_lengths[sequence]
    }

    /// Rows of a sequence's image tokens, class token first.
    pub fn image_rows(&self, sequence: usize) -> Range<usize> {
        self.offsets[sequence] + self.text_lengths[sequence]..self.offsets[sequence + 1]
    }
}

impl Vlc {
    /// A model with all weights zero; see [`crate::initialise`].
    pub fn new(config: VlcConfig) -> Self {
        let parameters = Parameters::new(config.parameters());
        let find = blocks::Find(&parameters);
        let backbone = &config.backbone;
        Self {
            text: embed::Text::new(&find),
            image: embed::Image::new(&find),
            token_types: find.id("token_type_embeddings.weight"),
            blocks: (0..backbone.depth)
                .map(|i| find.block(&format!("transformer.blocks.{i}")))
                .collect(),
            norm: find.norm("transformer.norm"),
            decoder: decoder::Decoder::new(&find, backbone.decoder_depth),
            pooler: find.linear("pooler.dense"),
            mlm: config.heads.mlm.then(|| heads::Mlm::new(&find)),
            itm: config.heads.itm.then(|| find.linear("itm_score.fc")),
            vqa: config.heads.vqa.map(|_| heads::Vqa::new(&find)),
            rank: config.heads.rank.then(|| find.linear("rank_output")),
            config,
            parameters,
            compute: Compute::default(),
        }
    }

    /// Sizes and parts.
    pub fn config(&self) -> &VlcConfig {
        &self.config
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// How to compute with it: what its tapes are made with.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Chooses how to compute with it; f32 at first.
    pub fn set_compute(&mut self, compute: Compute) {
        self.compute = compute;
    }

    /// The weights, to be changed.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Reads captions and pictures together, pair by pair: embeddings, all blocks, final norm.
    ///
    /// Pairs that show the same picture (the same memory for its values and for its visible patches) share the work of
    /// embedding it.
    ///
    /// `dropout` is the key of the text embedding's dropout, `None` outside training.
    ///
    /// # Panics
    /// If a text is longer than `max_text_len`, a token id is outside the vocabulary or a picture has another size.
    pub fn encode(&self, tape: &Tape, sequences: &[Sequence], dropout: Option<[u64; 4]>) -> Encoded {
        self.encode_tracing(tape, sequences, dropout, &mut |_, _| ())
    }

    /// As [`Vlc::encode`]; `trace` sees each intermediate with its name (`text_embeddings`, `block0`, …).
    pub fn encode_tracing(
        &self,
        tape: &Tape,
        sequences: &[Sequence],
        dropout: Option<[u64; 4]>,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> Encoded {
        let (features, offsets, text_lengths) = self.run(tape, sequences, dropout, Wanted::All, trace);
        Encoded {
            features,
            offsets,
            text_lengths,
        }
    }

    /// Reads captions and pictures together, as [`Vlc::encode`], for an answer about each pair: `tanh` of a linear map of its
    /// first token, `[sequences.len(), width]`. The last block computes nothing else.
    ///
    /// # Panics
    /// As [`Vlc::encode`], and if a text is empty.
    pub fn read(&self, tape: &Tape, sequences: &[Sequence], dropout: Option<[u64; 4]>) -> Var {
        assert!(sequences.iter().all(|s| !s.text.is_empty()), "a text begins with [CLS]");
        let (first, ..) = self.run(tape, sequences, dropout, Wanted::First, &mut |_, _| ());
        self.pool_first(tape, &first)
    }

    /// Embeddings, all blocks, final norm; of the last block, `wanted`. Gives features, offsets and lengths of texts.
    fn run(
        &self,
        tape: &Tape,
        sequences: &[Sequence],
        dropout: Option<[u64; 4]>,
        wanted: Wanted,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> (Var, Arc<[usize]>, Vec<usize>) {
        let text = self.embed_text(tape, sequences, dropout);
        trace("text_embeddings", &text);
        let embedded = self.embed_image(tape, sequences);
        let (mut x, offsets, text_lengths) = self.pack(tape, sequences, &text, &embedded);
        let heads = self.config.backbone.heads;
        let mut varlen = Varlen::full(&offsets);
        for (i, block) in self.blocks.iter().enumerate() {
            if i + 1 == self.blocks.len() && wanted == Wanted::First {
                varlen = Varlen::prefix_queries(&offsets, sequences.iter().map(|_| 1));
            }
            let attended = block.attend(tape, &self.parameters, &x, &varlen, heads);
            x = block.mlp(tape, &self.parameters, &attended);
            trace(&format!("block{i}"), &x);
        }
        let features = self.norm.forward(tape, &self.parameters, &x, BACKBONE_EPS);
        trace("norm", &features);
        (features, offsets, text_lengths)
    }
}
