//! Values of the flags of `vlct imagenet`.

use vlct_tasks::mixup::MixupMode;

/// Largest number of threads that prepare images.
const MAX_WORKERS: usize = 1024;

pub(super) fn parse_workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(threads) if threads <= MAX_WORKERS => Ok(threads),
        _ => Err(format!("it must be a number of threads from 0 to {MAX_WORKERS}")),
    }
}

fn parse_number(text: &str, is_valid: impl Fn(f64) -> bool, range: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if is_valid(value) => Ok(value),
        _ => Err(format!("it must be {range}")),
    }
}

pub(super) fn parse_probability(text: &str) -> Result<f64, String> {
    parse_number(text, |value| (0.0..=1.0).contains(&value), "a number from 0 to 1")
}

pub(super) fn parse_positive(text: &str) -> Result<f64, String> {
    parse_number(
        text,
        |value| value > 0.0 && value.is_finite(),
        "a number greater than 0",
    )
}

pub(super) fn parse_not_negative(text: &str) -> Result<f64, String> {
    parse_number(
        text,
        |value| value >= 0.0 && value.is_finite(),
        "a number that is not negative",
    )
}

pub(super) fn parse_neighbours(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(k) if k > 0 => Ok(k),
        _ => Err("it must be a number of neighbours, or several such as 10,20".into()),
    }
}

pub(super) fn parse_mixup_mode(text: &str) -> Result<MixupMode, String> {
    match text {
        "batch" => Ok(MixupMode::Batch),
        "pair" => Ok(MixupMode::Pair),
        "elem" => Ok(MixupMode::Elem),
        _ => Err("it must be batch, pair or elem".into()),
    }
}
