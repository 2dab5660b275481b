//! The order in which pairs are scored: tiles of a few images and a few texts.
//!
//! The order is a function of the numbers of images and texts, the lengths of the texts and the sizes of the model, so that an interrupted
//! scoring continues with the same forward passes.

use std::ops::Range;

use vlct_model::VlcConfig;

/// Memory for the embedded tokens of the images of a block, and for those of the texts of a tile, in bytes.
const EMBEDDED_BYTES: usize = 64 << 20;

/// Maximum number of images per block.
const MAX_IMAGES: usize = 32;

/// Tokens of a forward pass. With more tokens, passes take longer to stop, and the activations of a small model leave the caches.
const TOKENS_PER_PASS: usize = 4096;

/// The texts with which each image is scored.
pub(super) enum Selection {
    /// All texts.
    All,
    /// For each image, the indices of texts in ascending order.
    Lists(Vec<Vec<u32>>),
}

/// All pairs to score, in order: blocks of images; within a block, tiles of some of the texts; within a tile, image by image.
pub(super) struct Plan {
    images: usize,
    /// Number of tokens of each text.
    text_lengths: Vec<usize>,
    /// Number of tokens of an image.
    image_length: usize,
    selection: Selection,
    /// Number of images per block; the last block may have fewer.
    block_len: usize,
    /// Maximum number of tokens of the texts of a tile, if it has more than one text.
    tile_tokens: usize,
    /// Index of the first pair of each block, followed by the number of pairs.
    starts: Vec<u64>,
}

/// Pairs of a few images and a few texts.
pub(super) struct Tile {
    /// Indices of the texts.
    pub texts: Vec<u32>,
    /// Index of the image in the block, and index in `texts`.
    pub pairs: Vec<(u32, u32)>,
}

impl Plan {
    /// Plans the scoring of `images` images, of which `image_length` tokens are used, with texts of these lengths.
    pub fn new(
        config: &VlcConfig,
        images: usize,
        image_length: usize,
        text_lengths: Vec<usize>,
        selection: Selection,
    ) -> Self {
        // A token has a row of the width, and queries, keys and values. In bfloat16, the latter take half the memory.
        let token_bytes = 4 * config.backbone.width * size_of::<f32>();
        let tile_tokens = EMBEDDED_BYTES / token_bytes;
        let block_len = (tile_tokens / image_length.max(1)).clamp(1, MAX_IMAGES);
        let mut plan = Self {
            images,
            text_lengths,
            image_length,
            selection,
            block_len,
            tile_tokens,
            starts: vec![0],
        };
        for block in 0..images.div_ceil(block_len) {
            let pairs: u64 = plan
                .block_images(block)
                .map(|image| plan.text_count(image) as u64)
                .sum();
            plan.starts.push(plan.starts[block] + pairs);
        }
        plan
    }

    /// Plans the scoring of the images of one block with all texts.
    pub fn of_block(config: &VlcConfig, images: usize, image_length: usize, text_lengths: Vec<usize>) -> Self {
        let mut plan = Self::new(config, images, image_length, text_lengths, Selection::All);
        plan.block_len = images;
        plan.starts = vec![0, (images * plan.text_lengths.len()) as u64];
        plan
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Number of pairs.
    pub fn pairs(&self) -> u64 {
        self.starts[self.blocks()]
    }

    /// Number of blocks of images.
    pub fn blocks(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of images per block; the last block may have fewer.
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// Returns the images of a block.
    pub fn block_images(&self, block: usize) -> Range<usize> {
        let first = block * self.block_len;
        first..(first + self.block_len).min(self.images)
    }

    /// Returns the indices of a block's pairs in the order of all pairs.
    pub fn block_pairs(&self, block: usize) -> Range<u64> {
        self.starts[block]..self.starts[block + 1]
    }

    /// Returns the block with pair `pair`; the number of blocks if there is no such pair.
    pub fn block_of(&self, pair: u64) -> usize {
        self.starts[1..].partition_point(|end| *end <= pair)
    }

    /// Returns the first pair of the forward pass that has pair `pair`; the number of pairs if there is no such pair.
    pub fn pass_start(&self, pair: u64) -> u64 {
        let block = self.block_of(pair);
        if block == self.blocks() {
            return self.pairs();
        }
        let mut first = self.starts[block];
        for tile in self.tiles(block) {
            let in_tile = pair - first;
            if in_tile < tile.pairs.len() as u64 {
                let mut starts = self.passes(&tile).map(|pass| pass.start as u64);
                return first + starts.rfind(|start| *start <= in_tile).unwrap_or(0);
            }
            first += tile.pairs.len() as u64;
        }
        first
    }

    /// Number of texts with which an image is scored.
    fn text_count(&self, image: usize) -> usize {
        match &self.selection {
            Selection::All => self.text_lengths.len(),
            Selection::Lists(lists) => lists[image].len(),
        }
    }

    /// Returns the indices of the texts with which an image is scored, in ascending order.
    pub fn texts_of(&self, image: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.text_count(image)).map(move |i| match &self.selection {
            Selection::All => i,
            Selection::Lists(lists) => lists[image][i] as usize,
        })
    }

    /// Returns the tiles of a block that have pairs.
    pub fn tiles(&self, block: usize) -> impl Iterator<Item = Tile> + '_ {
        let images = self.block_images(block);
        let texts: Vec<u32> = match &self.selection {
            Selection::All => (0..self.text_lengths.len() as u32).collect(),
            Selection::Lists(lists) => {
                let mut texts = lists[images.clone()].concat();
                texts.sort_unstable();
                texts.dedup();
                texts
            }
        };
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = next;
            let mut tokens = 0;
            while next < texts.len() && (next == first || tokens + self.text_length(texts[next]) <= self.tile_tokens) {
                tokens += self.text_length(texts[next]);
                next += 1;
            }
            (next > first).then(|| self.tile(&images, &texts[first..next]))
        })
    }

    fn text_length(&self, text: u32) -> usize {
        self.text_lengths[text as usize]
    }

    fn tile(&self, images: &Range<usize>, texts: &[u32]) -> Tile {
        let mut pairs = Vec::new();
        for (i, image) in images.clone().enumerate() {
            match &self.selection {
                Selection::All => pairs.extend((0..texts.len() as u32).map(|t| (i as u32, t))),
                Selection::Lists(lists) => {
                    // `texts` are consecutive texts of the sorted union of the lists.
                    let list = &lists[image];
                    let start = list.partition_point(|text| *text < texts[0]);
                    let end = list.partition_point(|text| *text <= texts[texts.len() - 1]);
                    let position = |text: &u32| texts.partition_point(|t| t < text) as u32;
                    pairs.extend(list[start..end].iter().map(|text| (i as u32, position(text))));
                }
            }
        }
        Tile {
            texts: texts.to_vec(),
            pairs,
        }
    }

    /// Divides the pairs of a tile into passes with equal numbers of pairs, and with about [`TOKENS_PER_PASS`] tokens or fewer.
    pub fn passes(&self, tile: &Tile) -> impl DoubleEndedIterator<Item = Range<usize>> + use<> {
        let text_tokens = |pair: &(u32, u32)| self.text_length(tile.texts[pair.1 as usize]);
        let pairs = tile.pairs.len();
        let tokens = pairs * self.image_length + tile.pairs.iter().map(text_tokens).sum::<usize>();
        let passes = tokens.div_ceil(TOKENS_PER_PASS).min(pairs);
        (0..passes).map(move |i| i * pairs / passes..(i + 1) * pairs / passes)
    }

    /// Arranges the scores of a block, in the order of the pairs, by image. Returns for each image the scores of its texts, whose indices
    /// ascend.
    pub fn rows(&self, block: usize, scores: &[f32]) -> Vec<Vec<f32>> {
        let images = self.block_images(block);
        let mut rows: Vec<Vec<f32>> = images.map(|image| Vec::with_capacity(self.text_count(image))).collect();
        let pairs = self.tiles(block).flat_map(|tile| tile.pairs);
        for ((image, _), score) in pairs.zip(scores) {
            rows[image as usize].push(*score);
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use vlct_model::config::{Backbone, Heads};

    fn config(width: usize) -> VlcConfig {
        VlcConfig {
            image_size: 64,
            backbone: Backbone {
                patch_size: 8,
                width,
                depth: 1,
                heads: 1,
                decoder_width: 4,
                decoder_depth: 1,
                decoder_heads: 1,
            },
            vocab_size: 104,
            max_text_len: 40,
            token_types: 2,
            variant: vlct_model::config::Variant::VLC,
            drop_rate: 0.0,
            heads: Heads::default(),
        }
    }

    proptest! {
        #[test]
        fn every_pair_is_scored_once_in_order(
            images in 0usize..80,
            lengths in prop::collection::vec(2usize..40, 0..60),
            width in prop_oneof![Just(128usize), Just(65_536)],
            selected in prop::option::of(prop::collection::vec(any::<u8>(), 80 * 60)),
        ) {
            let texts = lengths.len();
            let is_selected = |i: usize, t: usize| selected.as_ref().is_none_or(|s| s[i * texts + t].is_multiple_of(3));
            let selection = match selected {
                None => Selection::All,
                Some(_) => Selection::Lists(
                    (0..images).map(|i| (0..texts as u32).filter(|t| is_selected(i, *t as usize)).collect()).collect(),
                ),
            };
            let plan = Plan::new(&config(width), images, 65, lengths.clone(), selection);
            let mut seen = BTreeSet::new();
            let mut index = 0;
            for block in 0..plan.blocks() {
                let range = plan.block_images(block);
                prop_assert_eq!(plan.block_pairs(block).start, index);
                let mut scores = Vec::new();
                for tile in plan.tiles(block) {
                    let mut end = 0;
                    for pass in plan.passes(&tile) {
                        prop_assert!(pass.start == end && !pass.is_empty());
                        let tokens: usize = pass.clone().map(|p| 65 + lengths[tile.texts[tile.pairs[p].1 as usize] as usize]).sum();
                        prop_assert!(tokens < TOKENS_PER_PASS + TOKENS_PER_PASS / 2);
                        prop_assert_eq!(plan.pass_start(index + pass.start as u64), index + pass.start as u64);
                        prop_assert_eq!(plan.pass_start(index + pass.end as u64 - 1), index + pass.start as u64);
                        end = pass.end;
                    }
                    prop_assert_eq!(end, tile.pairs.len());
                    for (image, text) in &tile.pairs {
                        let pair = (range.start + *image as usize, tile.texts[*text as usize]);
                        prop_assert!(is_selected(pair.0, pair.1 as usize) && seen.insert(pair));
                        prop_assert_eq!(plan.block_of(index), block);
                        scores.push((pair.0 * texts + pair.1 as usize) as f32);
                        index += 1;
                    }
                }
                for (image, row) in range.zip(plan.rows(block, &scores)) {
                    let want = (0..texts).filter(|t| is_selected(image, *t)).map(|t| (image * texts + t) as f32);
                    prop_assert_eq!(row, want.collect::<Vec<f32>>());
                }
            }
            prop_assert_eq!((index, plan.pairs()), (seen.len() as u64, seen.len() as u64));
            prop_assert_eq!((plan.block_of(index), plan.pass_start(index)), (plan.blocks(), index));
            let want = (0..images).map(|i| (0..texts).filter(|t| is_selected(i, *t)).count()).sum::<usize>();
            prop_assert_eq!(seen.len(), want);
        }
    }
}
