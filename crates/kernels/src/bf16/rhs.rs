//! The rhs of a product, and its packing.

use super::blocks::{self, BLOCK, Blocks, PAIRS, SIDE};
use super::engine::assert_supported;
use super::number::Bf16;
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::ops::Range;

/// `kc` in k-blocks: 256 inner elements, so that a panel of 32 rows of lhs (16 KiB) stays in L1.
pub(super) const KC: usize = 8;

/// The rhs `[k, n]` of a product ([`gemm`](super::gemm::gemm)).
pub enum Rhs<'a> {
    /// The transpose of a row-major weight `[n, k]`, as in the forward pass of a linear layer.
    WeightTransposed(&'a [f32]),
    /// A row-major weight `[k, n]`, as in the input gradient of a linear layer.
    Weight(&'a [f32]),
    /// A matrix in blocks.
    Blocks(Blocks<'a>),
    /// The GELU of a matrix in blocks, computed while packing.
    Gelu(Blocks<'a>),
    /// A matrix in blocks. Packing also adds its column sums to the slice.
    WithColumnSums(Blocks<'a>, &'a mut [f32]),
    /// A packed weight.
    Packed(&'a PackedRhs),
}

/// An [`Rhs`] with its size, which the tasks of a product share.
#[derive(Clone, Copy)]
pub(super) struct RhsView<'a> {
    storage: Storage<'a>,
    k: usize,
    n: usize,
}

#[derive(Clone, Copy)]
enum Storage<'a> {
    WeightTransposed(&'a [f32]),
    Weight(&'a [f32]),
    Blocks(Blocks<'a>),
    Gelu(Blocks<'a>),
    WithColumnSums(Blocks<'a>, SharedMut<f32>),
    Packed(&'a PackedRhs),
}

/// The kind of an rhs, which determines which matrix of a product stays in L2.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RhsKind {
    /// An activation, packed once for each row of tasks.
    Activation,
    /// A weight that must be packed. Either its rows or its columns are contiguous in memory.
    Weight { has_contiguous_rows: bool },
    /// A packed weight.
    Packed,
}

impl<'a> Rhs<'a> {
    /// Checks the size of the rhs and returns a view of it.
    ///
    /// # Panics
    /// If the rhs is not `[k, n]`.
    pub(super) fn view(self, k: usize, n: usize) -> RhsView<'a> {
        let (storage, fits) = match self {
            Self::WeightTransposed(w) => (Storage::WeightTransposed(w), k.checked_mul(n) == Some(w.len())),
            Self::Weight(w) => (Storage::Weight(w), k.checked_mul(n) == Some(w.len())),
            Self::Blocks(b) => (Storage::Blocks(b), b.rows() == k && b.columns() == n),
            Self::Gelu(b) => (Storage::Gelu(b), b.rows() == k && b.columns() == n),
            Self::WithColumnSums(b, sums) => {
                let fits = b.rows() == k && b.columns() == n && sums.len() == n;
                (Storage::WithColumnSums(b, SharedMut::new(sums)), fits)
            }
            Self::Packed(p) => (Storage::Packed(p), p.k == k && p.n == n),
        };
        assert!(fits, "the rhs is not {k} × {n}");
        RhsView { storage, k, n }
    }
}

impl<'a> RhsView<'a> {
    pub fn kind(&self) -> RhsKind {
        match self.storage {
            Storage::Blocks(_) | Storage::Gelu(_) | Storage::WithColumnSums(..) => RhsKind::Activation,
            Storage::Weight(_) => RhsKind::Weight {
                has_contiguous_rows: true,
            },
            Storage::WeightTransposed(_) => RhsKind::Weight {
                has_contiguous_rows: false,
            },
            Storage::Packed(_) => RhsKind::Packed,
        }
    }

    /// Returns this rhs without column sums. Only one of the tasks with the same columns computes the sums.
    pub fn without_sums(self) -> Self {
        let storage = match self.storage {
            Storage::WithColumnSums(blocks, _) => Storage::Blocks(blocks),
            storage => storage,
        };
        Self { storage, ..self }
    }

    /// Returns the packed columns of `panels`, with all k-blocks. Packs them into `memory` unless the rhs is [`Rhs::Packed`].
    pub fn packed_panels<'m>(&self, panels: Range<usize>, memory: &'m mut [Bf16]) -> PackedPanels<'m>
    where
        'a: 'm,
    {
        if let Some(packed) = self.packed_from(panels.start) {
            return packed;
        }
        let k_blocks = self.k.div_ceil(SIDE);
        let memory = &mut memory[..panels.len() * k_blocks * BLOCK];
        for (group, out) in groups(k_blocks).zip(memory.chunks_mut(KC * panels.len() * BLOCK)) {
            self.pack(panels.clone(), group, out);
        }
        PackedPanels::new(memory, panels.len(), 0..k_blocks)
    }

    /// The packed columns from `first_panel` on, if the rhs is [`Rhs::Packed`].
    pub fn packed_from(&self, first_panel: usize) -> Option<PackedPanels<'a>> {
        match self.storage {
            Storage::Packed(packed) => Some(packed.panels(first_panel)),
            _ => None,
        }
    }

    /// Packs a group of at most [`KC`] k-blocks for the columns of `panels`.
    fn pack(&self, panels: Range<usize>, group: Range<usize>, out: &mut [Bf16]) {
        let Storage::WeightTransposed(w) = self.storage else {
            Packer::new(*self, panels, group.start).advance(usize::MAX, group, out);
            return;
        };
        for (panel, out) in panels.zip(out.chunks_exact_mut(group.len() * BLOCK)) {
            for (k_block, out) in group.clone().zip(out.chunks_exact_mut(BLOCK)) {
                let (column, row) = (panel * SIDE, k_block * SIDE);
                let (columns, rows) = (SIDE.min(self.n - column), SIDE.min(self.k - row));
                let w = w[column * self.k + row..].as_ptr();
                // SAFETY: `view` has checked that the weight is `[n, k]`; blocks are at multiples of 2 KiB of aligned memory; `PackedRhs`
                // has checked that there is an engine, or the lhs of the product has (`Blocks::new`).
                unsafe { blocks::pack_weight_transposed(w, columns, rows, self.k, out.as_mut_ptr()) };
            }
        }
    }

    /// Packs the pairs of rows `pairs` of a block.
    ///
    /// # Safety
    /// `engine()` is `Some`; the block lies in the rhs, whose rows are contiguous; `pairs` is a part of 0..16; `out` is valid for a 64-byte
    /// aligned block; no other thread adds to the sums of these columns.
    unsafe fn pack_pairs(&self, panel: usize, k_block: usize, pairs: Range<usize>, out: *mut Bf16) {
        // SAFETY: `view` has checked the size of the storage, and the block lies in it (caller). There is an engine, and
        // `pairs` and `out` are as required (caller).
        unsafe {
            match self.storage {
                Storage::Weight(w) => {
                    let (column, row) = (panel * SIDE, k_block * SIDE);
                    let (columns, rows) = (SIDE.min(self.n - column), SIDE.min(self.k - row));
                    let w = w[row * self.n + column..].as_ptr();
                    blocks::pack_weight(w, rows, columns, self.n, pairs, out);
                }
                Storage::Blocks(b) => blocks::pack_block(b.blocks_from(k_block, panel).as_ptr(), pairs, out),
                Storage::Gelu(b) => blocks::pack_gelu(b.blocks_from(k_block, panel).as_ptr(), pairs, out),
                Storage::WithColumnSums(b, sums) => {
                    let block = b.blocks_from(k_block, panel).as_ptr();
                    let columns = SIDE.min(self.n - panel * SIDE);
                    let sums = std::slice::from_raw_parts_mut(sums.ptr_at(panel * SIDE), columns);
                    blocks::add_rows(block, 2 * pairs.start..2 * pairs.end, sums);
                    blocks::pack_block(block, pairs, out);
                }
                Storage::WeightTransposed(_) | Storage::Packed(_) => {
                    unreachable!("the rows of this rhs are not contiguous")
                }
            }
        }
    }
}

/// Divides `k_blocks` k-blocks into groups of [`KC`].
fn groups(k_blocks: usize) -> impl Iterator<Item = Range<usize>> {
    (0..k_blocks)
        .step_by(KC)
        .map(move |first| first..(first + KC).min(k_blocks))
}

/// Packs an rhs with contiguous rows incrementally: k-block by k-block, and panel by panel within a k-block.
pub(super) struct Packer<'a> {
    rhs: RhsView<'a>,
    panels: Range<usize>,
    /// Number of packed pairs of rows, counted from k-block 0.
    packed_pairs: usize,
}

impl<'a> Packer<'a> {
    /// Makes a packer of these panels, from k-block `first` on.
    pub fn new(rhs: RhsView<'a>, panels: Range<usize>, first: usize) -> Self {
        let packed_pairs = first * panels.len() * PAIRS;
        Self {
            rhs,
            panels,
            packed_pairs,
        }
    }

    /// Packs the next `pairs` pairs of rows to `out`, which holds the packed blocks of `group`. Stops at the end of the group.
    pub fn advance(&mut self, pairs: usize, group: Range<usize>, out: &mut [Bf16]) {
        let end = (group.end * self.panels.len() * PAIRS).min(self.packed_pairs.saturating_add(pairs));
        while self.packed_pairs < end {
            let (block, pair) = (self.packed_pairs / PAIRS, self.packed_pairs % PAIRS);
            let (k_block, panel) = (block / self.panels.len(), block % self.panels.len());
            let pairs = pair..PAIRS.min(pair + end - self.packed_pairs);
            self.packed_pairs += pairs.len();
            let start = (panel * group.len() + k_block - group.start) * BLOCK;
            let out = out[start..][..BLOCK].as_mut_ptr();
            // SAFETY: the block lies in the rhs, and `pairs` in the block; blocks are at multiples of 2 KiB of aligned memory; only one of
            // the tasks with the same columns has an rhs with sums; the lhs of the product has found an engine (`Blocks::new`).
            unsafe { self.rhs.pack_pairs(self.panels.start + panel, k_block, pairs, out) };
        }
    }

    /// The block of an activation that will be packed after the next block, to be prefetched.
    pub fn block_after_next(&self) -> Option<&'a [Bf16]> {
        let block = self.packed_pairs / PAIRS + 2;
        let (k_block, panel) = (block / self.panels.len(), block % self.panels.len());
        match self.rhs.storage {
            Storage::Blocks(b) | Storage::Gelu(b) | Storage::WithColumnSums(b, _) if k_block < b.row_blocks() => {
                Some(b.blocks_from(k_block, self.panels.start + panel))
            }
            _ => None,
        }
    }
}

/// A packed weight, for several products.
pub struct PackedRhs {
    memory: Scratch,
    k: usize,
    n: usize,
}

impl PackedRhs {
    /// Packs the transpose of a row-major weight `[n, k]`.
    ///
    /// # Panics
    /// If the weight has another size, or the CPU has no bfloat16 engine.
    pub fn pack_transposed(weight: &[f32], n: usize, k: usize) -> Self {
        assert_supported();
        let rhs = Rhs::WeightTransposed(weight).view(k, n);
        let (panels, k_blocks) = (n.div_ceil(SIDE), k.div_ceil(SIDE));
        let mut memory = Scratch::new();
        memory
            .slice_mut::<Bf16>(panels * k_blocks * BLOCK)
            .par_chunks_mut((KC * panels * BLOCK).max(1))
            .zip(groups(k_blocks).collect::<Vec<_>>())
            .for_each(|(out, group)| rhs.pack(0..panels, group, out));
        Self { memory, k, n }
    }

    fn panels(&self, first_panel: usize) -> PackedPanels<'_> {
        PackedPanels {
            memory: self.memory.as_slice(),
            k_blocks: self.k.div_ceil(SIDE),
            panels: self.n.div_ceil(SIDE),
            first_k_block: 0,
            first_panel,
        }
    }
}

/// A view of packed columns of an rhs: groups of [`KC`] k-blocks, and in each group one panel of 32 columns after the other.
pub(super) struct PackedPanels<'a> {
    memory: &'a [Bf16],
    k_blocks: usize,
    panels: usize,
    first_k_block: usize,
    first_panel: usize,
}

impl<'a> PackedPanels<'a> {
    /// Makes a view of `panels` panels with these k-blocks. The first k-block must be the first of a group.
    pub fn new(memory: &'a [Bf16], panels: usize, k_blocks: Range<usize>) -> Self {
        Self {
            memory,
            k_blocks: k_blocks.len(),
            panels,
            first_k_block: k_blocks.start,
            first_panel: 0,
        }
    }

    /// The group of k-blocks from `k_block` on, of one panel. Panels are counted from the first panel of this view.
    pub fn group(&self, k_block: usize, panel: usize) -> &[Bf16] {
        let k_block = k_block - self.first_k_block;
        let count = KC.min(self.k_blocks - k_block);
        &self.memory[(k_block * self.panels + (self.first_panel + panel) * count) * BLOCK..][..count * BLOCK]
    }
}
