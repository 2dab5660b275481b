//! VQA v2 (`write_vqa.py`): questions about COCO images, with answer ids of a vocabulary.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;

use super::raw::{ListedRows, RawDataset, RowTexts, require_rows};
use crate::image_files::{ImageDirectory, ListedImage};
use crate::json_stream;
use crate::plan::{Plan, PlannedFile, RowText, Schema, TailSplit};
use crate::{PrepareError, Result};
use vlct_data::answers::{Vocabulary, score};
use vlct_data::arrow::{AnsweredQuestion, VqaKind};
use vlct_util::text::counted;

/// A split of VQA v2.
struct Split {
    name: &'static str,
    /// The directory of the images.
    directory: &'static str,
    /// The split as written in the names of annotation files.
    file_name_part: &'static str,
    is_answered: bool,
}

const SPLITS: [Split; 4] = [
    Split {
        name: "train",
        directory: "train2014",
        file_name_part: "train2014",
        is_answered: true,
    },
    Split {
        name: "val",
        directory: "val2014",
        file_name_part: "val2014",
        is_answered: true,
    },
    Split {
        name: "test",
        directory: "test2015",
        file_name_part: "test2015",
        is_answered: false,
    },
    Split {
        name: "test-dev",
        directory: "test2015",
        file_name_part: "test-dev2015",
        is_answered: false,
    },
];

/// Number of rows of `val` that are held out of training, as in the original.
const HELD_OUT_ROWS: usize = 1000;

impl Split {
    fn questions_file_name(&self) -> String {
        format!("v2_OpenEnded_mscoco_{}_questions.json", self.file_name_part)
    }

    fn annotations_file_name(&self) -> String {
        format!("v2_mscoco_{}_annotations.json", self.file_name_part)
    }
}

#[derive(Deserialize)]
struct Question {
    image_id: i64,
    question_id: i64,
    question: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: i64,
    question_id: i64,
    multiple_choice_answer: String,
    answers: Vec<Answer>,
}

#[derive(Deserialize)]
struct Answer {
    answer: String,
}

/// Texts, each stored once and represented by its index.
#[derive(Default)]
struct InternedTexts {
    indices: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl InternedTexts {
    fn intern(&mut self, text: &str) -> u32 {
        if let Some(index) = self.indices.get(text) {
            return *index;
        }
        let index = self.texts.len() as u32;
        self.indices.insert(text.into(), index);
        self.texts.push(text.into());
        index
    }
}

/// The distinct answers to a question in the order of their first occurrence, as indices in [`InternedTexts`], with their counts.
type AnswerCounts = Vec<(u32, u32)>;

/// The annotations of a split: image id, question id and answers.
type Annotations = Vec<(i64, i64, AnswerCounts)>;

/// The questions about the images of a split, in the order of the questions file.
#[derive(Default)]
struct ImageQuestions {
    images: Vec<(i64, Vec<AnsweredQuestion>)>,
    /// The index of each image id in `images`.
    indices: HashMap<i64, u32>,
}

/// Plans the files of VQA v2. The annotations of `train` and `val` are always read, because the ids of answers depend on them.
///
/// # Errors
/// Returns an error if annotations or directories are missing or damaged, or do not belong together.
pub fn vqav2(raw: &RawDataset) -> Result<Plan> {
    let wanted = raw.splits_to_write(&SPLITS.map(|split| split.name))?;
    let mut plan = Plan::default();
    let mut texts = InternedTexts::default();
    let mut majority_answers = Vec::new();
    let mut annotations: Vec<Annotations> = Vec::new();
    for split in SPLITS.iter().filter(|split| split.is_answered) {
        annotations.push(read_annotations(
            raw,
            split,
            &mut texts,
            &mut majority_answers,
            &mut plan.remarks,
        )?);
    }
    let vocabulary =
        Vocabulary::of_majority_answers(majority_answers.iter().map(|index| &*texts.texts[*index as usize]));
    if vocabulary.is_empty() {
        let reason = "no answer is the majority answer of nine questions, so the answer vocabulary is empty; are these the \
                      annotations of VQA v2?";
        return Err(PrepareError::malformed(
            raw.root.join(SPLITS[0].annotations_file_name()),
            reason,
        ));
    }

    let mut annotations = annotations.into_iter();
    for (group, split) in SPLITS.iter().enumerate() {
        let answers = if split.is_answered { annotations.next() } else { None };
        if !wanted.contains(&split.name) {
            continue;
        }
        let mut questions = read_questions(raw, split, &mut plan.remarks)?;
        if let Some(answers) = answers {
            let answer_and_id = |answer: u32| {
                let text = &*texts.texts[answer as usize];
                vocabulary.id(text).map(|id| (text.to_string(), i64::from(id)))
            };
            let unknown = add_answers(&mut questions, answers, answer_and_id)
                .map_err(|reason| PrepareError::malformed(raw.root.join(split.annotations_file_name()), reason))?;
            let dropped = drop_unanswered(&mut questions);
            for (count, what) in [
                (
                    unknown,
                    "that the annotations answer, but the questions file does not have",
                ),
                (dropped, "without an answer of the vocabulary"),
            ] {
                if count > 0 {
                    let questions = counted(count, "question");
                    plan.remarks
                        .push(format!("{}: left out {questions} {what}", split.name));
                }
            }
        }
        plan_split(raw, group as u64, split, questions, &mut plan)?;
    }
    if wanted.contains(&"val") {
        plan.tail_splits.push(TailSplit {
            from: "vqav2_val".into(),
            head: "vqav2_trainable_val".into(),
            tail: "vqav2_rest_val".into(),
            count: HELD_OUT_ROWS,
        });
    }
    plan.remarks
        .push(format!("answer vocabulary: {}", counted(vocabulary.len(), "answer")));
    plan.vocabulary = Some(vocabulary);
    Ok(plan)
}

/// Reads the annotations of a split. Appends the majority answer of each question to `majority_answers`.
fn read_annotations(
    raw: &RawDataset,
    split: &Split,
    texts: &mut InternedTexts,
    majority_answers: &mut Vec<u32>,
    remarks: &mut Vec<String>,
) -> Result<Annotations> {
    let mut all = Vec::new();
    let remark = json_stream::for_each_element_of_field(
        &raw.root.join(split.annotations_file_name()),
        "annotations",
        |annotation: Annotation| {
            majority_answers.push(texts.intern(&annotation.multiple_choice_answer));
            let mut counts = AnswerCounts::new();
            for answer in &annotation.answers {
                let index = texts.intern(&answer.answer);
                match counts.iter_mut().find(|(known, _)| *known == index) {
                    Some((_, count)) => *count += 1,
                    None => counts.push((index, 1)),
                }
            }
            counts.shrink_to_fit();
            all.push((annotation.image_id, annotation.question_id, counts));
            Ok(())
        },
    )?;
    remarks.extend(remark);
    Ok(all)
}

fn read_questions(raw: &RawDataset, split: &Split, remarks: &mut Vec<String>) -> Result<ImageQuestions> {
    let mut all = ImageQuestions::default();
    let remark = json_stream::for_each_element_of_field(
        &raw.root.join(split.questions_file_name()),
        "questions",
        |question: Question| {
            let ImageQuestions { images, indices } = &mut all;
            let index = *indices.entry(question.image_id).or_insert(images.len() as u32) as usize;
            if index == images.len() {
                images.push((question.image_id, Vec::new()));
            }
            let questions = &mut images[index].1;
            match questions.iter_mut().find(|q| q.question_id == question.question_id) {
                Some(earlier) => earlier.question = question.question,
                None => questions.push(AnsweredQuestion {
                    question: question.question,
                    question_id: question.question_id,
                    answers: Vec::new(),
                }),
            }
            Ok(())
        },
    )?;
    remarks.extend(remark);
    Ok(all)
}

/// Adds to each question its answers that are in the vocabulary; `answer_and_id` returns their texts and ids. Unlike the vocabulary,
/// the answers are not normalised, because the published models were trained in this way. Returns the number of annotations whose
/// question is unknown.
///
/// # Errors
/// Returns an error if at least half of the annotations have an unknown question.
fn add_answers(
    questions: &mut ImageQuestions,
    annotations: Annotations,
    answer_and_id: impl Fn(u32) -> Option<(String, i64)>,
) -> Result<usize, String> {
    let total = annotations.len();
    let mut unknown = Vec::new();
    for (image, question, counts) in annotations {
        let image_questions = questions
            .indices
            .get(&image)
            .map(|index| &mut questions.images[*index as usize].1);
        let annotated = image_questions.and_then(|questions| questions.iter_mut().find(|q| q.question_id == question));
        let Some(annotated) = annotated else {
            unknown.push((image, question));
            continue;
        };
        // Of several annotations of a question, the first is used.
        if annotated.answers.is_empty() {
            let scored = counts.iter().filter_map(|(answer, count)| {
                let (answer, id) = answer_and_id(*answer)?;
                Some((answer, id, score(*count as usize)))
            });
            annotated.answers = scored.collect();
        }
    }
    match unknown.first() {
        Some((image, question)) if 2 * unknown.len() >= total => Err(format!(
            "it answers question {question} of image {image}, which the questions file does not have; the two files do not belong \
             together"
        )),
        _ => Ok(unknown.len()),
    }
}

/// Drops questions without answers, and images without questions. Returns the number of dropped questions.
fn drop_unanswered(questions: &mut ImageQuestions) -> usize {
    let question_count =
        |images: &[(i64, Vec<AnsweredQuestion>)]| images.iter().map(|(_, questions)| questions.len()).sum::<usize>();
    let before = question_count(&questions.images);
    for (_, questions) in &mut questions.images {
        questions.retain(|question| !question.answers.is_empty());
    }
    questions.images.retain(|(_, questions)| !questions.is_empty());
    questions.indices = (0..)
        .zip(&questions.images)
        .map(|(index, (image, _))| (*image, index))
        .collect();
    before - question_count(&questions.images)
}

fn plan_split(
    raw: &RawDataset,
    group: u64,
    split: &'static Split,
    questions: ImageQuestions,
    plan: &mut Plan,
) -> Result<()> {
    let directories = [ImageDirectory::jpegs(split.directory)];
    let found = raw.search().find(group, &directories, |_, name| {
        questions.indices.get(&image_id(name)?).copied()
    })?;
    require_rows(
        &raw.root.join(split.directory),
        found.listing.images.len(),
        &split.questions_file_name(),
    )?;
    let file_name = |index: usize| format!("COCO_{}_{:012}.jpg", split.directory, questions.images[index].0);
    let count = questions.images.len();
    plan.coverage
        .push(found.coverage(split.name, count, |_| true, file_name));
    let kind = if split.is_answered {
        VqaKind::Answered
    } else {
        VqaKind::Test
    };
    plan.files.push(PlannedFile {
        name: format!("vqav2_{}", split.name),
        schema: Schema::Questions(kind),
        rows: Box::new(ListedRows {
            listing: found.listing,
            annotations: Questions {
                images: questions.images,
                split: split.name,
            },
        }),
    });
    Ok(())
}

/// Returns the image id in a file name: the digits between the last `_` and the extension.
fn image_id(name: &str) -> Option<i64> {
    name.strip_suffix(".jpg")?.rsplit('_').next()?.parse().ok()
}

/// The questions of one split, by image.
struct Questions {
    images: Vec<(i64, Vec<AnsweredQuestion>)>,
    split: &'static str,
}

impl RowTexts for Questions {
    fn text<'a>(&'a self, image: &'a ListedImage) -> RowText<'a> {
        let (image_id, questions) = &self.images[image.annotation as usize];
        RowText::Questions {
            questions: Cow::from(questions),
            image_id: *image_id,
            split: self.split,
        }
    }
}
