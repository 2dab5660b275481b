//! The description of a matrix product, as cuBLASLt has it.
//!
//! # Row-major matrices and cuBLASLt
//!
//! cuBLASLt reads matrices in column-major order. The memory of a row-major matrix `[rows, columns]` with `stride` elements between rows is
//! the column-major matrix `[columns, rows]` with the leading dimension `stride`: its transpose. The product `D = op(A)·op(B)` is computed
//! as `Dᵀ = op(B)ᵀ·op(A)ᵀ`, so the operands change places and no matrix is transposed in memory:
//!
//! | cuBLASLt | [`Matmul`] |
//! |---|---|
//! | `m`, `n`, `k` | `n`, `m`, `k` |
//! | A, layout `(b.transposed ? k : n) × (b.transposed ? n : k)`, ld = `b.stride` | `b` |
//! | `TRANSA` | `T` if `b.transposed`, else `N` |
//! | B, layout `(a.transposed ? m : k) × (a.transposed ? k : m)`, ld = `a.stride` | `a` |
//! | `TRANSB` | `T` if `a.transposed`, else `N` |
//! | C, D, layout `n × m`, ld = stride | `c`, `d` |
//! | compute type `CUBLAS_COMPUTE_32F`, scale type `CUDA_R_32F` | f32 sums; f32 operands are not rounded to TF32 |
//! | bias, of `m` elements | `bias`, of `n` elements, added to each row |
//! | `EPILOGUE_BIAS` | [`Epilogue::Bias`] |
//! | `EPILOGUE_GELU`, `_GELU_BIAS`, `_GELU_AUX`, `_GELU_AUX_BIAS`, layout of aux as D | [`Epilogue::Gelu`] |
//! | `EPILOGUE_DGELU`, `_DGELU_BGRAD` (sums over the columns of D, so over our rows) | [`Epilogue::GeluGradient`] |
//! | `EPILOGUE_BGRADB` (sums of op(B) over k, one for each column of D, so for each of our rows) | [`Epilogue::BiasGradient`] |
//!
//! cuBLASLt demands that addresses and strides of bf16 matrices are multiples of 16 bytes for its fastest kernels; matrices of this crate
//! begin at multiples of 256 bytes, and the widths of models are such strides. Those of logits, of 30,522 tokens or 3,129 answers, are not.

use super::{Address, Element, Error, Result};

/// A row-major matrix in a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The first element.
    pub address: Address,
    /// Elements from one row to the next.
    pub stride: usize,
    /// Whether the product reads the transpose of the matrix in memory.
    pub transposed: bool,
    /// The type of the elements.
    pub element: Element,
}

/// What is computed from the product before it is stored. Vectors and auxiliary matrices have the element type of `d`.
///
/// Here `P` is `α·op(A)·op(B) + β·C`. GELU means the tanh form of cuBLASLt, `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`. It differs from the
/// form with the error function by up to 4.8e-04 (derivative: 8.9e-04), so it is for bf16 results only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// `D = P`.
    None,
    /// `D = P + bias`, with `bias [n]`.
    Bias {
        /// The bias.
        bias: Address,
    },
    /// `aux = P + bias` and `D = gelu(P + bias)`; `D` is computed from sums that are not rounded to the type of `aux`.
    Gelu {
        /// The bias `[n]`, if the layer has one.
        bias: Option<Address>,
        /// Where `P + bias` is stored, if it is; `[m, n]` with the stride of `d`.
        aux: Option<Address>,
    },
    /// `D = P · gelu'(aux)`, and the sums of the rows of `D` in `bias_gradient [n]`, before rounding.
    GeluGradient {
        /// The argument of the GELU, `[m, n]` with the stride of `d`.
        aux: Address,
        /// Where the sum of the rows of `D` is stored.
        bias_gradient: Option<Address>,
    },
    /// `D = P`, and the sums of op(A) over `k` in `bias_gradient [m]`. If `A` is the transposed gradient of a layer's output, `D` is the
    /// gradient of the weight, and these sums are the gradient of the bias.
    BiasGradient {
        /// Where the sums are stored.
        bias_gradient: Address,
    },
}

/// A product `D [m, n] = α·op(A) [m, k]·op(B) [k, n] + β·C [m, n]`, followed by an epilogue. Sums are f32.
///
/// `a` and `b` have the same type; `c` and `d` have the same type: that of the operands, or f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matmul {
    /// Rows of `d`.
    pub m: usize,
    /// Columns of `d`.
    pub n: usize,
    /// Columns of op(A) and rows of op(B).
    pub k: usize,
    /// α.
    pub alpha: f32,
    /// The left operand: in memory `[m, k]`, or `[k, m]` if it is transposed.
    pub a: Operand,
    /// The right operand: in memory `[k, n]`, or `[n, k]` if it is transposed.
    pub b: Operand,
    /// β. If it is zero, `c` is not read.
    pub beta: f32,
    /// The summand, which may be `d`. Not transposed.
    pub c: Operand,
    /// The result. Not transposed.
    pub d: Operand,
    /// What happens before `d` is stored.
    pub epilogue: Epilogue,
}

impl Matmul {
    /// Checks types and strides; every driver calls this function first.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the first contradiction.
    pub fn check(&self) -> Result<()> {
        let fails = |reason: String| {
            Err(Error::InvalidArgument {
                operation: "matrix product",
                reason,
            })
        };
        if self.a.element != self.b.element {
            return fails(format!(
                "the operands are {:?} and {:?}",
                self.a.element, self.b.element
            ));
        }
        if self.c.element != self.d.element || self.c.transposed || self.d.transposed {
            return fails("C and D must have the same type and must not be transposed".into());
        }
        if self.d.element == Element::Bf16 && self.a.element == Element::F32 {
            return fails("a product of f32 operands has an f32 result".into());
        }
        let columns = [
            if self.a.transposed { self.m } else { self.k },
            if self.b.transposed { self.k } else { self.n },
            self.n,
            self.n,
        ];
        for ((name, operand), columns) in [("A", self.a), ("B", self.b), ("C", self.c), ("D", self.d)]
            .into_iter()
            .zip(columns)
        {
            if operand.stride < columns {
                let stride = operand.stride;
                return fails(format!(
                    "rows of {name} have {columns} elements but a stride of {stride}"
                ));
            }
        }
        if [self.m, self.n, self.k]
            .iter()
            .any(|size| *size == 0 || i32::try_from(*size).is_err())
        {
            return fails(format!(
                "the sizes {}×{}×{} are not between 1 and 2³¹ − 1",
                self.m, self.n, self.k
            ));
        }
        Ok(())
    }
}
