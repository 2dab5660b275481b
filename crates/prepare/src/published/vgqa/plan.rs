//! The rows of `vgqa_train.arrow` (`data_preprocess/write_valid_vgqa.py`, `vlc/utils/write_vgqa.py`).

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use super::{ImageWithQuestions, file};
use crate::error::VgqaFile;
use crate::image_files::read_image;
use crate::plan::{Plan, PlannedFile, RowSource, RowText, Schema};
use crate::published::raw::{RawDataset, require_rows};
use crate::{PrepareError, Result};
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::{AnsweredQuestion, VqaKind};
use vlct_data::manifest::Coverage;

/// The names of the input files, as in one of the original's two writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `write_valid_vgqa.py`: `valid_vgqa_info.pkl` and `coco_vqa_label_info.pkl`.
    ValidVgqa,
    /// `write_vgqa.py`: `vg_qa_info.dict` and `vqa_labels_info.pkl`.
    Vgqa,
}

impl Layout {
    /// Returns the names that the file of questions may have; the first is the original's.
    fn question_file_names(self) -> [&'static str; 2] {
        match self {
            Self::ValidVgqa => ["valid_vgqa_info.pkl", "valid_vgqa_info.json"],
            Self::Vgqa => ["vg_qa_info.dict", "vg_qa_info.json"],
        }
    }

    /// Returns the names that the file of the answer vocabulary may have.
    fn vocabulary_file_names(self) -> [&'static str; 2] {
        match self {
            Self::ValidVgqa => ["coco_vqa_label_info.pkl", "coco_vqa_label_info.json"],
            Self::Vgqa => ["vqa_labels_info.pkl", "vqa_labels_info.json"],
        }
    }

    /// Returns the layout of the files in `root`: [`Self::Vgqa`] if `root` has a file of questions of that layout, otherwise
    /// [`Self::ValidVgqa`].
    pub fn in_directory(root: &Path) -> Self {
        if Self::Vgqa
            .question_file_names()
            .iter()
            .any(|name| root.join(name).exists())
        {
            Self::Vgqa
        } else {
            Self::ValidVgqa
        }
    }

    /// Opens the answer vocabulary in the directory `root`.
    ///
    /// # Errors
    /// Returns an error if the file does not exist, and the errors of [`Vocabulary::open`].
    pub fn vocabulary(self, root: &Path) -> Result<Vocabulary> {
        Ok(Vocabulary::open(first_existing(
            root,
            self.vocabulary_file_names(),
            VgqaFile::Vocabulary,
        )?)?)
    }
}

/// A row of `vgqa_train.arrow`; its split is `train`.
#[derive(Clone, Debug, PartialEq)]
pub struct VgqaRow {
    /// The image file `ROOT/images/ID.jpg`, which may not exist.
    pub path: PathBuf,
    /// Id of the image in Visual Genome.
    pub image_id: i64,
    /// The questions, each with one answer of score 1.
    pub questions: Vec<AnsweredQuestion>,
}

/// Plans `vgqa_train.arrow`, with Visual Genome's questions in the order of their file. Answers have the ids of `vocabulary`; if it is
/// `None`, the ids of the vocabulary in the root.
///
/// # Errors
/// Returns an error if a file is missing or damaged, if an answer is not in the vocabulary, or if no image exists.
pub fn plan(raw: &RawDataset, layout: Layout, vocabulary: Option<&Vocabulary>) -> Result<Plan> {
    raw.splits_to_write(&["train"])?;
    let annotated = rows(&raw.root, layout, vocabulary)?;
    let count = annotated.len();
    let (images, missing): (Vec<VgqaRow>, Vec<VgqaRow>) = annotated.into_iter().partition(|row| row.path.exists());
    require_rows(&raw.root.join("images"), images.len(), "the file of questions")?;
    let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let coverage = Coverage {
        part: "vgqa".into(),
        found: images.len(),
        kept: images.len(),
        annotated: count,
        without_image: missing.len(),
        examples: missing
            .iter()
            .take(Coverage::MAX_EXAMPLES)
            .map(|row| file_name(&row.path))
            .collect(),
    };
    Ok(Plan {
        files: vec![PlannedFile {
            name: "vgqa_train".into(),
            schema: Schema::Questions(VqaKind::Answered),
            rows: Box::new(Rows(images)),
        }],
        coverage: vec![coverage],
        ..Plan::default()
    })
}

/// Reads the file of questions in the directory `root`. Returns one row per image, in the order of the file.
///
/// # Errors
/// Returns an error if a file is missing or damaged, or if an answer is not in the vocabulary.
pub(super) fn rows(root: &Path, layout: Layout, vocabulary: Option<&Vocabulary>) -> Result<Vec<VgqaRow>> {
    let path = first_existing(root, layout.question_file_names(), VgqaFile::Questions)?;
    let images = file::read(&path)?;
    match vocabulary {
        Some(vocabulary) => assign_answer_ids(root, &path, images, vocabulary),
        None => {
            let vocabulary = layout.vocabulary(root)?;
            assign_answer_ids(root, &path, images, &vocabulary)
        }
    }
}

fn first_existing(root: &Path, names: [&'static str; 2], what: VgqaFile) -> Result<PathBuf> {
    let paths = names.map(|name| root.join(name));
    let found = paths.into_iter().find(|path| path.exists());
    found.ok_or_else(|| PrepareError::MissingFile {
        root: root.to_path_buf(),
        names,
        what,
    })
}

fn assign_answer_ids(
    root: &Path,
    path: &Path,
    images: Vec<ImageWithQuestions>,
    vocabulary: &Vocabulary,
) -> Result<Vec<VgqaRow>> {
    let directory = root.join("images");
    let mut unknown = 0u64;
    let mut first_unknown = None;
    let mut rows = Vec::with_capacity(images.len());
    for image in images {
        let mut questions = Vec::with_capacity(image.questions.len());
        for question in image.questions {
            let Some(answer_id) = vocabulary.id(&question.answer) else {
                unknown += 1;
                first_unknown.get_or_insert((question.answer, question.id, image.id));
                continue;
            };
            questions.push(AnsweredQuestion {
                question: question.question,
                question_id: question.id,
                answers: vec![(question.answer, i64::from(answer_id), 1.0)],
            });
        }
        rows.push(VgqaRow {
            path: directory.join(format!("{}.jpg", image.id)),
            image_id: image.id,
            questions,
        });
    }
    match first_unknown {
        None => Ok(rows),
        Some((answer, question, image)) => Err(PrepareError::OutsideVocabulary {
            path: path.into(),
            unknown,
            known: vocabulary.len(),
            answer,
            question,
            image,
        }),
    }
}

struct Rows(Vec<VgqaRow>);

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.0.len()
    }

    fn row_name(&self, row: usize) -> String {
        self.0[row].path.display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let image = &self.0[row];
        Ok(RowText::Questions {
            questions: Cow::from(&image.questions),
            image_id: image.image_id,
            split: "train",
        })
    }

    fn images(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_image(&self.0[row].path)?])
    }

    fn image_files(&self, row: usize) -> Vec<PathBuf> {
        vec![self.0[row].path.clone()]
    }
}
