//! The masked-autoencoding decoder (He et al. 2022), on the image part of the joint encoding.

use super::blocks::{Block, Find, Linear, Norm};
use super::{BACKBONE_EPS, Encoded, Vlc};
use crate::mask::PatchMask;
use std::ops::Range;
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, Table, Varlen};
use vlct_tensor::{ParameterId, Tape, Var};

/// Parameters of the decoder.
pub(super) struct Decoder {
    embed: Linear,
    mask_token: ParameterId,
    positions: ParameterId,
    blocks: Vec<Block>,
    norm: Norm,
    predict: Linear,
}

impl Decoder {
    pub fn new(find: &Find, depth: usize) -> Self {
        Self {
            embed: find.linear("transformer.decoder_embed"),
            mask_token: find.id("transformer.mask_token"),
            positions: find.id("transformer.decoder_pos_embed"),
            blocks: (0..depth)
                .map(|i| find.block(&format!("transformer.decoder_blocks.{i}")))
                .collect(),
            norm: find.norm("transformer.decoder_norm"),
            predict: find.linear("transformer.decoder_pred"),
        }
    }
}

impl Vlc {
    /// Predicts patches of the images of the given sequences, `masks` in the same order.
    ///
    /// Returns `[Σ patches, 3·P²]`: for each image the patches that `wanted` picks from its mask, each at most once, values in
    /// the order (row, column, channel), normalised per patch. The last block computes nothing else.
    ///
    /// # Panics
    /// Panics if there is not one mask for each sequence, or a patch is wanted twice or not there.
    pub fn decode(
        &self,
        tape: &Tape,
        encoded: &Encoded,
        sequences: Range<usize>,
        masks: &[&PatchMask],
        wanted: impl Fn(&PatchMask) -> Vec<u32>,
    ) -> Var {
        assert_eq!(sequences.len(), masks.len(), "one mask per sequence");
        let (p, decoder) = (&self.parameters, &self.decoder);
        let image_rows: Vec<u32> = sequences
            .flat_map(|s| encoded.image_rows(s))
            .map(|r| r as u32)
            .collect();
        let visible = tape.rows(&encoded.features, image_rows);
        let visible = decoder.embed.forward(tape, p, &visible, None);

        // The wanted patches of an image lead its sequence: positions are in the tokens, so their order is free.
        let length = 1 + self.config.patches();
        let tokens = masks.len() * length;
        let (mut from_visible, mut from_mask) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        let (mut positions, mut counts) = (Vec::with_capacity(tokens), Vec::with_capacity(masks.len()));
        let mut start = 0;
        for mask in masks {
            let leading = wanted(mask);
            counts.push(leading.len());
            // By position: 0 is the class token.
            let mut place: Vec<bool> = vec![false; length];
            for patch in &leading {
                let taken = std::mem::replace(&mut place[1 + *patch as usize], true);
                assert!(!taken, "patch {patch} is wanted twice");
            }
            let rest = (0..length as u32).filter(|position| !place[*position as usize]);
            for position in leading.iter().map(|patch| patch + 1).chain(rest) {
                let kept = match position.checked_sub(1) {
                    None => Some(0),
                    Some(patch) => {
                        let rank = mask.ids_restore[patch as usize];
                        ((rank as usize) < mask.kept.len()).then_some(1 + rank)
                    }
                };
                from_visible.push(kept.map_or(NONE, |row| start + row));
                from_mask.push(if kept.is_some() { NONE } else { 0 });
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
        // Frees their memory before the blocks allocate.
        drop((visible, restored));
        let mut varlen = Varlen::full(&offsets);
        for (i, block) in decoder.blocks.iter().enumerate() {
            if i + 1 == decoder.blocks.len() {
                varlen = Varlen::prefix_queries(&offsets, counts.iter().copied());
            }
            x = block.attend(tape, p, &x, &varlen, heads);
            x = block.mlp(tape, p, &x);
        }
        let x = decoder.norm.forward(tape, p, &x, BACKBONE_EPS);
        decoder.predict.forward(tape, p, &x, None)
    }
}
