//! Encoding of many pairs of images and texts. Everything that depends on an image or a text alone is computed once: the embedded tokens, and
//! the queries, keys and values of the first block.

use super::{OutputTokens, Vlc};
use crate::inputs::{Inputs, Sequence};
use crate::mask::PatchMask;
use std::ops::Range;
use std::sync::Arc;
use vlct_tensor::ops::{NONE, Pick, Projections};
use vlct_tensor::{Planes, Tape, Var};

/// The embedded tokens of images or of texts, in the order in which they were given.
pub struct EmbeddedRows {
    /// `[tokens, width]`
    embedded: Var,
    /// Queries, keys and values of the first block.
    projections: Projections,
    /// First row of each image or text, followed by the total number of rows.
    offsets: Arc<[usize]>,
}

impl EmbeddedRows {
    /// Number of images or texts.
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there is no image and no text.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rows of image or text `i`.
    fn rows(&self, i: u32) -> Range<usize> {
        self.offsets[i as usize]..self.offsets[i as usize + 1]
    }

    /// Returns the embedded tokens of image or text `i`, `[tokens, width]` in row-major order. [`Vlc::embedded_images`] restores images
    /// from them.
    pub fn values(&self, i: usize) -> Vec<f32> {
        let width = self.embedded.columns();
        let rows = self.rows(i as u32);
        self.embedded.tensor().to_host()[rows.start * width..rows.end * width].to_vec()
    }
}

impl Vlc {
    /// Embeds texts, given as token ids from `[CLS]` to `[SEP]`.
    ///
    /// # Panics
    /// Panics if the tape records operations, there is no token, a text is longer than `max_text_len`, or an id is not less than
    /// `vocab_size`.
    pub fn embed_texts(&self, tape: &Tape, texts: &[&[u32]]) -> EmbeddedRows {
        let sequence = |text| Sequence {
            text: Some(text),
            image: None,
            ..Sequence::FIRST_PAIR
        };
        let sequences: Vec<Sequence> = (0..texts.len() as u32).map(sequence).collect();
        self.embed_alone(tape, Vec::new(), texts.to_vec(), &sequences)
    }

    /// Embeds images: the class token and the patches that `visible` returns for the number of patches per column and per row, or all patches
    /// if it is `None`.
    ///
    /// # Panics
    /// Panics if the tape records operations, there is no image, an image is not one for [`Vlc::encode`], or a patch is out of range.
    pub fn embed_images(
        &self,
        tape: &Tape,
        images: &[Planes],
        visible: Option<fn([usize; 2]) -> Vec<u32>>,
    ) -> EmbeddedRows {
        let side = self.config.backbone.patch_size;
        let sequence = |(i, image): (usize, &Planes)| Sequence {
            text: None,
            image: Some(i as u32),
            mask: visible.map(|visible| PatchMask {
                kept: visible(image.grid(side)),
                removed: Vec::new(),
                ids_restore: Vec::new(),
            }),
            ..Sequence::FIRST_PAIR
        };
        let sequences: Vec<Sequence> = images.iter().enumerate().map(sequence).collect();
        self.embed_alone(tape, images.to_vec(), Vec::new(), &sequences)
    }

    /// Restores embedded images from their [values](EmbeddedRows::values).
    ///
    /// # Panics
    /// Panics if the tape records operations, there is no image, or the number of values is not a multiple of the width.
    pub fn embedded_images(&self, tape: &Tape, images: &[&[f32]]) -> EmbeddedRows {
        let width = self.config.backbone.width;
        let mut offsets = vec![0];
        for image in images {
            assert!(image.len().is_multiple_of(width), "rows of another width");
            offsets.push(offsets[offsets.len() - 1] + image.len() / width);
        }
        let embedded = tape.device().tensor(offsets[images.len()], width, &images.concat());
        self.with_projections(tape, Var::constant(embedded), offsets.into())
    }

    /// Embeds sequences that have only a text or only an image.
    fn embed_alone(
        &self,
        tape: &Tape,
        images: Vec<Planes>,
        texts: Vec<&[u32]>,
        sequences: &[Sequence],
    ) -> EmbeddedRows {
        let inputs = Inputs {
            images,
            texts,
            sequences,
        };
        let packed = self.embed(tape, &inputs, None, &mut |_, _| ());
        self.with_projections(tape, packed.x, packed.offsets)
    }

    fn with_projections(&self, tape: &Tape, embedded: Var, offsets: Arc<[usize]>) -> EmbeddedRows {
        let projections = self.blocks[0].project(tape, &self.parameters, &embedded);
        EmbeddedRows {
            embedded,
            projections,
            offsets,
        }
    }

    /// Encodes pairs of a text and an image and pools them: `[pairs, width]`, the values of [`Vlc::encode_pooled`]. `pairs` has the indices of
    /// image and text.
    ///
    /// # Panics
    /// Panics if the tape records operations, there is no pair, or an index is out of range.
    pub fn encode_pairs(&self, tape: &Tape, images: &EmbeddedRows, texts: &EmbeddedRows, pairs: &[(u32, u32)]) -> Var {
        let lengths = pairs
            .iter()
            .map(|(image, text)| texts.rows(*text).len() + images.rows(*image).len());
        let mut offsets = vec![0];
        offsets.extend(lengths.scan(0, |end, length| {
            *end += length;
            Some(*end)
        }));
        let tokens = offsets[pairs.len()];
        let (mut from_texts, mut from_images) = (Vec::with_capacity(tokens), Vec::with_capacity(tokens));
        for ((image, text), end) in pairs.iter().zip(&offsets[1..]) {
            from_texts.extend(texts.rows(*text).map(|row| row as u32));
            from_images.resize(from_texts.len(), NONE);
            from_images.extend(images.rows(*image).map(|row| row as u32));
            from_texts.resize(*end, NONE);
        }
        let projections =
            tape.gather_projections(&[(&texts.projections, &from_texts), (&images.projections, &from_images)]);
        let pick = |from, rows: Vec<u32>| Pick {
            from,
            rows: rows.into(),
        };
        let x = tape.gather(&[pick(&texts.embedded, from_texts), pick(&images.embedded, from_images)]);
        let (projections, output) = (Some(projections), OutputTokens::First);
        let first = self.encode_rows(tape, &x, &offsets.into(), projections, output, &mut |_, _| ());
        self.pool_first(tape, &first)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{image, inputs, small_model};
    use super::*;
    use crate::config::Heads;
    use vlct_golden::assert_close;
    use vlct_tensor::{Compute, Precision};

    /// Compares two results: bit by bit in bfloat16; in f32, the order of sums of small products depends on the number of rows.
    fn assert_equal(name: &str, got: &Var, want: &Var, precision: Precision) {
        let (got, want) = (got.tensor().to_host(), want.tensor().to_host());
        match precision {
            Precision::F32 => assert_close(name, &got, &want, 1e-6),
            Precision::Bf16 => assert_eq!(got, want, "{name}"),
        }
    }

    #[test]
    fn pairs_have_the_values_of_packed_sequences() {
        for (depth, precision) in [(1, Precision::F32), (3, Precision::F32), (3, Precision::Bf16)] {
            let mut model = small_model(Heads::default(), depth);
            model.set_compute(Compute {
                precision,
                ..Compute::default()
            });
            let images: Vec<Vec<f32>> = (1..4).map(image).collect();
            let texts: Vec<Vec<u32>> = (0..5).map(|i| (1..3 + i).map(|j| (7 * i + j) % 50).collect()).collect();
            let pairs = [(2, 0), (0, 0), (0, 4), (1, 2), (2, 0), (0, 1)];
            let three: fn([usize; 2]) -> Vec<u32> = |_| vec![3, 0, 7];
            for visible in [None, Some(three)] {
                let sequence = |(image, text)| Sequence {
                    text: Some(text),
                    image: Some(image),
                    mask: visible.map(|kept| PatchMask {
                        kept: kept([3, 3]),
                        removed: Vec::new(),
                        ids_restore: Vec::new(),
                    }),
                    ..Sequence::FIRST_PAIR
                };
                let sequences: Vec<Sequence> = pairs.into_iter().map(sequence).collect();
                let inputs = inputs(&images, &texts, &sequences);
                let tape = Tape::inference(model.compute());
                let want = model.encode_pooled(&tape, &inputs, None);
                let embedded = model.embed_images(&tape, &inputs.images, visible);
                let embedded_texts = model.embed_texts(&tape, &inputs.texts);
                assert_eq!((embedded.len(), embedded_texts.len()), (3, 5));
                let got = model.encode_pairs(&tape, &embedded, &embedded_texts, &pairs);
                assert_equal("pairs", &got, &want, precision);

                let values: Vec<Vec<f32>> = (0..3).map(|i| embedded.values(i)).collect();
                let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
                let restored = model.embedded_images(&tape, &values);
                let got = model.encode_pairs(&tape, &restored, &embedded_texts, &pairs);
                assert_equal("restored images", &got, &want, precision);
            }
        }
    }
}
