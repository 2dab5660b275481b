//! Questions of Visual Genome as further training data for VQA.
//!
//! ```text
//! question_answers.json ── select ──▶ valid_vgqa_info.pkl ── plan ──▶ rows of vgqa_train.arrow
//! ```
//!
//! About half of the images of Visual Genome are images of COCO. [`select`] takes those of their questions whose answer is
//! in the vocabulary of VQA v2, [`plan`] gives the answers their numbers. Between the two lies a file, the original's pickle or
//! JSON, which [`read`] and [`encode`] know.

mod file;
mod plan;
mod select;

pub use file::{QuestionsFormat, encode, read};
pub use plan::{Layout, plan};
pub use select::{Selection, select};

/// A question about a image of Visual Genome with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its number in Visual Genome (`qa_id`).
    pub id: i64,
    /// The question.
    pub question: String,
    /// The answer, spelled as in the vocabulary.
    pub answer: String,
}

/// A image of Visual Genome with its questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuestionedImage {
    /// Its number in Visual Genome (`image_id`).
    pub id: i64,
    /// Its questions, in the order of `question_answers.json`.
    pub questions: Vec<Question>,
}

#[cfg(test)]
mod tests;
