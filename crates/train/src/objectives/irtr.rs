//! One step of fine-tuning for retrieval: a picture's caption is to be ranked above captions of other pictures.

use super::Pools;
use vlct_model::Vlc;
use vlct_tensor::{Tape, Var};

/// Everything that a step reads, in parallel lists.
#[derive(Clone, Debug)]
pub struct IrtrStep<'a> {
    /// Pictures `[3, S, S]`, seen whole.
    pub pictures: Vec<&'a [f32]>,
    /// For each picture the token ids (from `[CLS]` to `[SEP]`) of its caption, then those of the false ones.
    pub texts: Vec<Vec<&'a [u32]>>,
    /// Key of the text embedding's dropout; `None`: no dropout.
    pub dropout: Option<[u64; 4]>,
}

/// Result of one step.
pub struct IrtrOutcome {
    /// What is minimised: cross-entropy of the right caption among those of its picture, averaged over the pictures.
    pub total: Var,
    /// `[pictures, captions of each]`, the right one first.
    pub scores: Var,
}

impl IrtrStep<'_> {
    /// Runs the model and computes the loss.
    ///
    /// # Panics
    /// If the lists differ in length, pictures have different numbers of captions, or the model cannot rank.
    pub fn run(&self, model: &Vlc, tape: &Tape) -> IrtrOutcome {
        let pictures = self.pictures.len();
        let captions = self.texts.first().map_or(0, Vec::len);
        assert!(
            self.texts.len() == pictures && self.texts.iter().all(|t| t.len() == captions),
            "as many captions for each picture"
        );
        // The same slice for all captions of an image, so that it is embedded once.
        let shown: Vec<&[f32]> = self
            .pictures
            .iter()
            .flat_map(|p| std::iter::repeat_n(*p, captions))
            .collect();
        let mut pools = Pools::default();
        pools.extend(0, &self.texts.concat(), &shown, None);
        let pooled = model.read(tape, &pools.inputs(), self.dropout);
        let scores = tape.reshape(&model.rank_scores(tape, &pooled), pictures, captions);
        IrtrOutcome {
            total: tape.cross_entropy(&scores, vec![0; pictures]),
            scores,
        }
    }
}
