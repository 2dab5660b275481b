//! Tests of datasets of questions and of pairs.

use std::path::Path;

use serde_json::{Value, json};

use super::super::*;
use super::{row_of, split_name, text};
use crate::answers::Vocabulary;
use crate::arrow::{AnsweredQuestion, Nlvr2Row, Nlvr2Writer, VqaKind, VqaRow, VqaWriter};

fn open(contents: Contents, root: &Path, names: &[&str], split: Split) -> TableDataset {
    TableDataset::open(contents, root, names, split).unwrap()
}

/// Compares the values that are recorded for questions and for pairs: numbers of items and rows, files, texts, and the row of each
/// item. Texts and rows of items are not recorded for large datasets. Returns the locations of the items.
fn assert_items(dataset: &TableDataset, expected: &Value, what: &str) -> Vec<Location> {
    assert_eq!(json!(dataset.len()), expected["length"], "{what}");
    assert_eq!(json!(dataset.rows()), expected["rows"], "{what}");
    assert_eq!(
        json!(dataset.tables().collect::<Vec<_>>()),
        expected["file_of_row"],
        "{what}"
    );
    let locations: Vec<Location> = (0..dataset.len()).map(|item| dataset.locate(item).unwrap()).collect();
    if let Some(texts) = expected.get("texts") {
        let got: Vec<Vec<String>> = (0..dataset.rows())
            .map(|row| dataset.items_of(row).unwrap().map(|item| text(dataset, item)).collect())
            .collect();
        assert_eq!(&json!(got), texts, "{what}");
        let mapper: Vec<(usize, usize)> = locations
            .iter()
            .map(|location| (row_of(dataset, location), location.text))
            .collect();
        assert_eq!(json!(mapper), expected["index_mapper"], "{what}");
    }
    locations
}

fn image_ids(dataset: &TableDataset) -> Vec<Option<String>> {
    (0..dataset.rows())
        .map(|row| dataset.image_id_at(&dataset.locate_row(row).unwrap()).unwrap())
        .collect()
}

/// Reads an item as a question.
fn question_at(dataset: &TableDataset, item: usize) -> AnsweredQuestion {
    let example = dataset.example(item).unwrap();
    assert!(example.images[0].as_ref().is_some_and(|image| !image.is_empty()));
    let Answer::Question { question_id, answers } = example.answer else {
        panic!("{:?}", example.answer);
    };
    AnsweredQuestion {
        question: example.text.unwrap().into_owned(),
        question_id,
        answers: answers.unwrap_or_default(),
    }
}

fn assert_questions(dataset: &TableDataset, expected: &Value, what: &str) {
    assert_items(dataset, expected, what);
    let questions: Vec<AnsweredQuestion> = (0..dataset.len()).map(|item| question_at(dataset, item)).collect();
    if let Some(items) = expected.get("items") {
        let got: Vec<Value> = questions
            .iter()
            .map(|question| {
                let answers = question.answers.iter();
                json!({
                    "qid": question.question_id,
                    "vqa_answer": answers.clone().map(|a| &a.0).collect::<Vec<_>>(),
                    "vqa_labels": answers.clone().map(|a| a.1).collect::<Vec<_>>(),
                    "vqa_scores": answers.map(|a| a.2).collect::<Vec<_>>(),
                })
            })
            .collect();
        assert_eq!(&json!(got), items, "{what}");
        let recorded: Vec<i64> = serde_json::from_value(expected["image_id"].clone()).unwrap();
        let recorded: Vec<Option<String>> = recorded.iter().map(|id| Some(id.to_string())).collect();
        assert_eq!(image_ids(dataset), recorded, "{what}");
    } else {
        let ids: Vec<i64> = questions.iter().map(|question| question.question_id).collect();
        let last = &ids[ids.len().saturating_sub(3)..];
        assert_eq!(json!(ids[..ids.len().min(3)]), expected["first_qids"], "{what}");
        assert_eq!(json!(last), expected["last_qids"], "{what}");
    }
}

const SPLITS: [Split; 3] = [Split::Train, Split::Val, Split::Test];

#[test]
fn questions_read_as_the_original_reads_them() {
    for directory in vlct_golden::directories("prepare") {
        for set in ["vqav2", "vqav2_large_val"] {
            let root = directory.join(set).join("expected");
            let recorded = vlct_golden::json(root.join("reader.json"));
            let recorded = &recorded["VQAv2Dataset"];
            let datasets = SPLITS.map(|split| open(Contents::Questions, &root, &["vqa"], split));
            for (dataset, split) in datasets.iter().zip(SPLITS) {
                assert_questions(dataset, &recorded[split_name(split)], &format!("{set} {split}"));
            }

            let vocabulary = Vocabulary::from_prepared(&root).unwrap();
            let table = &recorded["answer_table"];
            assert_eq!(json!(vocabulary.len()), table["num_class"]);
            let known = table["answer2id"].as_object().unwrap();
            let ids = (0..vocabulary.len() as u32).filter(|id| vocabulary.answer(*id).is_some());
            assert_eq!(ids.count(), known.len());
            for (answer, id) in known {
                assert_eq!(vocabulary.id(answer).map(u64::from), id.as_u64(), "{answer}");
            }
        }
    }
}

fn copy(from: &Path, files: &[&str], to: &Path) {
    for file in files {
        std::fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[test]
fn questions_of_visual_genome_read_as_the_original_reads_them() {
    for directory in vlct_golden::directories("prepare") {
        let expected = |set: &str| directory.join(set).join("expected");
        let alone = open(Contents::Questions, &expected("vgqa"), &["vgqa"], Split::Train);
        let recorded = vlct_golden::json(expected("vgqa").join("reader.json"));
        let recorded = &recorded["VQAv2Dataset with vgqa_train as only training file"]["train"];
        assert_questions(&alone, recorded, "vgqa");

        let root = tempfile::tempdir().unwrap();
        copy(
            &expected("vqav2"),
            &["vqav2_train.arrow", "vqav2_trainable_val.arrow"],
            root.path(),
        );
        copy(&expected("valid_vgqa"), &["vgqa_train.arrow"], root.path());
        let both = open(Contents::Questions, root.path(), &["vqa", "vgqa"], Split::Train);
        let recorded = vlct_golden::json(expected("valid_vgqa").join("reader.json"));
        let recorded = &recorded["VQAv2Dataset with vgqa_train as third training file"]["train"];
        assert_questions(&both, recorded, "vqav2 and vgqa");
    }
}

#[test]
fn pairs_read_as_the_original_reads_them() {
    for directory in vlct_golden::directories("prepare") {
        let root = directory.join("nlvr2/expected");
        let recorded = vlct_golden::json(root.join("reader.json"));
        for split in SPLITS {
            let expected = &recorded["NLVR2Dataset"][split_name(split)];
            let what = format!("nlvr2 {split}");
            let dataset = open(Contents::Pairs, &root, &["nlvr2"], split);
            let locations = assert_items(&dataset, expected, &what);
            let tables: Vec<&str> = dataset.tables().map(|(name, _)| name).collect();
            let items: Vec<Value> = (0..)
                .zip(&locations)
                .map(|(item, location)| {
                    let example = dataset.example(item).unwrap();
                    let [Some(left), Some(right)] = &example.images else {
                        panic!("{what}: two images");
                    };
                    assert!(!left.is_empty() && !right.is_empty() && left != right);
                    json!({"answers": example.answer == Answer::Truth(true), "table_name": tables[location.table]})
                })
                .collect();
            assert_eq!(json!(items), expected["items"], "{what}");
            assert_eq!(json!(image_ids(&dataset)), expected["identifier"], "{what}");
        }
    }
}

#[test]
fn batch_boundaries_and_large_strings_of_questions_and_pairs_do_not_matter() {
    for directory in vlct_golden::directories("prepare") {
        let questions = |root: &Path| {
            let dataset = open(Contents::Questions, root, &["vqa"], Split::Train);
            let questions = (0..dataset.len()).map(|item| question_at(&dataset, item));
            let mut questions: Vec<AnsweredQuestion> = questions.collect();
            questions.sort_by_key(|question| question.question_id);
            questions
        };
        let sentences = |root: &Path, split| {
            let dataset = open(Contents::Pairs, root, &["nlvr2"], split);
            (0..dataset.len())
                .map(|item| {
                    let example = dataset.example(item).unwrap();
                    (example.text.map(|text| text.into_owned()), example.answer)
                })
                .collect::<Vec<_>>()
        };
        let (vqa, nlvr2) = (directory.join("vqav2/expected"), directory.join("nlvr2/expected"));
        let variants = directory.join("variants");

        let mixed = tempfile::tempdir().unwrap();
        let mixed = mixed.path();
        copy(
            &variants.join("multi_batch"),
            &["vqav2_train.arrow", "nlvr2_train.arrow"],
            mixed,
        );
        copy(
            &variants.join("large_string"),
            &["vqav2_trainable_val.arrow", "nlvr2_dev.arrow"],
            mixed,
        );
        copy(&nlvr2, &["nlvr2_test1.arrow"], mixed);
        assert_eq!(questions(mixed), questions(&vqa));
        for split in [Split::Train, Split::Val] {
            assert_eq!(sentences(mixed, split), sentences(&nlvr2, split), "{split}");
        }
    }
}

fn question(id: i64, answers: &[(&str, i64, f64)]) -> AnsweredQuestion {
    AnsweredQuestion {
        question: format!("question {id}?"),
        question_id: id,
        answers: answers.iter().map(|a| (a.0.to_string(), a.1, a.2)).collect(),
    }
}

fn write_questions(directory: &Path, file: &str, kind: VqaKind, questions: &[AnsweredQuestion]) {
    let mut writer = VqaWriter::create(directory.join(file), kind).unwrap();
    let row = VqaRow {
        image: b"image",
        questions,
        image_id: 1,
        split: "train",
    };
    writer.push(row).unwrap();
    writer.finish().unwrap();
}

#[test]
fn errors_of_invalid_answers_name_the_row() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    for (answer, reason) in [
        (("a", -1, 1.0), "id -1"),
        (("a", i64::MAX, 1.0), "id 9223372036854775807"),
        (("a", 0, 1.5), "score 1.5"),
        (("a", 0, f64::NAN), "score NaN"),
    ] {
        let questions = [question(5, &[("b", 1, 0.3)]), question(6, &[answer])];
        write_questions(root, "ask_train.arrow", VqaKind::Answered, &questions);
        let dataset = open(Contents::Questions, root, &["ask"], Split::Train);
        assert_eq!(question_at(&dataset, 0), questions[0]);
        let message = dataset.example(1).unwrap_err().to_string();
        assert!(
            message.contains(reason) && message.contains("ask_train.arrow: row 0: question 1"),
            "{message}"
        );
    }
    write_questions(root, "ask_test.arrow", VqaKind::Test, &[question(7, &[])]);
    let test = open(Contents::Questions, root, &["ask"], Split::Test);
    assert_eq!(question_at(&test, 0), question(7, &[]));
    assert_eq!(open(Contents::Questions, root, &["ask"], Split::Val).len(), 0);
}

#[test]
fn rejects_datasets_with_other_contents() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write_questions(root, "ask_train.arrow", VqaKind::Answered, &[question(5, &[])]);
    let mut writer = Nlvr2Writer::create(root.join("two_train.arrow")).unwrap();
    let sentences = [("one".to_string(), true), ("one".to_string(), false)];
    let pair = Nlvr2Row {
        image_0: b"left",
        image_1: b"right",
        sentences: &sentences,
        identifier: "x",
    };
    writer.push(pair).unwrap();
    writer.finish().unwrap();

    let pairs = open(Contents::Pairs, root, &["two"], Split::Train);
    assert_eq!(pairs.len(), 2, "sentences that occur twice are two items");
    for (item, truth) in [true, false].into_iter().enumerate() {
        let example = pairs.example(item).unwrap();
        assert_eq!(example.answer, Answer::Truth(truth));
        assert_eq!(
            example.images.map(|image| image.unwrap().into_owned()),
            [b"left".to_vec(), b"right".to_vec()]
        );
    }

    // A test split may have no answers.
    let mut writer = Nlvr2Writer::create(root.join("two_test.arrow")).unwrap();
    writer.push_without_answers(pair).unwrap();
    writer.finish().unwrap();
    let test = open(Contents::Pairs, root, &["two"], Split::Test);
    assert_eq!(test.len(), 2);
    for item in 0..2 {
        let example = test.example(item).unwrap();
        assert_eq!((example.text.as_deref(), example.answer), (Some("one"), Answer::None));
    }

    for (contents, names, expected) in [
        (
            Contents::Questions,
            &["ask", "two"][..],
            "two is a dataset of pairs of images, not of questions",
        ),
        (
            Contents::Pairs,
            &["ask"],
            "ask is a dataset of questions, not of pairs of images",
        ),
        (
            Contents::Captions,
            &["vqa"],
            "vqa is a dataset of questions, not of captions",
        ),
    ] {
        let error = TableDataset::open(contents, root, names, Split::Train).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }

    // A missing column is an error when the dataset is opened.
    std::fs::copy(root.join("two_train.arrow"), root.join("vqav2_rest_val.arrow")).unwrap();
    let error = TableDataset::open(Contents::Questions, root, &["vqa"], Split::Val).unwrap_err();
    assert!(error.to_string().contains("no column \"image\""), "{error}");
}

/// Writes a custom dataset of questions. Each row has one question with `answers`.
fn write_answers(path: &Path, rows: &[&[(&str, i64)]]) {
    let mut writer = VqaWriter::create(path, VqaKind::Answered).unwrap();
    for (row, answers) in rows.iter().enumerate() {
        let answers = answers.iter().map(|(answer, id)| (answer.to_string(), *id, 1.0));
        let question = AnsweredQuestion {
            question: "what?".into(),
            question_id: row as i64,
            answers: answers.collect(),
        };
        let row = VqaRow {
            image: b"image",
            questions: &[question],
            image_id: row as i64,
            split: "train",
        };
        writer.push(row).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn reads_the_vocabulary_of_any_dataset_of_questions() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    write_answers(&root.join("ask_train_0.arrow"), &[&[("cat", 0), ("dog", 2)], &[]]);
    write_answers(&root.join("ask_train_1.arrow"), &[&[("dog", 2)]]);
    let vocabulary = |names: &[&str]| {
        let dataset = TableDataset::open(Contents::Questions, root, names, Split::Train).unwrap();
        Vocabulary::from_dataset(&dataset).map_err(|error| error.to_string())
    };
    let answers = vocabulary(&["ask"]).unwrap();
    assert_eq!(
        (answers.len(), answers.id("cat"), answers.answer(1)),
        (3, Some(0), None)
    );
    assert_eq!(answers.answer(2), Some("dog"));

    // Two datasets with different ids cannot be used together.
    write_answers(&root.join("other_train.arrow"), &[&[("dog", 1)]]);
    let error = vocabulary(&["ask", "other"]).unwrap_err();
    assert!(
        error.contains("other_train.arrow: row 0: answer \"dog\" has two ids, 2 and 1"),
        "{error}"
    );

    let test = TableDataset::open(Contents::Questions, root, &["ask"], Split::Test).unwrap();
    assert!(Vocabulary::from_dataset(&test).unwrap().is_empty());
    Nlvr2Writer::create(root.join("two_train.arrow"))
        .unwrap()
        .finish()
        .unwrap();
    let pairs = TableDataset::open(Contents::Pairs, root, &["two"], Split::Train).unwrap();
    let error = Vocabulary::from_dataset(&pairs).unwrap_err().to_string();
    assert_eq!(error, "two has pairs of images, not questions with answers");
    assert_eq!(
        pairs.label_names().unwrap_err().to_string(),
        "two has pairs of images, not labels"
    );

    for golden in vlct_golden::directories("prepare") {
        let expected = golden.join("vqav2/expected");
        let [train, val] = [Split::Train, Split::Val].map(|split| {
            let dataset = TableDataset::open(Contents::Questions, &expected, &["vqa"], split).unwrap();
            Vocabulary::from_dataset(&dataset).unwrap()
        });
        let all = Vocabulary::from_prepared(&expected).unwrap();
        for vocabulary in [train, val] {
            assert!(!vocabulary.is_empty());
            for id in (0..vocabulary.len() as u32).filter(|id| vocabulary.answer(*id).is_some()) {
                assert_eq!(vocabulary.answer(id), all.answer(id));
            }
        }
    }
}
