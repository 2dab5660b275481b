use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::Result;
use crate::arrow::CaptionWriter;
use crate::datasets::{Contents, Dataset, Shards, Split, TableDataset};
use crate::random::{Purpose, stream};
use crate::text::Tokenizer;
use vlct_image::{RgbImage, Transform, TransformKind, decode, encode_png};

fn tokenizer() -> Tokenizer {
    Tokenizer::bert_base_uncased()
}

fn config() -> LoaderConfig {
    LoaderConfig {
        seed: 7,
        batch_size: 4,
        image_size: 16,
        transform: TransformKind::Mae,
        max_text_len: 12,
        whole_word_masking: true,
        mlm_prob: 0.15,
        draw_false_image: true,
        training: true,
        threads: 2,
        prefetch: 2,
        end_epoch: Some(2),
    }
}

/// A picture of one colour.
fn picture(value: u8) -> Vec<u8> {
    encode_png(&RgbImage::from_pixel(20, 14, image::Rgb([value, 100, 255 - value]))).unwrap()
}

/// A folder with the files of `vg` (rows of two captions; no picture where the number is in `broken`) and `pretrainGQA`.
fn folder(rows: usize, broken: &[usize]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, word) in [("vg", "house"), ("pretrain_gqa_0", "tree")] {
        let mut writer = CaptionWriter::create(folder.path().join(format!("{name}.arrow"))).unwrap();
        for row in 0..rows {
            let image = if broken.contains(&row) {
                b"<html>".to_vec()
            } else {
                picture(row as u8)
            };
            let captions = [
                format!("a {word} in a wide green field {row}"),
                format!("the {word} of number {row}"),
            ];
            writer.push(&image, &captions, &row.to_string(), "train").unwrap();
        }
        writer.finish().unwrap();
    }
    folder
}

fn dataset(folder: &Path, names: &[&str]) -> Arc<TableDataset> {
    Arc::new(TableDataset::open(Contents::Captions, folder, names, Split::Train).unwrap())
}

fn image(dataset: &TableDataset, item: usize) -> Vec<u8> {
    dataset.example(item).unwrap().images[0].as_deref().unwrap().to_vec()
}

fn batches(dataset: &Arc<TableDataset>, config: LoaderConfig, start: Position) -> Vec<Batch> {
    let loader = Loader::new(dataset.clone(), tokenizer(), config, start).unwrap();
    loader.collect::<Result<_>>().unwrap()
}

#[test]
fn the_number_of_threads_changes_nothing_and_any_batch_is_a_beginning() {
    let folder = folder(9, &[4]);
    let dataset = dataset(folder.path(), &["vg", "pretrainGQA"]);
    let all = batches(&dataset, config(), Position::default());
    assert_eq!(all.len(), 2 * 9);
    for (threads, prefetch) in [(1, 1), (3, 5)] {
        let other = batches(
            &dataset,
            LoaderConfig {
                threads,
                prefetch,
                ..config()
            },
            Position::default(),
        );
        assert!(other == all, "{threads} threads");
    }
    for done in [1, 8, 9, 15] {
        let rest = batches(&dataset, config(), all[done - 1].next_position());
        assert!(rest == all[done..], "after {done} batches");
    }
    let other_seed = batches(&dataset, LoaderConfig { seed: 8, ..config() }, Position::default());
    assert!(other_seed[0].samples != all[0].samples);
}

#[test]
fn recycled_memory_changes_nothing() {
    let folder = folder(9, &[4]);
    let dataset = dataset(folder.path(), &["vg"]);
    let all = batches(&dataset, config(), Position::default());
    let mut loader = Loader::new(dataset, tokenizer(), config(), Position::default()).unwrap();
    for want in all {
        let batch = loader.next().unwrap().unwrap();
        assert!(batch == want);
        loader.recycle(batch);
    }
    assert!(loader.next().is_none());
}

#[test]
fn an_epoch_has_every_item_once_and_ends_with_what_is_left() {
    let folder = folder(9, &[]);
    let dataset = dataset(folder.path(), &["vg", "pretrainGQA"]);
    for training in [true, false] {
        let config = LoaderConfig {
            training,
            batch_size: 5,
            ..config()
        };
        let all = batches(&dataset, config, Position::default());
        for epoch in 0..2 {
            let of_epoch: Vec<&Batch> = all.iter().filter(|b| b.epoch == epoch).collect();
            assert_eq!(
                of_epoch.iter().map(|b| b.index).collect::<Vec<_>>(),
                (0..8).collect::<Vec<_>>()
            );
            assert_eq!(
                of_epoch.iter().map(|b| b.len()).collect::<Vec<_>>(),
                [5, 5, 5, 5, 5, 5, 5, 1]
            );
            let items: Vec<usize> = of_epoch
                .iter()
                .flat_map(|b| b.samples.iter().map(|s| s.index))
                .collect();
            assert_eq!(items.iter().copied().collect::<BTreeSet<_>>(), (0..36).collect());
            assert_eq!(items.is_sorted(), !training);
        }
    }
}

#[test]
fn samples_are_what_the_dataset_says() {
    let folder = folder(6, &[]);
    let dataset = dataset(folder.path(), &["vg"]);
    let transform = Transform::new(TransformKind::Mae, 16).unwrap();
    let mut masked = 0;
    for batch in batches(&dataset, config(), Position::default()) {
        assert_eq!(batch.images.len(), batch.len());
        for (i, sample) in batch.samples.iter().enumerate() {
            assert_eq!(dataset.locate(sample.index).unwrap(), sample.location);
            let place = batch.index * 4 + i as u64;
            let mut rng = stream(7, Purpose::Augmentation, batch.epoch, place);
            let want = transform
                .apply(decode(&image(&dataset, sample.index)).unwrap(), &mut rng)
                .unwrap();
            assert_eq!(batch.images[i], want);

            let (text, ids, labels) = (&batch.text_ids[i], &batch.mlm_ids[i], &batch.mlm_labels[i]);
            assert_eq!(
                *text,
                tokenizer().encode(&dataset.text(sample.index).unwrap().unwrap(), 12)
            );
            assert_eq!((ids.len(), labels.len()), (text.len(), text.len()));
            for ((original, id), label) in text.iter().zip(ids).zip(labels) {
                match label {
                    Some(label) => assert_eq!(label, original),
                    None => assert_eq!(id, original),
                }
            }
            masked += labels.iter().flatten().count();
        }
    }
    assert!(masked > 0);
}

#[test]
fn half_of_a_batch_is_shown_other_pictures_of_the_same_dataset() {
    let folder = folder(9, &[]);
    let dataset = dataset(folder.path(), &["vg", "pretrainGQA"]);
    let mut firsts = BTreeSet::new();
    let transform = Transform::new(TransformKind::MaeTest, 16).unwrap();
    let config = LoaderConfig {
        batch_size: 5,
        transform: TransformKind::MaeTest,
        ..config()
    };
    for batch in batches(&dataset, config.clone(), Position::default()) {
        let n = batch.len();
        let unmatched: Vec<usize> = (0..n).filter(|i| !batch.matched[*i]).collect();
        assert_eq!(unmatched.len(), n - n / 2);
        assert_eq!(batch.false_samples.len(), unmatched.len());
        assert_eq!(batch.false_images.len(), unmatched.len());
        for (k, i) in unmatched.iter().enumerate() {
            assert_eq!(batch.false_position(*i), Some(k));
            let other = batch.false_samples[k];
            assert_eq!(other.location.dataset, batch.samples[*i].location.dataset);
            let picture = decode(&image(&dataset, other.index)).unwrap();
            let want = transform.apply(picture, &mut stream(0, Purpose::Order, 0, 0)).unwrap();
            assert_eq!(batch.false_images[k], want);
        }
        for i in (0..n).filter(|i| batch.matched[*i]) {
            assert_eq!(batch.false_position(i), None);
        }
        firsts.insert(batch.matched.clone());
    }
    assert!(firsts.len() > 3, "the labels must be permuted");

    for batch in batches(
        &dataset,
        LoaderConfig {
            draw_false_image: false,
            ..config
        },
        Position::default(),
    ) {
        assert!(batch.matched.iter().all(|m| *m));
        assert!(batch.false_images.is_empty() && batch.false_samples.is_empty());
    }
}

#[test]
fn unreadable_pictures_are_replaced_in_training_and_counted() {
    let folder = folder(9, &[0, 5]);
    let dataset = dataset(folder.path(), &["vg"]);
    let config = LoaderConfig {
        draw_false_image: false,
        ..config()
    };
    let all = batches(&dataset, config, Position::default());
    let rows: BTreeSet<usize> = all
        .iter()
        .flat_map(|b| b.samples.iter().map(|s| s.location.row))
        .collect();
    assert!(!rows.contains(&0) && !rows.contains(&5));
    assert_eq!(
        all.iter().map(|b| b.len()).sum::<usize>(),
        36,
        "the number of samples stays"
    );
    // Two captions of two rows in each of two epochs; a replacement may be unreadable in its turn.
    assert!(all.iter().map(|b| b.replaced).sum::<usize>() >= 8);
    for batch in &all {
        assert_eq!(batch.warnings.len(), batch.replaced.min(4));
        for warning in &batch.warnings {
            assert!(
                warning.contains("vg.arrow: row 0") || warning.contains("vg.arrow: row 5"),
                "{warning}"
            );
        }
        for (i, sample) in batch.samples.iter().enumerate() {
            let caption = dataset.text(sample.index).unwrap().unwrap();
            assert_eq!(
                batch.text_ids[i],
                tokenizer().encode(&caption, 12),
                "picture and caption belong together"
            );
        }
    }
}

#[test]
fn unreadable_pictures_are_errors_in_evaluation() {
    let folder = folder(3, &[1]);
    let dataset = dataset(folder.path(), &["vg"]);
    let config = LoaderConfig {
        training: false,
        draw_false_image: false,
        batch_size: 2,
        ..config()
    };
    let mut loader = Loader::new(dataset.clone(), tokenizer(), config, Position::default()).unwrap();
    assert_eq!(loader.epoch_len(), 3);
    assert!(loader.next().unwrap().is_ok());
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("vg.arrow: row 1"), "{error}");
    assert!(loader.next().unwrap().is_ok());

    let pictures = ImageLoader::new(dataset, TransformKind::MaeTest, 8, 1, 2, 2).unwrap();
    assert_eq!(pictures.map(|b| b.is_ok()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_dataset_without_a_readable_picture_is_given_up() {
    let folder = folder(3, &[0, 1, 2]);
    let dataset = dataset(folder.path(), &["vg"]);
    let mut loader = Loader::new(dataset, tokenizer(), config(), Position::default()).unwrap();
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("in a row cannot be read"), "{error}");
}

#[test]
fn pictures_come_in_order_for_retrieval() {
    let folder = folder(5, &[]);
    let dataset = dataset(folder.path(), &["vg", "pretrainGQA"]);
    let loader = ImageLoader::new(dataset.clone(), TransformKind::MaeTest, 8, 4, 3, 2).unwrap();
    let all: Vec<ImageBatch> = loader.collect::<Result<_>>().unwrap();
    assert_eq!(
        all.iter().map(|b| b.rows.clone()).collect::<Vec<_>>(),
        [0..4, 4..8, 8..10]
    );
    let transform = Transform::new(TransformKind::MaeTest, 8).unwrap();
    let images: Vec<Vec<f32>> = all.into_iter().flat_map(|b| b.images).collect();
    assert_eq!(images.len(), 10);
    for (i, got) in images.into_iter().enumerate() {
        let item = dataset.items_of(i).unwrap().start;
        let picture = decode(&image(&dataset, item)).unwrap();
        assert_eq!(
            got,
            transform.apply(picture, &mut stream(0, Purpose::Order, 0, 0)).unwrap()
        );
    }
}

#[test]
fn golden_datasets_load() {
    for golden in vlct_golden::directories("prepare") {
        for (set, name) in [("coco", "coco"), ("gcc", "gcc"), ("vg", "vg")] {
            let root = golden.join(set).join("expected");
            let dataset = Arc::new(
                TableDataset::open_with(Contents::Captions, root, &[name], Split::Train, Shards::AsFound).unwrap(),
            );
            let all = batches(
                &dataset,
                LoaderConfig {
                    end_epoch: Some(1),
                    ..config()
                },
                Position::default(),
            );
            assert_eq!(all.iter().map(|b| b.len()).sum::<usize>(), dataset.len(), "{name}");
            assert!(all.iter().all(|b| b.images.iter().flatten().all(|v| v.is_finite())));
        }
    }
}

#[test]
fn senseless_numbers_are_refused() {
    let folder = folder(2, &[]);
    let dataset = dataset(folder.path(), &["vg"]);
    for wrong in [
        LoaderConfig {
            batch_size: 0,
            ..config()
        },
        LoaderConfig {
            batch_size: usize::MAX,
            ..config()
        },
        LoaderConfig {
            image_size: 0,
            ..config()
        },
        LoaderConfig {
            max_text_len: 1,
            ..config()
        },
        LoaderConfig {
            mlm_prob: 1.5,
            ..config()
        },
        LoaderConfig {
            mlm_prob: f64::NAN,
            ..config()
        },
    ] {
        assert!(Loader::new(dataset.clone(), tokenizer(), wrong, Position::default()).is_err());
    }
    let empty = Arc::new(TableDataset::open(Contents::Captions, folder.path(), &["vg"], Split::Val).unwrap());
    assert!(Loader::new(empty.clone(), tokenizer(), config(), Position::default()).is_err());
    assert!(ImageLoader::new(empty, TransformKind::MaeTest, 8, 4, 1, 1).is_err());
}
