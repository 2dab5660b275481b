//! Optimal transport between words and patches: plans, distances and gradients.

use crate::device::{random, sum_bound};
use crate::{Device, Outcome};
use std::ops::Range;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::transport::{self, Pair};
use vlct_kernels::mat::Beta;
use vlct_kernels::reference;
use vlct_kernels::transport::{Ipot, align};

/// Pairs of a call.
struct Case {
    /// Numbers of words and patches of each pair.
    sizes: &'static [[usize; 2]],
    width: usize,
    ipot: Ipot,
}

const fn case(sizes: &'static [[usize; 2]], width: usize, iterations: usize) -> Case {
    let beta = Ipot::TRAINING.beta;
    Case {
        sizes,
        width,
        ipot: Ipot { beta, iterations },
    }
}

/// No pair, empty groups only, single rows, empty groups between others, several tiles, rows that are wider than a block of the backward
/// pass, and a plan that fits into shared memory beside one that does not.
const CASES: [Case; 9] = [
    case(&[], 8, 50),
    case(&[[0, 3], [2, 0]], 8, 50),
    case(&[[1, 1]], 7, 50),
    case(&[[3, 4], [0, 5], [6, 1], [2, 0], [5, 40]], 17, 50),
    case(&[[4, 5]], 11, 0),
    case(&[[4, 5]], 11, 1),
    case(&[[33, 65], [2, 3], [9, 70]], 67, 8),
    case(&[[3, 5]], 1031, 4),
    case(&[[40, 577], [41, 600]], 9, 3),
];

/// Distances, plans and gradients of pairs of all sizes.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn distances_plans_and_gradients(device: &Device) -> Outcome {
    device.in_all_schedules(|device| {
        for case in &CASES {
            for beta in [Beta::Zero, Beta::One] {
                check(device, case, beta)
                    .map_err(|e| e.to_string())
                    .flatten()
                    .map_err(|e| {
                        let Case { sizes, width, ipot } = case;
                        format!("{sizes:?}, width {width}, {ipot:?}, {beta:?}: {e}")
                    })?;
            }
        }
        Ok(())
    })
}

/// Pairs with a row before, between and after all groups, which belongs to no pair, and the number of rows.
fn pairs(sizes: &[[usize; 2]]) -> (Vec<Pair>, usize) {
    let mut row = 0;
    let mut group = |len: usize| -> Range<usize> {
        let start = row + 1;
        row = start + len;
        start..row
    };
    let pair = |(i, [words, patches]): (usize, &[usize; 2])| Pair {
        text: group(*words),
        image: group(*patches),
        weight: 0.5 + i as f32,
    };
    let pairs = sizes.iter().enumerate().map(pair).collect();
    (pairs, row + 1)
}

/// The units and norms of some rows.
struct Units {
    rows: Vec<f32>,
    norms: Vec<f32>,
}

impl Units {
    fn new(x: &[f32], width: usize) -> Self {
        let norm = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-5);
        let norms: Vec<f32> = x.chunks_exact(width).map(norm).collect();
        Self {
            rows: (0..x.len()).map(|i| x[i] / norms[i / width]).collect(),
            norms,
        }
    }
}

fn check(device: &Device, case: &Case, beta: Beta) -> Result<Outcome, Error> {
    let context = &device.context;
    let Case { sizes, width, ipot } = *case;
    let (pairs, rows) = pairs(sizes);
    let mut x = random(rows * width, 1);
    if rows > 1 {
        // A row of zeros, whose norm is the lower bound.
        x[width..2 * width].fill(0.0);
    }
    let before = random(rows * width, 2);
    let features = device.f32(&x)?;
    let view = features.matrix(rows, width, F32);
    let (d, mut distance) = (0.7, device.empty(1, F32)?);
    let (mut gradient, before) = match beta {
        // Memory that was not written: β = 0 must not read it.
        Beta::Zero => (device.empty(rows * width, F32)?, vec![0.0; rows * width]),
        Beta::One => (device.f32(&before)?, before),
    };
    let saved = transport::forward(context, view, &pairs, ipot, distance.matrix_mut(1, 1, F32))?;
    transport::backward(context, &saved, d, gradient.matrix_mut(rows, width, F32), beta)?;
    let [distance, gradient] = [device.read_f32(&distance)?, device.read_f32(&gradient)?];

    let (mut want_distance, mut distance_bound) = (0.0, 0.0);
    let (mut want, mut bounds) = (before.clone(), vec![0f32; before.len()]);
    for pair in &pairs {
        let (n, m) = (pair.text.len(), pair.image.len());
        let mut got = device.empty(n * m, F32)?;
        let (text, image) = (pair.text.clone(), pair.image.clone());
        transport::plan(context, view, text, image, ipot, got.matrix_mut(n, m, F32))?;
        if n == 0 || m == 0 {
            continue;
        }
        let got = device.read_f32(&got)?;
        let rows_of = |rows: &Range<usize>| &x[rows.start * width..rows.end * width];
        let (text, image) = (rows_of(&pair.text), rows_of(&pair.image));
        let [mut cosines, mut plan] = [(); 2].map(|()| vec![0f32; n * m]);
        reference::cosines(&mut cosines, text, image, width);
        reference::transport_plan(&mut plan, &cosines, n, m, ipot.beta, ipot.iterations);
        // After k iterations, a plan is exp(k·a + f + g) with a = (cosine − 1)/β and with factors f of rows and g of columns. An iteration
        // adds the error of a cosine, divided by β, to the exponent, and that of a sum. The logarithm of a sum changes by at most the
        // largest change of its terms, so that f and g have at most the same error each.
        let iteration = sum_bound(width) / ipot.beta + sum_bound(n.max(m));
        let relative = 3.0 * ipot.iterations as f32 * iteration;
        let sums: Vec<f32> = got.chunks_exact(m).map(|row| row.iter().sum()).collect();
        let plans = || {
            device.compare("plan", &got, &plan, |i| relative * plan[i] + f32::MIN_POSITIVE)?;
            // The last step divides rows by their sums.
            let sum = if ipot.iterations > 0 { 1.0 / n as f32 } else { m as f32 };
            device.compare("sums of rows", &sums, &vec![sum; n], |_| sum_bound(m) * sum)
        };
        if let Err(e) = plans() {
            return Ok(Err(e));
        }
        let mass: f32 = plan.iter().sum();
        want_distance += pair.weight * reference::transport_distance(&cosines, &plan);
        distance_bound += pair.weight * mass * (2.0 * relative + sum_bound(width) + 2.0 * sum_bound(n * m));

        // The gradient of the plan that the device has.
        let [mut d_text, mut d_image] = [vec![0f32; text.len()], vec![0f32; image.len()]];
        let weight = d * pair.weight;
        reference::transport_backward(&mut d_text, &mut d_image, &got, text, image, width, weight);
        let (words, patches) = (Units::new(text, width), Units::new(image, width));
        let mut add = |first: usize, d_rows: &[f32], own: &Units, other: &Units, plan: &dyn Fn(usize, usize) -> f32| {
            let bound = sum_bound(other.norms.len() + width);
            for (i, d) in d_rows.iter().enumerate() {
                let (r, c) = (i / width, i % width);
                // The sum over the other rows of plan · (unit of the other row − own unit · cosine); a cosine has `width` terms.
                let term = |k: usize| plan(r, k) * (other.rows[k * width + c].abs() + own.rows[i].abs());
                let magnitude: f32 = (0..other.norms.len()).map(term).sum();
                want[first * width + i] += d;
                bounds[first * width + i] += bound * weight * magnitude / own.norms[r];
            }
        };
        add(pair.text.start, &d_text, &words, &patches, &|i, j| got[i * m + j]);
        add(pair.image.start, &d_image, &patches, &words, &|j, i| got[i * m + j]);
    }
    let check = || {
        device.compare("distance", &distance, &[want_distance], |_| distance_bound)?;
        device.compare("gradient", &gradient, &want, |i| {
            bounds[i] + sum_bound(0) * before[i].abs()
        })
    };
    Ok(check())
}

/// Rows whose norms are below the lower bound: the gradient has no projection, as that of the CPU kernel.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn constant_norms(device: &Device) -> Outcome {
    let (width, [n, m]) = (10, [2, 3]);
    let x: Vec<f32> = random((n + m) * width, 3).iter().map(|v| v * 3e-6).collect();
    let pair = Pair {
        text: 0..n,
        image: n..n + m,
        weight: 1.0,
    };
    let (text, image) = x.split_at(n * width);
    let alignment = align(text, image, width, Ipot::TRAINING);
    let mut want = vec![0f32; x.len()];
    let (d_text, d_image) = want.split_at_mut(n * width);
    alignment.backward(1.0, width, d_text, d_image);
    let run = || -> Result<Vec<f32>, Error> {
        let (features, mut distance) = (device.f32(&x)?, device.empty(1, F32)?);
        let (mut gradient, context) = (device.empty(x.len(), F32)?, &device.context);
        let view = features.matrix(n + m, width, F32);
        let saved = transport::forward(context, view, &[pair], Ipot::TRAINING, distance.matrix_mut(1, 1, F32))?;
        let to = gradient.matrix_mut(n + m, width, F32);
        transport::backward(context, &saved, 1.0, to, Beta::Zero)?;
        device.read_f32(&gradient)
    };
    // The plan's values, at most 1 together, have the relative error of the main test; units are at most 1, and the norm is 1e-5.
    let iterations = Ipot::TRAINING.iterations as f32;
    let relative = 3.0 * iterations * (sum_bound(width) / Ipot::TRAINING.beta + sum_bound(m));
    device.compare("gradient", &run().map_err(|e| e.to_string())?, &want, |_| {
        relative / 1e-5
    })
}
