use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::file::parse;
use super::plan::{VgqaRow, rows};
use super::*;
use vlct_data::answers::Vocabulary;

fn golden(set: &str) -> Vec<PathBuf> {
    vlct_golden::directories("prepare")
        .iter()
        .map(|directory| directory.join(set))
        .collect()
}

/// Converts images to the JSON form of the golden data.
fn to_json(images: &[ImageWithQuestions]) -> Value {
    let question = |q: &Question| json!([q.id, q.question, q.answer]);
    let image =
        |image: &ImageWithQuestions| json!([image.id, image.questions.iter().map(question).collect::<Vec<_>>()]);
    json!(images.iter().map(image).collect::<Vec<_>>())
}

fn encoded(images: &[ImageWithQuestions], format: QuestionsFormat) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(images, format, &mut bytes).unwrap();
    bytes
}

fn parse_error(bytes: &[u8]) -> String {
    let message = parse(bytes).unwrap_err();
    assert!(!message.contains('\n') && message.len() < 1000, "{message}");
    message
}

#[test]
fn selects_the_questions_of_the_original() {
    for directory in golden("map_vg_mscoco") {
        let vocabulary = Vocabulary::open(directory.join("raw/coco_vqa_label_info.pkl")).unwrap();
        let selection = select(&directory.join("raw"), &vocabulary).unwrap();
        let expected = vlct_golden::json(directory.join("expected/valid_vgqa_info.json"));
        assert_eq!(json!(selection.considered), expected["considered"]);
        assert_eq!(json!(selection.kept), expected["kept"]);
        assert_eq!(to_json(&selection.images), expected["images"]);
        let pickled = read(&directory.join("expected/valid_vgqa_info.pkl")).unwrap();
        assert_eq!(pickled, selection.images);
        for format in [QuestionsFormat::Pickle, QuestionsFormat::Json] {
            assert_eq!(parse(&encoded(&pickled, format)).unwrap(), pickled, "{format:?}");
        }
    }
}

#[test]
fn selected_images_keep_the_order_of_the_image_data() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let images = |ids: &[i64]| {
        json!(
            ids.iter()
                .map(|id| json!({"image_id": id, "coco_id": 1}))
                .collect::<Vec<_>>()
        )
    };
    let qa =
        |image: i64, id: i64, answer: &str| json!({"image_id": image, "qa_id": id, "question": "?", "answer": answer});
    fs::write(root.join("image_data.json"), images(&[7, 5, 6]).to_string()).unwrap();
    // A question belongs to the image of its own `image_id`, even if the entry of another image lists it.
    let qas = json!([{"id": 5, "qas": [qa(5, 1, "Two."), qa(7, 2, "2")]}, {"id": 7, "qas": [qa(5, 3, "two"), qa(6, 4, "3")]}]);
    fs::write(root.join("question_answers.json"), qas.to_string()).unwrap();
    let vocabulary = Vocabulary::of_majority_answers(["2"; 9]);
    let selection = select(root, &vocabulary).unwrap();
    assert_eq!((selection.considered, selection.kept), (4, 3));
    assert_eq!(
        to_json(&selection.images),
        json!([[7, [[2, "?", "2"]]], [5, [[1, "?", "2"], [3, "?", "2"]]]])
    );

    fs::write(root.join("image_data.json"), images(&[7, 5, 7]).to_string()).unwrap();
    let selection = select(root, &vocabulary).unwrap();
    assert_eq!(
        selection.remarks,
        ["image_data.json: left out 1 row that cannot be used (entry 2: image 7 occurs twice)"]
    );
}

/// Returns the expected rows without the images' bytes.
fn expected_rows(directory: &Path) -> Value {
    let mut rows = vlct_golden::json(directory.join("expected/rows.json"))["vgqa_train.arrow"].clone();
    for row in rows.as_array_mut().unwrap() {
        row.as_object_mut().unwrap().remove("image");
    }
    rows
}

fn planned_rows(rows: &[VgqaRow]) -> Value {
    let per_question = |row: &VgqaRow, value: &dyn Fn(&vlct_data::arrow::AnsweredQuestion) -> Value| {
        json!(row.questions.iter().map(value).collect::<Vec<_>>())
    };
    let row = |row: &VgqaRow| {
        json!({
            "questions": per_question(row, &|q| json!(q.question)),
            "answers": per_question(row, &|q| json!(q.answers.iter().map(|a| &a.0).collect::<Vec<_>>())),
            "answer_labels": per_question(row, &|q| json!(q.answers.iter().map(|a| a.1).collect::<Vec<_>>())),
            "answer_scores": per_question(row, &|q| json!(q.answers.iter().map(|a| a.2).collect::<Vec<_>>())),
            "image_id": row.image_id,
            "question_id": per_question(row, &|q| json!(q.question_id)),
            "split": "train",
        })
    };
    json!(rows.iter().map(row).collect::<Vec<_>>())
}

#[test]
fn rows_equal_those_of_the_original() {
    for (set, layout) in [("valid_vgqa", Layout::ValidVgqa), ("vgqa", Layout::Vgqa)] {
        for directory in golden(set) {
            let root = directory.join("raw");
            let rows = rows(&root, layout, None).unwrap();
            assert_eq!(planned_rows(&rows), expected_rows(&directory));
            let recorded = vlct_golden::json(directory.join("expected/rows.json"))["vgqa_train.arrow"].clone();
            for (row, recorded) in rows.iter().zip(recorded.as_array().unwrap()) {
                let length = fs::metadata(&row.path).unwrap().len();
                assert_eq!(json!(length), recorded["image"]["bytes"], "{}", row.path.display());
            }
        }
    }
}

#[test]
fn json_files_are_accepted_instead_of_pickles() {
    for directory in golden("valid_vgqa") {
        let copy = tempfile::tempdir().unwrap();
        let from = directory.join("raw");
        let images = read(&from.join("valid_vgqa_info.pkl")).unwrap();
        let bytes = encoded(&images, QuestionsFormat::Json);
        fs::write(copy.path().join("valid_vgqa_info.json"), &bytes).unwrap();
        let error = rows(copy.path(), Layout::ValidVgqa, None).unwrap_err().to_string();
        assert!(
            error.contains("neither coco_vqa_label_info.pkl nor coco_vqa_label_info.json"),
            "{error}"
        );
        let vocabulary = Vocabulary::open(from.join("coco_vqa_label_info.pkl")).unwrap();
        let rows = rows(copy.path(), Layout::ValidVgqa, Some(&vocabulary)).unwrap();
        assert_eq!(planned_rows(&rows), expected_rows(&directory));
    }
}

#[test]
fn counts_answers_outside_the_vocabulary() {
    let directory = tempfile::tempdir().unwrap();
    let images = [(4, 11, "yes"), (8, 12, "no"), (9, 13, "2")].map(|(id, question, answer)| ImageWithQuestions {
        id,
        questions: vec![Question {
            id: question,
            question: "Is it?".into(),
            answer: answer.into(),
        }],
    });
    fs::write(
        directory.path().join("vg_qa_info.dict"),
        encoded(&images, QuestionsFormat::Pickle),
    )
    .unwrap();
    let vocabulary = Vocabulary::of_majority_answers(["yes"; 9]);
    let error = rows(directory.path(), Layout::Vgqa, Some(&vocabulary))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(
            "answers that are not in the vocabulary of 1 answer: 2; the first is \"no\" to question 12 of image 8"
        ),
        "{error}"
    );
}

#[test]
fn rejects_files_of_another_format_or_structure() {
    assert!(parse_error(b"").contains("neither JSON nor a pickle"));
    assert!(parse_error(b"{\"1\": [[2, \"a\"]]}").contains("not images with their questions"));
    assert!(parse_error(b"{\"1\": [], \"1\": []}").contains("image 1 occurs twice"));
    assert!(parse_error(b"]K\x01a.").contains("not a dictionary"));
    assert!(parse_error(b"}X\x01\0\0\0a]s.").contains("is not the id of an image"));
    assert!(parse_error(b"}K\x01]K\x02as.").contains("image 1 has no list of"));
    let error = read(Path::new("no such file")).unwrap_err().to_string();
    assert!(error.starts_with("no such file: "), "{error}");
}

#[test]
fn rejects_texts_repeated_many_times() {
    // One text of 100,000 bytes, in a tuple that is in the list a million times.
    let mut bytes = b"}K\x01](K\x01X\xa0\x86\x01\0".to_vec();
    bytes.extend(vec![b'x'; 100_000]);
    bytes.extend(b"X\x00\0\0\0\x87q\x01");
    bytes.extend(b"h\x01".repeat(1_000_000));
    bytes.extend(b"es.");
    assert!(parse_error(&bytes).contains("repeated far too often"));
}

proptest! {
    #[test]
    fn questions_round_trip_in_both_formats(
        images in prop::collection::vec((any::<i64>(), prop::collection::vec((any::<i64>(), ".{0,8}", ".{0,8}"), 0..4)), 0..5),
    ) {
        let mut seen = std::collections::HashSet::new();
        let images: Vec<ImageWithQuestions> = images
            .into_iter()
            .filter(|(id, _)| seen.insert(*id))
            .map(|(id, questions)| ImageWithQuestions {
                id,
                questions: questions.into_iter().map(|(id, question, answer)| Question { id, question, answer }).collect(),
            })
            .collect();
        for format in [QuestionsFormat::Pickle, QuestionsFormat::Json] {
            prop_assert_eq!(&parse(&encoded(&images, format)).unwrap(), &images);
        }
    }

    #[test]
    fn damaged_files_are_read_or_rejected_in_one_line(
        file in 0..4usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut_position in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let root = golden("map_vg_mscoco").remove(0);
        let vocabulary = Vocabulary::open(root.join("raw/coco_vqa_label_info.pkl")).unwrap();
        let pickled = root.join("expected/valid_vgqa_info.pkl");
        let names = ["image_data.json", "question_answers.json"];
        let mut bytes = match file {
            0 | 1 => fs::read(root.join("raw").join(names[file])).unwrap(),
            2 => fs::read(&pickled).unwrap(),
            _ => encoded(&read(&pickled).unwrap(), QuestionsFormat::Json),
        };
        for (position, value) in edits {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        if is_cut {
            bytes.truncate(cut_position.index(bytes.len()));
        }
        let error = if file < 2 {
            let directory = tempfile::tempdir().unwrap();
            fs::copy(root.join("raw").join(names[1 - file]), directory.path().join(names[1 - file])).unwrap();
            fs::write(directory.path().join(names[file]), bytes).unwrap();
            select(directory.path(), &vocabulary).err().map(|error| error.to_string())
        } else {
            parse(&bytes).err()
        };
        if let Some(error) = error {
            prop_assert!(!error.contains('\n'));
        }
    }
}

#[test]
fn rejects_a_file_cut_at_any_byte() {
    let path = golden("map_vg_mscoco").remove(0).join("expected/valid_vgqa_info.pkl");
    let pickle = fs::read(&path).unwrap();
    let json = encoded(&read(&path).unwrap(), QuestionsFormat::Json);
    for bytes in [&pickle[..], json.trim_ascii_end()] {
        for cut in 0..bytes.len() {
            parse_error(&bytes[..cut]);
        }
    }
}
