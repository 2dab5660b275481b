//! AMX: eight tile registers of 16 rows of 64 bytes, and an instruction that multiplies two of them.
//!
//! This file uses inline assembly, because stable Rust has no intrinsics for AMX. Tiles 0 to 3 hold the four quadrants of 32 × 32 sums.
//! Tiles 4 and 5 hold the upper and lower half of a block of lhs, tiles 6 and 7 the left and right half of a block of rhs.

use super::{Beta, Bf16, TileEngine};
use std::arch::asm;

/// Multiplies on AMX tiles.
pub struct Amx;

impl Amx {
    /// Asks the operating system for permission to use AMX. Returns whether the CPU has AMX and permission was granted.
    #[cfg(target_os = "linux")]
    pub fn request_permission() -> bool {
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
        // SAFETY: OSXSAVE is set, so that the CPU has `xgetbv`.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") enabled, out("edx") _, options(nomem, nostack)) };
        if enabled & TILE_STATES != TILE_STATES {
            return false;
        }
        let status: i64;
        // SAFETY: this system call requests a permission and accesses no memory of the process.
        unsafe {
            asm!("syscall", inlateout("rax") ARCH_PRCTL => status, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
                 lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        status == 0
    }

    /// Returns `false`: AMX is supported on Linux only.
    #[cfg(not(target_os = "linux"))]
    pub fn request_permission() -> bool {
        false
    }
}

/// Tile registers of the calling thread, configured as 16 rows of 64 bytes. Dropping the value releases the tiles.
pub struct TileConfig(std::marker::PhantomData<*const ()>);

impl TileConfig {
    /// Configures the tile registers.
    ///
    /// # Safety
    /// [`Amx::request_permission`] has returned `true`.
    pub unsafe fn load() -> Self {
        #[repr(C, align(64))]
        struct Config([u8; 64]);
        let mut config = Config([0; 64]);
        config.0[0] = 1; // palette
        for tile in 0..8 {
            config.0[16 + 2 * tile] = 64; // bytes per row
            config.0[48 + tile] = 16; // rows
        }
        // SAFETY: the process may use AMX (caller), and palette 1 has eight tiles of 16 rows of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self(std::marker::PhantomData)
    }
}

impl Drop for TileConfig {
    fn drop(&mut self) {
        // SAFETY: the process may use AMX, as `load` requires.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Loads `β·c[32×32]` into tiles 0 to 3.
///
/// # Safety
/// `c` is valid for a block, and the thread holds a [`TileConfig`].
#[inline(always)]
unsafe fn load_sums(c: *const f32, beta: Beta) {
    // SAFETY: the tiles are configured and `c` is valid for 32 rows of 128 bytes (caller). Only this file uses tile
    // registers, which therefore keep their content between `asm!` blocks.
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

/// Stores tiles 0 to 3 to `c[32×32]`.
///
/// # Safety
/// `c` is valid for a block, and the thread holds a [`TileConfig`].
#[inline(always)]
unsafe fn store_sums(c: *mut f32) {
    // SAFETY: the tiles are configured and `c` is valid for 32 rows of 128 bytes (caller).
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

impl TileEngine for Amx {
    /// A tile product takes 16 cycles; a tile load takes 8 cycles from L1, and 16 from L2. Loads and products therefore alternate, and
    /// rhs is prefetched two k-blocks ahead.
    unsafe fn gemm_block(
        mut lhs: *const Bf16,
        mut rhs: *const Bf16,
        _rows: usize,
        k_blocks: usize,
        dst: *mut f32,
        beta: Beta,
        [mut first, mut second]: [*const Bf16; 2],
        mut vector_work: impl FnMut(usize),
    ) {
        /// Prefetches sixteen cache lines of rhs at these offsets, 4 KiB (two k-blocks) after the current tile.
        macro_rules! prefetch_rhs {
            ($($line:literal)*) => { concat!($("prefetcht0 [{b} + ", stringify!($line), "]\n"),*) };
        }
        // SAFETY: the tiles are configured, the operands are valid for `k_blocks` blocks of 2 KiB and `dst` for a block of 4 KiB (caller);
        // prefetches cannot fault.
        unsafe {
            load_sums(dst, beta);
            for k_block in 0..k_blocks {
                asm!(
                    "tileloadd tmm4, [{a} + {row}]",
                    "tileloadd tmm6, [{b} + {row}]",
                    prefetch_rhs!(4096 4160 4224 4288 4352 4416 4480 4544 4608 4672 4736 4800 4864 4928 4992 5056),
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tileloadd tmm7, [{b} + {row} + 1024]",
                    prefetch_rhs!(5120 5184 5248 5312 5376 5440 5504 5568 5632 5696 5760 5824 5888 5952 6016 6080),
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
                    a = in(reg) lhs, b = in(reg) rhs, first = in(reg) first, second = in(reg) second, row = in(reg) 64usize,
                    options(nostack, readonly),
                );
                // The tile products are still in flight while these vector instructions execute.
                vector_work(k_block);
                (lhs, rhs) = (lhs.wrapping_add(1024), rhs.wrapping_add(1024));
                (first, second) = (first.wrapping_add(128), second.wrapping_add(128));
            }
            store_sums(dst);
        }
    }

    /// Computes the products in the order of [`BF16X3_PRODUCTS`](super::BF16X3_PRODUCTS), which needs seven loads of two tiles.
    unsafe fn gemm_block_bf16x3(lhs: *const Bf16, rhs: *const Bf16, k_blocks: usize, dst: *mut f32, beta: Beta) {
        /// Loads tiles `$first` and `$second` from the byte offsets `$offset` and `$next` of the bf16x3 block of operand `$from`.
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
        // SAFETY: the tiles are configured, the operands are valid for `k_blocks` bf16x3 blocks of 6 KiB and `dst` for a block of 4 KiB
        // (caller).
        unsafe {
            load_sums(dst, beta);
            if k_blocks > 0 {
                macro_rules! products {
                    () => {
                        "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7\n"
                    };
                }
                asm!(
                    "2:",
                    load!("4", "5", "a", "4096", "5120"), // low
                    load!("6", "7", "b", "0", "1024"), // high
                    products!(),
                    load!("4", "5", "a", "2048", "3072"), // middle
                    products!(),
                    load!("6", "7", "b", "2048", "3072"), // middle
                    products!(),
                    load!("4", "5", "a", "0", "1024"), // high
                    products!(),
                    load!("6", "7", "b", "0", "1024"), // high
                    products!(),
                    load!("6", "7", "b", "4096", "5120"), // low
                    products!(),
                    "add {a}, 6144",
                    "add {b}, 6144",
                    "dec {k_blocks}",
                    "jnz 2b",
                    a = inout(reg) lhs => _, b = inout(reg) rhs => _, k_blocks = inout(reg) k_blocks => _, row = in(reg) 64usize,
                    options(nostack, readonly),
                );
            }
            store_sums(dst);
        }
    }
}
