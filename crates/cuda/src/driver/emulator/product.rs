//! Matrix products of the emulator, with f32 sums and the epilogues of cuBLASLt.

use super::lock;
use super::memory::{Memory, pointer};
use crate::driver::{Address, Element, Epilogue, Matmul, Operand, Result};
use rayon::prelude::*;
use std::sync::Mutex;
use vlct_kernels::bf16::Bf16;

/// Reads a row-major matrix of the device.
fn read(
    memory: &Mutex<Memory>,
    from: Address,
    rows: usize,
    columns: usize,
    stride: usize,
    element: Element,
) -> Result<Vec<f32>> {
    lock(memory).check(
        "matrix product",
        from,
        ((rows - 1) * stride + columns) * element.bytes(),
    )?;
    let at = |i: usize| {
        let address = pointer(from.offset((i / columns * stride + i % columns) * element.bytes()));
        // SAFETY: the range was checked; no kernel runs that may write it.
        unsafe {
            match element {
                Element::F32 => address.cast::<f32>().read_unaligned(),
                Element::Bf16 => address.cast::<Bf16>().read_unaligned().to_f32(),
            }
        }
    };
    Ok((0..rows * columns).map(at).collect())
}

/// Rounds to the type of the device's matrix and writes it.
fn write(
    memory: &Mutex<Memory>,
    to: Address,
    values: &[f32],
    columns: usize,
    stride: usize,
    element: Element,
) -> Result<()> {
    let rows = values.len() / columns;
    lock(memory).check("matrix product", to, ((rows - 1) * stride + columns) * element.bytes())?;
    for (i, value) in values.iter().enumerate() {
        let address = pointer(to.offset((i / columns * stride + i % columns) * element.bytes()));
        // SAFETY: the range was checked; no kernel runs that may access it.
        unsafe {
            match element {
                Element::F32 => address.cast::<f32>().write_unaligned(*value),
                Element::Bf16 => address.cast::<Bf16>().write_unaligned(Bf16::from_f32(*value)),
            }
        }
    }
    Ok(())
}

/// Reads op(X) `[rows, columns]`.
fn read_operand(memory: &Mutex<Memory>, x: &Operand, rows: usize, columns: usize) -> Result<Vec<f32>> {
    if !x.transposed {
        return read(memory, x.address, rows, columns, x.stride, x.element);
    }
    let stored = read(memory, x.address, columns, rows, x.stride, x.element)?;
    Ok((0..rows * columns)
        .map(|i| stored[i % columns * rows + i / columns])
        .collect())
}

const SQRT_2_OVER_PI: f32 = 0.797_884_6;
const CUBIC: f32 = 0.044_715;

/// The tanh form of the GELU.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + (SQRT_2_OVER_PI * (x + CUBIC * x * x * x)).tanh())
}

/// The derivative of [`gelu`].
fn gelu_derivative(x: f32) -> f32 {
    let t = (SQRT_2_OVER_PI * (x + CUBIC * x * x * x)).tanh();
    0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * SQRT_2_OVER_PI * (1.0 + 3.0 * CUBIC * x * x)
}

/// Computes the product.
pub(super) fn multiply(memory: &Mutex<Memory>, product: &Matmul) -> Result<()> {
    product.check()?;
    let Matmul { m, n, k, d, .. } = *product;
    let a = read_operand(memory, &product.a, m, k)?;
    let b = Operand {
        transposed: !product.b.transposed,
        ..product.b
    };
    let b = read_operand(memory, &b, n, k)?;
    let mut values = if product.beta == 0.0 {
        vec![0.0; m * n]
    } else {
        let c = &product.c;
        let mut c = read(memory, c.address, m, n, c.stride, c.element)?;
        c.iter_mut().for_each(|v| *v *= product.beta);
        c
    };
    values.par_chunks_mut(n).zip(a.par_chunks(k)).for_each(|(row, a)| {
        for (value, b) in row.iter_mut().zip(b.chunks_exact(k)) {
            let sum: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            *value += product.alpha * sum;
        }
    });
    let add_bias = |values: &mut [f32], bias: Address| -> Result<()> {
        let bias = read(memory, bias, 1, n, n, d.element)?;
        let rows = values.chunks_exact_mut(n);
        rows.for_each(|row| row.iter_mut().zip(&bias).for_each(|(v, b)| *v += b));
        Ok(())
    };
    match product.epilogue {
        Epilogue::None => {}
        Epilogue::Bias { bias } => add_bias(&mut values, bias)?,
        Epilogue::Gelu { bias, aux } => {
            if let Some(bias) = bias {
                add_bias(&mut values, bias)?;
            }
            if let Some(aux) = aux {
                write(memory, aux, &values, n, d.stride, d.element)?;
            }
            values.iter_mut().for_each(|v| *v = gelu(*v));
        }
        Epilogue::GeluGradient { aux, bias_gradient } => {
            let aux = read(memory, aux, m, n, d.stride, d.element)?;
            values.iter_mut().zip(&aux).for_each(|(v, x)| *v *= gelu_derivative(*x));
            if let Some(to) = bias_gradient {
                let mut sums = vec![0.0; n];
                for row in values.chunks_exact(n) {
                    sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v);
                }
                write(memory, to, &sums, n, n, d.element)?;
            }
        }
        Epilogue::BiasGradient { bias_gradient } => {
            let sums: Vec<f32> = a.chunks_exact(k).map(|row| row.iter().sum()).collect();
            write(memory, bias_gradient, &sums, m, m, d.element)?;
        }
    }
    write(memory, d.address, &values, n, d.stride, d.element)
}
