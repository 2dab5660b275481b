//! Speed of retrieval scoring, beside one forward pass per pair.

use super::synthetic;
use super::{Device, Precision, format_name, median, peak_memory, round};
use serde::Serialize;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use vlct_data::random::{Purpose, stream};
use vlct_model::config::{Backbone, Heads};
use vlct_model::initialise::initialise;
use vlct_model::{Inputs, Sequence, Vlc, VlcConfig};
use vlct_tasks::planes;
use vlct_tasks::scoring::PairScorer;
use vlct_tensor::{Compute, Planes, Tape};
use vlct_train::spec::model_size;

/// Fraction of the pairs that the naive loop scores in a round.
const NAIVE_FRACTION: usize = 8;

/// Sizes of the measured model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoredModel {
    /// The base model, with patches of 16 × 16 pixels.
    Base,
    /// The model of the quickstart, with patches of 8 × 8 pixels.
    Quickstart,
}

/// The options of [`measure_scoring`].
#[derive(Clone, Copy, Debug)]
pub struct ScoreOptions {
    /// Sizes of the model.
    pub model: ScoredModel,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Number of images.
    pub images: usize,
    /// Number of texts.
    pub texts: usize,
    /// Number format.
    pub precision: Precision,
    /// The device.
    pub device: Device,
    /// Measured rounds, after one warm-up round.
    pub rounds: usize,
}

/// The result of [`measure_scoring`], printed as one line of JSON.
#[derive(Clone, Debug, Serialize)]
pub struct ScoreResult {
    /// The measured work, always `score`.
    pub task: &'static str,
    /// The measured program, always `vlct`.
    pub style: &'static str,
    /// Model of the device.
    pub device: &'static str,
    /// Number format.
    pub precision: &'static str,
    /// Sizes of the model.
    pub model: &'static str,
    /// Side of the images in pixels.
    pub image_size: usize,
    /// Number of images.
    pub images: usize,
    /// Number of texts.
    pub texts: usize,
    /// Median rate of scoring in tiles, including the embedding of images and texts.
    pub pairs_per_second: f64,
    /// Median rate of a loop with one forward pass per pair.
    pub naive_pairs_per_second: f64,
    /// Median over rounds of the ratio of both rates.
    pub ratio: f64,
    /// Ratio of the floating-point operations that both need.
    pub arithmetic_bound: f64,
    /// `ratio / arithmetic_bound`
    pub fraction_of_bound: f64,
    /// Peak resident memory of the process in MiB; on a GPU, the largest memory that was allocated on it.
    pub peak_mib: u64,
}

/// Measures scoring in tiles and the naive loop alternately, on random images and on captions of 9 to 18 tokens, as in MS-COCO.
///
/// The naive loop computes all tokens of a pair in one forward pass, then the score, for an eighth of the pairs.
///
/// # Panics
/// If the image size is not a multiple of the patch size.
pub fn measure_scoring(options: ScoreOptions) -> ScoreResult {
    let model = scored_model(options);
    let (images, texts) = synthetic::images_and_texts(options.images, options.texts, options.image_size);
    let views: Vec<Planes> = images.iter().map(planes).collect();
    let scorer = PairScorer::new(&model);
    let no_stop = AtomicBool::new(false);
    let pairs = options.images * options.texts;
    let naive_pairs = pairs.div_ceil(NAIVE_FRACTION);
    let rate = |pairs: usize, start: Instant| pairs as f64 / start.elapsed().as_secs_f64();
    let mut rates = Vec::new();
    for _ in 0..=options.rounds {
        let start = Instant::now();
        for pair in 0..naive_pairs {
            // Texts change faster than images.
            score_pair(&model, views[pair / options.texts], &texts[pair % options.texts]);
        }
        options.device.synchronize();
        let naive = rate(naive_pairs, start);
        let start = Instant::now();
        let embedded = scorer.embed_images(&views);
        scorer.score_all(&embedded, &texts, &no_stop, &mut |_| ());
        rates.push([rate(pairs, start), naive]);
    }
    // The first round packs the weights.
    let rates = &rates[1..];
    let ratio = median(rates.iter().map(|[tiles, naive]| tiles / naive).collect());
    let bound = arithmetic_bound(model.config(), options.images, &texts);
    ScoreResult {
        task: "score",
        style: "vlct",
        device: options.device.model(),
        precision: format_name(options.precision),
        model: match options.model {
            ScoredModel::Base => "base",
            ScoredModel::Quickstart => "quickstart",
        },
        image_size: options.image_size,
        images: options.images,
        texts: options.texts,
        pairs_per_second: round(median(rates.iter().map(|r| r[0]).collect()), 3),
        naive_pairs_per_second: round(median(rates.iter().map(|r| r[1]).collect()), 3),
        ratio: round(ratio, 4),
        arithmetic_bound: round(bound, 4),
        fraction_of_bound: round(ratio / bound, 4),
        peak_mib: peak_memory(options.device) >> 20,
    }
}

fn scored_model(options: ScoreOptions) -> Vlc {
    let backbone = match options.model {
        ScoredModel::Base => Backbone::from_name("mae_vit_base_patch16"),
        ScoredModel::Quickstart => vlct_config::resolve(&["quickstart"])
            .ok()
            .and_then(|resolved| model_size(&resolved.config).ok()),
    };
    let mut model = Vlc::new(VlcConfig {
        image_size: options.image_size,
        backbone: backbone.unwrap_or_else(|| unreachable!("a known model")),
        vocab_size: 30522,
        max_text_len: 40,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads {
            itm: true,
            rank: true,
            ..Heads::default()
        },
    });
    initialise(&mut model, |i| stream(0, Purpose::Initialisation, 0, i));
    model.set_compute(Compute {
        precision: options.precision,
        recompute: false,
        device: options.device,
        f32_products: options.device.fastest_f32_products(),
    });
    model
}

/// Scores one pair by a forward pass over all of its tokens.
fn score_pair(model: &Vlc, image: Planes, text: &[u32]) -> f32 {
    let inputs = Inputs {
        images: vec![image],
        texts: vec![text],
        sequences: &[Sequence::FIRST_PAIR],
    };
    let tape = Tape::inference(model.compute());
    let encoded = model.encode(&tape, &inputs, None);
    let pooled = model.pool(&tape, &encoded, 0..1);
    model.rank_scores(&tape, &pooled).tensor().item()
}

/// Returns the ratio of the floating-point operations of the naive loop and of scoring in tiles.
///
/// Per pair, the naive loop projects all patches and computes all tokens in all blocks. Tiles compute once per image or text what
/// depends on it alone: the patch projection, and queries, keys and values of the first block. In the last block, tiles need keys and
/// values of all tokens, and everything else of the first token only.
fn arithmetic_bound(config: &VlcConfig, images: usize, texts: &[Vec<u32>]) -> f64 {
    let Backbone {
        width,
        depth,
        patch_size,
        ..
    } = config.backbone;
    let (d, image_tokens) = (width as f64, 1.0 + config.patches() as f64);
    // Products of a token in a block: queries, keys, values, projection, and both layers of the MLP. A multiply-add counts as two
    // operations.
    let (each_of_qkv, rest) = (2.0 * d * d, 18.0 * d * d);
    let attention = |queries: f64, tokens: f64| 4.0 * queries * tokens * d;
    let patches = 2.0 * config.patches() as f64 * (3 * patch_size * patch_size) as f64 * d;
    let head = 2.0 * d * d + 2.0 * d;
    let (mut naive, mut tiles) = (0.0, images as f64 * (patches + 3.0 * each_of_qkv * image_tokens));
    for text in texts {
        let tokens = image_tokens + text.len() as f64;
        let block = tokens * (3.0 * each_of_qkv + rest) + attention(tokens, tokens);
        let projected = 3.0 * each_of_qkv * tokens;
        let last = 2.0 * each_of_qkv * tokens + each_of_qkv + rest + attention(1.0, tokens);
        let pair = match depth {
            1 => rest + attention(1.0, tokens),
            _ => (depth as f64 - 1.0) * block - projected + last,
        };
        naive += images as f64 * (patches + depth as f64 * block + head);
        tiles += images as f64 * (pair + head) + 3.0 * each_of_qkv * text.len() as f64;
    }
    naive / tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(model: ScoredModel, image_size: usize) -> f64 {
        let options = ScoreOptions {
            model,
            image_size,
            images: 1,
            texts: 1,
            precision: Precision::F32,
            device: Device::cpu(),
            rounds: 0,
        };
        let backbone = match model {
            ScoredModel::Base => Backbone::from_name("mae_vit_base_patch16").unwrap(),
            ScoredModel::Quickstart => model_size(&vlct_config::resolve(&["quickstart"]).unwrap().config).unwrap(),
        };
        let config = VlcConfig {
            image_size: options.image_size,
            backbone,
            vocab_size: 30522,
            max_text_len: 40,
            token_types: 2,
            variant: vlct_model::config::Variant::VLC,
            drop_rate: 0.0,
            heads: Heads::default(),
        };
        arithmetic_bound(&config, 5000, &vec![vec![0; 13]; 25_010])
    }

    #[test]
    fn bounds_are_those_of_the_models() {
        assert!(
            (bound(ScoredModel::Base, 384) - 1.105).abs() < 1e-3,
            "{}",
            bound(ScoredModel::Base, 384)
        );
        let small = bound(ScoredModel::Quickstart, 64);
        assert!((small - 1.394).abs() < 1e-3, "{small}");
    }
}
