//! The names of the classes of tars, whose samples have the numbers of classes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use vlct_data::{DataError, Result};
use vlct_util::read_at_most;
use vlct_util::text::quoted;

/// Files with the name of one class per line, in the order of the classes' numbers.
const FILES: [&str; 2] = ["classes.txt", "classnames.txt"];
/// ImageNet's file of classes, in the order of their numbers: each line has the id of a synset, and words. Directories of classes have
/// the names of synsets.
const SYNSETS: &str = "LOC_synset_mapping.txt";
/// Maximum size of a file of names in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// The names of classes from a file, in the order of their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NameFile {
    path: PathBuf,
    pub names: Vec<String>,
}

impl NameFile {
    /// Reads the first file of names that exists in one of the directories; `None` if there is none.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be read, [`DataError::Format`] if it is not UTF-8 or a line is empty.
    pub fn find(directories: &[PathBuf]) -> Result<Option<Self>> {
        let paths = directories
            .iter()
            .flat_map(|directory| FILES.iter().chain([&SYNSETS]).map(|file| directory.join(file)));
        let path = paths.into_iter().find(|path| path.is_file());
        path.map(|path| Self::read(&path)).transpose()
    }

    fn read(path: &Path) -> Result<Self> {
        let error = |reason: String| DataError::format(path, reason);
        let text = String::from_utf8(read_at_most(path, MAX_BYTES, "a list of classes")?)
            .map_err(|_| error("it is not UTF-8; convert it".into()))?;
        let is_synsets = path.ends_with(SYNSETS);
        let mut names: Vec<String> = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').trim_end().lines().enumerate() {
            let name = match is_synsets {
                true => line.split_whitespace().next().unwrap_or_default(),
                false => line.trim(),
            };
            if name.is_empty() {
                let line = index + 1;
                return Err(error(format!("line {line} is empty; each line must name a class")));
            }
            names.push(name.to_string());
        }
        if names.is_empty() {
            return Err(error("it is empty; it must have one class per line".into()));
        }
        number_repeated(&mut names);
        Ok(Self {
            path: path.to_path_buf(),
            names,
        })
    }

    /// Returns the name of the class with a number; `label` may also be the name itself.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if there is no such class.
    pub fn name_of(&self, label: &str) -> Result<&str> {
        let index = label.parse().ok().filter(|index: &usize| *index < self.names.len());
        let name = match index {
            Some(index) => self.names.get(index),
            None => self.names.iter().find(|name| *name == label),
        };
        let count = self.names.len();
        let no_name = || {
            let reason = format!(
                "it names {count} classes, numbered from 0, but a tar has the class {}; add its name",
                quoted(label)
            );
            DataError::format(&self.path, reason)
        };
        name.map(String::as_str).ok_or_else(no_name)
    }
}

/// Adds its number to each name that occurs before: two of ImageNet's classes are called `crane`.
fn number_repeated(names: &mut [String]) {
    let mut seen: HashSet<String> = names.iter().cloned().collect();
    if seen.len() == names.len() {
        return;
    }
    let mut earlier = HashSet::new();
    for (number, name) in names.iter_mut().enumerate() {
        if earlier.contains(name.as_str()) {
            let mut numbered = format!("{name} ({number})");
            while !seen.insert(numbered.clone()) {
                numbered.push('\'');
            }
            *name = numbered;
        }
        earlier.insert(name.clone());
    }
}

/// Sorts labels by number if all are integers, and else by their bytes.
pub(crate) fn sort(labels: &mut [String]) {
    let number = |label: &String| label.parse::<u64>().ok();
    match labels.iter().all(|label| number(label).is_some()) {
        true => labels.sort_by_key(number),
        false => labels.sort(),
    }
}
