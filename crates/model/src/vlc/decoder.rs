//! The decoder of masked autoencoding (He et al. 2022). Its input is the image part of the encoder's output.

use super::{Encoded, Vlc};
use crate::blocks::{Block, Linear, Norm, ParameterIds};
use crate::mask::PatchMask;
use std::ops::Range;
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, Table, Varlen};
use vlct_tensor::{ParameterId, Tape, Var};

/// Parameters of the decoder.
pub(super) struct Decoder {
    embedding: Linear,
    mask_token: ParameterId,
    positions: ParameterId,
    blocks: Vec<Block>,
    norm: Norm,
    prediction: Linear,
}

impl Decoder {
    pub fn new(ids: &ParameterIds, depth: usize, eps: f32) -> Self {
        Self {
            embedding: ids.linear("transformer.decoder_embed"),
            mask_token: ids.id("transformer.mask_token"),
            positions: ids.id("transformer.decoder_pos_embed"),
            blocks: (0..depth)
                .map(|i| ids.block(&format!("transformer.decoder_blocks.{i}"), eps))
                .collect(),
            norm: ids.norm("transformer.decoder_norm"),
            prediction: ids.linear("transformer.decoder_pred"),
        }
    }
}

impl Vlc {
    /// Predicts patches of the images of `sequences`; `masks` has one mask per sequence.
    ///
    /// `select` returns the patches to predict in an image, given the mask of the image. The result is `[Σ selected patches, 3·P²]`, image
    /// by image, with the patches in the order of `select` and values in the order (row, column, channel). The values predict patches
    /// that are normalised to mean 0 and variance 1. The last block computes only the selected tokens.
    ///
    /// # Panics
    /// Panics if the model has no decoder, the numbers of masks and sequences differ, or `select` returns a patch twice or an index that is
    /// out of range.
    pub fn decode(
        &self,
        tape: &Tape,
        encoded: &Encoded,
        sequences: Range<usize>,
        masks: &[&PatchMask],
        select: impl Fn(&PatchMask) -> Vec<u32>,
    ) -> Var {
        assert_eq!(sequences.len(), masks.len(), "one mask per sequence");
        let decoder = self
            .decoder
            .as_ref()
            .unwrap_or_else(|| panic!("the model has no decoder"));
        let p = &self.parameters;
        let image_rows: Vec<u32> = sequences
            .flat_map(|s| encoded.image_rows(s))
            .map(|r| r as u32)
            .collect();
        let visible = tape.rows(&encoded.features, image_rows);
        let visible = decoder.embedding.forward(tape, p, &visible, None);

        // The selected patches come first in the sequence of their image, so that they are a prefix of its queries. Position
        // embeddings are added to the tokens, so the order of tokens does not change the result.
        let length = 1 + self.config.patches();
        let tokens = masks.len() * length;
        let (mut from_visible, mut from_mask) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut positions, mut selected_counts) = (Vec::with_capacity(tokens), Vec::with_capacity(masks.len()));
        let mut start = 0;
        for mask in masks {
            let selected = select(mask);
            selected_counts.push(selected.len());
            // Indexed by position; position 0 is the class token.
            let mut is_selected: Vec<bool> = vec![false; length];
            for patch in &selected {
                let is_repeated = std::mem::replace(&mut is_selected[1 + *patch as usize], true);
                assert!(!is_repeated, "patch {patch} is selected twice");
            }
            let rest = (0..length as u32).filter(|position| !is_selected[*position as usize]);
            for position in selected.iter().map(|patch| patch + 1).chain(rest) {
                // Row among the visible tokens of the image; `None` for a masked patch.
                let visible_row = match position.checked_sub(1) {
                    None => Some(0),
                    Some(patch) => {
                        let index = mask.ids_restore[patch as usize];
                        ((index as usize) < mask.kept.len()).then_some(1 + index)
                    }
                };
                from_visible.push(visible_row.map_or(NONE, |row| start + row));
                from_mask.push(if visible_row.is_some() { NONE } else { 0 });
                positions.push(position);
            }
            start += 1 + mask.kept.len() as u32;
        }
        let mask_token = tape.parameter(p, decoder.mask_token);
        let restored = tape.gather(&[
            Pick {
                from: &visible,
                rows: from_visible.into(),
            },
            Pick {
                from: &mask_token,
                rows: from_mask.into(),
            },
        ]);
        let table = tape.parameter(p, decoder.positions);
        let mut x = tape.lookup(
            Some(&restored),
            &[Table {
                table: &table,
                rows: positions.into(),
                frozen_row: None,
            }],
        );
        let offsets: Arc<[usize]> = (0..=masks.len()).map(|i| i * length).collect();
        let heads = self.config.backbone.decoder_heads;
        // Frees the memory of these two tensors before the blocks allocate.
        drop((visible, restored));
        let mut varlen = Varlen::full(&offsets);
        for (i, block) in decoder.blocks.iter().enumerate() {
            if i + 1 == decoder.blocks.len() {
                varlen = Varlen::prefix_queries(&offsets, selected_counts.iter().copied());
            }
            x = block.attend(tape, p, &x, &varlen, heads);
            x = block.mlp(tape, p, &x);
        }
        let x = decoder.norm.forward(tape, p, &x, self.config.variant.layer_norm_eps);
        decoder.prediction.forward(tape, p, &x, None)
    }
}
