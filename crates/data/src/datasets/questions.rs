//! Questions about pictures: VQA v2, Visual Genome's, and one's own.

use super::contents::Questions;
use super::items::{AROUND_BYTES, ItemDataset, Location};
use crate::Result;
use crate::answers::MAX_ANSWERS;
use crate::arrow::{AnsweredQuestion, ArrowTable};

/// Pictures and questions. An item is a picture with one of its questions; a question that is asked twice is two items
/// (`vlc/datasets/vqav2_dataset.py`).
///
/// The original's alternative training set, with Visual Genome's questions, is `["vqa", "vgqa"]`.
pub type QuestionDataset = ItemDataset<Questions>;

impl QuestionDataset {
    /// The question of item `index`, with its answers.
    ///
    /// # Errors
    /// As [`Self::question_at`]; no such item.
    pub fn question(&self, index: usize) -> Result<AnsweredQuestion> {
        self.question_at(&self.locate(index)?)
    }

    /// The question at a location that [`Self::locate`] gave, with the answers that count. Test splits have none.
    ///
    /// # Errors
    /// No such place; a damaged file; columns that disagree about how many questions or answers there are; an answer with an
    /// impossible number or score.
    pub fn question_at(&self, at: &Location) -> Result<AnsweredQuestion> {
        let table = self.file(at)?.arrow()?;
        let questions = table.texts(at.row, "questions")?;
        let ids = table.integers(at.row, "question_id")?;
        let answers = table.text_lists(at.row, "answers")?;
        let labels = table.integer_lists(at.row, "answer_labels")?;
        let scores = table.float_lists(at.row, "answer_scores")?;
        self.read(at, AROUND_BYTES);

        let wrong = |reason: String| Err(self.row_error(at, &reason));
        let (number, asked) = (at.text, questions.len());
        if number >= asked || ids.len() != asked {
            let reason = format!(
                "question {number} is wanted; there are {asked}, with {} numbers",
                ids.len()
            );
            return wrong(reason);
        }
        let mut question = AnsweredQuestion {
            question: questions[number].to_string(),
            question_id: ids[number],
            answers: Vec::new(),
        };
        let lists = [answers.len(), labels.len(), scores.len()];
        if lists == [0; 3] {
            return Ok(question);
        }
        if lists != [asked; 3] {
            let [answers, labels, scores] = lists;
            return wrong(format!(
                "{asked} questions, but answers of {answers}, labels of {labels} and scores of {scores}"
            ));
        }
        let (answers, labels, scores) = (&answers[number], &labels[number], &scores[number]);
        if answers.len() != labels.len() || answers.len() != scores.len() {
            return wrong(format!(
                "question {number} has {} answers, but {} labels and {} scores",
                answers.len(),
                labels.len(),
                scores.len()
            ));
        }
        for ((answer, label), score) in answers.iter().zip(labels).zip(scores) {
            if !(0..MAX_ANSWERS as i64).contains(label) || !(0.0..=1.0).contains(score) {
                return wrong(format!(
                    "question {number} has an answer with the number {label} and the score {score}; possible are numbers \
                     from 0 and scores from 0 to 1"
                ));
            }
            question.answers.push((answer.to_string(), *label, *score));
        }
        Ok(question)
    }

    /// The picture at a location that [`Self::locate`] gave: the bytes of its file.
    ///
    /// # Errors
    /// No such place, or a row without a picture.
    pub fn picture_at(&self, at: &Location) -> Result<&[u8]> {
        let picture = self.file(at)?.picture(at.row, "image")?;
        self.read(at, picture.len() + AROUND_BYTES);
        Ok(picture)
    }

    /// The number of the picture at a location.
    ///
    /// # Errors
    /// A file without that column, or with names in it.
    pub fn image_id_at(&self, at: &Location) -> Result<Option<i64>> {
        self.file(at)?.arrow()?.integer(at.row, "image_id")
    }

    pub(crate) fn arrow_files(&self) -> impl Iterator<Item = Result<&ArrowTable>> {
        self.files().map(|file| file.arrow())
    }
}
