//! The rows of `vgqa_train.arrow` (`data_preprocess/write_valid_vgqa.py`, `vlc/utils/write_vgqa.py`).

use std::path::{Path, PathBuf};

use super::{Picture, file};
use crate::{DataError, Result};
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::AnsweredQuestion;
use vlct_util::text::quoted;

/// Which of the original's two writers the names of the input files are those of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `write_valid_vgqa.py`: `valid_vgqa_info.pkl` and `coco_vqa_label_info.pkl`.
    ValidVgqa,
    /// `write_vgqa.py`: `vg_qa_info.dict` and `vqa_labels_info.pkl`.
    Vgqa,
}

impl Layout {
    /// Names that the file of questions may have; the first is the original's.
    pub fn questions(self) -> [&'static str; 2] {
        match self {
            Self::ValidVgqa => ["valid_vgqa_info.pkl", "valid_vgqa_info.json"],
            Self::Vgqa => ["vg_qa_info.dict", "vg_qa_info.json"],
        }
    }

    /// Names that the file of the answer vocabulary may have.
    fn labels(self) -> [&'static str; 2] {
        match self {
            Self::ValidVgqa => ["coco_vqa_label_info.pkl", "coco_vqa_label_info.json"],
            Self::Vgqa => ["vqa_labels_info.pkl", "vqa_labels_info.json"],
        }
    }

    /// The answer vocabulary in the folder `root`, under its usual name.
    ///
    /// # Errors
    /// There is none, or it is not as [`Vocabulary::open`] wants it.
    pub fn vocabulary(self, root: &Path) -> Result<Vocabulary> {
        Vocabulary::open(first_of(root, self.labels(), "answer vocabulary of VQA v2")?)
    }
}

/// A row of `vgqa_train.arrow`; its split is `train`.
#[derive(Clone, Debug, PartialEq)]
pub struct VgqaPicture {
    /// The file of the picture, `ROOT/images/NUMBER.jpg`. It has not been looked for.
    pub path: PathBuf,
    /// The number of the picture in Visual Genome.
    pub image_id: i64,
    /// Its questions, each with one answer of score 1.
    pub questions: Vec<AnsweredQuestion>,
}

/// Reads the questions in the folder `root` and numbers their answers by `labels`, or, without these, by the vocabulary in the
/// folder. One row a picture, in the order of the file of questions.
///
/// # Errors
/// A file that is missing or damaged; answers that are not in the vocabulary, with their number and the first of them: then
/// questions and vocabulary do not belong together.
pub fn plan(root: &Path, layout: Layout, labels: Option<&Vocabulary>) -> Result<Vec<VgqaPicture>> {
    let path = first_of(
        root,
        layout.questions(),
        "questions of Visual Genome; vlct map-vg-mscoco writes it",
    )?;
    let pictures = file::read(&path)?;
    match labels {
        Some(labels) => rows(root, &path, pictures, labels),
        None => {
            let labels = layout.vocabulary(root)?;
            rows(root, &path, pictures, &labels)
        }
    }
}

fn first_of(root: &Path, names: [&str; 2], what: &str) -> Result<PathBuf> {
    let paths = names.map(|name| root.join(name));
    let found = paths.into_iter().find(|path| path.exists());
    found.ok_or_else(|| {
        let [name, other] = names;
        DataError::Invalid(format!(
            "{}: neither {name} nor {other} is there, the {what}",
            root.display()
        ))
    })
}

fn rows(root: &Path, path: &Path, pictures: Vec<Picture>, labels: &Vocabulary) -> Result<Vec<VgqaPicture>> {
    let images = root.join("images");
    let mut unknown = 0u64;
    let mut first_unknown = None;
    let mut rows = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let mut questions = Vec::with_capacity(picture.questions.len());
        for question in picture.questions {
            let Some(label) = labels.id(&question.answer) else {
                unknown += 1;
                first_unknown.get_or_insert((question.answer, question.id, picture.id));
                continue;
            };
            questions.push(AnsweredQuestion {
                question: question.question,
                question_id: question.id,
                answers: vec![(question.answer, i64::from(label), 1.0)],
            });
        }
        rows.push(VgqaPicture {
            path: images.join(format!("{}.jpg", picture.id)),
            image_id: picture.id,
            questions,
        });
    }
    match first_unknown {
        None => Ok(rows),
        Some((answer, question, picture)) => Err(DataError::Format {
            path: path.into(),
            reason: format!(
                "{unknown} answers are not in the vocabulary of {} answers, the first is {} to question {question} of \
                 picture {picture}; use the vocabulary that the questions were selected with",
                labels.len(),
                quoted(&answer)
            ),
        }),
    }
}
