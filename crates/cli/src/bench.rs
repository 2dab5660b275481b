//! `vlct bench`: one line of JSON about the speed of one kind of work.

use vlct_train::bench::{BenchOptions, Task, measure};
use vlct_train::trainer::use_threads;

use crate::args::{Bench, BenchPrecision, BenchTask};
use crate::output::{Failure, print};

/// Measures.
pub fn run(args: &Bench) -> Result<(), Failure> {
    use_threads(args.threads)?;
    let task = match args.task {
        BenchTask::Pretrain => Task::Pretrain,
        BenchTask::Vqa => Task::Vqa,
        BenchTask::Infer => Task::Infer,
    };
    let result = match args.precision {
        BenchPrecision::F32 => measure(BenchOptions {
            task,
            image_size: args.image_size,
            batch: args.batch,
            steps: args.steps,
        }),
    };
    print(&format!("{}\n", serde_json::to_string(&result)?))
}
