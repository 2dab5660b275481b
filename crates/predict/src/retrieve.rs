//! Ranking of images for a text, and of texts for an image.
//!
//! Images are embedded once for all texts, by [`PairScorer`]. Embedded images can be kept in a directory, under the content of their files,
//! so that a later query does not decode them again.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use vlct_data::loader::Pixels;
use vlct_tasks::planes;
use vlct_tasks::scoring::PairScorer;
use vlct_tensor::Precision;
use vlct_util::{IoError, at, atomic, read_at_most};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::preparation::MAX_IMAGE_BYTES;
use crate::{Head, Predictor, Preparation, Result};

/// Version of the cached files, which is part of their names.
const CACHE_VERSION: u8 = 4;
/// The parameters that determine an embedded image.
const EMBEDDING: [&str; 5] = [
    "transformer.patch_embed.proj.weight",
    "transformer.patch_embed.proj.bias",
    "transformer.cls_token",
    "transformer.pos_embed",
    "token_type_embeddings.weight",
];

/// Ranks images and texts.
pub struct Retrieval<'p> {
    scorer: PairScorer<'p>,
}

/// An image that was read: its embedded tokens from the cache, or its pixels.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadImage {
    /// Embedded tokens `[1 + patches, width]`.
    Embedded(Vec<f32>),
    /// Normalised values, and the cache file that the embedded tokens are written to.
    Pixels(Pixels, Option<PathBuf>),
}

impl<'p> Retrieval<'p> {
    /// The heads one of which the predictor must have; the ranking head is preferred.
    pub const HEADS: [Head; 2] = [Head::Ranking, Head::Matching];

    /// Makes the task.
    ///
    /// # Errors
    /// Returns an error if the model has neither a ranking nor a matching head.
    pub fn new(predictor: &'p Predictor) -> Result<Self> {
        predictor.require(&Self::HEADS)?;
        Ok(Self {
            scorer: PairScorer::new(predictor.model()),
        })
    }

    /// Returns the scores of all pairs, one row per image with the scores of all texts. The texts are token ids from `[CLS]` to `[SEP]`.
    /// Embedded images are written to their cache files. A score is the output of the ranking head; without one, the matching logit that
    /// the text belongs to the image.
    ///
    /// # Errors
    /// Returns an error if a cache file cannot be written.
    pub fn scores(&self, images: &[ReadImage], texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        if images.is_empty() || texts.is_empty() {
            return Ok(vec![Vec::new(); images.len()]);
        }
        let mut rows = Vec::with_capacity(images.len());
        for image in images {
            rows.push(match image {
                ReadImage::Embedded(rows) => rows.clone(),
                ReadImage::Pixels(pixels, file) => {
                    let rows = self.scorer.embed_images(&[planes(pixels)]).values(0);
                    if let Some(path) = file {
                        write_rows(path, &rows).map_err(at::<IoError>(path))?;
                    }
                    rows
                }
            });
        }
        let views: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let embedded = self.scorer.restore_images(&views);
        let scores = self
            .scorer
            .score_all(&embedded, texts, &AtomicBool::new(false), &mut |_| ());
        let scores = scores.unwrap_or_else(|| unreachable!("nothing stops the scoring"));
        Ok(scores.chunks_exact(texts.len()).map(<[f32]>::to_vec).collect())
    }
}

/// A directory of embedded images. The name of a file is a hash of everything that determines its content: the image file, the weights of
/// the image embedding and the preparation of images. A changed image therefore has another file; files can be deleted at any time.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
    fingerprint: u128,
    /// Number of values of a token.
    width: usize,
}

impl Cache {
    /// Opens the cache of a model; the directory is created.
    ///
    /// # Errors
    /// Returns an error if the directory cannot be created.
    pub fn open(directory: &Path, predictor: &Predictor) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(at::<IoError>(directory))?;
        let (model, preparation) = (predictor.model(), predictor.preparation());
        let mut hash = Xxh3::new();
        let settings = [CACHE_VERSION, u8::from(model.compute().precision == Precision::Bf16)];
        hash.update(&settings);
        hash.update(format!("{:?}", preparation.reading()).as_bytes());
        hash.update(format!("{:?}", preparation.transform).as_bytes());
        for name in EMBEDDING {
            let parameters = model.parameters();
            if let Some(id) = parameters.id(name) {
                for value in parameters.tensor(id).to_host().iter() {
                    hash.update(&value.to_le_bytes());
                }
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            fingerprint: hash.digest128(),
            width: model.config().backbone.width,
        })
    }

    /// Returns the file of the embedded image of an image file with this content.
    fn path(&self, bytes: &[u8]) -> PathBuf {
        let mut hash = Xxh3::new();
        hash.update(&self.fingerprint.to_le_bytes());
        hash.update(bytes);
        self.directory.join(format!("{:032x}.rows", hash.digest128()))
    }

    /// Returns the embedded tokens in a cache file; `None` if the file does not exist or is damaged.
    fn read(&self, path: &Path) -> Option<Vec<f32>> {
        let bytes = std::fs::read(path).ok()?;
        let (checksum, values) = bytes.split_first_chunk::<8>()?;
        let is_whole = !values.is_empty()
            && values.len().is_multiple_of(size_of::<f32>() * self.width)
            && xxh3_64(values) == u64::from_le_bytes(*checksum);
        let (values, _) = values.as_chunks::<4>();
        is_whole.then(|| values.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }
}

/// Writes a cache file: the XXH3 hash of the values, then the values as little-endian f32.
fn write_rows(path: &Path, rows: &[f32]) -> io::Result<()> {
    let bytes: Vec<u8> = rows.iter().flat_map(|value| value.to_le_bytes()).collect();
    atomic::write(path, |out| {
        out.write_all(&xxh3_64(&bytes).to_le_bytes())?;
        out.write_all(&bytes)
    })
}

/// Reads an image file: from the cache, if it has its content, else by decoding it.
///
/// # Errors
/// Returns an error that names the file if it cannot be read or is not an image.
pub fn read_image(path: &Path, preparation: &Preparation, cache: Option<&Cache>) -> Result<ReadImage> {
    let bytes = read_at_most(path, MAX_IMAGE_BYTES, "an image file")?;
    let file = cache.map(|cache| cache.path(&bytes));
    if let (Some(cache), Some(file)) = (cache, &file)
        && let Some(rows) = cache.read(file)
    {
        return Ok(ReadImage::Embedded(rows));
    }
    let image = preparation.image_from_bytes(path, &bytes)?;
    Ok(ReadImage::Pixels(image.values, file))
}
