//! Layer norm, forward and backward.

use crate::device::{bf16_bound, random, random_bf16, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::Error;
use vlct_cuda::layer_norm::{self, Gradients, Saved, Weights};
use vlct_kernels::mat::Beta;
use vlct_kernels::reference;

const EPS: f32 = 1e-6;

/// Forward pass in f32 and bfloat16.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn forward(device: &Device) -> Outcome {
    device.for_all(check_forward)
}

/// Gradients of inputs, scales and shifts.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn backward(device: &Device) -> Outcome {
    device.for_all(check_backward)
}

/// Gradients of rows whose sums do not fit into shared memory.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn backward_of_rows_too_wide_for_shared_memory(device: &Device) -> Outcome {
    check_backward(device, [5, 6200])
}

/// The values that all comparisons need.
struct Reference {
    x: Vec<f32>,
    w: Vec<f32>,
    b: Vec<f32>,
    y: Vec<f32>,
    mean: Vec<f32>,
    rstd: Vec<f32>,
    normalised: Vec<f32>,
}

impl Reference {
    fn new([rows, width]: [usize; 2]) -> Self {
        let (x, w, b) = (random(rows * width, 1), random(width, 2), random(width, 3));
        let (mut y, mut mean, mut rstd) = (vec![0f32; x.len()], vec![0f32; rows], vec![0f32; rows]);
        reference::layer_norm_forward(&mut y, &mut mean, &mut rstd, &x, &w, &b, EPS);
        let normalised = (0..x.len())
            .map(|i| (x[i] - mean[i / width]) * rstd[i / width])
            .collect();
        Self {
            x,
            w,
            b,
            y,
            mean,
            rstd,
            normalised,
        }
    }

    /// The bound of the normalised value `i`. The mean has an error of `sum_bound` times the largest input, 1, which `rstd` scales. The
    /// error of the mean changes the variance in second order only, so that `rstd` has the relative error of one sum of `width` terms.
    fn normalised_bound(&self, i: usize) -> f32 {
        let width = self.w.len();
        sum_bound(width) * (self.rstd[i / width] + self.normalised[i].abs())
    }

    fn y_bound(&self, i: usize) -> f32 {
        let c = i % self.w.len();
        self.normalised_bound(i) * self.w[c].abs() + sum_bound(0) * (self.b[c].abs() + self.y[i].abs())
    }
}

fn check_forward(device: &Device, [rows, width]: [usize; 2]) -> Outcome {
    let want = Reference::new([rows, width]);
    run_forward(device, &want, [rows, width]).map_err(|e| e.to_string())?
}

fn run_forward(device: &Device, want: &Reference, [rows, width]: [usize; 2]) -> Result<Outcome, Error> {
    let context = &device.context;
    let [x, w, b] = [device.f32(&want.x)?, device.f32(&want.w)?, device.f32(&want.b)?];
    let norm = Weights {
        scale: w.matrix(1, width, F32),
        shift: b.matrix(1, width, F32),
        eps: EPS,
    };
    let mut y = device.empty(rows * width, F32)?;
    let [mut mean, mut rstd] = [device.empty(rows, F32)?, device.empty(rows, F32)?];
    layer_norm::forward(
        context,
        x.matrix(rows, width, F32),
        norm,
        y.matrix_mut(rows, width, F32),
        mean.matrix_mut(1, rows, F32),
        rstd.matrix_mut(1, rows, F32),
    )?;
    let [mut normalised, mut y_bf16] = [device.empty(rows * width, Bf16)?, device.empty(rows * width, Bf16)?];
    let mut rstd_bf16 = device.empty(rows, F32)?;
    layer_norm::forward_bf16(
        context,
        x.matrix(rows, width, F32),
        norm,
        normalised.matrix_mut(rows, width, Bf16),
        y_bf16.matrix_mut(rows, width, Bf16),
        rstd_bf16.matrix_mut(1, rows, F32),
    )?;
    let mut again = device.empty(rows * width, Bf16)?;
    let saved = normalised.matrix(rows, width, Bf16);
    layer_norm::output_bf16(context, saved, norm, again.matrix_mut(rows, width, Bf16))?;
    let again = device.read_bf16(&again)?;
    let [y, mean, rstd] = [device.read_f32(&y)?, device.read_f32(&mean)?, device.read_f32(&rstd)?];
    let rstd_bf16 = device.read_f32(&rstd_bf16)?;
    let [normalised, y_bf16] = [device.read_bf16(&normalised)?, device.read_bf16(&y_bf16)?];
    let check = || {
        let sum = sum_bound(width);
        device.compare("y", &y, &want.y, |i| want.y_bound(i))?;
        device.compare("mean", &mean, &want.mean, |_| sum)?;
        device.compare("rstd", &rstd, &want.rstd, |i| sum * want.rstd[i])?;
        device.compare("rstd in bf16", &rstd_bf16, &want.rstd, |i| sum * want.rstd[i])?;
        let rounded = |value: f32, bound: f32| bound + bf16_bound(value.abs() + bound);
        device.compare("normalised", &normalised, &want.normalised, |i| {
            rounded(want.normalised[i], want.normalised_bound(i))
        })?;
        device.compare("y in bf16", &y_bf16, &want.y, |i| rounded(want.y[i], want.y_bound(i)))?;
        let of_saved: Vec<f32> = (0..rows * width)
            .map(|i| normalised[i] * want.w[i % width] + want.b[i % width])
            .collect();
        device.compare("y from saved rows", &again, &of_saved, |i| {
            bf16_bound(of_saved[i]) + sum_bound(0) * (normalised[i].abs() + 1.0)
        })
    };
    Ok(check())
}

fn check_backward(device: &Device, shape: [usize; 2]) -> Outcome {
    for (element, beta) in [
        (F32, Beta::Zero),
        (F32, Beta::One),
        (Bf16, Beta::Zero),
        (Bf16, Beta::One),
    ] {
        run_backward(device, shape, element, beta)
            .map_err(|e| e.to_string())
            .flatten()
            .map_err(|e| format!("{element:?}, {beta:?}: {e}"))?;
    }
    Ok(())
}

fn run_backward(
    device: &Device,
    [rows, width]: [usize; 2],
    element: vlct_cuda::driver::Element,
    beta: Beta,
) -> Result<Outcome, Error> {
    let context = &device.context;
    let mut want = Reference::new([rows, width]);
    let dy = random_bf16(rows * width, 4);
    if element == Bf16 {
        // The reference computes normalised rows from an input: with the mean 0, this input gives the rows that are saved.
        want.normalised = random_bf16(rows * width, 5);
        want.mean.fill(0.0);
        want.x = (0..rows * width)
            .map(|i| want.normalised[i] / want.rstd[i / width])
            .collect();
    }
    let before = random(rows * width, 6);
    let mut want_dx = if beta == Beta::One {
        before.clone()
    } else {
        vec![0.0; before.len()]
    };
    let [mut want_dw, mut want_db] = [(); 2].map(|()| vec![0f32; width]);
    reference::layer_norm_backward(
        &mut want_dx,
        &mut want_dw,
        &mut want_db,
        &dy,
        &want.x,
        &want.w,
        &want.mean,
        &want.rstd,
    );

    let [w, rstd, mean] = [device.f32(&want.w)?, device.f32(&want.rstd)?, device.f32(&want.mean)?];
    let mut dx = match beta {
        // Memory that was not written: β = 0 must not read it.
        Beta::Zero => device.empty(rows * width, F32)?,
        Beta::One => device.f32(&before)?,
    };
    let mut rounded = device.empty(rows * width, Bf16)?;
    let [mut dw, mut db] = [device.empty(width, F32)?, device.empty(width, F32)?];
    let saved_matrix = match element {
        F32 => device.f32(&want.x)?,
        Bf16 => device.bf16(&want.normalised)?,
    };
    let d_out = match element {
        F32 => device.f32(&dy)?,
        Bf16 => device.bf16(&dy)?,
    };
    let matrix = saved_matrix.matrix(rows, width, element);
    let saved = match element {
        F32 => Saved::Input {
            x: matrix,
            mean: mean.matrix(1, rows, F32),
        },
        Bf16 => Saved::Normalised(matrix),
    };
    layer_norm::backward(
        context,
        d_out.matrix(rows, width, element),
        saved,
        rstd.matrix(1, rows, F32),
        w.matrix(1, width, F32),
        Gradients {
            dx: dx.matrix_mut(rows, width, F32),
            beta,
            rounded: (element == Bf16).then(|| rounded.matrix_mut(rows, width, Bf16)),
            d_scale: dw.matrix_mut(1, width, F32),
            d_shift: db.matrix_mut(1, width, F32),
        },
    )?;
    let [dx, dw, db] = [device.read_f32(&dx)?, device.read_f32(&dw)?, device.read_f32(&db)?];
    let rounded = device.read_bf16(&rounded)?;

    let g: Vec<f32> = (0..dy.len()).map(|i| (dy[i] * want.w[i % width]).abs()).collect();
    let n: Vec<f32> = want.normalised.iter().map(|n| n.abs()).collect();
    let row_mean = |r: usize, f: &dyn Fn(usize) -> f32| (r * width..(r + 1) * width).map(f).sum::<f32>() / width as f32;
    let means: Vec<[f32; 2]> = (0..rows)
        .map(|r| [row_mean(r, &|i| g[i]), row_mean(r, &|i| g[i] * n[i])])
        .collect();
    let column = |c: usize, f: &dyn Fn(usize) -> f32| (0..rows).map(|r| f(r * width + c)).sum::<f32>();
    let check = || {
        device.compare("dx", &dx, &want_dx, |i| {
            let [g_mean, gn_mean] = means[i / width];
            let magnitude = want.rstd[i / width] * (g[i] + g_mean + n[i] * gn_mean);
            sum_bound(width) * magnitude + sum_bound(0) * before[i].abs()
        })?;
        device.compare("d_scale", &dw, &want_dw, |c| {
            sum_bound(rows) * column(c, &|i| dy[i].abs() * n[i])
        })?;
        device.compare("d_shift", &db, &want_db, |c| {
            sum_bound(rows) * column(c, &|i| dy[i].abs())
        })?;
        if element == Bf16 {
            let want: Vec<f32> = dx
                .iter()
                .map(|v| vlct_kernels::bf16::Bf16::from_f32(*v).to_f32())
                .collect();
            device.compare("rounded", &rounded, &want, |_| 0.0)?;
        }
        Ok(())
    };
    Ok(check())
}

/// Gradients whose bits must not depend on the schedule.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn equal_bits_twice(device: &Device) -> Outcome {
    let mut first: Option<Vec<f32>> = None;
    device.repeatedly(|device| {
        let got = gradients(device, [150, 100]).map_err(|e| e.to_string())?;
        let first = first.get_or_insert_with(|| got.clone());
        device.compare("gradients", &got, first, |_| 0.0)
    })
}

/// Returns the gradients of inputs, scales and shifts, one after the other.
fn gradients(device: &Device, [rows, width]: [usize; 2]) -> Result<Vec<f32>, Error> {
    let [x, w] = [device.f32(&random(rows * width, 1))?, device.f32(&random(width, 2))?];
    let [mean, rstd] = [device.f32(&random(rows, 3))?, device.f32(&random(rows, 4))?];
    let mut dx = device.empty(rows * width, F32)?;
    let [mut dw, mut db] = [device.empty(width, F32)?, device.empty(width, F32)?];
    let x = x.matrix(rows, width, F32);
    let mean = mean.matrix(1, rows, F32);
    let gradients = Gradients {
        dx: dx.matrix_mut(rows, width, F32),
        beta: Beta::Zero,
        rounded: None,
        d_scale: dw.matrix_mut(1, width, F32),
        d_shift: db.matrix_mut(1, width, F32),
    };
    let (rstd, scale) = (rstd.matrix(1, rows, F32), w.matrix(1, width, F32));
    layer_norm::backward(&device.context, x, Saved::Input { x, mean }, rstd, scale, gradients)?;
    Ok([device.read_f32(&dx)?, device.read_f32(&dw)?, device.read_f32(&db)?].concat())
}
