//! Embedding of texts (as in BERT) and images (linear patch projection), and packing of both into one matrix of sequences.

use super::{PackedRows, Vlc};
use crate::blocks::{Norm, ParameterIds};
use crate::config::Positions;
use crate::inputs::{Inputs, Sequence};
use crate::position;
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, SparseMatrix, Table};
use vlct_tensor::tensor::Order;
use vlct_tensor::{ParameterId, Planes, Tape, Var};

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

/// The interpolations of a learned position table to the grids of a batch's images.
struct Interpolation {
    /// Number of patches per side of the table.
    table_grid: usize,
    /// The grids other than that of the table, each with the first row of its positions.
    grids: Vec<([usize; 2], u32)>,
    rows: u32,
}

impl Interpolation {
    fn new(table_grid: usize) -> Self {
        Self {
            table_grid,
            grids: Vec::new(),
            rows: 0,
        }
    }

    /// Returns the first row of the positions of a grid; `None` if the grid is that of the table.
    fn first_row(&mut self, grid: [usize; 2]) -> Option<u32> {
        if grid == [self.table_grid; 2] {
            return None;
        }
        if let Some((_, first)) = self.grids.iter().find(|(known, _)| *known == grid) {
            return Some(*first);
        }
        let first = self.rows;
        self.grids.push((grid, first));
        self.rows += (grid[0] * grid[1]) as u32;
        Some(first)
    }

    /// Returns the positions of all grids, `[rows, width]`; `None` if there is none.
    fn apply(self, tape: &Tape, table: &Var) -> Option<Var> {
        let rows = self
            .grids
            .iter()
            .flat_map(|(grid, _)| position::bilinear(self.table_grid, *grid));
        let matrix = (self.rows > 0).then(|| SparseMatrix::from_rows(table.rows(), rows));
        matrix.map(|matrix| tape.sparse_product(matrix, table))
    }
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
        let normed = self
            .text
            .norm
            .forward(tape, p, &sum, self.config.variant.text_layer_norm_eps);
        match dropout {
            Some(key) if self.config.drop_rate > 0.0 => tape.dropout(&normed, self.config.drop_rate, key),
            _ => normed,
        }
    }

    /// Returns the projections of the visible patches of all sequences, without position embeddings. If several sequences contain
    /// an image without a mask, its patches are projected once.
    pub(super) fn project_patches(&self, tape: &Tape, inputs: &Inputs) -> Patches {
        let grids: Vec<[usize; 2]> = inputs.images.iter().map(|image| self.grid_of(*image)).collect();
        let most = grids.iter().map(|[rows, columns]| rows * columns).max();
        let all_patches: Vec<u32> = (0..most.unwrap_or(0) as u32).collect();
        // Images and the indices of their patches to project. An image may occur several times.
        let mut selected: Vec<(Planes, &[u32])> = Vec::new();
        // First row of each image whose patches are all projected.
        let mut unmasked_starts: Vec<Option<u32>> = vec![None; inputs.images.len()];
        let mut rows = 0;
        let mut starts = Vec::with_capacity(inputs.sequences.len());
        for sequence in inputs.sequences {
            let Some(image) = sequence.image.map(|image| image as usize) else {
                starts.push(rows);
                continue;
            };
            let [rows_of_grid, columns] = grids[image];
            let all = &all_patches[..rows_of_grid * columns];
            let kept = sequence.mask.as_ref().map_or(all, |mask| &mask.kept);
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
        let side = self.config.backbone.patch_size;
        let patches = Var::constant(tape.device().patches(&selected, side, Order::ChannelFirst));
        Patches {
            projected: self.image.projection.forward(tape, &self.parameters, &patches, None),
            starts,
        }
    }

    /// Returns the number of patches per column and per row of an image.
    ///
    /// # Panics
    /// Panics if the image does not consist of whole patches or, with a fixed position table, is not the square of the table.
    fn grid_of(&self, image: Planes) -> [usize; 2] {
        let side = self.config.backbone.patch_size;
        let (height, width) = (image.height, image.width);
        assert!(
            height.is_multiple_of(side) && width.is_multiple_of(side),
            "an image of {width} × {height} pixels does not consist of patches of {side} × {side} pixels"
        );
        let grid = image.grid(side);
        let square = [self.config.grid(); 2];
        assert!(
            self.config.variant.positions == Positions::Learned || grid == square,
            "an image of {width} × {height} pixels, but the position table is that of another size"
        );
        grid
    }

    /// Packs text and image tokens into one matrix, sequence by sequence, and adds the embeddings of position (image tokens only)
    /// and modality.
    pub(super) fn pack(&self, tape: &Tape, inputs: &Inputs, text: &Var, patches: &Patches) -> PackedRows {
        let p = &self.parameters;
        let grid = |s: &Sequence| s.image.map(|image| self.grid_of(inputs.images[image as usize]));
        let kept = |s: &Sequence| match (&s.mask, grid(s)) {
            (Some(mask), _) => mask.kept.len(),
            (None, grid) => grid.map_or(0, |[rows, columns]| rows * columns),
        };
        let image_tokens = |s: &Sequence| s.image.map_or(0, |_| 1 + kept(s));
        let text_lengths: Vec<usize> = inputs.sequences.iter().map(|s| inputs.text(s).len()).collect();
        let tokens = text_lengths.iter().sum::<usize>() + inputs.sequences.iter().map(image_tokens).sum::<usize>();
        let [
            mut from_text,
            mut from_patches,
            mut from_class,
            mut positions,
            mut interpolated,
        ] = std::array::from_fn(|_| vec![NONE; tokens]);
        let mut interpolation = Interpolation::new(self.config.grid());
        let mut types = vec![0u32; tokens];
        let (mut row, mut text_row) = (0, 0);
        let mut offsets = vec![0];
        for ((s, first_patch), text_length) in inputs.sequences.iter().zip(&patches.starts).zip(&text_lengths) {
            for _ in 0..*text_length {
                from_text[row] = text_row;
                (row, text_row) = (row + 1, text_row + 1);
            }
            if let Some(grid) = grid(s) {
                let kept = kept(s);
                let first_interpolated = interpolation.first_row(grid);
                types[row..row + 1 + kept].fill(s.token_type);
                (from_class[row], positions[row]) = (0, 0);
                row += 1;
                for i in 0..kept {
                    from_patches[row] = first_patch + i as u32;
                    let patch = s.mask.as_ref().map_or(i as u32, |mask| mask.kept[i]);
                    match first_interpolated {
                        None => positions[row] = 1 + patch,
                        Some(first) => interpolated[row] = first + patch,
                    }
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
        let interpolated_table = interpolation.apply(tape, &position_table);
        let table = |table, rows: Vec<u32>| Table {
            table,
            rows: rows.into(),
            frozen_row: None,
        };
        let mut tables = vec![table(&position_table, positions)];
        tables.extend(interpolated_table.as_ref().map(|var| table(var, interpolated)));
        tables.push(table(&type_table, types));
        let x = tape.lookup(Some(&joined), &tables);
        PackedRows {
            x,
            offsets: offsets.into(),
            text_lengths,
        }
    }
}
