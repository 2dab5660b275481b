//! `vlct bench`: one line of JSON about the speed of one kind of work.

use vlct_train::bench::{BenchOptions, Precision, Task, measure, measure_gemm};
use vlct_train::trainer::use_threads;

use crate::args::{Bench, BenchPrecision, BenchTask};
use crate::output::{Failure, print, tell};

/// What is measured if nothing is said: side of the pictures, samples of a step, steps and, of products, which take
/// milliseconds, repetitions.
const IMAGE_SIZE: usize = 384;
const BATCH: usize = 8;
const STEPS: usize = 5;
const REPETITIONS: usize = 100;

/// Measures.
pub fn run(args: &Bench) -> Result<(), Failure> {
    use_threads(args.threads)?;
    let fast = Precision::bf16_is_fast();
    let precision = match args.precision {
        Some(BenchPrecision::F32) => Precision::F32,
        Some(BenchPrecision::Bf16) if !fast => {
            return Err(Failure::Failed(
                "this machine has no fast bfloat16 (AMX, or AVX-512 on AMD): measure --precision f32".into(),
            ));
        }
        None if !fast => Precision::F32,
        Some(BenchPrecision::Bf16) | None => Precision::Bf16,
    };
    let task = match args.task {
        BenchTask::Pretrain => Task::Pretrain,
        BenchTask::Vqa => Task::Vqa,
        BenchTask::Infer => Task::Infer,
        BenchTask::Gemm => return gemm(args, precision),
    };
    let (result, profile) = measure(BenchOptions {
        task,
        image_size: args.image_size.unwrap_or(IMAGE_SIZE),
        batch: args.batch.unwrap_or(BATCH),
        precision,
        profile: args.profile,
        steps: args.steps.unwrap_or(STEPS),
    });
    if let Some(profile) = profile {
        tell(&profile.to_string());
    }
    print(&format!("{}\n", serde_json::to_string(&result)?))
}

fn gemm(args: &Bench, precision: Precision) -> Result<(), Failure> {
    let given = [
        ("--image-size", args.image_size.is_some()),
        ("--batch", args.batch.is_some()),
        ("--profile", args.profile),
    ];
    if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
        return Err(Failure::Usage(format!(
            "{option} is not for gemm: its sizes are fixed, leave it out"
        )));
    }
    let result = measure_gemm(precision, args.steps.unwrap_or(REPETITIONS));
    print(&format!("{}\n", serde_json::to_string(&result)?))
}
