//! `vlct bench`: measures the speed of one kind of work and prints one line of JSON.

use std::time::Duration;

use log::info;
use serde::Serialize;
use serde_json::json;
use vlct_bench::{
    BenchOptions, Device, Precision, ScoreOptions, ScoredModel, Workload, measure, measure_gemm, measure_scoring,
};
use vlct_data::loader::bench::{Images, Rate, measure as measure_images};
use vlct_image::Transform;
use vlct_train::trainer::{Threads, use_threads};

use crate::args::{Bench, BenchCompute, BenchGemm, BenchLoader, BenchModel, BenchScore, BenchSteps, BenchTask};
use crate::bench_answer;
use crate::output::{Failure, print};
use crate::values::{PrecisionName, open_device};

/// Measures one kind of work and prints the result.
pub fn run(args: &Bench) -> Result<(), Failure> {
    match &args.task {
        BenchTask::Pretrain(args) => bench_steps(Workload::Pretrain, args),
        BenchTask::Vqa(args) => bench_steps(Workload::Vqa, args),
        BenchTask::Infer(args) => bench_steps(Workload::Infer, args),
        BenchTask::Imagenet(args) => bench_steps(Workload::Imagenet, args),
        BenchTask::Score(args) => bench_score(args),
        BenchTask::Answer(args) => bench_answer::run(args),
        BenchTask::Gemm(args) => bench_gemm(args),
        BenchTask::Loader(args) => bench_loader(args),
    }
}

fn bench_steps(workload: Workload, args: &BenchSteps) -> Result<(), Failure> {
    let (device, precision) = prepare_computation(&args.compute)?;
    let (result, profile) = measure(BenchOptions {
        workload,
        image_size: args.image_size,
        batch: args.batch,
        device,
        precision,
        profile: args.profile,
        steps: args.steps,
    });
    if let Some(profile) = profile {
        info!("{profile}");
    }
    print_line(&result)
}

fn bench_score(args: &BenchScore) -> Result<(), Failure> {
    let (model, image_size) = match args.model {
        BenchModel::Base => (ScoredModel::Base, 384),
        BenchModel::Quickstart => (ScoredModel::Quickstart, 64),
    };
    let (device, precision) = prepare_computation(&args.compute)?;
    print_line(&measure_scoring(ScoreOptions {
        model,
        image_size: args.image_size.unwrap_or(image_size),
        images: args.images,
        texts: args.texts,
        precision,
        device,
        rounds: args.rounds,
    }))
}

fn bench_gemm(args: &BenchGemm) -> Result<(), Failure> {
    let (device, precision) = prepare_computation(&args.compute)?;
    print_line(&measure_gemm(device, precision, args.steps))
}

/// Starts the threads, and returns the device and the precision to measure.
fn prepare_computation(args: &BenchCompute) -> Result<(Device, Precision), Failure> {
    use_threads(Threads {
        count: args.threads,
        pinned: args.pin_threads,
        ..Threads::default()
    })?;
    let device = open_device(args.device)?;
    let fast = device.bf16_is_fast();
    let precision = match args.precision {
        Some(PrecisionName::F32) => Precision::F32,
        Some(PrecisionName::Bf16) if !fast => {
            return Err(Failure::Failed(
                "this machine has no fast bfloat16 (AMX, or AVX-512 on AMD): use --precision f32".into(),
            ));
        }
        None if !fast => Precision::F32,
        Some(PrecisionName::Bf16) | None => Precision::Bf16,
    };
    Ok((device, precision))
}

fn bench_loader(args: &BenchLoader) -> Result<(), Failure> {
    let threads = match args.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let transform = Transform::from_spec(&args.transform, args.image_size)?;
    let rate = measure_images(
        Images::read(&args.data)?,
        transform,
        threads,
        Duration::from_secs_f64(args.seconds),
    )?;
    if args.profile {
        info!("{}", profile_table(&rate));
    }
    let per_second = rate.images as f64 / rate.time.as_secs_f64();
    print_line(&json!({
        "transform": args.transform.name(),
        "image_size": args.image_size,
        "pictures_per_second": (per_second * 10.0).round() / 10.0,
        "cores": threads,
    }))
}

/// Formats a table with a line for each stage and one for the sum: milliseconds per image, and share of the sum.
fn profile_table(rate: &Rate) -> String {
    let stages = [
        ("decode", rate.spent.decode),
        ("augment", rate.spent.augment),
        ("crop, resize, normalise", rate.spent.resize),
    ];
    let total: Duration = stages.iter().map(|stage| stage.1).sum();
    let mut lines = vec![format!("{:<44} {:>9} {:>6}", "part", "ms", "%")];
    for (name, time) in stages.into_iter().chain([("image", total)]) {
        let ms = 1e3 * time.as_secs_f64() / rate.images as f64;
        let share = 100.0 * time.as_secs_f64() / total.as_secs_f64().max(f64::MIN_POSITIVE);
        lines.push(format!("{name:<44} {ms:>9.3} {share:>6.1}"));
    }
    lines.join("\n")
}

fn print_line(result: &impl Serialize) -> Result<(), Failure> {
    print(&format!("{}\n", serde_json::to_string(result)?))
}
