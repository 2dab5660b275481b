//! What a preparation has done so far, so that the next one can go on: a file of JSON lines beside the unfinished Arrow files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::report::LeftOut;
use crate::arrow::BatchBlock;
use crate::{DataError, Result};
use vlct_util::at;
use vlct_util::lock::{Lock, try_lock};

/// What is known about one file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileState {
    /// Planned rows that are dealt with: written in `blocks`, or left out.
    pub consumed: usize,
    /// Batches on the disk.
    pub blocks: Vec<BatchBlock>,
    /// Rows left out among those.
    pub left_out: Vec<LeftOut>,
    /// Bytes of the file, if it has its final name.
    pub finished: Option<u64>,
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct Head {
    /// Of the plan and of everything else that decides what is written.
    fingerprint: String,
    /// Names of the files, without `.arrow`.
    #[serde(default)]
    files: Vec<String>,
}

/// What has been added to one file since its last entry.
#[derive(Serialize, Deserialize)]
struct Entry {
    file: usize,
    consumed: usize,
    blocks: Vec<BatchBlock>,
    left_out: Vec<LeftOut>,
    finished: Option<u64>,
}

/// The journal of one preparation, open and locked.
pub struct Journal {
    path: PathBuf,
    file: File,
    states: Vec<FileState>,
}

/// The files of the dataset `name`, without `.arrow`, that are not there since a preparation in `out`, which has begun to write, was
/// stopped or goes on.
pub fn unfinished(out: &Path, name: &str) -> Vec<String> {
    let Ok(text) = std::fs::read(Journal::path(out, name)) else {
        return Vec::new();
    };
    let head = lines(&text).next().map(serde_json::from_slice::<Head>);
    let Some(Ok(Head { fingerprint, files })) = head else {
        return Vec::new();
    };
    if lines(&text).count() == 1 {
        return Vec::new();
    }
    let (states, _) = read(&text, &fingerprint, files.len());
    let is_missing =
        |(file, state): &(String, FileState)| state.finished.is_none() && !out.join(format!("{file}.arrow")).exists();
    let missing = files.into_iter().zip(states).filter(is_missing);
    missing.map(|(file, _)| file).collect()
}

impl Journal {
    /// Where the journal of the dataset `name` lies.
    pub fn path(out: &Path, name: &str) -> PathBuf {
        out.join(format!(".prepare_{name}.journal"))
    }

    /// Opens the journal at `path`, made by a preparation of `files` (names) with this fingerprint, or begins it. One of another
    /// preparation is replaced if `replace` says so, or if that had written nothing yet.
    ///
    /// # Errors
    /// [`DataError::Invalid`] if another process has it open, [`DataError::Format`] if it is of another preparation,
    /// [`DataError::Io`] if the disk refuses.
    pub fn open(path: &Path, fingerprint: &str, files: &[&str], replace: bool) -> Result<Self> {
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
        let (states, good) = read(&text, fingerprint, files.len());
        if good == 0 && lines(&text).count() > 1 && !replace {
            return Err(DataError::OtherPreparation {
                path: path.to_path_buf(),
            });
        }
        let mut journal = Self {
            path: path.to_path_buf(),
            file,
            states,
        };
        // A line that was cut short is written over.
        journal.file.set_len(good).map_err(&io)?;
        journal.file.seek(SeekFrom::Start(good)).map_err(io)?;
        if good == 0 {
            let head = Head {
                fingerprint: fingerprint.to_string(),
                files: files.iter().map(|file| file.to_string()).collect(),
            };
            journal.append(&head)?;
        }
        Ok(journal)
    }

    /// What is known about file number `file` of the plan.
    pub fn state(&self, file: usize) -> &FileState {
        &self.states[file]
    }

    /// Forgets what is known about a file: it is not there any more.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk refuses.
    pub fn forget(&mut self, file: usize) -> Result<()> {
        self.states[file] = FileState::default();
        let entry = Entry {
            file,
            consumed: 0,
            blocks: Vec::new(),
            left_out: Vec::new(),
            finished: None,
        };
        self.append(&entry)
    }

    /// Notes what has become of a file. What is new since the last time must be on the disk.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk refuses.
    pub fn note(&mut self, file: usize, state: FileState) -> Result<()> {
        let before = &self.states[file];
        let entry = Entry {
            file,
            consumed: state.consumed,
            blocks: state.blocks[before.blocks.len()..].to_vec(),
            left_out: state.left_out[before.left_out.len()..].to_vec(),
            finished: state.finished,
        };
        self.append(&entry)?;
        self.states[file] = state;
        Ok(())
    }

    /// Deletes the journal: everything is done.
    ///
    /// # Errors
    /// [`DataError::Io`] if the disk refuses.
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

/// The lines of a journal that are whole.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|b| *b == b'\n')
        .filter(|line| line.last() == Some(&b'\n'))
}

/// The states that a journal's text tells, and the length of the text that is whole. A journal of another plan tells nothing.
fn read(text: &[u8], fingerprint: &str, files: usize) -> (Vec<FileState>, u64) {
    let mut states = vec![FileState::default(); files];
    let mut good = 0;
    for (number, line) in lines(text).enumerate() {
        if number == 0 {
            if !serde_json::from_slice::<Head>(line).is_ok_and(|head| head.fingerprint == fingerprint) {
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
            state.blocks.extend(entry.blocks);
            state.left_out.extend(entry.left_out);
            state.finished = entry.finished;
        }
        good += line.len() as u64;
    }
    (states, good)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_was_noted_is_known_after_opening_again_even_if_the_last_line_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let first = FileState {
            consumed: 3,
            blocks: vec![block(0)],
            left_out: vec![left_out(2)],
            finished: None,
        };
        let mut second = first.clone();
        second.consumed = 5;
        second.blocks.push(block(72));
        {
            let mut journal = Journal::open(&path, "abc", &["a", "b"], false).unwrap();
            journal.note(1, first.clone()).unwrap();
            let mut finished = first.clone();
            finished.finished = Some(72);
            journal.note(0, finished).unwrap();
            journal.forget(0).unwrap();
            assert!(Journal::open(&path, "abc", &["a", "b"], false).is_err(), "two at once");
            journal.note(1, second.clone()).unwrap();
        }
        let journal = Journal::open(&path, "abc", &["a", "b"], false).unwrap();
        assert_eq!((journal.state(0), journal.state(1)), (&FileState::default(), &second));
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 4]).unwrap();
        let mut journal = Journal::open(&path, "abc", &["a", "b"], false).unwrap();
        assert_eq!(journal.state(1), &first);
        journal.note(1, second.clone()).unwrap();
        journal.forget(1).unwrap();
        drop(journal);
        let journal = Journal::open(&path, "abc", &["a", "b"], false).unwrap();
        assert_eq!(journal.state(1), &FileState::default());
        drop(journal);
        let other = |replace| Journal::open(&path, "other", &["a", "b"], replace);
        assert!(other(false).is_err());
        assert_eq!(other(true).unwrap().state(1), &FileState::default());
        // It had written nothing.
        assert!(Journal::open(&path, "third", &["a", "b"], false).is_ok());
    }
}
