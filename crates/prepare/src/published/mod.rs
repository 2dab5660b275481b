//! The published datasets, one module for each kind of raw layout.

mod karpathy;
mod nlvr2;
mod pairs;
mod raw;
mod regions;
pub mod vgqa;
mod vqav2;

use std::fmt;
use std::str::FromStr;

use crate::plan::Plan;
use crate::{PrepareError, Result};
pub use raw::RawDataset;

/// A published dataset that can be prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dataset {
    /// COCO captions.
    Coco,
    /// Flickr30k captions.
    F30k,
    /// Visual Genome's regions.
    Vg,
    /// SBU captions.
    Sbu,
    /// Conceptual Captions.
    Gcc,
    /// VQA v2.
    Vqav2,
    /// Visual Genome's questions whose answers are in the vocabulary of VQA v2.
    Vgqa,
    /// NLVR2.
    Nlvr2,
    /// VQA v2 statements of the large pre-training set.
    PretrainVqa,
    /// GQA statements of the large pre-training set.
    PretrainGqa,
    /// OpenImages captions of the large pre-training set.
    PretrainOpenimages,
    /// Flickr30k captions of the large pre-training set.
    PretrainF30k,
    /// Visual Genome statements of the large pre-training set.
    PretrainVg,
}

impl Dataset {
    /// All published datasets.
    pub const ALL: [Self; 13] = [
        Self::Coco,
        Self::F30k,
        Self::Vg,
        Self::Sbu,
        Self::Gcc,
        Self::Vqav2,
        Self::Vgqa,
        Self::Nlvr2,
        Self::PretrainVqa,
        Self::PretrainGqa,
        Self::PretrainOpenimages,
        Self::PretrainF30k,
        Self::PretrainVg,
    ];

    /// Returns the name, which [`FromStr`] parses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::F30k => "f30k",
            Self::Vg => "vg",
            Self::Sbu => "sbu",
            Self::Gcc => "gcc",
            Self::Vqav2 => "vqav2",
            Self::Vgqa => "vgqa",
            Self::Nlvr2 => "nlvr2",
            Self::PretrainVqa => "pretrain-vqa",
            Self::PretrainGqa => "pretrain-gqa",
            Self::PretrainOpenimages => "pretrain-openimages",
            Self::PretrainF30k => "pretrain-f30k",
            Self::PretrainVg => "pretrain-vg",
        }
    }

    /// Reads the annotations, lists the images, and plans the files.
    ///
    /// # Errors
    /// Returns an error if annotations or directories are missing, damaged, or belong to another dataset.
    pub fn plan(self, raw: &RawDataset) -> Result<Plan> {
        match self {
            Self::Coco => karpathy::coco(raw),
            Self::F30k => karpathy::f30k(raw),
            Self::Vg => regions::vg(raw),
            Self::Sbu => pairs::sbu(raw),
            Self::Gcc => pairs::gcc(raw),
            Self::Vqav2 => vqav2::vqav2(raw),
            Self::Vgqa => vgqa::plan(raw, vgqa::Layout::in_directory(&raw.root), raw.vocabulary.as_ref()),
            Self::Nlvr2 => nlvr2::nlvr2(raw),
            Self::PretrainVqa => pairs::pretrain_vqa(raw),
            Self::PretrainGqa => pairs::pretrain_gqa(raw),
            Self::PretrainOpenimages => pairs::openimages(raw),
            Self::PretrainF30k => pairs::pretrain_f30k(raw),
            Self::PretrainVg => pairs::pretrain_vg(raw),
        }
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Dataset {
    type Err = PrepareError;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|dataset| dataset.name() == name);
        found.ok_or_else(|| PrepareError::UnknownDataset {
            name: name.to_string(),
            known: Self::ALL.map(Self::name).to_vec(),
        })
    }
}

#[cfg(test)]
mod tests;
