//! Products whose epilogue the library for matrix products does not have: a product without epilogue, and kernels of this crate.
//!
//! cuBLASLt documents its epilogues, but not for which types and strides it has kernels (an auxiliary matrix needs a stride that is a
//! multiple of eight; sums of an operand may be missing for some types). The result has the same accuracy: the product is stored in f32,
//! in parts of a bounded number of rows, and `kernels/epilogue.cu` computes the rest.

use super::arguments::{THREADS, WARP, argument, to_blocks, to_i32};
use super::{Address, Driver, Element, Epilogue, Matmul, Operand, Result, Stream};

/// Memory for intermediate values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// The first byte, at a multiple of 256.
    pub address: Address,
    /// Bytes: at least [`min_scratch_bytes`] of the product.
    pub bytes: usize,
}

/// Alignment of the parts of the scratch memory in bytes, that of `cuMemAlloc`.
const ALIGNMENT: usize = 256;

/// The name of the operation in messages.
const OPERATION: &str = "epilogue of a matrix product";

/// The least scratch memory for a product: one row of it, and sums or ones for an operand.
pub fn min_scratch_bytes(product: &Matmul) -> usize {
    let row = (product.n * 4).next_multiple_of(ALIGNMENT);
    match product.epilogue {
        Epilogue::BiasGradient { .. } => (product.k * 4).next_multiple_of(ALIGNMENT) + product.k * 4,
        _ => 2 * row,
    }
}

/// Submits a product, without using an epilogue of `driver`.
///
/// # Errors
/// Those of the driver.
///
/// # Panics
/// If the scratch memory is smaller than [`min_scratch_bytes`].
pub fn multiply(driver: &dyn Driver, product: &Matmul, scratch: Scratch, stream: Stream) -> Result<()> {
    product.check()?;
    assert!(
        scratch.bytes >= min_scratch_bytes(product),
        "{scratch:?} is too small for {product:?}"
    );
    match product.epilogue {
        Epilogue::None => driver.matmul(product, stream),
        Epilogue::BiasGradient { bias_gradient } => {
            driver.matmul(
                &Matmul {
                    epilogue: Epilogue::None,
                    ..*product
                },
                stream,
            )?;
            sum_operand(driver, product, bias_gradient, scratch, stream)
        }
        _ => multiply_rows(driver, product, scratch, stream),
    }
}

/// Computes the sums of op(A) over `k` as the product of op(A) and ones.
fn sum_operand(driver: &dyn Driver, product: &Matmul, to: Address, scratch: Scratch, stream: Stream) -> Result<()> {
    let (one, count) = (1.0f32, product.k as i64);
    let blocks = to_blocks(OPERATION, product.k.div_ceil(4 * THREADS as usize))?;
    let (grid, block) = ([blocks, 1, 1], [THREADS, 1, 1]);
    let mut ones = scratch.address;
    // SAFETY: there is scratch memory for `k` values in f32, and for as many after them in the type of the operand.
    unsafe {
        driver.launch(
            "fill_f32",
            grid,
            block,
            0,
            stream,
            &[argument(&one), argument(&ones), argument(&count)],
        )?;
        if product.a.element == Element::Bf16 {
            let rounded = ones.offset((product.k * 4).next_multiple_of(ALIGNMENT));
            driver.launch(
                "round_to_bf16",
                grid,
                block,
                0,
                stream,
                &[argument(&ones), argument(&rounded), argument(&count)],
            )?;
            ones = rounded;
        }
    }
    let vector = |address: Address, element: Element| Operand {
        address,
        stride: 1,
        transposed: false,
        element,
    };
    let sums = vector(to, product.d.element);
    driver.matmul(
        &Matmul {
            n: 1,
            alpha: 1.0,
            b: vector(ones, product.a.element),
            beta: 0.0,
            c: sums,
            d: sums,
            epilogue: Epilogue::None,
            ..*product
        },
        stream,
    )
}

/// Computes parts of rows: the product in f32, then the kernel.
fn multiply_rows(driver: &dyn Driver, product: &Matmul, scratch: Scratch, stream: Stream) -> Result<()> {
    let Matmul { m, n, .. } = *product;
    let sums_bytes = (n * 4).next_multiple_of(ALIGNMENT);
    let (sums, rows) = (scratch.address, scratch.address.offset(sums_bytes));
    let rows_per_part = ((scratch.bytes - sums_bytes) / (n * 4)).max(1);
    let (is_gradient, bias, aux, gradient) = match product.epilogue {
        Epilogue::Bias { bias } => (false, Some(bias), None, None),
        Epilogue::Gelu { bias, aux } => (false, bias, aux, None),
        Epilogue::GeluGradient { aux, bias_gradient } => (true, None, Some(aux), bias_gradient),
        Epilogue::None | Epilogue::BiasGradient { .. } => return Ok(()),
    };
    let kernel = match product.d.element {
        Element::F32 => "epilogue_f32",
        Element::Bf16 => "epilogue_bf16",
    };
    let has_gelu = matches!(product.epilogue, Epilogue::Gelu { .. });
    let (is_gradient, has_gelu) = (i32::from(is_gradient), i32::from(has_gelu));
    let width = to_i32(OPERATION, n)?;
    for first in (0..m).step_by(rows_per_part) {
        let count = rows_per_part.min(m - first);
        let row = |x: &Operand| x.address.offset(first * x.stride * x.element.bytes());
        let a_at = if product.a.transposed {
            product.a.address.offset(first * product.a.element.bytes())
        } else {
            row(&product.a)
        };
        let part = Operand {
            address: rows,
            stride: n,
            transposed: false,
            element: Element::F32,
        };
        driver.matmul(
            &Matmul {
                m: count,
                a: Operand {
                    address: a_at,
                    ..product.a
                },
                beta: 0.0,
                c: part,
                d: part,
                epilogue: Epilogue::None,
                ..*product
            },
            stream,
        )?;
        let (c, d) = (row(&product.c), row(&product.d));
        let aux = aux.map_or(Address::NULL, |aux| {
            row(&Operand {
                address: aux,
                ..product.d
            })
        });
        let (bias, keep) = (bias.unwrap_or(Address::NULL), i32::from(gradient.is_some()));
        let (stride_c, stride_d) = (product.c.stride as i64, product.d.stride as i64);
        let blocks_per_row = to_i32(OPERATION, n.div_ceil(THREADS as usize))?;
        let blocks = to_blocks(OPERATION, count * n.div_ceil(THREADS as usize))?;
        // SAFETY: C, D and the auxiliary matrix have the shape of the product, the bias has its columns, and the part is in f32.
        unsafe {
            driver.launch(
                kernel,
                [blocks, 1, 1],
                [THREADS, 1, 1],
                0,
                stream,
                &[
                    argument(&rows),
                    argument(&product.beta),
                    argument(&c),
                    argument(&stride_c),
                    argument(&bias),
                    argument(&aux),
                    argument(&d),
                    argument(&stride_d),
                    argument(&has_gelu),
                    argument(&is_gradient),
                    argument(&keep),
                    argument(&width),
                    argument(&blocks_per_row),
                ],
            )?;
        }
        if gradient.is_some() {
            let beta = if first == 0 { 0.0f32 } else { 1.0 };
            let height = to_i32(OPERATION, count)?;
            let strips = to_blocks(OPERATION, n.div_ceil(WARP as usize))?;
            // SAFETY: the kernel reads the part and adds its sums to the `n` sums.
            unsafe {
                driver.launch(
                    "column_sums_f32",
                    [strips, 1, 1],
                    [THREADS, 1, 1],
                    THREADS * 4,
                    stream,
                    &[
                        argument(&rows),
                        argument(&beta),
                        argument(&sums),
                        argument(&height),
                        argument(&width),
                        argument(&height),
                    ],
                )?;
            }
        }
    }
    match (gradient, product.d.element) {
        (None, _) => Ok(()),
        (Some(to), Element::F32) => driver.copy(to, sums, n * 4, stream),
        (Some(to), Element::Bf16) => {
            let blocks = to_blocks(OPERATION, n.div_ceil(4 * THREADS as usize))?;
            let count = n as i64;
            // SAFETY: both have `n` elements.
            unsafe {
                driver.launch(
                    "round_to_bf16",
                    [blocks, 1, 1],
                    [THREADS, 1, 1],
                    0,
                    stream,
                    &[argument(&sums), argument(&to), argument(&count)],
                )
            }
        }
    }
}
