//! The masked-autoencoding decoder (He et al. 2022), on the image part of the joint encoding.

use super::blocks::{Block, Find, Linear, Norm};
use super::{BACKBONE_EPS, Encoded, Vlc};
use crate::mask::PatchMask;
use std::ops::Range;
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, Queries, Table};
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
    /// Predicts patches of the pictures of the named sequences, `masks` in the same order.
    ///
    /// Gives `[Σ patches, 3·P²]`, for each picture the patches that `wanted` picks from its mask, values in the order
    /// (row, column, channel), normalised per patch.
    ///
    /// # Panics
    /// If there is not one mask for each sequence.
    pub fn decode(
        &self,
        tape: &Tape,
        encoded: &Encoded,
        sequences: Range<usize>,
        masks: &[PatchMask],
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

        let length = 1 + self.config.patches();
        let tokens = masks.len() * length;
        let (mut from_visible, mut from_mask) = (vec![NONE; tokens], vec![NONE; tokens]);
        let mut start = 0;
        for (i, mask) in masks.iter().enumerate() {
            let row = i * length;
            from_visible[row] = start;
            for (patch, position) in mask.ids_restore.iter().enumerate() {
                if (*position as usize) < mask.kept.len() {
                    from_visible[row + 1 + patch] = start + 1 + position;
                } else {
                    from_mask[row + 1 + patch] = 0;
                }
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
        let positions: Arc<[u32]> = (0..tokens).map(|i| (i % length) as u32).collect();
        let table = tape.parameter(p, decoder.positions);
        let mut x = tape.lookup(
            Some(&restored),
            &[Table {
                table: &table,
                rows: positions,
                frozen_row: None,
            }],
        );
        let offsets: Arc<[usize]> = (0..=masks.len()).map(|i| i * length).collect();
        let heads = self.config.backbone.decoder_heads;
        let rows: Vec<u32> = masks
            .iter()
            .enumerate()
            .flat_map(|(i, m)| wanted(m).into_iter().map(move |patch| (i * length) as u32 + 1 + patch))
            .collect();
        // Not needed while the blocks take their memory.
        drop((visible, restored));
        for (i, block) in decoder.blocks.iter().enumerate() {
            x = block.attend(tape, p, &x, &offsets, heads, Queries::All);
            if i + 1 == decoder.blocks.len() {
                // From here on every token is by itself.
                x = tape.rows(&x, rows.as_slice());
            }
            x = block.mlp(tape, p, &x);
        }
        let x = decoder.norm.forward(tape, p, &x, BACKBONE_EPS);
        decoder.predict.forward(tape, p, &x, None)
    }
}
