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

/// A split: its name, the directory of its images, and the word for it in the names of annotation files.
struct Split {
    name: &'static str,
    directory: &'static str,
    word: &'static str,
    answered: bool,
}

const SPLITS: [Split; 4] = [
    Split {
        name: "train",
        directory: "train2014",
        word: "train2014",
        answered: true,
    },
    Split {
        name: "val",
        directory: "val2014",
        word: "val2014",
        answered: true,
    },
    Split {
        name: "test",
        directory: "test2015",
        word: "test2015",
        answered: false,
    },
    Split {
        name: "test-dev",
        directory: "test2015",
        word: "test-dev2015",
        answered: false,
    },
];

/// Rows of `val` that are held out of training, as in the original.
const HELD_OUT: usize = 1000;

impl Split {
    fn questions_file(&self) -> String {
        format!("v2_OpenEnded_mscoco_{}_questions.json", self.word)
    }

    fn annotations_file(&self) -> String {
        format!("v2_mscoco_{}_annotations.json", self.word)
    }
}

#[derive(Deserialize)]
struct AskedQuestion {
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

/// Interned texts.
#[derive(Default)]
struct Texts {
    numbers: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl Texts {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.numbers.insert(text.into(), number);
        self.texts.push(text.into());
        number
    }
}

/// The distinct answers to a question in the order of their first occurrence, with their counts.
type Counted = Vec<(u32, u32)>;

/// The annotations of a split: image, question and answers.
type Annotated = Vec<(i64, i64, Counted)>;

/// The questions about the images of a split, in the order of the questions file.
#[derive(Default)]
struct Asked {
    images: Vec<(i64, Vec<AnsweredQuestion>)>,
    numbers: HashMap<i64, u32>,
}

/// Plans VQA v2. Labels depend on the annotations of both `train` and `val`, which are read whichever splits are wanted.
///
/// # Errors
/// Returns an error if annotations or directories are missing or damaged, or do not belong together.
pub fn vqav2(raw: &RawDataset) -> Result<Plan> {
    let wanted = raw.wanted(&SPLITS.map(|split| split.name))?;
    let mut texts = Texts::default();
    let mut majority = Vec::new();
    let mut annotated: Vec<Annotated> = Vec::new();
    for split in SPLITS.iter().filter(|split| split.answered) {
        annotated.push(read_annotations(raw, split, &mut texts, &mut majority)?);
    }
    let vocabulary = Vocabulary::of_majority_answers(majority.iter().map(|number| &*texts.texts[*number as usize]));
    if vocabulary.is_empty() {
        let reason = "no answer is the most frequent one of nine questions, so there is no answer vocabulary; are these the \
                      annotations of VQA v2?";
        return Err(PrepareError::malformed(
            raw.root.join(SPLITS[0].annotations_file()),
            reason,
        ));
    }

    let mut plan = Plan::default();
    let mut annotated = annotated.into_iter();
    for (group, split) in SPLITS.iter().enumerate() {
        let answers = if split.answered { annotated.next() } else { None };
        if !wanted.contains(&split.name) {
            continue;
        }
        let mut asked = read_questions(raw, split)?;
        if let Some(answers) = answers {
            let label = |number: u32| {
                let text = &*texts.texts[number as usize];
                vocabulary.id(text).map(|id| (text.to_string(), i64::from(id)))
            };
            give_answers(&mut asked, answers, label)
                .map_err(|reason| PrepareError::malformed(raw.root.join(split.annotations_file()), reason))?;
            let dropped = drop_unanswered(&mut asked);
            if dropped > 0 {
                plan.remarks.push(format!(
                    "{}: {dropped} questions have no answer of the vocabulary and were left out",
                    split.name
                ));
            }
        }
        plan_split(raw, group as u64, split, asked, &mut plan)?;
    }
    if wanted.contains(&"val") {
        plan.tail_splits.push(TailSplit {
            from: "vqav2_val".into(),
            head: "vqav2_trainable_val".into(),
            tail: "vqav2_rest_val".into(),
            count: HELD_OUT,
        });
    }
    plan.remarks
        .push(format!("answer vocabulary: {} answers", vocabulary.len()));
    plan.vocabulary = Some(vocabulary);
    Ok(plan)
}

fn read_annotations(raw: &RawDataset, split: &Split, texts: &mut Texts, majority: &mut Vec<u32>) -> Result<Annotated> {
    let mut all = Vec::new();
    json_stream::each_of_field(
        &raw.root.join(split.annotations_file()),
        "annotations",
        |annotation: Annotation| {
            majority.push(texts.number(&annotation.multiple_choice_answer));
            let mut counted = Counted::new();
            for answer in &annotation.answers {
                let number = texts.number(&answer.answer);
                match counted.iter_mut().find(|(known, _)| *known == number) {
                    Some((_, count)) => *count += 1,
                    None => counted.push((number, 1)),
                }
            }
            counted.shrink_to_fit();
            all.push((annotation.image_id, annotation.question_id, counted));
            Ok(())
        },
    )?;
    Ok(all)
}

fn read_questions(raw: &RawDataset, split: &Split) -> Result<Asked> {
    let mut asked = Asked::default();
    json_stream::each_of_field(
        &raw.root.join(split.questions_file()),
        "questions",
        |question: AskedQuestion| {
            let Asked { images, numbers } = &mut asked;
            let number = *numbers.entry(question.image_id).or_insert(images.len() as u32) as usize;
            if number == images.len() {
                images.push((question.image_id, Vec::new()));
            }
            let questions = &mut images[number].1;
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
    Ok(asked)
}

/// Adds to each question those of its answers that have a label. They are looked up as given, although the vocabulary holds
/// normalised answers, because the published heads were trained that way.
fn give_answers(
    asked: &mut Asked,
    annotated: Annotated,
    label: impl Fn(u32) -> Option<(String, i64)>,
) -> Result<(), String> {
    for (image, question, counted) in annotated {
        let questions = asked
            .numbers
            .get(&image)
            .map(|number| &mut asked.images[*number as usize].1);
        let asked = questions
            .and_then(|questions| questions.iter_mut().find(|q| q.question_id == question))
            .ok_or_else(|| {
                format!("it answers question {question} of image {image}, which the questions file does not have; the two files do \
                         not belong together")
            })?;
        // Of several annotations of a question, the first counts.
        if asked.answers.is_empty() {
            let labelled = counted.iter().filter_map(|(number, count)| {
                let (answer, label) = label(*number)?;
                Some((answer, label, score(*count as usize)))
            });
            asked.answers = labelled.collect();
        }
    }
    Ok(())
}

/// Drops questions without answers, and images without questions. Returns the number of dropped questions.
fn drop_unanswered(asked: &mut Asked) -> usize {
    let count = |images: &[(i64, Vec<AnsweredQuestion>)]| images.iter().map(|p| p.1.len()).sum::<usize>();
    let before = count(&asked.images);
    for (_, questions) in &mut asked.images {
        questions.retain(|question| !question.answers.is_empty());
    }
    asked.images.retain(|(_, questions)| !questions.is_empty());
    asked.numbers = (0..)
        .zip(&asked.images)
        .map(|(number, (image, _))| (*image, number))
        .collect();
    before - count(&asked.images)
}

fn plan_split(raw: &RawDataset, group: u64, split: &'static Split, asked: Asked, plan: &mut Plan) -> Result<()> {
    let directories = [ImageDirectory::jpegs(split.directory)];
    let found = raw.search().find(group, &directories, |_, name| {
        asked.numbers.get(&image_id(name)?).copied()
    })?;
    require_rows(
        &raw.root.join(split.directory),
        found.listing.images.len(),
        &split.questions_file(),
    )?;
    let file_name = |number: usize| format!("COCO_{}_{:012}.jpg", split.directory, asked.images[number].0);
    let count = asked.images.len();
    plan.coverage
        .push(found.coverage(split.name, count, |_| true, file_name));
    let kind = if split.answered {
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
                images: asked.images,
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
