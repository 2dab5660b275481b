//! Compares steps in bfloat16 with the same steps in f32, and steps that recompute activations with steps that keep them.
//!
//! The error of bfloat16 depends on the step: where large terms cancel, their rounding errors remain. The bound of the error is
//! therefore measured for each loss and each gradient: the step is repeated in f32 while the operands of its products are perturbed at
//! random by the size of bfloat16's rounding error ([`Device::perturbed_cpu`]). The changes of the loss or gradient give the bound.

use super::{TestDevice, config, generated, load, nlvr2, pretrain, retrieval, vqa};
use vlct_golden::{Tensors, directories};
use vlct_model::Model;
use vlct_tasks::vqa::Vqa;
use vlct_tasks::{Batch, Task};
use vlct_tensor::{Compute, Device, Gradients, Precision, Tape};

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

/// A training step: a model, a task and a batch.
struct Case {
    name: String,
    model: Model,
    task: Box<dyn Task>,
    batch: Batch,
}

/// Returns the recorded steps.
fn recorded_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for directory in directories("model") {
        let mut add = |task_name: &str, model, task, batch| {
            let name = format!("{}: {task_name}", directory.display());
            cases.push(Case {
                name,
                model,
                task,
                batch,
            });
        };
        let (config, mask_ratio) = config(&directory, pretrain::HEADS);
        let t = Tensors::open(directory.join("pretrain_step.safetensors"));
        let batch = pretrain::RecordedBatch::read(&t, "", mask_ratio).batch();
        let model = load(&directory, "pretrain.ckpt", config);
        add(
            "pre-training",
            model,
            Box::new(pretrain::task()) as Box<dyn Task>,
            batch,
        );
        let t = Tensors::open(directory.join("vqa_step.safetensors"));
        add(
            "answering",
            vqa::model(&directory, &t),
            Box::<Vqa>::default(),
            vqa::batch(&t),
        );
        let t = Tensors::open(directory.join("nlvr2_step.safetensors"));
        add(
            "pairs",
            nlvr2::model(&directory),
            Box::new(nlvr2::TASK),
            nlvr2::batch(&t),
        );
        let t = Tensors::open(directory.join("irtr_step.safetensors"));
        let (batch, task) = retrieval::batch(&t);
        add("ranking", retrieval::model(&directory), Box::new(task), batch);
    }
    cases
}

/// Returns a step of each task, with models and batches drawn from `seed`.
fn generated_cases(seed: u64) -> [Case; 5] {
    let case = |task_name: &str, model, task, batch| Case {
        name: format!("model {seed}: {task_name}"),
        model,
        task,
        batch,
    };
    let (model, batch) = generated::draw_pretraining(seed);
    let pretraining = case(
        "pre-training",
        model,
        Box::new(pretrain::task()) as Box<dyn Task>,
        batch,
    );
    let (model, batch) = generated::draw_answering(seed);
    let answering = case("answering", model, Box::<Vqa>::default(), batch);
    let (model, task, batch) = generated::draw_ranking(seed);
    let ranking = case("ranking", model, Box::new(task), batch);
    let (model, batch) = generated::draw_pairs(seed);
    let pairs = case("pairs", model, Box::new(nlvr2::TASK), batch);
    let (model, task, batch) = generated::draw_labels(seed);
    let labels = case("labels", model, Box::new(task), batch);
    [pretraining, answering, ranking, pairs, labels]
}

/// Losses and gradients of a step by name.
type LossesAndGradients = Vec<(String, Vec<f32>)>;

impl Case {
    /// Runs the step and returns each loss, the total loss and each gradient.
    fn run(&mut self, compute: Compute) -> LossesAndGradients {
        self.model.set_compute(compute);
        let tape = Tape::new(self.model.compute());
        let outcome = self.task.forward(&self.model, &tape, &self.batch);
        let losses = outcome.measures.iter().filter(|measure| measure.key.ends_with("loss"));
        let mut values: LossesAndGradients = losses.map(|m| (m.key.to_string(), vec![m.value()])).collect();
        values.push(("total".to_string(), vec![outcome.total().tensor().item()]));
        let mut gradients = Gradients::new(self.model.parameters());
        tape.backward(outcome.total(), 1.0, &mut gradients);
        for (id, parameter) in self.model.parameters().iter() {
            if let Some(gradient) = gradients.get(id) {
                values.push((parameter.name.clone(), gradient.to_host().into_owned()));
            }
        }
        values
    }

    /// Panics unless each loss and each gradient of the bfloat16 step on a device is within its bound.
    fn assert_within_bounds(&mut self, device: TestDevice) {
        let exact = self.run(Compute::default());
        let rounded = self.run(device.compute(Precision::Bf16));
        assert!(rounded != exact, "{}: not computed in bfloat16", self.name);
        let perturbed: Vec<LossesAndGradients> = (0..PERTURBATIONS)
            .map(|seed| {
                self.run(Compute {
                    device: Device::perturbed_cpu(seed),
                    ..Compute::default()
                })
            })
            .collect();
        let (mut largest_ratio, mut largest_name) = (0.0, "");
        for (i, ((name, rounded), (exact_name, exact))) in rounded.iter().zip(&exact).enumerate() {
            assert_eq!(name, exact_name, "{}", self.name);
            let squared_distances: Vec<f64> = perturbed
                .iter()
                .map(|values| squared_distance(&values[i].1, exact))
                .collect();
            let (error, bound) = (squared_distance(rounded, exact).sqrt(), bound(&squared_distances));
            assert!(
                error <= bound,
                "{}: {name} differs from f32 by {error:e}, more than the bound {bound:e}",
                self.name
            );
            if error > largest_ratio * bound {
                (largest_ratio, largest_name) = (error / bound, name);
            }
        }
        println!(
            "{}: the largest ratio of error to bound is {largest_ratio:.2}, for {largest_name}",
            self.name
        );
    }
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum()
}

/// Runs the test `name` of this file in another process at the level `portable`, where bfloat16 is computed in plain Rust. Tests call
/// this function on CPUs without fast bfloat16.
fn run_with_portable_engine(name: &str) {
    let output = std::process::Command::new(std::env::current_exe().expect("path of the test binary"))
        .args(["--exact", &format!("bf16::{name}")])
        .env("VLCT_TEST_LEVEL", "portable")
        .output()
        .expect("start the test binary");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

pub(super) fn errors_of_recorded_steps_are_within_their_bounds(device: TestDevice) {
    if !device.bf16_is_fast() {
        return run_with_portable_engine("errors_of_recorded_steps_are_within_their_bounds");
    }
    for mut case in recorded_cases() {
        case.assert_within_bounds(device);
    }
}

pub(super) fn errors_of_generated_steps_are_within_their_bounds(device: TestDevice) {
    if !device.bf16_is_fast() {
        return run_with_portable_engine("errors_of_generated_steps_are_within_their_bounds");
    }
    // The emulator takes ten times as long as the CPU.
    let models = if device == TestDevice::Cpu { 20 } else { 1 };
    for mut case in (0..models).flat_map(generated_cases) {
        case.assert_within_bounds(device);
    }
}

pub(super) fn recomputing_activations_changes_no_bit(device: TestDevice) {
    if !device.bf16_is_fast() {
        return run_with_portable_engine("recomputing_activations_changes_no_bit");
    }
    for mut case in recorded_cases() {
        for precision in [Precision::F32, Precision::Bf16] {
            let [kept, recomputed] = [false, true].map(|recompute| {
                case.run(Compute {
                    recompute,
                    ..device.compute(precision)
                })
            });
            assert!(kept == recomputed, "{} {precision:?}", case.name);
        }
    }
}

/// Each step starts from the weights of the step before, so errors accumulate. The perturbed runs accumulate them as well. The error of a
/// loss is its difference from the recorded loss.
pub(super) fn errors_of_ten_training_steps_are_within_their_bounds(device: TestDevice) {
    if !device.bf16_is_fast() {
        return run_with_portable_engine("errors_of_ten_training_steps_are_within_their_bounds");
    }
    for directory in directories("model") {
        let (config, mask_ratio) = config(&directory, pretrain::HEADS);
        let t = Tensors::open(directory.join("pretrain_10_steps.safetensors"));
        let recorded = t.f32("losses");
        let run = |compute| {
            let mut model = load(&directory, "pretrain.ckpt", config.clone());
            model.set_compute(compute);
            pretrain::run_ten_steps(&mut model, &t, mask_ratio).concat()
        };
        let exact = run(Compute::default());
        let perturbed: Vec<Vec<f32>> = (0..PERTURBATIONS)
            .map(|seed| {
                run(Compute {
                    device: Device::perturbed_cpu(seed),
                    ..Compute::default()
                })
            })
            .collect();
        let rounded = run(device.compute(Precision::Bf16));
        for (i, (rounded, recorded)) in rounded.iter().zip(&recorded).enumerate() {
            let squared_distances: Vec<f64> = perturbed
                .iter()
                .map(|losses| squared_distance(&losses[i..=i], &exact[i..=i]))
                .collect();
            let (error, bound) = ((rounded - recorded).abs() as f64, bound(&squared_distances));
            assert!(
                error <= bound,
                "{}: step {}, {}: {rounded} instead of {recorded}, a difference of {error:e}, more than the bound {bound:e}",
                directory.display(),
                i / pretrain::LOSSES.len(),
                pretrain::LOSSES[i % pretrain::LOSSES.len()]
            );
        }
    }
}
