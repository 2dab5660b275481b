//! A small model, images, texts and a dataset for tests.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tempfile::TempDir;
use vlct_data::arrow::CaptionWriter;
use vlct_data::datasets::{Contents, Split, TableDataset};
use vlct_image::{RgbImage, TransformKind, TransformSpec, encode_png};
use vlct_model::config::{Backbone, Heads};
use vlct_model::initialise::initialise;
use vlct_model::{Vlc, VlcConfig};
use vlct_text::Tokenizer;

use crate::inputs::InputSpec;

/// Side of the images in pixels.
pub const SIZE: usize = 16;

/// Makes a model with a ranking head, whose weights depend on `seed`.
pub fn small_model(seed: u64) -> Vlc {
    let backbone = Backbone {
        patch_size: 4,
        width: 32,
        depth: 2,
        heads: 2,
        decoder_width: 8,
        decoder_depth: 1,
        decoder_heads: 2,
    };
    let mut model = Vlc::new(VlcConfig {
        image_size: SIZE,
        backbone,
        vocab_size: 30522,
        max_text_len: 12,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads {
            itm: true,
            rank: true,
            ..Heads::default()
        },
    });
    initialise(&mut model, |i| ChaCha8Rng::seed_from_u64(1000 * seed + i));
    // The ranking head is initialised from the matching head, whose weights are small: with larger weights, scores differ clearly.
    model.parameters_mut().fill(|_, parameter, values| {
        if parameter.name.ends_with("weight") && parameter.shape.len() == 2 {
            values.iter_mut().for_each(|v| *v *= 8.0);
        }
    });
    model
}

/// Returns the values of an image.
pub fn image(seed: usize) -> Vec<f32> {
    (0..3 * SIZE * SIZE)
        .map(|i| ((i * 31 + seed * 77) % 101) as f32 / 50.0 - 1.0)
        .collect()
}

/// Returns texts of different lengths.
pub fn texts(count: usize) -> Vec<Vec<u32>> {
    let text = |i: usize| (0..2 + i % 9).map(|j| (999 + 37 * i + 7 * j) as u32).collect();
    (0..count).map(text).collect()
}

/// Writes a dataset with two captions per image.
pub fn dataset(images: usize) -> (TempDir, Arc<TableDataset>) {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = CaptionWriter::create(directory.path().join("vg.arrow")).unwrap();
    for row in 0..images {
        let colour = image::Rgb([(row * 40 % 256) as u8, 100, (row * 13 % 256) as u8]);
        let png = encode_png(&RgbImage::from_pixel(20, 14, colour)).unwrap();
        let captions = [format!("a house in a field {row}"), format!("tree number {row}")];
        writer.push(&png, &captions, &row.to_string(), "train").unwrap();
    }
    writer.finish().unwrap();
    let data = TableDataset::open(Contents::Captions, directory.path(), &["vg"], Split::Train).unwrap();
    (directory, Arc::new(data))
}

/// Returns settings for the dataset and the model.
pub fn inputs() -> Arc<InputSpec> {
    Arc::new(InputSpec {
        format: TransformSpec::Named(TransformKind::MaeTest).published_format(SIZE),
        train_transform: TransformKind::Mae.into(),
        eval_transform: TransformKind::MaeTest.into(),
        tokenizer: Tokenizer::bert_base_uncased(),
        max_patches: None,
        max_text_len: 12,
    })
}
