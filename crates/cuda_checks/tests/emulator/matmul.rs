//! Matrix products of the driver, with their epilogues.

use crate::support::{Device, expect_error};
use crate::{Outcome, Test};
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::{Driver, Epilogue, Matmul};

pub fn tests() -> Vec<Test> {
    vec![Test::new("matmul::rejects_contradictions", rejects_contradictions)]
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
