//! Embedding of texts (as in BERT) and images (linear patch projection), and packing of both into one matrix of sequences.

use super::{PackedRows, Vlc};
use crate::blocks::{Norm, ParameterIds};
use crate::inputs::{Inputs, Sequence};
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, Table};
use vlct_tensor::tensor::Order;
use vlct_tensor::{ParameterId, Tape, Var};

/// ε of BERT's layer norms.
const TEXT_EPS: f32 = 1e-12;

/// Row of the padding token in the word table. It gets no gradient, as with PyTorch's `padding_idx`.
const PAD: u32 = 0;

/// Parameters of the text embedding.
pub(super) struct TextEmbedding {
    words: ParameterId,
    positions: ParameterId,
    types: ParameterId,
    norm: Norm,
}

impl TextEmbedding {
    pub fn new(ids: &ParameterIds) -> Self {
        Self {
            words: ids.id("text_embeddings.word_embeddings.weight"),
            positions: ids.id("text_embeddings.position_embeddings.weight"),
            types: ids.id("text_embeddings.token_type_embeddings.weight"),
            norm: ids.norm("text_embeddings.LayerNorm"),
        }
    }
}

/// Projected visible patches of all images of a batch.
pub(super) struct Patches {
    /// `[patches, width]`, image after image.
    pub projected: Var,
    /// Row of each sequence's first patch in `projected`.
    starts: Vec<u32>,
}

impl Vlc {
    /// Returns the token embeddings of the texts of all sequences, concatenated: word + type 0 + position, layer norm, dropout.
    pub(super) fn embed_text(&self, tape: &Tape, inputs: &Inputs, dropout: Option<[u64; 4]>) -> Var {
        let p = &self.parameters;
        let texts = || inputs.sequences.iter().map(|s| inputs.text(s));
        let words: Arc<[u32]> = texts().flatten().copied().collect();
        let positions: Arc<[u32]> = texts().flat_map(|text| 0..text.len() as u32).collect();
        let types: Arc<[u32]> = vec![0; words.len()].into();
        let (word_table, type_table, position_table) = (
            tape.parameter(p, self.text.words),
            tape.parameter(p, self.text.types),
            tape.parameter(p, self.text.positions),
        );
        let sum = tape.lookup(
            None,
            &[
                Table {
                    table: &word_table,
                    rows: words,
                    frozen_row: Some(PAD),
                },
                Table {
                    table: &type_table,
                    rows: types,
                    frozen_row: None,
                },
                Table {
                    table: &position_table,
                    rows: positions,
                    frozen_row: None,
                },
            ],
        );
        let normed = self.text.norm.forward(tape, p, &sum, TEXT_EPS);
        match dropout {
            Some(key) if self.config.drop_rate > 0.0 => tape.dropout(&normed, self.config.drop_rate, key),
            _ => normed,
        }
    }

    /// Returns the projections of the visible patches of all sequences, without position embeddings. If several sequences contain
    /// an image without a mask, its patches are projected once.
    pub(super) fn project_patches(&self, tape: &Tape, inputs: &Inputs) -> Patches {
        let all_patches: Vec<u32> = (0..self.config.patches() as u32).collect();
        // Images and the indices of their patches to project. An image may occur several times.
        let mut selected: Vec<(&[f32], &[u32])> = Vec::new();
        // First row of each image whose patches are all projected.
        let mut unmasked_starts: Vec<Option<u32>> = vec![None; inputs.images.len()];
        let mut rows = 0;
        let mut starts = Vec::with_capacity(inputs.sequences.len());
        for sequence in inputs.sequences {
            let Some(image) = sequence.image.map(|image| image as usize) else {
                starts.push(rows);
                continue;
            };
            let kept = sequence.mask.as_ref().map_or(all_patches.as_slice(), |mask| &mask.kept);
            // Appends the kept patches and returns their first row.
            let mut push = || {
                selected.push((inputs.images[image], kept));
                rows += kept.len() as u32;
                rows - kept.len() as u32
            };
            starts.push(match &sequence.mask {
                Some(_) => push(),
                None => *unmasked_starts[image].get_or_insert_with(push),
            });
        }
        let (size, side) = (self.config.image_size, self.config.backbone.patch_size);
        let patches = Var::constant(tape.device().patches(&selected, size, side, Order::ChannelFirst));
        Patches {
            projected: self.image.projection.forward(tape, &self.parameters, &patches, None),
            starts,
        }
    }

    /// Packs text and image tokens into one matrix, sequence by sequence, and adds the embeddings of position (image tokens only)
    /// and modality.
    pub(super) fn pack(&self, tape: &Tape, inputs: &Inputs, text: &Var, patches: &Patches) -> PackedRows {
        let p = &self.parameters;
        let kept = |s: &Sequence| s.mask.as_ref().map_or(self.config.patches(), |mask| mask.kept.len());
        let image_tokens = |s: &Sequence| s.image.map_or(0, |_| 1 + kept(s));
        let text_lengths: Vec<usize> = inputs.sequences.iter().map(|s| inputs.text(s).len()).collect();
        let tokens = text_lengths.iter().sum::<usize>() + inputs.sequences.iter().map(image_tokens).sum::<usize>();
        let [mut from_text, mut from_patches, mut from_class, mut positions] =
            std::array::from_fn(|_| vec![NONE; tokens]);
        let mut types = vec![0u32; tokens];
        let (mut row, mut text_row) = (0, 0);
        let mut offsets = vec![0];
        for ((s, first_patch), text_length) in inputs.sequences.iter().zip(&patches.starts).zip(&text_lengths) {
            for _ in 0..*text_length {
                from_text[row] = text_row;
                (row, text_row) = (row + 1, text_row + 1);
            }
            if s.image.is_some() {
                let kept = kept(s);
                types[row..row + 1 + kept].fill(s.token_type);
                (from_class[row], positions[row]) = (0, 0);
                row += 1;
                for i in 0..kept {
                    from_patches[row] = first_patch + i as u32;
                    positions[row] = 1 + s.mask.as_ref().map_or(i as u32, |mask| mask.kept[i]);
                    row += 1;
                }
            }
            offsets.push(row);
        }
        let class_token = tape.parameter(p, self.image.class_token);
        let joined = tape.gather(&[
            Pick {
                from: text,
                rows: from_text.into(),
            },
            Pick {
                from: &patches.projected,
                rows: from_patches.into(),
            },
            Pick {
                from: &class_token,
                rows: from_class.into(),
            },
        ]);
        let (position_table, type_table) = (
            tape.parameter(p, self.image.positions),
            tape.parameter(p, self.token_types),
        );
        let x = tape.lookup(
            Some(&joined),
            &[
                Table {
                    table: &position_table,
                    rows: positions.into(),
                    frozen_row: None,
                },
                Table {
                    table: &type_table,
                    rows: types.into(),
                    frozen_row: None,
                },
            ],
        );
        PackedRows {
            x,
            offsets: offsets.into(),
            text_lengths,
        }
    }
}
