//! Measures how fast a loader turns image files into normalised values.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::buffers::Buffers;
use super::{Job, Pipeline, Pixels, Position, Share};
use crate::arrow::ArrowTable;
use crate::random::{Purpose, stream};
use crate::{DataError, Result};
use vlct_image::{EXTENSIONS, StageTimes, Transform};
use vlct_util::IoError;

/// Reading stops at this many bytes, because all images are kept in memory during the measurement.
const MAX_BYTES: usize = 64 << 20;
/// Columns of Arrow files that hold images.
const COLUMNS: [&str; 3] = ["image", "image_0", "image_1"];
/// Images per batch.
const BATCH: usize = 8;
/// Maximum number of batches made before they are requested.
const PREFETCH: usize = 4;

/// Image files in memory.
#[derive(Debug, Default)]
pub struct Images {
    /// The source of each image (path; for an Arrow file also row and column), and the bytes of its file.
    files: Vec<(String, Vec<u8>)>,
    /// Total size of the files.
    bytes: usize,
}

impl Images {
    /// Reads images in order until 64 MiB are read. `paths` are image files, `.arrow` files, and directories of such files (without
    /// their subdirectories).
    ///
    /// # Errors
    /// Returns an error if a path cannot be read, an Arrow file is damaged, or there is no image.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut images = Self::default();
        for path in paths {
            if path.is_dir() {
                for file in image_files(path)? {
                    images.add(&file)?;
                }
            } else {
                images.add(path)?;
            }
        }
        if images.files.is_empty() {
            let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            return Err(DataError::Invalid(format!(
                "no images in {}; give image files, .arrow files, or directories of them",
                names.join(", ")
            )));
        }
        Ok(images)
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
            for column in COLUMNS.into_iter().filter(|c| table.has_typed_column(c)) {
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

/// The image and Arrow files of a directory, sorted.
fn image_files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|e| io(directory, e))? {
        let path = entry.map_err(|e| io(directory, e))?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if extension.is_some_and(|e| {
            e.eq_ignore_ascii_case("arrow") || EXTENSIONS.iter().any(|known| e.eq_ignore_ascii_case(known))
        }) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Result of [`measure`].
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Number of measured images.
    pub images: u64,
    /// Wall-clock time.
    pub time: Duration,
    /// Time of each stage, summed over the threads.
    pub spent: StageTimes,
}

/// Loads the images repeatedly on the threads of a loader for `duration`, after one epoch that is not measured. The memory of images is
/// reused, as in training.
///
/// # Errors
/// Returns an error that names the image if an image cannot be decoded, or an error if a thread cannot be started.
pub fn measure(images: Images, transform: Transform, threads: usize, duration: Duration) -> Result<Rate> {
    let job = Repeat {
        images: images.files,
        transform,
        buffers: Arc::new(Buffers::new(2 * BATCH)),
        spent: Mutex::default(),
    };
    let mut pipeline = Pipeline::new(job, Position::default(), None, Share::ALL, threads, PREFETCH)?;
    for _ in 0..pipeline.job().epoch_len() {
        take_batch(&mut pipeline)?;
    }
    *pipeline.job().spent() = StageTimes::default();
    let start = Instant::now();
    let mut count = 0;
    while count == 0 || start.elapsed() < duration {
        count += take_batch(&mut pipeline)?;
    }
    let time = start.elapsed();
    let spent = *pipeline.job().spent();
    Ok(Rate {
        images: count,
        time,
        spent,
    })
}

/// Takes a batch and drops it. Returns its number of images.
fn take_batch(pipeline: &mut Pipeline<Repeat>) -> Result<u64> {
    let batch = pipeline.next().transpose()?.unwrap_or_default();
    Ok(batch.len() as u64)
}

/// The job of loading the same images in each epoch.
struct Repeat {
    images: Vec<(String, Vec<u8>)>,
    transform: Transform,
    buffers: Arc<Buffers>,
    spent: Mutex<StageTimes>,
}

impl Repeat {
    fn spent(&self) -> MutexGuard<'_, StageTimes> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job for Repeat {
    /// Epoch, and index of the first image.
    type Plan = (u64, usize);
    type Sample = Pixels;
    type Batch = Vec<Pixels>;

    fn epoch_len(&self) -> u64 {
        self.images.len().div_ceil(BATCH) as u64
    }

    fn plan(&self, position: Position) -> (usize, Self::Plan) {
        let first = position.batch as usize * BATCH;
        ((self.images.len() - first).min(BATCH), (position.epoch, first))
    }

    fn sample(&self, (epoch, first): &Self::Plan, index: usize) -> Result<Pixels> {
        let index = first + index;
        let (name, bytes) = &self.images[index];
        let mut rng = stream(0, Purpose::Augmentation, *epoch, index as u64);
        let (out, spent) = self
            .transform
            .load(bytes, vlct_image::Reading::default(), &mut rng, |size| {
                self.buffers.take(size)
            })
            .map_err(|e| DataError::Invalid(format!("{name}: {e}")))?;
        *self.spent() += spent;
        Ok(out)
    }

    fn collate(&self, _: &Self::Plan, samples: Vec<Pixels>) -> Result<Vec<Pixels>> {
        Ok(samples)
    }
}
