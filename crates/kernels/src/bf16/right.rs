//! Right operands: weights and matrices in blocks, brought into the steps that kernels multiply.

use super::blocks::{self, BLOCK, Blocks, SIDE};
use super::{Bf16, math};
use crate::memory::Scratch;
use crate::parallel::SharedMut;
use rayon::prelude::*;
use std::ops::Range;

/// Steps that are multiplied together: the left operand's share of them, 16 KiB, stays in the first cache.
pub(super) const GROUP: usize = 8;

/// The right operand `[k, n]`.
#[derive(Clone, Copy)]
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
    Summed(Blocks<'a>, ColumnSums<'a>),
    /// A weight that was brought into steps before.
    Packed(&'a Packed),
}

/// Where the sums of columns are added up.
#[derive(Clone, Copy)]
pub struct ColumnSums<'a> {
    sums: SharedMut<f32>,
    len: usize,
    slice: std::marker::PhantomData<&'a mut [f32]>,
}

impl<'a> ColumnSums<'a> {
    /// Adds to these.
    pub fn new(sums: &'a mut [f32]) -> Self {
        Self {
            len: sums.len(),
            sums: SharedMut::new(sums),
            slice: std::marker::PhantomData,
        }
    }

    /// Number of columns.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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
        assert_eq!(weight.len(), n * k);
        let (panels, depth) = (n.div_ceil(SIDE), k.div_ceil(SIDE));
        let mut steps = Scratch::new();
        steps
            .take::<Bf16>(panels * depth * BLOCK)
            .par_chunks_mut((GROUP * panels * BLOCK).max(1))
            .enumerate()
            .for_each(|(i, out)| {
                let first = i * GROUP;
                pack(
                    Right::WeightTransposed(weight),
                    k,
                    n,
                    0..panels,
                    first..(first + GROUP).min(depth),
                    out,
                );
            });
        Self { steps, k, n }
    }

    /// Rows and columns of the right operand.
    pub fn size(&self) -> (usize, usize) {
        (self.k, self.n)
    }

    pub(super) fn pieces(&self, first_panel: usize) -> Pieces<'_> {
        Pieces {
            steps: self.steps.taken(),
            depth: self.k.div_ceil(SIDE),
            panels: self.n.div_ceil(SIDE),
            first_panel,
        }
    }
}

/// A right operand in steps: groups of steps, in each of them the panels of 32 columns one after the other.
pub(super) struct Pieces<'a> {
    pub steps: &'a [Bf16],
    pub depth: usize,
    pub panels: usize,
    pub first_panel: usize,
}

impl Pieces<'_> {
    /// The steps of a panel from `step`, the first of a group, to the end of that group.
    pub fn at(&self, step: usize, panel: usize) -> &[Bf16] {
        let count = GROUP.min(self.depth - step);
        &self.steps[(step * self.panels + (self.first_panel + panel) * count) * BLOCK..][..count * BLOCK]
    }
}

/// Brings `panels` and steps `depth` of `b [k, n]` into the form of [`Pieces`].
pub(super) fn pack(b: Right, k: usize, n: usize, panels: Range<usize>, depth: Range<usize>, out: &mut [Bf16]) {
    let mut rest = out;
    for first in depth.clone().step_by(GROUP) {
        let steps = first..(first + GROUP).min(depth.end);
        let (group, tail) = rest.split_at_mut(panels.len() * steps.len() * BLOCK);
        let mut place = |panel: usize, step: usize| {
            let at = (panel - panels.start) * steps.len() + step - first;
            let out = group[at * BLOCK..][..BLOCK].as_mut_ptr();
            // SAFETY: sizes were checked by the caller; steps lie at multiples of 2 KiB of aligned memory.
            unsafe { pack_step(b, k, n, panel, step, out) };
        };
        // In the order in which the values lie in memory.
        match b {
            Right::WeightTransposed(_) => panels.clone().for_each(|p| steps.clone().for_each(|s| place(p, s))),
            _ => steps.clone().for_each(|s| panels.clone().for_each(|p| place(p, s))),
        }
        rest = tail;
    }
}

/// # Safety
/// `b` is `[k, n]` and has that step; `out` is a step at a cache line; nobody else adds to the sums of these columns.
unsafe fn pack_step(b: Right, k: usize, n: usize, panel: usize, step: usize, out: *mut Bf16) {
    let (column, row) = (panel * SIDE, step * SIDE);
    let (columns, rows) = (SIDE.min(n - column), SIDE.min(k - row));
    // SAFETY: by the contract.
    unsafe {
        match b {
            Right::WeightTransposed(w) => {
                blocks::step_of_weight_rows(w[column * k + row..].as_ptr(), columns, rows, k, out)
            }
            Right::Weight(w) => blocks::step_of_weight_columns(w[row * n + column..].as_ptr(), rows, columns, n, out),
            Right::Blocks(b) => blocks::step_of_rows(b.at(step, panel).as_ptr(), out),
            Right::Gelu(b) => {
                let mut active = blocks::Aligned::default();
                math::gelu_block(b.at(step, panel).as_ptr(), active.0.as_mut_ptr());
                blocks::step_of_rows(active.0.as_ptr(), out);
            }
            Right::Summed(b, sums) => {
                let block = b.at(step, panel).as_ptr();
                blocks::step_of_rows(block, out);
                let mut own = [0f32; SIDE];
                let target = std::slice::from_raw_parts_mut(sums.sums.at(column), columns);
                own[..columns].copy_from_slice(target);
                blocks::add_block_columns(block, &mut own);
                target.copy_from_slice(&own[..columns]);
            }
            Right::Packed(_) => unreachable!("already in steps"),
        }
    }
}
