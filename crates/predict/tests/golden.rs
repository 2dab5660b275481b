//! Compares the predictions of golden checkpoints with the recorded logits of the original, on recorded tensors and on image files.

use std::path::{Path, PathBuf};

use vlct_data::loader::Pixels;
use vlct_golden::{Tensors, assert_close, directories};
use vlct_image::{Normalisation, RgbImage, encode_png};
use vlct_model::PatchMask;
use vlct_model::files::StoredTensor;
use vlct_predict::features::{Kind, features};
use vlct_predict::fill::{Fill, masked_text};
use vlct_predict::matching::Matching;
use vlct_predict::nlvr2::Nlvr2;
use vlct_predict::probes::alignment::align;
use vlct_predict::probes::reconstruction::reconstruct;
use vlct_predict::probes::words;
use vlct_predict::retrieve::{ReadImage, Retrieval};
use vlct_predict::vqa::Vqa;
use vlct_predict::{Head, Item, OpenOptions, PairItem, PredictError, Predictor, Result};
use vlct_tensor::Precision;
use vlct_text::Tokenizer;

/// Opens the golden checkpoint `name` with a tokenizer of as many tokens as its word table has rows, in f32.
fn open(directory: &Path, name: &str, heads: &[Head], options: &OpenOptions) -> Result<Predictor> {
    let sizes = vlct_golden::json(directory.join("config.json"));
    let specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].map(String::from);
    let words = (specials.len()..).map(|i| format!("w{i}"));
    let tokens: Vec<String> = specials
        .into_iter()
        .chain(words)
        .take(sizes["vocab_size"].as_u64().unwrap() as usize)
        .collect();
    let temporary = tempfile::tempdir().expect("a directory");
    let path = temporary.path().join("vocab.txt");
    std::fs::write(&path, tokens.join("\n")).expect("written");
    let options = OpenOptions {
        tokenizer: Some(Tokenizer::from_file(&path, true).expect("a tokenizer")),
        precision: Some(Precision::F32),
        ..options.clone()
    };
    Predictor::open(&directory.join(name), heads, &options)
}

fn golden(name: &str) -> Vec<PathBuf> {
    let found: Vec<_> = directories("model")
        .into_iter()
        .filter(|d| d.join(name).exists())
        .collect();
    assert!(!found.is_empty(), "no {name} among the golden data");
    found
}

/// Returns the recorded texts without padding.
fn texts(t: &Tensors) -> Vec<Vec<u32>> {
    let length = *t.shape("text_ids").last().expect("a matrix");
    let (ids, masks) = (t.i64("text_ids"), t.i64("text_masks"));
    let rows = ids.chunks_exact(length).zip(masks.chunks_exact(length));
    rows.map(|(ids, masks)| {
        ids.iter()
            .zip(masks)
            .filter(|(_, m)| **m != 0)
            .map(|(id, _)| *id as u32)
            .collect()
    })
    .collect()
}

fn images(t: &Tensors, name: &str, count: usize) -> Vec<Pixels> {
    let values = t.f32(name);
    let images = values.chunks_exact(values.len() / count);
    images.map(|image| Pixels::square(image.to_vec())).collect()
}

#[test]
fn answers_have_the_recorded_logits() {
    for directory in golden("vqa_step.safetensors") {
        let predictor = open(&directory, "vqa.ckpt", &[Vqa::HEAD], &OpenOptions::default()).expect("a predictor");
        let t = Tensors::open(directory.join("vqa_step.safetensors"));
        let answers = t.shape("vqa_logits")[1];
        let names: Vec<String> = (0..answers).map(|i| format!("answer {i}")).collect();
        let temporary = tempfile::tempdir().expect("a directory");
        let path = temporary.path().join("answers.json");
        std::fs::write(&path, serde_json::to_string(&names).expect("JSON")).expect("written");
        let vqa = Vqa::new(&predictor, Some(&path)).expect("a task");
        let texts = texts(&t);
        let images = images(&t, "image", texts.len());
        let items: Vec<Item> = texts
            .into_iter()
            .zip(images)
            .map(|(text, image)| Item {
                image: Some(image),
                text,
            })
            .collect();
        let logits = vqa.logits(&items);
        assert_close("logits", &logits.concat(), &t.f32("vqa_logits"), 2e-5);
        let best = vqa.answers(&logits[0], 3);
        assert!(best.len() == 3 && best[0].score >= best[2].score);
        let largest = logits[0].iter().copied().fold(f32::NEG_INFINITY, f32::max);
        assert!((best[0].score - 1.0 / (1.0 + (-largest).exp())).abs() < 1e-6);

        std::fs::write(&path, serde_json::to_string(&names[1..]).expect("JSON")).expect("written");
        let error = Vqa::new(&predictor, Some(&path)).err().expect("an error").to_string();
        assert!(
            error.contains(&format!("{} answers", answers - 1)) && error.contains(&answers.to_string()),
            "{error}"
        );
        let error = Vqa::new(&predictor, None).err().expect("an error");
        assert!(matches!(error, PredictError::NoNames { .. }), "{error}");
    }
}

#[test]
fn statements_have_the_recorded_logits() {
    for directory in golden("nlvr2_step.safetensors") {
        let predictor = open(&directory, "nlvr2.ckpt", &[Nlvr2::HEAD], &OpenOptions::default()).expect("a predictor");
        let t = Tensors::open(directory.join("nlvr2_step.safetensors"));
        let texts = texts(&t);
        let [left, right] = ["image_0", "image_1"].map(|name| images(&t, name, texts.len()));
        let items: Vec<PairItem> = (texts.into_iter().zip(left.into_iter().zip(right)))
            .map(|(text, (left, right))| PairItem {
                images: [left, right],
                text,
            })
            .collect();
        let logits: Vec<f32> = Nlvr2::new(&predictor).expect("a task").logits(&items).concat();
        assert_close("logits", &logits, &t.f32("nlvr2_logits"), 2e-5);
    }
}

#[test]
fn only_wanted_heads_are_loaded_and_a_missing_head_is_an_error() {
    let directory = &directories("model")[0];
    let predictor = open(directory, "pretrain.ckpt", &[Head::Matching], &OpenOptions::default()).expect("a predictor");
    let names: Vec<String> = predictor
        .model()
        .parameters()
        .iter()
        .map(|(_, p)| p.name.clone())
        .collect();
    assert!(names.iter().any(|name| name == "itm_score.fc.weight"));
    assert!(
        !names
            .iter()
            .any(|name| name.contains("decoder") || name.starts_with("mlm_score")),
        "{names:?}"
    );
    let error = Vqa::new(&predictor, None).err().expect("an error");
    let text = error.to_string();
    assert!(text.contains("no head for visual question answering"), "{text}");
    assert!(text.contains("image-text matching, masked words"), "{text}");
    assert!(matches!(error, PredictError::NoHead { .. }));
}

#[test]
fn options_are_checked() {
    let directory = &directories("model")[0];
    let open = |options: OpenOptions| open(directory, "pretrain.ckpt", &[Head::Matching], &options);
    let with_size = |size: usize| {
        open(OpenOptions {
            image_size: Some(size),
            ..OpenOptions::default()
        })
    };
    let config = open(OpenOptions::default())
        .expect("a predictor")
        .model()
        .config()
        .clone();
    let (patch_size, grid) = (config.backbone.patch_size, config.grid() + 1);
    let larger = with_size(grid * patch_size).expect("a predictor");
    assert_eq!(larger.model().config().grid(), grid);
    let change = format!("→ {grid}×{grid} patches");
    assert!(
        larger.notes().iter().any(|note| note.contains(&change)),
        "{:?}",
        larger.notes()
    );
    for size in [0, patch_size + 1, 1000 * patch_size] {
        assert!(matches!(with_size(size), Err(PredictError::ImageSize { .. })), "{size}");
    }
    let error = Predictor::open(
        &directory.join("pretrain.ckpt"),
        &[Head::Matching],
        &OpenOptions::default(),
    );
    assert!(matches!(error, Err(PredictError::TokenizerSize { .. })));
}

#[test]
fn image_files_give_the_logits_of_their_values() {
    let directory = &directories("model")[0];
    let predictor = open(directory, "pretrain.ckpt", &[Head::Matching], &OpenOptions::default()).expect("a predictor");
    let temporary = tempfile::tempdir().expect("a directory");
    let path = temporary.path().join("image.png");
    let side = predictor.preparation().image_size() as u32;
    let mut image = RgbImage::new(side, side);
    for (x, y, pixel) in image.enumerate_pixels_mut() {
        pixel.0 = [(3 * x) as u8, (2 * y) as u8, (x ^ y) as u8];
    }
    std::fs::write(&path, encode_png(&image).expect("encoded")).expect("written");
    let loaded = predictor.preparation().image(&path).expect("an image");
    assert_eq!(loaded.image, image);
    // An image of the model's size is not resized, only normalised.
    let Normalisation { mean, deviation } = Normalisation::IMAGENET;
    let planes = (0..3).flat_map(|c| {
        let pixels = image.pixels().map(move |p| p.0[c]);
        pixels.map(move |level| (f32::from(level) / 255.0 - mean[c]) / deviation[c])
    });
    assert_close("values", &loaded.values, &planes.collect::<Vec<_>>(), 1e-6);

    let text = predictor.preparation().text("w10 w11").expect("a text");
    assert_eq!(text.len(), 4);
    let item = Item {
        image: Some(loaded.values),
        text,
    };
    let matching = Matching::new(&predictor).expect("a task");
    let single = matching.logits(std::slice::from_ref(&item))[0];
    let batch = matching.logits(&[item.clone(), item]);
    for row in batch {
        assert_close("logits in a batch", &row, &single, 1e-5);
    }
    let probability = Matching::probability(single);
    let exp: Vec<f64> = single.iter().map(|l| f64::from(*l).exp()).collect();
    assert!((f64::from(probability) - exp[1] / (exp[0] + exp[1])).abs() < 1e-6);
}

#[test]
fn long_texts_are_errors_unless_they_are_truncated() {
    let directory = &directories("model")[0];
    let long = "w10 ".repeat(200);
    let predictor = open(directory, "pretrain.ckpt", &[Head::Matching], &OpenOptions::default()).expect("a predictor");
    let limit = predictor.model().config().max_text_len;
    let error = predictor.preparation().text(&long).unwrap_err().to_string();
    assert!(error.contains(&format!("limit of {limit} tokens")), "{error}");
    let options = OpenOptions {
        truncate: true,
        ..OpenOptions::default()
    };
    let predictor = open(directory, "pretrain.ckpt", &[Head::Matching], &options).expect("a predictor");
    assert_eq!(predictor.preparation().text(&long).expect("truncated").len(), limit);
}

/// Opens the pre-trained golden model and prepares an item of a patterned image with this text.
fn item(predictor: &Predictor, text: &str) -> Item {
    let size = predictor.preparation().image_size();
    let values = (0..3 * size * size).map(|i| ((i * 31) % 17) as f32 / 8.0 - 1.0);
    Item {
        image: Some(Pixels::square(values.collect())),
        text: predictor.preparation().text(text).expect("a text"),
    }
}

#[test]
fn masks_are_filled_one_at_a_time_most_confident_first() {
    let directory = &directories("model")[0];
    let predictor = open(directory, "pretrain.ckpt", &[Fill::HEAD], &OpenOptions::default()).expect("a predictor");
    let fill = Fill::new(&predictor).expect("a task");
    let tokenizer = predictor.preparation().tokenizer();
    let items = [
        item(&predictor, "w10 [MASK] w11 [MASK] w12 [MASK]"),
        item(&predictor, "[MASK] w20"),
    ];
    let together = fill.fill(&items, 3);
    for (item, filled) in items.iter().zip(&together) {
        // The same, mask by mask, with the function that the report uses.
        let mut text = item.text.clone();
        let pixels = item.image.as_ref().expect("an image");
        let mut order = Vec::new();
        loop {
            let masks: Vec<usize> = (0..text.len()).filter(|i| text[*i] == tokenizer.mask()).collect();
            if masks.is_empty() {
                break;
            }
            let logits = words::logits(predictor.model(), &text, pixels, &masks);
            let best = masks
                .iter()
                .zip(&logits)
                .map(|(position, logits)| (*position, words::candidates(logits, 1, tokenizer)[0].clone()));
            let (position, candidate) = best
                .reduce(|best, other| {
                    if other.1.probability > best.1.probability {
                        other
                    } else {
                        best
                    }
                })
                .expect("a mask");
            text[position] = candidate.id;
            order.push(position);
        }
        assert_eq!(filled.text, text);
        let positions: Vec<usize> = filled.masks.iter().map(|mask| mask.position).collect();
        assert!(positions.is_sorted() && positions.len() == order.len());
        for mask in &filled.masks {
            // Masks that were filled before this one have their token.
            let earlier = order.iter().take_while(|position| **position != mask.position);
            for position in earlier {
                assert_eq!(mask.before[*position], text[*position]);
            }
            assert_eq!(mask.before[mask.position], tokenizer.mask());
            assert_eq!(mask.candidates.len(), 3);
            assert_eq!(mask.candidates[0].id, text[mask.position]);
            let sequence = mask.sequence(&mask.candidates[1], tokenizer);
            assert!(
                sequence.contains(&mask.candidates[1].token) && !sequence.contains("[CLS]"),
                "{sequence}"
            );
        }
    }
    assert!(
        masked_text(predictor.preparation(), "w10")
            .unwrap_err()
            .to_string()
            .contains("no [MASK]")
    );
}

#[test]
fn a_plan_has_the_marginals_of_optimal_transport() {
    let directory = &directories("model")[0];
    let predictor = open(directory, "pretrain.ckpt", &[], &OpenOptions::default()).expect("a predictor");
    let item = item(&predictor, "w10 w11 w12");
    let pixels = item.image.as_ref().expect("an image");
    let alignment = align(predictor.model(), &item.text, pixels);
    let patches = alignment.grid[0] * alignment.grid[1];
    assert_eq!(
        alignment.patches().len(),
        patches * predictor.model().config().backbone.width
    );
    let all: Vec<f32> = alignment.row(1..4);
    // Every patch, and every word, has the same share.
    assert!(all.iter().all(|v| (v * patches as f32 - 1.0).abs() < 1e-3), "{all:?}");
    for word in 1..4 {
        let row: f32 = alignment.row(word..word + 1).iter().sum();
        assert!((row - 1.0 / 3.0).abs() < 1e-3, "{row}");
    }
    let scores = alignment.scores(1..2);
    assert!(scores.iter().sum::<f32>().abs() < 1e-3);
    // A text without words has no row, and its patches have features all the same.
    assert_eq!(
        align(predictor.model(), &item.text[..1], pixels).patches().len(),
        alignment.patches().len()
    );
}

#[test]
fn visible_patches_are_not_changed_by_a_reconstruction() {
    let directory = &directories("model")[0];
    let predictor = open(directory, "pretrain.ckpt", &[Head::Decoder], &OpenOptions::default()).expect("a predictor");
    let item = item(&predictor, "w10 w11");
    let pixels = item.image.as_ref().expect("an image");
    let config = predictor.model().config();
    let (grid, side, size) = (config.grid(), config.backbone.patch_size, config.image_size);
    let noise: Vec<f32> = (0..config.patches()).map(|i| (i * 7 % 5) as f32).collect();
    let mask = PatchMask::from_noise(&noise, 0.5);
    let result = reconstruct(predictor.model(), &item.text, pixels, &mask);
    let values = pixels.iter().zip(result.masked.iter()).zip(result.reconstructed.iter());
    for (i, ((pixel, masked), reconstructed)) in values.enumerate() {
        let (y, x) = (i / size % size, i % size);
        let patch = (y / side * grid + x / side) as u32;
        if mask.removed.contains(&patch) {
            assert_eq!(*masked, 0.0);
        } else {
            assert_eq!((masked, reconstructed), (pixel, pixel));
        }
    }
    assert!(result.reconstructed.iter().all(|v| v.is_finite()));
    assert_ne!(result.reconstructed, *pixels);
}

#[test]
fn features_have_a_row_for_each_token_and_patch() {
    let directory = &directories("model")[0];
    let predictor = open(directory, "pretrain.ckpt", &[], &OpenOptions::default()).expect("a predictor");
    let with_image = item(&predictor, "w10 w11");
    let without = Item {
        image: None,
        text: with_image.text.clone(),
    };
    let all = features(&predictor, &[with_image.clone(), without], &Kind::ALL);
    let shapes: Vec<Vec<(Kind, Vec<usize>)>> = all
        .iter()
        .map(|f| f.iter().map(|(kind, t)| (*kind, t.shape.clone())).collect())
        .collect();
    let config = predictor.model().config();
    let width = config.backbone.width;
    let pooled_and_text = [(Kind::Pooled, vec![width]), (Kind::Text, vec![4, width])];
    assert_eq!(shapes[1], pooled_and_text);
    assert_eq!(shapes[0][..2], pooled_and_text);
    assert_eq!(shapes[0][2], (Kind::Patches, vec![config.patches(), width]));
    // The features of an item do not depend on the other items of the batch.
    let alone = features(&predictor, &[with_image], &[Kind::Pooled]);
    let value = |f: &(Kind, StoredTensor)| f.1.to_f32().expect("floating point").into_owned();
    assert_close("pooled", &value(&alone[0][0]), &value(&all[0][0]), 1e-5);
}

#[test]
fn retrieval_has_the_recorded_scores() {
    for directory in golden("retrieval_scores.safetensors") {
        let predictor = open(&directory, "irtr.ckpt", &Retrieval::HEADS, &OpenOptions::default()).expect("a predictor");
        let t = Tensors::open(directory.join("retrieval_scores.safetensors"));
        let count = t.shape("scores")[0];
        let images: Vec<ReadImage> = images(&t, "images", count)
            .into_iter()
            .map(|pixels| ReadImage::Pixels(pixels, None))
            .collect();
        let scores = Retrieval::new(&predictor)
            .expect("a task")
            .scores(&images, &texts(&t))
            .expect("scores");
        assert_close("scores", &scores.concat(), &t.f32("scores"), 2e-5);
    }
}
