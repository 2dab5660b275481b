//! A matrix product in cuBLASLt's terms: column-major matrices, operation attributes, and the key of cached algorithms.
//!
//! The module documentation of `driver/matmul.rs` has the mapping and its reason.

use crate::driver::{Address, Element, Epilogue, Matmul, Operand};
use std::ffi::c_int;

/// Values of `cublasLtEpilogue_t`.
pub(super) const EPILOGUE_DEFAULT: u32 = 1;
pub(super) const EPILOGUE_BIAS: u32 = 4;
pub(super) const EPILOGUE_GELU: u32 = 32;
pub(super) const EPILOGUE_GELU_AUX: u32 = EPILOGUE_GELU | 128;
pub(super) const EPILOGUE_GELU_BIAS: u32 = EPILOGUE_GELU | EPILOGUE_BIAS;
pub(super) const EPILOGUE_GELU_AUX_BIAS: u32 = EPILOGUE_GELU_AUX | EPILOGUE_BIAS;
pub(super) const EPILOGUE_DGELU: u32 = 64 | 128;
pub(super) const EPILOGUE_DGELU_BGRAD: u32 = EPILOGUE_DGELU | 16;
pub(super) const EPILOGUE_BGRADB: u32 = 512;

/// The leading dimension of the auxiliary matrix of a GELU must be divisible by this (`CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD`).
const AUX_LD_MULTIPLE: usize = 8;

/// Larger alignments of addresses make no difference to cuBLASLt: the default of `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_…_BYTES`.
const MAX_ALIGNMENT: u64 = 256;

/// Algorithms are chosen for multiples of this number of rows, because numbers of tokens differ from step to step.
const ROWS_PER_BUCKET: usize = 256;

/// `cudaDataType_t` of an element.
pub(super) fn data_type(element: Element) -> c_int {
    match element {
        Element::F32 => 0,
        Element::Bf16 => 14,
    }
}

/// A column-major matrix: element `(i, j)` is at `address + (i + j·ld)` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub address: Address,
    pub element: Element,
    pub rows: usize,
    pub columns: usize,
    pub ld: usize,
}

/// The auxiliary matrix of an epilogue; it has the shape and type of D.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Aux {
    pub address: Address,
    pub ld: usize,
}

/// The arguments of `cublasLtMatmul`: `D = α·op(A)·op(B) + β·C` with an epilogue, where D is `m × n`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Descriptor {
    pub alpha: f32,
    pub beta: f32,
    pub a: Layout,
    pub transpose_a: bool,
    pub b: Layout,
    pub transpose_b: bool,
    pub c: Layout,
    pub d: Layout,
    pub epilogue: u32,
    /// `BIAS_POINTER`: the bias or the gradient of the bias.
    pub bias: Option<Address>,
    /// `EPILOGUE_AUX_POINTER` and `_LD`.
    pub aux: Option<Aux>,
}

impl Descriptor {
    /// Describes a product. The row-major operands change places, and each is its transpose.
    pub fn of(product: &Matmul) -> Self {
        let Matmul { m, n, k, .. } = *product;
        let layout = |operand: &Operand, rows: usize, columns: usize| Layout {
            address: operand.address,
            element: operand.element,
            rows: columns,
            columns: rows,
            ld: operand.stride,
        };
        let stored = |operand: &Operand, rows: usize, columns: usize| {
            if operand.transposed {
                layout(operand, columns, rows)
            } else {
                layout(operand, rows, columns)
            }
        };
        let d = layout(&product.d, m, n);
        // C must be a valid matrix even if it is not read.
        let c = if product.beta == 0.0 {
            d
        } else {
            layout(&product.c, m, n)
        };
        let (epilogue, bias, aux) = match product.epilogue {
            Epilogue::None => (EPILOGUE_DEFAULT, None, None),
            Epilogue::Bias { bias } => (EPILOGUE_BIAS, Some(bias), None),
            Epilogue::Gelu { bias: None, aux: None } => (EPILOGUE_GELU, None, None),
            Epilogue::Gelu { bias, aux: None } => (EPILOGUE_GELU_BIAS, bias, None),
            Epilogue::Gelu { bias: None, aux } => (EPILOGUE_GELU_AUX, None, aux),
            Epilogue::Gelu { bias, aux } => (EPILOGUE_GELU_AUX_BIAS, bias, aux),
            Epilogue::GeluGradient {
                aux,
                bias_gradient: None,
            } => (EPILOGUE_DGELU, None, Some(aux)),
            Epilogue::GeluGradient { aux, bias_gradient } => (EPILOGUE_DGELU_BGRAD, bias_gradient, Some(aux)),
            Epilogue::BiasGradient { bias_gradient } => (EPILOGUE_BGRADB, Some(bias_gradient), None),
        };
        Self {
            alpha: product.alpha,
            beta: product.beta,
            a: stored(&product.b, k, n),
            transpose_a: product.b.transposed,
            b: stored(&product.a, m, k),
            transpose_b: product.a.transposed,
            c,
            d,
            epilogue,
            bias,
            aux: aux.map(|address| Aux { address, ld: d.ld }),
        }
    }

    /// Whether cuBLASLt's documentation permits the leading dimension of the auxiliary matrix.
    pub fn is_permitted(&self) -> bool {
        self.aux.is_none_or(|aux| aux.ld.is_multiple_of(AUX_LD_MULTIPLE))
    }

    /// What an algorithm may depend on.
    pub fn key(&self) -> Key {
        let alignment = |address: Address| 1 << address.0.trailing_zeros().min(MAX_ALIGNMENT.trailing_zeros());
        let matrix = |x: &Layout| (x.element, [x.rows, x.columns, x.ld], alignment(x.address));
        Key {
            matrices: [&self.a, &self.b, &self.c, &self.d].map(matrix),
            transposed: [self.transpose_a, self.transpose_b],
            epilogue: self.epilogue,
            bias_alignment: self.bias.map(alignment),
            aux_alignment: self.aux.map(|aux| alignment(aux.address)),
        }
    }
}

/// Products with the same key have the same algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Type, rows, columns, leading dimension and alignment in bytes of A, B, C and D.
    pub matrices: [(Element, [usize; 3], u32); 4],
    transposed: [bool; 2],
    epilogue: u32,
    bias_alignment: Option<u32>,
    aux_alignment: Option<u32>,
}

/// Returns the product whose algorithm is used for this one: a number of tokens is rounded up to a multiple of 256, so that the algorithm
/// does not depend on which number occurs first. Only dimensions that are rows of both of their matrices in memory are numbers of tokens:
/// others are widths, which are bounded by strides.
pub(super) fn bucket(product: &Matmul) -> Matmul {
    let round = |size: usize, is_rows: bool| {
        if is_rows && size > ROWS_PER_BUCKET {
            size.next_multiple_of(ROWS_PER_BUCKET)
        } else {
            size
        }
    };
    Matmul {
        m: round(product.m, !product.a.transposed),
        k: round(product.k, product.a.transposed && !product.b.transposed),
        ..*product
    }
}

#[cfg(test)]
#[path = "descriptor_tests.rs"]
mod tests;
