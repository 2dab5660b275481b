use super::*;
use crate::augment::{Erasing, ErasingMode, Jitter};
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

#[test]
fn names_round_trip_and_errors_list_all_names() {
    for kind in TransformKind::ALL {
        assert_eq!(kind.name().parse::<TransformKind>().unwrap(), kind);
    }
    let message = "default_train".parse::<TransformKind>().unwrap_err().to_string();
    assert!(message.contains("mae, mae_randaug, mae_test"), "{message}");
}

fn classification(policy: Option<&str>, jitter: f64, erasing: f64) -> TransformSpec {
    let colour = match policy {
        Some(policy) => ColourAugment::Policy(policy.parse().unwrap()),
        None if jitter > 0.0 => ColourAugment::Jitter(Jitter::new(jitter).unwrap()),
        None => ColourAugment::None,
    };
    let erasing = (erasing > 0.0).then(|| Erasing::new(erasing, ErasingMode::Pixel, 1).unwrap());
    TransformSpec::ClassificationTrain(Box::new(ClassificationAugment {
        colour,
        erasing,
        ..ClassificationAugment::default()
    }))
}

/// Returns a specification of each kind.
fn specs() -> Vec<TransformSpec> {
    let mut specs = vec![
        classification(Some("rand-m9-mstd0.5-inc1"), 0.0, 0.25),
        classification(Some("original"), 0.0, 0.0),
        classification(None, 0.4, 1.0),
        classification(None, 0.0, 0.0),
        TransformSpec::ClassificationEval,
        TransformSpec::LinearProbeTrain,
    ];
    specs.extend(TransformKind::ALL.map(TransformSpec::Named));
    specs
}

#[test]
fn specifications_have_a_serialised_form() {
    for spec in specs() {
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<TransformSpec>(&text).unwrap(), spec, "{text}");
    }
    let json = |spec: TransformSpec| serde_json::to_string(&spec).unwrap();
    assert_eq!(json(TransformSpec::Named(TransformKind::MaeTest)), "\"mae_test\"");
    assert_eq!(json(TransformSpec::ClassificationEval), "\"classification_eval\"");
    assert_eq!(
        json(classification(Some("rand-m9-mstd0.5-inc1"), 0.0, 0.25)),
        concat!(
            r#"{"classification_train":{"colour":{"policy":"rand-m9-mstd0.5-inc1"},"#,
            r#""erasing":{"probability":0.25,"mode":"pixel","count":1},"min_area":0.08,"mirroring":0.5}}"#
        )
    );
    assert!(serde_json::from_str::<TransformSpec>("\"mae_other\"").is_err());
}

fn waves(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([(x * 3) as u8, (y * 5) as u8, (x * y / 9) as u8])
    })
}

#[test]
fn evaluation_equals_resizing_and_then_cropping() {
    for (width, height, size) in [(90, 64, 28), (61, 200, 28), (300, 240, 230), (20, 33, 9)] {
        let image = waves(width, height);
        let got = Transform::from_spec(&TransformSpec::ClassificationEval, size).unwrap();
        let got = got.apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
        let ((w, h), window) = evaluation_window(width, height, size as u32);
        let resized = crate::resize(&image, w, h).unwrap();
        let cut = image::imageops::crop_imm(&resized, window.left, window.top, window.width, window.height);
        let mut want = vec![0.0; got.len()];
        Normalisation::IMAGENET.normalise_into(&cut.to_image(), &mut want);
        assert_eq!(got, want, "{width}x{height} to {size}");
    }
}

#[test]
fn training_crops_then_mirrors_then_augments_then_erases() {
    let image = waves(120, 90);
    let plain = Transform::from_spec(&classification(None, 0.0, 0.0), 48).unwrap();
    let text = "rand-m9-mstd0.5-inc1";
    let augmented = Transform::from_spec(&classification(Some(text), 0.0, 0.5), 48).unwrap();
    let (mut changed, mut erased) = (0, 0);
    for seed in 0..60 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut want = plain.apply(image.clone(), &mut rng).unwrap();
        let unchanged = want.clone();
        // The generator is where the plain transform has left it.
        let mut pixels = Normalisation::IMAGENET.denormalise(&want, [48, 48]).unwrap();
        text.parse::<crate::augment::Policy>()
            .unwrap()
            .augment(&mut pixels, &mut rng);
        Normalisation::IMAGENET.normalise_into(&pixels, &mut want);
        changed += usize::from(want != unchanged);
        let unerased = want.clone();
        Erasing::new(0.5, ErasingMode::Pixel, 1)
            .unwrap()
            .erase(&mut want, 48, &mut rng);
        erased += usize::from(want != unerased);
        let got = augmented
            .apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(seed))
            .unwrap();
        assert_eq!(got, want, "{seed}");
    }
    assert!(
        (30..60).contains(&changed) && (15..45).contains(&erased),
        "{changed} {erased}"
    );
}

/// Returns a transform whose proportional results have sides that are multiples of `multiple`.
fn with_multiple(spec: &TransformSpec, size: usize, multiple: usize) -> Transform {
    let format = ImageFormat {
        multiple,
        ..spec.published_format(size)
    };
    Transform::with_format(spec, &format).unwrap()
}

/// The values are those that transformers computes from the decoded images.
#[test]
fn proportional_results_equal_those_of_hugging_face() {
    for directory in vlct_golden::vilt_directories("") {
        let sizes = vlct_golden::json(directory.join("sizes.json"));
        let number = |key: &str| sizes["vilt"][key].as_u64().expect("a number") as usize;
        let format = ImageFormat {
            multiple: number("size_divisor"),
            ..TransformSpec::Named(TransformKind::Pixelbert).published_format(number("shortest_edge"))
        };
        let transform = Transform::with_format(&TransformKind::Pixelbert.into(), &format).unwrap();
        let want = vlct_golden::Tensors::open(directory.join("inputs.safetensors"));
        let mut levels = 0;
        for name in ["square.jpg", "wide.png", "tall.png", "small.png", "panorama.png"] {
            let file = if name == "square.jpg" {
                "square.jpg.decoded.png"
            } else {
                name
            };
            let image = crate::decode(&std::fs::read(directory.join("images").join(file)).unwrap()).unwrap();
            let output = transform.output_size(image.width(), image.height()).unwrap();
            let tensor = format!("image.{name}.pixel_values");
            assert_eq!(want.shape(&tensor), [3, output[0], output[1]]);
            let values = transform.apply(image, &mut ChaCha8Rng::seed_from_u64(0)).unwrap();
            let largest = values
                .iter()
                .zip(want.f32(&tensor))
                .map(|(got, want)| (got - want).abs())
                .fold(0.0, f32::max);
            assert!(largest <= 1e-6, "{name}: {largest}");
            levels += values.len();
        }
        assert!(levels > 0);
    }
}

#[test]
fn images_of_extreme_sizes_are_transformed_or_rejected() {
    for spec in specs() {
        let transform = with_multiple(&spec, 16, 8);
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        for (width, height) in [(1, 1), (65_000, 1), (1, 65_000)] {
            let result = transform.apply(RgbImage::new(width, height), &mut rng);
            if spec.keeps_proportions() && width != height {
                let error = result.unwrap_err().to_string();
                assert!(error.contains("too long and narrow"), "{error}");
            } else {
                assert!(result.unwrap().iter().all(|v| v.is_finite()), "{spec:?}");
            }
        }
        for (width, height) in [(0, 0), (0, 5), (5, 0)] {
            assert!(
                transform.apply(RgbImage::new(width, height), &mut rng).is_err(),
                "{spec:?}"
            );
        }
    }
}

#[test]
fn rejects_sizes_out_of_range() {
    assert!(Transform::new(TransformKind::Mae, 0).is_err());
    assert!(Transform::new(TransformKind::Mae, usize::MAX).is_err());
    let transform = Transform::new(TransformKind::MaeTest, 4).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    assert!(transform.apply(RgbImage::new(0, 0), &mut rng).is_err());
    let file = crate::encode_png(&RgbImage::new(3, 3)).unwrap();
    assert!(
        transform
            .load(&file, Reading::default(), &mut rng, |_| vec![0.0; 47])
            .is_err()
    );
    assert!(
        transform
            .load(&file, Reading::default(), &mut rng, |_| vec![0.0; 48])
            .is_ok()
    );
}

#[test]
fn mae_crops_cover_the_area_range_and_half_are_mirrored() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (width, height) = (200, 160);
    let crops: Vec<CropBox> = (0..2000)
        .map(|_| random_resized_crop(width, height, 0.8, &mut rng))
        .collect();
    let areas: Vec<f64> = crops
        .iter()
        .map(|c| f64::from(c.width * c.height) / f64::from(width * height))
        .collect();
    let mean = areas.iter().sum::<f64>() / areas.len() as f64;
    // Large boxes with an extreme aspect ratio do not fit, so the mean area is a little below 0.9.
    assert!((0.86..0.92).contains(&mean), "{mean}");
    assert!(areas.iter().all(|a| (0.79..=1.0).contains(a)));
    assert!(
        crops.iter().any(|c| c.left > 0 && c.left + c.width == width),
        "right edge is reachable"
    );
    assert!(crops.iter().any(|c| c.top == 0) && crops.iter().any(|c| c.top + c.height == height));

    // An image that is dark on the left shows which results were mirrored.
    let half = RgbImage::from_fn(64, 64, |x, _| image::Rgb([if x < 32 { 0 } else { 255 }; 3]));
    let transform = Transform::new(TransformKind::Mae, 8).unwrap();
    let mirrored = (0..200)
        .filter(|&i| {
            let values = transform
                .apply(half.clone(), &mut ChaCha8Rng::seed_from_u64(i))
                .unwrap();
            values[0] > values[7]
        })
        .count();
    assert!((70..130).contains(&mirrored), "{mirrored} of 200");
}

proptest! {
    #[test]
    fn every_transform_is_finite_and_deterministic(
        width in 1u32..40, height in 1u32..40, size in 1usize..20, seed in 0u64..1000
    ) {
        let image = RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 9) as u8, (y * 7) as u8, (x ^ y) as u8]));
        for spec in specs() {
            let transform = with_multiple(&spec, size, 1);
            let output = transform.output_size(width, height);
            if output.is_err() {
                prop_assert!(spec.keeps_proportions() && (width > height * size as u32 || height > width * size as u32));
                continue;
            }
            let once = transform.apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
            let again = transform.apply(image.clone(), &mut ChaCha8Rng::seed_from_u64(seed)).unwrap();
            prop_assert_eq!(&once, &again);
            prop_assert!(once.iter().all(|v| v.abs() < 6.0));
        }
    }
}
