//! Labels of images with texts: those of the model's head, or any classes, by matching.

use vlct_data::loader::Pixels;
use vlct_tasks::TaskSpec;
use vlct_tasks::labels::{Labels, LabelsSpec};
use vlct_tasks::probabilities::softmax;
use vlct_tensor::Tape;

use crate::item::{Item, pooled, rows};
use crate::matching::Matching;
use crate::scores::{Scored, best};
use crate::{Head, PredictError, Predictor, Result};

/// Image-text pairs per forward pass.
const TEXTS_PER_PASS: usize = 16;

/// Classifies with the labels of the model.
pub struct Classifier<'p> {
    predictor: &'p Predictor,
    spec: LabelsSpec,
}

impl<'p> Classifier<'p> {
    /// The head that the predictor must have.
    pub const HEAD: Head = Head::Labels;

    /// Makes the task. The names of the labels are those in the checkpoint.
    ///
    /// # Errors
    /// Returns an error if the model has no head for labels, or the file does not have the names of all labels.
    pub fn new(predictor: &'p Predictor) -> Result<Self> {
        predictor.require(&[Self::HEAD])?;
        let expected = predictor.model().config().heads.labels.unwrap_or_default();
        let path = predictor.path().to_path_buf();
        let (what, found) = match predictor.task() {
            Some(TaskSpec::Labels(spec)) if spec.names.len() == expected => {
                return Ok(Self {
                    predictor,
                    spec: spec.clone(),
                });
            }
            Some(TaskSpec::Labels(spec)) => ("labels", spec.names.len()),
            _ => ("labels", 0),
        };
        Err(match found {
            0 => PredictError::NoNames {
                path,
                what,
                count: expected,
            },
            found => PredictError::NameCount {
                path,
                what,
                found,
                expected,
            },
        })
    }

    /// Whether an item has any number of labels. Otherwise it has exactly one.
    pub fn several(&self) -> bool {
        self.spec.several
    }

    /// Computes the logits of all labels for each item.
    pub fn logits(&self, items: &[Item]) -> Vec<Vec<f32>> {
        let model = self.predictor.model();
        let tape = Tape::inference(model.compute());
        rows(&model.labels_logits(&tape, &pooled(model, &tape, items)))
    }

    /// Returns the `count` most probable labels, given the logits of an item: by the softmax over the labels, or by the sigmoid of each
    /// logit if an item may have several labels.
    pub fn labels(&self, logits: &[f32], count: usize) -> Vec<Scored> {
        let probabilities = Labels::new(self.spec.clone()).probabilities(logits);
        best(&probabilities, count, |i| self.spec.names[i].clone())
    }
}

/// Classifies images with any classes, without training for them: the matching head scores the image with one text per class.
pub struct ZeroShot<'p> {
    matching: Matching<'p>,
    classes: Vec<String>,
    texts: Vec<Vec<u32>>,
}

impl<'p> ZeroShot<'p> {
    /// The head that the predictor must have.
    pub const HEAD: Head = Head::Matching;

    /// Makes the task. The text of a class is `template` with the name of the class instead of `{}`.
    ///
    /// # Errors
    /// Returns an error if the model has no matching head, there is no class, a class occurs twice, the template has no `{}`, or a text is
    /// too long.
    pub fn new(predictor: &'p Predictor, classes: Vec<String>, template: &str) -> Result<Self> {
        let matching = Matching::new(predictor)?;
        if classes.is_empty() {
            return Err(PredictError::Invalid("there are no classes".into()));
        }
        let repeated = (1..classes.len()).find(|i| classes[..*i].contains(&classes[*i]));
        if let Some(i) = repeated {
            return Err(PredictError::Invalid(format!(
                "the class {:?} occurs twice",
                classes[i]
            )));
        }
        if !template.contains("{}") {
            return Err(PredictError::Invalid(format!(
                "the template {template:?} does not contain {{}}, the place of the class"
            )));
        }
        let text = |class: &String| predictor.preparation().text(&template.replace("{}", class));
        let texts = classes.iter().map(text).collect::<Result<_>>()?;
        Ok(Self {
            matching,
            classes,
            texts,
        })
    }

    /// Computes the score of each class for an image: the difference of the two matching logits, which is the
    /// logarithm of the odds that the text of the class belongs to the image.
    pub fn logits(&self, image: &Pixels) -> Vec<f32> {
        let item = |text: &Vec<u32>| Item {
            image: Some(image.clone()),
            text: text.clone(),
        };
        let chunks = self.texts.chunks(TEXTS_PER_PASS);
        let logits = chunks.flat_map(|texts| self.matching.logits(&texts.iter().map(item).collect::<Vec<_>>()));
        logits.map(|[mismatch, matched]| matched - mismatch).collect()
    }

    /// Returns the `count` most probable classes, given the scores of an image: the softmax over the classes.
    pub fn classes(&self, logits: &[f32], count: usize) -> Vec<Scored> {
        best(&softmax(logits), count, |i| self.classes[i].clone())
    }
}
