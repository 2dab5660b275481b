//! Examples for the report: reconstructions, predicted words, heat maps, retrieved images.

use crate::{HeatMap, Hit, MaskedCaption, Reconstruction, Retrieval, Token};
use image::RgbImage;
use rand::RngExt;
use vlct_data::random::{Purpose, stream};
use vlct_data::text::Tokenizer;
use vlct_image::denormalise;
use vlct_model::{Encoded, Inputs, PatchMask, Sequence, Vlc};
use vlct_tensor::Tape;
use vlct_tensor::ops::Ipot;
use vlct_train::config::Config;
use vlct_train::error::Result;

/// Maximum number of examples of each kind, except retrieval.
const EXAMPLES: usize = 6;

/// Maximum number of retrieval examples, each with one caption.
const QUERIES: usize = 4;

/// Maximum number of images in a retrieval example.
const HITS: usize = 5;

/// Parameters of the optimal transport for heat maps. As in the visualisations of the reference implementation, beta is smaller
/// than in training and there are more iterations, so that the transport plan is sharper.
const HEAT_MAP_IPOT: Ipot = Ipot {
    beta: 0.1,
    iterations: 1000,
};

/// Images with captions that examples are made of.
pub struct Candidates {
    /// Tokenizer of the run.
    pub tokenizer: Tokenizer,
    /// Normalised images, each `[3, size, size]`.
    pub images: Vec<Vec<f32>>,
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
/// Returns an error if an image does not have the size of the configuration.
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
            examples.masked_captions.push(masked_caption(model, config, e, i)?);
        }
        if heads.itm {
            examples.heat_maps.extend(heat_map(model, config, e, i, choose_word)?);
        }
    }
    if !e.scores.is_empty() {
        for i in 0..QUERIES.min(e.images.len()) {
            examples.retrieval.push(retrieval(config, e, i)?);
        }
    }
    Ok(examples)
}

/// Turns normalised pixels `[3, size, size]` back into an image.
pub(crate) fn rgb_image(config: &Config, pixels: &[f32]) -> Result<RgbImage> {
    Ok(denormalise(pixels, config.image_size)?)
}

/// Encodes one text with one image. Without a mask, all patches are visible.
fn encode(model: &Vlc, tape: &Tape, text: &[u32], pixels: &[f32], mask: Option<&PatchMask>) -> Encoded {
    let sequence = Sequence {
        mask: mask.cloned(),
        ..Sequence::FIRST_PAIR
    };
    let inputs = Inputs {
        images: vec![pixels],
        texts: vec![text],
        sequences: &[sequence],
    };
    model.encode(tape, &inputs, None)
}

/// Masks patches as in training and replaces them by the model's predictions.
///
/// The model predicts patches normalised to mean 0 and variance 1; for display, this normalisation is
/// inverted with the mean and standard deviation of the original patch.
fn reconstruction(model: &Vlc, config: &Config, e: &Candidates, i: usize) -> Result<Reconstruction> {
    let pixels = &e.images[i];
    let random = &mut stream(config.seed, Purpose::PatchMaskMlm, u64::MAX, i as u64);
    let noise: Vec<f32> = (0..model.config().patches()).map(|_| random.random()).collect();
    let mask = PatchMask::from_noise(&noise, config.mask_ratio);
    let tape = Tape::inference(model.compute());
    let encoded = encode(model, &tape, &e.texts[i], pixels, Some(&mask));
    let prediction = model.decode(&tape, &encoded, 0..1, &[&mask], |m| m.removed.clone());
    let values = prediction.tensor().to_host();
    let (size, patch_size) = (config.image_size, model.config().backbone.patch_size);
    let grid = size / patch_size;
    let (mut masked, mut reconstructed) = (pixels.clone(), pixels.clone());
    for (patch, predicted) in mask
        .removed
        .iter()
        .zip(values.chunks_exact(3 * patch_size * patch_size))
    {
        let (top, left) = (*patch as usize / grid * patch_size, *patch as usize % grid * patch_size);
        let pixel_index = |j: usize| (j % 3 * size + top + j / 3 / patch_size) * size + left + j / 3 % patch_size;
        let n = predicted.len() as f32;
        let mean = (0..predicted.len()).map(|j| pixels[pixel_index(j)]).sum::<f32>() / n;
        let variance = (0..predicted.len())
            .map(|j| (pixels[pixel_index(j)] - mean).powi(2))
            .sum::<f32>()
            / (n - 1.0);
        for (j, value) in predicted.iter().enumerate() {
            masked[pixel_index(j)] = 0.0;
            reconstructed[pixel_index(j)] = value * (variance + 1e-6).sqrt() + mean;
        }
    }
    Ok(Reconstruction {
        original: rgb_image(config, pixels)?,
        masked: rgb_image(config, &masked)?,
        reconstruction: rgb_image(config, &reconstructed)?,
        caption: e.captions[i].clone(),
    })
}

/// Masks the words at every third token position of a caption and predicts them from the image and the visible tokens.
fn masked_caption(model: &Vlc, config: &Config, e: &Candidates, i: usize) -> Result<MaskedCaption> {
    let (text, t) = (&e.texts[i], &e.tokenizer);
    let masked_positions: Vec<usize> = (1..text.len() - 1)
        .filter(|p| p % 3 == 2 && is_word(t, text[*p]))
        .collect();
    let masked: Vec<u32> = text
        .iter()
        .enumerate()
        .map(|(p, id)| if masked_positions.contains(&p) { t.mask() } else { *id })
        .collect();
    let tape = Tape::inference(model.compute());
    let encoded = encode(model, &tape, &masked, &e.images[i], None);
    let logits = model.mlm_logits(&tape, &encoded, masked_positions.iter().map(|p| *p as u32).collect());
    let rows = logits.tensor().to_host();
    let predictions: Vec<_> = rows
        .chunks_exact(logits.columns())
        .map(|row| top_tokens(row, 3, t))
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
        image: rgb_image(config, &e.images[i])?,
        tokens: (1..text.len() - 1).map(token).collect(),
    })
}

fn is_word(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.token(id).is_some_and(|t| t.chars().all(char::is_alphabetic))
}

/// Returns the `n` most probable tokens of a row of logits with their probabilities.
fn top_tokens(row: &[f32], n: usize, tokenizer: &Tokenizer) -> Vec<(String, f64)> {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let total: f64 = row.iter().map(|v| ((v - max) as f64).exp()).sum();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    order
        .iter()
        .take(n)
        .map(|i| {
            let name = tokenizer.token(*i as u32).unwrap_or("?").to_string();
            (name, ((row[*i] - max) as f64).exp() / total)
        })
        .collect()
}

/// Returns the row of the optimal transport plan for a word, or `None` if `choose_word` chooses none.
fn heat_map(
    model: &Vlc,
    config: &Config,
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
    let tape = Tape::inference(model.compute());
    let encoded = encode(model, &tape, text, &e.images[i], None);
    let (text_rows, image_rows) = (encoded.text_rows(0), encoded.image_rows(0));
    let patches = image_rows.start + 1..image_rows.end;
    let count = patches.len();
    let words = text_rows.start + 1..text_rows.end - 1;
    let plan = tape.transport_plan(&encoded.features, words, patches, HEAT_MAP_IPOT);
    let map = plan.to_host()[word * count..][..count].to_vec();
    Ok(Some(HeatMap {
        image: rgb_image(config, &e.images[i])?,
        tokens,
        word,
        columns: model.config().grid(),
        map,
    }))
}

/// Ranks all candidate images for a caption and returns those with the highest scores.
fn retrieval(config: &Config, e: &Candidates, caption: usize) -> Result<Retrieval> {
    let n = e.captions.len();
    let scores: Vec<f32> = (0..e.images.len()).map(|p| e.scores[p * n + caption]).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let hit = |p: &usize| -> Result<Hit> {
        Ok(Hit {
            image: rgb_image(config, &e.images[*p])?,
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
