//! Optimal transport between words and patches.

use crate::support::{Device, compare, expect_error, expect_fault, random, sum_bound};
use crate::{Outcome, Test};
use std::ops::Range;
use vlct_cuda::driver::Element::F32;
use vlct_cuda::driver::Error;
use vlct_cuda::driver::emulator::{Schedule, Source};
use vlct_cuda::transport::{self, Pair};
use vlct_kernels::mat::Beta;
use vlct_kernels::reference;
use vlct_kernels::transport::Ipot;

/// Numbers of words and patches of each pair, and the width: a pair without words, small ones, one that exceeds the shared memory of a plan.
const CASES: [(&[[usize; 2]], usize); 4] = [
    (&[[1, 1]], 7),
    (&[[3, 4], [0, 5], [6, 1], [5, 40]], 17),
    (&[[9, 70], [2, 3]], 64),
    (&[[40, 640]], 8),
];

pub fn tests() -> Vec<Test> {
    let fault = |name: &str, from: &'static str, to: &'static str| {
        Test::new(format!("transport::finds_{name}"), move || {
            let read = |name: &str| Source::kernel_file(name).map_err(|e| e.to_string());
            let others = [read("scalars.cu")?, read("elementwise.cu")?];
            let source = read("transport.cu")?.with_fault(from, to);
            expect_fault(for_all(&Device::with_sources(&[&[source][..], &others].concat())?))
        })
    };
    vec![
        Test::new("transport::distances_plans_and_gradients", || for_all(&Device::new()?)),
        Test::new("transport::names_rows_that_do_not_exist", wrong_rows),
        fault(
            "a_missing_barrier_between_columns_and_rows",
            "        __syncthreads();  // all columns are multiplied, and `delta` is complete\n",
            "",
        ),
        fault(
            "a_missing_barrier_between_iterations",
            "        __syncthreads();  // all rows are multiplied, and `sigma` is complete\n",
            "",
        ),
        fault(
            "a_missing_iteration",
            "iteration < iterations",
            "iteration + 1 < iterations",
        ),
        fault("a_row_instead_of_a_column", "is_word ? 1 : p.patches;", "1;"),
        fault("a_missing_projection", "(du[c] - u[c] * projection)", "du[c]"),
        fault(
            "a_plan_that_stays_in_shared_memory",
            "plans[p.matrix + i] = t[i];",
            "plans[p.matrix] = t[i];",
        ),
    ]
}

fn for_all(device: &Device) -> Outcome {
    for schedule in Schedule::ALL {
        device.emulator.set_schedule(schedule);
        for (sizes, width) in CASES {
            for beta in [Beta::Zero, Beta::One] {
                check(device, sizes, width, beta)
                    .map_err(|e| e.to_string())
                    .flatten()
                    .map_err(|e| format!("{schedule:?}, {sizes:?}, width {width}, {beta:?}: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Pairs with a row between any two groups, which belongs to no pair.
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

fn check(device: &Device, sizes: &[[usize; 2]], width: usize, beta: Beta) -> Result<Outcome, Error> {
    let context = &device.context;
    let (pairs, rows) = pairs(sizes);
    let mut x = random(rows * width, 1);
    // A word of zeros, whose norm is the lower bound.
    x[width..2 * width].fill(0.0);
    let before = random(rows * width, 2);
    let features = device.f32(&x)?;
    let view = features.matrix(rows, width, F32);
    let (mut distance, mut gradient) = (device.empty(1, F32)?, device.f32(&before)?);
    let d = 0.7;
    let saved = transport::forward(context, view, &pairs, Ipot::TRAINING, distance.matrix_mut(1, 1, F32))?;
    transport::backward(context, &saved, d, gradient.matrix_mut(rows, width, F32), beta)?;
    let [distance, gradient] = [device.read_f32(&distance)?, device.read_f32(&gradient)?];

    let mut want = match beta {
        Beta::Zero => vec![0.0; before.len()],
        Beta::One => before,
    };
    let (mut want_distance, mut plans) = (0.0, Vec::new());
    for pair in &pairs {
        let (n, m) = (pair.text.len(), pair.image.len());
        let rows_of = |rows: &Range<usize>| x[rows.start * width..rows.end * width].to_vec();
        let (text, image) = (rows_of(&pair.text), rows_of(&pair.image));
        let [mut cosines, mut plan] = [(); 2].map(|()| vec![0f32; n * m]);
        reference::cosines(&mut cosines, &text, &image, width);
        if n > 0 {
            let Ipot { beta, iterations } = Ipot::TRAINING;
            reference::transport_plan(&mut plan, &cosines, n, m, beta, iterations);
        }
        want_distance += pair.weight * reference::transport_distance(&cosines, &plan);
        let [mut d_text, mut d_image] = [vec![0f32; text.len()], vec![0f32; image.len()]];
        let weight = d * pair.weight;
        reference::transport_backward(&mut d_text, &mut d_image, &plan, &text, &image, width, weight);
        let mut add = |rows: &Range<usize>, d: &[f32]| {
            let to = &mut want[rows.start * width..rows.end * width];
            to.iter_mut().zip(d).for_each(|(to, d)| *to += d);
        };
        add(&pair.text, &d_text);
        add(&pair.image, &d_image);
        let mut got = device.empty(n * m, F32)?;
        let (text, image) = (pair.text.clone(), pair.image.clone());
        transport::plan(context, view, text, image, Ipot::TRAINING, got.matrix_mut(n, m, F32))?;
        plans.push((device.read_f32(&got)?, plan));
    }
    // An iteration divides each row and each column by a sum of positive terms. The relative errors of cosines grow by 1/β in the exponential,
    // and by an iteration each; the plan depends on them continuously, so that they add up.
    let largest = sizes.iter().map(|[n, m]| n.max(m)).max().copied().unwrap_or(1);
    let relative = (Ipot::TRAINING.iterations as f32) * (sum_bound(largest) + sum_bound(width) / Ipot::TRAINING.beta);
    let check = || {
        for (got, plan) in &plans {
            compare("plan", got, plan, |i| relative * plan[i] + f32::MIN_POSITIVE)?;
        }
        let total: f32 = pairs.iter().map(|pair| 2.0 * pair.weight).sum();
        compare("distance", &distance, &[want_distance], |_| relative * total)?;
        compare("gradient", &gradient, &want, |i| {
            // The sum of a plan is 1, units are at most 1, and norms are about √(width / 3), or the lower bound.
            let row = &x[i / width * width..][..width];
            let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt().max(1e-5);
            relative * 2.0 * d * sizes.len() as f32 / norm + sum_bound(0) * want[i].abs()
        })
    };
    Ok(check())
}

fn wrong_rows() -> Outcome {
    let device = Device::new()?;
    let run = || -> Result<(), Error> {
        let (x, mut distance) = (device.f32(&random(16, 1))?, device.empty(1, F32)?);
        let pair = Pair {
            text: 0..1,
            image: 1..9,
            weight: 1.0,
        };
        let out = distance.matrix_mut(1, 1, F32);
        transport::forward(&device.context, x.matrix(2, 8, F32), &[pair], Ipot::TRAINING, out).map(drop)
    };
    expect_error(run().map_err(|e| e.to_string()), &["0..1 and 1..9 are not rows of 2"])
}
