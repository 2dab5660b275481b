//! Questions of Visual Genome as further training data for VQA.
//!
//! ```text
//! question_answers.json ── select ──▶ valid_vgqa_info.pkl ── plan ──▶ rows of vgqa_train.arrow
//! ```
//!
//! About half of the images of Visual Genome are images of COCO. [`select`] keeps a question about these images if
//! its answer is in the vocabulary of VQA v2; [`plan`] assigns ids to the answers. The file of selected questions is a pickle, as in
//! the original, or JSON; [`read`] and [`encode`] handle both formats.

mod file;
mod plan;
mod select;

pub use file::{QuestionsFormat, encode, read};
pub use plan::{Layout, plan};
pub use select::{Selection, select};

/// A question about an image of Visual Genome, and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// `qa_id` in Visual Genome.
    pub id: i64,
    /// Text of the question.
    pub question: String,
    /// The answer, spelled as in the vocabulary.
    pub answer: String,
}

/// An image of Visual Genome, and the questions about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageWithQuestions {
    /// `image_id` in Visual Genome.
    pub id: i64,
    /// The questions, in the order of `question_answers.json`.
    pub questions: Vec<Question>,
}

#[cfg(test)]
mod tests;
