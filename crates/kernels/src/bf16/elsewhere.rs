//! What stands in for this module on processors other than x86-64: the same names, of which none is ever called, because
//! [`super::support`] finds nothing there.
#![allow(
    missing_docs,
    unused_variables,
    clippy::too_many_arguments,
    reason = "x86-64 has the documentation and the code"
)]

use super::Bf16;

fn absent() -> ! {
    unreachable!("bfloat16 is multiplied on x86-64 only")
}

pub mod blocks {
    use super::{Bf16, absent};
    use std::marker::PhantomData;

    #[derive(Clone, Copy)]
    pub struct Blocks<'a>(PhantomData<&'a [Bf16]>);

    impl<'a> Blocks<'a> {
        pub fn new(data: &'a [Bf16], rows: usize, columns: usize) -> Self {
            absent()
        }
    }

    pub fn len(rows: usize, columns: usize) -> usize {
        absent()
    }

    pub fn from_f32(x: &[f32], rows: usize, columns: usize, out: &mut [Bf16]) {
        absent()
    }

    pub fn to_f32(x: Blocks, out: &mut [f32]) {
        absent()
    }

    pub fn transpose(x: Blocks, out: &mut [Bf16]) {
        absent()
    }

    pub fn transpose_scaled(x: Blocks, w: &[f32], b: &[f32], out: &mut [Bf16]) {
        absent()
    }

    pub fn add_row_sums(x: Blocks, out: &mut [f32]) {
        absent()
    }
}

pub mod epilogue {
    use super::blocks::Blocks;
    use super::gemm::Epilogue;
    use super::{Bf16, absent};
    use std::marker::PhantomData;

    pub struct StoreF32<'a>(PhantomData<&'a mut [f32]>);
    pub struct StoreF32Transposed<'a>(PhantomData<&'a mut [f32]>);
    pub struct StoreBf16<'a>(PhantomData<&'a mut [Bf16]>);
    pub struct Gelu<'a>(PhantomData<&'a mut [Bf16]>);
    pub struct GeluBackward<'a>(PhantomData<&'a mut [Bf16]>);

    impl<'a> StoreF32<'a> {
        pub fn new(out: &'a mut [f32], columns: usize, add: bool) -> Self {
            absent()
        }

        pub fn bias(self, bias: Option<&'a [f32]>) -> Self {
            absent()
        }

        pub fn residual(self, residual: Option<&'a [f32]>) -> Self {
            absent()
        }
    }

    impl<'a> StoreF32Transposed<'a> {
        pub fn new(out: &'a mut [f32], rows: usize, columns: usize, add: bool) -> Self {
            absent()
        }
    }

    impl<'a> StoreBf16<'a> {
        pub fn new(out: &'a mut [Bf16], rows: usize, columns: usize, bias: Option<&'a [f32]>) -> Self {
            absent()
        }
    }

    impl<'a> Gelu<'a> {
        pub fn new(hidden: Option<&'a mut [Bf16]>, active: &'a mut [Bf16], rows: usize, bias: &'a [f32]) -> Self {
            absent()
        }
    }

    impl<'a> GeluBackward<'a> {
        pub fn new(hidden: Blocks<'a>, d_hidden: &'a mut [Bf16]) -> Self {
            absent()
        }
    }

    impl Epilogue for StoreF32<'_> {}
    impl Epilogue for StoreF32Transposed<'_> {}
    impl Epilogue for StoreBf16<'_> {}
    impl Epilogue for Gelu<'_> {}
    impl Epilogue for GeluBackward<'_> {}
}

pub mod gemm {
    use super::super::Right;
    use super::absent;
    use super::blocks::Blocks;

    pub trait Epilogue: Sync {}

    pub struct PackedRhs(());

    impl PackedRhs {
        pub fn transposed(weight: &[f32], n: usize, k: usize) -> Self {
            absent()
        }
    }

    pub fn gemm(a: Blocks, rhs: Rhs, epilogue: &mut dyn Epilogue) {
        absent()
    }
}

pub mod layer_norm {
    use super::blocks::Blocks;
    use super::{Bf16, absent};

    pub fn forward(
        x: &[f32],
        w: &[f32],
        b: &[f32],
        eps: f32,
        normalised: &mut [Bf16],
        y: &mut [Bf16],
        rstd: &mut [f32],
    ) {
        absent()
    }

    pub fn backward(
        dy: Blocks,
        normalised: Blocks,
        w: &[f32],
        rstd: &[f32],
        dx: &mut [f32],
        rounded: &mut [Bf16],
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        absent()
    }
}

pub mod attention {
    use super::blocks::Blocks;
    use super::{Bf16, absent};
    use crate::attention::Varlen;

    pub fn forward(qkv: Blocks, varlen: Varlen, heads: usize, out: &mut [Bf16], log_sum_exp: &mut [f32]) {
        absent()
    }

    pub fn backward(
        d_out: Blocks,
        qkv: Blocks,
        out: Blocks,
        log_sum_exp: &[f32],
        varlen: Varlen,
        heads: usize,
        d_qkv: &mut [Bf16],
    ) {
        absent()
    }
}

pub(crate) mod triple {
    use super::absent;
    use crate::mat::MatRef;

    pub(crate) fn pays(rows: usize, columns: usize, inner: usize) -> bool {
        false
    }

    pub(crate) unsafe fn gemm(out: &mut [f32], stride: usize, keep: bool, scale: f32, a: MatRef, b: MatRef) {
        absent()
    }
}
