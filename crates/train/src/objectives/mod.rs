//! Pre-training objectives: masked language modelling, masked autoencoding, image-text matching with word-patch alignment.

mod pretrain;

pub use pretrain::{Losses, Matching, Modelling, Objectives, Outcome, PretrainStep};
