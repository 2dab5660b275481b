//! `vlct bench`: one line of JSON about the speed of one kind of work.

use vlct_train::bench::{BenchOptions, Precision, Task, measure, measure_gemm};
use vlct_train::trainer::use_threads;

use crate::args::{Bench, BenchPrecision, BenchTask};
use crate::output::{Failure, print};

/// Steps measured and, of products, which take milliseconds, repetitions, if their number is not given.
const STEPS: usize = 5;
const REPETITIONS: usize = 100;

/// Measures.
pub fn run(args: &Bench) -> Result<(), Failure> {
    use_threads(args.threads)?;
    let precision = match args.precision {
        BenchPrecision::F32 => Precision::F32,
        BenchPrecision::Bf16 if Precision::bf16_is_fast() => Precision::Bf16,
        BenchPrecision::Bf16 => {
            return Err(Failure::Failed(
                "this machine has no fast bfloat16 (AMX, or AVX-512 on AMD): measure --precision f32".into(),
            ));
        }
    };
    let task = match args.task {
        BenchTask::Pretrain => Task::Pretrain,
        BenchTask::Vqa => Task::Vqa,
        BenchTask::Infer => Task::Infer,
        BenchTask::Gemm => {
            let result = measure_gemm(precision, args.steps.unwrap_or(REPETITIONS));
            return print(&format!("{}\n", serde_json::to_string(&result)?));
        }
    };
    let (result, profile) = measure(BenchOptions {
        task,
        image_size: args.image_size,
        batch: args.batch,
        precision,
        profile: args.profile,
        steps: args.steps.unwrap_or(STEPS),
    });
    if let Some(profile) = profile {
        eprintln!("{profile}");
    }
    print(&format!("{}\n", serde_json::to_string(&result)?))
}
