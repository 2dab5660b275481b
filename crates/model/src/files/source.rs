//! Finding and mapping of the files of a model's weights: one file, a checkpoint in a run directory, or several files with an index.

use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;
use vlct_util::{MappedFile, read_at_most};

use super::error::{FileError, Problem, TensorProblem};
use super::view::{RawIndex, WeightIndex};
use super::{Format, raw_index};
use vlct_checkpoint as checkpoint;

/// End of the names of the files that say which tensor is in which file, `model.safetensors.index.json`.
const INDEX_SUFFIX: &str = ".index.json";
/// Names of the weights in a directory that is not a run directory, in the order in which they are looked for.
const NAMES_IN_DIRECTORIES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// Extensions of the weight files that a message lists.
const EXTENSIONS: [&str; 5] = ["safetensors", "ckpt", "pth", "pt", "bin"];
/// Maximum number of files that a message lists.
const FILES_SHOWN: usize = 4;
/// Maximum size of an index in bytes.
const MAX_INDEX: u64 = 64 << 20;
/// The file in which Hugging Face's models have their sizes, beside the weights.
const CONFIG_FILE: &str = "config.json";
/// Maximum size of [`CONFIG_FILE`] in bytes.
const MAX_CONFIG: u64 = 16 << 20;
/// Key of an index: a dictionary of tensors with the names of their files.
const WEIGHT_MAP: &str = "weight_map";

/// The mapped files of a model's weights.
#[derive(Debug)]
pub struct WeightFiles {
    /// The weight file or the index.
    path: PathBuf,
    /// The files. Without an index it is one.
    files: Vec<MappedFile>,
    /// The index: for each tensor, the position of its file in `files`.
    index: Option<IndexMap<String, usize>>,
}

impl WeightFiles {
    /// Returns the bytes of the file; `None` if there are several files.
    pub(super) fn single(&self) -> Option<&[u8]> {
        match (&self.index, self.files.as_slice()) {
            (None, [file]) => Some(file),
            _ => None,
        }
    }

    /// Returns the weight file, or the index of several files.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns the weight file of a path. The file of a run directory is its best checkpoint, or the last if there is no best one; that of
/// another directory is its checkpoint, or `model.safetensors` or `pytorch_model.bin`, or the index of several such files. The file of
/// any other path is the path itself.
///
/// # Errors
/// Returns a [`FileError`] with [`Problem::NoWeightsInDirectory`] if a directory has no weights.
pub fn find(path: &Path) -> Result<PathBuf, FileError> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let named = || {
        NAMES_IN_DIRECTORIES
            .map(|name| path.join(name))
            .into_iter()
            .find(|file| file.is_file())
    };
    checkpoint::find(path).or_else(named).ok_or_else(|| {
        let problem = Problem::NoWeightsInDirectory {
            found: weight_files(path),
        };
        FileError::new(path, problem)
    })
}

/// Returns a clause about the weight files with other names in a directory.
fn weight_files(directory: &Path) -> String {
    let is_weights = |path: &PathBuf| {
        let extension = path.extension().and_then(|extension| extension.to_str());
        path.is_file() && extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
    };
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(is_weights)
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    match names.len() {
        0 => "give a run directory (…/version_0) or a weight file".to_owned(),
        count if count > FILES_SHOWN => format!("give one of its {count} weight files, such as {}", names[0]),
        _ => format!("give one of its weight files: {}", names.join(", ")),
    }
}

/// Maps the weight file of a path (see [`find`]) into memory, for [`index`](super::index). The files of an index are all mapped.
///
/// # Errors
/// Returns a [`FileError`] if a directory has no weights, a path is not a regular file or cannot be opened, or an index is not readable.
pub fn map(path: &Path) -> Result<WeightFiles, FileError> {
    let path = find(path)?;
    if !path.to_string_lossy().ends_with(INDEX_SUFFIX) {
        return Ok(WeightFiles {
            files: vec![map_file(&path)?],
            path,
            index: None,
        });
    }
    let content = read_at_most(&path, MAX_INDEX, "index").map_err(|error| FileError::new(&path, error.source))?;
    let (names, index) = parse_index(&content).map_err(|problem| FileError::new(&path, problem))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    let part = |name: &String| {
        let part = directory.join(name);
        if !part.exists() {
            let index = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(FileError::new(&part, Problem::MissingPart { index }));
        }
        map_file(&part)
    };
    let files: Result<Vec<MappedFile>, FileError> = names.iter().map(part).collect();
    Ok(WeightFiles {
        files: files?,
        path,
        index: Some(index),
    })
}

fn map_file(path: &Path) -> Result<MappedFile, FileError> {
    let map = || -> Result<MappedFile, Problem> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(Problem::NotAFile);
        }
        Ok(MappedFile::open(path).map_err(|error| error.source)?)
    };
    map().map_err(|problem| FileError::new(path, problem))
}

/// Reads an index. Returns the names of the files, and for each tensor the position of its file.
fn parse_index(content: &[u8]) -> Result<(Vec<String>, IndexMap<String, usize>), Problem> {
    let content: Value = serde_json::from_slice(content).map_err(|error| Problem::Index(error.to_string()))?;
    let map = content.get(WEIGHT_MAP).and_then(Value::as_object);
    let map = map.ok_or_else(|| Problem::Index(format!("it has no dictionary {WEIGHT_MAP:?}")))?;
    let (mut names, mut index) = (Vec::new(), IndexMap::with_capacity(map.len()));
    for (tensor, file) in map {
        // The files are beside the index, so that an index cannot name other files of the computer.
        let is_name = |file: &&str| !file.is_empty() && *file != ".." && !file.contains(['/', '\\']);
        let Some(file) = file.as_str().filter(is_name) else {
            return Err(Problem::Index(format!("the file of tensor {tensor:?} is {file}")));
        };
        let position = names.iter().position(|name| name == file).unwrap_or_else(|| {
            names.push(file.to_owned());
            names.len() - 1
        });
        index.insert(tensor.clone(), position);
    }
    Ok((names, index))
}

fn read(file: &MappedFile) -> Result<RawIndex<'_>, FileError> {
    raw_index(file).map_err(|problem| FileError::new(file.path(), problem))
}

/// Finds the tensors of mapped weight files, without copying values. Tensors have the model's names: prefixes of wrappers are removed, and
/// Hugging Face's names are replaced. Checksums are verified: that of a checkpoint of this program, and those that PyTorch's archives have
/// of the values of tensors.
///
/// # Errors
/// Returns a [`FileError`] with the path if the content of a file is not a supported or complete weight file.
pub fn index(files: &WeightFiles) -> Result<WeightIndex<'_>, FileError> {
    let mut index = raw(files)?.with_plain_names();
    if index.summary.hugging_face && index.summary.hyper_parameters.is_null() {
        index.summary.hyper_parameters = config_beside(&files.path)?;
    }
    Ok(index)
}

/// Returns the content of [`CONFIG_FILE`] beside a file; null if there is none.
fn config_beside(path: &Path) -> Result<Value, FileError> {
    let path = path.with_file_name(CONFIG_FILE);
    if !path.exists() {
        return Ok(Value::Null);
    }
    let content =
        read_at_most(&path, MAX_CONFIG, "a configuration").map_err(|error| FileError::new(&path, error.source))?;
    match serde_json::from_slice(&content) {
        Ok(config @ Value::Object(_)) => Ok(config),
        Ok(_) => Err(FileError::new(
            &path,
            Problem::Configuration("it is not a dictionary".into()),
        )),
        Err(error) => Err(FileError::new(&path, Problem::Configuration(error.to_string()))),
    }
}

/// Finds the tensors of mapped weight files by the names in the files.
fn raw(files: &WeightFiles) -> Result<RawIndex<'_>, FileError> {
    let Some(index) = &files.index else {
        let file = files
            .files
            .first()
            .unwrap_or_else(|| unreachable!("there is one file without an index"));
        return read(file);
    };
    let mut parts: Vec<RawIndex> = files.files.iter().map(read).collect::<Result<_, _>>()?;
    let mut tensors = IndexMap::with_capacity(index.len());
    for (name, part) in index {
        let tensor = parts[*part].tensors.swap_remove(name);
        let missing = || {
            let file = files.files[*part].path().file_name().unwrap_or_default();
            Err(TensorProblem::NotInPart(file.to_string_lossy().into_owned()))
        };
        tensors.insert(name.clone(), tensor.unwrap_or_else(missing));
    }
    let part_summary = parts.first().map(|part| (part.format, part.summary.clone()));
    let (format, mut summary) = part_summary.unwrap_or((Format::Safetensors, Default::default()));
    summary.has_checksums = parts.iter().all(|part| part.summary.has_checksums);
    if tensors.values().all(Result::is_err) {
        let found = "the index lists no tensor that is in its file".into();
        return Err(FileError::new(&files.path, Problem::NoWeights { found }));
    }
    Ok(RawIndex {
        tensors,
        averages: IndexMap::new(),
        format,
        summary,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Header, StateDict, StoredTensor, Style, read, write};
    use super::*;

    fn state(names: &[&str]) -> StateDict {
        let tensor = |(i, name): (usize, &&str)| ((*name).to_owned(), StoredTensor::f32([1], vec![i as f32]));
        names.iter().enumerate().map(tensor).collect()
    }

    fn write_index(path: &Path, map: &[(&str, &str)]) {
        let map: serde_json::Map<String, Value> = map
            .iter()
            .map(|(name, file)| ((*name).to_owned(), (*file).into()))
            .collect();
        std::fs::write(path, serde_json::json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    }

    fn error(path: &Path) -> String {
        let message = read(path).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn reads_several_files_with_an_index() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        for (extension, base) in [("safetensors", "model.safetensors"), ("bin", "pytorch_model.bin")] {
            let names = [
                "model.blocks.0.norm1.weight",
                "model.cls_token",
                "model.norm.weight",
                "model.more",
            ];
            let header: Header = Style::Mae.into();
            let files = [1, 2].map(|i| format!("part-{i}-of-2.{extension}"));
            write(&directory.join(&files[0]), &state(&names[..1]), &header).unwrap();
            write(&directory.join(&files[1]), &state(&names[1..]), &header).unwrap();
            let index = directory.join(format!("{base}.index.json"));
            write_index(
                &index,
                &[
                    (names[0], &files[0]),
                    (names[1], &files[1]),
                    (names[2], &files[1]),
                    ("model.gone", &files[0]),
                ],
            );
            for path in [&index, directory] {
                let file = read(path).unwrap();
                let read: Vec<&str> = file.state.names().collect();
                assert_eq!(read, ["blocks.0.norm1.weight", "cls_token", "norm.weight"]);
                assert_eq!(file.unreadable.keys().collect::<Vec<_>>(), ["model.gone"]);
                assert_eq!(file.summary.removed_prefixes, ["model."]);
            }
            std::fs::remove_file(directory.join(&files[1])).unwrap();
            let message = error(&index);
            assert!(
                message.contains("part-2-of-2") && message.contains(&format!("{base}.index.json names it")),
                "{message}"
            );
            std::fs::remove_file(&index).unwrap();
        }
    }

    #[test]
    fn rejects_an_index_that_names_files_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors.index.json");
        for name in ["../x.safetensors", "/etc/passwd", "", "..", "a\\b"] {
            write_index(&path, &[("w", name)]);
            assert!(error(&path).contains("the file of tensor \"w\" is"), "{name}");
        }
        for content in ["", "[]", "{\"weight_map\": 3}", "{\"weight_map\": {\"w\": 3}}"] {
            std::fs::write(&path, content).unwrap();
            assert!(error(&path).contains("the index is damaged"), "{content}");
        }
        std::fs::write(&path, "{\"weight_map\": {}}").unwrap();
        assert!(error(&path).contains("no named tensors"));
    }

    #[test]
    fn a_directory_without_weights_lists_its_weight_files() {
        let directory = tempfile::tempdir().unwrap();
        assert!(error(directory.path()).contains("the directory has no weights; give a run directory"));
        write(&directory.path().join("a.pth"), &state(&["w"]), &Style::Mae.into()).unwrap();
        assert!(error(directory.path()).ends_with("give one of its weight files: a.pth"));
        for i in 0..5 {
            std::fs::write(directory.path().join(format!("{i}.ckpt")), "").unwrap();
        }
        assert!(error(directory.path()).ends_with("one of its 6 weight files, such as 0.ckpt"));
        write(
            &directory.path().join("model.safetensors"),
            &state(&["w"]),
            &Style::Mae.into(),
        )
        .unwrap();
        assert_eq!(read(directory.path()).unwrap().state.len(), 1);
    }
}
