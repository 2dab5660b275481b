//! Escaping of text and formatting of values for HTML.

/// Appends formatted text to a `String`. This cannot fail.
macro_rules! add {
    ($to:expr, $($text:tt)*) => {{
        use std::fmt::Write as _;
        write!($to, $($text)*).expect("writing to a string")
    }};
}
pub(super) use add;

/// Escapes `text` for use between tags and in quoted attributes. Control characters other than line feed
/// and tab become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Formats a fraction as a percentage with one decimal and a no-break space before the percent sign.
pub(super) fn percent(fraction: f64) -> String {
    if fraction.is_finite() {
        format!("{:.1}\u{a0}%", fraction * 100.0)
    } else {
        "not known".into()
    }
}

/// Formats a value by its magnitude: with three decimals below 1000, as an integer from 1000 on, and in scientific notation
/// below 0.001 or from a million on.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        _ if !value.is_finite() => "not known".into(),
        0.0 => "0".into(),
        magnitude if !(1e-3..1e6).contains(&magnitude) => format!("{value:.2e}"),
        magnitude if magnitude >= 1000.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    }
}

/// Formats a duration given in seconds: `1.2 s`, `42 s`, `9 min 1 s`, `2 h 3 min`.
pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        _ if !seconds.is_finite() => "not known".into(),
        ..10.0 => format!("{seconds:.1}\u{a0}s"),
        ..60.0 => format!("{seconds:.0}\u{a0}s"),
        _ => {
            let total = seconds.round() as u64;
            match total {
                ..3600 => format!("{} min {} s", total / 60, total % 60),
                _ => format!("{} h {} min", total / 3600, total / 60 % 60),
            }
        }
    }
}

/// Joins the HTML of WordPiece tokens with spaces; a token that begins with `##` continues the word before it. `to_html` returns
/// the HTML of a token, given its index and its text without `##`.
pub(super) fn join_tokens<'t>(
    tokens: impl Iterator<Item = &'t str>,
    mut to_html: impl FnMut(usize, &str) -> String,
) -> String {
    let mut html = String::new();
    for (index, token) in tokens.enumerate() {
        let (continues, text) = match token.strip_prefix("##") {
            Some(rest) if !rest.is_empty() => (true, rest),
            _ => (false, token),
        };
        if index > 0 && !continues {
            html.push(' ');
        }
        html.push_str(&to_html(index, text));
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_markup_and_control_characters() {
        assert_eq!(
            escape("<a href=\"x\" id='y'>&amp;\n\u{0}\u{85}ß"),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;amp;\n\u{fffd}\u{fffd}ß"
        );
    }

    #[test]
    fn formats_values_and_durations() {
        let texts = [0.0, 0.23741, 12.5, 31250.4, 2e7, -4e-5, f64::NAN].map(number);
        assert_eq!(
            texts,
            ["0", "0.237", "12.500", "31250", "2.00e7", "-4.00e-5", "not known"]
        );
        assert_eq!([0.1234, f64::INFINITY].map(percent), ["12.3\u{a0}%", "not known"]);
        let texts = [1.25, 42.4, 541.0, 7384.0, f64::NAN].map(duration);
        assert_eq!(
            texts,
            ["1.2\u{a0}s", "42\u{a0}s", "9 min 1 s", "2 h 3 min", "not known"]
        );
    }

    #[test]
    fn joins_wordpiece_tokens() {
        let html = join_tokens(["tri", "##angle", "##", "<"].into_iter(), |index, text| {
            format!("{index}{}", escape(text))
        });
        assert_eq!(html, "0tri1angle 2## 3&lt;");
    }
}
