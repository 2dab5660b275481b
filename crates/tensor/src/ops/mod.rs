//! The operations, one file each: forward and backward together, as methods of [`crate::Tape`].

mod activations;
mod binary_cross_entropy;
mod cross_entropy;
mod dropout;
mod gather;
mod hits;
mod layer_norm;
mod linear;
mod lookup;
mod patch_loss;
mod reshape;
mod sublayers;
mod transport;
mod weighted_sum;

pub use gather::Pick;
pub use lookup::Table;
pub use sublayers::{Affine, Varlen};
pub use transport::{Pair, align};
pub use vlct_kernels::gather::NONE;
pub use vlct_kernels::transport::Ipot;

#[cfg(test)]
mod tests;
