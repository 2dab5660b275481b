//! What a check of steps runs on, and its comparisons.

use super::recorded::Tensors;
use crate::Outcome;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use vlct_model::Model;
use vlct_tensor::{Compute, Device, F32Products, Gradients, Precision, Tape, Var};

/// A device under test, and the golden data that it is compared with.
#[derive(Debug)]
pub struct Subject {
    device: Device,
    golden: Vec<PathBuf>,
    generated_models: u64,
    stop: Arc<AtomicBool>,
    /// The bits of the largest ratio of an error to its bound.
    worst: AtomicU64,
}

impl Subject {
    /// Makes a subject. `golden` are directories of golden data; one without the part that a check needs is ignored. `generated_models` is
    /// the number of generated models for which steps are compared.
    pub fn new(device: Device, golden: Vec<PathBuf>, generated_models: u64) -> Self {
        Self {
            device,
            golden,
            generated_models,
            stop: Arc::default(),
            worst: AtomicU64::new(0),
        }
    }

    /// Lets checks end early, with an error, once `stop` is set.
    #[must_use]
    pub fn stopped_by(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// Fails if the check is to end early.
    pub(super) fn check_stop(&self) -> Outcome {
        match self.stop.load(Ordering::Relaxed) {
            true => Err("stopped".into()),
            false => Ok(()),
        }
    }

    /// The device.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The subdirectory `part` of each golden directory that has it.
    pub fn directories(&self, part: &str) -> Vec<PathBuf> {
        let directories = self.golden.iter().map(|directory| directory.join(part));
        directories.filter(|directory| directory.is_dir()).collect()
    }

    /// The largest ratio of an error to its bound of all comparisons so far; 0 if all values were equal.
    pub fn worst_ratio(&self) -> f64 {
        f64::from_bits(self.worst.load(Ordering::Relaxed))
    }

    pub(super) fn generated_models(&self) -> u64 {
        self.generated_models
    }

    /// Returns the settings of tapes in this precision.
    pub(super) fn compute(&self, precision: Precision) -> Compute {
        Compute {
            device: self.device,
            precision,
            ..Compute::default()
        }
    }

    /// Returns each directory of recorded values, once for each method by which the device can compute f32 products, with the settings of
    /// tapes.
    pub(super) fn recorded(&self, part: &str) -> Vec<(PathBuf, Compute)> {
        let methods = F32Products::ALL
            .into_iter()
            .filter(|method| self.device.supports_f32_products(*method));
        let of_method = |f32_products| {
            let compute = Compute {
                f32_products,
                ..self.compute(Precision::F32)
            };
            self.directories(part)
                .into_iter()
                .map(move |directory| (directory, compute))
        };
        methods.flat_map(of_method).collect()
    }

    /// Records the ratio of an error to its bound.
    pub(super) fn record(&self, error: f64, bound: f64) {
        if error > 0.0 {
            // The bits of positive numbers have the order of the numbers.
            self.worst.fetch_max((error / bound).to_bits(), Ordering::Relaxed);
        }
    }

    /// Fails if `|got[i] - want[i]|` exceeds `tolerance` times the largest magnitude in `want`, for any `i`.
    pub(super) fn close(&self, what: &str, got: &[f32], want: &[f32], tolerance: f32) -> Outcome {
        let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
        self.within(what, got, want, tolerance * scale)
    }

    /// Fails if `|got[i] - want[i]|` exceeds `tolerance`, for any `i`.
    pub(super) fn within(&self, what: &str, got: &[f32], want: &[f32], tolerance: f32) -> Outcome {
        if got.len() != want.len() {
            return Err(format!("{what}: {} values instead of {}", got.len(), want.len()));
        }
        let mut worst = (0usize, 0f32);
        for (i, (g, w)) in got.iter().zip(want).enumerate() {
            let difference = (g - w).abs();
            if difference.is_nan() {
                return Err(format!("{what}[{i}]: {g} instead of {w}"));
            }
            if difference > worst.1 {
                worst = (i, difference);
            }
        }
        let (i, difference) = worst;
        if difference > tolerance {
            let (got, want) = (got[i], want[i]);
            return Err(format!(
                "{what}[{i}]: {got} instead of {want}, difference {difference:e} > {tolerance:e}"
            ));
        }
        self.record(difference.into(), tolerance.into());
        Ok(())
    }

    /// Compares a gradient or weight, with a relative tolerance. The tolerance is absolute where the exact gradient is zero, so that
    /// the recorded gradient is a rounding error: in the part of a qkv bias that belongs to attention keys, and in the ranking head's
    /// bias, which changes all scores of an image equally.
    pub(super) fn parameter(&self, name: &str, got: &[f32], want: &[f32], key_bias_tolerance: f32) -> Outcome {
        if name.ends_with("attn.qkv.bias") && got.len() == want.len() {
            let third = got.len() / 3;
            let rest = |v: &[f32]| [&v[..third], &v[2 * third..]].concat();
            self.close(name, &rest(got), &rest(want), 2e-5)?;
            let keys = third..2 * third;
            self.within(name, &got[keys.clone()], &want[keys], key_bias_tolerance)
        } else if name == "rank_output.bias" {
            // The gradient is a sum of dozens of terms of up to 1 that cancel, divided by the number of images.
            self.within(name, got, want, 1e-6)
        } else {
            self.close(name, got, want, 2e-5)
        }
    }

    /// Runs the backward pass and compares every gradient with the recorded one. A parameter without a recorded gradient must have no
    /// gradient.
    pub(super) fn gradients(&self, model: &Model, tape: Tape, loss: &Var, t: &Tensors) -> Outcome {
        let mut gradients = Gradients::new(model.parameters());
        tape.backward(loss, 1.0, &mut gradients);
        let mut compared = 0;
        for (id, parameter) in model.parameters().iter() {
            let name = format!("grad.{}", parameter.name);
            match gradients.get(id) {
                Some(gradient) => {
                    self.parameter(&parameter.name, &gradient.to_host(), &t.f32(&name)?, 1e-7)?;
                    compared += 1;
                }
                None if t.has(&name)? => return Err(format!("no gradient for {name}")),
                None => (),
            }
        }
        let recorded = t.names()?.iter().filter(|name| name.starts_with("grad.")).count();
        equal("number of gradients", compared, recorded)
    }
}

/// Fails if two values are not equal.
pub(super) fn equal<T: PartialEq + std::fmt::Debug>(what: &str, got: T, want: T) -> Outcome {
    match got == want {
        true => Ok(()),
        false => Err(format!("{what}: {got:?} instead of {want:?}")),
    }
}
