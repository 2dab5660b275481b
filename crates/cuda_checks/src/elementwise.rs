//! Element-wise operations.

use crate::device::{bf16_bound, random};
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::Error;
use vlct_cuda::elementwise;
use vlct_kernels::mat::Beta;
use vlct_kernels::{bf16, reference};

/// ε of f32: a bound for two rounded operations.
const EPS: f32 = f32::EPSILON;

/// All element-wise operations.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn values(device: &Device) -> Outcome {
    device.for_all(check)
}

fn check(device: &Device, shape: [usize; 2]) -> Outcome {
    flat(device, shape).map_err(|e| e.to_string())??;
    rows(device, shape).map_err(|e| e.to_string())?
}

/// Functions that do not depend on rows.
fn flat(device: &Device, [rows, width]: [usize; 2]) -> Result<Outcome, Error> {
    let count = rows * width;
    let context = &device.context;
    // The GELU changes on [−4, 4].
    let x: Vec<f32> = random(count, 1).iter().map(|v| 4.0 * v).collect();
    let dy = random(count, 2);
    let x_device = device.f32(&x)?;
    let x_view = x_device.matrix(rows, width, F32);
    let mut outcomes = Vec::new();
    let mut run = |name: &str,
                   start: Option<&[f32]>,
                   want: Vec<f32>,
                   bound: &dyn Fn(usize) -> f32,
                   launch: &dyn Fn(vlct_cuda::matrix::MatrixMut) -> Result<(), Error>| {
        let mut out = match start {
            Some(values) => device.f32(values)?,
            None => device.empty(count, F32)?,
        };
        launch(out.matrix_mut(rows, width, F32))?;
        outcomes.push(device.compare(name, &device.read_f32(&out)?, &want, bound));
        Ok::<_, Error>(())
    };
    run("fill", None, vec![0.25; count], &|_| 0.0, &|out| {
        elementwise::fill(context, 0.25, out)
    })?;
    run("add with β = 0", None, x.clone(), &|_| 0.0, &|out| {
        elementwise::add(context, x_view, out, Beta::Zero)
    })?;
    let sum = (0..count).map(|i| dy[i] + x[i]).collect();
    run("add with β = 1", Some(&dy), sum, &|_| 0.0, &|out| {
        elementwise::add(context, x_view, out, Beta::One)
    })?;
    let mut want = vec![0f32; count];
    // The reference's error function has an absolute error below 1.5e-7 (`vlct_simd::math::erf`), the argument an error of ε·|x|/2.
    reference::gelu_forward(&mut want, &x);
    run(
        "gelu",
        None,
        want.clone(),
        &|i| (1.0 + x[i].abs()) * 4.0 * EPS,
        &|out| elementwise::gelu(context, x_view, out),
    )?;
    reference::gelu_backward(&mut want, &x, &dy);
    run(
        "gradient of gelu",
        Some(&dy),
        want.clone(),
        &|i| (1.0 + x[i] * x[i]) * 4.0 * EPS,
        &|out| elementwise::gelu_backward(context, x_view, out),
    )?;
    let tanh: Vec<f32> = x.iter().map(|v| v.tanh()).collect();
    run("tanh", None, tanh, &|_| 2.0 * EPS, &|out| {
        elementwise::tanh(context, x_view, out)
    })?;
    let want: Vec<f32> = (0..count).map(|i| dy[i] * (1.0 - x[i] * x[i])).collect();
    run(
        "gradient of tanh",
        Some(&dy),
        want.clone(),
        &|i| (1.0 + x[i] * x[i]) * 2.0 * EPS,
        &|out| elementwise::tanh_backward(context, x_view, out),
    )?;
    let mut rounded = device.empty(count, Bf16)?;
    elementwise::round(context, x_view, rounded.matrix_mut(rows, width, Bf16))?;
    let want: Vec<f32> = x.iter().map(|v| bf16::Bf16::from_f32(*v).to_f32()).collect();
    run("rounding and widening", None, want.clone(), &|_| 0.0, &|out| {
        elementwise::widen(context, rounded.matrix(rows, width, Bf16), out)
    })?;
    let mut activation = device.empty(count, Bf16)?;
    let hidden = rounded.matrix(rows, width, Bf16);
    elementwise::gelu_tanh(context, hidden, activation.matrix_mut(rows, width, Bf16))?;
    let want: Vec<f32> = want.iter().map(|v| gelu_tanh(*v)).collect();
    // Half a unit in the last place of the result, and the rounding errors of the argument of `exp`.
    let bound = |i: usize| bf16_bound(want[i]) + 32.0 * EPS * (1.0 + x[i].abs());
    let activation = device.read_bf16(&activation)?;
    outcomes.push(device.compare("gelu in the tanh form", &activation, &want, bound));
    Ok(outcomes.into_iter().collect())
}

/// The tanh form of the GELU, `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
fn gelu_tanh(x: f32) -> f32 {
    let x = f64::from(x);
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
    (0.5 * x * (1.0 + u.tanh())) as f32
}

/// Functions with a factor for each row.
fn rows(device: &Device, [rows, width]: [usize; 2]) -> Result<Outcome, Error> {
    let count = rows * width;
    let (x, y) = (random(count, 1), random(count, 2));
    let mut factors = random(rows, 3);
    // Two rows that are copies.
    factors.iter_mut().take(2).zip([0.0, 1.0]).for_each(|(f, v)| *f = v);
    let [x_device, y_device, f_device] = [device.f32(&x)?, device.f32(&y)?, device.f32(&factors)?];
    let [mut scaled, mut mixed] = [device.empty(count, F32)?, device.empty(count, F32)?];
    let (x_view, f_view) = (x_device.matrix(rows, width, F32), f_device.matrix(1, rows, F32));
    elementwise::scale_rows(&device.context, x_view, f_view, scaled.matrix_mut(rows, width, F32))?;
    let y_view = y_device.matrix(rows, width, F32);
    elementwise::interpolate_rows(
        &device.context,
        x_view,
        y_view,
        f_view,
        mixed.matrix_mut(rows, width, F32),
    )?;
    let [mut want_scaled, mut want_mixed] = [vec![0f32; count], vec![0f32; count]];
    vlct_kernels::elementwise::scale_rows(&x, &factors, &mut want_scaled);
    vlct_kernels::elementwise::interpolate_rows(&x, &y, &factors, &mut want_mixed);
    let [scaled, mixed] = [device.read_f32(&scaled)?, device.read_f32(&mixed)?];
    let check = || {
        device.compare("scaled rows", &scaled, &want_scaled, |_| 0.0)?;
        device.compare("interpolated rows", &mixed, &want_mixed, |i| match factors[i / width] {
            0.0 | 1.0 => 0.0,
            _ => (x[i].abs() + y[i].abs()) * 2.0 * EPS,
        })
    };
    Ok(check())
}

/// Rounding of ties, infinities, subnormal numbers and NaN to bfloat16.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn rounding_of_special_values(device: &Device) -> Outcome {
    special_values(device).map_err(|e| e.to_string())?
}

fn special_values(device: &Device) -> Result<Outcome, Error> {
    // Ties, overflow to infinity, and subnormal numbers.
    let values = [
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        f32::MAX,
        f32::NEG_INFINITY,
        -0.0,
        1e-40,
        f32::NAN,
    ];
    let x = device.f32(&values)?;
    let mut out = device.empty(values.len(), Bf16)?;
    let count = values.len();
    elementwise::round(&device.context, x.matrix(1, count, F32), out.matrix_mut(1, count, Bf16))?;
    let got = device.read_bf16(&out)?;
    let want = values.map(|v| bf16::Bf16::from_f32(v).to_f32());
    if !got[count - 1].is_nan() {
        return Ok(Err("a NaN was rounded to a number".into()));
    }
    let bits = |values: &[f32]| values[..count - 1].iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    Ok(if bits(&got) == bits(&want) {
        Ok(())
    } else {
        Err(format!("{got:?} instead of {want:?}"))
    })
}
