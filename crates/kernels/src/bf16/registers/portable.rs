//! Arrays as registers, for tests on any CPU.

use super::{Bf16, Registers};
use std::array::from_fn;

/// Arrays in plain Rust.
pub struct Arrays;

type F32 = [f32; 16];
type Bf16s = [Bf16; 32];

/// Implements functions lane by lane.
macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) = $value:expr;)*) => {
        $(
            unsafe fn $name($($arg: F32),*) -> F32 {
                from_fn(|i| {
                    $(let $arg = $arg[i];)*
                    $value
                })
            }
        )*
    };
}

impl Registers for Arrays {
    type F32 = F32;
    type Bf16 = Bf16s;

    lanewise! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        mul_add(a, b, c) = a.mul_add(b, c);
        mul_sub(a, b, c) = a.mul_add(b, -c);
        neg_mul_add(a, b, c) = (-a).mul_add(b, c);
        fraction(x) = if x.is_infinite() { 0.0 } else { x - x.floor() };
        scale_by_pow2(a, x) = ldexp(a, x.floor());
    }

    unsafe fn splat(value: f32) -> F32 {
        [value; 16]
    }

    unsafe fn load(from: *const f32) -> F32 {
        // SAFETY: `from` is valid for 16 values (trait contract).
        unsafe { from.cast::<F32>().read_unaligned() }
    }

    unsafe fn load_masked(mask: u16, from: *const f32) -> F32 {
        from_fn(|i| match mask >> i & 1 {
            0 => 0.0,
            // SAFETY: `from` is valid for the lanes in the mask (trait contract).
            _ => unsafe { *from.add(i) },
        })
    }

    unsafe fn store(to: *mut f32, x: F32) {
        // SAFETY: `to` is valid for 16 values (trait contract).
        unsafe { to.cast::<F32>().write_unaligned(x) };
    }

    unsafe fn store_masked(to: *mut f32, mask: u16, x: F32) {
        for (i, x) in x.into_iter().enumerate() {
            if mask >> i & 1 == 1 {
                // SAFETY: `to` is valid for the lanes in the mask (trait contract).
                unsafe { *to.add(i) = x };
            }
        }
    }

    unsafe fn stream(to: *mut f32, x: F32) {
        assert!(to.addr().is_multiple_of(64), "unaligned non-temporal store");
        // SAFETY: `to` is valid for 16 values (trait contract).
        unsafe { Self::store(to, x) };
    }

    unsafe fn select(mask: u16, x: F32, other: F32) -> F32 {
        from_fn(|i| if mask >> i & 1 == 1 { x[i] } else { other[i] })
    }

    unsafe fn reduce_add(x: F32) -> f32 {
        let eight: [f32; 8] = from_fn(|i| x[i] + x[i + 8]);
        let four: [f32; 4] = from_fn(|i| eight[i] + eight[i + 4]);
        (four[0] + four[2]) + (four[1] + four[3])
    }

    unsafe fn transpose(rows: [F32; 16]) -> [F32; 16] {
        from_fn(|c| from_fn(|r| rows[r][c]))
    }

    unsafe fn zero_bf16() -> Bf16s {
        [Bf16::default(); 32]
    }

    unsafe fn load_bf16(from: *const Bf16) -> Bf16s {
        // SAFETY: `from` is valid for 32 values (trait contract).
        unsafe { from.cast::<Bf16s>().read_unaligned() }
    }

    unsafe fn store_bf16(to: *mut Bf16, x: Bf16s) {
        assert!(to.addr().is_multiple_of(64), "unaligned store");
        // SAFETY: `to` is valid for 32 values (trait contract).
        unsafe { to.cast::<Bf16s>().write_unaligned(x) };
    }

    unsafe fn stream_bf16(to: *mut Bf16, x: Bf16s) {
        // SAFETY: `to` is valid for 32 values and 64-byte aligned (trait contract).
        unsafe { Self::store_bf16(to, x) };
    }

    unsafe fn round(low: F32, high: F32) -> Bf16s {
        from_fn(|i| {
            let value = if i < 16 { low[i] } else { high[i - 16] };
            Bf16::from_f32(if value.is_subnormal() {
                0f32.copysign(value)
            } else {
                value
            })
        })
    }

    unsafe fn widen(x: Bf16s) -> [F32; 2] {
        from_fn(|half| from_fn(|i| x[16 * half + i].to_f32()))
    }

    unsafe fn interleave(even: Bf16s, odd: Bf16s) -> [Bf16s; 2] {
        from_fn(|half| from_fn(|i| [even, odd][i % 2][16 * half + i / 2]))
    }

    unsafe fn transpose_pairs(rows: [Bf16s; 16]) -> [Bf16s; 16] {
        from_fn(|c| from_fn(|i| rows[i / 2][2 * c + i % 2]))
    }
}

/// Returns `a · 2^n` for an integer `n`, rounded once.
fn ldexp(a: f32, n: f32) -> f32 {
    // Within these bounds 2^n is exact in double precision. Outside, the result is 0 or infinite for every f32 `a`.
    (a as f64 * (n.clamp(-400.0, 400.0) as f64).exp2()) as f32
}
