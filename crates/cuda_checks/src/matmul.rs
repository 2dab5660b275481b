//! Matrix products of the driver, with their epilogues.

use crate::device::{bf16_bound, random_bf16, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::{Element, Epilogue, Error, Matmul};
use vlct_kernels::reference;

const M: usize = 17;
const N: usize = 24;
const K: usize = 40;

/// All orders of operands, types of elements and epilogues.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn products_and_epilogues(device: &Device) -> Outcome {
    for transposed in [[false, false], [false, true], [true, false], [true, true]] {
        for elements in [[F32, F32], [Bf16, F32], [Bf16, Bf16]] {
            products(device, transposed, elements)
                .map_err(|e| e.to_string())
                .flatten()
                .map_err(|e| format!("transposed {transposed:?}, {elements:?}: {e}"))?;
        }
    }
    Ok(())
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0f32; x.len()];
    reference::transpose(&mut out, x, rows, columns);
    out
}

fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
}

fn products(device: &Device, [a_t, b_t]: [bool; 2], [element, d_element]: [Element; 2]) -> Result<Outcome, Error> {
    let (a, b) = (random_bf16(M * K, 1), random_bf16(K * N, 2));
    let (c, bias) = (random_bf16(M * N, 3), random_bf16(N, 4));
    let upload = |values: &[f32], element: Element| device.upload(values, element);
    let read = |buffer: &vlct_cuda::context::Buffer| device.read(buffer, d_element);
    let a_device = upload(&if a_t { transpose(&a, M, K) } else { a.clone() }, element)?;
    let b_device = upload(&if b_t { transpose(&b, K, N) } else { b.clone() }, element)?;
    let [c_device, bias_device] = [upload(&c, d_element)?, upload(&bias, d_element)?];
    let [d, aux, sums_n, sums_m] = [
        device.empty(M * N, d_element)?,
        device.empty(M * N, d_element)?,
        device.empty(N, d_element)?,
        device.empty(M, d_element)?,
    ];
    let (a_shape, b_shape) = (if a_t { [K, M] } else { [M, K] }, if b_t { [N, K] } else { [K, N] });
    let mut product = Matmul {
        m: M,
        n: N,
        k: K,
        alpha: 0.5,
        a: a_device.matrix(a_shape[0], a_shape[1], element).operand(a_t),
        b: b_device.matrix(b_shape[0], b_shape[1], element).operand(b_t),
        beta: 1.0,
        c: c_device.matrix(M, N, d_element).operand(false),
        d: d.matrix(M, N, d_element).operand(false),
        epilogue: Epilogue::None,
    };
    let mut run = |beta: f32, epilogue: Epilogue| {
        product.beta = beta;
        product.epilogue = epilogue;
        device.context.driver().matmul(&product, device.context.stream())?;
        read(&d)
    };
    let bias_at = bias_device.address();
    let with_c = run(1.0, Epilogue::None)?;
    let with_bias = run(0.0, Epilogue::Bias { bias: bias_at })?;
    let with_gelu = run(
        0.0,
        Epilogue::Gelu {
            bias: Some(bias_at),
            aux: Some(aux.address()),
        },
    )?;
    let hidden = read(&aux)?;
    let gelu_gradient = run(
        0.0,
        Epilogue::GeluGradient {
            aux: aux.address(),
            bias_gradient: Some(sums_n.address()),
        },
    )?;
    let column_sums = read(&sums_n)?;
    run(
        0.0,
        Epilogue::BiasGradient {
            bias_gradient: sums_m.address(),
        },
    )?;
    let row_sums = read(&sums_m)?;

    let mut plain = vec![0f32; M * N];
    reference::gemm(&mut plain, 0.0, 0.5, &a, &b, M, N, K);
    // All values are below 1, and so is the factor.
    let sum = sum_bound(K) * K as f32;
    let bound = |v: f32| sum + if d_element == Bf16 { bf16_bound(v) + sum } else { 0.0 };
    let close = |name: &str, got: &[f32], want: &[f32], factor: f32| {
        device.compare(name, got, want, |i| factor * bound(want[i]))
    };
    let map = |f: &dyn Fn(usize) -> f32| (0..M * N).map(f).collect::<Vec<_>>();
    let sum_of = |f: &dyn Fn(usize) -> f32, count: usize| (0..count).map(f).sum::<f32>();
    let check = || {
        close("β = 1", &with_c, &map(&|i| plain[i] + c[i]), 1.0)?;
        close("bias", &with_bias, &map(&|i| plain[i] + bias[i % N]), 1.0)?;
        close("hidden", &hidden, &map(&|i| plain[i] + bias[i % N]), 1.0)?;
        // The derivative of the GELU is below 1.13. Half its argument is the factor of the hyperbolic tangent t, whose derivative is u'·(1 − t²).
        let want = map(&|i| gelu(plain[i] + bias[i % N]));
        device.compare("gelu", &with_gelu, &want, |i| {
            1.13 * bound(want[i]) + 0.5 * hidden[i].abs() * device.tanh_error()
        })?;
        // A central difference has an error of h² and ε/h.
        let h = 1e-2;
        let slope = |x: f32| (gelu(x + h) - gelu(x - h)) / (2.0 * h);
        let want = map(&|i| plain[i] * slope(hidden[i]));
        let of_tanh = |i: usize| {
            let x = hidden[i].abs();
            let u = (2.0 / std::f32::consts::PI).sqrt() * (1.0 + 3.0 * 0.044715 * x * x);
            plain[i].abs() * (0.5 + x * u) * device.tanh_error()
        };
        device.compare("gradient of gelu", &gelu_gradient, &want, |i| {
            1.13 * bound(want[i]) + 2e-4 * plain[i].abs() + of_tanh(i)
        })?;
        let want: Vec<f32> = (0..N).map(|c| sum_of(&|r| want[r * N + c], M)).collect();
        device.compare("sums of its rows", &column_sums, &want, |c| {
            let of_tanh = sum_of(&|r| of_tanh(r * N + c), M);
            M as f32 * (2.0 * sum + 2e-4 * K as f32 * 0.5) + bf16_bound(want[c]) + of_tanh
        })?;
        let want: Vec<f32> = (0..M).map(|r| sum_of(&|k| a[r * K + k], K)).collect();
        close("sums of A", &row_sums, &want, 1.0)
    };
    Ok(check())
}
