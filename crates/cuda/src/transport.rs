//! Word-patch alignment by optimal transport: `kernels/transport.cu`.

use crate::context::{Buffer, Context};
use crate::driver::Element::F32;
use crate::driver::{Address, Error, Result};
use crate::elementwise;
use crate::launch::{THREADS, WARP, launch, to_blocks, to_i32};
use crate::matrix::{Matrix, MatrixMut};
use crate::packed::{Packed, Place, Uploaded};
use crate::scalars;
use bytemuck::{Pod, Zeroable};
use std::ops::Range;
use vlct_kernels::mat::Beta;
use vlct_kernels::transport::Ipot;

/// Largest shared memory of a block in bytes, so that two blocks fit into a multiprocessor of Hopper (227 KiB), and one into those of
/// compute capability 8.6 and 8.9 (99 KiB).
const SHARED_BYTES: usize = 96 << 10;

/// The words of a caption and the patches of an image, as rows of the features, and the factor of their distance.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The rows of the words.
    pub text: Range<usize>,
    /// The rows of the patches.
    pub image: Range<usize>,
    /// The factor.
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

/// A row of a pair, as in `transport.cu`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PairRow {
    pair: i32,
    row: i32,
}

/// The pairs on the device.
struct Pairs {
    arrays: Uploaded,
    places: [Place; 2],
    /// Number of pairs.
    count: usize,
    /// Number of rows of all pairs.
    rows: usize,
    /// Number of pairs of a word and a patch.
    values: usize,
    /// Largest number of words, of patches, and of pairs of both, of a pair.
    largest: [usize; 3],
}

impl Pairs {
    /// Copies the pairs that have words and patches to the device.
    fn new(context: &Context, operation: &'static str, pairs: &[Pair], features: usize) -> Result<Self> {
        let (mut list, mut rows, mut values, mut largest) = (Vec::new(), Vec::new(), 0, [0; 3]);
        for pair in pairs
            .iter()
            .filter(|pair| !pair.text.is_empty() && !pair.image.is_empty())
        {
            if pair.text.end.max(pair.image.end) > features {
                return Err(Error::InvalidArgument {
                    operation,
                    reason: format!("{:?} and {:?} are not rows of {features}", pair.text, pair.image),
                });
            }
            let (words, patches) = (pair.text.len(), pair.image.len());
            let number = to_i32(operation, list.len())?;
            list.push(DevicePair {
                text: to_i32(operation, pair.text.start)?,
                words: to_i32(operation, words)?,
                image: to_i32(operation, pair.image.start)?,
                patches: to_i32(operation, patches)?,
                unit: to_i32(operation, rows.len())?,
                weight: pair.weight,
                matrix: values as i64,
            });
            rows.extend((0..to_i32(operation, words + patches)?).map(|row| PairRow { pair: number, row }));
            values += words * patches;
            for (largest, size) in largest.iter_mut().zip([words, patches, words * patches]) {
                *largest = size.max(*largest);
            }
        }
        let mut arrays = Packed::default();
        let places = [arrays.push(&list), arrays.push(&rows)];
        Ok(Self {
            arrays: arrays.upload(context)?,
            places,
            count: list.len(),
            rows: rows.len(),
            values,
            largest,
        })
    }

    fn addresses(&self) -> [Address; 2] {
        self.places.map(|place| self.arrays.address(place))
    }
}

/// What the backward pass needs.
pub struct Saved {
    pairs: Pairs,
    /// The rows of all pairs, divided by their norms, `[R, D]`, and their norms.
    units: Buffer,
    norms: Buffer,
    /// The transport plans of all pairs.
    plans: Buffer,
    /// Rows and columns of the features.
    shape: [usize; 2],
}

/// Computes plans and `distance [1, 1]`, the sum of `weight · distance` over the pairs of rows of `features [T, D]`. The distance of a pair
/// without words or patches is 0.
///
/// # Errors
/// Those of the driver, or if a matrix has another type or rows do not exist.
pub fn forward(context: &Context, features: Matrix, pairs: &[Pair], ipot: Ipot, distance: MatrixMut) -> Result<Saved> {
    const OPERATION: &str = "optimal transport";
    let width = features.columns();
    features.expect(OPERATION, "features", [features.rows(), width], F32)?;
    distance.expect(OPERATION, "distance", [1, 1], F32)?;
    let pairs = Pairs::new(context, OPERATION, pairs, features.rows())?;
    let floats = |count: usize| context.allocate(count * F32.bytes());
    let (units, norms) = (floats(pairs.rows * width)?, floats(pairs.rows)?);
    let [cosines, kernels, plans] = [floats(pairs.values)?, floats(pairs.values)?, floats(pairs.values)?];
    let distances = floats(pairs.count)?;
    if pairs.count > 0 {
        let [list, rows] = pairs.addresses();
        let (count, columns) = (to_i32(OPERATION, pairs.rows)?, to_i32(OPERATION, width)?);
        let warps = (THREADS / WARP) as usize;
        let grid = [to_blocks(OPERATION, pairs.rows.div_ceil(warps))?, 1, 1];
        let (units, norms) = (units.address(), norms.address());
        // SAFETY: the rows of the pairs are rows of the features, and there is memory for each of them.
        unsafe {
            launch!(
                context,
                "transport_normalise",
                grid,
                [THREADS, 1, 1],
                0,
                [features.address(), list, rows, units, norms, count, columns]
            )?;
        }
        let grid = [to_blocks(OPERATION, pairs.rows)?, 1, 1];
        let cosines = cosines.address();
        // SAFETY: there is memory for the matrices of all pairs.
        unsafe {
            launch!(
                context,
                "transport_cosines",
                grid,
                [THREADS, 1, 1],
                0,
                [units, list, rows, cosines, columns]
            )?;
        }
        let [words, patches, values] = pairs.largest;
        let without_plan = (warps + words + patches) * F32.bytes();
        let with_plan = without_plan + values * F32.bytes();
        let plan_is_shared = with_plan <= SHARED_BYTES;
        let shared = to_i32(OPERATION, if plan_is_shared { with_plan } else { without_plan })?.unsigned_abs();
        let grid = [to_blocks(OPERATION, pairs.count)?, 1, 1];
        let (beta, iterations) = (ipot.beta, to_i32(OPERATION, ipot.iterations)?);
        let (kernels, plans, distances) = (kernels.address(), plans.address(), distances.address());
        // SAFETY: there is memory for the matrices and the distance of each pair, and shared memory for the largest pair.
        unsafe {
            launch!(
                context,
                "transport_plans",
                grid,
                [THREADS, 1, 1],
                shared,
                [
                    cosines,
                    list,
                    kernels,
                    plans,
                    distances,
                    beta,
                    iterations,
                    i32::from(plan_is_shared)
                ]
            )?;
        }
    }
    scalars::sum(OPERATION, context, &distances, pairs.count, 1.0, &distance)?;
    Ok(Saved {
        pairs,
        units,
        norms,
        plans,
        shape: [features.rows(), width],
    })
}

/// Computes `d_features = β·d_features + …`, the gradient of the features `[T, D]`; `d` is the gradient of the result of [`forward`]. Rows of
/// different pairs must not overlap.
///
/// # Errors
/// Those of the driver, or if shapes or types do not fit.
pub fn backward(context: &Context, saved: &Saved, d: f32, mut d_features: MatrixMut, beta: Beta) -> Result<()> {
    const OPERATION: &str = "gradient of optimal transport";
    let width = saved.shape[1];
    d_features.expect(OPERATION, "d_features", saved.shape, F32)?;
    if beta == Beta::Zero {
        elementwise::fill(context, 0.0, d_features.reborrow())?;
    }
    if saved.pairs.count == 0 || width == 0 {
        return Ok(());
    }
    let [list, rows] = saved.pairs.addresses();
    let grid = [to_blocks(OPERATION, saved.pairs.rows)?, 1, 1];
    let shared = to_i32(OPERATION, ((THREADS / WARP) as usize + width) * F32.bytes())?.unsigned_abs();
    let (units, norms, plans) = (saved.units.address(), saved.norms.address(), saved.plans.address());
    let (dx, width) = (d_features.address(), to_i32(OPERATION, width)?);
    // SAFETY: the rows of the pairs are rows of the features, whose gradient has their shape.
    unsafe {
        launch!(
            context,
            "transport_backward",
            grid,
            [THREADS, 1, 1],
            shared,
            [units, norms, plans, list, rows, d, dx, width]
        )
    }
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
    if plan.is_empty() {
        return Ok(());
    }
    let mut distance = context.allocate(F32.bytes())?;
    let pair = Pair {
        text,
        image,
        weight: 1.0,
    };
    let saved = forward(context, features, &[pair], ipot, distance.matrix_mut(1, 1, F32))?;
    let bytes = plan.len() * F32.bytes();
    context
        .driver()
        .copy(plan.address(), saved.plans.address(), bytes, context.stream())
}
