//! Scores in the order of a plan: in memory, in a temporary file, in files from which an interrupted scoring continues, or with rank 0.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use vlct_util::at;
use vlct_util::lock::{Lock, try_lock};

use crate::error::{Result, TaskError};

/// Name of the file with the scores: f32, little-endian, in the order of the plan.
const SCORES: &str = "scores.f32";

/// Name of the journal: JSON lines, first a [`Head`], then an [`Entry`] for each part of the scores that is on the disk.
const JOURNAL: &str = "journal.jsonl";

/// Time between two entries of the journal.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Number of scores that are read at a time when stored scores are checked.
const CHECKED_AT_A_TIME: u64 = 1 << 20;

/// Scores of the first pairs of a plan.
pub struct ScoreStore {
    backing: Backing,
    len: u64,
}

enum Backing {
    Memory(Vec<f32>),
    Temporary(ScoreFile),
    Files(ScoreFile, Journal),
    /// Rank 0 has the scores; this rank counts them.
    OtherRank,
}

/// A file of scores.
struct ScoreFile {
    path: PathBuf,
    file: File,
}

/// The record of which scores are on the disk.
struct Journal {
    /// The open journal, which holds the lock.
    file: File,
    path: PathBuf,
    /// CRC-32C of the scores since the last entry.
    checksum: u32,
    last_commit: Instant,
    /// Number of scores at the last entry.
    committed: u64,
}

/// The first line of a journal.
#[derive(Serialize, Deserialize, PartialEq)]
struct Head {
    /// Hash of everything that determines the scores.
    fingerprint: String,
    /// Number of pairs of the plan.
    pairs: u64,
}

/// A line of a journal after the first.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// Number of scores.
    scored: u64,
    /// CRC-32C of the bytes of the scores since the previous entry.
    crc32c: u32,
}

/// What [`ScoreStore::open`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// No scores.
    Nothing,
    /// The scores of this many pairs.
    Scores(u64),
    /// Scores, of which those after this many pairs are damaged.
    Damaged(u64),
    /// No scores of this scoring, but scores of other weights, texts or images.
    Other,
}

impl ScoreStore {
    /// Makes a store in memory.
    pub fn in_memory() -> Self {
        Self {
            backing: Backing::Memory(Vec::new()),
            len: 0,
        }
    }

    /// Makes a store in an unnamed file in `directory`, which the operating system removes when it is closed.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if the file cannot be created.
    pub fn temporary(directory: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(at::<TaskError>(directory))?;
        let path = directory.to_path_buf();
        Ok(Self {
            backing: Backing::Temporary(ScoreFile { path, file }),
            len: 0,
        })
    }

    /// Opens or creates the files of a scoring of `pairs` pairs in `directory`, and locks them. Scores with another fingerprint are
    /// removed.
    ///
    /// # Errors
    /// Returns [`TaskError::ScoresInUse`] if another process has locked the files, and [`TaskError::Io`] if a file cannot be created, read
    /// or written.
    pub fn open(directory: &Path, fingerprint: &str, pairs: u64) -> Result<(Self, Found)> {
        std::fs::create_dir_all(directory).map_err(at::<TaskError>(directory))?;
        let open = |name: &str| -> Result<ScoreFile> {
            let path = directory.join(name);
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).map_err(at::<TaskError>(&path))?;
            Ok(ScoreFile { path, file })
        };
        let mut journal = open(JOURNAL)?;
        if try_lock(&journal.file) == Lock::HeldElsewhere {
            return Err(TaskError::ScoresInUse(directory.to_path_buf()));
        }
        let scores = open(SCORES)?;
        let head = Head {
            fingerprint: fingerprint.to_string(),
            pairs,
        };
        let mut text = Vec::new();
        journal
            .file
            .read_to_end(&mut text)
            .map_err(at::<TaskError>(&journal.path))?;
        let replayed = replay(&text, &head, &scores)?;
        scores
            .file
            .set_len(4 * replayed.scored)
            .and_then(|()| journal.file.set_len(replayed.journal_len))
            .and_then(|()| journal.file.seek(SeekFrom::End(0)))
            .map_err(at::<TaskError>(&scores.path))?;
        let mut journal = Journal {
            file: journal.file,
            path: journal.path,
            checksum: 0,
            last_commit: Instant::now(),
            committed: replayed.scored,
        };
        if replayed.journal_len == 0 {
            journal.write_line(&head)?;
        }
        let store = Self {
            backing: Backing::Files(scores, journal),
            len: replayed.scored,
        };
        Ok((store, replayed.found))
    }

    /// Makes a store that counts the scores which rank 0 stores. The first `len` are stored already.
    pub(super) fn of_other_rank(len: u64) -> Self {
        Self {
            backing: Backing::OtherRank,
            len,
        }
    }

    /// Number of scores.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are no scores.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes the scores from index `len` on.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if writing fails.
    pub(super) fn truncate(&mut self, len: u64) -> Result<()> {
        if len >= self.len {
            return Ok(());
        }
        match &mut self.backing {
            Backing::Memory(values) => values.truncate(len as usize),
            Backing::OtherRank => {}
            Backing::Temporary(scores) | Backing::Files(scores, _) => {
                scores.file.set_len(4 * len).map_err(at::<TaskError>(&scores.path))?;
            }
        }
        self.len = len;
        if let Backing::Files(scores, journal) = &mut self.backing {
            // Entries end at other scores, so the remaining scores become one entry.
            let checksum = scores.checksum(0..len)?;
            journal.restart(checksum, len)?;
        }
        Ok(())
    }

    /// Appends scores. From time to time, they are flushed to the disk and recorded in the journal.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if writing fails.
    pub(super) fn append(&mut self, values: &[f32]) -> Result<()> {
        let (scores, journal) = match &mut self.backing {
            Backing::Memory(memory) => {
                memory.extend_from_slice(values);
                self.len += values.len() as u64;
                return Ok(());
            }
            Backing::OtherRank => {
                self.len += values.len() as u64;
                return Ok(());
            }
            Backing::Temporary(scores) => (scores, None),
            Backing::Files(scores, journal) => (scores, Some(journal)),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        scores
            .file
            .seek(SeekFrom::Start(4 * self.len))
            .and_then(|_| scores.file.write_all(&bytes))
            .map_err(at::<TaskError>(&scores.path))?;
        self.len += values.len() as u64;
        if let Some(journal) = journal {
            journal.checksum = crc32c::crc32c_append(journal.checksum, &bytes);
            if journal.last_commit.elapsed() >= COMMIT_INTERVAL {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Flushes the scores to the disk and records them in the journal.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if writing fails.
    pub(super) fn commit(&mut self) -> Result<()> {
        let len = self.len;
        match &mut self.backing {
            Backing::Files(scores, journal) if journal.committed < len => {
                scores.file.sync_data().map_err(at::<TaskError>(&scores.path))?;
                journal.record(len)
            }
            _ => Ok(()),
        }
    }

    /// Returns the scores of the pairs `range`.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if reading fails.
    ///
    /// # Panics
    /// Panics if only rank 0 has the scores.
    pub(super) fn read(&self, range: Range<u64>) -> Result<Vec<f32>> {
        match &self.backing {
            Backing::Memory(values) => Ok(values[range.start as usize..range.end as usize].to_vec()),
            Backing::OtherRank => panic!("only rank 0 has the scores"),
            Backing::Temporary(scores) | Backing::Files(scores, _) => {
                let bytes = scores.read(range)?;
                Ok(bytes
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect())
            }
        }
    }

    /// Removes the files of the store.
    ///
    /// # Errors
    /// Returns [`TaskError::Io`] if a file cannot be removed.
    pub fn remove(self) -> Result<()> {
        if let Backing::Files(scores, journal) = self.backing {
            for path in [&scores.path, &journal.path] {
                std::fs::remove_file(path).map_err(at::<TaskError>(path))?;
            }
            if let Some(directory) = journal.path.parent() {
                // The directory remains if it has other files.
                let _ = std::fs::remove_dir(directory);
            }
        }
        Ok(())
    }
}

impl ScoreFile {
    /// Reads the bytes of scores.
    fn read(&self, range: Range<u64>) -> Result<Vec<u8>> {
        let mut bytes = vec![0; 4 * (range.end - range.start) as usize];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(4 * range.start))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(at::<TaskError>(&self.path))?;
        Ok(bytes)
    }

    /// Returns the CRC-32C of scores.
    fn checksum(&self, range: Range<u64>) -> Result<u32> {
        let mut checksum = 0;
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + CHECKED_AT_A_TIME);
            checksum = crc32c::crc32c_append(checksum, &self.read(start..end)?);
            start = end;
        }
        Ok(checksum)
    }
}

impl Journal {
    /// Records that all scores, `scored`, are on the disk.
    fn record(&mut self, scored: u64) -> Result<()> {
        let crc32c = self.checksum;
        self.write_line(&Entry { scored, crc32c })?;
        (self.checksum, self.committed, self.last_commit) = (0, scored, Instant::now());
        Ok(())
    }

    /// Replaces all entries by one entry for `scored` scores.
    fn restart(&mut self, checksum: u32, scored: u64) -> Result<()> {
        let mut text = String::new();
        self.file
            .rewind()
            .and_then(|()| self.file.read_to_string(&mut text))
            .and_then(|_| {
                let head = text.split_inclusive('\n').next().map_or(0, str::len);
                self.file.set_len(head as u64)?;
                self.file.seek(SeekFrom::End(0))
            })
            .map_err(at::<TaskError>(&self.path))?;
        self.checksum = checksum;
        if scored > 0 {
            self.record(scored)?;
        }
        self.committed = scored;
        Ok(())
    }

    fn write_line(&mut self, line: &impl Serialize) -> Result<()> {
        let written = serde_json::to_vec(line)
            .map_err(std::io::Error::from)
            .and_then(|mut text| {
                text.push(b'\n');
                self.file.write_all(&text)?;
                self.file.sync_data()
            });
        written.map_err(at(&self.path))
    }
}

/// The result of [`replay`].
struct Replayed {
    /// Number of scores that are recorded and undamaged.
    scored: u64,
    /// Length in bytes of the valid beginning of the journal: 0 if it belongs to another scoring.
    journal_len: u64,
    found: Found,
}

/// Replays a journal, whose first line must be `head`, and checks the scores.
fn replay(text: &[u8], head: &Head, scores: &ScoreFile) -> Result<Replayed> {
    let stored = scores.file.metadata().map_err(at::<TaskError>(&scores.path))?.len() / 4;
    let mut lines = text
        .split_inclusive(|b| *b == b'\n')
        .filter(|line| line.ends_with(b"\n"));
    let first = lines.next().unwrap_or_default();
    let nothing = |found| Replayed {
        scored: 0,
        journal_len: 0,
        found,
    };
    if !serde_json::from_slice::<Head>(first).is_ok_and(|found| found == *head) {
        let is_empty = text.is_empty() && stored == 0;
        return Ok(nothing(if is_empty { Found::Nothing } else { Found::Other }));
    }
    let mut replayed = Replayed {
        scored: 0,
        journal_len: first.len() as u64,
        found: Found::Nothing,
    };
    for line in lines {
        // A truncated or damaged line ends the journal.
        let Ok(entry) = serde_json::from_slice::<Entry>(line) else {
            replayed.found = Found::Damaged(replayed.scored);
            return Ok(replayed);
        };
        let is_valid = entry.scored > replayed.scored
            && entry.scored <= head.pairs.min(stored)
            && scores.checksum(replayed.scored..entry.scored)? == entry.crc32c;
        if !is_valid {
            replayed.found = Found::Damaged(replayed.scored);
            return Ok(replayed);
        }
        replayed.scored = entry.scored;
        replayed.journal_len += line.len() as u64;
        replayed.found = Found::Scores(entry.scored);
    }
    Ok(replayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(directory: &Path) -> (ScoreStore, Found) {
        ScoreStore::open(directory, "abc", 100).expect("a store")
    }

    fn values(range: Range<u64>) -> Vec<f32> {
        range.map(|i| i as f32 * 0.5).collect()
    }

    /// Writes 60 scores in two entries, and ten that are not recorded.
    fn write(directory: &Path) {
        let (mut store, found) = open(directory);
        assert_eq!(found, Found::Nothing);
        store.append(&values(0..20)).unwrap();
        store.append(&values(20..40)).unwrap();
        store.commit().unwrap();
        store.append(&values(40..60)).unwrap();
        store.commit().unwrap();
        store.append(&values(60..70)).unwrap();
        assert_eq!(store.read(55..70).unwrap(), values(55..70));
    }

    #[test]
    fn recorded_scores_survive() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path());
        let (mut store, found) = open(directory.path());
        assert_eq!((found, store.len()), (Found::Scores(60), 60));
        assert!(matches!(
            ScoreStore::open(directory.path(), "abc", 100),
            Err(TaskError::ScoresInUse(_))
        ));
        store.truncate(50).unwrap();
        store.append(&values(50..100)).unwrap();
        store.commit().unwrap();
        drop(store);
        let (store, found) = open(directory.path());
        assert_eq!(found, Found::Scores(100));
        assert_eq!(store.read(0..100).unwrap(), values(0..100));
        store.remove().unwrap();
        assert!(!directory.path().exists());
    }

    #[test]
    fn scores_of_another_scoring_are_removed() {
        for (fingerprint, pairs) in [("other", 100), ("abc", 101)] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path());
            let (store, found) = ScoreStore::open(directory.path(), fingerprint, pairs).unwrap();
            assert_eq!((found, store.len()), (Found::Other, 0));
            drop(store);
            let (_, found) = ScoreStore::open(directory.path(), fingerprint, pairs).unwrap();
            assert_eq!(found, Found::Nothing);
        }
    }

    #[test]
    fn stores_without_files_return_what_was_appended() {
        let directory = tempfile::tempdir().unwrap();
        for mut store in [
            ScoreStore::in_memory(),
            ScoreStore::temporary(directory.path()).unwrap(),
        ] {
            assert!(store.is_empty());
            store.append(&values(0..30)).unwrap();
            store.truncate(25).unwrap();
            store.append(&values(25..40)).unwrap();
            store.commit().unwrap();
            assert_eq!(store.read(10..40).unwrap(), values(10..40));
            store.remove().unwrap();
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn error_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = ScoreStore::open(&file.join("scores"), "abc", 1)
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("file") && !error.contains('\n'), "{error}");
    }

    proptest! {
        // Each case flushes files to the disk several times.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn damaged_files_give_a_valid_beginning(in_journal: bool, position in 0usize..240, byte: u8, cut in prop::option::of(0usize..240)) {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path());
            let path = directory.path().join(if in_journal { JOURNAL } else { SCORES });
            let mut bytes = std::fs::read(&path).unwrap();
            let position = position % bytes.len();
            bytes[position] = byte;
            bytes.truncate(cut.unwrap_or(bytes.len()));
            std::fs::write(&path, bytes).unwrap();
            let (store, _) = open(directory.path());
            prop_assert!([0, 40, 60].contains(&store.len()));
            prop_assert_eq!(store.read(0..store.len()).unwrap(), values(0..store.len()));
        }
    }
}
