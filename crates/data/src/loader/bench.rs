//! How fast pictures come out of the loader: from the bytes of their files to normalised numbers.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::{Job, Pipeline, Position};
use crate::arrow::ArrowTable;
use crate::random::{Purpose, stream};
use crate::{DataError, Result};
use vlct_image::{StageTimes, Transform};
use vlct_util::IoError;

/// Picture files are kept in memory while they are measured: so many bytes of them at most.
const MAX_BYTES: usize = 64 << 20;
/// Endings of the picture files that a folder is searched for.
const ENDINGS: [&str; 9] = ["jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp", "arrow"];
/// Columns of Arrow files that hold pictures.
const COLUMNS: [&str; 3] = ["image", "image_0", "image_1"];
/// Pictures of a batch, and batches made ahead.
const BATCH: usize = 8;
const PREFETCH: usize = 4;

/// Picture files in memory.
#[derive(Debug, Default)]
pub struct Images {
    /// Where each comes from, and its bytes.
    files: Vec<(String, Vec<u8>)>,
    bytes: usize,
}

impl Images {
    /// Reads pictures: files, `.arrow` files, and those that lie in folders (not in folders of these), in order, until 64 MiB of
    /// them are there.
    ///
    /// # Errors
    /// If a path cannot be read, an Arrow file is damaged, or there is no picture.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut pictures = Self::default();
        for path in paths {
            if path.is_dir() {
                for file in picture_files(path)? {
                    pictures.add(&file)?;
                }
            } else {
                pictures.add(path)?;
            }
        }
        if pictures.files.is_empty() {
            let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            return Err(DataError::Invalid(format!(
                "no pictures in {}; give picture files, .arrow files, or folders of them",
                names.join(", ")
            )));
        }
        Ok(pictures)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        if !path.extension().is_some_and(|e| e.eq_ignore_ascii_case("arrow")) {
            if self.is_full() {
                return Ok(());
            }
            let bytes = std::fs::read(path).map_err(|e| io(path, e))?;
            self.push(path.display().to_string(), bytes);
            return Ok(());
        }
        let table = ArrowTable::open(path)?;
        for row in 0..table.rows() {
            for column in COLUMNS.into_iter().filter(|c| table.has_values(c)) {
                if self.is_full() {
                    return Ok(());
                }
                let bytes = table.image(row, column)?.to_vec();
                self.push(format!("{}: row {row}, {column}", path.display()), bytes);
            }
        }
        Ok(())
    }

    fn push(&mut self, name: String, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.files.push((name, bytes));
    }

    fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }
}

fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io(IoError {
        path: path.to_path_buf(),
        source,
    })
}

/// The picture and Arrow files of a folder, sorted.
fn picture_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| io(folder, e))? {
        let path = entry.map_err(|e| io(folder, e))?.path();
        let ending = path.extension().and_then(|e| e.to_str());
        if ending.is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known))) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What [`measure`] found.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Pictures measured.
    pub images: u64,
    /// Time that they took, by the clock.
    pub time: Duration,
    /// What the threads spent on them, added up.
    pub spent: StageTimes,
}

/// Runs pictures, again and again, through the threads of a loader for as long as `duration`, after each was read once. The memory
/// of batches is used again, as in training.
///
/// # Errors
/// A picture that cannot be read, by name; a thread that cannot be started.
pub fn measure(pictures: Images, transform: Transform, threads: usize, duration: Duration) -> Result<Rate> {
    let job = Repeat {
        pictures: pictures.files,
        transform,
        buffers: Buffers::new(2 * BATCH),
        spent: Mutex::default(),
    };
    let mut pipeline = Pipeline::new(job, Position::default(), None, threads, PREFETCH)?;
    for _ in 0..pipeline.job().epoch_len() {
        take_batch(&mut pipeline)?;
    }
    *pipeline.job().spent() = StageTimes::default();
    let begun = Instant::now();
    let mut count = 0;
    while count == 0 || begun.elapsed() < duration {
        count += take_batch(&mut pipeline)?;
    }
    let time = begun.elapsed();
    let spent = *pipeline.job().spent();
    Ok(Rate {
        images: count,
        time,
        spent,
    })
}

/// Takes a batch and gives its memory back: its number of pictures.
fn take_batch(pipeline: &mut Pipeline<Repeat>) -> Result<u64> {
    let batch = pipeline.next().transpose()?.unwrap_or_default();
    let count = batch.len() as u64;
    for picture in batch {
        pipeline.job().buffers.give_back(picture);
    }
    Ok(count)
}

/// The same pictures in each epoch.
struct Repeat {
    pictures: Vec<(String, Vec<u8>)>,
    transform: Transform,
    buffers: Buffers,
    spent: Mutex<StageTimes>,
}

impl Repeat {
    fn spent(&self) -> MutexGuard<'_, StageTimes> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job for Repeat {
    /// Epoch, and first picture.
    type Plan = (u64, usize);
    type Sample = Vec<f32>;
    type Batch = Vec<Vec<f32>>;

    fn epoch_len(&self) -> u64 {
        self.pictures.len().div_ceil(BATCH) as u64
    }

    fn plan(&self, position: Position) -> (usize, Self::Plan) {
        let first = position.batch as usize * BATCH;
        ((self.pictures.len() - first).min(BATCH), (position.epoch, first))
    }

    fn sample(&self, (epoch, first): &Self::Plan, number: usize) -> Result<Vec<f32>> {
        let place = first + number;
        let (name, bytes) = &self.pictures[place];
        let mut out = self.buffers.take(self.transform.values());
        let mut rng = stream(0, Purpose::Augmentation, *epoch, place as u64);
        let spent = self
            .transform
            .load_into(bytes, &mut rng, &mut out)
            .map_err(|e| DataError::Invalid(format!("{name}: {e}")))?;
        *self.spent() += spent;
        Ok(out)
    }

    fn collate(&self, _: &Self::Plan, samples: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>> {
        Ok(samples)
    }
}
