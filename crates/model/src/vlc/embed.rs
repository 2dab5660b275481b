//! Embedding of captions (BERT's layer, randomly initialised) and pictures (linear patch projection), and their packing
//! into one sequence per pair.

use super::blocks::{Find, Linear, Norm};
use super::{Picture, Sequence, Vlc};
use std::collections::HashMap;
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, Table};
use vlct_tensor::tensor::Order;
use vlct_tensor::{ParameterId, Tape, Tensor, Var};

/// ε of BERT's layer norms.
const TEXT_EPS: f32 = 1e-12;

/// The word table's padding row: read, never trained by gradient.
const PAD: u32 = 0;

/// Parameters of the text embedding.
pub(super) struct Text {
    words: ParameterId,
    positions: ParameterId,
    types: ParameterId,
    norm: Norm,
}

impl Text {
    pub fn new(find: &Find) -> Self {
        Self {
            words: find.id("text_embeddings.word_embeddings.weight"),
            positions: find.id("text_embeddings.position_embeddings.weight"),
            types: find.id("text_embeddings.token_type_embeddings.weight"),
            norm: find.norm("text_embeddings.LayerNorm"),
        }
    }
}

/// Parameters of the picture embedding.
pub(super) struct Image {
    projection: Linear,
    class_token: ParameterId,
    positions: ParameterId,
}

impl Image {
    pub fn new(find: &Find) -> Self {
        Self {
            projection: find.linear("transformer.patch_embed.proj"),
            class_token: find.id("transformer.cls_token"),
            positions: find.id("transformer.pos_embed"),
        }
    }
}

/// Projected patches of the pictures of several sequences.
pub(super) struct Patches {
    /// `[patches, width]`, picture after picture, each picture once.
    pub projected: Var,
    /// The row of each sequence's first patch.
    starts: Vec<u32>,
}

/// Where values lie and how many they are: equal for two slices if they are the same memory.
type Place = (usize, usize);

/// Equal for two pictures whose visible patches are the same memory: values are not compared, and copies count as others.
fn identity(picture: &Picture) -> (Place, Option<Place>) {
    let pixels = (picture.pixels.as_ptr() as usize, picture.pixels.len());
    (pixels, picture.kept.map(|k| (k.as_ptr() as usize, k.len())))
}

impl Vlc {
    /// Token embeddings of all texts, one after the other: word + type 0 + position, layer norm, dropout.
    pub(super) fn embed_text(&self, tape: &Tape, sequences: &[Sequence], dropout: Option<[u64; 4]>) -> Var {
        let p = &self.parameters;
        let words: Arc<[u32]> = sequences.iter().flat_map(|s| s.text).copied().collect();
        let positions: Arc<[u32]> = sequences.iter().flat_map(|s| 0..s.text.len() as u32).collect();
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

    /// Projections of the visible patches of the pictures, without positions; a picture that several sequences show is cut
    /// and projected once.
    pub(super) fn embed_image(&self, tape: &Tape, sequences: &[Sequence]) -> Patches {
        let all: Vec<u32> = (0..self.config.patches() as u32).collect();
        let mut pictures: Vec<(&[f32], &[u32])> = Vec::new();
        let (mut known, mut rows) = (HashMap::new(), 0);
        let mut starts = Vec::with_capacity(sequences.len());
        for Sequence { picture, .. } in sequences {
            let start = known.entry(identity(picture)).or_insert_with(|| {
                let kept = picture.kept.unwrap_or(&all);
                pictures.push((picture.pixels, kept));
                let start = rows;
                rows += kept.len() as u32;
                start
            });
            starts.push(*start);
        }
        let (size, side) = (self.config.image_size, self.config.backbone.patch_size);
        let patches = Var::constant(Tensor::patches(&pictures, size, side, Order::ChannelFirst));
        Patches {
            projected: self.image.projection.forward(tape, &self.parameters, &patches, None),
            starts,
        }
    }

    /// Text and image tokens in one matrix, pair by pair, with positions and modality types; the offsets of the pairs and
    /// the lengths of their texts.
    pub(super) fn pack(
        &self,
        tape: &Tape,
        sequences: &[Sequence],
        text: &Var,
        patches: &Patches,
    ) -> (Var, Arc<[usize]>, Vec<usize>) {
        let p = &self.parameters;
        let count = self.config.patches();
        let kept = |s: &Sequence| s.picture.kept.map_or(count, <[u32]>::len);
        let tokens: usize = sequences.iter().map(|s| s.text.len() + 1 + kept(s)).sum();
        let [mut from_text, mut from_patches, mut from_class, mut positions] = [0; 4].map(|_| vec![NONE; tokens]);
        let mut types = vec![0u32; tokens];
        let (mut row, mut text_row) = (0, 0);
        let mut offsets = vec![0];
        for (s, first_patch) in sequences.iter().zip(&patches.starts) {
            for _ in s.text {
                from_text[row] = text_row;
                (row, text_row) = (row + 1, text_row + 1);
            }
            let kept = kept(s);
            types[row..row + 1 + kept].fill(s.picture.token_type);
            (from_class[row], positions[row]) = (0, 0);
            row += 1;
            for i in 0..kept {
                from_patches[row] = first_patch + i as u32;
                positions[row] = 1 + s.picture.kept.map_or(i as u32, |k| k[i]);
                row += 1;
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
        (x, offsets.into(), sequences.iter().map(|s| s.text.len()).collect())
    }
}
