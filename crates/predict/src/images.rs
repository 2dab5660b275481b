//! Classes of images, by an image classifier.

use std::path::Path;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use vlct_image::{ImageFormat, Reading, Transform, TransformSpec};
use vlct_model::files;
use vlct_model::sizes;
use vlct_model::{ModelConfig, Vit};
use vlct_tasks::description::WeightsError;
use vlct_tasks::probabilities::softmax;
use vlct_tasks::{Description, TaskSpec};
use vlct_tensor::{Compute, Tape};
use vlct_util::read_at_most;

use crate::preparation::MAX_IMAGE_BYTES;
use crate::scores::{Scored, best};
use crate::{PredictError, Result};

/// A classifier of images, opened from the checkpoint of a run.
pub struct ImageClassifier {
    model: Vit,
    names: Vec<String>,
    transform: Transform,
    reading: Reading,
}

impl ImageClassifier {
    /// Opens the weights of a path (see [`files::find`]). Returns `None` if they are not those of an image classifier of a run.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read, or its description does not fit its tensors.
    pub fn open(path: &Path, compute: Compute) -> Result<Option<Self>> {
        let file = files::map(path)?;
        let path = file.path().to_path_buf();
        let index = files::index(&file)?;
        let Some(Description {
            model: ModelConfig::Vit(config),
            task: TaskSpec::Images(task),
            inputs,
            ..
        }) = Description::of(&path, &index)?
        else {
            return Ok(None);
        };
        sizes::check_vit(&config).map_err(|source| WeightsError::Sizes {
            path: path.clone(),
            source,
        })?;
        if task.names.len() != config.classes {
            return Err(PredictError::NameCount {
                path,
                what: "classes",
                found: task.names.len(),
                expected: config.classes,
            });
        }
        let format = ImageFormat {
            size: config.image_size,
            ..inputs.format()
        };
        let transform = Transform::with_format(&TransformSpec::ClassificationEval, &format)
            .map_err(|error| PredictError::Data(error.into()))?;
        let (mut model, _) = Vit::read(config, &index).map_err(|source| PredictError::Weights { path, source })?;
        model.set_compute(compute);
        Ok(Some(Self {
            model,
            names: task.names,
            transform,
            reading: inputs.reading.unwrap_or_default(),
        }))
    }

    /// Decodes an image file and transforms it as in evaluation: `[3, image_size, image_size]`.
    ///
    /// # Errors
    /// Returns an error that names the file if it cannot be read or is not an image.
    pub fn image(&self, path: &Path) -> Result<Vec<f32>> {
        let bytes = read_at_most(path, MAX_IMAGE_BYTES, "an image file")?;
        // The transform of evaluation draws nothing.
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let zeros = |[height, width]: [usize; 2]| vec![0.0; 3 * height * width];
        match self.transform.load(&bytes, self.reading, &mut rng, zeros) {
            Ok((values, _)) => Ok(values),
            Err(source) => Err(PredictError::Image {
                path: path.to_path_buf(),
                source,
            }),
        }
    }

    /// Computes the logits of all classes for each image.
    pub fn logits(&self, images: &[Vec<f32>]) -> Vec<Vec<f32>> {
        if images.is_empty() {
            return Vec::new();
        }
        let images: Vec<&[f32]> = images.iter().map(Vec::as_slice).collect();
        let logits = self.model.logits(&Tape::inference(self.model.compute()), &images);
        let values = logits.tensor().to_host();
        values.chunks_exact(logits.columns()).map(<[f32]>::to_vec).collect()
    }

    /// Returns the `count` most probable classes, given the logits of an image: by the softmax over the classes.
    pub fn classes(&self, logits: &[f32], count: usize) -> Vec<Scored> {
        best(&softmax(logits), count, |i| self.names[i].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use vlct_checkpoint::{self as checkpoint, TensorRef};
    use vlct_model::sizes::SizeError;
    use vlct_model::{VitConfig, initialise};

    fn config() -> VitConfig {
        VitConfig {
            image_size: 8,
            patch_size: 4,
            width: 8,
            depth: 1,
            heads: 2,
            classes: 2,
            global_pool: true,
            drop_path: 0.0,
            layer_norm_eps: 1e-6,
            linear_probe: false,
        }
    }

    /// Writes the checkpoint of a classifier whose description `change` has changed.
    fn write(path: &Path, change: impl FnOnce(&mut Value)) {
        let mut model = Vit::new(config());
        initialise::initialise_vit(&mut model, ChaCha8Rng::seed_from_u64);
        let tensors: Vec<_> = TensorRef::of_parameters(model.parameters()).collect();
        let mut description = json!({
            "model": config(),
            "task": {"images": {"names": ["cat", "dog"], "smoothing": 0.0, "mixup": null}},
            "inputs": {
                "image_size": 8, "mean": [0.5, 0.5, 0.5], "deviation": [0.5, 0.5, 0.5], "train_transform": "mae", "eval_transform": "mae_test",
                "vocabulary": [], "lower_case": true, "max_text_len": 40,
            },
            "weights": "raw",
        });
        change(&mut description);
        checkpoint::save(path, &tensors, &Value::Null, &description).unwrap();
    }

    #[test]
    fn impossible_descriptions_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("checkpoint.safetensors");
        let open = |change: fn(&mut Value)| {
            write(&path, change);
            ImageClassifier::open(&path, Compute::default())
        };
        let classifier = open(|_| ()).unwrap().expect("an image classifier");
        assert_eq!(classifier.logits(&[vec![0.5; 192]])[0].len(), 2);
        for (change, name) in [
            (
                (|d| d["model"]["patch_size"] = json!(0)) as fn(&mut Value),
                "patch size",
            ),
            (|d| d["model"]["width"] = json!(u64::MAX), "width"),
            (|d| d["model"]["depth"] = json!(1u64 << 40), "depth"),
        ] {
            match open(change) {
                Err(PredictError::Description(WeightsError::Sizes {
                    source: SizeError::OutOfRange { name: found, .. },
                    ..
                })) => assert_eq!(found, name),
                other => panic!("{name}: {:?}", other.map(|found| found.is_some())),
            }
        }
        let names = open(|d| d["task"]["images"]["names"] = json!(["cat"]));
        assert!(matches!(
            names,
            Err(PredictError::NameCount {
                found: 1,
                expected: 2,
                ..
            })
        ));
        let model = open(|d| d["model"]["classes"] = json!(3));
        assert!(model.is_err(), "the head of the file has two classes");
        let other_task = open(|d| d["task"] = json!({"vqa": {"answers": []}}));
        assert!(matches!(other_task, Ok(None)), "the task of another kind of model");
    }
}
