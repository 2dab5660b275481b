//! Instructions of kernels, one by one, for comparison with what the PTX ISA defines (`kernels/intrinsics.cu`).

use crate::context::Context;
use crate::driver::{Error, Result};
use crate::launch::{WARP, launch, to_i32};

/// A kernel that passes values through instructions, in one warp.
#[derive(Clone, Copy, Debug)]
pub struct Intrinsic {
    kernel: &'static str,
    /// Words of an item that the kernel reads and writes.
    words: [usize; 2],
    shared_bytes: u32,
}

const fn intrinsic(kernel: &'static str, words: [usize; 2], shared_bytes: u32) -> Intrinsic {
    Intrinsic {
        kernel,
        words,
        shared_bytes,
    }
}

/// `to_bf16`, `from_bf16` and `pack_bf16`. Input `[n]` of f32; output `[3, n]`: the rounded value, its value, and the pair of the value and its
/// negation.
pub const CONVERSIONS: Intrinsic = intrinsic("intrinsic_conversions", [1, 3], 0);
/// `a + b`, `a − b`, `a·b`, `a/b`, `√|a|` and `b + a·b`, each operation rounded. Input `[2, n]`, output `[6, n]`.
pub const ARITHMETIC: Intrinsic = intrinsic("intrinsic_arithmetic", [2, 6], 0);
/// `exp2_approx` and `tanh_approx`. Input `[n]`, output `[2, n]`.
pub const APPROXIMATIONS: Intrinsic = intrinsic("intrinsic_approximations", [1, 2], 0);
/// `mma_m16n8k16`. Input `[n, 320]`: A `[16, 16]` and the transpose of B `[16, 8]` in bfloat16, C `[16, 8]` in f32; output `[n, 16, 8]`.
pub const MMA: Intrinsic = intrinsic("intrinsic_mma", [320, 128], 0);
/// `ldmatrix` and `ldmatrix_trans`. Input `[n, 32, 8]` of 16 bits; output `[n, 14, 32]`: the registers of one, two and four matrices, each
/// followed by those of the transposes. Thread l gives the address of row 7·l modulo 32.
pub const LDMATRIX: Intrinsic = intrinsic("intrinsic_ldmatrix", [128, 448], 512);
/// `cp_async` of 16, 8 and 4 bytes. Input and output `[n, 224]`. Thread l copies l modulo 17, 9 and 5 bytes.
pub const CP_ASYNC: Intrinsic = intrinsic("intrinsic_cp_async", [224, 224], 896);
/// Shuffles, votes and `warp_sum`. Input `[n, 32]`, output `[n, 10, 32]`.
pub const SHUFFLES: Intrinsic = intrinsic("intrinsic_shuffles", [32, 320], 0);

impl Intrinsic {
    /// Returns what the kernel writes for these words.
    ///
    /// # Errors
    /// If the words are not those of whole items, or an error of the driver.
    pub fn run(&self, context: &Context, input: &[u32]) -> Result<Vec<u32>> {
        let [read, written] = self.words;
        let items = input.len() / read;
        if items == 0 || items * read != input.len() {
            return Err(Error::InvalidArgument {
                operation: self.kernel,
                reason: format!("{} words are not items of {read} words", input.len()),
            });
        }
        let from = context.upload(input)?;
        let to = context.allocate(items * written * 4)?;
        let n = to_i32(self.kernel, items)?;
        // SAFETY: the types are those of the kernel's parameters, and the buffers have the words of `n` items.
        unsafe {
            launch!(
                context,
                self.kernel,
                [1, 1, 1],
                [WARP, 1, 1],
                self.shared_bytes,
                [from.address(), to.address(), n]
            )
        }?;
        let mut output = vec![0u32; items * written];
        context.download(&to, &mut output)?;
        Ok(output)
    }
}
