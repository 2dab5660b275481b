//! Compares the model, its losses, gradients and training steps with the values of the original, on the CPU and on an emulated CUDA device.
//!
//! Without a C++ compiler, which the emulator needs, the tests of the CUDA device are reported as ignored.

mod bf16;
mod generated;
mod nlvr2;
mod pretrain;
mod retrieval;
mod scoring;
mod vqa;

use libtest_mimic::{Arguments, Trial};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use vlct_cuda::driver::emulator::{Compiler, Emulator, Source};
use vlct_golden::{Tensors, assert_close, assert_within, directories, json};
use vlct_model::config::{Backbone, Heads};
use vlct_model::{Model, ModelConfig, Sequence, VlcConfig, files};
use vlct_tasks::Outcome;
use vlct_tensor::{Compute, Device, F32Products, Gradients, Precision, Tape, Var};

/// Returns the configuration, with `heads`, and the mask ratio of the model that is recorded in `directory`.
fn config(directory: &Path, heads: Heads) -> (VlcConfig, f64) {
    let j = json(directory.join("config.json"));
    let size = |key: &str| j[key].as_u64().unwrap_or_else(|| panic!("{key}")) as usize;
    let backbone = Backbone {
        patch_size: size("patch"),
        width: size("dim"),
        depth: size("depth"),
        heads: size("heads"),
        decoder_width: size("decoder_dim"),
        decoder_depth: size("decoder_depth"),
        decoder_heads: size("decoder_heads"),
    };
    let config = VlcConfig {
        image_size: size("image_size"),
        backbone,
        vocab_size: size("vocab_size"),
        max_text_len: size("max_text_len"),
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads,
    };
    (config, j["mask_ratio"].as_f64().expect("mask_ratio"))
}

/// A device on which tests run.
#[derive(Clone, Copy, Debug, PartialEq)]
enum TestDevice {
    Cpu,
    /// The emulated CUDA device.
    Cuda,
}

impl TestDevice {
    /// # Panics
    /// If there is no emulator; the tests are then ignored.
    fn device(self) -> Device {
        match self {
            Self::Cpu => Device::cpu(),
            Self::Cuda => emulated_device().expect("an emulator"),
        }
    }

    fn bf16_is_fast(self) -> bool {
        self.device().bf16_is_fast()
    }

    /// Returns the settings of tapes in this precision.
    fn compute(self, precision: Precision) -> Compute {
        Compute {
            device: self.device(),
            precision,
            ..Compute::default()
        }
    }
}

/// Returns the emulated CUDA device, or the reason why there is none.
fn emulated_device() -> Result<Device, String> {
    /// Memory of the device in bytes.
    const MEMORY: usize = 4 << 30;
    static DEVICE: OnceLock<Result<Device, String>> = OnceLock::new();
    let make = || {
        let libraries = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator");
        let sources = Source::all().map_err(|e| e.to_string())?;
        let emulator = Emulator::new(&Compiler::find(&libraries)?, &sources, MEMORY).map_err(|e| e.to_string())?;
        Device::of_driver("cuda:0", Arc::new(emulator)).map_err(|e| e.to_string())
    };
    DEVICE.get_or_init(make).clone()
}

/// Returns each directory of recorded values, once for each method by which the device can compute f32 products, with the settings of
/// tapes.
fn recorded_models(device: TestDevice) -> Vec<(PathBuf, Compute)> {
    let device = device.device();
    let methods = F32Products::ALL
        .into_iter()
        .filter(|method| device.supports_f32_products(*method));
    let of_method = |f32_products| {
        let compute = Compute {
            device,
            f32_products,
            ..Compute::default()
        };
        directories("model")
            .into_iter()
            .map(move |directory| (directory, compute))
    };
    methods.flat_map(of_method).collect()
}

fn load(directory: &Path, file: &str, config: VlcConfig) -> Model {
    let mut model = Model::new(ModelConfig::Vlc(config));
    let file = files::map(&directory.join(file)).expect("a file");
    let index = files::index(&file).expect("a readable checkpoint");
    let report = model
        .load(&index, files::Options::default())
        .expect("tensors of the model");
    assert!(report.missing.is_empty(), "{report}");
    model
}

/// Returns the recorded texts without padding. `ids` and `masks` are the names of tensors of shape `[…, length]`.
fn texts(t: &Tensors, ids: &str, masks: &str) -> Vec<Vec<u32>> {
    let length = *t.shape(ids).last().expect("a matrix");
    let without_padding = |(ids, mask): (&[i64], &[i64])| {
        let tokens = ids.iter().zip(mask).filter(|(_, m)| **m != 0);
        tokens.map(|(id, _)| *id as u32).collect()
    };
    let (ids, masks) = (t.i64(ids), t.i64(masks));
    ids.chunks_exact(length)
        .zip(masks.chunks_exact(length))
        .map(without_padding)
        .collect()
}

/// Makes a sequence of the text with index `text` and of image 0. All patches are visible.
fn unmasked_sequence(text: u32) -> Sequence {
    Sequence {
        group: 0,
        text: Some(text),
        image: Some(0),
        token_type: 1,
        mask: None,
    }
}

/// Returns the value of the measure `key`: a loss, or the sum of a score over the batch.
fn measure_value(outcome: &Outcome, key: &str) -> f32 {
    let measure = outcome.measures.iter().find(|measure| measure.key == key);
    measure.unwrap_or_else(|| panic!("{key}")).value()
}

/// Returns the index of the largest value, the first one of equal values.
fn argmax(row: &[f32]) -> usize {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Compares a gradient or weight, with a relative tolerance. The tolerance is absolute where the exact gradient is zero, so that
/// the recorded gradient is a rounding error: in the part of a qkv bias that belongs to attention keys, and in the ranking head's
/// bias, which changes all scores of an image equally.
fn assert_parameter(name: &str, got: &[f32], want: &[f32], key_bias_tolerance: f32) {
    if name.ends_with("attn.qkv.bias") {
        let third = got.len() / 3;
        let rest = |v: &[f32]| [&v[..third], &v[2 * third..]].concat();
        assert_close(name, &rest(got), &rest(want), 2e-5);
        assert_within(
            name,
            &got[third..2 * third],
            &want[third..2 * third],
            key_bias_tolerance,
        );
    } else if name == "rank_output.bias" {
        // The gradient is a sum of dozens of terms of up to 1 that cancel, divided by the number of images.
        assert_within(name, got, want, 1e-6);
    } else {
        assert_close(name, got, want, 2e-5);
    }
}

/// Runs the backward pass and compares every gradient with the recorded one. A parameter without a recorded gradient must have no
/// gradient.
fn assert_gradients(model: &Model, tape: Tape, loss: &Var, t: &Tensors) {
    let mut gradients = Gradients::new(model.parameters());
    tape.backward(loss, 1.0, &mut gradients);
    let mut compared = 0;
    for (id, parameter) in model.parameters().iter() {
        let name = format!("grad.{}", parameter.name);
        match gradients.get(id) {
            Some(gradient) => {
                assert_parameter(&parameter.name, &gradient.to_host(), &t.f32(&name), 1e-7);
                compared += 1;
            }
            None => assert!(!t.has(&name), "no gradient for {name}"),
        }
    }
    assert_eq!(compared, t.names().iter().filter(|n| n.starts_with("grad.")).count());
}

/// A name and the function that runs the test on a device.
type Test = (&'static str, fn(TestDevice));

const TESTS: [Test; 11] = [
    (
        "pretrain::one_pretraining_step_equals_the_original",
        pretrain::one_pretraining_step_equals_the_original,
    ),
    (
        "pretrain::pooled_features_and_decoder_equal_the_original",
        pretrain::pooled_features_and_decoder_equal_the_original,
    ),
    (
        "pretrain::ten_training_steps_equal_the_original",
        pretrain::ten_training_steps_equal_the_original,
    ),
    (
        "vqa::losses_and_gradients_equal_the_original",
        vqa::vqa_losses_and_gradients_match_the_original,
    ),
    (
        "nlvr2::losses_and_gradients_equal_the_original",
        nlvr2::nlvr2_losses_and_gradients_match_the_original,
    ),
    (
        "retrieval::one_ranking_step_equals_the_original",
        retrieval::one_ranking_step_equals_the_original,
    ),
    (
        "scoring::scores_and_recalls_equal_the_original",
        scoring::retrieval_scores_and_recalls_equal_the_original,
    ),
    (
        "bf16::errors_of_recorded_steps_are_within_their_bounds",
        bf16::errors_of_recorded_steps_are_within_their_bounds,
    ),
    (
        "bf16::errors_of_generated_steps_are_within_their_bounds",
        bf16::errors_of_generated_steps_are_within_their_bounds,
    ),
    (
        "bf16::recomputing_activations_changes_no_bit",
        bf16::recomputing_activations_changes_no_bit,
    ),
    (
        "bf16::errors_of_ten_training_steps_are_within_their_bounds",
        bf16::errors_of_ten_training_steps_are_within_their_bounds,
    ),
];

fn main() {
    let missing_emulator = emulated_device().err();
    let trials = TESTS.iter().flat_map(|(name, run)| {
        let trial = |name: String, device| {
            Trial::test(name, move || {
                run(device);
                Ok(())
            })
        };
        let on_cuda = trial(format!("cuda::{name}"), TestDevice::Cuda);
        let on_cuda = match &missing_emulator {
            Some(reason) => on_cuda.with_kind(reason).with_ignored_flag(true),
            None => on_cuda,
        };
        [trial((*name).to_owned(), TestDevice::Cpu), on_cuda]
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}
