//! Right operands: weights and matrices in blocks, brought into the steps that kernels multiply.

use super::blocks::{self, Aligned, BLOCK, Blocks, SIDE};
use super::{Bf16, math};
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::ops::Range;

/// Steps that are multiplied together: the left operand's share of them, 16 KiB, stays in the first cache.
pub(super) const GROUP: usize = 8;

/// The right operand `[k, n]`.
pub enum Right<'a> {
    /// The transpose of a row-major weight `[n, k]`: what a linear layer multiplies with.
    WeightTransposed(&'a [f32]),
    /// A row-major weight `[k, n]`: what its gradient is multiplied with.
    Weight(&'a [f32]),
    /// A matrix in blocks.
    Blocks(Blocks<'a>),
    /// The GELU of a matrix in blocks.
    Gelu(Blocks<'a>),
    /// A matrix in blocks, whose columns' sums are added to these numbers on the way.
    Summed(Blocks<'a>, &'a mut [f32]),
    /// A weight that was brought into steps before.
    Packed(&'a Packed),
}

/// The same, measured, for the tasks of one product.
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
            Self::WeightTransposed(w) => (Form::WeightTransposed(w), w.len() == k * n),
            Self::Weight(w) => (Form::Weight(w), w.len() == k * n),
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

    /// A block that is to be brought into a step, if it is a matrix.
    pub fn block(&self, step: usize, panel: usize) -> Option<&'a [Bf16]> {
        match self.form {
            Form::Blocks(b) | Form::Gelu(b) | Form::Summed(b, _) => Some(b.at(step, panel)),
            Form::Weight(_) | Form::WeightTransposed(_) | Form::Packed(_) => None,
        }
    }

    /// Its steps `depth`, the first of a group, in the columns of `panels`, brought into form in `memory` if they are not.
    pub fn pieces<'m>(&self, panels: Range<usize>, depth: Range<usize>, memory: &'m mut Scratch) -> Pieces<'m>
    where
        'a: 'm,
    {
        if let Form::Packed(packed) = self.form {
            return packed.pieces(panels.start);
        }
        let steps = memory.take(panels.len() * depth.len() * BLOCK);
        self.pack(panels.clone(), depth.clone(), steps);
        Pieces {
            steps,
            depth: depth.len(),
            panels: panels.len(),
            first_step: depth.start,
            first_panel: 0,
        }
    }

    /// Brings `panels` and steps `depth` into the form of [`Pieces`].
    fn pack(&self, panels: Range<usize>, depth: Range<usize>, out: &mut [Bf16]) {
        let mut rest = out;
        for first in depth.clone().step_by(GROUP) {
            let steps = first..(first + GROUP).min(depth.end);
            let (group, tail) = rest.split_at_mut(panels.len() * steps.len() * BLOCK);
            let mut place = |panel: usize, step: usize| {
                let at = (panel - panels.start) * steps.len() + step - first;
                let out = group[at * BLOCK..][..BLOCK].as_mut_ptr();
                // SAFETY: `source` has checked sizes; steps lie at multiples of 2 KiB of aligned memory; the parts that sum
                // have columns of their own.
                unsafe { self.pack_step(panel, step, out) };
            };
            // In the order in which the values lie in memory.
            match self.form {
                Form::WeightTransposed(_) => panels.clone().for_each(|p| steps.clone().for_each(|s| place(p, s))),
                _ => steps.clone().for_each(|s| panels.clone().for_each(|p| place(p, s))),
            }
            rest = tail;
        }
    }

    /// # Safety
    /// There is such a step; `out` is one at a cache line; nobody else adds to the sums of these columns.
    unsafe fn pack_step(&self, panel: usize, step: usize, out: *mut Bf16) {
        let (k, n) = (self.k, self.n);
        let (column, row) = (panel * SIDE, step * SIDE);
        let (columns, rows) = (SIDE.min(n - column), SIDE.min(k - row));
        // SAFETY: by the contract.
        unsafe {
            match self.form {
                Form::WeightTransposed(w) => {
                    blocks::step_of_weight_rows(w[column * k + row..].as_ptr(), columns, rows, k, out)
                }
                Form::Weight(w) => {
                    blocks::step_of_weight_columns(w[row * n + column..].as_ptr(), rows, columns, n, out)
                }
                Form::Blocks(b) => blocks::step_of_rows(b.at(step, panel).as_ptr(), out),
                Form::Gelu(b) => {
                    let mut active = Aligned::default();
                    math::gelu_block(b.at(step, panel).as_ptr(), active.0.as_mut_ptr());
                    blocks::step_of_rows(active.0.as_ptr(), out);
                }
                Form::Summed(b, sums) => {
                    let block = b.at(step, panel).as_ptr();
                    blocks::step_of_rows(block, out);
                    blocks::add_block_columns(block, std::slice::from_raw_parts_mut(sums.at(column), columns));
                }
                Form::Packed(_) => unreachable!("already in steps"),
            }
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
    /// If the weight has another size.
    pub fn transposed(weight: &[f32], n: usize, k: usize) -> Self {
        let source = Right::WeightTransposed(weight).source(k, n);
        let (panels, depth) = (n.div_ceil(SIDE), k.div_ceil(SIDE));
        let mut steps = Scratch::new();
        steps
            .take::<Bf16>(panels * depth * BLOCK)
            .par_chunks_mut((GROUP * panels * BLOCK).max(1))
            .enumerate()
            .for_each(|(i, out)| source.pack(0..panels, i * GROUP..((i + 1) * GROUP).min(depth), out));
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

impl Pieces<'_> {
    /// The steps of a panel from `step`, the first of a group, to the end of that group; panels are counted from the first
    /// that was asked for.
    pub fn at(&self, step: usize, panel: usize) -> &[Bf16] {
        let step = step - self.first_step;
        let count = GROUP.min(self.depth - step);
        &self.steps[(step * self.panels + (self.first_panel + panel) * count) * BLOCK..][..count * BLOCK]
    }
}
