//! Steps in bfloat16 against the same steps in f32, and steps that recompute activations against steps that keep them.
//!
//! How far bfloat16 may be from f32 depends on the step: where large terms cancel, their rounding errors remain. The bound is
//! therefore measured for each loss and each gradient, in f32 alone ([`Device::perturbed_cpu`]): how far it moves when each operand of
//! a product is moved at random by the size of bfloat16's rounding.

use super::{config, generated, load, pretrain, retrieval, vqa};
use vlct_golden::{Tensors, directories};
use vlct_model::Vlc;
use vlct_tasks::vqa::Vqa;
use vlct_tasks::{Batch, Task};
use vlct_tensor::{Compute, Device, Gradients, Precision, Tape};

/// Number of perturbed steps from which a bound is computed.
const PERTURBATIONS: u64 = 32;

/// Largest ratio between the squared error of a bfloat16 step and the squared distance of a perturbed step. A bfloat16 step also rounds
/// softmax probabilities and the gradients of scores, which perturbed steps do not change. There are fewer of them than of perturbed
/// operands, so they at most double the squared error.
const ERROR_RATIO: f64 = 2.0;

/// Largest difference between a squared distance and its mean, in standard deviations of squared distances. The distance of a scalar is
/// about normally distributed, so the standard deviation of its square is √2 times the mean of its square. Twelve of them and
/// [`ERROR_RATIO`] allow a scalar 6 of its own standard deviations.
const DEVIATIONS: f64 = 12.0;

/// Returns the bound of the error of a loss or gradient, given its squared distances between perturbed steps and the exact step.
fn bound(squares: &[f64]) -> f64 {
    let n = squares.len() as f64;
    let mean = squares.iter().sum::<f64>() / n;
    let variance = squares.iter().map(|square| (square - mean).powi(2)).sum::<f64>() / n;
    (ERROR_RATIO * (mean + DEVIATIONS * variance.sqrt())).sqrt()
}

/// A training step: a model, a task and a batch.
struct Case {
    name: String,
    model: Vlc,
    task: Box<dyn Task>,
    batch: Batch,
}

/// Returns the recorded steps.
fn recorded() -> Vec<Case> {
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
        let batch = pretrain::Recorded::read(&t, "", mask_ratio).batch();
        let model = load(&directory, "pretrain.ckpt", config);
        add(
            "pre-training",
            model,
            Box::new(pretrain::task()) as Box<dyn Task>,
            batch,
        );
        let t = Tensors::open(directory.join("vqa_step.safetensors"));
        add("answering", vqa::model(&directory, &t), Box::new(Vqa), vqa::batch(&t));
        let t = Tensors::open(directory.join("irtr_step.safetensors"));
        let (batch, task) = retrieval::batch(&t);
        add("ranking", retrieval::model(&directory), Box::new(task), batch);
    }
    cases
}

/// Returns a step of each task, with generated models.
fn generated(seed: u64) -> [Case; 3] {
    let case = |task_name: &str, model, task, batch| Case {
        name: format!("model {seed}: {task_name}"),
        model,
        task,
        batch,
    };
    let (model, batch) = generated::pretraining(seed);
    let pretraining = case(
        "pre-training",
        model,
        Box::new(pretrain::task()) as Box<dyn Task>,
        batch,
    );
    let (model, batch) = generated::answering(seed);
    let answering = case("answering", model, Box::new(Vqa), batch);
    let (model, task, batch) = generated::ranking(seed);
    [pretraining, answering, case("ranking", model, Box::new(task), batch)]
}

/// Losses and gradients of a step by name.
type Values = Vec<(String, Vec<f32>)>;

impl Case {
    /// Runs the step and returns the value of each measure, the total, and each gradient.
    fn run(&mut self, compute: Compute) -> Values {
        self.model.set_compute(compute);
        let tape = Tape::new(self.model.compute());
        let outcome = self.task.forward(&self.model, &tape, &self.batch);
        let losses = outcome.measures.iter().filter(|measure| measure.key.ends_with("loss"));
        let mut values: Values = losses.map(|m| (m.key.to_string(), vec![m.value()])).collect();
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

    fn run_in(&mut self, precision: Precision) -> Values {
        self.run(Compute {
            precision,
            ..Compute::default()
        })
    }

    /// Panics unless each loss and each gradient of the bfloat16 step is within its bound.
    fn check_rounding(&mut self) {
        let exact = self.run_in(Precision::F32);
        let rounded = self.run_in(Precision::Bf16);
        assert!(rounded != exact, "{}: not computed in bfloat16", self.name);
        let perturbed: Vec<Values> = (0..PERTURBATIONS)
            .map(|seed| {
                self.run(Compute {
                    device: Device::perturbed_cpu(seed),
                    ..Compute::default()
                })
            })
            .collect();
        let mut closest = (0.0, "");
        for (i, ((name, rounded), (also, exact))) in rounded.iter().zip(&exact).enumerate() {
            assert_eq!(name, also, "{}", self.name);
            let squares: Vec<f64> = perturbed
                .iter()
                .map(|values| square_distance(&values[i].1, exact))
                .collect();
            let (error, bound) = (square_distance(rounded, exact).sqrt(), bound(&squares));
            assert!(
                error <= bound,
                "{}: {name} is {error:e} from f32, at most {bound:e}",
                self.name
            );
            if error > closest.0 * bound {
                closest = (error / bound, name);
            }
        }
        println!("{}: {} is at {:.2} of its bound", self.name, closest.1, closest.0);
    }
}

fn square_distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum()
}

/// Runs the test `name` of this file in another process at the level `portable`, which provides an engine in plain Rust: on CPUs
/// that are not fast at bfloat16.
fn with_portable_engine(name: &str) {
    let output = std::process::Command::new(std::env::current_exe().expect("path of the test binary"))
        .args(["--exact", &format!("bf16::{name}")])
        .env("VLCT_TEST_LEVEL", "portable")
        .output()
        .expect("start the test binary");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn recorded_steps_are_within_the_rounding_of_operands() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("recorded_steps_are_within_the_rounding_of_operands");
    }
    for mut case in recorded() {
        case.check_rounding();
    }
}

#[test]
fn steps_of_generated_models_are_within_the_rounding_of_operands() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("steps_of_generated_models_are_within_the_rounding_of_operands");
    }
    for mut case in (0..20).flat_map(generated) {
        case.check_rounding();
    }
}

#[test]
fn recomputed_activations_change_no_bit() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("recomputed_activations_change_no_bit");
    }
    for mut case in recorded() {
        for precision in [Precision::F32, Precision::Bf16] {
            let [kept, recomputed] = [false, true].map(|recompute| {
                case.run(Compute {
                    precision,
                    recompute,
                    ..Compute::default()
                })
            });
            assert!(kept == recomputed, "{} {precision:?}", case.name);
        }
    }
}

/// Each step starts from the weights of the step before, so errors accumulate. The perturbed runs accumulate them as well.
#[test]
fn ten_training_steps_follow_the_original() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("ten_training_steps_follow_the_original");
    }
    for directory in directories("model") {
        let (config, mask_ratio) = config(&directory, pretrain::HEADS);
        let t = Tensors::open(directory.join("pretrain_10_steps.safetensors"));
        let recorded = t.f32("losses");
        let run = |compute| {
            let mut model = load(&directory, "pretrain.ckpt", config.clone());
            model.set_compute(compute);
            pretrain::ten_steps(&mut model, &t, mask_ratio).concat()
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
        let rounded = run(Compute {
            precision: Precision::Bf16,
            ..Compute::default()
        });
        for (i, (rounded, recorded)) in rounded.iter().zip(&recorded).enumerate() {
            let squares: Vec<f64> = perturbed
                .iter()
                .map(|moved| square_distance(&moved[i..=i], &exact[i..=i]))
                .collect();
            let (error, bound) = ((rounded - recorded).abs() as f64, bound(&squares));
            assert!(
                error <= bound,
                "{}: step {}, {}: {rounded} against {recorded}, {error:e} where {bound:e} is allowed",
                directory.display(),
                i / pretrain::LOSSES.len(),
                pretrain::LOSSES[i % pretrain::LOSSES.len()]
            );
        }
    }
}
