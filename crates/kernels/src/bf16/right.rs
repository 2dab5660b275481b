//! Right operands: weights and matrices in blocks, brought into the steps that kernels multiply.

use super::blocks::{self, BLOCK, Blocks, PAIRS, SIDE};
use super::{Bf16, Right, assert_supported};
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::ops::Range;

/// Steps that are multiplied together: the left operand's share of them, 16 KiB, stays in the first cache.
pub(super) const GROUP: usize = 8;

/// A right operand, measured, for the tasks of one product.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    form: Form<'a>,
    k: usize,
    n: usize,
}

#[derive(Clone, Copy)]
enum Form<'a> {
    WeightTransposed(&'a [f32]),
    Weight(&'a [f32]),
    Blocks(Blocks<'a>),
    Gelu(Blocks<'a>),
    Summed(Blocks<'a>, SharedMut<f32>),
    Packed(&'a Packed),
}

/// How the right operand decides what stays in the second cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Passes by once for each part of the result's rows.
    Matrix,
    /// Has to be packed, row by row as it lies in memory, or column by column.
    Weight { by_rows: bool },
    /// Is packed.
    Packed,
}

impl<'a> Right<'a> {
    /// # Panics
    /// If it is not `[k, n]`.
    pub(super) fn source(self, k: usize, n: usize) -> Source<'a> {
        let (form, fits) = match self {
            Self::WeightTransposed(w) => (Form::WeightTransposed(w), k.checked_mul(n) == Some(w.len())),
            Self::Weight(w) => (Form::Weight(w), k.checked_mul(n) == Some(w.len())),
            Self::Blocks(b) => (Form::Blocks(b), b.rows() == k && b.columns() == n),
            Self::Gelu(b) => (Form::Gelu(b), b.rows() == k && b.columns() == n),
            Self::Summed(b, sums) => {
                let fits = b.rows() == k && b.columns() == n && sums.len() == n;
                (Form::Summed(b, SharedMut::new(sums)), fits)
            }
            Self::Packed(p) => (Form::Packed(p), p.k == k && p.n == n),
        };
        assert!(fits, "the right operand is not {k} × {n}");
        Source { form, k, n }
    }
}

impl<'a> Source<'a> {
    pub fn kind(&self) -> Kind {
        match self.form {
            Form::Blocks(_) | Form::Gelu(_) | Form::Summed(..) => Kind::Matrix,
            Form::Weight(_) => Kind::Weight { by_rows: true },
            Form::WeightTransposed(_) => Kind::Weight { by_rows: false },
            Form::Packed(_) => Kind::Packed,
        }
    }

    /// The same without sums: of several parts with the same columns, one adds them up.
    pub fn unsummed(self) -> Self {
        let form = match self.form {
            Form::Summed(blocks, _) => Form::Blocks(blocks),
            form => form,
        };
        Self { form, ..self }
    }

    /// Its steps in the columns of `panels`, brought into form in `memory`, which has room for them, if they are not.
    pub fn pieces<'m>(&self, panels: Range<usize>, memory: &'m mut [Bf16]) -> Pieces<'m>
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
        Pieces::new(steps, panels.len(), 0..depth)
    }

    /// Its steps in the columns from `first_panel` on, if it is in this form.
    pub fn packed(&self, first_panel: usize) -> Option<Pieces<'a>> {
        match self.form {
            Form::Packed(packed) => Some(packed.pieces(first_panel)),
            _ => None,
        }
    }

    /// Brings the steps of a group, in the columns of `panels`, into the form of [`Pieces`].
    fn pack(&self, panels: Range<usize>, group: Range<usize>, out: &mut [Bf16]) {
        let Form::WeightTransposed(w) = self.form else {
            Packing::new(*self, panels, group.start).advance(usize::MAX, group, out);
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
                Form::Weight(w) => {
                    let (column, row) = (panel * SIDE, step * SIDE);
                    let (columns, rows) = (SIDE.min(self.n - column), SIDE.min(self.k - row));
                    let w = w[row * self.n + column..].as_ptr();
                    blocks::step_of_weight_columns(w, rows, columns, self.n, pairs, out);
                }
                Form::Blocks(b) => blocks::step_of_rows(b.at(step, panel).as_ptr(), pairs, out),
                Form::Gelu(b) => blocks::step_of_gelu(b.at(step, panel).as_ptr(), pairs, out),
                Form::Summed(b, sums) => {
                    let block = b.at(step, panel).as_ptr();
                    let columns = SIDE.min(self.n - panel * SIDE);
                    let sums = std::slice::from_raw_parts_mut(sums.at(panel * SIDE), columns);
                    blocks::add_rows(block, 2 * pairs.start..2 * pairs.end, sums);
                    blocks::step_of_rows(block, pairs, out);
                }
                Form::WeightTransposed(_) | Form::Packed(_) => unreachable!("has no rows in memory, or is packed"),
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
pub(super) struct Packing<'a> {
    source: Source<'a>,
    panels: Range<usize>,
    /// Pairs of rows that are done, counted from the first step of all.
    done: usize,
}

impl<'a> Packing<'a> {
    /// From step `first` on. Of the forms of an operand, those that consist of rows.
    pub fn new(source: Source<'a>, panels: Range<usize>, first: usize) -> Self {
        let done = first * panels.len() * PAIRS;
        Self { source, panels, done }
    }

    /// Goes on for so many pairs, until the end of `group` at most, of which `out` are the steps in the form of [`Pieces`].
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
            Form::Blocks(b) | Form::Gelu(b) | Form::Summed(b, _) if step < b.row_blocks() => {
                Some(b.at(step, self.panels.start + panel))
            }
            _ => None,
        }
    }
}

/// A weight in steps, for use in several products.
pub struct Packed {
    steps: Scratch,
    k: usize,
    n: usize,
}

impl Packed {
    /// The transpose of the row-major weight `[n, k]`.
    ///
    /// # Panics
    /// If the weight has another size, or the machine does not multiply bfloat16.
    pub fn transposed(weight: &[f32], n: usize, k: usize) -> Self {
        assert_supported();
        let source = Right::WeightTransposed(weight).source(k, n);
        let (panels, depth) = (n.div_ceil(SIDE), k.div_ceil(SIDE));
        let mut steps = Scratch::new();
        steps
            .take::<Bf16>(panels * depth * BLOCK)
            .par_chunks_mut((GROUP * panels * BLOCK).max(1))
            .zip(groups(depth).collect::<Vec<_>>())
            .for_each(|(out, group)| source.pack(0..panels, group, out));
        Self { steps, k, n }
    }

    fn pieces(&self, first_panel: usize) -> Pieces<'_> {
        Pieces {
            steps: self.steps.taken(),
            depth: self.k.div_ceil(SIDE),
            panels: self.n.div_ceil(SIDE),
            first_step: 0,
            first_panel,
        }
    }
}

/// A right operand in steps: groups of steps, in each of them the panels of 32 columns one after the other.
pub(super) struct Pieces<'a> {
    steps: &'a [Bf16],
    depth: usize,
    panels: usize,
    first_step: usize,
    first_panel: usize,
}

impl<'a> Pieces<'a> {
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
