use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};
use vlct_pickle::Writer;

use super::*;
use crate::arrow::{AnsweredQuestion, VqaKind, VqaRow, VqaWriter};

/// Answers, each with the result of the original's `normalize_word`.
const NORMALISED: [(&str, &str); 33] = [
    ("Yes", "yes"),
    ("a man", "man"),
    ("a", ""),
    ("the  red, white and blue", "red white and blue"),
    ("10,000", "10000"),
    ("1,2,3", "123"),
    ("cat,dog", "cat dog"),
    ("cat, dog", "cat dog"),
    ("5,", "5"),
    ("3.5", "3.5"),
    ("5.", "5"),
    ("U.S.A.", "usa"),
    ("mr. smith", "mr smith"),
    ("...", ""),
    ("black/white", "black white"),
    ("black / white", "black white"),
    ("t-shirt", "t shirt"),
    ("t - shirt", "t shirt"),
    ("12:30 pm", "12:30 pm"),
    ("$5.00", "$5.00"),
    ("\"stop\"", "stop"),
    ("What?!", "what"),
    ("100%", "100%"),
    ("one and a half", "1 and half"),
    ("none", "0"),
    ("Im", "im"),
    ("dont know", "don't know"),
    ("oclock", "o'clock"),
    ("somebody'd", "somebodyd"),
    ("shouldnt've", "shouldn't've"),
    ("@home", "home"),
    ("e.g. this", "eg this"),
    // A comma in a number changes the rule for all punctuation of the answer: the slash is removed without a space.
    ("1,000 black/white", "1000 blackwhite"),
];

#[test]
fn normalises_answers_as_the_original() {
    for (answer, expected) in NORMALISED {
        assert_eq!(normalize_word(answer), expected, "{answer:?}");
    }
    for directory in vlct_golden::directories("text") {
        let pairs = vlct_golden::json(directory.join("answer_normalisation.json"));
        for pair in pairs.as_array().unwrap() {
            let answer = pair[0].as_str().unwrap();
            assert_eq!(normalize_word(answer), pair[1].as_str().unwrap(), "{answer:?}");
        }
    }
}

#[test]
fn characters_are_classified_as_in_python() {
    for (answer, expected) in [
        // Arabic-Indic digits are digits; a superscript two is not.
        ("٣,٤ a/b", "٣٤ ab"),
        ("x²,² a/b", "x² ² b"),
        ("x.٣ y.²", "x.٣ y²"),
        // White space in Python, but not in Rust.
        ("one\u{1c}two\u{1f}three", "1 2 3"),
        // White space in Python and in Rust.
        ("one\u{a0}two\u{3000}three", "1 2 3"),
        // White space in neither.
        ("one\u{200b}two", "one\u{200b}two"),
        // Lower case with a final sigma, and with a combining dot.
        ("ΟΔΟΣ İ", "οδος i\u{307}"),
    ] {
        assert_eq!(normalize_word(answer), expected, "{answer:?}");
    }
}

#[test]
fn removes_at_most_32_periods() {
    assert_eq!(normalize_word(&"x.".repeat(34)), format!("{}x.x.", "x".repeat(32)));
    // Periods that are kept because of a digit do not count.
    assert_eq!(
        normalize_word(&format!("{}z.", "x.1".repeat(40))),
        format!("{}z", "x.1".repeat(40))
    );
}

#[test]
fn scores_equal_those_of_the_original() {
    assert_eq!([0, 1, 2, 3, 4, 10].map(score), [0.0, 0.3, 0.6, 0.9, 1.0, 1.0]);
}

fn golden_directories(set: &str) -> Vec<PathBuf> {
    vlct_golden::directories("prepare")
        .iter()
        .map(|directory| directory.join(set))
        .collect()
}

fn answers_by_id(vocabulary: &Vocabulary) -> Value {
    let answers = (0..vocabulary.len() as u32).map(|id| vocabulary.answer(id));
    json!(answers.collect::<Vec<_>>())
}

#[test]
fn majority_answers_give_the_originals_vocabulary() {
    for directory in golden_directories("vqav2") {
        let answers = ["train", "val"].iter().flat_map(|split| {
            let file = vlct_golden::json(directory.join(format!("raw/v2_mscoco_{split}2014_annotations.json")));
            let annotations = file["annotations"].as_array().unwrap().clone();
            annotations
                .into_iter()
                .map(|a| a["multiple_choice_answer"].as_str().unwrap().to_owned())
        });
        let vocabulary = Vocabulary::of_majority_answers(answers);
        let path = directory.join("expected/vocabulary.json");
        let expected = vlct_golden::json(&path);
        assert_eq!(answers_by_id(&vocabulary), expected["label2ans"]);
        for (answer, id) in expected["ans2label"].as_object().unwrap() {
            assert_eq!(vocabulary.id(answer).map(u64::from), id.as_u64());
        }
        assert_eq!(Vocabulary::open(&path).unwrap(), vocabulary);
        assert_eq!(
            Vocabulary::from_prepared(directory.join("expected")).unwrap(),
            vocabulary
        );
    }
}

#[test]
fn reads_the_originals_pickles() {
    for (set, file) in [
        ("map_vg_mscoco", "coco_vqa_label_info.pkl"),
        ("vgqa", "vqa_labels_info.pkl"),
    ] {
        for (labels, vqa) in golden_directories(set).iter().zip(golden_directories("vqav2")) {
            let vocabulary = Vocabulary::open(labels.join("raw").join(file)).unwrap();
            let expected = vlct_golden::json(vqa.join("expected/vocabulary.json"));
            assert_eq!(answers_by_id(&vocabulary), expected["label2ans"]);
        }
    }
}

fn label_pickle(ids: &[(&str, i64)], list: &[&str]) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.empty_dict().text("ans2label").empty_dict();
    for (answer, id) in ids {
        writer.text(answer).int(*id).set_item();
    }
    writer.set_item().text("label2ans").mark();
    for answer in list {
        writer.text(answer);
    }
    writer.tuple().set_item();
    writer.finish()
}

/// Reads a file with these bytes.
fn open_bytes(bytes: &[u8]) -> Result<Vocabulary, crate::DataError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("answers");
    std::fs::write(&path, bytes).unwrap();
    Vocabulary::open(&path)
}

#[test]
fn reads_the_labels_of_a_configuration_of_hugging_face() {
    let config = json!({"model_type": "vilt", "id2label": {"1": "no", "0": "yes", "2": "net"}, "label2id": {"yes": 0}});
    let vocabulary = open_bytes(config.to_string().as_bytes()).unwrap();
    let answers: Vec<_> = (0..3).map(|id| vocabulary.answer(id)).collect();
    assert_eq!(
        (vocabulary.len(), answers),
        (3, vec![Some("yes"), Some("no"), Some("net")])
    );
    for (labels, want) in [
        (json!({}), "no answers"),
        (json!({"0": "yes", "2": "no"}), "no answer with the id 1"),
        (json!({"-1": "yes"}), "no answer with the id 0"),
        (json!({"0": "yes", "1": "yes"}), "two ids"),
        (json!({"first": "yes"}), "is not a number"),
        (json!({"0": "yes", "00": "no"}), "no answer with the id 1"),
    ] {
        let error = open_error(json!({"id2label": labels}).to_string().as_bytes());
        assert!(error.contains(want), "{error}");
    }
}

/// The error message of a file with these bytes.
fn open_error(bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("labels");
    std::fs::write(&path, bytes).unwrap();
    let message = Vocabulary::open(&path).unwrap_err().to_string();
    assert!(!message.contains('\n') && message.contains("labels: "), "{message}");
    message
}

#[test]
fn rejects_inconsistent_or_malformed_vocabularies() {
    for (ids, list, reason) in [
        (
            &[("a", 0), ("b", 1)][..],
            &["b", "a"][..],
            "\"b\" has the id 0 in label2ans and 1 in ans2label",
        ),
        (
            &[("a", 0), ("b", -1)],
            &["a", "b"],
            "\"b\" has the id 1 in label2ans and -1 in ans2label",
        ),
        (
            &[("a", 0)],
            &["a", "b\n"],
            "\"b\\n\" is in label2ans but not in ans2label",
        ),
        (
            &[("a", 0), ("b", 1)],
            &["a"],
            "\"b\" is in ans2label but not in label2ans",
        ),
        (&[("a", 0)], &["a", "a"], "\"a\" has two ids, 0 and 1"),
        (&[], &[], "no answers"),
    ] {
        assert!(open_error(&label_pickle(ids, list)).contains(reason), "{reason}");
        let ids: serde_json::Map<String, Value> = ids.iter().map(|(a, id)| (a.to_string(), json!(id))).collect();
        let text = json!({"ans2label": ids, "label2ans": list}).to_string();
        assert!(open_error(text.as_bytes()).contains(reason), "{reason}");
    }
    assert!(open_error(b"[\"a\", 1]").contains("neither a list of answers, nor an object"));
    assert!(open_error(b"[\"a\", ").contains("not JSON"));
    assert!(open_error(b"hello").contains("neither JSON nor a pickle"));
    assert!(open_error(b"").contains("neither JSON nor a pickle"));
    assert!(open_error(b"\x80\x02K\x01.").contains("not a dictionary"));
    assert!(
        Vocabulary::open("no such file")
            .unwrap_err()
            .to_string()
            .contains("no such file: ")
    );
}

fn write_vqa(path: &Path, rows: &[&[(&str, i64)]]) {
    let mut writer = VqaWriter::create(path, VqaKind::Answered).unwrap();
    for (row, answers) in rows.iter().enumerate() {
        let questions = [AnsweredQuestion {
            question: "What?".into(),
            question_id: row as i64,
            answers: answers
                .iter()
                .map(|(answer, id)| (answer.to_string(), *id, 1.0))
                .collect(),
        }];
        let row = VqaRow {
            image: b"",
            questions: &questions,
            image_id: row as i64,
            split: "train",
        };
        writer.push(row).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn rejects_contradictory_prepared_files() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let error = || Vocabulary::from_prepared(directory).unwrap_err().to_string();
    assert!(error().contains("no answers found"), "{}", error());

    write_vqa(&directory.join("vqav2_train.arrow"), &[&[("a", 0), ("c", 2)], &[]]);
    let vocabulary = Vocabulary::from_prepared(directory).unwrap();
    assert_eq!(answers_by_id(&vocabulary), json!(["a", null, "c"]));
    assert_eq!((vocabulary.len(), vocabulary.id("b")), (3, None));

    write_vqa(&directory.join("vqav2_val.arrow"), &[&[("b", 1)], &[("b", 2)]]);
    assert!(
        error().contains("vqav2_val.arrow: row 1: answer \"b\" has two ids, 1 and 2"),
        "{}",
        error()
    );
    write_vqa(&directory.join("vqav2_val.arrow"), &[&[("b", 2)]]);
    assert!(
        error().contains("row 0: id 2 has two answers, \"c\" and \"b\""),
        "{}",
        error()
    );
    for impossible in [-1, i64::MAX] {
        write_vqa(&directory.join("vqav2_val.arrow"), &[&[("b", impossible)]]);
        assert!(error().contains(&format!("has the id {impossible}")), "{}", error());
    }
}

proptest! {
    #[test]
    fn normalised_words_are_separated_by_single_spaces(answer in "[ -~\\x1c\u{a0}٣²ΣİA.,]{0,40}") {
        let normalised = normalize_word(&answer);
        prop_assert!(normalised.split(' ').all(|word| !word.is_empty()) || normalised.is_empty());
        let removed = ['/', ',', '?', '\u{a0}', '\u{1c}', 'A'];
        prop_assert!(!normalised.contains(removed), "{}", normalised);
    }

    #[test]
    fn damaged_vocabularies_are_read_or_rejected_in_one_line(
        is_pickle in any::<bool>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut_position in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = if is_pickle {
            label_pickle(&[("yes", 0), ("no", 1), ("2", 2)], &["yes", "no", "2"])
        } else {
            br#"{"ans2label": {"yes": 0, "no": 1}, "label2ans": ["yes", "no"]}"#.to_vec()
        };
        for (position, value) in edits {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if is_cut {
            bytes.truncate(cut_position.index(bytes.len()));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("labels");
        std::fs::write(&path, bytes).unwrap();
        match Vocabulary::open(&path) {
            Ok(vocabulary) => prop_assert!(!vocabulary.is_empty()),
            Err(error) => prop_assert!(!error.to_string().contains('\n')),
        }
    }
}
