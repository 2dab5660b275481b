//! Selection of the questions of Visual Genome that a VQA model can answer (`data_preprocess/map_vg_mscoco.py`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use serde::Deserialize;

use super::{ImageWithQuestions, Question};
use crate::{Result, json_stream};
use vlct_data::answers::{Vocabulary, normalize_word};

/// The selected questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Number of questions about images of COCO.
    pub considered: u64,
    /// Number of these questions whose answer is in the vocabulary.
    pub kept: u64,
    /// The images with a selected question, in the order of `image_data.json`.
    pub images: Vec<ImageWithQuestions>,
    /// Remarks about entries that are left out because they cannot be used.
    pub remarks: Vec<String>,
}

/// An entry of `image_data.json`.
#[derive(Deserialize)]
struct ImageData {
    image_id: i64,
    coco_id: Option<i64>,
}

/// An entry of `question_answers.json`.
#[derive(Deserialize)]
struct QuestionAnswers {
    qas: Vec<QuestionAnswer>,
}

#[derive(Deserialize)]
struct QuestionAnswer {
    image_id: i64,
    qa_id: i64,
    question: String,
    answer: String,
}

/// Reads `image_data.json` and `question_answers.json` in the directory `root`. Keeps a question if its image has a `coco_id` and its
/// answer, normalised by [`normalize_word`], is in the vocabulary.
///
/// Like the original, this function does not check whether an image belongs to VQA v2, so the selection includes test images of COCO.
/// Only the selected questions are kept in memory.
///
/// # Errors
/// Returns an error if a file is missing, cut short, not JSON or of another structure, or if `image_data.json` has an image twice.
pub fn select(root: &Path, vocabulary: &Vocabulary) -> Result<Selection> {
    let mut images: Vec<ImageWithQuestions> = Vec::new();
    let mut indices: HashMap<i64, usize> = HashMap::new();
    let image_remark = json_stream::for_each_element(&root.join("image_data.json"), |image: ImageData| {
        if image.coco_id.is_none() {
            return Ok(());
        }
        match indices.entry(image.image_id) {
            Entry::Occupied(_) => Err(format!("image {} occurs twice", image.image_id)),
            Entry::Vacant(entry) => {
                entry.insert(images.len());
                images.push(ImageWithQuestions {
                    id: image.image_id,
                    questions: Vec::new(),
                });
                Ok(())
            }
        }
    })?;
    let (mut considered, mut kept) = (0, 0);
    let question_remark =
        json_stream::for_each_element(&root.join("question_answers.json"), |entry: QuestionAnswers| {
            for qa in entry.qas {
                let Some(index) = indices.get(&qa.image_id) else {
                    continue;
                };
                considered += 1;
                let answer = normalize_word(&qa.answer);
                if vocabulary.id(&answer).is_some() {
                    kept += 1;
                    images[*index].questions.push(Question {
                        id: qa.qa_id,
                        question: qa.question,
                        answer,
                    });
                }
            }
            Ok(())
        })?;
    images.retain(|image| !image.questions.is_empty());
    Ok(Selection {
        considered,
        kept,
        images,
        remarks: image_remark.into_iter().chain(question_remark).collect(),
    })
}
