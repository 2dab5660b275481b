//! The weights of a run: initialisation, loading, updates, saving and restoring.

use std::path::Path;

use log::info;
use serde_json::Value;
use vlct_data::random::{Purpose, stream};
use vlct_model::Vlc;
use vlct_model::files::{self, Options, Scope};
use vlct_model::initialise::initialise;
use vlct_tensor::optimizer::{Clip, Hyperparameters, Optimizer};
use vlct_tensor::{Gradients, Tensor};

use crate::error::{Result, TrainError};
use crate::groups::{Parameter, groups};
use crate::run;
use crate::spec::{OptimizerSpec, RunSpec, WeightsSpec};
use vlct_model::checkpoint::{self, Checkpoint, TensorRef};

/// A model, its optimiser and its gradients.
pub(crate) struct Weights {
    pub model: Vlc,
    pub optimizer: Optimizer,
    pub gradients: Gradients,
    /// Hyperparameters of each parameter. The field `learning_rate` holds a factor of the run's learning rate.
    hyperparameters: Vec<Hyperparameters>,
    /// Learning-rate factor of each parameter group, in the order of the groups.
    pub group_scales: Vec<f64>,
    /// Largest L2 norm of all gradients together; `None` means no limit.
    clip_norm: Option<f32>,
}

impl Weights {
    /// Makes the initial weights of a run. The weights of a resumed run are zero until [`Weights::restore`] replaces them.
    pub fn new(spec: &RunSpec) -> Result<Self> {
        let model = if spec.weights.resume_from.is_some() {
            zero_model(spec)
        } else {
            let mut model = fresh_model(spec);
            load_and_log(&mut model, &spec.weights)?;
            model
        };
        let (hyperparameters, group_scales) = hyperparameters(&spec.optimizer, &model);
        Ok(Self {
            optimizer: Optimizer::new(spec.optimizer.rule, model.parameters()),
            gradients: Gradients::new(model.parameters()),
            hyperparameters,
            group_scales,
            clip_norm: spec.optimizer.clip_norm.map(|limit| limit as f32),
            model,
        })
    }

    /// Updates the parameters with learning rate `rate`, and clears the gradients. If the run clips gradients, returns their norm before
    /// clipping, which is still on the device.
    pub fn update(&mut self, rate: f64) -> Option<Tensor> {
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
        self.gradients.clear();
        clip.map(|clip| clip.norm)
    }

    /// Writes weights, moments, `state` and `description` to the checkpoint file `path`.
    pub fn save(&self, path: &Path, state: &Value, description: &Value) -> Result<()> {
        let parameters = self.model.parameters();
        let trainable = || parameters.iter().filter(|(_, p)| p.trainable);
        let mut moments = Vec::new();
        for (m, moment) in self.optimizer.moment_names().iter().enumerate() {
            moments.extend(
                trainable().map(|(id, p)| (moment_name(moment, &p.name), &p.shape, self.optimizer.moment(m, id))),
            );
        }
        let weights = parameters.iter().map(|(id, p)| TensorRef {
            name: &p.name,
            shape: &p.shape,
            data: parameters.tensor(id),
        });
        let moments = moments.iter().map(|(name, shape, data)| TensorRef {
            name,
            shape,
            data: (*data).clone(),
        });
        let tensors: Vec<TensorRef> = weights.chain(moments).collect();
        checkpoint::save(path, &tensors, state, description)?;
        Ok(())
    }

    /// Restores weights and moments from a checkpoint. `parameter_steps` is the number of updates of each parameter.
    ///
    /// # Errors
    /// Returns an error if the checkpoint and the model differ in the number of parameters, or a tensor is missing or has another
    /// shape.
    pub fn restore(&mut self, file: &Checkpoint, path: &Path, parameter_steps: &[u64]) -> Result<()> {
        let parameters: Vec<_> = self.model.parameters().iter().map(|(id, p)| (id, p.clone())).collect();
        if parameter_steps.len() != parameters.len() {
            return Err(TrainError::OtherModel {
                path: path.to_path_buf(),
                found: parameter_steps.len(),
                expected: parameters.len(),
            });
        }
        let mut values = Vec::new();
        for (id, parameter) in parameters {
            values.resize(parameter.len(), 0.0);
            file.copy_to(&parameter.name, &parameter.shape, &mut values)?;
            self.model.parameters_mut().set(id, &values);
            if !parameter.trainable {
                continue;
            }
            for (m, moment) in self.optimizer.moment_names().iter().enumerate() {
                file.copy_to(&moment_name(moment, &parameter.name), &parameter.shape, &mut values)?;
                self.optimizer.set_moment(m, id, &values);
            }
        }
        self.optimizer.set_steps(parameter_steps);
        Ok(())
    }
}

/// Returns the name that a moment of a parameter has in checkpoints.
fn moment_name(moment: &str, parameter: &str) -> String {
    format!("optimizer.{moment}.{parameter}")
}

/// Makes a model with the sizes of a run and random initial weights.
pub fn fresh_model(spec: &RunSpec) -> Vlc {
    let mut model = zero_model(spec);
    initialise(&mut model, |parameter| {
        stream(spec.seed, Purpose::Initialisation, 0, parameter)
    });
    model
}

/// Makes a model with the sizes of a run, whose weights are all zero.
fn zero_model(spec: &RunSpec) -> Vlc {
    let mut model = Vlc::new(spec.model.clone());
    model.set_compute(spec.compute.compute());
    model
}

/// Loads the weight files of a run and logs which tensors match.
pub(crate) fn load_and_log(model: &mut Vlc, weights: &WeightsSpec) -> Result<()> {
    let files = [
        (&weights.pretrain_path, Scope::Backbone),
        (&weights.load_path, Scope::Model),
    ];
    for (path, scope) in files {
        if let Some(path) = path {
            let report = load_file(model, path, scope, weights.skip_heads)?;
            info!("weights of {}: {report}", path.display());
        }
    }
    Ok(())
}

/// Loads a weight file, or the checkpoint of a run directory, into a model. Returns a report of the tensors that match, as text.
///
/// # Errors
/// Returns an error if the file cannot be read, none of its tensors matches, or a tensor has another shape.
pub fn load_file(model: &mut Vlc, path: &Path, scope: Scope, skip_heads: bool) -> Result<String> {
    let path = &run::find_weights(path)?;
    let state = files::read(path)?.state;
    let (state, report) = files::adapt(state, &model.shapes(), Options { scope, skip_heads }).map_err(|source| {
        TrainError::WeightsMismatch {
            path: path.to_path_buf(),
            source,
        }
    })?;
    model.load(&state)?;
    Ok(report.to_string())
}

/// Returns the hyperparameters of each parameter and the learning-rate factor of each group. The field `learning_rate` of the
/// hyperparameters holds the factor of the parameter's group.
fn hyperparameters(optimizer: &OptimizerSpec, model: &Vlc) -> (Vec<Hyperparameters>, Vec<f64>) {
    let parameters: Vec<Parameter> = model
        .parameters()
        .iter()
        .map(|(_, p)| Parameter {
            name: &p.name,
            dimensions: p.shape.len(),
            frozen: !p.trainable,
        })
        .collect();
    let groups = groups(optimizer, &parameters, model.config().backbone.depth);
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
    (hyperparameters, groups.iter().map(|g| g.learning_rate_scale).collect())
}
