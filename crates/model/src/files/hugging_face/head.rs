//! The heads that models of ViLT have in transformers.

use crate::config::Heads;

/// A head of a model that ViLT has in Hugging Face's transformers. A model there has one head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ViltHead {
    /// Answers to questions.
    Vqa,
    /// Whether a statement is true of two images.
    Nlvr2,
    /// The score by which retrieval ranks.
    Ranking,
    /// Masked words.
    MaskedWords,
    /// Labels of an image with a text. In transformers it is a head for answers, whose layers are the same.
    Labels,
}

impl ViltHead {
    /// All heads, in the order in which messages list them.
    pub const ALL: [Self; 5] = [Self::Vqa, Self::Nlvr2, Self::Ranking, Self::MaskedWords, Self::Labels];

    /// Returns the name of the class in transformers.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Vqa | Self::Labels => "ViltForQuestionAnswering",
            Self::Nlvr2 => "ViltForImagesAndTextClassification",
            Self::Ranking => "ViltForImageAndTextRetrieval",
            Self::MaskedWords => "ViltForMaskedLM",
        }
    }

    /// Whether a model with these heads has the head.
    pub fn is_in(self, heads: &Heads) -> bool {
        match self {
            Self::Vqa => heads.vqa.is_some(),
            Self::Nlvr2 => heads.nlvr2,
            Self::Ranking => heads.rank,
            Self::MaskedWords => heads.mlm,
            Self::Labels => heads.labels.is_some(),
        }
    }

    /// Returns the head alone, as `heads` has it.
    pub fn alone(self, heads: &Heads) -> Heads {
        Heads {
            mlm: heads.mlm && self == Self::MaskedWords,
            itm: false,
            vqa: heads.vqa.filter(|_| self == Self::Vqa),
            nlvr2: heads.nlvr2 && self == Self::Nlvr2,
            labels: heads.labels.filter(|_| self == Self::Labels),
            rank: heads.rank && self == Self::Ranking,
        }
    }
}

impl std::fmt::Display for ViltHead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Vqa => "visual question answering",
            Self::Nlvr2 => "statements about two images",
            Self::Ranking => "ranking",
            Self::MaskedWords => "masked words",
            Self::Labels => "labels",
        })
    }
}
