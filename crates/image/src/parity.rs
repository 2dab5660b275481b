//! Comparison with recorded results of Pillow (`tests/golden/images`, `tests/golden/augment`).

use std::path::Path;

use image::RgbImage;
use serde_json::Value;

use super::augment::OPERATIONS;
use super::{CropBox, Transform, TransformKind, decode, resize, resized_crop};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

fn read(path: &Path) -> RgbImage {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns the mean absolute difference in levels, and the fraction of values that differ by at most two levels.
fn compare(case_name: &str, got: &RgbImage, want: &RgbImage) -> (f64, f64) {
    assert_eq!(got.dimensions(), want.dimensions(), "{case_name}");
    let differences = got.iter().zip(want.iter()).map(|(a, b)| a.abs_diff(*b));
    let sum: u64 = differences.clone().map(u64::from).sum();
    let close = differences.filter(|&d| d <= 2).count();
    (sum as f64 / got.len() as f64, close as f64 / got.len() as f64)
}

fn assert_equal(case_name: &str, got: &RgbImage, want: &RgbImage) {
    let (mean, close) = compare(case_name, got, want);
    assert!(
        got == want,
        "{case_name}: mean difference {mean}, within two levels {close}"
    );
}

#[test]
fn decoding_equals_pillow() {
    let mut compared = 0;
    for directory in vlct_golden::directories("images") {
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_string();
            let decoded = directory.join(format!("{name}.decoded.png"));
            if !decoded.exists() {
                continue;
            }
            compared += 1;
            let (got, want) = (read(&path), read(&decoded));
            let (mean, _) = compare(&name, &got, &want);
            // Pillow converts Lab with tables of LittleCMS.
            let lossy = name.ends_with(".jpg") || name.starts_with("lossy") || name == "lab.tif";
            let allowed = if lossy { 1.0 } else { 0.0 };
            assert!(mean <= allowed, "{name}: mean difference {mean}");
        }
    }
    assert!(compared > 0);
}

#[test]
fn operations_equal_pillow() {
    for directory in vlct_golden::directories("augment") {
        let images = directory.with_file_name("images");
        let cases = vlct_golden::json(directory.join("cases.json"));
        let cases = cases.as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let text = |key: &str| case[key].as_str().unwrap();
            check_case(
                case,
                &read(&images.join(text("input"))),
                &directory.join(text("output")),
            );
        }
    }
}

fn check_case(case: &Value, input: &RgbImage, output: &Path) {
    let number = |key: &str| u32::try_from(case[key].as_u64().unwrap()).unwrap();
    let name = case["op"].as_str().unwrap();
    let case_name = output.display().to_string();
    match name {
        "resize_bicubic" => {
            let size = number("size");
            assert_equal(&case_name, &resize(input, size, size).unwrap(), &read(output));
        }
        "resized_crop_bicubic" => {
            let crop = CropBox {
                left: number("left"),
                top: number("top"),
                width: number("width"),
                height: number("height"),
            };
            let got = resized_crop(input, crop, number("size"), case["flip"].as_bool().unwrap()).unwrap();
            assert_equal(&case_name, &got, &read(output));
        }
        "mae_test" => {
            let transform = Transform::new(TransformKind::MaeTest, number("size") as usize).unwrap();
            let got = transform
                .apply(input.clone(), &mut ChaCha8Rng::seed_from_u64(0))
                .unwrap();
            let file = vlct_golden::Tensors::open(output);
            let want = file.f32(&file.names()[0]);
            assert_eq!(got.len(), want.len(), "{case_name}");
            // The distance of neighbouring levels of red after normalisation. It is larger for green and blue.
            let level = 1.0 / 255.0 / 0.229;
            let differences: Vec<f32> = got.iter().zip(&want).map(|(a, b)| (a - b).abs() / level).collect();
            let mean = differences.iter().sum::<f32>() / differences.len() as f32;
            let close = differences.iter().filter(|&&d| d <= 2.1).count() as f64 / differences.len() as f64;
            assert!(
                mean <= 0.5 && close >= 0.999,
                "{case_name}: mean difference {mean} levels, close {close}"
            );
        }
        _ => {
            let operation = OPERATIONS
                .iter()
                .find(|o| o.name == name)
                .unwrap_or_else(|| panic!("operation {name}"));
            let value = case["value"].as_f64().unwrap();
            let computed = operation.value(case["magnitude"].as_f64().unwrap());
            assert!((computed - value).abs() < 1e-9, "{name}: {computed} against {value}");
            let mut got = input.clone();
            let negated = case["negated"].as_bool().unwrap();
            (operation.apply)(&mut got, if negated { -value } else { value });
            assert_equal(&case_name, &got, &read(output));
        }
    }
}
