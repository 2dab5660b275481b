//! The parts of a model that predictions read.

use std::fmt;

use vlct_model::VlcConfig;

/// A part of a model beside text embedding, image embedding and encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// Answers to questions.
    Vqa,
    /// Whether a text belongs to an image.
    Matching,
    /// The score by which retrieval ranks.
    Ranking,
    /// Masked words.
    MaskedWords,
    /// Whether a statement is true of two images.
    Nlvr2,
    /// Labels.
    Labels,
    /// The decoder, which reconstructs masked patches.
    Decoder,
}

impl Head {
    /// All heads, in the order in which messages list them.
    pub const ALL: [Self; 7] = [
        Self::Vqa,
        Self::Matching,
        Self::Ranking,
        Self::MaskedWords,
        Self::Nlvr2,
        Self::Labels,
        Self::Decoder,
    ];

    /// Whether a model with these sizes has the head.
    pub fn is_in(self, config: &VlcConfig) -> bool {
        match self {
            Self::Vqa => config.heads.vqa.is_some(),
            Self::Matching => config.heads.itm,
            Self::Ranking => config.heads.rank,
            Self::MaskedWords => config.heads.mlm,
            Self::Nlvr2 => config.heads.nlvr2,
            Self::Labels => config.heads.labels.is_some(),
            Self::Decoder => config.has_decoder(),
        }
    }

    /// Removes the head from the sizes of a model.
    pub(crate) fn remove_from(self, config: &mut VlcConfig) {
        match self {
            Self::Vqa => config.heads.vqa = None,
            Self::Matching => config.heads.itm = false,
            Self::Ranking => config.heads.rank = false,
            Self::MaskedWords => config.heads.mlm = false,
            Self::Nlvr2 => config.heads.nlvr2 = false,
            Self::Labels => config.heads.labels = None,
            Self::Decoder => {
                let backbone = &mut config.backbone;
                (backbone.decoder_width, backbone.decoder_depth, backbone.decoder_heads) = (0, 0, 0);
            }
        }
    }

    /// Returns the names of several heads for a message; `none` if there is none.
    pub fn list(heads: &[Self]) -> String {
        match heads {
            [] => "none".into(),
            heads => heads.iter().map(Self::to_string).collect::<Vec<_>>().join(", "),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vqa => "visual question answering",
            Self::Matching => "image-text matching",
            Self::Ranking => "ranking",
            Self::MaskedWords => "masked words",
            Self::Nlvr2 => "statements about two images",
            Self::Labels => "labels",
            Self::Decoder => "masked patches",
        })
    }
}
