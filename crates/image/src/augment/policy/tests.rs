use super::*;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::HashMap;

use PolicyOperation::*;

fn policy(text: &str) -> Policy {
    text.parse().unwrap()
}

fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed)
}

fn test_image(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([
            ((x * 53) ^ (y * 7)) as u8,
            (x * y) as u8,
            if (x + y) % 3 == 0 { 255 } else { 0 },
        ])
    })
}

/// For each operation, over two images, nine levels and both signs: the checksum of the results of timm 0.3.2 with Pillow 13 (where
/// Pillow 13 rejects posterize with no bits, a black image, as Pillow 8 gives it), and the sum of the values, where negative signs count
/// twice.
const RECORDED: [(PolicyOperation, u32, f64); 22] = [
    (AutoContrast, 0x64c80ca7, 0.0),
    (Equalize, 0x65c133d6, 0.0),
    (Invert, 0xdd862ee6, 0.0),
    (Rotate, 0x9f5ee2cf, -292.79999999999995),
    (Posterize, 0xaca1f315, 102.0),
    (PosterizeIncreasing, 0x65b154e5, 114.0),
    (PosterizeOriginal, 0x5ec429bc, 318.0),
    (Solarize, 0xc056b244, 7482.0),
    (SolarizeIncreasing, 0x07455caa, 6342.0),
    (SolarizeAdd, 0x139c382e, 3210.0),
    (Color, 0xd2a0f539, 58.104000000000006),
    (ColorIncreasing, 0xcc9bdf8e, 45.21600000000001),
    (Contrast, 0x932f7bd0, 58.104000000000006),
    (ContrastIncreasing, 0x5adb09f3, 45.21600000000001),
    (Brightness, 0xf89e5860, 58.104000000000006),
    (BrightnessIncreasing, 0x63e730ba, 45.21600000000001),
    (Sharpness, 0x2b4ba93d, 58.104000000000006),
    (SharpnessIncreasing, 0x32ee4b80, 45.21600000000001),
    (ShearX, 0xc87833d3, -2.928000000000001),
    (ShearY, 0xfe074b9c, -2.928000000000001),
    (TranslateXRel, 0xb9e42c7f, -4.392),
    (TranslateYRel, 0xd44b5e47, -4.392),
];

#[test]
fn values_and_results_equal_timm() {
    for (operation, checksum, sum) in RECORDED {
        let (mut hash, mut values) = (crc32fast::Hasher::new(), 0.0);
        for (width, height) in [(61, 47), (40, 40)] {
            let image = test_image(width, height);
            for level in [0.0, 1.3, 2.5, 4.0, 5.1, 7.5, 9.0, 9.4, 10.0] {
                for negative in [false, true] {
                    let value = operation.value(level, negative);
                    values += if negative { 2.0 * value } else { value };
                    let mut changed = image.clone();
                    operation.apply(&mut changed, value);
                    hash.update(&changed);
                }
            }
        }
        assert!((values - sum).abs() < 1e-9, "{operation:?}: values {values}, not {sum}");
        assert_eq!(hash.finalize(), checksum, "{operation:?}");
    }
}

#[test]
fn parses_every_part() {
    let default = policy("rand");
    assert_eq!(
        (default.count(), default.deviation(), default.weights()),
        (2, 0.0, None)
    );
    assert!(default.groups().iter().all(|group| {
        matches!(
            group[..],
            [Step {
                probability: 0.5,
                level: 10.0,
                ..
            }]
        )
    }));
    let recipe = policy("rand-m9-mstd0.5-inc1");
    assert_eq!(recipe, policy("rand-m9-mstd0.5-inc1"));
    assert!(recipe.groups().iter().all(|group| group[0].level == 9.0));
    let operations = |policy: &Policy| {
        policy
            .groups()
            .iter()
            .map(|group| group[0].operation)
            .collect::<Vec<_>>()
    };
    assert_eq!(operations(&recipe), operations::RAND_INCREASING);
    assert_eq!(operations(&default), operations::RAND);
    assert_eq!(operations(&policy("rand-inc0")), operations::RAND_INCREASING);
    let other = policy("rand-n3-w0-mstd1-m30");
    assert_eq!((other.count(), other.deviation()), (3, 1.0));
    assert_eq!(other.groups()[0][0].level, MAX_LEVEL);
    assert!((other.weights().unwrap().iter().sum::<f64>() - 1.0).abs() < 1e-12);
    for (text, posterize) in [
        ("original", PosterizeOriginal),
        ("originalr", PosterizeIncreasing),
        ("v0", Posterize),
        ("v0r-mstd0.5", PosterizeIncreasing),
    ] {
        let policy = policy(text);
        assert_eq!((policy.groups().len(), policy.count()), (25, 1));
        assert!(policy.groups().iter().all(|group| group.len() == 2));
        assert!(policy.groups().iter().flatten().any(|step| step.operation == posterize));
    }
}

#[test]
fn errors_are_one_line_that_names_the_part() {
    for (text, part) in [
        ("", "use rand"),
        ("random-m9", "use rand"),
        ("Rand", "use rand"),
        ("augmix-m5-w4-d2", "augmix is not supported"),
        ("rand-", "unknown part \"\""),
        ("rand-m", "whole number after \"m\""),
        ("rand-m9.5", "whole number after \"m\""),
        ("rand-m99999999999", "whole number"),
        ("rand-mstd", "number after \"mstd\""),
        ("rand-mstd1.x", "number after \"mstd\""),
        ("rand-mst0.5", "unknown part \"mst0.5\""),
        ("rand-p0.5", "unknown part \"p0.5\""),
        ("rand-inc", "after \"inc\""),
        ("rand-n101", "at most 100"),
        ("rand-w1", "only set"),
        ("rand-w0-n14", "at most 13"),
        ("rand-m9-m8", "twice"),
        ("rand-mstd1e400", "number"),
        ("v0-m9", "unknown part \"m9\", known here are mstd"),
        ("rand-é9", "unknown part"),
    ] {
        let message = text.parse::<Policy>().unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{text}: {message}");
    }
}

#[test]
fn serialised_policies_are_texts() {
    for text in ["rand-m9-mstd0.5-inc1", "original", "v0r-mstd0.5"] {
        let json = serde_json::to_string(&policy(text)).unwrap();
        assert_eq!(json, format!("{text:?}"));
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy(text));
    }
    assert!(serde_json::from_str::<Policy>("\"rand-x1\"").is_err());
}

#[test]
fn operations_are_uniform_and_half_of_them_are_applied() {
    let policy = policy("rand-m9-mstd0.5-inc1");
    let mut rng = rng(0);
    let (mut per_image, mut per_operation) = ([0; 3], HashMap::<_, (u32, u32)>::new());
    const IMAGES: u32 = 15_000;
    for _ in 0..IMAGES {
        let drawn = policy.draw(&mut rng);
        per_image[drawn.len()] += 1;
        for Drawn { operation, value } in drawn {
            let (count, negative) = per_operation.entry(operation).or_default();
            *count += 1;
            let neutral = operation.value(0.0, false);
            *negative += u32::from(operation.is_signed() && value < neutral);
        }
    }
    // Binomial with two draws of probability 1/2.
    for (count, want) in per_image.into_iter().zip([0.25, 0.5, 0.25]) {
        assert!(
            (f64::from(count) / f64::from(IMAGES) - want).abs() < 0.02,
            "{per_image:?}"
        );
    }
    for group in policy.groups() {
        let operation = group[0].operation;
        // Expected: 1000, with a standard deviation of about 31.
        let (count, negative) = per_operation[&operation];
        assert!((870..1130).contains(&count), "{operation:?}: {count}");
        let part = f64::from(negative) / f64::from(count);
        assert!(
            !operation.is_signed() || (part - 0.5).abs() < 0.07,
            "{operation:?}: {part}"
        );
    }
}

#[test]
fn levels_are_normal_and_clipped() {
    let policy = policy("rand-m9-mstd0.5-inc1");
    let mut rng = rng(1);
    let levels: Vec<f64> = (0..20_000)
        .flat_map(|_| policy.draw(&mut rng))
        .filter(|drawn| drawn.operation == Rotate)
        .map(|drawn| drawn.value.abs() / 3.0)
        .collect();
    let part = |f: &dyn Fn(f64) -> bool| levels.iter().filter(|level| f(**level)).count() as f64 / levels.len() as f64;
    assert!(levels.len() > 1100);
    assert!(levels.iter().all(|level| *level <= MAX_LEVEL + 1e-9));
    assert!((part(&|level| level < 9.0) - 0.5).abs() < 0.05);
    // Within one standard deviation: 0.683; two standard deviations above: 0.0228, clipped to 10.
    assert!((part(&|level| (level - 9.0).abs() < 0.5) - 0.683).abs() < 0.05);
    let clipped = part(&|level| level > MAX_LEVEL - 1e-9);
    assert!((0.008..0.042).contains(&clipped), "{clipped}");
    let fixed = "rand-m4".parse::<Policy>().unwrap();
    let is_exact = |drawn: Drawn| drawn.operation != ShearX || (drawn.value.abs() - 0.12).abs() < 1e-12;
    assert!((0..500).flat_map(|_| fixed.draw(&mut rng)).all(is_exact));
}

#[test]
fn weighted_operations_are_drawn_without_replacement() {
    let policy = policy("rand-n2-w0");
    let mut rng = rng(2);
    let mut first = [0; 15];
    for _ in 0..4000 {
        let groups = policy.draw_groups(&mut rng);
        assert!(groups.len() == 2 && groups[0] != groups[1]);
        first[groups[0]] += 1;
    }
    for (count, weight) in first.into_iter().zip(operations::WEIGHTS) {
        assert!((f64::from(count) / 4000.0 - weight).abs() < 0.03, "{first:?}");
        assert!(weight > 0.0 || count == 0);
    }
    let mut all = "rand-n13-w0".parse::<Policy>().unwrap().draw_groups(&mut rng);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 13);
}

#[test]
fn pairs_are_uniform_and_their_operations_have_their_probabilities() {
    let policy = policy("original");
    let mut rng = rng(3);
    let mut counts = HashMap::<PolicyOperation, f64>::new();
    const IMAGES: usize = 20_000;
    for drawn in (0..IMAGES).flat_map(|_| policy.draw(&mut rng)) {
        *counts.entry(drawn.operation).or_default() += 1.0;
    }
    let mut wanted = HashMap::<PolicyOperation, f64>::new();
    for step in policy.groups().iter().flatten() {
        *wanted.entry(step.operation).or_default() += step.probability / 25.0 * IMAGES as f64;
    }
    for (operation, want) in wanted {
        let count = counts.get(&operation).copied().unwrap_or_default();
        assert!(
            (count - want).abs() < 5.0 * want.sqrt(),
            "{operation:?}: {count}, not {want}"
        );
    }
}

proptest! {
    #[test]
    fn every_text_gives_a_policy_or_an_error(text in "(rand|v0|original|augmix)?(-(m|n|mstd|inc|w|p)?[0-9.]{0,4}){0,4}") {
        match text.parse::<Policy>() {
            Ok(policy) => prop_assert_eq!(policy.to_string(), text),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }

    #[test]
    fn every_operation_keeps_the_size_and_equal_generators_give_equal_images(
        width in 1u32..12, height in 1u32..12, level in 0.0..=MAX_LEVEL, negative: bool, seed: u64,
    ) {
        let image = test_image(width, height);
        for (operation, _, _) in RECORDED {
            let mut changed = image.clone();
            operation.apply(&mut changed, operation.value(level, negative));
            prop_assert_eq!(changed.dimensions(), (width, height));
        }
        for text in ["rand-m9-n5-mstd0.5-inc1", "rand-w0", "v0-mstd1"] {
            let run = || {
                let mut changed = image.clone();
                policy(text).augment(&mut changed, &mut rng(seed));
                changed
            };
            prop_assert_eq!(run(), run());
        }
    }
}
