//! Names of custom datasets.

/// Whether `name` can be the name of a custom dataset: ASCII letters and digits, `-` and `_`, at most 100 characters, a letter
/// or digit first.
pub fn is_custom_name(name: &str) -> bool {
    name.len() <= 100
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
