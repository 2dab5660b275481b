//! VLC: one transformer over text tokens and image patches (arXiv 2205.09256, section 3).

mod blocks;
mod decoder;
mod embed;
mod heads;
mod load;
mod matching;
#[cfg(test)]
mod tests;

use crate::config::VlcConfig;
use crate::inputs::{Inputs, Sequence};
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

/// The tokens that the last block computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// All tokens.
    All,
    /// The first of each sequence.
    First,
}

/// The output of the encoder: one packed matrix and the rows of each sequence in it.
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
        let compute = Compute::default();
        let parameters = Parameters::new(config.parameters(), compute.device);
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
            compute,
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

    /// Number format and recomputation, with which tapes for this model are made.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Sets number format and recomputation; a new model computes in f32.
    pub fn set_compute(&mut self, compute: Compute) {
        self.compute = compute;
    }

    /// The weights, to be changed.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Encodes texts and images together, sequence by sequence: embeddings, all blocks, final norm.
    ///
    /// Sequences without a mask that index the same image share the work of embedding it.
    ///
    /// `dropout` is the key of the text embedding's dropout, `None` outside training.
    ///
    /// # Panics
    /// Panics if a text is longer than `max_text_len`, a token id is outside the vocabulary, an image has another size or an index is
    /// not in its pool.
    pub fn encode(&self, tape: &Tape, inputs: &Inputs, dropout: Option<[u64; 4]>) -> Encoded {
        self.encode_tracing(tape, inputs, dropout, &mut |_, _| ())
    }

    /// As [`Vlc::encode`]; `trace` sees each intermediate with its name (`text_embeddings`, `block0`, …, `norm`).
    pub fn encode_tracing(
        &self,
        tape: &Tape,
        inputs: &Inputs,
        dropout: Option<[u64; 4]>,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> Encoded {
        let (features, offsets, text_lengths) = self.run(tape, inputs, dropout, Wanted::All, trace);
        Encoded {
            features,
            offsets,
            text_lengths,
        }
    }

    /// Encodes texts and images together, as [`Vlc::encode`], for a prediction per sequence: `tanh` of a linear map of the
    /// first token, `[sequences, width]`. The last block computes nothing else.
    ///
    /// # Panics
    /// As [`Vlc::encode`], and if a sequence has no token.
    pub fn encode_pooled(&self, tape: &Tape, inputs: &Inputs, dropout: Option<[u64; 4]>) -> Var {
        let has_token = |s: &Sequence| s.image.is_some() || !inputs.text(s).is_empty();
        assert!(inputs.sequences.iter().all(has_token), "a sequence without a token");
        let (first, ..) = self.run(tape, inputs, dropout, Wanted::First, &mut |_, _| ());
        self.pool_first(tape, &first)
    }

    /// Embeddings, all blocks, final norm; of the last block, the `wanted` rows. Returns features, offsets and text lengths.
    fn run(
        &self,
        tape: &Tape,
        inputs: &Inputs,
        dropout: Option<[u64; 4]>,
        wanted: Wanted,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> (Var, Arc<[usize]>, Vec<usize>) {
        let text = self.embed_text(tape, inputs, dropout);
        trace("text_embeddings", &text);
        let patches = self.embed_images(tape, inputs);
        let (mut x, offsets, text_lengths) = self.pack(tape, inputs, &text, &patches);
        let heads = self.config.backbone.heads;
        let mut varlen = Varlen::full(&offsets);
        for (i, block) in self.blocks.iter().enumerate() {
            if i + 1 == self.blocks.len() && wanted == Wanted::First {
                varlen = Varlen::prefix_queries(&offsets, inputs.sequences.iter().map(|_| 1));
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
