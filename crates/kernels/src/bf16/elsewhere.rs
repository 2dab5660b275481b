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

    pub struct Store<'a>(PhantomData<&'a mut [f32]>);
    pub struct StoreTransposed<'a>(PhantomData<&'a mut [f32]>);
    pub struct Round<'a>(PhantomData<&'a mut [Bf16]>);
    pub struct Gelu<'a>(PhantomData<&'a mut [Bf16]>);
    pub struct GeluGradient<'a>(PhantomData<&'a mut [Bf16]>);

    impl<'a> Store<'a> {
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

    impl<'a> StoreTransposed<'a> {
        pub fn new(out: &'a mut [f32], rows: usize, columns: usize, add: bool) -> Self {
            absent()
        }
    }

    impl<'a> Round<'a> {
        pub fn new(out: &'a mut [Bf16], rows: usize, columns: usize, bias: Option<&'a [f32]>) -> Self {
            absent()
        }
    }

    impl<'a> Gelu<'a> {
        pub fn new(hidden: Option<&'a mut [Bf16]>, active: &'a mut [Bf16], rows: usize, bias: &'a [f32]) -> Self {
            absent()
        }
    }

    impl<'a> GeluGradient<'a> {
        pub fn new(hidden: Blocks<'a>, d_hidden: &'a mut [Bf16]) -> Self {
            absent()
        }
    }

    impl Epilogue for Store<'_> {}
    impl Epilogue for StoreTransposed<'_> {}
    impl Epilogue for Round<'_> {}
    impl Epilogue for Gelu<'_> {}
    impl Epilogue for GeluGradient<'_> {}
}

pub mod gemm {
    use super::super::Right;
    use super::absent;
    use super::blocks::Blocks;

    pub trait Epilogue: Sync {}

    pub struct Packed(());

    impl Packed {
        pub fn transposed(weight: &[f32], n: usize, k: usize) -> Self {
            absent()
        }
    }

    pub fn gemm(a: Blocks, b: Right, epilogue: &mut dyn Epilogue) {
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
    use crate::attention::Sequences;

    pub fn forward(qkv: Blocks, sequences: Sequences, heads: usize, out: &mut [Bf16], log_sum_exp: &mut [f32]) {
        absent()
    }

    pub fn backward(
        d_out: Blocks,
        qkv: Blocks,
        out: Blocks,
        log_sum_exp: &[f32],
        sequences: Sequences,
        heads: usize,
        d_qkv: &mut [Bf16],
    ) {
        absent()
    }
}

pub(crate) mod triple {
    use super::absent;
    use crate::gemm::View;

    pub(crate) fn pays(rows: usize, columns: usize, inner: usize) -> bool {
        false
    }

    pub(crate) unsafe fn gemm(out: &mut [f32], stride: usize, keep: bool, scale: f32, a: View, b: View) {
        absent()
    }
}
