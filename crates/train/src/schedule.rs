//! Learning-rate schedules.

use std::f64::consts::PI;

use crate::config::DecayPower;
use crate::plan::Plan;
use crate::spec::OptimizerSpec;

/// The vision-language schedule: a straight warm-up from 0, then a polynomial or half a cosine.
///
/// Counted in optimiser steps: step 0 is the first update, which therefore has a learning rate of 0 when there is a
/// warm-up. The polynomial is that of `get_polynomial_decay_schedule_with_warmup` in transformers, the cosine that of
/// `get_cosine_schedule_with_warmup`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LearningRate {
    /// Peak, reached at step `warmup`.
    pub base: f64,
    /// Steps of the warm-up.
    pub warmup: u64,
    /// Steps of the whole schedule.
    pub total: u64,
    /// Learning rate at the end and ever after; polynomial only, the cosine ends at 0.
    pub end_lr: f64,
    /// Shape of the decay after the warm-up.
    pub power: DecayPower,
}

impl LearningRate {
    /// The schedule of a run.
    pub fn new(optimizer: &OptimizerSpec, plan: &Plan) -> Self {
        Self {
            base: optimizer.learning_rate,
            warmup: plan.warmup_steps,
            total: plan.schedule_steps,
            end_lr: optimizer.end_lr,
            power: optimizer.decay,
        }
    }

    /// The learning rate of `step`, relative to the peak. Past the end of the schedule it stays at its end value.
    ///
    /// The original lets the cosine rise again past its end, which a run counted in epochs can reach (its last step may
    /// come a little after the end of the schedule); nothing is gained by that.
    pub fn factor(&self, step: u64) -> f64 {
        match self.power {
            DecayPower::Cosine if step > self.total && self.total >= self.warmup => 0.0,
            _ => self.original(step),
        }
    }

    /// The learning rate of `step` for parameters of scale 1.
    pub fn at(&self, step: u64) -> f64 {
        self.base * self.factor(step)
    }

    /// The formula of the original, with a cosine that goes on past the end.
    fn original(&self, step: u64) -> f64 {
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

/// The ImageNet schedule of MAE's fine-tuning script: by fractional epoch, a straight warm-up, then half a cosine down to
/// `min_lr`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HalfCosine {
    /// Peak.
    pub learning_rate: f64,
    /// Learning rate at the end and ever after.
    pub min_lr: f64,
    /// Epochs of the warm-up.
    pub warmup_epochs: f64,
    /// Epochs of the whole schedule.
    pub epochs: f64,
}

impl HalfCosine {
    /// The learning rate at `epoch`, for instance `3 + batch / batches` within the fourth epoch.
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
    use crate::config::resolve;
    use crate::spec::RunSpec;
    use proptest::prelude::*;

    /// Recorded learning rates: relative to the peak, equal but for the last bits of a cosine.
    fn assert_rates(what: &str, got: f64, want: f64, peak: f64) {
        assert!((got - want).abs() <= 1e-13 * peak, "{what}: {got:e} against {want:e}");
    }

    #[test]
    fn parity_with_the_original() {
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
            // Peak, warm-up and length can be read off the straight line.
            let line = rates("polynomial_power1");
            let peak = line.iter().copied().fold(0.0, f64::max);
            let warmup = line.iter().position(|r| *r == peak).unwrap();
            let total = warmup + line[warmup..].iter().position(|r| *r == 0.0).unwrap();
            assert!(line.len() > total + 1, "nothing is recorded beyond the end");
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
                    let what = format!("{name} at {step}");
                    assert_rates(&what, peak * schedule.original(step as u64), want, peak);
                    let beyond_cosine = power == DecayPower::Cosine && step > total;
                    let wanted = if beyond_cosine { 0.0 } else { want };
                    assert_rates(&what, schedule.at(step as u64), wanted, peak);
                }
            }
        }
    }

    #[test]
    fn published_samples() {
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
        assert!((cosine.original(30000) - 0.116978).abs() < 1e-6);
    }

    #[test]
    fn from_a_configuration() {
        let words = [
            "max_steps=None",
            "max_epoch=4",
            "warmup_steps=0.1",
            "per_gpu_batchsize=4",
            "batch_size=8",
        ];
        let spec = RunSpec::resolve(&resolve(&words).unwrap().config).unwrap();
        let schedule = LearningRate::new(&spec.optimizer, &Plan::new(&spec.length, 51).unwrap());
        assert_eq!((schedule.warmup, schedule.total), (10, 102));
        assert_eq!(schedule.at(10), 1e-4);
    }

    #[test]
    fn image_net_parity() {
        for directory in vlct_golden::directories("imagenet") {
            let recorded = vlct_golden::json(directory.join("lr_schedule.json"));
            let schedule = HalfCosine {
                learning_rate: 1e-3,
                min_lr: 1e-6,
                warmup_epochs: 5.0,
                epochs: 100.0,
            };
            for row in recorded["rows"].as_array().unwrap() {
                let [epoch, rate, half] = [0, 1, 2].map(|i| row[i].as_f64().unwrap());
                assert_rates(&format!("epoch {epoch}"), schedule.at(epoch), rate, 1e-3);
                assert_rates(&format!("epoch {epoch}"), schedule.at(epoch) * 0.5, half, 1e-3);
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
