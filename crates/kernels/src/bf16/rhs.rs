//! Right operands: weights and matrices in blocks, brought into the steps that kernels multiply.

use super::blocks::{self, BLOCK, Blocks, PAIRS, SIDE};
use super::number::Bf16;
use super::support::assert_supported;
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::ops::Range;

/// Steps that are multiplied together: the left operand's share of them, 16 KiB, stays in the first cache.
pub(super) const GROUP: usize = 8;

/// The rhs `[k, n]` of a product ([`gemm`](super::gemm::gemm)).
pub enum Rhs<'a> {
    /// The transpose of a row-major weight `[n, k]`, as in the forward pass of a linear layer.
    WeightTransposed(&'a [f32]),
    /// A row-major weight `[k, n]`, as in the input gradient of a linear layer.
    Weight(&'a [f32]),
    /// A matrix in blocks.
    Blocks(Blocks<'a>),
    /// The GELU of a matrix in blocks, applied while it is packed.
    Gelu(Blocks<'a>),
    /// A matrix in blocks; its column sums are added to the slice while it is packed.
    WithColumnSums(Blocks<'a>, &'a mut [f32]),
    /// A weight that was packed before.
    Packed(&'a PackedRhs),
}

/// A right operand, measured, for the tasks of one product.
#[derive(Clone, Copy)]
pub(super) struct RhsView<'a> {
    form: Storage<'a>,
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

/// How the right operand decides what stays in the second cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reuse {
    /// Passes by once for each part of the result's rows.
    Matrix,
    /// Has to be packed, row by row as it lies in memory, or column by column.
    Weight { by_rows: bool },
    /// Is packed.
    Packed,
}

impl<'a> Rhs<'a> {
    /// # Panics
    /// If it is not `[k, n]`.
    pub(super) fn source(self, k: usize, n: usize) -> RhsView<'a> {
        let (form, fits) = match self {
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
        assert!(fits, "the right operand is not {k} × {n}");
        RhsView { form, k, n }
    }
}

impl<'a> RhsView<'a> {
    pub fn kind(&self) -> Reuse {
        match self.form {
            Storage::Blocks(_) | Storage::Gelu(_) | Storage::WithColumnSums(..) => Reuse::Matrix,
            Storage::Weight(_) => Reuse::Weight { by_rows: true },
            Storage::WeightTransposed(_) => Reuse::Weight { by_rows: false },
            Storage::Packed(_) => Reuse::Packed,
        }
    }

    /// The same without sums: of several parts with the same columns, one adds them up.
    pub fn unsummed(self) -> Self {
        let form = match self.form {
            Storage::WithColumnSums(blocks, _) => Storage::Blocks(blocks),
            form => form,
        };
        Self { form, ..self }
    }

    /// Its steps in the columns of `panels`, brought into form in `memory`, which has room for them, if they are not.
    pub fn pieces<'m>(&self, panels: Range<usize>, memory: &'m mut [Bf16]) -> Panels<'m>
    where
        'a: 'm,
    {
        if let Some(pieces) = self.packed(panels.start) {
            return pieces;
        }
        let depth = self.k.div_ceil(SIDE);
        let steps = &mut memory[..panels.len() * depth * BLOCK];
        for (group, out) in groups(depth).zip(steps.chunks_mut(GROUP * panels.len() * BLOCK)) {
            self.pack(panels.clone(), group, out);
        }
        Panels::new(steps, panels.len(), 0..depth)
    }

    /// Its steps in the columns from `first_panel` on, if it is in this form.
    pub fn packed(&self, first_panel: usize) -> Option<Panels<'a>> {
        match self.form {
            Storage::Packed(packed) => Some(packed.pieces(first_panel)),
            _ => None,
        }
    }

    /// Brings the steps of a group, in the columns of `panels`, into the form of [`Panels`].
    fn pack(&self, panels: Range<usize>, group: Range<usize>, out: &mut [Bf16]) {
        let Storage::WeightTransposed(w) = self.form else {
            Packer::new(*self, panels, group.start).advance(usize::MAX, group, out);
            return;
        };
        for (panel, out) in panels.zip(out.chunks_exact_mut(group.len() * BLOCK)) {
            for (step, out) in group.clone().zip(out.chunks_exact_mut(BLOCK)) {
                let (column, row) = (panel * SIDE, step * SIDE);
                let (columns, rows) = (SIDE.min(self.n - column), SIDE.min(self.k - row));
                let w = w[column * self.k + row..].as_ptr();
                // SAFETY: `source` has checked sizes; steps lie at multiples of 2 KiB of aligned memory.
                unsafe { blocks::step_of_weight_rows(w, columns, rows, self.k, out.as_mut_ptr()) };
            }
        }
    }

    /// Brings some pairs of rows of a step into form.
    ///
    /// # Safety
    /// There is such a step, and it consists of rows in memory; `out` is one at a cache line; nobody else adds to the sums
    /// of these columns.
    unsafe fn pack_pairs(&self, panel: usize, step: usize, pairs: Range<usize>, out: *mut Bf16) {
        // SAFETY: by the contract.
        unsafe {
            match self.form {
                Storage::Weight(w) => {
                    let (column, row) = (panel * SIDE, step * SIDE);
                    let (columns, rows) = (SIDE.min(self.n - column), SIDE.min(self.k - row));
                    let w = w[row * self.n + column..].as_ptr();
                    blocks::step_of_weight_columns(w, rows, columns, self.n, pairs, out);
                }
                Storage::Blocks(b) => blocks::step_of_rows(b.at(step, panel).as_ptr(), pairs, out),
                Storage::Gelu(b) => blocks::step_of_gelu(b.at(step, panel).as_ptr(), pairs, out),
                Storage::WithColumnSums(b, sums) => {
                    let block = b.at(step, panel).as_ptr();
                    let columns = SIDE.min(self.n - panel * SIDE);
                    let sums = std::slice::from_raw_parts_mut(sums.at(panel * SIDE), columns);
                    blocks::add_rows(block, 2 * pairs.start..2 * pairs.end, sums);
                    blocks::step_of_rows(block, pairs, out);
                }
                Storage::WeightTransposed(_) | Storage::Packed(_) => {
                    unreachable!("has no rows in memory, or is packed")
                }
            }
        }
    }
}

/// The groups of so many steps.
fn groups(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth)
        .step_by(GROUP)
        .map(move |first| first..(first + GROUP).min(depth))
}

/// The work of bringing rows into steps, which can be done bit by bit: step after step, in each of them panel after panel.
pub(super) struct Packer<'a> {
    source: RhsView<'a>,
    panels: Range<usize>,
    /// Pairs of rows that are done, counted from the first step of all.
    done: usize,
}

impl<'a> Packer<'a> {
    /// From step `first` on. Of the forms of an operand, those that consist of rows.
    pub fn new(source: RhsView<'a>, panels: Range<usize>, first: usize) -> Self {
        let done = first * panels.len() * PAIRS;
        Self { source, panels, done }
    }

    /// Goes on for so many pairs, until the end of `group` at most, of which `out` are the steps in the form of [`Panels`].
    pub fn advance(&mut self, pairs: usize, group: Range<usize>, out: &mut [Bf16]) {
        let end = (group.end * self.panels.len() * PAIRS).min(self.done.saturating_add(pairs));
        while self.done < end {
            let (block, pair) = (self.done / PAIRS, self.done % PAIRS);
            let (step, panel) = (block / self.panels.len(), block % self.panels.len());
            let pairs = pair..PAIRS.min(pair + end - self.done);
            self.done += pairs.len();
            let at = (panel * group.len() + step - group.start) * BLOCK;
            let out = out[at..][..BLOCK].as_mut_ptr();
            // SAFETY: `source` has checked sizes; steps lie at multiples of 2 KiB of aligned memory; the parts that sum have
            // columns of their own.
            unsafe { self.source.pack_pairs(self.panels.start + panel, step, pairs, out) };
        }
    }

    /// The block of a matrix that comes after the next one.
    pub fn ahead(&self) -> Option<&'a [Bf16]> {
        let block = self.done / PAIRS + 2;
        let (step, panel) = (block / self.panels.len(), block % self.panels.len());
        match self.source.form {
            Storage::Blocks(b) | Storage::Gelu(b) | Storage::WithColumnSums(b, _) if step < b.row_blocks() => {
                Some(b.at(step, self.panels.start + panel))
            }
            _ => None,
        }
    }
}

/// A weight in steps, for use in several products.
pub struct PackedRhs {
    steps: Scratch,
    k: usize,
    n: usize,
}

impl PackedRhs {
    /// The transpose of the row-major weight `[n, k]`.
    ///
    /// # Panics
    /// If the weight has another size, or the machine does not multiply bfloat16.
    pub fn pack_transposed(weight: &[f32], n: usize, k: usize) -> Self {
        assert_supported();
        let source = Rhs::WeightTransposed(weight).source(k, n);
        let (panels, depth) = (n.div_ceil(SIDE), k.div_ceil(SIDE));
        let mut steps = Scratch::new();
        steps
            .take::<Bf16>(panels * depth * BLOCK)
            .par_chunks_mut((GROUP * panels * BLOCK).max(1))
            .zip(groups(depth).collect::<Vec<_>>())
            .for_each(|(out, group)| source.pack(0..panels, group, out));
        Self { steps, k, n }
    }

    fn pieces(&self, first_panel: usize) -> Panels<'_> {
        Panels {
            steps: self.steps.taken(),
            depth: self.k.div_ceil(SIDE),
            panels: self.n.div_ceil(SIDE),
            first_step: 0,
            first_panel,
        }
    }
}

/// A right operand in steps: groups of steps, in each of them the panels of 32 columns one after the other.
pub(super) struct Panels<'a> {
    steps: &'a [Bf16],
    depth: usize,
    panels: usize,
    first_step: usize,
    first_panel: usize,
}

impl<'a> Panels<'a> {
    /// The steps `depth`, the first of which is that of a group, of so many panels.
    pub fn new(steps: &'a [Bf16], panels: usize, depth: Range<usize>) -> Self {
        Self {
            steps,
            depth: depth.len(),
            panels,
            first_step: depth.start,
            first_panel: 0,
        }
    }

    /// The steps of a panel from `step`, the first of a group, to the end of that group; panels are counted from the first
    /// that was asked for.
    pub fn at(&self, step: usize, panel: usize) -> &[Bf16] {
        let step = step - self.first_step;
        let count = GROUP.min(self.depth - step);
        &self.steps[(step * self.panels + (self.first_panel + panel) * count) * BLOCK..][..count * BLOCK]
    }
}
