//! Caption datasets: COCO, Flickr30k, Visual Genome, SBU, GCC, the large set's, and one's own.

use std::borrow::Cow;

use super::contents::Captions;
use super::items::{ItemDataset, Location};
use crate::webdataset::TarCounts;
use crate::{DataError, Result};

/// Pictures and captions. An item is a picture with one of its distinct captions, in the order of their first occurrence in the
/// row (the original's order within a row is arbitrary).
pub type CaptionDataset = ItemDataset<Captions>;

impl CaptionDataset {
    /// The caption of item `index`.
    ///
    /// # Errors
    /// No such item, or a damaged file.
    pub fn caption(&self, index: usize) -> Result<String> {
        self.caption_at(&self.locate(index)?)
    }

    /// The picture of item `index`: the bytes of its file.
    ///
    /// # Errors
    /// No such item, or a row without a picture.
    pub fn image(&self, index: usize) -> Result<&[u8]> {
        self.image_at(&self.locate(index)?)
    }

    /// The caption at a location that [`Self::locate`] gave.
    ///
    /// # Errors
    /// No such place, or a damaged file.
    pub fn caption_at(&self, at: &Location) -> Result<String> {
        let caption = self.captions_at(at)?.into_iter().nth(at.text);
        caption
            .map(Cow::into_owned)
            .ok_or_else(|| DataError::Invalid(format!("there is no caption {} in row {}", at.text, at.row)))
    }

    /// All distinct captions of the row at a location that [`Self::locate_row`] gave.
    ///
    /// # Errors
    /// No such place, or a damaged file.
    pub fn captions_at(&self, at: &Location) -> Result<Vec<Cow<'_, str>>> {
        self.texts_at(at)
    }

    /// The picture at a location that [`Self::locate`] gave: the bytes of its file.
    ///
    /// # Errors
    /// No such place, or a row without a picture.
    pub fn image_at(&self, at: &Location) -> Result<&[u8]> {
        self.image_in(at, "image")
    }

    /// The name of the picture at a location: `image_id` of an Arrow file, mostly the name of the picture's file.
    ///
    /// # Errors
    /// A file without that column.
    pub fn image_id_at(&self, at: &Location) -> Result<Option<String>> {
        self.file(at)?.image_id(at.row)
    }

    /// What the tars among the files hold, with what was left out of them.
    pub fn tar_counts(&self) -> TarCounts {
        let counts = self.files().filter_map(|file| file.tar_counts());
        counts.fold(TarCounts::default(), |sum, counts| TarCounts {
            samples: sum.samples + counts.samples,
            without_caption: sum.without_caption + counts.without_caption,
            without_image: sum.without_image + counts.without_image,
            others: sum.others + counts.others,
        })
    }
}
