//! Visual Genome's questions with answers that VQA knows (`write_vgqa.py`, `data_preprocess/write_valid_vgqa.py`).

use std::borrow::Cow;
use std::path::Path;

use super::{Raw, read_picture, refuse_nothing};
use crate::Result;
use crate::plan::{Columns, Plan, PlannedFile, RowSource, RowText};
use crate::vgqa::{self, Layout, VgqaPicture};
use vlct_data::answers::Vocabulary;
use vlct_data::arrow::VqaKind;
use vlct_data::manifest::Coverage;

/// Visual Genome's questions, in the order of their file. Answers are numbered by `labels` or, without these, by the vocabulary in the root.
///
/// # Errors
/// Files that are missing, damaged or do not belong together; no picture at all.
pub fn vgqa(raw: &Raw, layout: Layout, labels: Option<&Vocabulary>) -> Result<Plan> {
    raw.wanted(&["train"])?;
    let annotated = vgqa::plan(&raw.root, layout, labels)?;
    let count = annotated.len();
    let (pictures, missing): (Vec<VgqaPicture>, Vec<VgqaPicture>) =
        annotated.into_iter().partition(|picture| picture.path.exists());
    refuse_nothing(&raw.root.join("images"), pictures.len(), "the file of questions")?;
    let file_name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let coverage = Coverage {
        part: "vgqa".into(),
        found: pictures.len(),
        kept: pictures.len(),
        annotated: count,
        without_image: missing.len(),
        examples: missing
            .iter()
            .take(Coverage::EXAMPLES)
            .map(|p| file_name(&p.path))
            .collect(),
    };
    Ok(Plan {
        files: vec![PlannedFile {
            name: "vgqa_train".into(),
            columns: Columns::Questions(VqaKind::Answered),
            rows: Box::new(Rows(pictures)),
        }],
        coverage: vec![coverage],
        ..Plan::default()
    })
}

/// The layout of the files in `root`: that of `write_vgqa.py` if its file of questions is there.
pub fn layout_in(root: &Path) -> Layout {
    match Layout::Vgqa.questions().iter().any(|name| root.join(name).exists()) {
        true => Layout::Vgqa,
        false => Layout::ValidVgqa,
    }
}

struct Rows(Vec<VgqaPicture>);

impl RowSource for Rows {
    fn rows(&self) -> usize {
        self.0.len()
    }

    fn label(&self, row: usize) -> String {
        self.0[row].path.display().to_string()
    }

    fn text(&self, row: usize) -> Result<RowText<'_>> {
        let picture = &self.0[row];
        Ok(RowText::Questions {
            questions: Cow::from(&picture.questions),
            image_id: picture.image_id,
            split: "train",
        })
    }

    fn pictures(&self, row: usize) -> Result<Vec<Vec<u8>>> {
        Ok(vec![read_picture(&self.0[row].path)?])
    }
}
