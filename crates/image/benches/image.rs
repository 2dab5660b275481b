//! Measures the time from the bytes of an image file to normalised values, in total and by stage.
//! `cargo bench -p vlct-image -- NAME` runs the benchmarks whose names contain NAME. Throughput is in images: "Kelem/s" are thousands
//! of images per second.

use std::time::Duration;

use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vlct_image::augment::{Erasing, ErasingMode, OPERATIONS, PolicyOperation};
use vlct_image::resize::{LevelMap, resize_into};
use vlct_image::{
    ClassificationAugment, ColourAugment, CropBox, Reading, RgbImage, Transform, TransformKind, TransformSpec, decode,
    encode_jpeg,
};

/// Size of the images, as in MS-COCO.
const WIDTH: u32 = 640;
const HEIGHT: u32 = 480;
/// Side of the transformed images.
const SIZE: u32 = 384;

/// Returns an image of waves and noise, whose JPEG file is about as large as that of a photograph.
fn image() -> RgbImage {
    let mut random = ChaCha8Rng::seed_from_u64(0);
    RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        let mut wave = |c: u8| {
            let phase = x as f32 / (37.0 + 9.0 * f32::from(c)) + y as f32 / (53.0 - 7.0 * f32::from(c));
            (127.0 + 90.0 * phase.sin() + random.random_range(-8.0..8.0)) as u8
        };
        image::Rgb(std::array::from_fn(|c| wave(c as u8)))
    })
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("image");
    group.sampling_mode(SamplingMode::Flat);
    group.sample_size(20);
    group.warm_up_time(Duration::from_millis(300));
    group.measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(1));

    let image = image();
    let file = encode_jpeg(&image, 90).expect("a file");
    let policy = "rand-m9-mstd0.5-inc1".parse().expect("a policy");
    let augment = ClassificationAugment {
        colour: ColourAugment::Policy(policy),
        erasing: Some(Erasing::new(0.25, ErasingMode::Pixel, 1).expect("settings")),
        ..ClassificationAugment::default()
    };
    let mut specs = TransformKind::ALL
        .map(|kind| (kind.name(), TransformSpec::Named(kind)))
        .to_vec();
    specs.push((
        "classification_train",
        TransformSpec::ClassificationTrain(Box::new(augment)),
    ));
    specs.push(("classification_eval", TransformSpec::ClassificationEval));
    for (name, spec) in specs {
        let transform = Transform::from_spec(&spec, SIZE as usize).expect("a size");
        let mut out = vec![0.0; transform.max_values()];
        let mut count = 0;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                count += 1;
                let mut random = ChaCha8Rng::seed_from_u64(count);
                // The memory is used again, as in a loader.
                let loaded = transform.load(&file, Reading::default(), &mut random, |_| std::mem::take(&mut out));
                out = loaded.expect("an image").0;
            })
        });
    }
    group.bench_function("decode JPEG", |bench| bench.iter(|| decode(&file)));
    let mut out = vec![0.0; 3 * (SIZE * SIZE) as usize];
    let level_map = LevelMap {
        scale: [0.01; 3],
        offset: [-2.0; 3],
    };
    group.bench_function("resize", |bench| {
        bench.iter(|| resize_into(&image, CropBox::whole(&image), (SIZE, SIZE), true, level_map, &mut out))
    });
    for operation in &OPERATIONS {
        group.bench_function(operation.name, |bench| {
            let apply = |mut image: RgbImage| {
                (operation.apply)(&mut image, operation.value(9.0));
                image
            };
            bench.iter_batched(|| image.clone(), apply, BatchSize::SmallInput)
        });
    }
    for operation in [
        PolicyOperation::Rotate,
        PolicyOperation::ShearX,
        PolicyOperation::TranslateYRel,
    ] {
        group.bench_function(format!("bicubic {operation:?}"), |bench| {
            let apply = |mut image: RgbImage| {
                operation.apply(&mut image, operation.value(9.0, false));
                image
            };
            bench.iter_batched(|| image.clone(), apply, BatchSize::SmallInput)
        });
    }
    group.finish();
    criterion.final_summary();
}
