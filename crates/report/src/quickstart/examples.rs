//! Pictures for the report: reconstructions, filled-in words, heat maps, retrieved pictures.

use super::evaluation::Evaluation;
use crate::{FillIn, HeatMap, Hit, Reconstruction, Retrieval, Token};
use image::RgbImage;
use rand::RngExt;
use vlct_data::random::{Purpose, stream};
use vlct_data::text::Tokenizer;
use vlct_image::denormalise;
use vlct_model::{Encoded, Inputs, PatchMask, Sequence, Vlc};
use vlct_synthetic::Shape;
use vlct_tensor::Tape;
use vlct_tensor::ops::{Ipot, align};
use vlct_train::config::Config;
use vlct_train::error::Result;

/// Reconstructions and filled-in captions shown.
const SHOWN: usize = 6;

/// Queries shown, and pictures for each.
const QUERIES: usize = 4;
const HITS: usize = 5;

/// The transport of the heat maps, sharper than that of training (as in the original's visualisations).
const SHARP: Ipot = Ipot {
    beta: 0.1,
    iterations: 1000,
};

/// Examples for the report.
pub struct Examples {
    pub reconstructions: Vec<Reconstruction>,
    pub fill_in: Vec<FillIn>,
    pub heat_maps: Vec<HeatMap>,
    pub retrieval: Vec<Retrieval>,
}

/// Makes all examples, from the first held-out pictures.
pub fn collect(model: &Vlc, config: &Config, e: &Evaluation) -> Result<Examples> {
    let shown = SHOWN.min(e.pictures.len());
    let heat_maps = (0..shown)
        .filter_map(|i| heat_map(model, config, e, i).transpose())
        .collect::<Result<_>>()?;
    Ok(Examples {
        reconstructions: (0..shown)
            .map(|i| reconstruction(model, config, e, i))
            .collect::<Result<_>>()?,
        fill_in: (0..shown)
            .map(|i| fill_in(model, config, e, i))
            .collect::<Result<_>>()?,
        heat_maps,
        retrieval: (0..QUERIES.min(e.pictures.len()))
            .map(|i| retrieved(config, e, i))
            .collect::<Result<_>>()?,
    })
}

fn picture(config: &Config, pixels: &[f32]) -> Result<RgbImage> {
    Ok(denormalise(pixels, config.image_size)?)
}

/// Encodes one text with one image, of which the patches of the mask are visible, or all.
fn encode(model: &Vlc, tape: &Tape, text: &[u32], pixels: &[f32], mask: Option<&PatchMask>) -> Encoded {
    let sequence = Sequence {
        group: 0,
        text: Some(0),
        image: Some(0),
        token_type: 1,
        mask: mask.cloned(),
    };
    let inputs = Inputs {
        images: vec![pixels],
        texts: vec![text],
        sequences: &[sequence],
    };
    model.encode(tape, &inputs, None)
}

/// Hides patches as in training and paints the predicted ones in their place.
///
/// Predictions are of patches normalised each by itself; mean and spread of the true patch are put back for display.
fn reconstruction(model: &Vlc, config: &Config, e: &Evaluation, i: usize) -> Result<Reconstruction> {
    let pixels = &e.pictures[i];
    let random = &mut stream(config.seed, Purpose::PatchMaskMlm, u64::MAX, i as u64);
    let noise: Vec<f32> = (0..model.config().patches()).map(|_| random.random()).collect();
    let mask = PatchMask::from_noise(&noise, config.mask_ratio);
    let tape = Tape::inference(model.compute());
    let encoded = encode(model, &tape, &e.texts[i], pixels, Some(&mask));
    let prediction = model.decode(&tape, &encoded, 0..1, &[&mask], |m| m.removed.clone());
    let values = prediction.tensor().to_host();
    let (size, side) = (config.image_size, model.config().backbone.patch_size);
    let grid = size / side;
    let (mut hidden, mut painted) = (pixels.clone(), pixels.clone());
    for (patch, predicted) in mask.removed.iter().zip(values.chunks_exact(3 * side * side)) {
        let (top, left) = (*patch as usize / grid * side, *patch as usize % grid * side);
        let at = |j: usize| (j % 3 * size + top + j / 3 / side) * size + left + j / 3 % side;
        let n = predicted.len() as f32;
        let mean = (0..predicted.len()).map(|j| pixels[at(j)]).sum::<f32>() / n;
        let variance = (0..predicted.len())
            .map(|j| (pixels[at(j)] - mean).powi(2))
            .sum::<f32>()
            / (n - 1.0);
        for (j, value) in predicted.iter().enumerate() {
            hidden[at(j)] = 0.0;
            painted[at(j)] = value * (variance + 1e-6).sqrt() + mean;
        }
    }
    Ok(Reconstruction {
        original: picture(config, pixels)?,
        masked: picture(config, &hidden)?,
        reconstruction: picture(config, &painted)?,
        caption: e.captions[i].clone(),
    })
}

/// Hides every third word of a caption and lets the model guess each.
fn fill_in(model: &Vlc, config: &Config, e: &Evaluation, i: usize) -> Result<FillIn> {
    let (text, t) = (&e.texts[i], &e.tokenizer);
    let hidden: Vec<usize> = (1..text.len() - 1)
        .filter(|p| p % 3 == 2 && is_word(t, text[*p]))
        .collect();
    let masked: Vec<u32> = text
        .iter()
        .enumerate()
        .map(|(p, id)| if hidden.contains(&p) { t.mask() } else { *id })
        .collect();
    let tape = Tape::inference(model.compute());
    let encoded = encode(model, &tape, &masked, &e.pictures[i], None);
    let logits = model.mlm_logits(&tape, &encoded, hidden.iter().map(|p| *p as u32).collect());
    let rows = logits.tensor().to_host();
    let guesses: Vec<_> = rows.chunks_exact(logits.columns()).map(|row| best(row, 3, t)).collect();
    let token = |p: usize| {
        let name = t.token(text[p]).unwrap_or_default().to_string();
        match hidden.iter().position(|h| *h == p) {
            Some(h) => Token::Hidden {
                truth: name,
                guesses: guesses[h].clone(),
            },
            None => Token::Shown(name),
        }
    };
    Ok(FillIn {
        image: picture(config, &e.pictures[i])?,
        tokens: (1..text.len() - 1).map(token).collect(),
    })
}

fn is_word(tokenizer: &Tokenizer, id: u32) -> bool {
    tokenizer.token(id).is_some_and(|t| t.chars().all(char::is_alphabetic))
}

/// The `n` most probable tokens of a row of logits.
fn best(row: &[f32], n: usize, tokenizer: &Tokenizer) -> Vec<(String, f64)> {
    let top = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    let total: f64 = row.iter().map(|v| ((v - top) as f64).exp()).sum();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|a, b| row[*b].total_cmp(&row[*a]));
    order
        .iter()
        .take(n)
        .map(|i| {
            let name = tokenizer.token(*i as u32).unwrap_or("?").to_string();
            (name, ((row[*i] - top) as f64).exp() / total)
        })
        .collect()
}

/// Which patches the plan of optimal transport gives to the first shape that a caption names; `None` if it names none.
fn heat_map(model: &Vlc, config: &Config, e: &Evaluation, i: usize) -> Result<Option<HeatMap>> {
    let (text, t) = (&e.texts[i], &e.tokenizer);
    let tokens: Vec<String> = text[1..text.len() - 1]
        .iter()
        .map(|id| t.token(*id).unwrap_or("?").to_string())
        .collect();
    let names_shape = |w: &String| Shape::ALL.iter().any(|s| s.word() == w || s.plural() == w);
    let Some(word) = tokens.iter().position(names_shape) else {
        return Ok(None);
    };
    let tape = Tape::inference(model.compute());
    let encoded = encode(model, &tape, text, &e.pictures[i], None);
    let (words, image) = (encoded.text_rows(0), encoded.image_rows(0));
    let patches = image.start + 1..image.end;
    let count = patches.len();
    let plan = align(
        encoded.features.tensor(),
        words.start + 1..words.end - 1,
        patches,
        SHARP,
    );
    let map = plan[word * count..][..count].to_vec();
    Ok(Some(HeatMap {
        image: picture(config, &e.pictures[i])?,
        tokens,
        word,
        columns: model.config().grid(),
        map,
    }))
}

/// The best pictures for a caption.
fn retrieved(config: &Config, e: &Evaluation, caption: usize) -> Result<Retrieval> {
    let n = e.captions.len();
    let scores: Vec<f32> = (0..e.pictures.len()).map(|p| e.scores[p * n + caption]).collect();
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let hit = |p: &usize| -> Result<Hit> {
        Ok(Hit {
            image: picture(config, &e.pictures[*p])?,
            score: scores[*p] as f64,
            right: *p == caption,
        })
    };
    Ok(Retrieval {
        query: e.captions[caption].clone(),
        top: order.iter().take(HITS).map(hit).collect::<Result<_>>()?,
        right_rank: vlct_train::retrieval::rank(&scores, |p| p == caption) + 1,
        candidates: scores.len(),
    })
}
