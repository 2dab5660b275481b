//! Parses Rust source files: finds comments, literals and tests.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository")
}

/// Returns the names of the directories in `crates`, sorted.
pub fn crates() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    names
}

/// Returns the files with this extension below `directory`, relative to `directory`, sorted. Leaves out build directories, and
/// hidden directories other than `.ci` and `.github`.
pub fn files(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_path_buf()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_skipped = name == "target" || name.starts_with('.') && ![".ci", ".github"].contains(&name.as_str());
            if path.is_dir() && !is_skipped {
                pending.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path.strip_prefix(directory).expect("below").to_path_buf());
            }
        }
    }
    found.sort();
    found
}

/// Returns whether a source file contains only tests, judged by its path.
pub fn is_test_file(path: &Path) -> bool {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    path.components().any(|part| part.as_os_str() == "tests")
        || ["tests", "testing", "parity"].contains(&name.as_ref())
        || name.ends_with("_tests")
}

/// A parsed source file.
pub struct Source {
    /// The code, with spaces instead of comments, literals and items under `#[cfg(test)]`. Line numbers are those of the file.
    pub code: String,
    /// String literals outside tests: line number, from 1, and content as written.
    pub literals: Vec<(usize, String)>,
}

pub fn parse(text: &str) -> Source {
    let (code, literals) = blank_comments_and_literals(text);
    let (code, tests) = blank_tests(code);
    let literals = literals
        .into_iter()
        .filter(|(offset, _)| !tests.iter().any(|test| test.contains(offset)));
    let line = |offset: usize| text[..offset].matches('\n').count() + 1;
    Source {
        literals: literals.map(|(offset, literal)| (line(offset), literal)).collect(),
        code,
    }
}

/// Replaces comments and literals by spaces of the same length. Returns the resulting code, and the string literals with the byte
/// offsets at which they begin.
fn blank_comments_and_literals(text: &str) -> (String, Vec<(usize, String)>) {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut literals = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        let end = if rest.starts_with(b"//") {
            offset + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            offset + text[offset..].find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw_string_hashes(bytes, offset) {
            let close = format!("\"{}", "#".repeat(hashes));
            let start = offset + hashes + 2;
            let end = start + text[start..].find(&close).expect("a raw string ends");
            literals.push((offset, text[start..end].to_string()));
            end + close.len()
        } else if rest[0] == b'"' {
            let mut end = offset + 1;
            while bytes[end] != b'"' {
                end += if bytes[end] == b'\\' { 2 } else { 1 };
            }
            literals.push((offset, text[offset + 1..end].to_string()));
            end + 1
        } else if let Some(length) = char_literal_length(&text[offset..]) {
            offset + length
        } else {
            offset += 1;
            continue;
        };
        for byte in &mut code[offset..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        offset = end;
    }
    (String::from_utf8_lossy(&code).into_owned(), literals)
}

/// Returns the number of `#` of the raw string that begins at byte `offset`, or `None` if there is no raw string.
fn raw_string_hashes(bytes: &[u8], offset: usize) -> Option<usize> {
    if bytes[offset] != b'r'
        || offset > 0
            && (bytes[offset - 1].is_ascii_alphanumeric() && bytes[offset - 1] != b'b' || bytes[offset - 1] == b'_')
    {
        return None;
    }
    let hashes = bytes[offset + 1..].iter().take_while(|b| **b == b'#').count();
    (bytes.get(offset + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

/// Returns the length in bytes of the character literal at the start of `text`, or `None` if there is none. A lifetime is not a
/// literal: it has no second quote.
fn char_literal_length(text: &str) -> Option<usize> {
    let inner = text.strip_prefix('\'')?;
    if inner.starts_with('\\') {
        return Some(2 + inner[2..].find('\'')? + 2);
    }
    let first = inner.chars().next()?;
    inner[first.len_utf8()..]
        .starts_with('\'')
        .then_some(first.len_utf8() + 2)
}

/// Replaces items under `#[cfg(test)]`, up to their closing brace or semicolon, by spaces. Returns the resulting code, and the
/// byte ranges of these items.
fn blank_tests(code: String) -> (String, Vec<std::ops::Range<usize>>) {
    const MARK: &str = "#[cfg(test)]";
    let mut tests: Vec<std::ops::Range<usize>> = Vec::new();
    while let Some(start) = code[tests.last().map_or(0, |t| t.end)..].find(MARK) {
        let start = start + tests.last().map_or(0, |t| t.end);
        let mut depth = 0;
        let length = code[start + MARK.len()..].find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && (c == '}' || c == ';')
        });
        tests.push(start..length.map_or(code.len(), |length| start + MARK.len() + length + 1));
    }
    let mut bytes = code.into_bytes();
    for test in &tests {
        for byte in &mut bytes[test.clone()] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    (String::from_utf8(bytes).expect("blanks are ASCII"), tests)
}

#[test]
fn parses_code_and_literals() {
    let text = "fn f<'a>(x: &'a str) -> char {\n    // \"no\"\n    g(\"a \\\" b\", r#\"c\"d\"#);\n    '\\''\n}\n#[cfg(test)]\nmod tests {\n    const T: &str = \"t\";\n}\nuse x;\n";
    let source = parse(text);
    assert_eq!(source.literals, [(3, "a \\\" b".to_string()), (3, "c\"d".to_string())]);
    assert!(source.code.contains("fn f<'a>(x: &'a str)") && source.code.contains("use x;"));
    assert!(!source.code.contains("mod tests") && !source.code.contains("no"));
    assert_eq!(source.code.lines().count(), text.lines().count());
}
