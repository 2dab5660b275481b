//! The weights of a run: initialisation, updates, saving and restoring.

mod loading;
mod ranks;

use std::path::Path;

use log::warn;
use serde_json::Value;
use vlct_data::random::{Purpose, stream};
use vlct_model::Model;
use vlct_model::files;
use vlct_model::initialise::initialise_model;
use vlct_tasks::description::WeightsKind;
use vlct_tensor::optimizer::{Clip, Hyperparameters, Optimizer};
use vlct_tensor::{Averages, Gradients, Tensor};
use vlct_util::text::counted;

use crate::error::{Result, TrainError};
use crate::groups::{Parameter, ParameterGroup, groups};
use crate::schedule::ema_decay;
use crate::spec::{EmaSpec, OptimizerSpec, RunSpec};
use vlct_checkpoint::{self as checkpoint, AVERAGE_PREFIX, Checkpoint, MOMENT_PREFIX, TensorRef};

pub use loading::compare_vocabularies;
pub use loading::load_file;
use loading::load_whole;
pub(crate) use loading::{load_and_log, names_of_classes};

/// A model, its optimiser, its gradients and the average of its weights.
pub(crate) struct Weights {
    pub model: Model,
    pub optimizer: Optimizer,
    pub gradients: Gradients,
    ema: Option<Ema>,
    /// Hyperparameters of each parameter. The field `learning_rate` holds a factor of the run's learning rate.
    hyperparameters: Vec<Hyperparameters>,
    /// The parameter groups.
    pub groups: Vec<ParameterGroup>,
    /// Largest L2 norm of all gradients together; `None` means no limit.
    clip_norm: Option<f32>,
}

/// The exponential moving average of the weights.
struct Ema {
    spec: EmaSpec,
    averages: Averages,
}

impl Weights {
    /// Makes the initial weights of a run. The weights of a resumed run are zero until [`Weights::restore`] replaces them.
    pub fn new(spec: &RunSpec) -> Result<Self> {
        let mut model = if spec.weights.resume_from.is_some() {
            zero_model(spec)
        } else {
            let mut model = fresh_model(spec);
            load_and_log(&mut model, spec)?;
            model
        };
        // The groups, and their learning rates in the logs, are the same with frozen parts.
        let (hyperparameters, groups) = hyperparameters(&spec.optimizer, &model);
        model.parameters_mut().freeze(|name| spec.freeze.contains(name));
        Ok(Self {
            optimizer: Optimizer::new(spec.optimizer.rule, model.parameters()),
            gradients: Gradients::new(model.parameters()),
            hyperparameters,
            groups,
            ema: spec.ema.map(|spec| Ema {
                spec,
                averages: Averages::new(model.parameters()),
            }),
            clip_norm: spec.optimizer.clip_norm.map(|limit| limit as f32),
            model,
        })
    }

    /// Updates the parameters with learning rate `rate`, then the averages, and clears the gradients. `step` is the number of completed
    /// optimiser steps. If the run clips gradients, returns their norm before clipping, which is still on the device.
    pub fn update(&mut self, step: u64, rate: f64) -> Option<Tensor> {
        let all = &self.hyperparameters;
        let clip = self.clip_norm.map(|limit| Clip {
            norm: self.gradients.norm(),
            limit,
        });
        self.optimizer
            .step(self.model.parameters_mut(), &self.gradients, clip.as_ref(), |id| {
                let hyperparameters = all[id.index()];
                Hyperparameters {
                    learning_rate: rate * hyperparameters.learning_rate,
                    ..hyperparameters
                }
            });
        if let Some(Ema { spec, averages }) = &mut self.ema {
            averages.update(self.model.parameters(), ema_decay(spec.decay, step));
        }
        self.gradients.clear();
        clip.map(|clip| clip.norm)
    }

    /// Calls `evaluate` with the weights that validations use: with `ema_evaluation` the averages, else the weights. The second argument
    /// is the kind of these weights.
    pub fn with_evaluated<T>(&mut self, evaluate: impl FnOnce(&Self, WeightsKind) -> T) -> T {
        if !self.ema.as_ref().is_some_and(|ema| ema.spec.evaluation) {
            return evaluate(self, WeightsKind::Raw);
        }
        self.swap_averages();
        let result = evaluate(self, WeightsKind::Ema);
        self.swap_averages();
        result
    }

    fn swap_averages(&mut self) {
        if let Some(ema) = &mut self.ema {
            ema.averages.swap(self.model.parameters_mut());
        }
    }

    /// Writes only the weights of the model, `state` and `description` to the checkpoint file `path`.
    pub fn save_model(&self, path: &Path, state: &Value, description: &Value) -> Result<()> {
        let weights: Vec<TensorRef> = self.model_tensors().collect();
        checkpoint::save(path, &weights, state, description)?;
        Ok(())
    }

    /// Returns the tensors of the model, in the order of the state dict.
    pub fn model_tensors(&self) -> impl Iterator<Item = TensorRef<'_>> {
        TensorRef::of_parameters(self.model.parameters())
    }

    /// Writes weights, moments, averages, `state` and `description` to the checkpoint file `path`.
    pub fn save(&self, path: &Path, state: &Value, description: &Value) -> Result<()> {
        let parameters = self.model.parameters();
        let trainable = || parameters.iter().filter(|(_, p)| p.trainable);
        let mut others = Vec::new();
        for (m, moment) in self.optimizer.moment_names().iter().enumerate() {
            others.extend(
                trainable().map(|(id, p)| (moment_name(moment, &p.name), &p.shape, self.optimizer.moment(m, id))),
            );
        }
        if let Some(ema) = &self.ema {
            let averages = trainable().filter_map(|(id, p)| Some((p, ema.averages.get(id)?)));
            others.extend(averages.map(|(p, average)| (average_name(&p.name), &p.shape, average)));
        }
        let others = others.iter().map(|(name, shape, data)| TensorRef {
            name,
            shape,
            data: (*data).clone(),
        });
        let tensors: Vec<TensorRef> = self.model_tensors().chain(others).collect();
        checkpoint::save(path, &tensors, state, description)?;
        Ok(())
    }

    /// Restores the weights from a PyTorch checkpoint of MAE's scripts, and the moments if the file has an optimiser. The averages begin
    /// with the weights. Returns the last epoch of the file; `None` without an optimiser or an epoch.
    ///
    /// # Errors
    /// Returns an error if a tensor of the model is missing or has another shape, or the optimiser has other parameters.
    pub fn restore_published(&mut self, path: &Path) -> Result<Option<u64>> {
        load_whole(&mut self.model, path)?;
        if let Some(ema) = &mut self.ema {
            warn!(
                "{} has no averages, so the averages begin with its weights",
                path.display()
            );
            ema.averages = Averages::new(self.model.parameters());
        }
        let files = files::map(path)?;
        let Some(training) = files::training::training(&files)? else {
            return Ok(None);
        };
        let members: Vec<&str> = self
            .groups
            .iter()
            .flat_map(|group| &group.members)
            .map(String::as_str)
            .collect();
        if members.len() != training.parameters.len() {
            return Err(TrainError::OtherOptimizer {
                path: path.to_path_buf(),
                reason: format!(
                    "it has {} and the run {}",
                    counted(training.parameters.len(), "parameter"),
                    members.len()
                ),
            });
        }
        let parameters = self.model.parameters();
        let mut steps = vec![0; parameters.count()];
        let mut values = Vec::new();
        for (name, stored) in members.iter().zip(&training.parameters) {
            let Some(id) = parameters.id(name) else { continue };
            let shape = &parameters.get(id).shape;
            steps[id.index()] = stored.step;
            for (m, moment) in self
                .optimizer
                .moment_names()
                .iter()
                .enumerate()
                .filter(|_| stored.step > 0)
            {
                let fits = stored
                    .moments
                    .get(*moment)
                    .filter(|tensor| tensor.shape() == shape.as_slice());
                values.resize(shape.iter().product(), 0.0);
                if fits.and_then(|tensor| tensor.read_f32(&mut values)) != Some(true) {
                    return Err(TrainError::OtherOptimizer {
                        path: path.to_path_buf(),
                        reason: format!("it has no finite {moment} of shape {shape:?} for {name}"),
                    });
                }
                self.optimizer.set_moment(m, id, &values);
            }
        }
        self.optimizer.set_steps(&steps);
        Ok(Some(training.epoch))
    }

    /// Restores weights, moments and averages from a checkpoint. `parameter_steps` is the number of updates of each parameter. If the run
    /// computes averages and the checkpoint has none, the averages begin with the weights of the checkpoint. The moments of a parameter
    /// that was frozen until now begin with 0.
    ///
    /// # Errors
    /// Returns an error if the checkpoint and the model differ in the number of parameters, a tensor is missing or has another shape, the
    /// weights of the checkpoint are averages, or weights are not finite.
    pub fn restore(&mut self, file: &Checkpoint, path: &Path, parameter_steps: &[u64]) -> Result<()> {
        let parameters: Vec<_> = self.model.parameters().iter().map(|(id, p)| (id, p.clone())).collect();
        if parameter_steps.len() != parameters.len() {
            return Err(TrainError::OtherModel {
                path: path.to_path_buf(),
                found: parameter_steps.len(),
                expected: parameters.len(),
            });
        }
        if kind_of(file.description()) == Some(WeightsKind::Ema) {
            return Err(TrainError::AveragedWeights {
                path: path.to_path_buf(),
            });
        }
        if self.ema.is_some() && !file.names().any(|name| name.starts_with(AVERAGE_PREFIX)) {
            warn!("the checkpoint has no averages, so the averages begin with its weights");
        }
        let mut values = Vec::new();
        for (id, parameter) in parameters {
            values.resize(parameter.len(), 0.0);
            file.copy_to(&parameter.name, &parameter.shape, &mut values)?;
            self.model.parameters_mut().set(id, &values);
            if !parameter.trainable {
                continue;
            }
            if let Some(ema) = &mut self.ema {
                let average = average_name(&parameter.name);
                if file.shape(&average).is_some() {
                    file.copy_to(&average, &parameter.shape, &mut values)?;
                }
                ema.averages.set(id, &values);
            }
            for (m, moment) in self.optimizer.moment_names().iter().enumerate() {
                let name = moment_name(moment, &parameter.name);
                if file.shape(&name).is_none() && parameter_steps[id.index()] == 0 {
                    continue;
                }
                file.copy_to(&name, &parameter.shape, &mut values)?;
                self.optimizer.set_moment(m, id, &values);
            }
        }
        self.optimizer.set_steps(parameter_steps);
        match self.model.parameters().first_non_finite() {
            None => Ok(()),
            Some(parameter) => Err(TrainError::NonFiniteCheckpoint {
                path: path.to_path_buf(),
                name: parameter.name.clone(),
            }),
        }
    }
}

/// Returns the name that a moment of a parameter has in checkpoints.
fn moment_name(moment: &str, parameter: &str) -> String {
    format!("{MOMENT_PREFIX}{moment}.{parameter}")
}

/// Returns the name that the average of a parameter has in checkpoints.
fn average_name(parameter: &str) -> String {
    format!("{AVERAGE_PREFIX}{parameter}")
}

/// Returns the kind of the weights of a checkpoint with this description.
fn kind_of(description: Option<&Value>) -> Option<WeightsKind> {
    serde_json::from_value(description?.get("weights")?.clone()).ok()
}

/// Makes a model with the sizes of a run and random initial weights.
pub fn fresh_model(spec: &RunSpec) -> Model {
    let mut model = zero_model(spec);
    initialise_model(&mut model, |parameter| {
        stream(spec.seed, Purpose::Initialisation, 0, parameter)
    });
    model
}

/// Makes a model with the sizes of a run, whose weights are all zero.
fn zero_model(spec: &RunSpec) -> Model {
    let mut model = Model::new(spec.model.clone());
    model.set_compute(spec.compute.compute());
    model
}

/// Returns the hyperparameters of each parameter and the groups. The field `learning_rate` of the hyperparameters holds the factor of the
/// parameter's group.
fn hyperparameters(optimizer: &OptimizerSpec, model: &Model) -> (Vec<Hyperparameters>, Vec<ParameterGroup>) {
    let parameters: Vec<Parameter> = model
        .parameters()
        .iter()
        .map(|(_, p)| Parameter {
            name: &p.name,
            dimensions: p.shape.len(),
            frozen: !p.trainable,
        })
        .collect();
    let groups = groups(optimizer, &parameters, model.config().depth());
    let frozen = Hyperparameters {
        learning_rate: 0.0,
        weight_decay: 0.0,
    };
    let mut hyperparameters = vec![frozen; parameters.len()];
    for group in &groups {
        for id in group.members.iter().filter_map(|name| model.parameters().id(name)) {
            hyperparameters[id.index()] = Hyperparameters {
                learning_rate: group.learning_rate_scale,
                weight_decay: group.weight_decay,
            };
        }
    }
    (hyperparameters, groups)
}
