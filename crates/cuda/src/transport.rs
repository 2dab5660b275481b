//! Word-patch alignment by optimal transport: `kernels/transport.cu`. In shapes, `R` is the number of rows of all pairs.

use crate::context::{Buffer, Context};
use crate::driver::Element::F32;
use crate::driver::{Address, Error, Result};
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::scalars;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use vlct_kernels::mat::Beta;
use vlct_kernels::transport::Ipot;

/// Largest shared memory of a plan in bytes. Two such blocks fit into a multiprocessor of Hopper (227 KiB), and one into those of compute
/// capability 8.6 and 8.9 (99 KiB). The plan of 40 words and 577 patches takes 93 KiB.
const SHARED_BYTES: usize = 96 << 10;

/// Words and patches of a tile of cosines, and values from one of its rows to the next in shared memory, as in `transport.cu`.
const TILE: [usize; 3] = [32, 64, 36];

/// Rows of a block of the backward pass, and rows of the other group whose values it has in shared memory, as in `transport.cu`.
const GROUP: [usize; 2] = [8, 128];

/// The words of a caption and the patches of an image, as rows of the features, and the factor of their distance.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The rows of the words.
    pub text: Range<usize>,
    /// The rows of the patches.
    pub image: Range<usize>,
    /// The factor of the distance.
    pub weight: f32,
}

/// A pair, as in `transport.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DevicePair {
    text: i32,
    words: i32,
    image: i32,
    patches: i32,
    unit: i32,
    weight: f32,
    matrix: i64,
}

/// Where the pairs have their rows and matrices. Pairs without words or without patches are left out.
struct Layout {
    pairs: Vec<DevicePair>,
    /// Rows of all pairs.
    rows: usize,
    /// Values of the matrices of all pairs.
    values: usize,
    /// Largest number of words of a pair, and of patches.
    words: usize,
    patches: usize,
    /// Whether no row belongs to two groups.
    is_disjoint: bool,
}

impl Layout {
    fn new(operation: &'static str, pairs: &[Pair], features: Matrix) -> Result<Self> {
        let mut layout = Self {
            pairs: Vec::new(),
            rows: 0,
            values: 0,
            words: 0,
            patches: 0,
            is_disjoint: true,
        };
        let mut end = 0;
        for Pair { text, image, weight } in pairs {
            if text.is_empty() || image.is_empty() {
                continue;
            }
            if text.end.max(image.end) > features.rows() {
                return Err(Error::InvalidArgument {
                    operation,
                    reason: format!("{text:?} and {image:?} are not rows of {} rows", features.rows()),
                });
            }
            let (words, patches) = (text.len(), image.len());
            // Indices within a matrix of a pair are 32-bit numbers.
            to_i32(operation, words.saturating_mul(patches))?;
            layout.pairs.push(DevicePair {
                text: to_i32(operation, text.start)?,
                words: to_i32(operation, words)?,
                image: to_i32(operation, image.start)?,
                patches: to_i32(operation, patches)?,
                unit: to_i32(operation, layout.rows)?,
                weight: *weight,
                matrix: layout.values as i64,
            });
            layout.rows += words + patches;
            layout.values += words * patches;
            layout.words = layout.words.max(words);
            layout.patches = layout.patches.max(patches);
            layout.is_disjoint &= end <= text.start && text.end <= image.start;
            end = image.end;
        }
        Ok(layout)
    }

    /// A grid with this number of blocks for each pair.
    fn grid(&self, operation: &'static str, blocks: usize) -> Result<[u32; 3]> {
        Ok([to_blocks(operation, self.pairs.len().saturating_mul(blocks))?, 1, 1])
    }

    /// Values of shared memory for the largest plan that fits, with the factors of its rows and columns.
    fn shared_values(&self) -> usize {
        let limit = SHARED_BYTES / F32.bytes() - WARP as usize;
        let values = |p: &DevicePair| {
            let [n, m] = [p.words, p.patches].map(|count| count as usize);
            n * m + n + m
        };
        self.pairs
            .iter()
            .map(values)
            .filter(|count| *count <= limit)
            .max()
            .unwrap_or(0)
    }
}

/// What the backward pass needs.
pub struct Saved {
    layout: Layout,
    /// The pairs of the layout.
    pairs: Buffer,
    /// The rows of all pairs, divided by their norms, `[R, D]`.
    units: Buffer,
    /// The norms `[R]`.
    norms: Buffer,
    /// The cosines of words and patches of each pair.
    cosines: Buffer,
    /// The transport plan of each pair.
    plans: Buffer,
    /// Rows and columns of the features.
    shape: [usize; 2],
}

/// Computes plans and `distance [1, 1]`, the sum of `weight · distance` over the pairs of rows of `features [T, D]`. The distance of a pair
/// without words or patches is 0.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit or rows do not exist.
pub fn forward(context: &Context, features: Matrix, pairs: &[Pair], ipot: Ipot, distance: MatrixMut) -> Result<Saved> {
    const OPERATION: &str = "optimal transport";
    distance.expect(OPERATION, "distance", [1, 1], F32)?;
    let layout = Layout::new(OPERATION, pairs, features)?;
    let plans = context.allocate(layout.values * F32.bytes())?;
    let distances = context.allocate(layout.pairs.len() * F32.bytes())?;
    let count = layout.pairs.len();
    let to = [plans.address(), distances.address()];
    let Aligned {
        pairs,
        units,
        norms,
        cosines,
    } = align(OPERATION, context, features, &layout, ipot, to)?;
    scalars::sum(OPERATION, context, &distances, count, 1.0, &distance)?;
    Ok(Saved {
        layout,
        pairs,
        units,
        norms,
        cosines,
        plans,
        shape: [features.rows(), features.columns()],
    })
}

/// Computes the transport plan `plan [words, patches]` between two groups of rows of `features [T, D]`.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit or rows do not exist.
pub fn plan(
    context: &Context,
    features: Matrix,
    text: Range<usize>,
    image: Range<usize>,
    ipot: Ipot,
    plan: MatrixMut,
) -> Result<()> {
    const OPERATION: &str = "transport plan";
    plan.expect(OPERATION, "plan", [text.len(), image.len()], F32)?;
    let weight = 1.0;
    let layout = Layout::new(OPERATION, &[Pair { text, image, weight }], features)?;
    let distance = context.allocate(F32.bytes())?;
    let to = [plan.address(), distance.address()];
    align(OPERATION, context, features, &layout, ipot, to).map(drop)
}

/// What [`align`] computes beside plans and distances, as in [`Saved`].
struct Aligned {
    pairs: Buffer,
    units: Buffer,
    norms: Buffer,
    cosines: Buffer,
}

/// Writes the plans of all pairs, one after the other, and their weighted distances.
fn align(
    operation: &'static str,
    context: &Context,
    features: Matrix,
    layout: &Layout,
    ipot: Ipot,
    [plans, distances]: [Address; 2],
) -> Result<Aligned> {
    let width = features.columns();
    features.expect(operation, "features", [features.rows(), width], F32)?;
    let floats = |count: usize| context.allocate(count * F32.bytes());
    let aligned = Aligned {
        pairs: context.upload(&layout.pairs)?,
        units: floats(layout.rows * width)?,
        norms: floats(layout.rows)?,
        cosines: floats(layout.values)?,
    };
    if layout.pairs.is_empty() {
        return Ok(aligned);
    }
    let pairs = aligned.pairs.address();
    let [units, norms, cosines] = [&aligned.units, &aligned.norms, &aligned.cosines].map(Buffer::address);
    let columns = to_i32(operation, width)?;

    // A warp for each row.
    let groups = (layout.words + layout.patches).div_ceil((THREADS / WARP) as usize);
    // SAFETY: the rows of the pairs are rows of the features, and there is memory for each of them.
    unsafe {
        launch!(
            context,
            "transport_normalise",
            layout.grid(operation, groups)?,
            [THREADS, 1, 1],
            0,
            [
                features.address(),
                pairs,
                units,
                norms,
                columns,
                to_i32(operation, groups)?
            ]
        )?;
    }
    let [word_tiles, patch_tiles] = [layout.words.div_ceil(TILE[0]), layout.patches.div_ceil(TILE[1])];
    // SAFETY: there is memory for the matrix of each pair.
    unsafe {
        launch!(
            context,
            "transport_cosines",
            layout.grid(operation, word_tiles * patch_tiles)?,
            [THREADS, 1, 1],
            ((TILE[0] + TILE[1]) * TILE[2] * F32.bytes()) as u32,
            [
                units,
                pairs,
                cosines,
                columns,
                to_i32(operation, word_tiles)?,
                to_i32(operation, patch_tiles)?
            ]
        )?;
    }
    let (kernels, scalings) = (floats(layout.values)?, floats(layout.rows)?);
    let shared_values = layout.shared_values();
    // A thread for each column.
    let threads = layout.patches.next_multiple_of(WARP as usize).clamp(128, 1024) as u32;
    // SAFETY: there is memory for the matrices, factors and distance of each pair, and shared memory for plans that fit.
    unsafe {
        launch!(
            context,
            "transport_plans",
            layout.grid(operation, 1)?,
            [threads, 1, 1],
            ((WARP as usize + shared_values) * F32.bytes()) as u32,
            [
                cosines,
                pairs,
                kernels.address(),
                scalings.address(),
                plans,
                distances,
                ipot.beta,
                to_i32(operation, ipot.iterations)?,
                to_i32(operation, shared_values)?
            ]
        )?;
    }
    Ok(aligned)
}

/// Computes `d_features = β·d_features + …`, the gradient of the features `[T, D]`; `d` is the gradient of the result of [`forward`]. The
/// plans count as constant.
///
/// # Errors
/// Those of the driver, if shapes or types do not fit, or unless the rows of the pairs are in ascending order and none belongs to two
/// groups.
pub fn backward(context: &Context, saved: &Saved, d: f32, d_features: MatrixMut, beta: Beta) -> Result<()> {
    const OPERATION: &str = "gradient of optimal transport";
    let Saved { layout, shape, .. } = saved;
    d_features.expect(OPERATION, "d_features", *shape, F32)?;
    if !layout.is_disjoint {
        return Err(Error::InvalidArgument {
            operation: OPERATION,
            reason: "the rows of pairs overlap or are not in ascending order".into(),
        });
    }
    if d_features.is_empty() {
        return Ok(());
    }
    if beta == Beta::Zero {
        let bytes = d_features.len() * F32.bytes();
        context
            .driver()
            .fill(d_features.address(), 0, bytes, context.stream())?;
    }
    if layout.pairs.is_empty() {
        return Ok(());
    }
    let groups = layout.words.div_ceil(GROUP[0]) + layout.patches.div_ceil(GROUP[0]);
    // Four columns for each thread.
    let threads = shape[1]
        .div_ceil(4)
        .next_multiple_of(WARP as usize)
        .min(THREADS as usize);
    let [units, norms, cosines, plans] =
        [&saved.units, &saved.norms, &saved.cosines, &saved.plans].map(Buffer::address);
    // SAFETY: the rows of the pairs are rows of the features, whose gradient has their shape, and each belongs to one group.
    unsafe {
        launch!(
            context,
            "transport_backward",
            layout.grid(OPERATION, groups)?,
            [threads as u32, 1, 1],
            ((GROUP[0] * GROUP[1] + GROUP[0]) * F32.bytes()) as u32,
            [
                units,
                norms,
                cosines,
                plans,
                saved.pairs.address(),
                d,
                d_features.address(),
                to_i32(OPERATION, shape[1])?,
                to_i32(OPERATION, groups)?
            ]
        )
    }
}
