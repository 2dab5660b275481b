//! The configuration of synthetic datasets.

use image::RgbImage;

use crate::{DataError, Result};
use vlct_image::{encode_jpeg, encode_png};

/// Maximum number of images of a set, so that its scene indices are disjoint from those of other sets.
const MAX_IMAGES: usize = 1 << 32;
/// Range of the side of an image in pixels.
const SIDES: std::ops::RangeInclusive<u32> = 16..=1024;

/// The file format of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageFormat {
    /// PNG, which is lossless.
    Png,
    /// JPEG of the given quality, 1 to 100.
    Jpeg(u8),
}

/// The configuration of [`write`](super::write()). Counts are numbers of images, or of pairs for NLVR2.
///
/// If the training count of a dataset is 0, the files of the dataset are not written. Otherwise all counts of the dataset must be at
/// least 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntheticConfig {
    /// The seed of all scenes and texts.
    pub seed: u64,
    /// Width and height of the images in pixels, 16 to 1024.
    pub side: u32,
    /// The file format of the images.
    pub format: ImageFormat,
    /// Captioned images in `coco_caption_karpathy_train`.
    pub train: usize,
    /// Captioned images in `coco_caption_karpathy_restval`, which the dataset `coco` adds to the training images.
    pub restval: usize,
    /// Captioned images in `coco_caption_karpathy_val`.
    pub val: usize,
    /// Captioned images in `coco_caption_karpathy_test`, on which `coco` validates and tests.
    pub test: usize,
    /// Images with questions in `vqav2_train`.
    pub vqa_train: usize,
    /// Images with questions in `vqav2_val`, at least 2. The first half is also in `vqav2_trainable_val`, the second half in
    /// `vqav2_rest_val`.
    pub vqa_val: usize,
    /// Images with questions, but without answers, in `vqav2_test`. The file `vqav2_test-dev` has the same images and
    /// questions.
    pub vqa_test: usize,
    /// Pairs in `nlvr2_train`.
    pub nlvr2_train: usize,
    /// Pairs in each of `nlvr2_dev` and `nlvr2_test1`, at least 2. Each pair is also written to the balanced or the unbalanced file
    /// of its split, alternately.
    pub nlvr2_dev: usize,
    /// Images in `colors_train_0`, a dataset of labels: objects of one colour, with a text that does not name it.
    pub labels_train: usize,
    /// Images in each of `colors_val_0` and `colors_test_0`.
    pub labels_test: usize,
    /// Images in `classes/train/CLASS/`, with objects of one shape each.
    pub class_train: usize,
    /// Images in `classes/val/CLASS/`.
    pub class_val: usize,
}

impl Default for SyntheticConfig {
    /// Returns a configuration of 20,000 captioned training images, 200 images each for validation and test, and smaller sets for the
    /// other tasks. Images are PNG files of 72×72 pixels, so that random crops have a side of about 64 pixels.
    fn default() -> Self {
        SyntheticConfig {
            seed: 0,
            side: 72,
            format: ImageFormat::Png,
            train: 18_000,
            restval: 2_000,
            val: 200,
            test: 200,
            vqa_train: 5_000,
            vqa_val: 400,
            vqa_test: 200,
            nlvr2_train: 5_000,
            nlvr2_dev: 200,
            labels_train: 5_000,
            labels_test: 300,
            class_train: 3_600,
            class_val: 360,
        }
    }
}

impl SyntheticConfig {
    /// Checks the ranges of all fields.
    ///
    /// # Errors
    /// Returns [`DataError::Invalid`] with the name of a field that is out of range.
    pub fn check(&self) -> Result<()> {
        let invalid = |reason: String| Err(DataError::Invalid(format!("synthetic data: {reason}")));
        if !SIDES.contains(&self.side) {
            return invalid(format!(
                "side {} is not in {}..={}",
                self.side,
                SIDES.start(),
                SIDES.end()
            ));
        }
        if let ImageFormat::Jpeg(quality) = self.format
            && !(1..=100).contains(&quality)
        {
            return invalid(format!("JPEG quality {quality} is not in 1..=100"));
        }
        let check_dataset = |name: &str, train: usize, others: &[(&str, usize, usize)]| {
            if train > MAX_IMAGES {
                return invalid(format!("{name} is {train}, the maximum is {MAX_IMAGES}"));
            }
            for &(other, count, min) in others {
                if train > 0 && !(min..=MAX_IMAGES).contains(&count) {
                    return invalid(format!(
                        "{other} is {count} but {name} is {train}: give {min} to {MAX_IMAGES}"
                    ));
                }
            }
            Ok(())
        };
        let captioned = [
            ("restval", self.restval, 1),
            ("val", self.val, 1),
            ("test", self.test, 1),
        ];
        check_dataset("train", self.train, &captioned)?;
        let vqa = [("vqa_val", self.vqa_val, 2), ("vqa_test", self.vqa_test, 1)];
        check_dataset("vqa_train", self.vqa_train, &vqa)?;
        check_dataset("nlvr2_train", self.nlvr2_train, &[("nlvr2_dev", self.nlvr2_dev, 2)])?;
        let labels = [("labels_test", self.labels_test, 1)];
        check_dataset("labels_train", self.labels_train, &labels)?;
        check_dataset("class_train", self.class_train, &[("class_val", self.class_val, 1)])?;
        Ok(())
    }

    /// Returns the number of images that [`write`](super::write()) renders.
    pub fn image_count(&self) -> u64 {
        let dataset_images = |train: usize, all: &[usize]| {
            if train > 0 {
                all.iter().map(|&n| n as u64).sum()
            } else {
                0
            }
        };
        dataset_images(self.train, &[self.train, self.restval, self.val, self.test])
            + dataset_images(self.vqa_train, &[self.vqa_train, self.vqa_val, self.vqa_test])
            + 2 * dataset_images(self.nlvr2_train, &[self.nlvr2_train, self.nlvr2_dev, self.nlvr2_dev])
            + dataset_images(
                self.labels_train,
                &[self.labels_train, self.labels_test, self.labels_test],
            )
            + dataset_images(self.class_train, &[self.class_train, self.class_val])
    }
}

impl ImageFormat {
    /// Returns the extension of file names.
    pub(super) fn extension(self) -> &'static str {
        match self {
            ImageFormat::Png => "png",
            ImageFormat::Jpeg(_) => "jpg",
        }
    }

    /// Encodes an image in this format.
    pub(super) fn encode(self, image: &RgbImage) -> Result<Vec<u8>> {
        match self {
            ImageFormat::Png => Ok(encode_png(image)?),
            ImageFormat::Jpeg(quality) => Ok(encode_jpeg(image, quality)?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_fields_out_of_range_by_name() {
        let assert_rejected = |config: SyntheticConfig, word: &str| {
            let error = config.check().unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        };
        assert_rejected(
            SyntheticConfig {
                side: 8,
                ..SyntheticConfig::default()
            },
            "side 8",
        );
        assert_rejected(
            SyntheticConfig {
                format: ImageFormat::Jpeg(0),
                ..SyntheticConfig::default()
            },
            "quality 0",
        );
        assert_rejected(
            SyntheticConfig {
                test: 0,
                ..SyntheticConfig::default()
            },
            "test is 0",
        );
        assert_rejected(
            SyntheticConfig {
                vqa_val: 1,
                ..SyntheticConfig::default()
            },
            "vqa_val is 1",
        );
        assert!(SyntheticConfig::default().check().is_ok());
    }
}
