//! The kernels of attention: which of them serve a device, a type and a head width, and the sizes of their blocks.

use super::plan::TILE;
use crate::driver::Element::{self, Bf16, F32};
use crate::launch::{THREADS, WARP};

/// Widest head of the plain kernels: their threads sum eight columns each.
const MAX_HEAD_WIDTH: usize = 256;

/// Threads of a block of `attention_mma.cu` and `attention_wgmma.cu`.
const TENSOR_CORE_THREADS: u32 = 128;

/// Shared memory for two buffers with the log-sum-exp and `delta` of each row of a tile.
const STATISTICS_BYTES: u32 = (2 * 2 * TILE * F32.bytes()) as u32;

/// Which kernels compute attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// For f32 and bfloat16, and any head of up to 256 columns, with f32 arithmetic.
    Plain,
    /// Tensor cores by `mma.sync`: for bfloat16 and heads of 8, 16, … 128 columns. Probabilities and gradients of scores are rounded to
    /// bfloat16.
    Mma,
    /// Hopper's tensor cores by `wgmma`: as [`Mma`](Self::Mma), with tiles of whole warpgroups.
    Wgmma,
}

/// The fastest kernel for a compute capability, a type and a number of columns of each head.
pub fn kernel_for(capability: (u32, u32), element: Element, head_width: usize) -> Kernel {
    let fits = element == Bf16 && Instance::for_width(head_width).is_some();
    match capability {
        (9, 0) if fits => Kernel::Wgmma,
        (8.., _) if fits => Kernel::Mma,
        _ => Kernel::Plain,
    }
}

/// Names of kernels for the forward pass, the gradient of queries, and that of keys and values.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub forward: &'static str,
    pub backward_queries: &'static str,
    pub backward_keys: &'static str,
}

/// The instances of the kernels in `attention_mma.cu` and `attention_wgmma.cu` for heads of up to `width` columns.
struct Instance {
    width: usize,
    mma: Names,
    wgmma: Names,
}

impl Instance {
    const ALL: [Self; 4] = [
        Self {
            width: 32,
            mma: Names {
                forward: "attention_mma_32",
                backward_queries: "attention_backward_queries_mma_32",
                backward_keys: "attention_backward_keys_mma_32",
            },
            wgmma: Names {
                forward: "attention_wgmma_32",
                backward_queries: "attention_backward_queries_wgmma_32",
                backward_keys: "attention_backward_keys_wgmma_32",
            },
        },
        Self {
            width: 64,
            mma: Names {
                forward: "attention_mma_64",
                backward_queries: "attention_backward_queries_mma_64",
                backward_keys: "attention_backward_keys_mma_64",
            },
            wgmma: Names {
                forward: "attention_wgmma_64",
                backward_queries: "attention_backward_queries_wgmma_64",
                backward_keys: "attention_backward_keys_wgmma_64",
            },
        },
        Self {
            width: 80,
            mma: Names {
                forward: "attention_mma_80",
                backward_queries: "attention_backward_queries_mma_80",
                backward_keys: "attention_backward_keys_mma_80",
            },
            wgmma: Names {
                forward: "attention_wgmma_80",
                backward_queries: "attention_backward_queries_wgmma_80",
                backward_keys: "attention_backward_keys_wgmma_80",
            },
        },
        Self {
            width: 128,
            mma: Names {
                forward: "attention_mma_128",
                backward_queries: "attention_backward_queries_mma_128",
                backward_keys: "attention_backward_keys_mma_128",
            },
            wgmma: Names {
                forward: "attention_wgmma_128",
                backward_queries: "attention_backward_queries_wgmma_128",
                backward_keys: "attention_backward_keys_wgmma_128",
            },
        },
    ];

    /// The narrowest instance for a head. Asynchronous copies need rows of whole 16 bytes.
    fn for_width(head_width: usize) -> Option<&'static Self> {
        let fits = |instance: &&Self| head_width.is_multiple_of(8) && head_width <= instance.width;
        Self::ALL.iter().find(fits)
    }
}

/// The kernels of attention and the sizes of their blocks.
pub(super) struct Kernels {
    pub names: Names,
    pub threads: u32,
    /// Shared memory of a block, but for the gradient of keys.
    pub shared_bytes: u32,
    /// Shared memory of a block for the gradient of keys.
    pub keys_shared_bytes: u32,
}

impl Kernels {
    /// The kernels for a type and a head width, or why there are none.
    pub fn new(kernel: Kernel, element: Element, head_width: usize) -> Result<Self, String> {
        match kernel {
            Kernel::Plain => Self::plain(element, head_width),
            Kernel::Mma => Self::mma(element, head_width),
            Kernel::Wgmma => Self::wgmma(element, head_width),
        }
    }

    fn plain(element: Element, head_width: usize) -> Result<Self, String> {
        if head_width > MAX_HEAD_WIDTH {
            return Err(format!(
                "heads have at most {MAX_HEAD_WIDTH} columns, not {head_width}; use more heads"
            ));
        }
        let names = match element {
            F32 => Names {
                forward: "attention_f32",
                backward_queries: "attention_backward_queries_f32",
                backward_keys: "attention_backward_keys_f32",
            },
            Bf16 => Names {
                forward: "attention_bf16",
                backward_queries: "attention_backward_queries_bf16",
                backward_keys: "attention_backward_keys_bf16",
            },
        };
        // For each warp: two rows of a head, and two values for each lane.
        let values = (THREADS / WARP) as usize * 2 * (head_width.next_multiple_of(4) + WARP as usize);
        let shared_bytes = (values * F32.bytes()) as u32;
        Ok(Self {
            names,
            threads: THREADS,
            shared_bytes,
            keys_shared_bytes: shared_bytes,
        })
    }

    fn mma(element: Element, head_width: usize) -> Result<Self, String> {
        let instance = Self::instance("mma.sync", element, head_width)?;
        // Two buffers for tiles of two matrices, whose rows have eight columns of padding.
        let shared_bytes = (2 * 2 * TILE * (instance.width + 8) * Bf16.bytes()) as u32;
        Ok(Self {
            names: instance.mma,
            threads: TENSOR_CORE_THREADS,
            shared_bytes,
            keys_shared_bytes: shared_bytes + STATISTICS_BYTES,
        })
    }

    fn wgmma(element: Element, head_width: usize) -> Result<Self, String> {
        let instance = Self::instance("wgmma", element, head_width)?;
        // Two buffers for tiles of two matrices; the gradient of keys has the tiles of its own keys and values too.
        let tile_bytes = (TILE * instance.width * Bf16.bytes()) as u32;
        Ok(Self {
            names: instance.wgmma,
            threads: TENSOR_CORE_THREADS,
            shared_bytes: 2 * 2 * tile_bytes,
            keys_shared_bytes: 3 * 2 * tile_bytes + STATISTICS_BYTES,
        })
    }

    fn instance(instruction: &str, element: Element, head_width: usize) -> Result<&'static Instance, String> {
        let instance = Instance::for_width(head_width).filter(|_| element == Bf16);
        instance.ok_or_else(|| {
            format!("the kernels with {instruction} do not support {element:?} and heads of {head_width} columns")
        })
    }
}
