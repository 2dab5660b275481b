//! The AMX unit: eight registers of 16 rows of 64 bytes, and an instruction that multiplies two of them.
//!
//! Stable Rust has no intrinsics for it, so the instructions stand in inline assembly. The sums of 32 rows and columns are in
//! the registers 0 to 3, quarter by quarter; 4 and 5 hold two tiles of the left operand, 6 and 7 two of the right one.

use super::number::Bf16;
use crate::mat::Beta;

#[cfg(all(any(test, feature = "emulated-tiles"), target_os = "linux"))]
mod emulated;

/// Whether the processor has the unit and the system lets this process use it (asked for on the first call).
#[cfg(target_os = "linux")]
pub(super) fn permitted() -> bool {
    #[cfg(any(test, feature = "emulated-tiles"))]
    if emulated::wanted() {
        return true;
    }
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const OSXSAVE: u32 = 1 << 27;
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    const TILE_STATES: u32 = 0b11 << 17;
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
    const XFEATURE_XTILEDATA: i64 = 18;
    let features = if __cpuid(0).eax >= 7 {
        __cpuid_count(7, 0).edx
    } else {
        0
    };
    if features & AMX_BF16 == 0 || features & AMX_TILE == 0 || __cpuid(1).ecx & OSXSAVE == 0 {
        return false;
    }
    let enabled: u32;
    // SAFETY: `xgetbv` exists where OSXSAVE is set.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack)) };
    if enabled & TILE_STATES != TILE_STATES {
        return false;
    }
    let status: i64;
    // SAFETY: the call asks for a permission and touches no memory of ours.
    unsafe {
        asm!("syscall", inlateout("rax") ARCH_PRCTL => status, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    status == 0
}

#[cfg(not(target_os = "linux"))]
pub(super) fn permitted() -> bool {
    false
}

/// The tile registers configured as 16 rows of 64 bytes for the calling thread, until dropped.
pub(super) struct Tiles(std::marker::PhantomData<*const ()>);

impl Tiles {
    /// # Safety
    /// [`permitted`] was true.
    pub unsafe fn configure() -> Self {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // palette
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64; // bytes of a row
            config.0[48 + tile] = 16; // rows
        }
        // SAFETY: the configuration is a valid one; the unit may be used (contract).
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self(std::marker::PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: the unit may be used, else this value could not exist.
        unsafe { std::arch::asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Registers 0 to 3 become the sums `c [32, 32]`, or zero.
///
/// # Safety
/// `c` is 4 KiB, and the calling thread holds [`Tiles`].
#[inline(always)]
unsafe fn load_sums(c: *const f32, beta: Beta) {
    use std::arch::asm;
    // SAFETY: by the contract. Nothing but this file uses tile registers, so that they keep what is in them.
    unsafe {
        if beta == Beta::One {
            asm!(
                "tileloadd tmm0, [{c} + {row}]",
                "tileloadd tmm1, [{c} + {row} + 64]",
                "tileloadd tmm2, [{c} + {row} + 2048]",
                "tileloadd tmm3, [{c} + {row} + 2112]",
                c = in(reg) c, row = in(reg) 128usize, options(nostack, readonly),
            );
        } else {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                options(nomem, nostack)
            );
        }
    }
}

/// Writes registers 0 to 3 to `c [32, 32]`.
///
/// # Safety
/// As [`load_sums`].
#[inline(always)]
unsafe fn store_sums(c: *mut f32) {
    use std::arch::asm;
    // SAFETY: by the contract.
    unsafe {
        asm!(
            "tilestored [{c} + {row}], tmm0",
            "tilestored [{c} + {row} + 64], tmm1",
            "tilestored [{c} + {row} + 2048], tmm2",
            "tilestored [{c} + {row} + 2112], tmm3",
            c = in(reg) c, row = in(reg) 128usize, options(nostack),
        );
    }
}

/// `c [32, 32] = keep·c + a·b` over `steps` steps of 32; see [`super::micro_kernel::MicroKernel::gemm_block_interleaved`].
///
/// A tile product takes 16 cycles, a tile load 8 from the first cache and twice that from the second: loads stand between
/// the products, and lines of the right operand are fetched two steps ahead.
///
/// # Safety
/// `a` and `b` are `steps` steps of 2 KiB each, `c` is 4 KiB, and the calling thread holds [`Tiles`].
pub(super) unsafe fn multiply(
    mut a: *const Bf16,
    mut b: *const Bf16,
    steps: usize,
    c: *mut f32,
    beta: Beta,
    [mut first, mut second]: [*const Bf16; 2],
    mut beside: impl FnMut(usize),
) {
    use std::arch::asm;
    /// Prefetches of sixteen lines, 4 KiB (two steps) after the tile that begins `$offset` bytes into the step.
    macro_rules! ahead {
        ($($line:literal)*) => { concat!($("prefetcht0 [{b} + ", stringify!($line), "]\n"),*) };
    }
    // SAFETY: by the contract.
    unsafe {
        load_sums(c, beta);
        for step in 0..steps {
            asm!(
                "tileloadd tmm4, [{a} + {row}]",
                "tileloadd tmm6, [{b} + {row}]",
                ahead!(4096 4160 4224 4288 4352 4416 4480 4544 4608 4672 4736 4800 4864 4928 4992 5056),
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {row} + 1024]",
                ahead!(5120 5184 5248 5312 5376 5440 5504 5568 5632 5696 5760 5824 5888 5952 6016 6080),
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{a} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "prefetcht1 [{first}]",
                "prefetcht1 [{first} + 64]",
                "prefetcht1 [{first} + 128]",
                "prefetcht1 [{first} + 192]",
                "prefetcht1 [{second}]",
                "prefetcht1 [{second} + 64]",
                "prefetcht1 [{second} + 128]",
                "prefetcht1 [{second} + 192]",
                "tdpbf16ps tmm3, tmm5, tmm7",
                a = in(reg) a, b = in(reg) b, first = in(reg) first, second = in(reg) second, row = in(reg) 64usize,
                options(nostack, readonly),
            );
            // The unit works on what was asked of it while the processor goes on with this.
            beside(step);
            (a, b) = (a.wrapping_add(1024), b.wrapping_add(1024));
            (first, second) = (first.wrapping_add(128), second.wrapping_add(128));
        }
        store_sums(c);
    }
}

/// `c [32, 32] = keep·c + a·b` over `steps` steps of 32, where each number of `a` and `b` is the sum of three bfloat16 parts; a
/// step consists of the first, second and third parts, 2 KiB each. See [`super::bf16x3`] for the products that are formed.
///
/// In this order seven pairs of tiles are loaded for six pairs of products.
///
/// # Safety
/// `a` and `b` are `steps` steps of 6 KiB each, `c` is 4 KiB, and the calling thread holds [`Tiles`].
pub(super) unsafe fn gemm_block_bf16x3(a: *const Bf16, b: *const Bf16, steps: usize, c: *mut f32, beta: Beta) {
    use std::arch::asm;
    /// Two tiles of the operand `$from` that begin `$offset` bytes into the step.
    macro_rules! load {
        ($first:literal, $second:literal, $from:literal, $offset:literal, $next:literal) => {
            concat!(
                "tileloadd tmm",
                $first,
                ", [{",
                $from,
                "} + {row} + ",
                $offset,
                "]\n",
                "tileloadd tmm",
                $second,
                ", [{",
                $from,
                "} + {row} + ",
                $next,
                "]\n"
            )
        };
    }
    // SAFETY: by the contract.
    unsafe {
        load_sums(c, beta);
        if steps > 0 {
            macro_rules! products {
                () => {
                    "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n"
                };
            }
            asm!(
                "2:",
                load!("4", "5", "a", "4096", "5120"), // third
                load!("6", "7", "b", "0", "1024"), // first
                products!(),
                load!("4", "5", "a", "2048", "3072"), // second
                products!(),
                load!("6", "7", "b", "2048", "3072"), // second
                products!(),
                load!("4", "5", "a", "0", "1024"), // first
                products!(),
                load!("6", "7", "b", "0", "1024"), // first
                products!(),
                load!("6", "7", "b", "4096", "5120"), // third
                products!(),
                "add {a}, 6144",
                "add {b}, 6144",
                "dec {steps}",
                "jnz 2b",
                a = inout(reg) a => _, b = inout(reg) b => _, steps = inout(reg) steps => _, row = in(reg) 64usize,
                options(nostack, readonly),
            );
        }
        store_sums(c);
    }
}
