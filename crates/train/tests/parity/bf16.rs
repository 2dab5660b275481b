//! Steps in bfloat16 against the same steps in f32, and steps whose activations are computed again against those that keep them.

use super::{config, load, measured, pretrain, retrieval, vqa};
use vlct_golden::{Tensors, directories};
use vlct_kernels::bf16::Bf16;
use vlct_model::Vlc;
use vlct_tasks::Task;
use vlct_tasks::vqa::Vqa;
use vlct_tensor::{Compute, Device, Gradients, Precision, Tape, Var};

/// Largest relative error of rounding to bfloat16, the unit of the tolerances here.
const EPSILON: f64 = Bf16::EPSILON as f64;

/// Losses and every gradient of a step.
#[derive(PartialEq)]
struct Taken {
    /// Those of which the total consists, then the total.
    losses: Vec<f32>,
    gradients: Vec<(String, Option<Vec<f32>>)>,
}

/// Computes the losses of which the total consists, and the total.
type Step<'a> = &'a dyn Fn(&Vlc, &Tape) -> (Vec<f32>, Var);

fn take(model: &mut Vlc, precision: Precision, recompute: bool, step: Step) -> Taken {
    model.set_compute(Compute {
        precision,
        recompute,
        ..Compute::default()
    });
    let tape = Tape::new(model.compute());
    let (mut losses, total) = step(model, &tape);
    losses.push(total.tensor().item());
    let mut gradients = Gradients::new(model.parameters());
    tape.backward(&total, 1.0, &mut gradients);
    let named = model
        .parameters()
        .iter()
        .map(|(id, p)| (p.name.clone(), gradients.get(id).map(|g| g.to_host().into_owned())));
    Taken {
        losses,
        gradients: named.collect(),
    }
}

/// Runs the test `name` of this file in another process, where the level `portable` provides an engine in plain Rust: on CPUs that
/// are not fast at bfloat16.
fn with_portable_engine(name: &str) {
    let output = std::process::Command::new(std::env::current_exe().expect("path of the test binary"))
        .args(["--exact", &format!("bf16::{name}")])
        .env("VLCT_TEST_LEVEL", "portable")
        .output()
        .expect("start the test binary");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// The recorded steps.
#[derive(Clone, Copy, Debug)]
enum Recorded {
    Pretraining,
    Answering,
    Ranking,
}

/// Calls `check` with the model and the step of each recorded task.
fn each_step(check: impl Fn(Recorded, &mut Vlc, Step)) {
    for directory in directories("model") {
        let (config, mask_ratio) = config(&directory, pretrain::HEADS);
        let t = Tensors::open(directory.join("pretrain_step.safetensors"));
        let recorded = pretrain::Recorded::read(&t, "", mask_ratio);
        let mut model = load(&directory, "pretrain.ckpt", config);
        check(Recorded::Pretraining, &mut model, &|model, tape| {
            let outcome = pretrain::task().forward(model, tape, &recorded.batch());
            let losses = pretrain::LOSSES.map(|key| measured(&outcome, key));
            (losses.to_vec(), outcome.total().clone())
        });
        let t = Tensors::open(directory.join("vqa_step.safetensors"));
        let batch = vqa::batch(&t);
        check(Recorded::Answering, &mut vqa::model(&directory, &t), &|model, tape| {
            (Vec::new(), Vqa.forward(model, tape, &batch).total().clone())
        });
        let t = Tensors::open(directory.join("irtr_step.safetensors"));
        let (batch, task) = retrieval::batch(&t);
        check(Recorded::Ranking, &mut retrieval::model(&directory), &|model, tape| {
            (Vec::new(), task.forward(model, tape, &batch).total().clone())
        });
    }
}

fn rms(values: impl Iterator<Item = f32> + Clone) -> f64 {
    let n = values.clone().count() as f64;
    (values.map(|v| (v as f64).powi(2)).sum::<f64>() / n).sqrt()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    rms(a.iter().zip(b).map(|(a, b)| a - b))
}

/// Panics unless the two losses are within `tolerance` times ε of each other, relative to the second. The last of the four
/// losses of pre-training, alignment, is a small difference of two transport costs of about 1, times 0.1: that is its scale.
fn assert_loss(what: &str, i: usize, got: f32, want: f32, tolerance: f64) {
    let scale = if i == 3 { 0.1 } else { want.abs() as f64 };
    let error = (got - want).abs() as f64 / scale / EPSILON;
    assert!(
        error <= tolerance,
        "{what}, loss {i}: {got} against {want}, {error:.3} ε"
    );
}

/// Panics unless the root mean square of the difference between the gradients is within `tolerance` times ε of that of the
/// second.
fn assert_gradient(what: &str, got: &[f32], want: &[f32], tolerance: f64) {
    let within = |what: &str, got: &[f32], want: &[f32], scale: f64| {
        let error = distance(got, want) / scale / EPSILON;
        assert!(error <= tolerance, "{what}: {error:.2} ε");
    };
    let scale = |want: &[f32]| rms(want.iter().copied());
    if what.ends_with("attn.qkv.bias") {
        // What is added to all keys changes no attention: the gradient of that third is zero in exact arithmetic. Its
        // error is measured on the scale of the queries'.
        let third = got.len() / 3;
        let parts = |i: usize| (&got[i * third..][..third], &want[i * third..][..third]);
        let ((gq, wq), (gk, wk), (gv, wv)) = (parts(0), parts(1), parts(2));
        within(&format!("{what}, queries"), gq, wq, scale(wq));
        within(&format!("{what}, keys"), gk, wk, scale(wq));
        within(&format!("{what}, values"), gv, wv, scale(wv));
    } else if what.ends_with("rank_output.bias") {
        // It moves all scores of an image alike: zero in exact arithmetic. What is summed here has a sum of magnitudes of at
        // most 2, being the mean over images of differences between two distributions.
        within(what, got, want, 2.0);
    } else {
        within(what, got, want, scale(want));
    }
}

/// How far bfloat16 is from f32, in units of ε = 2⁻⁸ ([`Bf16::EPSILON`]): about twice what was reached on the recorded steps,
/// which is 4.7 for pre-training, 2.8 for answering and 8.6 for ranking in the worst gradients, and 0.09 in losses.
///
/// An operand's rounding is off by up to ε and by 0.3 ε in the root mean square; a gradient passes a dozen products of such
/// operands. In ranking, the recorded scores are nearly alike, and so are the contributions of captions to a gradient, of which
/// the difference remains.
#[test]
fn losses_and_gradients_are_those_of_f32_but_for_rounding() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("losses_and_gradients_are_those_of_f32_but_for_rounding");
    }
    each_step(|task, model, step| {
        let tolerance = match task {
            Recorded::Pretraining => 10.0,
            Recorded::Answering => 6.0,
            Recorded::Ranking => 18.0,
        };
        let want = take(model, Precision::F32, false, step);
        let got = take(model, Precision::Bf16, false, step);
        assert_eq!(got.losses.len(), want.losses.len());
        for (i, (got, want)) in got.losses.iter().zip(&want.losses).enumerate() {
            assert_loss(&format!("{task:?}"), i, *got, *want, 0.2);
        }
        assert!(got != want, "{task:?} was not computed in bfloat16");
        for ((name, got), (_, want)) in got.gradients.iter().zip(&want.gradients) {
            match (got, want) {
                (Some(got), Some(want)) => assert_gradient(&format!("{task:?}, {name}"), got, want, tolerance),
                (got, want) => assert_eq!(got.is_some(), want.is_some(), "{task:?}, {name}"),
            }
        }
    });
}

#[test]
fn activations_computed_again_change_no_bit() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("activations_computed_again_change_no_bit");
    }
    each_step(|task, model, step| {
        for precision in [Precision::F32, Precision::Bf16] {
            let kept = take(model, precision, false, step);
            let again = take(model, precision, true, step);
            assert!(kept == again, "{task:?} {precision:?}");
        }
    });
}

/// Ten steps move the weights by far more than the rounding does, and the losses stay together: 0.19 ε was reached.
#[test]
fn ten_training_steps_follow_the_original() {
    if !Device::default().bf16_is_fast() {
        return with_portable_engine("ten_training_steps_follow_the_original");
    }
    for directory in directories("model") {
        let (config, mask_ratio) = config(&directory, pretrain::HEADS);
        let mut model = load(&directory, "pretrain.ckpt", config);
        model.set_compute(Compute {
            precision: Precision::Bf16,
            recompute: false,
            ..Compute::default()
        });
        let t = Tensors::open(directory.join("pretrain_10_steps.safetensors"));
        let recorded = t.f32("losses");
        for (step, got) in pretrain::ten_steps(&mut model, &t, mask_ratio).iter().enumerate() {
            for (i, (got, want)) in got.iter().zip(&recorded[step * 4..]).enumerate() {
                assert_loss(&format!("step {step}"), i, *got, *want, 0.4);
            }
        }
    }
}
