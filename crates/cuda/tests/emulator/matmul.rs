//! Matrix products of the driver, with their epilogues.

use crate::support::{Device, bf16_bound, compare, expect_error, random_bf16, sum_bound};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::{Driver, Element, Epilogue, Error, Matmul};
use vlct_kernels::reference;

const M: usize = 17;
const N: usize = 24;
const K: usize = 40;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("matmul::products_and_epilogues", || {
            let device = Device::with_sources(&[])?;
            for transposed in [[false, false], [false, true], [true, false], [true, true]] {
                for elements in [[F32, F32], [Bf16, F32], [Bf16, Bf16]] {
                    products(&device, transposed, elements)
                        .map_err(|e| e.to_string())
                        .flatten()
                        .map_err(|e| format!("transposed {transposed:?}, {elements:?}: {e}"))?;
                }
            }
            Ok(())
        }),
        Test::new("matmul::rejects_contradictions", rejects_contradictions),
    ]
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
    let upload = |values: &[f32], element: Element| match element {
        F32 => device.f32(values),
        Bf16 => device.bf16(values),
    };
    let read = |buffer: &vlct_cuda::context::Buffer| match d_element {
        F32 => device.read_f32(buffer),
        Bf16 => device.read_bf16(buffer),
    };
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
        device.emulator.matmul(&product, device.context.stream())?;
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
    let close =
        |name: &str, got: &[f32], want: &[f32], factor: f32| compare(name, got, want, |i| factor * bound(want[i]));
    let map = |f: &dyn Fn(usize) -> f32| (0..M * N).map(f).collect::<Vec<_>>();
    let sum_of = |f: &dyn Fn(usize) -> f32, count: usize| (0..count).map(f).sum::<f32>();
    let check = || {
        close("β = 1", &with_c, &map(&|i| plain[i] + c[i]), 1.0)?;
        close("bias", &with_bias, &map(&|i| plain[i] + bias[i % N]), 1.0)?;
        close("hidden", &hidden, &map(&|i| plain[i] + bias[i % N]), 1.0)?;
        // The derivative of the GELU is below 1.13.
        close("gelu", &with_gelu, &map(&|i| gelu(plain[i] + bias[i % N])), 1.13)?;
        // A central difference has an error of h² and ε/h.
        let h = 1e-2;
        let slope = |x: f32| (gelu(x + h) - gelu(x - h)) / (2.0 * h);
        let want = map(&|i| plain[i] * slope(hidden[i]));
        compare("gradient of gelu", &gelu_gradient, &want, |i| {
            1.13 * bound(want[i]) + 2e-4 * plain[i].abs()
        })?;
        let want: Vec<f32> = (0..N).map(|c| sum_of(&|r| want[r * N + c], M)).collect();
        compare("sums of its rows", &column_sums, &want, |c| {
            M as f32 * (2.0 * sum + 2e-4 * K as f32 * 0.5) + bf16_bound(want[c])
        })?;
        let want: Vec<f32> = (0..M).map(|r| sum_of(&|k| a[r * K + k], K)).collect();
        close("sums of A", &row_sums, &want, 1.0)
    };
    Ok(check())
}

fn rejects_contradictions() -> Outcome {
    let device = Device::with_sources(&[])?;
    let buffer = device.context.zeros(1024).map_err(|e| e.to_string())?;
    let operand = buffer.matrix(4, 4, F32).operand(false);
    let product = Matmul {
        m: 4,
        n: 4,
        k: 4,
        alpha: 1.0,
        a: operand,
        b: operand,
        beta: 0.0,
        c: operand,
        d: operand,
        epilogue: Epilogue::None,
    };
    let run = |product: Matmul| {
        device
            .emulator
            .matmul(&product, device.context.stream())
            .map_err(|e| e.to_string())
    };
    run(product)?;
    let bf16 = buffer.matrix(4, 4, Bf16).operand(false);
    expect_error(run(Matmul { a: bf16, ..product }), &["the operands are Bf16 and F32"])?;
    expect_error(run(Matmul { c: bf16, ..product }), &["C and D must have the same type"])?;
    expect_error(
        run(Matmul {
            c: bf16,
            d: bf16,
            ..product
        }),
        &["a product of f32 operands has an f32 result"],
    )?;
    expect_error(
        run(Matmul { n: 5, ..product }),
        &["rows of B have 5 elements but a stride of 4"],
    )?;
    expect_error(run(Matmul { k: 0, ..product }), &["the sizes 4×4×0"])?;
    expect_error(run(Matmul { m: 1000, ..product }), &["not within one allocation"])
}
