//! Compares steps in bfloat16, and on other devices than the CPU, with the same steps in f32 on the CPU, and steps that recompute activations
//! with steps that keep them.
//!
//! The error of bfloat16 depends on the step: where large terms cancel, their rounding errors remain. The bound of the error is
//! therefore measured for each loss and each gradient: the step is repeated in f32 while the operands of its products are perturbed at
//! random by the size of bfloat16's rounding error ([`Device::perturbed_cpu`]). The changes of the loss or gradient give the bound.

use super::cases::{self, Case, LossesAndGradients};
use super::pretrain;
use super::recorded::{Tensors, config, load};
use super::subject::{Subject, equal};
use crate::Outcome;
use vlct_tensor::{Compute, Device, Precision};

/// Number of perturbed steps from which a bound is computed.
const PERTURBATIONS: u64 = 32;

/// Allowed ratio between the squared error of a bfloat16 step and the squared distance between a perturbed and the exact step. A
/// bfloat16 step also rounds softmax probabilities and the gradients of scores, which are not perturbed. These values are
/// fewer than the perturbed operands, so they at most double the squared error.
const ERROR_RATIO: f64 = 2.0;

/// Allowed difference between a squared distance and the mean squared distance, in standard deviations of squared distances. The change
/// of a scalar is about normally distributed. If the standard deviation of the change is σ, the squared change has mean σ² and standard
/// deviation √2·σ², and the bound is √(2·(σ² + 12·√2·σ²)) ≈ 6σ.
const DEVIATIONS: f64 = 12.0;

/// The error of a step in f32, as a part of the bound of bfloat16. A sum of n terms has a relative error of up to n·2⁻²⁴ in f32; the bound is
/// that of relative errors of 2⁻⁹. The models have sums of fewer than 1024 terms, so that the ratio is below 2¹⁰·2⁻²⁴/2⁻⁹.
const F32_RATIO: f64 = 1.0 / 32.0;

/// Returns the bound of the error of a loss or gradient. `squared_distances` are those between perturbed steps and the exact step.
fn bound(squared_distances: &[f64]) -> f64 {
    let n = squared_distances.len() as f64;
    let mean = squared_distances.iter().sum::<f64>() / n;
    let variance = squared_distances
        .iter()
        .map(|squared| (squared - mean).powi(2))
        .sum::<f64>()
        / n;
    (ERROR_RATIO * (mean + DEVIATIONS * variance.sqrt())).sqrt()
}

/// A step on the CPU in f32, and the bound of each of its values.
struct Exact {
    values: LossesAndGradients,
    bounds: Vec<f64>,
}

impl Exact {
    fn measure(case: &mut Case) -> Result<Self, String> {
        let values = case.run(Compute::default());
        let mut squared_distances = vec![Vec::new(); values.len()];
        for seed in 0..PERTURBATIONS {
            let perturbed = case.run(Compute {
                device: Device::perturbed_cpu(seed),
                ..Compute::default()
            });
            let pairs = squared_distances.iter_mut().zip(perturbed.iter().zip(&values));
            for (distances, ((_, perturbed), (name, exact))) in pairs {
                distances.push(squared_distance(name, perturbed, exact)?);
            }
        }
        let bounds = squared_distances.iter().map(|distances| bound(distances)).collect();
        Ok(Self { values, bounds })
    }

    /// Fails unless each loss and each gradient of a step is within its bound times `ratio`.
    fn compare(&self, subject: &Subject, got: &LossesAndGradients, ratio: f64) -> Outcome {
        equal("number of losses and gradients", got.len(), self.values.len())?;
        let values = got.iter().zip(&self.values).zip(&self.bounds);
        for (((got_name, got), (name, exact)), bound) in values {
            equal("loss or gradient", got_name, name)?;
            let (error, bound) = (squared_distance(name, got, exact)?.sqrt(), ratio * bound);
            // NaN is no value within a bound.
            let within = error <= bound;
            if !within {
                return Err(format!(
                    "{name} differs from f32 on the CPU by {error:e}, more than the bound {bound:e}"
                ));
            }
            subject.record(error, bound);
        }
        Ok(())
    }
}

/// Fails unless each loss and each gradient on the device is within its bound, in bfloat16 and in f32.
fn within_bounds(subject: &Subject, case: &mut Case) -> Outcome {
    let exact = Exact::measure(case)?;
    let rounded = case.run(subject.compute(Precision::Bf16));
    if rounded == exact.values {
        return Err("not computed in bfloat16".into());
    }
    exact
        .compare(subject, &rounded, 1.0)
        .map_err(|e| format!("in bfloat16, {e}"))?;
    let f32 = case.run(subject.compute(Precision::F32));
    exact
        .compare(subject, &f32, F32_RATIO)
        .map_err(|e| format!("in f32, {e}"))
}

fn all_within_bounds(subject: &Subject, cases: impl IntoIterator<Item = Case>) -> Outcome {
    cases.into_iter().try_for_each(|mut case| {
        subject.check_stop()?;
        within_bounds(subject, &mut case).map_err(|e| format!("{}: {e}", case.name))
    })
}

fn squared_distance(name: &str, a: &[f32], b: &[f32]) -> Result<f64, String> {
    equal(name, a.len(), b.len())?;
    Ok(a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum())
}

pub(super) fn errors_of_recorded_steps_are_within_their_bounds(subject: &Subject) -> Outcome {
    all_within_bounds(subject, cases::recorded(subject)?)
}

pub(super) fn errors_of_recorded_classifiers_are_within_their_bounds(subject: &Subject) -> Outcome {
    all_within_bounds(subject, cases::recorded_classifiers(subject)?)
}

pub(super) fn errors_of_generated_steps_are_within_their_bounds(subject: &Subject) -> Outcome {
    (0..subject.generated_models()).try_for_each(|seed| all_within_bounds(subject, cases::generated(seed)?))
}

/// The same step twice, and with activations that are recomputed, has equal losses and gradients.
fn recomputed_is_equal(subject: &Subject, case: &mut Case) -> Outcome {
    for precision in [Precision::F32, Precision::Bf16] {
        let [kept, recomputed] = [false, true].map(|recompute| {
            case.run(Compute {
                recompute,
                ..subject.compute(precision)
            })
        });
        compare_bits(&kept, &recomputed).map_err(|e| format!("{}, {precision:?}: {e}", case.name))?;
    }
    Ok(())
}

pub(super) fn recomputing_activations_changes_no_bit(subject: &Subject) -> Outcome {
    cases::recorded(subject)?
        .iter_mut()
        .try_for_each(|case| recomputed_is_equal(subject, case))
}

/// The same step twice, in every precision in which the device is fast.
pub(super) fn equal_steps_have_equal_bits(subject: &Subject) -> Outcome {
    let precisions = [Precision::F32, Precision::Bf16];
    let is_fast = |precision: &Precision| *precision == Precision::F32 || subject.device().bf16_is_fast();
    for precision in precisions.into_iter().filter(is_fast) {
        for mut case in cases::generated(0)? {
            let [first, second] = [(); 2].map(|()| case.run(subject.compute(precision)));
            compare_bits(&first, &second).map_err(|e| format!("{}, {precision:?}: {e}", case.name))?;
        }
    }
    Ok(())
}

/// Fails unless two steps have the same bits.
fn compare_bits(first: &LossesAndGradients, second: &LossesAndGradients) -> Outcome {
    equal("number of losses and gradients", second.len(), first.len())?;
    for ((name, first), (_, second)) in first.iter().zip(second) {
        equal(name, second.len(), first.len())?;
        let different = first.iter().zip(second).position(|(a, b)| a.to_bits() != b.to_bits());
        if let Some(i) = different {
            return Err(format!("{name}[{i}] is {} and then {}", first[i], second[i]));
        }
    }
    Ok(())
}

/// Each step starts from the weights of the step before, so errors accumulate. The perturbed runs accumulate them as well. The error of a
/// loss is its difference from the recorded loss.
pub(super) fn errors_of_ten_training_steps_are_within_their_bounds(subject: &Subject) -> Outcome {
    for directory in subject.directories("model") {
        let (config, mask_ratio) = config(&directory, pretrain::HEADS)?;
        let t = Tensors::open(directory.join("pretrain_10_steps.safetensors"))?;
        let recorded = t.f32("losses")?;
        let run = |compute| {
            subject.check_stop()?;
            let mut model = load(&directory, "pretrain.ckpt", config.clone())?;
            model.set_compute(compute);
            Ok::<_, String>(pretrain::run_ten_steps(&mut model, &t, mask_ratio)?.concat())
        };
        let exact = run(Compute::default())?;
        let perturbed = (0..PERTURBATIONS).map(|seed| {
            run(Compute {
                device: Device::perturbed_cpu(seed),
                ..Compute::default()
            })
        });
        let perturbed = perturbed.collect::<Result<Vec<Vec<f32>>, String>>()?;
        let rounded = run(subject.compute(Precision::Bf16))?;
        equal("number of losses", rounded.len(), recorded.len())?;
        for (i, (rounded, recorded)) in rounded.iter().zip(&recorded).enumerate() {
            let squared_distances: Vec<f64> = perturbed
                .iter()
                .map(|losses| f64::from(losses[i] - exact[i]).powi(2))
                .collect();
            let (error, bound) = (f64::from((rounded - recorded).abs()), bound(&squared_distances));
            let within = error <= bound;
            if !within {
                return Err(format!(
                    "{}: step {}, {}: {rounded} instead of {recorded}, a difference of {error:e}, more than the bound {bound:e}",
                    directory.display(),
                    i / pretrain::LOSSES.len(),
                    pretrain::LOSSES[i % pretrain::LOSSES.len()]
                ));
            }
            subject.record(error, bound);
        }
    }
    Ok(())
}
