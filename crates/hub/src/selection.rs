//! Which files of a repository are needed.

use serde::Deserialize;
use std::collections::BTreeMap;

/// Files beside the weights: sizes of the model, preparation of images, tokens.
pub const BESIDE: [&str; 7] = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "vocab.txt",
    "tokenizer.json",
    "special_tokens_map.json",
];
/// Names of weights and of indices, in the order of preference.
pub const WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];
/// End of the name of an index.
const INDEX_SUFFIX: &str = ".index.json";
/// Ends of the names of weights in the formats of other programs.
const EXTENSIONS: [&str; 3] = [".safetensors", ".ckpt", ".pth"];
/// Maximum number of names in a message.
const SHOWN: usize = 4;

/// The weights of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// One file with one of the names of [`WEIGHTS`].
    Named(String),
    /// An index with one of the names of [`WEIGHTS`]; it names the files.
    Index(String),
    /// One file with another name.
    Other(String),
}

impl Weights {
    /// Returns the name of the file or index.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) | Self::Index(name) | Self::Other(name) => name,
        }
    }

    /// Returns the names that would have been preferred.
    pub fn preferred(&self) -> &'static [&'static str] {
        let position = WEIGHTS.iter().position(|name| *name == self.name());
        &WEIGHTS[..position.unwrap_or(WEIGHTS.len())]
    }
}

/// Returns whether a name of the server can be the path of a file in a directory, on every system.
pub fn is_safe(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    name.split('/').all(is_part) && !name.contains(['\\', ':']) && !name.chars().any(char::is_control)
}

/// Returns the weights of a repository with these files.
///
/// # Errors
/// Returns what the repository has instead.
pub fn weights(files: &[String]) -> Result<Weights, String> {
    let has = |name: &&&str| files.iter().any(|file| file == **name);
    if let Some(name) = WEIGHTS.iter().find(has) {
        return Ok(match name.ends_with(INDEX_SUFFIX) {
            true => Weights::Index((*name).to_owned()),
            false => Weights::Named((*name).to_owned()),
        });
    }
    let others = |in_root: bool| -> Vec<&String> {
        let is_weights = |file: &&String| {
            file.contains('/') != in_root && EXTENSIONS.iter().any(|end| file.ends_with(end)) && is_safe(file)
        };
        files.iter().filter(is_weights).collect()
    };
    let candidates = match others(true) {
        candidates if candidates.is_empty() => others(false),
        candidates => candidates,
    };
    match candidates.as_slice() {
        [name] => Ok(Weights::Other((*name).clone())),
        [] => Err(format!(
            "neither {} nor a file {}",
            WEIGHTS[0],
            EXTENSIONS.map(|end| format!("*{end}")).join(", ")
        )),
        names => {
            let shown: Vec<&str> = names.iter().take(SHOWN).map(|name| name.as_str()).collect();
            let more = if names.len() > SHOWN { ", …" } else { "" };
            Err(format!(
                "it has {} files that could be meant ({}{more}); download one, and give its path",
                names.len(),
                shown.join(", ")
            ))
        }
    }
}

/// The part of an index that is read.
#[derive(Deserialize)]
struct Index {
    /// The file of each tensor.
    weight_map: BTreeMap<String, String>,
}

/// Returns the names of the files of an index, each once.
///
/// # Errors
/// Returns what is wrong with the index.
pub fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    let index: Index = serde_json::from_slice(index).map_err(|error| format!("the index is damaged: {error}"))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names.iter().find(|name| !is_safe(name) || name.contains('/')) {
        Some(name) => Err(format!("the index names the file {name:?}")),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::path::{Component, Path};

    use super::*;

    fn of(names: &[&str]) -> Result<Weights, String> {
        weights(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn prefers_safetensors_then_whole_files() {
        let mut names: Vec<&str> = WEIGHTS.iter().rev().copied().chain(["vlc.ckpt", "README.md"]).collect();
        for expected in WEIGHTS {
            let found = of(&names).unwrap();
            assert_eq!(found.name(), expected);
            assert_eq!(matches!(found, Weights::Index(_)), expected.ends_with(".json"));
            assert!(found.preferred().iter().all(|name| !names.contains(name)));
            names.retain(|name| *name != expected);
        }
        assert_eq!(of(&names), Ok(Weights::Other("vlc.ckpt".into())));
        assert_eq!(of(&["a.pth", "old/b.pth"]), Ok(Weights::Other("a.pth".into())));
        assert_eq!(of(&["old/b.pth"]), Ok(Weights::Other("old/b.pth".into())));
    }

    #[test]
    fn names_what_could_be_meant() {
        assert!(
            of(&["README.md", "../a.pth", "/a.ckpt"])
                .unwrap_err()
                .starts_with("neither model.safetensors")
        );
        let message = of(&["a.pth", "b.ckpt", "c.pth", "d.pth", "e.pth"]).unwrap_err();
        assert!(
            message.starts_with("it has 5 files that could be meant (a.pth, b.ckpt, c.pth, d.pth, …)"),
            "{message}"
        );
    }

    #[test]
    fn shards_are_beside_the_index() {
        let index = |names: &[&str]| {
            let map: serde_json::Map<String, serde_json::Value> = names
                .iter()
                .enumerate()
                .map(|(i, name)| (i.to_string(), (*name).into()))
                .collect();
            shards(
                serde_json::json!({"metadata": {}, "weight_map": map})
                    .to_string()
                    .as_bytes(),
            )
        };
        assert_eq!(index(&["b", "a", "b"]), Ok(vec!["a".to_owned(), "b".to_owned()]));
        for name in ["../a", "/a", "a/b", "", "..", "a\\b", "C:a", "a\nb"] {
            assert!(index(&[name]).unwrap_err().contains("names the file"), "{name}");
        }
        assert!(shards(b"{}").unwrap_err().contains("damaged"));
        assert!(shards("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn safe_names_stay_in_their_directory(name in "[./\\\\:a]{0,8}") {
            if is_safe(&name) {
                prop_assert!(Path::new(&name).components().all(|part| matches!(part, Component::Normal(_))));
            }
        }
    }
}
