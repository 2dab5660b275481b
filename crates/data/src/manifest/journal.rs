//! The journal of a preparation: JSON lines beside the unfinished Arrow files, from which a later run resumes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::{Inputs, LeftOut};
use crate::arrow::{BatchBlock, partial_path};
use crate::{DataError, Result};
use vlct_util::at;
use vlct_util::lock::{Lock, try_lock};

/// The progress of one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileState {
    /// Number of planned rows that are written in `blocks` or left out.
    pub consumed: usize,
    /// Positions of the batches that are flushed to the disk.
    pub blocks: Vec<BatchBlock>,
    /// Those of the `consumed` rows that are left out.
    pub left_out: Vec<LeftOut>,
    /// Number of images of the `consumed` rows with a pixel that is not opaque.
    pub transparent: u64,
    /// The size of the file in bytes, if it is finished.
    pub finished: Option<u64>,
}

/// The first line of a journal.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Hash of the plan and of everything else that determines the content of the files.
    fingerprint: String,
    /// Hash of the sizes and modification times of the image files. Earlier versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    images: Option<String>,
    /// Names of the files, without `.arrow`.
    #[serde(default)]
    files: Vec<String>,
}

/// A line of a journal after the first: the progress of one file. `blocks` and `left_out` are those since the previous entry of the file.
#[derive(Serialize, Deserialize)]
struct Entry {
    file: usize,
    consumed: usize,
    blocks: Vec<BatchBlock>,
    left_out: Vec<LeftOut>,
    #[serde(default)]
    transparent: u64,
    finished: Option<u64>,
}

/// The journal of one preparation, open and locked.
pub struct Journal {
    path: PathBuf,
    file: File,
    states: Vec<FileState>,
}

/// Returns the files (names without `.arrow`) that a running or interrupted preparation of the dataset `name` has not finished: in the
/// directory `out`, such a file does not exist or is still that of an earlier preparation. If no rows are recorded yet, the result has
/// only a file that the preparation has begun.
pub fn unfinished_files(out: &Path, name: &str) -> Vec<String> {
    let Ok(text) = std::fs::read(Journal::path(out, name)) else {
        return Vec::new();
    };
    let head = lines(&text).next().map(serde_json::from_slice::<Head>);
    let Some(Ok(Head { files, .. })) = head else {
        return Vec::new();
    };
    let has_entries = lines(&text).count() > 1;
    let (states, _) = replay(&text, |_| true, files.len());
    let is_unfinished = |(file, state): &(String, FileState)| {
        let path = out.join(format!("{file}.arrow"));
        let has_partial = || partial_path(&path).is_ok_and(|partial| partial.exists());
        match path.exists() {
            false => has_entries || has_partial(),
            // A finished file may still have its temporary name.
            true => state.finished.is_some() && has_partial(),
        }
    };
    let unfinished = files.into_iter().zip(states).filter(is_unfinished);
    unfinished.map(|(file, _)| file).collect()
}

impl Journal {
    /// The path of the journal of the dataset `name`.
    pub fn path(out: &Path, name: &str) -> PathBuf {
        out.join(format!(".prepare_{name}.journal"))
    }

    /// Opens the journal at `path`, or creates it, and locks it. The journal belongs to the preparation that has these inputs and
    /// writes `files` (names without `.arrow`). The journal of another preparation is replaced if `replace` is true or if that
    /// preparation has written nothing.
    ///
    /// # Errors
    /// Returns [`DataError::Locked`] if another process has locked the journal, [`DataError::OtherPreparation`] if the journal
    /// belongs to another preparation and is not replaced, [`DataError::Io`] if reading or writing fails.
    pub fn open(path: &Path, inputs: &Inputs, files: &[&str], replace: bool) -> Result<Self> {
        let io = at::<DataError>(path);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(&io)?;
        if try_lock(&file) == Lock::HeldElsewhere {
            return Err(DataError::Locked {
                path: path.to_path_buf(),
            });
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(&io)?;
        let is_same = |head: &Head| inputs.are(&head.fingerprint, head.images.as_deref());
        let (states, valid_len) = replay(&text, is_same, files.len());
        if valid_len == 0 && lines(&text).count() > 1 && !replace {
            return Err(DataError::OtherPreparation {
                path: path.to_path_buf(),
            });
        }
        let mut journal = Self {
            path: path.to_path_buf(),
            file,
            states,
        };
        // A truncated last line is overwritten.
        journal.file.set_len(valid_len).map_err(&io)?;
        journal.file.seek(SeekFrom::Start(valid_len)).map_err(io)?;
        if valid_len == 0 {
            let head = Head {
                fingerprint: inputs.fingerprint.clone(),
                images: Some(inputs.images.clone()),
                files: files.iter().map(|file| file.to_string()).collect(),
            };
            journal.append(&head)?;
        }
        Ok(journal)
    }

    /// The progress of a file, by its index in the plan.
    pub fn state(&self, file: usize) -> &FileState {
        &self.states[file]
    }

    /// Resets the progress of a file that was deleted.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if writing fails.
    pub fn reset(&mut self, file: usize) -> Result<()> {
        self.states[file] = FileState::default();
        let entry = Entry {
            file,
            consumed: 0,
            blocks: Vec::new(),
            left_out: Vec::new(),
            transparent: 0,
            finished: None,
        };
        self.append(&entry)
    }

    /// Records the progress of a file. New batches must have been flushed to the disk.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if writing fails.
    pub fn record(&mut self, file: usize, state: FileState) -> Result<()> {
        let before = &self.states[file];
        let entry = Entry {
            file,
            consumed: state.consumed,
            blocks: state.blocks[before.blocks.len()..].to_vec(),
            left_out: state.left_out[before.left_out.len()..].to_vec(),
            transparent: state.transparent,
            finished: state.finished,
        };
        self.append(&entry)?;
        self.states[file] = state;
        Ok(())
    }

    /// Deletes the journal. All files must be finished.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the file cannot be deleted.
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(at(&self.path))
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line).map_err(|e| DataError::Invalid(e.to_string()))?;
        text.push('\n');
        let written = self
            .file
            .write_all(text.as_bytes())
            .and_then(|()| self.file.sync_data());
        written.map_err(at(&self.path))
    }
}

/// The complete lines of a journal.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
        .filter(|line| line.last() == Some(&b'\n'))
}

/// Replays a journal. Returns the progress of each file, and the length in bytes of the valid beginning of `text`: 0 if
/// `is_same` returns false for the first line.
fn replay(text: &[u8], is_same: impl Fn(&Head) -> bool, files: usize) -> (Vec<FileState>, u64) {
    let mut states = vec![FileState::default(); files];
    let mut valid_len = 0;
    for (index, line) in lines(text).enumerate() {
        if index == 0 {
            if !serde_json::from_slice::<Head>(line).is_ok_and(|head| is_same(&head)) {
                break;
            }
        } else {
            let Ok(entry) = serde_json::from_slice::<Entry>(line) else {
                break;
            };
            let Some(state) = states.get_mut(entry.file) else {
                break;
            };
            if entry.consumed == 0 && entry.finished.is_none() {
                *state = FileState::default();
            }
            state.consumed = entry.consumed;
            state.transparent = entry.transparent;
            state.blocks.extend(entry.blocks);
            state.left_out.extend(entry.left_out);
            state.finished = entry.finished;
        }
        valid_len += line.len() as u64;
    }
    (states, valid_len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(fingerprint: &str) -> Inputs {
        Inputs {
            fingerprint: fingerprint.into(),
            images: "images".into(),
        }
    }

    fn block(offset: u64) -> BatchBlock {
        BatchBlock {
            offset,
            metadata: 8,
            body: 64,
            rows: 2,
        }
    }

    fn left_out(row: usize) -> LeftOut {
        LeftOut {
            file: "f".into(),
            image: format!("{row}.jpg"),
            reason: "damaged".into(),
        }
    }

    #[test]
    fn progress_survives_reopening_and_a_truncated_last_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let first = FileState {
            consumed: 3,
            blocks: vec![block(0)],
            left_out: vec![left_out(2)],
            transparent: 3,
            finished: None,
        };
        let mut second = first.clone();
        second.consumed = 5;
        second.blocks.push(block(72));
        {
            let mut journal = Journal::open(&path, &inputs("abc"), &["a", "b"], false).unwrap();
            journal.record(1, first.clone()).unwrap();
            let mut finished = first.clone();
            finished.finished = Some(72);
            journal.record(0, finished).unwrap();
            journal.reset(0).unwrap();
            assert!(
                Journal::open(&path, &inputs("abc"), &["a", "b"], false).is_err(),
                "the journal is locked"
            );
            journal.record(1, second.clone()).unwrap();
        }
        let journal = Journal::open(&path, &inputs("abc"), &["a", "b"], false).unwrap();
        assert_eq!((journal.state(0), journal.state(1)), (&FileState::default(), &second));
        drop(journal);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
        let mut journal = Journal::open(&path, &inputs("abc"), &["a", "b"], false).unwrap();
        assert_eq!(journal.state(1), &first);
        journal.record(1, second.clone()).unwrap();
        journal.reset(1).unwrap();
        drop(journal);
        let journal = Journal::open(&path, &inputs("abc"), &["a", "b"], false).unwrap();
        assert_eq!(journal.state(1), &FileState::default());
        drop(journal);
        let other = |replace| Journal::open(&path, &inputs("other"), &["a", "b"], replace);
        assert!(other(false).is_err());
        assert_eq!(other(true).unwrap().state(1), &FileState::default());
        // The journal of a preparation that has written nothing is replaced.
        assert!(Journal::open(&path, &inputs("third"), &["a", "b"], false).is_ok());
    }
}
