//! Whole runs on an emulated CUDA device, whose results are those of the CPU up to rounding errors.
//!
//! Without a C++ compiler, which the emulator needs, the tests are reported as ignored.

#[path = "../ranks/support.rs"]
mod support;

use std::path::Path;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};
use tempfile::TempDir;
use vlct_classes::ClassSplits;
use vlct_cuda::driver::emulator::{Compiler, Emulator, Source};
use vlct_tensor::collectives::Single;
use vlct_tensor::tensor::Order;
use vlct_tensor::{Device, DeviceName, F32Products, Planes, Precision};
use vlct_train::TrainError;
use vlct_train::trainer::{Threads, classifiers, run_rank, use_threads};

use support::{assert_same, assert_same_checkpoints, classifier_settings, config, control, records, run};

/// Makes `cuda:0` and `cuda:1` emulated devices. The second one has little memory.
fn emulate() -> Result<(), String> {
    /// Memory of the devices in bytes.
    const MEMORY: [usize; 2] = [1 << 30, 6 << 20];
    let libraries = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda-emulator");
    let sources = Source::all().map_err(|e| e.to_string())?;
    let compiler = Compiler::find(&libraries)?;
    for (index, memory) in MEMORY.into_iter().enumerate() {
        let emulator = Emulator::new(&compiler, &sources, memory).map_err(|e| e.to_string())?;
        let name = DeviceName::Cuda(index).to_string();
        let device = Device::of_driver(&name, Arc::new(emulator)).map_err(|e| e.to_string())?;
        Device::register(index, device);
    }
    Ok(())
}

/// The learning rate does not depend on the number of steps.
const PRETRAINING: [&str; 8] = [
    "decay_power=0",
    "warmup_steps=2",
    "learning_rate=1e-3",
    "val_check_interval=4",
    "limit_val_batches=1",
    "clip_grad_norm=1.0",
    "drop_rate=0.1",
    "ema_decay=0.9",
];

/// Trains until `steps` steps are done, from the run in `directory` if it exists.
fn pretrain(directory: &Path, device: &str, steps: u64) {
    let (device, steps_key) = (format!("device={device}"), format!("max_steps={steps}"));
    let resume = format!("resume_from={}", directory.display());
    let mut words: Vec<&str> = PRETRAINING.to_vec();
    words.extend([device.as_str(), &steps_key, "batch_size=8"]);
    if directory.exists() {
        words.push(&resume);
    }
    let finished = run(&config("quickstart", &words), 1, directory);
    assert_eq!((finished.steps, finished.interrupted), (steps, false));
}

/// `auto` uses the GPU, a checkpoint of a GPU continues on the CPU, and one of the CPU on a GPU.
fn a_run_continues_on_the_cpu_and_back() {
    let directory = TempDir::new().expect("a directory");
    let (moving, staying) = (directory.path().join("moving"), directory.path().join("staying"));
    for (device, steps) in [("auto", 2), ("cpu", 4), ("cuda:0", 6)] {
        pretrain(&moving, device, steps);
    }
    pretrain(&staying, "cpu", 6);
    let (got, want) = (records(&moving), records(&staying));
    assert_same("a run that moves", &got, &want);
    assert_same_checkpoints("a run that moves", &moving, &staying);
}

/// Fine-tuning with drop path and mixed images, and linear probing.
fn classifiers_have_the_losses_of_the_cpu() {
    for linear_probe in [false, true] {
        let directory = TempDir::new().expect("a directory");
        let mut settings = classifier_settings(linear_probe);
        settings.epochs = 1;
        let runs = [DeviceName::Cuda(0), DeviceName::Cpu].map(|device| {
            let run = directory.path().join(device.to_string().replace(':', "-"));
            settings.device = device;
            let splits = ClassSplits::open(&settings.data_path, &settings.rules()).expect("images");
            let mut spec = settings
                .run_spec(splits.train.class_names().to_vec())
                .expect("valid settings");
            (spec.compute.precision, spec.compute.f32_products) = (Precision::F32, F32Products::Fma);
            let stop = std::sync::atomic::AtomicBool::new(false);
            classifiers::train(spec, splits, &control(&stop, &Single, &run)).expect("a run");
            run
        });
        let case = format!("linear probing {linear_probe}");
        assert_same(&case, &records(&runs[0]), &records(&runs[1]));
    }
}

/// Patches come from the copy, whether all of its images are requested or some, and from the images themselves if there is no copy of one
/// of them, or no more.
fn images_that_were_copied_ahead_give_the_same_patches() {
    let device = Device::open(DeviceName::Cuda(0)).expect("the emulated device");
    let image = |seed: usize| -> Vec<f32> { (0..3 * 8 * 16).map(|i| (i * 37 + seed) as f32).collect() };
    let mut images = [image(0), image(1), image(2)];
    let original = images.clone();
    let patches = |device: Device, images: &[Vec<f32>], picks: &[(usize, &[u32])]| {
        let sizes = [[8, 16], [16, 8], [8, 16]];
        let picks: Vec<(Planes, &[u32])> = picks
            .iter()
            .map(|(image, patches)| {
                let [height, width] = sizes[*image];
                (Planes::new(&images[*image], height, width), *patches)
            })
            .collect();
        device.patches(&picks, 4, Order::ChannelLast).to_host().into_owned()
    };
    let some: [(usize, &[u32]); 3] = [(1, &[7, 0]), (0, &[3]), (1, &[2])];
    let all: [(usize, &[u32]); 3] = [(0, &[0, 1]), (1, &[5]), (2, &[6])];
    let copied: Vec<Planes> = vec![
        Planes::new(&images[0], 8, 16),
        Planes::new(&images[1], 16, 8),
        Planes::new(&images[0], 8, 16),
    ];
    let uploaded = device.upload_images(&copied).expect("memory of its own");
    assert!(Device::cpu().upload_images(&copied).is_none());
    // The copy has the values of the time when it was made.
    images[0].fill(-1.0);
    images[1].fill(-2.0);
    assert_eq!(
        patches(device, &images, &some),
        patches(Device::cpu(), &original, &some)
    );
    // Image 2 was not copied.
    assert_eq!(patches(device, &images, &all), patches(Device::cpu(), &images, &all));
    drop(uploaded);
    assert_eq!(patches(device, &images, &some), patches(Device::cpu(), &images, &some));
}

/// The message says how many samples fit, and as many do.
fn too_large_micro_batches_are_an_error_that_says_what_fits() {
    let directory = TempDir::new().expect("a directory");
    let train = |samples: u64, run: &str| {
        let size = format!("per_gpu_batchsize={samples}");
        let words = [
            "device=cuda:1",
            "batch_size=64",
            "max_steps=1",
            "val_check_interval=1.0",
            &size,
        ];
        let config = config("quickstart", &words);
        let stop = std::sync::atomic::AtomicBool::new(false);
        run_rank(&config, &control(&stop, &Single, &directory.path().join(run)), &Single)
    };
    let error = train(64, "too-large").expect_err("too little memory");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    let TrainError::DeviceMemory {
        micro_batch: 64,
        fits: Some(fits),
        ..
    } = error
    else {
        panic!("{text}")
    };
    assert!(fits < 64);
    train(fits, "smaller").expect("a run");
}

fn main() {
    // The emulator starts the compute threads, too, and a process starts them only once.
    use_threads(Threads::default()).expect("threads");
    let missing = emulate().err();
    let tests: [(&str, fn()); 4] = [
        (
            "too_large_micro_batches_are_an_error_that_says_what_fits",
            too_large_micro_batches_are_an_error_that_says_what_fits,
        ),
        (
            "images_that_were_copied_ahead_give_the_same_patches",
            images_that_were_copied_ahead_give_the_same_patches,
        ),
        (
            "a_run_continues_on_the_cpu_and_back",
            a_run_continues_on_the_cpu_and_back,
        ),
        (
            "classifiers_have_the_losses_of_the_cpu",
            classifiers_have_the_losses_of_the_cpu,
        ),
    ];
    let trials = tests.map(|(name, run)| {
        let trial = Trial::test(name, move || {
            run();
            Ok(())
        });
        match &missing {
            Some(reason) => trial.with_kind(reason).with_ignored_flag(true),
            None => trial,
        }
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}
