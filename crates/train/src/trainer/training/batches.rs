//! The batches of a rank, whose images are copied to a GPU while it computes the batch before.

use vlct_model::Planes;
use vlct_tasks::{Batch, Loader, planes};
use vlct_tensor::{Device, UploadedImages};

/// The result of the loader.
type Loaded = Option<vlct_data::Result<Batch>>;

/// A batch and the copy of its images on the device. The copy is dropped first, because it refers to the images.
pub(super) struct UploadedBatch {
    _images: Option<UploadedImages>,
    pub batch: Batch,
}

/// A loader and the batch that it has loaded ahead.
pub(super) struct Batches {
    loader: Loader,
    device: Device,
    has_own_memory: bool,
    /// The copy is dropped first.
    ahead: Option<(Option<UploadedImages>, Loaded)>,
}

impl Batches {
    pub fn new(loader: Loader, device: Device) -> Self {
        Self {
            loader,
            device,
            has_own_memory: device.own_memory().is_some(),
            ahead: None,
        }
    }

    /// Returns the next batch; `None` if there is none.
    ///
    /// # Errors
    /// Returns the errors of the loader.
    pub fn next(&mut self) -> vlct_data::Result<Option<UploadedBatch>> {
        let (images, loaded) = match self.ahead.take() {
            Some(ahead) => ahead,
            None => (None, self.loader.next()),
        };
        let batch = loaded.transpose()?;
        Ok(batch.map(|batch| UploadedBatch { _images: images, batch }))
    }

    /// Loads the next batch now and starts the copy of its images. Does nothing on a device without memory of its own, for which the threads
    /// of the loader work ahead.
    pub fn load_ahead(&mut self) {
        if self.ahead.is_some() || !self.has_own_memory {
            return;
        }
        let loaded = self.loader.next();
        let images = match &loaded {
            Some(Ok(batch)) => {
                let images: Vec<Planes> = batch.images.iter().map(planes).collect();
                self.device.upload_images(&images)
            }
            _ => None,
        };
        self.ahead = Some((images, loaded));
    }

    pub fn wait_time(&self) -> std::time::Duration {
        self.loader.wait_time()
    }
}
