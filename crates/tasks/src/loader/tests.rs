use std::collections::BTreeSet;
use std::path::Path;

use rand::{Rng, RngExt};
use vlct_data::random::{Purpose, stream};

use super::*;
use crate::batch::Target;
use crate::pretrain::{MATCHING, MODELLING, PretrainSpec};
use crate::retrieval::{Retrieval, RetrievalSpec};
use crate::sample::{EVALUATION_SEED_BIT, Unreadable};
use crate::spec::TaskSpec;
use crate::vqa::VqaSpec;
use vlct_data::arrow::{AnsweredQuestion, CaptionWriter, VqaKind, VqaRow, VqaWriter};
use vlct_data::datasets::{Contents, FileRules, RowsOf, Split, TableDataset};
use vlct_image::{RgbImage, TransformKind, TransformSpec, decode, encode_png};
use vlct_model::config::{Backbone, Heads, VlcConfig};
use vlct_tensor::Planes;
use vlct_text::{MaskingConfig, Tokenizer};

const SIZE: usize = 16;

fn inputs(train_transform: TransformKind) -> Arc<InputSpec> {
    Arc::new(InputSpec {
        format: TransformSpec::Named(TransformKind::MaeTest).published_format(SIZE),
        train_transform: train_transform.into(),
        eval_transform: TransformKind::MaeTest.into(),
        tokenizer: Tokenizer::bert_base_uncased(),
        max_patches: None,
        max_text_len: 12,
    })
}

fn spec() -> LoaderSpec {
    LoaderSpec {
        seed: 7,
        mode: Mode::Train,
        batch_size: 4,
        threads: 2,
        replaces_unreadable: true,
        batches: None,
        prefetch: 2,
        end_epoch: Some(2),
        share: Share::ALL,
    }
}

fn build_task(task: TaskSpec) -> Arc<dyn Task> {
    let backbone = Backbone {
        patch_size: 4,
        width: 16,
        depth: 1,
        heads: 2,
        decoder_width: 8,
        decoder_depth: 1,
        decoder_heads: 2,
    };
    let model = VlcConfig {
        image_size: SIZE,
        backbone,
        vocab_size: 30522,
        max_text_len: 12,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.0,
        heads: Heads::default(),
    };
    task.build(&vlct_model::ModelConfig::Vlc(model)).unwrap()
}

fn pretrain(itm: bool) -> Arc<dyn Task> {
    build_task(TaskSpec::Pretrain(PretrainSpec {
        mlm: true,
        mae: Some(1.0),
        itm,
        masking: MaskingConfig {
            whole_word: true,
            probability: 0.15,
            max_text_len: 12,
        },
        mask_ratio: Some(0.6),
    }))
}

/// Returns a PNG file of an image of one colour.
fn png(value: u8) -> Vec<u8> {
    encode_png(&RgbImage::from_pixel(20, 14, image::Rgb([value, 100, 255 - value]))).unwrap()
}

/// Writes the datasets `vg` and `pretrainGQA` with two captions per row. The images of the rows `unreadable` are not image files.
fn write_datasets(rows: usize, unreadable: &[usize]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, word) in [("vg", "house"), ("pretrain_gqa_0", "tree")] {
        let mut writer = CaptionWriter::create(directory.path().join(format!("{name}.arrow"))).unwrap();
        for row in 0..rows {
            let image = if unreadable.contains(&row) {
                b"<html>".to_vec()
            } else {
                png(row as u8)
            };
            let captions = [
                format!("a {word} in a wide green field {row}"),
                format!("the {word} of number {row}"),
            ];
            writer.push(&image, &captions, &row.to_string(), "train").unwrap();
        }
        writer.finish().unwrap();
    }
    directory
}

fn dataset(directory: &Path, names: &[&str]) -> Arc<TableDataset> {
    Arc::new(TableDataset::open(Contents::Captions, directory, names, Split::Train).unwrap())
}

fn loader(task: Arc<dyn Task>, data: &Arc<TableDataset>, spec: LoaderSpec, start: Position) -> Loader {
    Loader::new(task, data.clone(), inputs(TransformKind::Mae), spec, start).unwrap()
}

fn batches(data: &Arc<TableDataset>, spec: LoaderSpec, start: Position) -> Vec<Batch> {
    loader(pretrain(true), data, spec, start)
        .collect::<Result<_>>()
        .unwrap()
}

/// Returns the transformed image of an item.
fn transformed(data: &TableDataset, item: usize, kind: TransformKind, rng: &mut impl Rng) -> Vec<f32> {
    let example = data.example(item).unwrap();
    let image = decode(example.images[0].as_deref().unwrap()).unwrap();
    Transform::new(kind, SIZE).unwrap().apply(image, rng).unwrap()
}

#[test]
fn batches_are_independent_of_threads_and_start_position() {
    let directory = write_datasets(9, &[4]);
    let data = dataset(directory.path(), &["vg", "pretrainGQA"]);
    let all = batches(&data, spec(), Position::default());
    assert_eq!(all.len(), 2 * 9);
    for (threads, prefetch) in [(1, 1), (3, 5)] {
        let spec = LoaderSpec {
            threads,
            prefetch,
            ..spec()
        };
        assert!(batches(&data, spec, Position::default()) == all, "{threads} threads");
    }
    for done in [1, 8, 9, 15] {
        let rest = batches(&data, spec(), all[done - 1].next_position());
        assert!(rest == all[done..], "after {done} batches");
    }
    let other_seed = batches(&data, LoaderSpec { seed: 8, ..spec() }, Position::default());
    assert!(other_seed[0].items != all[0].items);
}

#[test]
fn ranks_get_the_batches_of_a_single_rank() {
    let directory = write_datasets(9, &[4]);
    let data = dataset(directory.path(), &["vg", "pretrainGQA"]);
    let all = batches(&data, spec(), Position::default());
    for ranks in [2, 4] {
        for rank in 0..ranks {
            let share = Share::of_rank(rank, ranks);
            let own: Vec<&Batch> = all.iter().filter(|batch| share.has(batch.position.batch)).collect();
            let spec = LoaderSpec { share, ..spec() };
            let got = batches(&data, spec, Position::default());
            assert!(got.iter().eq(own), "rank {rank} of {ranks}");
        }
    }
}

#[test]
fn recycled_buffers_do_not_change_batches() {
    let directory = write_datasets(9, &[4]);
    let data = dataset(directory.path(), &["vg"]);
    let all = batches(&data, spec(), Position::default());
    // Each batch is dropped, and its buffers recycled, before the next one is fetched.
    let again = loader(pretrain(true), &data, spec(), Position::default());
    assert!(
        again
            .map(|batch| batch.unwrap())
            .zip(&all)
            .all(|(batch, want)| batch == *want)
    );
}

#[test]
fn an_epoch_contains_every_item_once_and_ends_with_a_smaller_batch() {
    let directory = write_datasets(9, &[]);
    let data = dataset(directory.path(), &["vg", "pretrainGQA"]);
    for mode in [Mode::Train, Mode::Evaluate] {
        let spec = LoaderSpec {
            mode,
            batch_size: 5,
            ..spec()
        };
        let all = batches(&data, spec, Position::default());
        for epoch in 0..2 {
            let epoch_batches: Vec<&Batch> = all.iter().filter(|b| b.position.epoch == epoch).collect();
            assert!(epoch_batches.iter().map(|b| b.position.batch).eq(0..8));
            assert!(epoch_batches.iter().map(|b| b.len()).eq([5, 5, 5, 5, 5, 5, 5, 1]));
            let items: Vec<usize> = epoch_batches.iter().flat_map(|b| b.items.clone()).collect();
            assert_eq!(items.iter().copied().collect::<BTreeSet<_>>(), (0..36).collect());
            assert_eq!(items.is_sorted(), mode == Mode::Evaluate);
        }
    }
}

#[test]
fn samples_contain_image_text_and_masks_of_their_item() {
    let directory = write_datasets(6, &[]);
    let data = dataset(directory.path(), &["vg"]);
    let tokenizer = Tokenizer::bert_base_uncased();
    let mut masked = 0;
    for batch in batches(&data, spec(), Position::default()) {
        let n = batch.len();
        assert_eq!([batch.group(MODELLING), batch.group(MATCHING)], [0..n, n..2 * n]);
        for (i, item) in batch.items.iter().enumerate() {
            let index_in_epoch = batch.position.batch * 4 + i as u64;
            let (modelling, matching) = (&batch.sequences[i], &batch.sequences[n + i]);
            let mut rng = stream(7, Purpose::Augmentation, batch.position.epoch, index_in_epoch);
            let want = transformed(&data, *item, TransformKind::Mae, &mut rng);
            assert_eq!(batch.image_of(modelling).unwrap(), Planes::square(&want, SIZE));

            let (text, clean) = (batch.text_of(modelling).unwrap(), batch.text_of(matching).unwrap());
            let caption = data.text(*item).unwrap().unwrap();
            assert_eq!(clean.ids, tokenizer.encode(&caption, 12));
            assert!(clean.labels.is_empty());
            assert_eq!((text.ids.len(), text.labels.len()), (clean.ids.len(), clean.ids.len()));
            for ((original, id), label) in clean.ids.iter().zip(&text.ids).zip(&text.labels) {
                match label {
                    Some(label) => assert_eq!(label, original),
                    None => assert_eq!(id, original),
                }
            }
            masked += text.labels.iter().flatten().count();
            assert!(
                [i, n + i]
                    .iter()
                    .all(|s| batch.sequences[*s].mask.as_ref().unwrap().kept.len() == 6)
            );
        }
    }
    assert!(masked > 0);
}

#[test]
fn dropout_and_patch_masks_differ_between_training_and_evaluation() {
    let directory = write_datasets(4, &[]);
    let data = dataset(directory.path(), &["vg"]);
    let evaluation = LoaderSpec {
        mode: Mode::Evaluate,
        ..spec()
    };
    let position = Position { epoch: 1, batch: 1 };
    let train = &batches(&data, spec(), position)[0];
    let evaluate = &batches(&data, evaluation, position)[0];
    assert_eq!(train.dropout, Some([7, Purpose::Dropout as u64, 1, 1]));
    assert_eq!(evaluate.dropout, None);
    for (batch, seed) in [(train, 7), (evaluate, 7 ^ EVALUATION_SEED_BIT)] {
        for (group, purpose) in [(MODELLING, Purpose::PatchMaskMlm), (MATCHING, Purpose::PatchMaskItm)] {
            for (i, s) in batch.group(group).enumerate() {
                let mut rng = stream(seed, purpose, 1, 4 + i as u64);
                let noise: Vec<f32> = (0..16).map(|_| rng.random()).collect();
                let want = vlct_model::PatchMask::from_noise(&noise, 0.6);
                assert_eq!(batch.sequences[s].mask, Some(want));
            }
        }
    }
}

#[test]
fn half_of_a_batch_has_false_images_of_the_same_dataset() {
    let directory = write_datasets(9, &[]);
    let data = dataset(directory.path(), &["vg", "pretrainGQA"]);
    let spec = LoaderSpec {
        batch_size: 5,
        ..spec()
    };
    let make = |itm| -> Vec<Batch> {
        let inputs = inputs(TransformKind::MaeTest);
        let loader = Loader::new(pretrain(itm), data.clone(), inputs, spec, Position::default()).unwrap();
        loader.collect::<Result<_>>().unwrap()
    };
    // `MaeTest` draws no random numbers.
    let image = |item| {
        transformed(
            &data,
            item,
            TransformKind::MaeTest,
            &mut stream(0, Purpose::Order, 0, 0),
        )
    };
    let images: Vec<Vec<f32>> = (0..data.len()).map(image).collect();
    let mut permutations = BTreeSet::new();
    for batch in make(true) {
        let n = batch.len();
        let matched: Vec<bool> = batch.targets.iter().map(|t| *t == Target::Class(1)).collect();
        assert_eq!(matched.iter().filter(|m| **m).count(), n / 2);
        assert_eq!(batch.images.len(), n + n - n / 2);
        for (i, item) in batch.items.iter().enumerate() {
            let (modelling, matching) = (&batch.sequences[i], &batch.sequences[n + i]);
            assert_eq!(batch.image_of(modelling).unwrap().values, images[*item]);
            assert_eq!(modelling.image == matching.image, matched[i]);
            let peers = &images[data.peers(*item)];
            assert!(
                peers
                    .iter()
                    .any(|peer| batch.image_of(matching).unwrap().values == peer)
            );
        }
        permutations.insert(matched);
    }
    assert!(permutations.len() > 3, "the labels must be permuted");

    for batch in make(false) {
        assert_eq!(batch.images.len(), batch.len());
        assert!(batch.group(MATCHING).is_empty() && batch.targets.iter().all(|t| *t == Target::None));
    }
}

#[test]
fn unreadable_images_are_replaced_in_training_and_counted() {
    let directory = write_datasets(9, &[0, 5]);
    let data = dataset(directory.path(), &["vg"]);
    let all: Vec<Batch> = loader(pretrain(false), &data, spec(), Position::default())
        .collect::<Result<_>>()
        .unwrap();
    let rows: BTreeSet<usize> = all
        .iter()
        .flat_map(|b| b.items.iter().map(|item| data.locate(*item).unwrap().row))
        .collect();
    assert!(!rows.contains(&0) && !rows.contains(&5));
    let samples: usize = all.iter().map(Batch::len).sum();
    assert_eq!(samples, 36, "number of samples");
    // Two unreadable rows with two captions each, in each of two epochs; a drawn replacement may be unreadable too.
    assert!(all.iter().map(|b| b.unreadable.len()).sum::<usize>() >= 8);
    for batch in &all {
        for Unreadable { item, reason } in &batch.unreadable {
            let row = data.locate(*item).unwrap().row;
            assert!([0, 5].contains(&row), "{row}");
            assert!(reason.contains(&format!("vg.arrow: row {row}")), "{reason}");
        }
        for (i, item) in batch.items.iter().enumerate() {
            let mut ids = batch.texts[i].ids.clone();
            let labels = &batch.texts[i].labels;
            ids.iter_mut()
                .zip(labels)
                .for_each(|(id, label)| *id = label.unwrap_or(*id));
            let caption = data.text(*item).unwrap().unwrap();
            let want = Tokenizer::bert_base_uncased().encode(&caption, 12);
            assert_eq!(ids, want, "image and caption belong together");
        }
    }
}

#[test]
fn unreadable_images_are_errors_in_evaluation() {
    let directory = write_datasets(3, &[1]);
    let data = dataset(directory.path(), &["vg"]);
    let spec = LoaderSpec {
        mode: Mode::Evaluate,
        replaces_unreadable: false,
        batch_size: 2,
        ..spec()
    };
    let mut loader = loader(pretrain(false), &data, spec, Position::default());
    assert_eq!(loader.epoch_len(), 3);
    assert!(loader.next().unwrap().is_ok());
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("vg.arrow: row 1"), "{error}");
    assert!(loader.next().unwrap().is_ok());
}

#[test]
fn a_validation_in_training_replaces_unreadable_images() {
    let directory = write_datasets(3, &[1]);
    let data = dataset(directory.path(), &["vg"]);
    let spec = LoaderSpec {
        mode: Mode::Evaluate,
        end_epoch: Some(1),
        ..spec()
    };
    let batches = batches(&data, spec, Position::default());
    assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 6);
    assert!(batches.iter().map(|batch| batch.unreadable.len()).sum::<usize>() >= 2);
    let items: Vec<usize> = batches.iter().flat_map(|batch| batch.items.clone()).collect();
    assert!(items.iter().all(|item| !(2..4).contains(item)), "{items:?}");
}

#[test]
fn a_dataset_without_readable_images_is_an_error() {
    let directory = write_datasets(3, &[0, 1, 2]);
    let data = dataset(directory.path(), &["vg"]);
    let mut loader = loader(pretrain(true), &data, spec(), Position::default());
    let error = loader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("consecutive images cannot be read"), "{error}");
}

#[test]
fn retrieval_evaluation_has_one_item_per_row() {
    let directory = write_datasets(5, &[]);
    let data = dataset(directory.path(), &["vg", "pretrainGQA"]);
    let rows = Arc::new(RowsOf::new(data.clone()));
    let spec = LoaderSpec {
        mode: Mode::Evaluate,
        end_epoch: Some(1),
        ..spec()
    };
    let loader = Loader::new(
        pretrain(false),
        rows,
        inputs(TransformKind::Mae),
        spec,
        Position::default(),
    )
    .unwrap();
    let all: Vec<Batch> = loader.collect::<Result<_>>().unwrap();
    assert!(all.iter().flat_map(|b| b.items.clone()).eq(0..10));
    let mut images = all.iter().flat_map(|b| &b.images);
    for row in 0..10 {
        let item = data.items_of(row).unwrap().start;
        let mut rng = stream(0, Purpose::Order, 0, 0);
        let want = transformed(&data, item, TransformKind::MaeTest, &mut rng);
        assert_eq!(**images.next().unwrap(), want);
    }
}

#[test]
fn retrieval_draws_false_captions_from_the_same_dataset() {
    let directory = write_datasets(5, &[]);
    let data = dataset(directory.path(), &["vg", "pretrainGQA"]);
    let task = Arc::new(Retrieval {
        spec: RetrievalSpec { false_texts: 3 },
    });
    let tokenizer = Tokenizer::bert_base_uncased();
    let tokens = |item| tokenizer.encode(&data.text(item).unwrap().unwrap(), 12);
    for batch in loader(task, &data, spec(), Position::default()) {
        let batch = batch.unwrap();
        assert_eq!(
            (batch.images.len(), batch.sequences.len()),
            (batch.len(), 4 * batch.len())
        );
        for (i, item) in batch.items.iter().enumerate() {
            let sequences = &batch.sequences[4 * i..][..4];
            assert!(sequences.iter().all(|s| s.image == Some(i as u32)));
            assert_eq!(batch.text_of(&sequences[0]).unwrap().ids, tokens(*item));
            let peers: Vec<Vec<u32>> = data.peers(*item).map(tokens).collect();
            assert!(sequences.iter().all(|s| peers.contains(&batch.text_of(s).unwrap().ids)));
        }
    }
}

#[test]
fn targets_of_questions_are_the_scores_of_their_answers() {
    let directory = tempfile::tempdir().unwrap();
    let question = AnsweredQuestion {
        question: "what is it?".into(),
        question_id: 3,
        answers: vec![("house".into(), 4, 1.0), ("home".into(), 2, 0.3)],
    };
    let mut writer = VqaWriter::create(directory.path().join("ask_train.arrow"), VqaKind::Answered).unwrap();
    let row = VqaRow {
        image: &png(3),
        questions: &[question],
        image_id: 1,
        split: "train",
    };
    writer.push(row).unwrap();
    writer.finish().unwrap();
    let task = build_task(TaskSpec::Vqa(VqaSpec::default()));
    let data = TableDataset::open(task.contents(), directory.path(), &["ask"], Split::Train).unwrap();
    let batch = loader(task, &Arc::new(data), spec(), Position::default())
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(batch.targets, [Target::Scores(vec![(4, 1.0), (2, 0.3)])]);
    assert_eq!(
        (batch.images.len(), batch.texts.len(), batch.sequences.len()),
        (1, 1, 1)
    );
}

#[test]
fn golden_datasets_load() {
    for golden in vlct_golden::directories("prepare") {
        for (set, name) in [("coco", "coco"), ("gcc", "gcc"), ("vg", "vg")] {
            let root = golden.join(set).join("expected");
            let data = TableDataset::open_with(
                Contents::Captions,
                root,
                &[name],
                Split::Train,
                &FileRules {
                    fewer_shards: true,
                    ..FileRules::default()
                },
            )
            .unwrap();
            let data = Arc::new(data);
            let spec = LoaderSpec {
                end_epoch: Some(1),
                ..spec()
            };
            let all = batches(&data, spec, Position::default());
            assert_eq!(all.iter().map(Batch::len).sum::<usize>(), data.len(), "{name}");
            let mut values = all.iter().flat_map(|b| &b.images).flat_map(|image| image.iter());
            assert!(values.all(|v| v.is_finite()));
        }
    }
}

#[test]
fn rejects_values_out_of_range() {
    let directory = write_datasets(2, &[]);
    let data = dataset(directory.path(), &["vg"]);
    let new = |inputs: InputSpec, batch_size| {
        let spec = LoaderSpec { batch_size, ..spec() };
        Loader::new(
            pretrain(true),
            data.clone(),
            Arc::new(inputs),
            spec,
            Position::default(),
        )
    };
    let valid = || (*inputs(TransformKind::Mae)).clone();
    assert!(new(valid(), 4).is_ok());
    assert!(new(valid(), 0).is_err());
    assert!(new(valid(), usize::MAX).is_err());
    let small = InputSpec {
        format: TransformSpec::Named(TransformKind::MaeTest).published_format(0),
        ..valid()
    };
    assert!(new(small, 4).is_err());
    let short = InputSpec {
        max_text_len: 1,
        ..valid()
    };
    assert!(new(short, 4).is_err());
    let empty = TableDataset::open(Contents::Captions, directory.path(), &["vg"], Split::Val).unwrap();
    let start = Position::default();
    assert!(
        Loader::new(
            pretrain(true),
            Arc::new(empty),
            inputs(TransformKind::Mae),
            spec(),
            start
        )
        .is_err()
    );
}
