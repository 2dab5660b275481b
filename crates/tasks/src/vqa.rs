//! Visual question answering: a classifier over the answers that are frequent in the training data.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::batch::{Batch, Sample, Target, Text, target_scores};
use crate::metrics::{Phase, Report, ReportFile, Tally};
use crate::probabilities::top;
use crate::rows::{Row, Rows};
use crate::sample::{SampleContext, SampleError};
use crate::task::{Outcome, Task};
use vlct_data::answers::Annotations;
use vlct_data::datasets::{Answer, Contents, Dataset};
use vlct_data::random::Purpose;
use vlct_model::{Model, Sequence};
use vlct_tensor::Tape;

/// The answer for ids without a name, as in the original.
pub const UNKNOWN_ANSWER: &str = "unknown";

/// Settings of the task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VqaSpec {
    /// The text of each answer, by id; `None` for ids that no question has.
    pub answers: Vec<Option<String>>,
}

impl VqaSpec {
    /// Returns the text of an answer, `unknown` if it has none.
    pub fn answer(&self, id: u32) -> &str {
        let answer = self.answers.get(id as usize).and_then(Option::as_deref);
        answer.unwrap_or(UNKNOWN_ANSWER)
    }
}

/// The task of answering questions about images.
#[derive(Clone, Debug, Default)]
pub struct Vqa {
    spec: VqaSpec,
    /// The annotators' answers, from which evaluation computes the official accuracy.
    annotations: Option<Arc<Annotations>>,
}

impl Vqa {
    /// Makes the task. With `annotations`, evaluation also reports the official accuracy.
    pub fn new(spec: VqaSpec, annotations: Option<Arc<Annotations>>) -> Self {
        Self { spec, annotations }
    }

    /// Returns the answers of an evaluation as the evaluation server takes them: a JSON array of objects with `question_id` and
    /// `answer`, in the order of the dataset.
    fn submission(&self, rows: &Rows) -> serde_json::Value {
        let answers = rows.values().filter_map(|row| match row {
            Row::Answer { question_id, answer } => {
                Some(serde_json::json!({"question_id": question_id, "answer": self.spec.answer(*answer)}))
            }
            _ => None,
        });
        answers.collect()
    }
}

impl Task for Vqa {
    fn contents(&self) -> Contents {
        Contents::Questions
    }

    fn sample(&self, cx: &mut SampleContext<'_>) -> Result<Sample, SampleError> {
        let image = cx.image(0, &mut cx.rng(Purpose::Augmentation))?;
        let target = match cx.answer() {
            Answer::Question {
                answers: Some(answers), ..
            } => {
                let scores = answers.iter().map(|(_, id, score)| (*id as u32, *score as f32));
                Target::Scores(scores.collect())
            }
            _ => Target::None,
        };
        Ok(Sample {
            item: cx.item(),
            images: vec![image],
            texts: vec![Text::unmasked(cx.tokens())],
            sequences: vec![Sequence::FIRST_PAIR],
            target,
        })
    }

    /// Computes logits `[questions, answers]`; the loss is binary cross-entropy, summed over answers, averaged over questions.
    ///
    /// # Panics
    /// Panics if the model has no question-answering head, or an answer's id is not less than the number of answers of the head.
    fn forward(&self, model: &Model, tape: &Tape, batch: &Batch) -> Outcome {
        let model = model.vlc();
        let pooled = model.encode_pooled(tape, &batch.inputs(), batch.dropout);
        let logits = model.vqa_logits(tape, &pooled);
        let mut outcome = Outcome {
            logits: Some(logits.clone()),
            ..Outcome::default()
        };
        if let Some(targets) = target_scores(tape.device(), &batch.targets, logits.columns(), 0.0) {
            let score = tape.score_at_argmax(&logits, &targets);
            let loss = tape.binary_cross_entropy(&logits, targets);
            outcome = outcome
                .with_loss("vqa/loss", &loss, 1.0)
                .with_sum("vqa/score", score, batch.len());
            outcome.loss = Some(loss);
        }
        outcome
    }

    fn record(&self, data: &dyn Dataset, batch: &Batch, outcome: &Outcome, rows: &mut Rows) -> vlct_data::Result<()> {
        let Some(logits) = &outcome.logits else { return Ok(()) };
        let (columns, values) = (logits.columns(), logits.tensor().to_host());
        for (item, logits) in batch.items.iter().zip(values.chunks_exact(columns)) {
            let Answer::Question { question_id, .. } = data.example(*item)?.answer else {
                continue;
            };
            let answer = top(logits, 1)[0] as u32;
            rows.insert(*item, Row::Answer { question_id, answer });
        }
        Ok(())
    }

    /// Reports loss and score. With annotations, also reports the official accuracy of the questions that have annotations. The report
    /// of an evaluation has the submission file.
    fn report(&self, phase: Phase, tally: &Tally, rows: &Rows) -> Report {
        let mut report = Report::from_tally(phase, tally, &["vqa/score", "vqa/loss"], &["vqa/score"]);
        if rows.is_empty() {
            return report;
        }
        if let Some(annotations) = &self.annotations {
            let answers = rows.values().filter_map(|row| match row {
                Row::Answer { question_id, answer } => Some((*question_id, self.spec.answer(*answer))),
                _ => None,
            });
            if let Some(accuracy) = annotations.accuracy(answers) {
                report.values.push((phase.metric_name("vqa/accuracy_epoch"), accuracy));
            }
        }
        report.files.push(ReportFile {
            stem: "vqa_submit",
            content: self.submission(rows),
        });
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_has_every_question_once_and_unknown_answers() {
        let spec = VqaSpec {
            answers: vec![Some("yes".into()), None],
        };
        let rows = Rows::from([
            (
                0,
                Row::Answer {
                    question_id: 7,
                    answer: 0,
                },
            ),
            (
                1,
                Row::Answer {
                    question_id: 3,
                    answer: 1,
                },
            ),
            (
                2,
                Row::Answer {
                    question_id: 9,
                    answer: 5,
                },
            ),
        ]);
        let report = Vqa::new(spec, None).report(Phase::Val, &Tally::default(), &rows);
        let want = serde_json::json!([
            {"question_id": 7, "answer": "yes"},
            {"question_id": 3, "answer": "unknown"},
            {"question_id": 9, "answer": "unknown"},
        ]);
        assert_eq!((report.files[0].stem, &report.files[0].content), ("vqa_submit", &want));
        assert!(report.values.is_empty());
    }
}
