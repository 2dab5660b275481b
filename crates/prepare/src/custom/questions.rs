//! Questions of one's own: answers are numbered by a vocabulary of the training split and scored as VQA's are.

use super::tables::Row;
use super::{Own, SPLITS};
use crate::plan::Plan;
use crate::{DataError, Result};
use vlct_data::answers::{Vocabulary, normalize_word, score};
use vlct_data::arrow::{AnsweredQuestion, VqaKind};

/// So many people answer a question of VQA. Other numbers are brought to this one: a single answer counts in full.
const ANNOTATORS: usize = 10;

/// Numbers pictures, questions and answers, and leaves out training and validation questions without a numbered answer.
/// Returns of which kind each split is: without any answer a split is one for test.
pub(super) fn number(own: &Own, splits: &mut [Vec<Row>; 3], plan: &mut Plan) -> Result<[VqaKind; 3]> {
    let most_frequent = |row: &Row| -> Vec<String> {
        row.asked
            .iter()
            .filter_map(|question| counted(&question.answers).into_iter().next())
            .map(|(answer, _)| answer)
            .collect()
    };
    let vocabulary = Vocabulary::of_frequent_answers(splits[0].iter().flat_map(most_frequent), own.min_answers);
    if !own.wants(SPLITS[0]) {
        splits[0].clear();
    }
    let mut question_id = 0;
    let mut kinds = [VqaKind::Answered; 3];
    // Names that are no numbers get those that no picture has.
    let own_numbers = splits.iter().flatten().filter_map(Row::id_number);
    let mut picture = own_numbers.max().map_or(0, |largest| largest.saturating_add(1).max(0));
    for ((split, rows), kind) in SPLITS.into_iter().zip(splits).zip(&mut kinds) {
        let is_answered = |row: &Row| row.asked.iter().any(|question| !question.answers.is_empty());
        if !rows.iter().any(is_answered) {
            *kind = VqaKind::Test;
        } else if vocabulary.is_empty() {
            return Err(DataError::Invalid(format!(
                "{split} has answers, but no answer is the most frequent one of {} questions of train, so none has a number; \
                 give training questions with answers, or a smaller --min-answers",
                own.min_answers
            )));
        }
        let mut unanswered = 0usize;
        for row in rows.iter_mut() {
            row.number = row.id_number().unwrap_or(picture);
            picture = picture.saturating_add(1);
            for question in std::mem::take(&mut row.asked) {
                let answers: Vec<(String, i64, f64)> = counted(&question.answers)
                    .into_iter()
                    .filter_map(|(answer, count)| {
                        let id = vocabulary.id(&answer)?;
                        let of_ten = (count * ANNOTATORS).div_ceil(question.answers.len());
                        Some((answer, id.into(), score(of_ten)))
                    })
                    .collect();
                if *kind == VqaKind::Answered && answers.is_empty() {
                    unanswered += 1;
                    continue;
                }
                row.questions.push(AnsweredQuestion {
                    question: question.text,
                    question_id,
                    answers,
                });
                question_id += 1;
            }
        }
        rows.retain(|row| !row.questions.is_empty());
        if unanswered > 0 {
            plan.remarks.push(format!(
                "{split}: {unanswered} questions have no answer of the vocabulary and were left out"
            ));
        }
    }
    let count = vocabulary.len();
    if count > 0 {
        plan.remarks.push(format!(
            "answer vocabulary: {count} answers; train with vqav2_label_size={count}"
        ));
    } else {
        let remark = "there are no answers: these questions can be asked, not trained with";
        plan.remarks.push(remark.into());
    }
    plan.vocabulary = Some(vocabulary);
    Ok(kinds)
}

/// The distinct answers in one spelling, the most frequent first, and how often each was given; as often given ones in the order of
/// their first occurrence.
fn counted(answers: &[String]) -> Vec<(String, usize)> {
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
