//! Learning-rate schedules.

use std::f64::consts::PI;

use crate::plan::Plan;
use crate::spec::{HalfCosine, OptimizerSpec};
use vlct_config::DecayPower;

/// The learning rates of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// The schedule of VLC.
    WarmupDecay(LearningRate),
    /// The schedule of ImageNet fine-tuning.
    HalfCosine {
        /// Learning rate by fractional epoch.
        rate: HalfCosine,
        /// Optimiser steps per epoch.
        steps_per_epoch: u64,
        /// Part of an epoch that a step is. Micro-batches after the last whole window count as a part of the epoch.
        epochs_per_step: f64,
    },
}

impl Schedule {
    /// Makes the schedule of a run.
    pub fn new(optimizer: &OptimizerSpec, plan: &Plan) -> Self {
        match optimizer.half_cosine {
            None => Self::WarmupDecay(LearningRate::new(optimizer, plan)),
            Some(rate) => Self::HalfCosine {
                rate,
                steps_per_epoch: plan.steps_per_epoch,
                epochs_per_step: plan.grad_steps as f64 / plan.loaded_batches as f64,
            },
        }
    }

    /// Returns the learning rate of `step` for parameters with learning-rate factor 1.
    pub fn at(&self, step: u64) -> f64 {
        match self {
            Self::WarmupDecay(rate) => rate.at(step),
            Self::HalfCosine {
                rate,
                steps_per_epoch,
                epochs_per_step,
            } => {
                let (epoch, in_epoch) = (step / steps_per_epoch, step % steps_per_epoch);
                rate.at(epoch as f64 + in_epoch as f64 * epochs_per_step)
            }
        }
    }
}

/// The schedule of VLC: a linear warm-up from 0, then polynomial or cosine decay.
///
/// Steps are optimiser steps. Step 0 is the first update, so its learning rate is 0 if there is a warm-up. The formulas are those of
/// `get_polynomial_decay_schedule_with_warmup` and `get_cosine_schedule_with_warmup` in Hugging Face transformers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// Peak learning rate, reached at step `warmup`.
    pub base: f64,
    /// Number of steps of the warm-up.
    pub warmup: u64,
    /// Number of steps of the schedule, including the warm-up.
    pub total: u64,
    /// Learning rate of a polynomial decay at and after its end; a cosine ends at 0.
    pub end_lr: f64,
    /// Decay after the warm-up.
    pub power: DecayPower,
}

impl LearningRate {
    /// Makes the schedule of a run.
    pub fn new(optimizer: &OptimizerSpec, plan: &Plan) -> Self {
        Self {
            base: optimizer.learning_rate,
            warmup: plan.warmup_steps,
            total: plan.schedule_steps,
            end_lr: optimizer.end_lr,
            power: optimizer.decay,
        }
    }

    /// Returns the learning rate of `step`, relative to the peak. After the end of the schedule the rate is constant.
    ///
    /// Unlike in the original, the cosine does not rise again after the end of the schedule. The last steps of a run can be after
    /// the end if the length of the run is in epochs (see [`Plan::schedule_steps`]).
    pub fn factor(&self, step: u64) -> f64 {
        match self.power {
            DecayPower::Cosine if step > self.total && self.total >= self.warmup => 0.0,
            _ => self.original_factor(step),
        }
    }

    /// Returns the learning rate of `step` for parameters with learning-rate factor 1.
    pub fn at(&self, step: u64) -> f64 {
        self.base * self.factor(step)
    }

    /// Returns the learning rate of `step` in the original, relative to the peak.
    fn original_factor(&self, step: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let progress = (step - self.warmup) as f64 / self.total.saturating_sub(self.warmup).max(1) as f64;
        match self.power {
            DecayPower::Polynomial(_) if step > self.total => self.end_lr / self.base,
            DecayPower::Polynomial(power) => {
                ((self.base - self.end_lr) * (1.0 - progress).powf(power) + self.end_lr) / self.base
            }
            DecayPower::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        }
    }
}

/// Returns the decay of the moving average of the weights in the update after `step` completed optimiser steps:
/// `min(decay, (1 + step) / (10 + step))`, as in TensorFlow's `ExponentialMovingAverage`. The warm-up keeps the initial weights from
/// dominating the average: without it, they would have the share `decay^steps`.
pub fn ema_decay(decay: f64, step: u64) -> f64 {
    decay.min((1.0 + step as f64) / (10.0 + step as f64))
}

impl HalfCosine {
    /// Returns the learning rate at `epoch`, for instance `3 + batch / batches` within the fourth epoch.
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warmup_epochs {
            return self.learning_rate * epoch / self.warmup_epochs;
        }
        if epoch >= self.epochs {
            return self.min_lr;
        }
        let progress = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs);
        self.min_lr + (self.learning_rate - self.min_lr) * 0.5 * (1.0 + (PI * progress).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::RunSpec;
    use proptest::prelude::*;
    use vlct_config::resolve;

    #[test]
    fn decay_of_the_average_grows_to_its_limit() {
        assert_eq!([0, 8, 90].map(|step| ema_decay(0.9, step)), [0.1, 0.5, 0.9]);
        assert_eq!(ema_decay(0.999, u64::MAX), 0.999);
    }

    /// Panics if two learning rates differ by more than 1e-13 of the peak, a bound of the rounding errors of a cosine.
    fn assert_rate(label: &str, got: f64, want: f64, peak: f64) {
        assert!(
            (got - want).abs() <= 1e-13 * peak,
            "{label}: {got:e}, expected {want:e}"
        );
    }

    #[test]
    fn learning_rates_equal_those_of_the_original() {
        for directory in vlct_golden::directories("model") {
            let recorded = vlct_golden::json(directory.join("schedules.json"));
            let rates = |name: &str| -> Vec<f64> {
                recorded[name]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|v| v.as_f64().unwrap())
                    .collect()
            };
            // Peak, warm-up and length of all schedules are read from the linear schedule.
            let linear = rates("polynomial_power1");
            let peak = linear.iter().copied().fold(0.0, f64::max);
            let warmup = linear.iter().position(|r| *r == peak).unwrap();
            let total = warmup + linear[warmup..].iter().position(|r| *r == 0.0).unwrap();
            assert!(linear.len() > total + 1, "no rate is recorded after the end");
            for (name, power, end_lr) in [
                ("polynomial_power1", DecayPower::Polynomial(1.0), 0.0),
                ("polynomial_power2_end1e-5", DecayPower::Polynomial(2.0), 1e-5),
                ("cosine", DecayPower::Cosine, 0.0),
            ] {
                let schedule = LearningRate {
                    base: peak,
                    warmup: warmup as u64,
                    total: total as u64,
                    end_lr,
                    power,
                };
                for (step, want) in rates(name).into_iter().enumerate() {
                    let label = format!("{name} at {step}");
                    assert_rate(&label, peak * schedule.original_factor(step as u64), want, peak);
                    let is_after_cosine = power == DecayPower::Cosine && step > total;
                    let want = if is_after_cosine { 0.0 } else { want };
                    assert_rate(&label, schedule.at(step as u64), want, peak);
                }
            }
        }
    }

    #[test]
    fn published_pre_training_warms_up_and_decays_to_zero() {
        let schedule = |power| LearningRate {
            base: 1e-4,
            warmup: 2500,
            total: 25000,
            end_lr: 0.0,
            power,
        };
        let polynomial = schedule(DecayPower::Polynomial(1.0));
        for (step, factor) in [
            (0, 0.0),
            (1, 0.0004),
            (1250, 0.5),
            (2500, 1.0),
            (13750, 0.5),
            (25000, 0.0),
            (25001, 0.0),
        ] {
            assert!((polynomial.factor(step) - factor).abs() < 1e-12, "{step}");
        }
        let cosine = schedule(DecayPower::Cosine);
        for (step, factor) in [(13750, 0.5), (25000, 0.0), (30000, 0.0)] {
            assert!((cosine.factor(step) - factor).abs() < 1e-12, "{step}");
        }
        assert!((cosine.original_factor(30000) - 0.116978).abs() < 1e-6);
    }

    #[test]
    fn a_warm_up_fraction_is_a_fraction_of_the_schedule() {
        let words = [
            "max_steps=None",
            "max_epoch=4",
            "warmup_steps=0.1",
            "per_gpu_batchsize=4",
            "batch_size=8",
        ];
        let spec = RunSpec::resolve(&resolve(&words).unwrap().config).unwrap();
        let schedule = LearningRate::new(&spec.optimizer, &Plan::new(&spec.length, 51, 1).unwrap());
        assert_eq!((schedule.warmup, schedule.total), (10, 102));
        assert_eq!(schedule.at(10), 1e-4);
    }

    #[test]
    fn imagenet_learning_rates_equal_those_of_the_original() {
        for directory in vlct_golden::directories("imagenet") {
            let recorded = vlct_golden::json(directory.join("lr_schedule.json"));
            let schedule = HalfCosine {
                learning_rate: 1e-3,
                min_lr: 1e-6,
                warmup_epochs: 5.0,
                epochs: 100.0,
            };
            for row in recorded["rows"].as_array().unwrap() {
                let [epoch, rate, half_rate] = [0, 1, 2].map(|i| row[i].as_f64().unwrap());
                assert_rate(&format!("epoch {epoch}"), schedule.at(epoch), rate, 1e-3);
                assert_rate(&format!("epoch {epoch}"), schedule.at(epoch) * 0.5, half_rate, 1e-3);
            }
            assert_eq!(schedule.at(100.5), 1e-6);
        }
    }

    proptest! {
        #[test]
        fn factors_are_always_between_0_and_1(
            warmup in 0u64..200, total in 0u64..200, step in 0u64..500, power in 0.0f64..4.0, cosine: bool
        ) {
            let power = if cosine { DecayPower::Cosine } else { DecayPower::Polynomial(power) };
            let factor = LearningRate { base: 1e-3, warmup, total, end_lr: 1e-5, power }.factor(step);
            prop_assert!((0.0..=1.0).contains(&factor), "{factor}");
        }
    }
}
