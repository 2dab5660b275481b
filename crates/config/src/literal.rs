//! A parser of Python literals, for the value in `KEY=VALUE`.
//!
//! It accepts the literals of Python's `ast.literal_eval`, except bytes, sets, complex numbers and comments. On the command
//! line, any other value is plain text (`/data/x`, `null`, `true`).

use crate::value::Value;

/// Maximum nesting depth of lists and dictionaries. Deeper input is not a literal.
const MAX_DEPTH: usize = 32;

/// Parses the value in `KEY=VALUE`. Text that is not a Python literal becomes a string.
pub fn parse_value(text: &str) -> Value {
    parse_python_literal(text).unwrap_or_else(|| Value::Str(text.to_string()))
}

/// Parses a Python literal. Returns `None` if `text` is not a literal. Values separated by commas without brackets (a tuple in
/// Python) become a list.
pub fn parse_python_literal(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text };
    let first = parser.value(0)?;
    let value = if parser.consume(',') {
        let mut items = vec![first];
        while !parser.is_at_end() {
            items.push(parser.value(0)?);
            if !parser.consume(',') {
                break;
            }
        }
        Value::List(items)
    } else {
        first
    };
    parser.is_at_end().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
    }

    fn is_at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty()
    }

    /// Skips blanks, then `c` if it is next. Returns whether `c` was next.
    fn consume(&mut self, c: char) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_blanks();
        match self.rest.chars().next()? {
            '[' => self.items('[', ']', depth).map(|(items, _)| Value::List(items)),
            '(' => {
                let (mut items, comma) = self.items('(', ')', depth)?;
                // `(x)` is `x`; `(x,)` and `()` are tuples.
                if items.len() == 1 && !comma {
                    items.pop()
                } else {
                    Some(Value::List(items))
                }
            }
            '{' => self.dict(depth),
            '\'' | '"' => self.strings(),
            '0'..='9' | '.' => self.number(false),
            sign @ ('+' | '-') => {
                self.consume(sign);
                self.skip_blanks();
                self.number(sign == '-')
            }
            c if c.is_ascii_alphabetic() => self.word(),
            _ => None,
        }
    }

    /// Parses the elements between `open` and `close`. Also returns whether a comma follows the last element.
    fn items(&mut self, open: char, close: char, depth: usize) -> Option<(Vec<Value>, bool)> {
        self.consume(open);
        let (mut items, mut comma) = (Vec::new(), true);
        while !self.consume(close) {
            if !comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            comma = self.consume(',');
        }
        Some((items, comma))
    }

    fn dict(&mut self, depth: usize) -> Option<Value> {
        self.consume('{');
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut comma = true;
        while !self.consume('}') {
            if !comma {
                return None;
            }
            let Value::Str(key) = self.value(depth + 1)? else {
                return None;
            };
            if !self.consume(':') {
                return None;
            }
            let value = self.value(depth + 1)?;
            match entries.iter_mut().find(|(k, _)| *k == key) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
            comma = self.consume(',');
        }
        Some(Value::Dict(entries))
    }

    fn word(&mut self) -> Option<Value> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        let value = match word {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::None,
            "r" | "R" | "u" | "U" if rest.starts_with(['\'', '"']) => return self.strings(),
            _ => return None,
        };
        self.rest = rest;
        Some(value)
    }

    /// Parses adjacent strings, which Python concatenates.
    fn strings(&mut self) -> Option<Value> {
        let mut text = String::new();
        loop {
            let raw = match self.rest.as_bytes() {
                [b'r' | b'R', b'\'' | b'"', ..] => {
                    self.rest = &self.rest[1..];
                    true
                }
                [b'u' | b'U', b'\'' | b'"', ..] => {
                    self.rest = &self.rest[1..];
                    false
                }
                [b'\'' | b'"', ..] => false,
                _ => return Some(Value::Str(text)),
            };
            self.string(raw, &mut text)?;
            self.skip_blanks();
        }
    }

    /// Parses one quoted string and appends its content to `text`.
    fn string(&mut self, raw: bool, text: &mut String) -> Option<()> {
        let quote = &self.rest[..1];
        let triple = quote.repeat(3);
        let close = if self.rest.starts_with(&triple) {
            triple.as_str()
        } else {
            quote
        };
        self.rest = &self.rest[close.len()..];
        loop {
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                return Some(());
            }
            let c = self.next_char()?;
            match c {
                '\n' if close.len() == 1 => return None,
                '\\' if raw => {
                    text.push('\\');
                    text.push(self.next_char()?);
                }
                '\\' => self.escape(text)?,
                c => text.push(c),
            }
        }
    }

    fn next_char(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next()?;
        self.rest = chars.as_str();
        Some(c)
    }

    /// Parses an escape sequence after its backslash and appends the result to `text`.
    fn escape(&mut self, text: &mut String) -> Option<()> {
        let c = self.next_char()?;
        let decoded = match c {
            '\n' => return Some(()),
            '\\' | '\'' | '"' => c,
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            'x' => self.hexadecimal(2)?,
            'u' => self.hexadecimal(4)?,
            'U' => self.hexadecimal(8)?,
            // `\N{NAME}` would need a table of Unicode names.
            'N' => return None,
            '0'..='7' => {
                let mut code = c as u32 - '0' as u32;
                for _ in 0..2 {
                    match self.rest.chars().next() {
                        Some(d @ '0'..='7') => {
                            code = code * 8 + (d as u32 - '0' as u32);
                            self.next_char();
                        }
                        _ => break,
                    }
                }
                char::from_u32(code)?
            }
            // Python keeps the backslash of an unknown escape.
            other => {
                text.push('\\');
                other
            }
        };
        text.push(decoded);
        Some(())
    }

    fn hexadecimal(&mut self, digits: usize) -> Option<char> {
        let code = self.rest.get(..digits)?;
        if !code.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = &self.rest[digits..];
        char::from_u32(u32::from_str_radix(code, 16).ok()?)
    }

    fn number(&mut self, negative: bool) -> Option<Value> {
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        while end < bytes.len() {
            let is_exponent_sign = matches!(bytes[end], b'+' | b'-')
                && matches!(bytes[..end], [.., b'e' | b'E'])
                && !bytes.starts_with(b"0x")
                && !bytes.starts_with(b"0X");
            if !(bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'_' | b'.') || is_exponent_sign) {
                break;
            }
            end += 1;
        }
        let (source, rest) = self.rest.split_at(end);
        let value = parse_number(source, negative)?;
        self.rest = rest;
        Some(value)
    }
}

/// Parses an unsigned Python number such as `12`, `1_000`, `0x1f`, `5e-4`, `.5`, `1.`, and negates it if `negative`. Returns `None` if
/// `source` is not a number.
fn parse_number(source: &str, negative: bool) -> Option<Value> {
    // An underscore must be between digits or after the base prefix.
    let bytes = source.as_bytes();
    let has_base_prefix = matches!(bytes, [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..]);
    for (i, _) in source.match_indices('_') {
        let follows_digit_or_prefix = i > 0 && (bytes[i - 1].is_ascii_hexdigit() || (has_base_prefix && i == 2));
        if !follows_digit_or_prefix || !bytes.get(i + 1).is_some_and(u8::is_ascii_hexdigit) {
            return None;
        }
    }
    let digits = source.replace('_', "");
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    if has_base_prefix {
        let radix = match bytes[1].to_ascii_lowercase() {
            b'x' => 16,
            b'o' => 8,
            _ => 2,
        };
        // Unlike Python, `from_str_radix` accepts a sign here.
        let digits = digits[2..]
            .strip_prefix(|c: char| c.is_ascii_hexdigit())
            .map(|_| &digits[2..])?;
        let signed = if negative {
            format!("-{digits}")
        } else {
            digits.to_string()
        };
        return i64::from_str_radix(&signed, radix).ok().map(Value::Int);
    }
    if digits.bytes().all(|b| b.is_ascii_digit()) {
        // Python rejects 007 and accepts 000.
        if digits.len() > 1 && digits.starts_with('0') && digits.bytes().any(|b| b != b'0') {
            return None;
        }
        let signed = if negative { format!("-{digits}") } else { digits };
        return signed.parse().ok().map(Value::Int);
    }
    // All other numbers have a decimal point or an exponent. `inf` and `nan` are not literals in Python.
    if !digits
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'))
    {
        return None;
    }
    let value: f64 = digits.parse().ok()?;
    Some(Value::Float(if negative { -value } else { value }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(s: &str) -> Value {
        Value::Str(s.into())
    }

    #[test]
    fn parses_numbers() {
        for (source, value) in [
            ("4096", Value::Int(4096)),
            ("1_000", Value::Int(1000)),
            ("-3", Value::Int(-3)),
            ("+ 3", Value::Int(3)),
            ("0x1F", Value::Int(31)),
            ("0b_101", Value::Int(5)),
            ("-0o17", Value::Int(-15)),
            ("00", Value::Int(0)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("5e-4", Value::Float(5e-4)),
            ("1e05", Value::Float(1e5)),
            ("1E+2", Value::Float(100.0)),
            (".5", Value::Float(0.5)),
            ("1.", Value::Float(1.0)),
            ("-0.25", Value::Float(-0.25)),
            ("007.5", Value::Float(7.5)),
        ] {
            assert_eq!(parse_python_literal(source), Some(value), "{source}");
        }
    }

    #[test]
    fn parses_constants_strings_and_collections() {
        for (source, value) in [
            ("True", Value::Bool(true)),
            ("False", Value::Bool(false)),
            (" None ", Value::None),
            ("'a\\'b'", text("a'b")),
            ("\"x\\n\\t\\\\\"", text("x\n\t\\")),
            ("'\\x41\\u00e9\\101\\q'", text("AéA\\q")),
            ("'one' \"two\"", text("onetwo")),
            ("r'a\\n'", text("a\\n")),
            ("'''a\nb'''", text("a\nb")),
            ("[]", Value::List(vec![])),
            ("[1, 'a',]", Value::List(vec![Value::Int(1), text("a")])),
            ("(1)", Value::Int(1)),
            ("(1,)", Value::List(vec![Value::Int(1)])),
            ("()", Value::List(vec![])),
            ("0,1", Value::List(vec![Value::Int(0), Value::Int(1)])),
            ("3,", Value::List(vec![Value::Int(3)])),
            (
                "{'itm': 1, \"mlm\": [0.5], 'itm': 2}",
                Value::Dict(vec![
                    ("itm".into(), Value::Int(2)),
                    ("mlm".into(), Value::List(vec![Value::Float(0.5)])),
                ]),
            ),
            ("{}", Value::Dict(vec![])),
        ] {
            assert_eq!(parse_python_literal(source), Some(value), "{source}");
        }
    }

    #[test]
    fn rejects_text_that_is_not_a_literal() {
        for source in [
            "",
            "true",
            "null",
            "/data/x",
            "a.ckpt",
            "007",
            "1__0",
            "_1",
            "1_",
            "1e",
            "inf",
            "nan",
            "--1",
            "1 2",
            "[1",
            "[1 2]",
            "[,]",
            "(,)",
            "{'a'}",
            "{1: 2}",
            "'a",
            "'a\nb'",
            "1.2.3",
            "0x",
            "0x-1",
            "99999999999999999999",
            "1+2j",
            "b'x'",
            "'\\N{DASH}'",
            "True1",
            "Truefalse",
            ",",
            "4M",
            "-",
            "- -1",
            "1e-",
            "e5",
            ".",
            "'\\ud800'",
        ] {
            assert_eq!(parse_python_literal(source), None, "{source}");
            assert_eq!(parse_value(source), text(source));
        }
        assert_eq!(parse_python_literal(&"[".repeat(100_000)), None);
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Int),
            any::<f64>()
                .prop_filter("not NaN", |f| !f.is_nan())
                .prop_map(Value::Float),
            any::<String>().prop_map(Value::Str),
        ];
        leaf.prop_recursive(4, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::List),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|m| Value::Dict(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn printed_values_parse_to_the_same_value(value in values()) {
            prop_assert_eq!(parse_python_literal(&value.to_string()), Some(value));
        }

        #[test]
        fn arbitrary_text_never_panics(source in any::<String>()) {
            parse_value(&source);
        }

        #[test]
        fn text_similar_to_a_literal_never_panics(source in "[-+_.eExXobrjuNTF0-9a-f'\"\\\\\\[\\](){},: \n]{0,24}") {
            parse_value(&source);
        }
    }
}
