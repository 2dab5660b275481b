//! Images that are copied to the device while it computes, on a stream of their own and into memory of their own.
//!
//! The stream of the computation waits for a copy when it first reads it. The memory of a copy is used again after the work that was
//! submitted before the copy was dropped.

use super::{Cuda, complete};
use crate::tensor::Planes;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vlct_cuda::context::{Context, Moment};
use vlct_cuda::driver::Result;
use vlct_cuda::patches::Images;

/// The address and the size in pixels of an image in host memory.
type Place = (usize, usize, usize);

fn place(image: &Planes) -> Place {
    (image.values.as_ptr() as usize, image.height, image.width)
}

/// Images without repetitions, and the index of each place.
pub(super) struct Distinct<'a> {
    pub images: Vec<Planes<'a>>,
    indices: HashMap<Place, usize>,
}

impl<'a> Distinct<'a> {
    pub fn of(images: impl Iterator<Item = Planes<'a>>) -> Self {
        let mut distinct = Self {
            images: Vec::new(),
            indices: HashMap::new(),
        };
        for image in images {
            distinct.indices.entry(place(&image)).or_insert_with(|| {
                distinct.images.push(image);
                distinct.images.len() - 1
            });
        }
        distinct
    }

    /// Returns the index of an image.
    pub fn index_of(&self, image: &Planes) -> Option<usize> {
        self.indices.get(&place(image)).copied()
    }
}

/// Images that were copied together.
pub(super) struct Uploaded {
    pub images: Images,
    indices: HashMap<Place, usize>,
    /// The end of the copy in the stream of copies.
    end: Moment,
}

impl Uploaded {
    /// Returns the index of an image.
    pub fn index_of(&self, image: &Planes) -> Option<usize> {
        self.indices.get(&place(image)).copied()
    }

    /// Makes the computation wait for the copy.
    pub fn wait(&self, computation: &Context) -> Result<()> {
        computation.wait_for(&self.end)
    }
}

/// The copies that exist.
pub(super) struct Uploads {
    context: Context,
    existing: Arc<Mutex<Vec<Arc<Uploaded>>>>,
}

fn lock(existing: &Mutex<Vec<Arc<Uploaded>>>) -> MutexGuard<'_, Vec<Arc<Uploaded>>> {
    existing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Uploads {
    /// Prepares copies to the device of a computation.
    pub fn new(computation: &Context) -> Result<Self> {
        Ok(Self {
            context: computation.with_own_stream()?,
            existing: Arc::default(),
        })
    }

    /// Returns a copy that has all images.
    pub fn find<'a>(&self, images: impl Iterator<Item = &'a Planes<'a>> + Clone) -> Option<Arc<Uploaded>> {
        lock(&self.existing)
            .iter()
            .find(|uploaded| images.clone().all(|image| uploaded.index_of(image).is_some()))
            .cloned()
    }

    /// Returns the largest number of bytes that copies have allocated at once.
    pub fn peak_memory(&self) -> usize {
        self.context.peak_memory()
    }

    /// Returns unused memory to the device.
    pub fn release_unused(&self) {
        self.context.release_unused();
    }
}

/// A copy that is used until this value is dropped.
struct Guard {
    uploaded: Arc<Uploaded>,
    existing: Arc<Mutex<Vec<Arc<Uploaded>>>>,
    copies: Context,
    computation: Context,
}

impl Drop for Guard {
    fn drop(&mut self) {
        lock(&self.existing).retain(|uploaded| !Arc::ptr_eq(uploaded, &self.uploaded));
        // Submitted work may read the memory. If the device has failed, so has the computation, which reports the error.
        let _ = self.computation.record().and_then(|read| self.copies.wait_for(&read));
    }
}

impl Cuda {
    /// Copies images to the device while it computes. [`Cuda::extract_patches`] uses the copy until the returned value is dropped.
    pub(super) fn upload_ahead(&self, images: &[Planes]) -> Box<dyn Send> {
        let Distinct { images, indices } = Distinct::of(images.iter().copied());
        let uploads = &self.uploads;
        let images = complete(Images::upload(&uploads.context, &images));
        let uploaded = Arc::new(Uploaded {
            images,
            indices,
            end: complete(uploads.context.record()),
        });
        lock(&uploads.existing).push(Arc::clone(&uploaded));
        Box::new(Guard {
            uploaded,
            existing: Arc::clone(&uploads.existing),
            copies: uploads.context.clone(),
            computation: self.context.clone(),
        })
    }
}
