//! VLC: one transformer over text tokens and image patches (arXiv 2205.09256, section 3).

mod decoder;
mod embed;
mod heads;
mod load;
mod pairs;
#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;

use crate::blocks::{Block, ImageEmbedding, Linear, Norm, ParameterIds};
use crate::config::VlcConfig;
use crate::files::BACKBONE_PREFIX;
use crate::inputs::{Inputs, Sequence};
use std::ops::Range;
use std::sync::Arc;
use vlct_tensor::ops::{Projections, Varlen};
use vlct_tensor::{Compute, ParameterId, Parameters, Tape, Var};

pub use pairs::EmbeddedRows;

/// A VLC model: its sizes, its weights and the layers that use them.
pub struct Vlc {
    config: VlcConfig,
    parameters: Parameters,
    compute: Compute,
    text: embed::TextEmbedding,
    image: ImageEmbedding,
    token_types: ParameterId,
    blocks: Vec<Block>,
    norm: Norm,
    decoder: Option<decoder::Decoder>,
    pooler: Linear,
    mlm: Option<heads::Mlm>,
    itm: Option<Linear>,
    vqa: Option<heads::Classifier>,
    nlvr2: Option<heads::Classifier>,
    labels: Option<heads::Classifier>,
    rank: Option<Linear>,
}

/// The tokens that the last block computes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OutputTokens {
    /// All tokens.
    All,
    /// The first token of each sequence.
    First,
}

/// The input of the first block: the embedded tokens of all sequences, in one matrix.
struct PackedRows {
    /// `[tokens, width]`, sequence by sequence.
    x: Var,
    /// First row of each sequence, followed by the total number of rows.
    offsets: Arc<[usize]>,
    /// Number of text tokens of each sequence.
    text_lengths: Vec<usize>,
}

/// The output of the encoder: one packed matrix, and the range of rows of each sequence.
pub struct Encoded {
    /// `[tokens, width]`, sequence by sequence: text tokens, then image tokens (class token first).
    pub features: Var,
    /// First row of each sequence, followed by the total number of rows.
    pub offsets: Arc<[usize]>,
    text_lengths: Vec<usize>,
}

impl Encoded {
    /// Returns the rows of a sequence's text tokens.
    pub fn text_rows(&self, sequence: usize) -> Range<usize> {
        let start = self.offsets[sequence];
        start..start + self.text_lengths[sequence]
    }

    /// Returns the rows of a sequence's image tokens, class token first.
    pub fn image_rows(&self, sequence: usize) -> Range<usize> {
        self.offsets[sequence] + self.text_lengths[sequence]..self.offsets[sequence + 1]
    }
}

impl Vlc {
    /// Makes a model whose weights are all zero; see [`crate::initialise`].
    pub fn new(config: VlcConfig) -> Self {
        let parameters = Parameters::new(config.parameters(), Compute::default().device);
        Self::with_parameters(config, parameters)
    }

    /// Makes a model of parameters that `config` declares.
    fn with_parameters(config: VlcConfig, parameters: Parameters) -> Self {
        let ids = ParameterIds(&parameters);
        let backbone = &config.backbone;
        Self {
            text: embed::TextEmbedding::new(&ids),
            image: ImageEmbedding::new(&ids, BACKBONE_PREFIX),
            token_types: ids.id("token_type_embeddings.weight"),
            blocks: (0..backbone.depth)
                .map(|i| ids.block(&format!("transformer.blocks.{i}"), config.variant.layer_norm_eps))
                .collect(),
            norm: ids.norm("transformer.norm"),
            decoder: config
                .has_decoder()
                .then(|| decoder::Decoder::new(&ids, backbone.decoder_depth, config.variant.layer_norm_eps)),
            pooler: ids.linear("pooler.dense"),
            mlm: config.heads.mlm.then(|| heads::Mlm::new(&ids)),
            itm: config.heads.itm.then(|| ids.linear("itm_score.fc")),
            vqa: config.heads.vqa.map(|_| heads::Classifier::new(&ids, "vqa_classifier")),
            nlvr2: config
                .heads
                .nlvr2
                .then(|| heads::Classifier::new(&ids, "nlvr2_classifier")),
            labels: config
                .heads
                .labels
                .map(|_| heads::Classifier::new(&ids, "labels_classifier")),
            rank: config.heads.rank.then(|| ids.linear("rank_output")),
            config,
            parameters,
            compute: Compute::default(),
        }
    }

    /// Returns the sizes and heads.
    pub fn config(&self) -> &VlcConfig {
        &self.config
    }

    /// Returns the weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the number format and other settings for tapes of this model.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Sets the device, the number format and other settings for tapes of this model, which are initially `Compute::default()`. The weights
    /// move to the device.
    ///
    /// # Panics
    /// Panics if a tape uses the weights and the device changes.
    pub fn set_compute(&mut self, compute: Compute) {
        self.parameters.move_to(compute.device);
        self.compute = compute;
    }

    /// Returns the weights for modification.
    pub fn parameters_mut(&mut self) -> &mut Parameters {
        &mut self.parameters
    }

    /// Encodes sequences of texts and images: embeddings, all blocks, final norm.
    ///
    /// `dropout` is the key of the random generator for dropout of the text embedding; `None` disables dropout.
    ///
    /// # Panics
    /// Panics if a text is longer than `max_text_len`, a token id is not less than `vocab_size`, an image does not consist of whole
    /// patches or, with a fixed position table, does not have the side `image_size`, or an index of a sequence is out of range.
    pub fn encode(&self, tape: &Tape, inputs: &Inputs, dropout: Option<[u64; 4]>) -> Encoded {
        self.encode_tracing(tape, inputs, dropout, &mut |_, _| ())
    }

    /// Computes the same as [`Vlc::encode`] and calls `trace` with the name and value of each intermediate result (`text_embeddings`,
    /// `block0`, …, `norm`).
    pub fn encode_tracing(
        &self,
        tape: &Tape,
        inputs: &Inputs,
        dropout: Option<[u64; 4]>,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> Encoded {
        let packed = self.embed(tape, inputs, dropout, trace);
        let features = self.encode_rows(tape, &packed.x, &packed.offsets, None, OutputTokens::All, trace);
        Encoded {
            features,
            offsets: packed.offsets,
            text_lengths: packed.text_lengths,
        }
    }

    /// Encodes sequences as [`Vlc::encode`] and pools them as [`Vlc::pool`]: `[sequences, width]`. The last block computes only
    /// the first token of each sequence.
    ///
    /// # Panics
    /// Panics under the conditions of [`Vlc::encode`], and if a sequence has no token.
    pub fn encode_pooled(&self, tape: &Tape, inputs: &Inputs, dropout: Option<[u64; 4]>) -> Var {
        let has_token = |s: &Sequence| s.image.is_some() || !inputs.text(s).is_empty();
        assert!(inputs.sequences.iter().all(has_token), "a sequence without a token");
        let packed = self.embed(tape, inputs, dropout, &mut |_, _| ());
        let output = OutputTokens::First;
        let first = self.encode_rows(tape, &packed.x, &packed.offsets, None, output, &mut |_, _| ());
        self.pool_first(tape, &first)
    }

    /// Embeds the tokens of all sequences.
    fn embed(
        &self,
        tape: &Tape,
        inputs: &Inputs,
        dropout: Option<[u64; 4]>,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> PackedRows {
        let text = self.embed_text(tape, inputs, dropout);
        trace("text_embeddings", &text);
        let patches = self.project_patches(tape, inputs);
        self.pack(tape, inputs, &text, &patches)
    }

    /// Computes all blocks and the final norm of embedded sequences `x [tokens, width]`. Returns the features of the `output` tokens.
    /// `projections` are the queries, keys and values of the first block, if they are known.
    fn encode_rows(
        &self,
        tape: &Tape,
        x: &Var,
        offsets: &Arc<[usize]>,
        mut projections: Option<Projections>,
        output: OutputTokens,
        trace: &mut dyn FnMut(&str, &Var),
    ) -> Var {
        let (p, heads) = (&self.parameters, self.config.backbone.heads);
        let mut x = x.clone();
        let mut varlen = Varlen::full(offsets);
        for (i, block) in self.blocks.iter().enumerate() {
            if i + 1 == self.blocks.len() && output == OutputTokens::First {
                varlen = Varlen::prefix_queries(offsets, offsets.windows(2).map(|_| 1));
            }
            let attended = match projections.take() {
                Some(projections) => block.attend_to_projections(tape, p, &x, &projections, &varlen, heads),
                None => block.attend(tape, p, &x, &varlen, heads),
            };
            x = block.mlp(tape, p, &attended);
            trace(&format!("block{i}"), &x);
        }
        let features = self.norm.forward(tape, p, &x, self.config.variant.layer_norm_eps);
        trace("norm", &features);
        features
    }
}
