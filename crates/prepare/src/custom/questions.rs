//! Assigns ids to the questions of custom datasets and to their answers. The ids of answers come from a vocabulary of the training
//! split; the scores are computed as in VQA.

use super::dataset::{CustomDataset, SPLITS};
use super::row::Row;
use crate::plan::Plan;
use crate::{PrepareError, Result};
use vlct_data::answers::{Vocabulary, normalize_word, score};
use vlct_data::arrow::{AnsweredQuestion, VqaKind};
use vlct_util::text::counted;

/// Number of annotators, and thus of answers, of each question in VQA. The counts of the answers to a question are scaled to this
/// number, so a single answer has score 1.
const ANNOTATORS: usize = 10;

/// Assigns ids to images, questions and answers. In splits with answers, removes questions without an answer in the vocabulary.
/// Returns the kind of each split; a split without answers is a test split.
pub(super) fn assign_ids(dataset: &CustomDataset, splits: &mut [Vec<Row>; 3], plan: &mut Plan) -> Result<[VqaKind; 3]> {
    let majority_answers = |row: &Row| -> Vec<String> {
        row.table_questions
            .iter()
            .filter_map(|question| count_answers(&question.answers).into_iter().next())
            .map(|(answer, _)| answer)
            .collect()
    };
    let vocabulary = Vocabulary::of_frequent_answers(splits[0].iter().flat_map(majority_answers), dataset.min_answers);
    if !dataset.includes(SPLITS[0]) {
        splits[0].clear();
    }
    let kinds = split_kinds(dataset, splits, &vocabulary)?;
    // Images whose names are not integers get unused ids.
    let largest = splits.iter().flatten().filter_map(Row::numeric_id).max();
    let mut next_image_id = largest.map_or(0, |largest| largest.saturating_add(1).max(0));
    let mut next_question_id = 0;
    for ((split, rows), kind) in SPLITS.into_iter().zip(splits).zip(kinds) {
        let mut unanswered = 0usize;
        for row in rows.iter_mut() {
            row.image_number = row.numeric_id().unwrap_or(next_image_id);
            next_image_id = next_image_id.saturating_add(1);
            for question in std::mem::take(&mut row.table_questions) {
                let answers = score_answers(&question.answers, &vocabulary);
                if kind == VqaKind::Answered && answers.is_empty() {
                    unanswered += 1;
                    continue;
                }
                row.questions.push(AnsweredQuestion {
                    question: question.text,
                    question_id: next_question_id,
                    answers,
                });
                next_question_id += 1;
            }
        }
        rows.retain(|row| !row.questions.is_empty());
        if unanswered > 0 {
            let questions = counted(unanswered, "question");
            plan.remarks.push(format!(
                "{split}: left out {questions} without an answer of the vocabulary"
            ));
        }
    }
    plan.remarks.push(match vocabulary.len() {
        0 => "there are no answers, so these questions can be used for inference, but not for training".into(),
        count => format!("answer vocabulary: {}", counted(count, "answer")),
    });
    plan.vocabulary = Some(vocabulary);
    Ok(kinds)
}

/// Returns the kind of each split.
///
/// # Errors
/// Returns an error if a split has answers, but the vocabulary is empty.
fn split_kinds(dataset: &CustomDataset, splits: &[Vec<Row>; 3], vocabulary: &Vocabulary) -> Result<[VqaKind; 3]> {
    let has_answers = |row: &Row| row.table_questions.iter().any(|question| !question.answers.is_empty());
    let mut kinds = [VqaKind::Test; 3];
    for ((split, rows), kind) in SPLITS.into_iter().zip(splits).zip(&mut kinds) {
        if !rows.iter().any(has_answers) {
            continue;
        }
        if vocabulary.is_empty() {
            return Err(PrepareError::NoFrequentAnswer {
                split,
                min_answers: dataset.min_answers,
            });
        }
        *kind = VqaKind::Answered;
    }
    Ok(kinds)
}

/// Returns the distinct answers that are in the vocabulary, with their ids and scores.
fn score_answers(answers: &[String], vocabulary: &Vocabulary) -> Vec<(String, i64, f64)> {
    let in_vocabulary = count_answers(answers).into_iter().filter_map(|(answer, count)| {
        let id = vocabulary.id(&answer)?;
        let scaled_count = (count * ANNOTATORS).div_ceil(answers.len());
        Some((answer, id.into(), score(scaled_count)))
    });
    in_vocabulary.collect()
}

/// Returns the distinct answers, normalised, with their counts: the most frequent first, and equally frequent ones in the order of
/// their first occurrence.
fn count_answers(answers: &[String]) -> Vec<(String, usize)> {
    let mut counted: Vec<(String, usize)> = Vec::new();
    for answer in answers {
        let answer = normalize_word(answer);
        match counted.iter_mut().find(|(known, _)| *known == answer) {
            Some((_, count)) => *count += 1,
            None => counted.push((answer, 1)),
        }
    }
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counted
}
