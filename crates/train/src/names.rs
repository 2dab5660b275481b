//! The names of answers and labels: from the data, or from the weights that are evaluated or resumed.

use std::path::{Path, PathBuf};

use log::warn;
use vlct_data::answers::Vocabulary;
use vlct_data::datasets::{LabelNames, NAMES, Split};
use vlct_tasks::labels::LabelsSpec;
use vlct_tasks::vqa::VqaSpec;
use vlct_tasks::{Description, TaskSpec};

use crate::data;
use crate::error::{Result, TrainError};
use crate::paths;
use crate::spec::RunSpec;

impl RunSpec {
    /// Sets the names of answers or labels, and the sizes of the heads that follow from them. Other tasks have no names.
    ///
    /// Weights whose heads are used (a resumed run, a test, `load_heads`) and the data must agree in the names. A test needs the training
    /// split only if the weights do not contain the names.
    ///
    /// # Errors
    /// Returns an error if the data cannot be read, weights and data disagree, or an answer or label is not one of the model's.
    pub fn resolve_names(&mut self) -> Result<()> {
        match self.task {
            TaskSpec::Vqa(_) => self.resolve_answers(),
            TaskSpec::Labels(_) => self.resolve_labels(),
            _ => Ok(()),
        }
    }

    fn resolve_answers(&mut self) -> Result<()> {
        let in_weights = self.names_of_weights()?.and_then(|(path, task)| match task {
            TaskSpec::Vqa(vqa) => Some((path, vqa.answers)),
            _ => None,
        });
        let mut answers = match in_weights {
            Some((path, answers)) if self.test_only => {
                if self.answers.is_some() {
                    warn!("vqa_answers is not read: {} contains the answers", path.display());
                }
                answers
            }
            None if self.test_only => self.answers_for_test()?,
            in_weights => {
                let answers = self.answers_of_data()?;
                if let Some((path, known)) = &in_weights {
                    check_same(path, known, &answers)?;
                }
                answers
            }
        };
        let size = match self.model.vlc().heads.vqa {
            Some(size) if self.has_published_answers() => size,
            _ => answers.len(),
        };
        if answers.is_empty() {
            return Err(TrainError::NoAnswers {
                datasets: self.data.datasets.clone(),
            });
        }
        if let Some((id, answer)) = answers
            .iter()
            .enumerate()
            .skip(size)
            .find(|(_, answer)| answer.is_some())
        {
            return Err(TrainError::AnswerOutOfRange {
                answer: answer.clone().unwrap_or_default(),
                id,
                size,
            });
        }
        answers.resize(size, None);
        if let Some(model) = self.model.vlc_mut() {
            model.heads.vqa = Some(size);
        }
        self.task = TaskSpec::Vqa(VqaSpec { answers });
        Ok(())
    }

    /// Whether the answers have the ids of the published vocabulary.
    fn has_published_answers(&self) -> bool {
        self.data.datasets.iter().any(|name| NAMES.contains(&name.as_str()))
    }

    /// Returns the answers of the training split.
    fn answers_of_data(&self) -> Result<Vec<Option<String>>> {
        Ok(answers_by_id(&Vocabulary::from_dataset(&*data::open(
            self,
            Split::Train,
        )?)?))
    }

    /// Returns the answers for weights that do not contain them: those of the file `vqa_answers`, else those of the training split.
    fn answers_for_test(&self) -> Result<Vec<Option<String>>> {
        match &self.answers {
            Some(file) => {
                let answers = answers_by_id(&Vocabulary::open(file)?);
                match self.model.vlc().heads.vqa {
                    Some(expected) if self.has_published_answers() && answers.len() != expected => {
                        Err(TrainError::AnswerCount {
                            path: file.clone(),
                            found: answers.len(),
                            expected,
                        })
                    }
                    _ => Ok(answers),
                }
            }
            None => self.answers_of_data().map_err(|source| TrainError::UnknownAnswers {
                path: self.weights.load_path.clone().unwrap_or_default(),
                source: Box::new(source),
            }),
        }
    }

    fn resolve_labels(&mut self) -> Result<()> {
        let in_weights = self.names_of_weights()?.and_then(|(path, task)| match task {
            TaskSpec::Labels(labels) => Some((path, labels)),
            _ => None,
        });
        let labels = match in_weights {
            Some((_, labels)) if self.test_only => labels,
            in_weights => {
                let train = data::open(self, Split::Train)?.label_names()?;
                check_labelled(&train, Split::Train)?;
                let LabelNames { names, several, .. } = train;
                if let Some((path, known)) = &in_weights {
                    let some = |names: &[String]| -> Vec<Option<String>> { names.iter().cloned().map(Some).collect() };
                    check_same(path, &some(&known.names), &some(&names))?;
                }
                LabelsSpec { names, several }
            }
        };
        let splits: &[Split] = if self.test_only { &[Split::Test] } else { &[Split::Val] };
        for split in splits {
            let of_split = data::open(self, *split)?.label_names()?;
            check_labelled(&of_split, *split)?;
            if let Some(label) = of_split.names.iter().find(|name| !labels.names.contains(name)) {
                return Err(TrainError::UnknownLabel {
                    label: label.clone(),
                    split: *split,
                    missing: if self.test_only {
                        "not one of the model's labels: remove the rows with this label from the test data"
                    } else {
                        "not in the training split: add rows with this label to the training data, or remove it"
                    },
                });
            }
        }
        if let Some(model) = self.model.vlc_mut() {
            model.heads.labels = Some(labels.names.len());
        }
        self.task = TaskSpec::Labels(labels);
        Ok(())
    }

    /// Returns the path and the task of the weights whose heads the run uses; `None` if there are no such weights, or they do not
    /// contain a description.
    fn names_of_weights(&self) -> Result<Option<(PathBuf, TaskSpec)>> {
        let weights = &self.weights;
        let path = match (&weights.resume_from, &weights.load_path) {
            (Some(from), _) if !self.test_only => paths::find_checkpoint(from)?,
            (_, Some(path)) if !weights.skip_heads => paths::find_weights(path)?,
            _ => return Ok(None),
        };
        Ok(Description::of_file(&path)?.map(|description| (path, description.task)))
    }
}

/// Returns the answers ordered by id, `None` for ids without an answer.
fn answers_by_id(vocabulary: &Vocabulary) -> Vec<Option<String>> {
    (0..vocabulary.len() as u32)
        .map(|id| vocabulary.answer(id).map(str::to_owned))
        .collect()
}

/// Checks that every row has its label or labels.
fn check_labelled(labels: &LabelNames, split: Split) -> Result<()> {
    match labels.unlabelled {
        0 => Ok(()),
        rows => Err(TrainError::Unlabelled { rows, split }),
    }
}

/// Checks that no id has different names in weights and data. An id that only one of them has is no difference.
fn check_same(path: &Path, in_weights: &[Option<String>], in_data: &[Option<String>]) -> Result<()> {
    for (id, (known, found)) in in_weights.iter().zip(in_data).enumerate() {
        if let (Some(known), Some(found)) = (known, found)
            && known != found
        {
            return Err(TrainError::OtherNames {
                path: path.to_path_buf(),
                id,
                in_weights: format!("{known:?}"),
                in_data: format!("{found:?}"),
            });
        }
    }
    Ok(())
}
