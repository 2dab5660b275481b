//! Checks of CUDA kernels: a kernel runs on a device, and its results are compared with the plain loops of `vlct_kernels::reference`, for
//! random values and sizes at the edges.
//!
//! The checks run on any device: `vlct-self-test` runs them on a GPU, and `tests/emulator` in the emulator, in several schedules. Those
//! tests also change the kernels and demand that a check finds the fault.
//!
//! - [`device`]: a device under test, random values and comparisons.
//! - One module for each `.cu` file, and `matmul` for the products of the driver. A check is a function of a [`Device`].

pub mod attention;
pub mod binary_cross_entropy;
pub mod column_sums;
pub mod cross_entropy;
pub mod device;
pub mod dropout;
pub mod elementwise;
pub mod intrinsics;
pub mod layer_norm;
pub mod lists;
pub mod matmul;
pub mod optimizer;
pub mod patch_loss;
pub mod patches;
pub mod rows;
pub mod scalars;
pub mod segments;
pub mod sparse;
pub mod transport;
pub mod unfused;

pub use device::{Device, Outcome};

/// A check: its name, and the function that runs it.
pub type Check = (&'static str, fn(&Device) -> Outcome);

/// Instructions against the PTX ISA.
pub const INTRINSICS: [Check; 7] = [
    ("intrinsics::conversions", intrinsics::conversions),
    ("intrinsics::arithmetic", intrinsics::arithmetic),
    ("intrinsics::approximations", intrinsics::approximations),
    ("intrinsics::mma", intrinsics::mma),
    ("intrinsics::ldmatrix", intrinsics::ldmatrix),
    ("intrinsics::cp_async", intrinsics::cp_async),
    ("intrinsics::shuffles", intrinsics::shuffles),
];

/// Kernels against plain loops.
pub const KERNELS: [Check; 26] = [
    ("attention::plain", attention::plain),
    ("attention_mma::mma", attention::mma),
    (
        "binary_cross_entropy::losses_and_gradients",
        binary_cross_entropy::losses_and_gradients,
    ),
    ("binary_cross_entropy::large_logits", binary_cross_entropy::large_logits),
    ("column_sums::sums", column_sums::sums),
    (
        "cross_entropy::losses_and_gradients",
        cross_entropy::losses_and_gradients,
    ),
    ("cross_entropy::accuracies", cross_entropy::accuracies),
    ("cross_entropy::special_values", cross_entropy::special_values),
    ("dropout::has_the_mask_of_the_cpu", dropout::has_the_mask_of_the_cpu),
    (
        "dropout::has_the_mask_of_the_cpu_in_wide_rows",
        dropout::has_the_mask_of_the_cpu_in_wide_rows,
    ),
    ("elementwise::values", elementwise::values),
    (
        "elementwise::rounding_of_special_values",
        elementwise::rounding_of_special_values,
    ),
    ("layer_norm::forward", layer_norm::forward),
    ("layer_norm::backward", layer_norm::backward),
    ("layer_norm::equal_bits_twice", layer_norm::equal_bits_twice),
    (
        "layer_norm::backward_of_rows_too_wide_for_shared_memory",
        layer_norm::backward_of_rows_too_wide_for_shared_memory,
    ),
    (
        "lists::norms_interpolation_and_non_finite_values",
        lists::norms_interpolation_and_non_finite_values,
    ),
    ("optimizer::all_rules", optimizer::all_rules),
    (
        "patch_loss::normalised_rows_losses_and_gradients",
        patch_loss::normalised_rows_losses_and_gradients,
    ),
    ("patches::both_orders", patches::both_orders),
    (
        "rows::gather_lookup_and_scatter_add",
        rows::gather_lookup_and_scatter_add,
    ),
    ("scalars::weighted_sums", scalars::weighted_sums),
    ("segments::means_and_gradients", segments::means_and_gradients),
    ("sparse::products", sparse::products),
    ("transport::constant_norms", transport::constant_norms),
    (
        "transport::distances_plans_and_gradients",
        transport::distances_plans_and_gradients,
    ),
];

/// Kernels for devices of compute capability 9.0, Hopper, against plain loops.
pub const HOPPER: [Check; 1] = [("attention_wgmma::wgmma", attention::wgmma)];

/// Matrix products of the driver, which are those of cuBLASLt on NVIDIA's devices, against plain loops.
pub const PRODUCTS: [Check; 2] = [
    ("matmul::products_and_epilogues", matmul::products_and_epilogues),
    ("unfused::all_epilogues", unfused::all_epilogues),
];
