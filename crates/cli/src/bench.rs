//! `vlct bench`: one line of JSON about the speed of one kind of work.

use vlct_train::bench::{BenchOptions, pretrain};

use crate::args::{Bench, BenchPrecision, BenchTask};
use crate::output::{Failure, print};

/// Measures.
pub fn run(args: &Bench) -> Result<(), Failure> {
    let result = match (args.task, args.precision) {
        (BenchTask::Pretrain, BenchPrecision::F32) => pretrain(BenchOptions {
            image_size: args.image_size,
            batch: args.batch,
            steps: args.steps,
        }),
    };
    print(&format!("{}\n", serde_json::to_string(&result)?))
}
