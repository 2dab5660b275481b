//! Durations for messages.

/// Formats a time in seconds with its natural unit, from milliseconds to days.
pub fn duration_text(seconds: f64) -> String {
    match seconds {
        ..1.0 => format!("{:.0} ms", 1e3 * seconds),
        ..10.0 => format!("{seconds:.1} seconds"),
        ..90.0 => format!("{seconds:.0} seconds"),
        ..5400.0 => format!("{:.0} minutes", seconds / 60.0),
        ..172_800.0 => format!("{:.1} hours", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_readable_units() {
        let texts = [0.021, 5.2, 42.3, 200.0, 26.0 * 3600.0, 60.0 * 86_400.0].map(duration_text);
        assert_eq!(
            texts,
            [
                "21 ms",
                "5.2 seconds",
                "42 seconds",
                "3 minutes",
                "26.0 hours",
                "60 days"
            ]
        );
    }
}
