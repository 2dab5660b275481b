//! Products without fused epilogues (`driver/unfused.rs`, `kernels/epilogue.cu`) against the fused ones of the emulator.

use crate::device::{bf16_bound, random_bf16, sum_bound};
use crate::{Device, Outcome};
use vlct_cuda::context::Buffer;
use vlct_cuda::driver::Element::{Bf16, F32};
use vlct_cuda::driver::unfused::{Scratch, min_scratch_bytes, multiply};
use vlct_cuda::driver::{Address, Element, Epilogue, Error, Matmul, Operand};

/// Rows, columns and terms of sums. Widths are smaller and larger than a block, and one is 3 modulo 4.
const SIZES: [[usize; 3]; 3] = [[1, 1, 1], [37, 23, 19], [9, 300, 8]];

/// Elements from one row to the next beyond the columns.
const GAP: usize = 3;

/// All epilogues for all sizes, types and orders of operands.
///
/// # Errors
/// The first difference, or an error of the driver.
pub fn all_epilogues(device: &Device) -> Outcome {
    device.in_all_schedules(|device| {
        for sizes in SIZES {
            for transposed in [[false, false], [false, true], [true, false]] {
                for elements in [[F32, F32], [Bf16, F32], [Bf16, Bf16]] {
                    Inputs::new(device, sizes, transposed, elements)
                        .and_then(|inputs| inputs.compare(device))
                        .map_err(|e| e.to_string())
                        .flatten()
                        .map_err(|e| format!("{sizes:?}, transposed {transposed:?}, {elements:?}: {e}"))?;
                }
            }
        }
        Ok(())
    })
}

struct Inputs {
    sizes: [usize; 3],
    elements: [Element; 2],
    transposed: [bool; 2],
    a: Buffer,
    b: Buffer,
    c: Buffer,
    bias: Buffer,
    aux: Buffer,
}

/// What a product writes: D, and the auxiliary matrix or sums.
type Outputs = [Vec<f32>; 3];

impl Inputs {
    fn new(device: &Device, sizes: [usize; 3], transposed: [bool; 2], elements: [Element; 2]) -> Result<Self, Error> {
        let [m, n, k] = sizes;
        let upload = |rows: usize, columns: usize, seed: u64, element: Element| {
            let values = random_bf16(rows * (columns + GAP), seed);
            device.upload(&values, element)
        };
        let [(a_rows, a_columns), (b_rows, b_columns)] = [
            if transposed[0] { (k, m) } else { (m, k) },
            if transposed[1] { (n, k) } else { (k, n) },
        ];
        let [operand, d] = elements;
        Ok(Self {
            sizes,
            elements,
            transposed,
            a: upload(a_rows, a_columns, 1, operand)?,
            b: upload(b_rows, b_columns, 2, operand)?,
            c: upload(m, n, 3, d)?,
            bias: upload(1, n, 4, d)?,
            aux: upload(m, n, 5, d)?,
        })
    }

    /// Computes a product, fused or with this scratch memory.
    fn run(
        &self,
        device: &Device,
        beta: f32,
        epilogue: impl Fn(Address, Address, Address) -> Epilogue,
        parts: Option<usize>,
    ) -> Result<Outputs, Error> {
        let [m, n, k] = self.sizes;
        let [operand_element, element] = self.elements;
        let read = |buffer: &Buffer| device.read(buffer, element);
        // Zeros, so that the gaps between rows are equal.
        let zeros = |count: usize| device.context.zeros(count * element.bytes());
        let (d, sums) = (zeros(m * (n + GAP))?, zeros(n.max(m))?);
        let aux = zeros(m * (n + GAP))?;
        device
            .context
            .driver()
            .copy(aux.address(), self.aux.address(), aux.bytes(), device.context.stream())?;
        let operand = |buffer: &Buffer, columns: usize, transposed: bool, element: Element| Operand {
            address: buffer.address(),
            stride: columns + GAP,
            transposed,
            element,
        };
        let product = Matmul {
            m,
            n,
            k,
            alpha: 0.5,
            a: operand(
                &self.a,
                if self.transposed[0] { m } else { k },
                self.transposed[0],
                operand_element,
            ),
            b: operand(
                &self.b,
                if self.transposed[1] { k } else { n },
                self.transposed[1],
                operand_element,
            ),
            beta,
            c: operand(&self.c, n, false, element),
            d: operand(&d, n, false, element),
            epilogue: epilogue(self.bias.address(), aux.address(), sums.address()),
        };
        let stream = device.context.stream();
        match parts {
            None => device.context.driver().matmul(&product, stream)?,
            Some(parts) => {
                // Memory for a number of rows, so that the product has several parts, of which the last is smaller.
                let bytes = min_scratch_bytes(&product) + m.div_ceil(parts) * n * 4;
                let buffer = device.context.allocate(bytes)?;
                let scratch = Scratch {
                    address: buffer.address(),
                    bytes,
                };
                multiply(device.context.driver(), &product, scratch, stream)?;
            }
        }
        Ok([read(&d)?, read(&aux)?, read(&sums)?])
    }

    fn compare(&self, device: &Device) -> Result<Outcome, Error> {
        let gelu = |bias: bool, aux: bool| {
            move |bias_at: Address, aux_at: Address, _: Address| Epilogue::Gelu {
                bias: bias.then_some(bias_at),
                aux: aux.then_some(aux_at),
            }
        };
        let gradient = |sums: bool| {
            move |_: Address, aux: Address, sums_at: Address| Epilogue::GeluGradient {
                aux,
                bias_gradient: sums.then_some(sums_at),
            }
        };
        type Make = Box<dyn Fn(Address, Address, Address) -> Epilogue>;
        let cases: [(&str, Make); 9] = [
            ("none", Box::new(|_, _, _| Epilogue::None)),
            ("bias", Box::new(|bias, _, _| Epilogue::Bias { bias })),
            ("gelu", Box::new(gelu(false, false))),
            ("gelu with bias", Box::new(gelu(true, false))),
            ("gelu with aux", Box::new(gelu(false, true))),
            ("gelu with both", Box::new(gelu(true, true))),
            ("gradient of gelu", Box::new(gradient(false))),
            ("gradient of gelu with sums", Box::new(gradient(true))),
            (
                "sums of A",
                Box::new(|_, _, bias_gradient| Epilogue::BiasGradient { bias_gradient }),
            ),
        ];
        for (name, epilogue) in cases {
            for beta in [0.0, 1.5] {
                let want = self.run(device, beta, &epilogue, None)?;
                let got = self.run(device, beta, &epilogue, Some(4))?;
                for ((output, got), want) in ["D", "aux", "sums"].iter().zip(&got).zip(&want) {
                    let outcome = device.compare(output, got, want, |i| self.bound(device, want[i]));
                    if let Err(difference) = outcome {
                        return Ok(Err(format!("{name}, β = {beta}: {difference}")));
                    }
                }
            }
        }
        Ok(Ok(()))
    }

    /// Sums have different orders, and values that differ by less may be rounded to neighbours, which are two roundoffs apart.
    fn bound(&self, device: &Device, value: f32) -> f32 {
        let [m, n, k] = self.sizes;
        let terms = (m + n + k) as f32;
        let exact = 4.0 * (sum_bound(m + n + k) + device.tanh_error()) * terms;
        exact
            + if self.elements[1] == Bf16 {
                2.0 * bf16_bound(value)
            } else {
                0.0
            }
    }
}
