//! Products of matrices in blocks, with what follows them done while the sums are in the nearest cache.
//!
//! The right operand is cut into pieces of columns that fit the second cache together with what streams past them; a task
//! brings its piece into steps, once, and then multiplies every row of blocks of the left operand with it, 256 of the
//! inner dimension at a time, so that the left operand's share of that stays in the first cache. Every sum is added up in
//! the same order however the work is divided.

use super::blocks::{self, BLOCK, Blocks, SIDE};
use super::{Bf16, Support, support, tiles, vectors};
use crate::aligned::AlignedVec;
use rayon::prelude::*;
use std::cell::RefCell;

/// The machine's way to multiply 32 rows with 32 columns.
#[derive(Clone, Copy)]
pub(super) struct Kernel {
    /// `(left, right, steps, sums [32, 32], whether to add to them)`.
    multiply: unsafe fn(*const Bf16, *const Bf16, usize, *mut f32, bool),
    tiled: bool,
}

impl Kernel {
    /// The best one.
    ///
    /// # Panics
    /// If the machine does not multiply bfloat16.
    pub fn pick() -> Self {
        match support() {
            Support::Tiles => Self {
                multiply: tiles::multiply,
                tiled: true,
            },
            Support::Vectors => Self {
                multiply: vectors::multiply,
                tiled: false,
            },
            Support::None => panic!("this machine does not multiply bfloat16"),
        }
    }

    /// Makes the calling thread ready for it.
    pub fn start(self) -> Engine {
        Engine {
            kernel: self,
            // SAFETY: `support` found the unit.
            _tiles: self.tiled.then(|| unsafe { tiles::Tiles::configure() }),
        }
    }
}

/// A kernel that the calling thread may use; it stays on that thread.
pub(super) struct Engine {
    kernel: Kernel,
    _tiles: Option<tiles::Tiles>,
}

impl Engine {
    /// `sums [32, 32] = left · right`, or added to what `sums` holds if `keep`: `steps` steps of 32 of the inner dimension.
    #[inline]
    pub fn multiply(&self, left: &[Bf16], right: &[Bf16], steps: usize, sums: &mut [f32], keep: bool) {
        assert!(left.len() >= steps * BLOCK && right.len() >= steps * BLOCK && sums.len() >= BLOCK);
        // SAFETY: the operands are long enough, and `start` has made this thread ready.
        unsafe { (self.kernel.multiply)(left.as_ptr(), right.as_ptr(), steps, sums.as_mut_ptr(), keep) };
    }
}

/// Steps whose left operand stays in the first cache: 16 KiB.
const GROUP: usize = 8;

/// Bytes of the right operand that a task holds in the second cache.
const RESIDENT: usize = 1 << 20;

/// The right operand `[k, n]`.
#[derive(Clone, Copy)]
pub enum Right<'a> {
    /// The transpose of a row-major weight `[n, k]`: what a linear layer multiplies with.
    WeightTransposed(&'a [f32]),
    /// A row-major weight `[k, n]`: what its gradient is multiplied with.
    Weight(&'a [f32]),
    /// A matrix in blocks.
    Blocks(Blocks<'a>),
    /// A weight that was brought into steps before.
    Packed(&'a Packed),
}

/// What is done with sums when they are complete.
pub trait Epilogue: Sync {
    /// Takes 32 × 32 sums, of which the first belongs to (`row`, `column`), both multiples of 32. Those outside the
    /// result are zero. `add`: there were calls for the same place before, and these are the sums of further rows of the
    /// right operand.
    ///
    /// # Safety
    /// Calls for the same place come one after the other.
    unsafe fn block(&self, row: usize, column: usize, sums: &mut [f32; BLOCK], add: bool);

    /// Whether sums may come in several parts.
    fn takes_parts(&self) -> bool {
        false
    }
}

/// A weight in steps, for use in several products.
pub struct Packed {
    steps: AlignedVec<Bf16>,
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
        let mut steps = AlignedVec::zeroed(panels * depth * BLOCK);
        for (i, group) in steps.as_mut_slice().chunks_mut(GROUP * panels * BLOCK).enumerate() {
            let first = i * GROUP;
            let count = GROUP.min(depth - first);
            group
                .par_chunks_mut(count * BLOCK)
                .enumerate()
                .for_each(|(panel, out)| {
                    pack_panel(Right::WeightTransposed(weight), k, n, panel, first..first + count, out);
                });
        }
        Self { steps, k, n }
    }

    /// Rows `k` and columns `n` of the right operand.
    pub fn size(&self) -> (usize, usize) {
        (self.k, self.n)
    }
}

/// `a · b`, with `b [k, n]`, handed to the epilogue block by block.
///
/// # Panics
/// If the sizes do not fit, or the machine does not multiply bfloat16.
pub fn gemm(a: Blocks, b: Right, n: usize, epilogue: &dyn Epilogue) {
    let k = a.columns();
    match b {
        Right::WeightTransposed(w) | Right::Weight(w) => assert_eq!(w.len(), k * n, "weight of another size"),
        Right::Blocks(b) => assert!(b.rows() == k && b.columns() == n, "inner sizes differ"),
        Right::Packed(p) => assert!(p.size() == (k, n), "inner sizes differ"),
    }
    let kernel = Kernel::pick();
    let plan = Plan::new(
        a.row_blocks(),
        n.div_ceil(SIDE),
        k.div_ceil(SIDE),
        matches!(b, Right::Packed(_)),
        epilogue,
    );
    (0..plan.tasks()).into_par_iter().for_each(|task| {
        plan.run(task, a, b, n, &kernel.start(), epilogue);
    });
}

/// How a product is divided: sizes are counted in blocks.
struct Plan {
    rows: usize,
    panels: usize,
    depth: usize,
    rows_per_task: usize,
    panels_per_task: usize,
    depth_per_part: usize,
}

impl Plan {
    fn new(rows: usize, panels: usize, depth: usize, packed: bool, epilogue: &dyn Epilogue) -> Self {
        /// Steps of a part: so long that adding up the parts of a result costs little.
        const PART: usize = 64;
        let threads = rayon::current_num_threads();
        let depth_per_part = if epilogue.takes_parts() && depth > PART {
            // Equal parts, in whole groups.
            depth.div_ceil(depth.div_ceil(PART)).next_multiple_of(GROUP)
        } else {
            depth.max(1)
        };
        let fit = (RESIDENT / (depth_per_part * BLOCK * size_of::<Bf16>())).max(1);
        // Equal shares for all threads, unless there are too few columns.
        let columns = panels.div_ceil(fit).next_multiple_of(threads).clamp(1, panels.max(1));
        let panels_per_task = panels.div_ceil(columns).max(1);
        let columns = panels.div_ceil(panels_per_task).max(1);
        // A right operand that must be packed is packed again for each group of rows.
        let row_tasks = if packed {
            (2 * threads).div_ceil(columns)
        } else {
            threads.div_ceil(columns)
        };
        let rows_per_task = rows.div_ceil(row_tasks.clamp(1, rows.max(1))).max(1);
        Self {
            rows,
            panels,
            depth,
            rows_per_task,
            panels_per_task,
            depth_per_part,
        }
    }

    fn tasks(&self) -> usize {
        self.rows.div_ceil(self.rows_per_task) * self.panels.div_ceil(self.panels_per_task)
    }

    fn run(&self, task: usize, a: Blocks, b: Right, n: usize, engine: &Engine, epilogue: &dyn Epilogue) {
        thread_local! {
            /// The steps of the piece in work and the sums of a row of blocks.
            static SCRATCH: RefCell<(AlignedVec<Bf16>, AlignedVec<f32>)> =
                RefCell::new((AlignedVec::zeroed(0), AlignedVec::zeroed(0)));
        }
        let columns = self.panels.div_ceil(self.panels_per_task);
        let first_row = task / columns * self.rows_per_task;
        let rows = first_row..(first_row + self.rows_per_task).min(self.rows);
        let first_panel = task % columns * self.panels_per_task;
        let panels = first_panel..(first_panel + self.panels_per_task).min(self.panels);
        SCRATCH.with_borrow_mut(|(steps, sums)| {
            grow(sums, panels.len() * BLOCK);
            let sums = sums.as_mut_slice();
            for part in (0..self.depth.max(1)).step_by(self.depth_per_part) {
                let depth = part..(part + self.depth_per_part).min(self.depth);
                let pieces = match b {
                    Right::Packed(packed) => Pieces {
                        steps: packed.steps.as_slice(),
                        depth: self.depth,
                        panels: self.panels,
                        first_panel: panels.start,
                    },
                    _ => {
                        grow(steps, panels.len() * depth.len() * BLOCK);
                        pack(b, a.columns(), n, panels.clone(), depth.clone(), steps.as_mut_slice());
                        Pieces {
                            steps: steps.as_slice(),
                            depth: depth.len(),
                            panels: panels.len(),
                            first_panel: 0,
                        }
                    }
                };
                for row in rows.clone() {
                    let left = a.at(row, depth.start);
                    for first in (0..depth.len().max(1)).step_by(GROUP) {
                        let count = GROUP.min(depth.len() - first);
                        let last = first + count == depth.len();
                        for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(BLOCK)) {
                            let Ok(sums) = <&mut [f32; BLOCK]>::try_from(sums) else {
                                unreachable!()
                            };
                            let right = pieces.at(first, panel - panels.start);
                            engine.multiply(&left[first * BLOCK..], right, count, sums, first > 0);
                            if last {
                                // SAFETY: this task alone computes these rows and columns.
                                unsafe { epilogue.block(row * SIDE, panel * SIDE, sums, part > 0) };
                            }
                        }
                    }
                }
            }
        });
    }
}

/// The right operand in steps: groups of steps, in each of them the panels one after the other.
struct Pieces<'a> {
    steps: &'a [Bf16],
    depth: usize,
    panels: usize,
    first_panel: usize,
}

impl Pieces<'_> {
    /// The steps of a panel from `step`, the first of a group, to the end of that group.
    fn at(&self, step: usize, panel: usize) -> &[Bf16] {
        let count = GROUP.min(self.depth - step);
        &self.steps[(step * self.panels + (self.first_panel + panel) * count) * BLOCK..][..count * BLOCK]
    }
}

/// Makes room for `len` values, 4 KiB more than needed: kernels fetch ahead.
fn grow<T: crate::aligned::Plain>(memory: &mut AlignedVec<T>, len: usize) {
    if memory.len() < len {
        *memory = AlignedVec::zeroed(len);
    }
}

fn pack(b: Right, k: usize, n: usize, panels: std::ops::Range<usize>, depth: std::ops::Range<usize>, out: &mut [Bf16]) {
    let mut rest = out;
    for first in depth.clone().step_by(GROUP) {
        let steps = first..(first + GROUP).min(depth.end);
        for panel in panels.clone() {
            let (head, tail) = rest.split_at_mut(steps.len() * BLOCK);
            pack_panel(b, k, n, panel, steps.clone(), head);
            rest = tail;
        }
    }
}

fn pack_panel(b: Right, k: usize, n: usize, panel: usize, steps: std::ops::Range<usize>, out: &mut [Bf16]) {
    let column = panel * SIDE;
    let columns = SIDE.min(n - column);
    for (step, out) in steps.zip(out.chunks_exact_mut(BLOCK)) {
        let row = step * SIDE;
        let rows = SIDE.min(k - row);
        let out = out.as_mut_ptr();
        // SAFETY: sizes were checked by `gemm`; steps lie at multiples of 2 KiB of aligned memory.
        unsafe {
            match b {
                Right::WeightTransposed(w) => {
                    blocks::step_of_weight_rows(w[column * k + row..].as_ptr(), columns, rows, k, out)
                }
                Right::Weight(w) => {
                    blocks::step_of_weight_columns(w[row * n + column..].as_ptr(), rows, columns, n, out)
                }
                Right::Blocks(b) => blocks::step_of_rows(b.at(step, panel).as_ptr(), out),
                Right::Packed(_) => unreachable!("already in steps"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::epilogue::{Gelu, GeluGradient, Round, Store, StoreTransposed};
    use super::super::vectors;
    use super::*;
    use proptest::prelude::*;

    /// Small whole numbers: their products and sums are exact in both formats.
    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 7) as f32 - 3.0).collect()
    }

    struct Matrix {
        memory: AlignedVec<Bf16>,
        rows: usize,
        columns: usize,
    }

    impl Matrix {
        fn new(x: &[f32], rows: usize, columns: usize) -> Self {
            let mut memory = AlignedVec::zeroed(blocks::len(rows, columns));
            blocks::from_f32(x, rows, columns, memory.as_mut_slice());
            Self { memory, rows, columns }
        }

        fn zeros(rows: usize, columns: usize) -> Self {
            Self::new(&vec![0.0; rows * columns], rows, columns)
        }

        fn blocks(&self) -> Blocks<'_> {
            Blocks::new(self.memory.as_slice(), self.rows, self.columns)
        }

        fn values(&self) -> Vec<f32> {
            let mut out = vec![0f32; self.rows * self.columns];
            blocks::to_f32(self.blocks(), &mut out);
            out
        }
    }

    fn turned(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect()
    }

    fn plain(a: &[f32], b: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
        (0..m * n)
            .map(|i| (0..k).map(|p| a[i / n * k + p] * b[p * n + i % n]).sum())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn equals_the_plain_product(m in 1usize..90, n in 1usize..90, k in 1usize..400, threads in 1usize..4, add: bool) {
            if support() == Support::None {
                return Ok(());
            }
            let (a, b, before) = (values(m * k, 1), values(k * n, 2), values(m * n, 3));
            let want = plain(&a, &b, m, n, k);
            let b_turned = turned(&b, k, n);
            let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
            let packed = Packed::transposed(&b_turned, n, k);
            let rights = [
                Right::Weight(&b), Right::WeightTransposed(&b_turned), Right::Blocks(right.blocks()), Right::Packed(&packed),
            ];
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            for right in rights {
                let mut out = before.clone();
                pool.install(|| gemm(left.blocks(), right, n, &Store::new(&mut out, n, add)));
                for (i, got) in out.iter().enumerate() {
                    prop_assert_eq!(*got, want[i] + if add { before[i] } else { 0.0 });
                }
            }
            let mut out = vec![f32::NAN; m * n];
            gemm(left.blocks(), rights[0], n, &StoreTransposed::new(&mut out, m, n, false));
            prop_assert_eq!(out, turned(&want, m, n));
        }
    }

    #[test]
    fn a_long_inner_dimension_comes_in_parts() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (40, 70, 32 * 150 + 5);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (left, right) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
        let mut out = vec![1f32; m * n];
        gemm(
            left.blocks(),
            Right::Blocks(right.blocks()),
            n,
            &Store::new(&mut out, n, true),
        );
        for (got, want) in out.iter().zip(plain(&a, &b, m, n, k)) {
            assert_eq!(*got, want + 1.0);
        }
    }

    #[test]
    fn both_kernels_multiply_the_same() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (32, 32, 100);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let (left, steps) = (Matrix::new(&a, m, k), Packed::transposed(&turned(&b, k, n), n, k));
        let mut sums = vec![1f32; BLOCK];
        let (left, steps) = (left.blocks().at(0, 0).as_ptr(), steps.steps.as_slice().as_ptr());
        // SAFETY: four steps each; the machine has AVX-512 with bfloat16, else `support` finds nothing.
        unsafe { vectors::multiply(left, steps, 4, sums.as_mut_ptr(), true) };
        let want = plain(&a, &b, m, n, k);
        assert!(sums.iter().zip(&want).all(|(s, w)| *s == w + 1.0));
    }

    #[test]
    fn epilogues_do_what_they_say() {
        if support() == Support::None {
            return;
        }
        let (m, n, k) = (45, 50, 64);
        let scaled = |n, seed| -> Vec<f32> { values(n, seed).iter().map(|v| v * 0.25).collect() };
        let (a, b, bias, residual) = (scaled(m * k, 1), scaled(k * n, 2), scaled(n, 3), scaled(m * n, 4));
        let sums = plain(&a, &b, m, n, k);
        let left = Matrix::new(&a, m, k);
        let mut out = vec![f32::NAN; m * n];
        let store = Store::new(&mut out, n, false)
            .bias(Some(&bias))
            .residual(Some(&residual));
        gemm(left.blocks(), Right::Weight(&b), n, &store);
        for i in 0..m * n {
            assert_eq!(out[i], sums[i] + bias[i % n] + residual[i]);
        }
        let close =
            |got: f32, want: f32| assert!((got - want).abs() <= Bf16::EPSILON * want.abs() + 1e-4, "{got} {want}");
        let mut rounded = Matrix::zeros(m, n);
        gemm(
            left.blocks(),
            Right::Weight(&b),
            n,
            &Round::new(rounded.memory.as_mut_slice(), m, n, Some(&bias)),
        );
        rounded
            .values()
            .iter()
            .enumerate()
            .for_each(|(i, v)| close(*v, sums[i] + bias[i % n]));
        let (mut hidden, mut active, mut d_hidden) = (Matrix::zeros(m, n), Matrix::zeros(m, n), Matrix::zeros(m, n));
        let gelu = Gelu::new(
            Some(hidden.memory.as_mut_slice()),
            active.memory.as_mut_slice(),
            m,
            &bias,
        );
        gemm(left.blocks(), Right::Weight(&b), n, &gelu);
        let x: Vec<f32> = sums.iter().enumerate().map(|(i, s)| s + bias[i % n]).collect();
        let mut want = vec![0f32; m * n];
        crate::gelu::forward(&x, &mut want);
        active.values().iter().zip(&want).for_each(|(g, w)| close(*g, *w));
        let x = hidden.values();
        let mut again = Matrix::zeros(m, n);
        let gradient = GeluGradient::new(
            hidden.blocks(),
            d_hidden.memory.as_mut_slice(),
            again.memory.as_mut_slice(),
        );
        gemm(left.blocks(), Right::Weight(&b), n, &gradient);
        let mut want = sums;
        crate::gelu::backward_in_place(&x, &mut want);
        d_hidden.values().iter().zip(&want).for_each(|(g, w)| close(*g, *w));
        crate::gelu::forward(&x, &mut want);
        again.values().iter().zip(&want).for_each(|(g, w)| close(*g, *w));
        // What lies beyond the edge is zero: it is multiplied in the next product.
        for matrix in [rounded, hidden, active, d_hidden, again] {
            let beyond = matrix.memory.as_slice()[..blocks::len(m, n)]
                .iter()
                .enumerate()
                .filter(|(i, _)| {
                    let (block, inside) = (i / BLOCK, i % BLOCK);
                    block / 2 * SIDE + inside / SIDE >= m || block % 2 * SIDE + inside % SIDE >= n
                });
            assert!(beyond.into_iter().all(|(_, v)| v.to_f32() == 0.0));
        }
    }
}
