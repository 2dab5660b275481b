//! Examples for the report: reconstructions, predicted words, heat maps, retrieved images.

use crate::{HeatMap, Hit, MaskedCaption, Reconstruction, Retrieval, Token};
use image::RgbImage;
use rand::RngExt;
use vlct_config::Config;
use vlct_data::loader::Pixels;
use vlct_data::random::{Purpose, stream};
use vlct_image::Normalisation;
use vlct_model::{PatchMask, Vlc};
use vlct_predict::probes::alignment::align;
use vlct_predict::probes::reconstruction::reconstruct;
use vlct_predict::probes::words;
use vlct_tasks::planes;
use vlct_text::Tokenizer;
use vlct_train::error::Result;

/// Maximum number of examples of each kind, except retrieval.
const EXAMPLES: usize = 6;

/// Maximum number of retrieval examples, each with one caption.
const QUERIES: usize = 4;

/// Maximum number of images in a retrieval example.
const HITS: usize = 5;

/// Number of predictions of a masked word.
const PREDICTIONS: usize = 3;

/// Images with captions that examples are made of.
pub struct Candidates {
    /// Tokenizer of the run.
    pub tokenizer: Tokenizer,
    /// Normalised images.
    pub images: Vec<Pixels>,
    /// How they were normalised.
    pub normalisation: Normalisation,
    /// A caption of each image.
    pub captions: Vec<String>,
    /// The token ids of each caption.
    pub texts: Vec<Vec<u32>>,
    /// Matching scores `[candidates, candidates]`, one row per image and one column per caption.
    pub scores: Vec<f32>,
}

/// The examples of [`ReportData`](crate::ReportData).
#[derive(Default)]
pub struct Examples {
    /// Masked patches and their reconstruction.
    pub reconstructions: Vec<Reconstruction>,
    /// Masked words and their predictions.
    pub masked_captions: Vec<MaskedCaption>,
    /// Word-patch alignment.
    pub heat_maps: Vec<HeatMap>,
    /// Text-to-image retrieval.
    pub retrieval: Vec<Retrieval>,
}

/// Makes the examples that the heads of the model allow, from the first candidates. `choose_word` chooses the word of a heat map among the
/// tokens of a caption.
///
/// # Errors
/// Returns an error if an image is too large for an image file.
pub fn make_examples(
    model: &Vlc,
    config: &Config,
    e: &Candidates,
    choose_word: &dyn Fn(&[String]) -> Option<usize>,
) -> Result<Examples> {
    let heads = model.config().heads;
    let shown = EXAMPLES.min(e.images.len());
    let mut examples = Examples::default();
    for i in 0..shown {
        if config.use_mae {
            examples.reconstructions.push(reconstruction(model, config, e, i)?);
        }
        if heads.mlm {
            examples.masked_captions.push(masked_caption(model, e, i)?);
        }
        if heads.itm {
            examples.heat_maps.extend(heat_map(model, e, i, choose_word)?);
        }
    }
    if !e.scores.is_empty() {
        for i in 0..QUERIES.min(e.images.len()) {
            examples.retrieval.push(retrieval(e, i)?);
        }
    }
    Ok(examples)
}

impl Candidates {
    /// Turns normalised pixels back into an image.
    fn rgb_image(&self, pixels: &Pixels) -> Result<RgbImage> {
        Ok(self.normalisation.denormalise(pixels, pixels.size())?)
    }
}

/// Masks patches as in training and replaces them by the model's predictions.
fn reconstruction(model: &Vlc, config: &Config, e: &Candidates, i: usize) -> Result<Reconstruction> {
    let random = &mut stream(config.seed, Purpose::PatchMaskMlm, u64::MAX, i as u64);
    let noise: Vec<f32> = (0..model.config().patches()).map(|_| random.random()).collect();
    let mask = PatchMask::from_noise(&noise, config.mask_ratio);
    let result = reconstruct(model, &e.texts[i], &e.images[i], &mask);
    Ok(Reconstruction {
        original: e.rgb_image(&e.images[i])?,
        masked: e.rgb_image(&result.masked)?,
        reconstruction: e.rgb_image(&result.reconstructed)?,
        caption: e.captions[i].clone(),
    })
}

/// Masks the words at every third token position of a caption and predicts them from the image and the visible tokens.
fn masked_caption(model: &Vlc, e: &Candidates, i: usize) -> Result<MaskedCaption> {
    let (text, t) = (&e.texts[i], &e.tokenizer);
    let masked_positions: Vec<usize> = (1..text.len() - 1)
        .filter(|p| p % 3 == 2 && is_word(t, text[*p]))
        .collect();
    let masked: Vec<u32> = text
        .iter()
        .enumerate()
        .map(|(p, id)| if masked_positions.contains(&p) { t.mask() } else { *id })
        .collect();
    let logits = words::logits(model, &masked, &e.images[i], &masked_positions);
    let predictions: Vec<Vec<(String, f64)>> = logits
        .iter()
        .map(|logits| {
            let best = words::candidates(logits, PREDICTIONS, t).into_iter();
            best.map(|candidate| (candidate.token, f64::from(candidate.probability)))
                .collect()
        })
        .collect();
    let token = |p: usize| {
        let name = t.token(text[p]).unwrap_or_default().to_string();
        match masked_positions.iter().position(|m| *m == p) {
            Some(m) => Token::Masked {
                truth: name,
                predictions: predictions[m].clone(),
            },
            None => Token::Visible(name),
        }
    };
    Ok(MaskedCaption {
        image: e.rgb_image(&e.images[i])?,
        tokens: (1..text.len() - 1).map(token).collect(),
    })
}

fn is_word(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.token(id).is_some_and(|t| t.chars().all(char::is_alphabetic))
}

/// Returns the row of the optimal transport plan for a word, or `None` if `choose_word` chooses none.
fn heat_map(
    model: &Vlc,
    e: &Candidates,
    i: usize,
    choose_word: &dyn Fn(&[String]) -> Option<usize>,
) -> Result<Option<HeatMap>> {
    let (text, t) = (&e.texts[i], &e.tokenizer);
    let tokens: Vec<String> = text[1..text.len() - 1]
        .iter()
        .map(|id| t.token(*id).unwrap_or("?").to_string())
        .collect();
    let Some(word) = choose_word(&tokens) else {
        return Ok(None);
    };
    // Position 0 of the text is [CLS].
    let map = align(model, text, &e.images[i]).row(word + 1..word + 2);
    Ok(Some(HeatMap {
        image: e.rgb_image(&e.images[i])?,
        tokens,
        word,
        columns: planes(&e.images[i]).grid(model.config().backbone.patch_size)[1],
        map,
    }))
}

/// Ranks all candidate images for a caption and returns those with the highest scores.
fn retrieval(e: &Candidates, caption: usize) -> Result<Retrieval> {
    let n = e.captions.len();
    let scores: Vec<f32> = (0..e.images.len()).map(|p| e.scores[p * n + caption]).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let hit = |p: &usize| -> Result<Hit> {
        Ok(Hit {
            image: e.rgb_image(&e.images[*p])?,
            score: scores[*p] as f64,
            is_own: *p == caption,
        })
    };
    Ok(Retrieval {
        query: e.captions[caption].clone(),
        top: order.iter().take(HITS).map(hit).collect::<Result<_>>()?,
        own_rank: vlct_tasks::scoring::rank(&scores, |p| p == caption) + 1,
        candidates: scores.len(),
    })
}
