//! Selection of the questions of Visual Genome that a VQA model can answer (`data_preprocess/map_vg_mscoco.py`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use serde::Deserialize;

use super::{Question, QuestionedImage};
use crate::{Result, json_stream};
use vlct_data::answers::{Vocabulary, normalize_word};

/// The selected questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Number of questions about images of COCO.
    pub considered: u64,
    /// Number of those whose answer is in the vocabulary.
    pub kept: u64,
    /// The images with a selected question, in the order of `image_data.json`.
    pub images: Vec<QuestionedImage>,
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

/// Reads `image_data.json` and `question_answers.json` in the directory `root` and keeps the questions about images with a
/// `coco_id` whose answer, in the spelling of [`normalize_word`], is in the vocabulary.
///
/// Like the original, it does not check whether the image belongs to VQA v2: test images of COCO are among them. Memory holds the
/// selected questions only.
///
/// # Errors
/// Returns an error if a file is missing, cut short, no JSON or of another form, or if `image_data.json` has an image twice.
pub fn select(root: &Path, vocabulary: &Vocabulary) -> Result<Selection> {
    let mut images: Vec<QuestionedImage> = Vec::new();
    let mut places: HashMap<i64, usize> = HashMap::new();
    json_stream::each_of_array(&root.join("image_data.json"), |image: ImageData| {
        if image.coco_id.is_none() {
            return Ok(());
        }
        match places.entry(image.image_id) {
            Entry::Occupied(_) => Err(format!("image {} occurs twice", image.image_id)),
            Entry::Vacant(place) => {
                place.insert(images.len());
                images.push(QuestionedImage {
                    id: image.image_id,
                    questions: Vec::new(),
                });
                Ok(())
            }
        }
    })?;
    let (mut considered, mut kept) = (0, 0);
    json_stream::each_of_array(&root.join("question_answers.json"), |entry: QuestionAnswers| {
        for qa in entry.qas {
            let Some(place) = places.get(&qa.image_id) else {
                continue;
            };
            considered += 1;
            let answer = normalize_word(&qa.answer);
            if vocabulary.id(&answer).is_some() {
                kept += 1;
                images[*place].questions.push(Question {
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
    })
}
