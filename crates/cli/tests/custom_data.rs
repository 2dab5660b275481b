//! Training on custom datasets: Arrow files whose names begin with that of the dataset, and directories of WebDataset shards.

mod support;

use std::path::Path;
use std::process::Output;

use support::{
    assert_one_line_error, assert_same_checkpoint, assert_success, last_checkpoint, run_directory, run_with, stderr_of,
    tiny_model_arguments, vlct, write_synthetic,
};
use tempfile::TempDir;
use vlct_checkpoint as checkpoint;
use vlct_data::arrow::ArrowTable;
use vlct_data::datasets::{Answer, Contents, Dataset, Split, TableDataset};

/// Writes the rows of an Arrow file as a WebDataset shard with captions in JSON.
fn write_tar(table: &Path, tar: &Path) {
    let table = ArrowTable::open(table).expect("an Arrow file");
    std::fs::create_dir_all(tar.parent().expect("in a directory")).expect("created");
    let mut builder = tar::Builder::new(std::fs::File::create(tar).expect("created"));
    for row in 0..table.rows() {
        let metadata = serde_json::json!({"caption": table.texts(row, "caption").expect("captions")}).to_string();
        let image = table.image(row, "image").expect("an image");
        for (extension, bytes) in [("png", image), ("json", metadata.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder
                .append_data(&mut header, format!("{row:09}.{extension}"), bytes)
                .expect("written");
        }
    }
    builder.finish().expect("written");
}

fn run(directory: &Path, log_dir: &str, datasets: &str) -> std::process::Output {
    let (log_dir, datasets) = (format!("log_dir={log_dir}"), format!("datasets={datasets}"));
    run_with(
        directory,
        &tiny_model_arguments("data", &["max_steps=6", "limit_val_batches=1", &log_dir, &datasets]),
    )
}

#[test]
fn arrow_files_and_tars_give_the_same_weights() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let data = directory.join("data");
    write_synthetic(&data, 24);
    for (published, custom, tar) in [
        ("coco_caption_karpathy_train", "mine_train_0", "web/train/0.tar"),
        ("coco_caption_karpathy_restval", "mine_train_1", "web/train/1.tar"),
        ("coco_caption_karpathy_test", "mine_val", "web/val/0.tar"),
    ] {
        let published = data.join(published).with_extension("arrow");
        write_tar(&published, &data.join(tar));
        std::fs::copy(published, data.join(custom).with_extension("arrow")).expect("copied");
    }
    for (log_dir, datasets) in [("published", "['coco']"), ("arrow", "['mine']"), ("tar", "['web']")] {
        assert_success(&run(directory, log_dir, datasets));
    }
    assert_same_checkpoint(
        &last_checkpoint(directory, "published"),
        &last_checkpoint(directory, "arrow"),
    );
    assert_same_checkpoint(
        &last_checkpoint(directory, "published"),
        &last_checkpoint(directory, "tar"),
    );

    // Without validation data there is no best checkpoint.
    std::fs::copy(data.join("mine_train_0.arrow"), data.join("only_train.arrow")).expect("copied");
    let output = run(directory, "only", "['only']");
    assert_success(&output);
    assert!(
        stderr_of(&output).contains("there is no validation data"),
        "{}",
        stderr_of(&output)
    );
    assert!(last_checkpoint(directory, "only").is_file());
    assert!(!checkpoint::best_path(&run_directory(directory, "only")).exists());

    // `inspect` lists tars beside Arrow files, and does not overwrite data with a contact sheet.
    let inspect = |more: &[&str]| {
        vlct()
            .current_dir(directory)
            .args(["inspect", "data"])
            .args(more)
            .output()
    };
    let output = inspect(&[]).expect("the program starts");
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("only_train.arrow") && text.contains("web/train/0.tar"),
        "{text}"
    );
    let before = std::fs::read(data.join("only_train.arrow")).expect("there");
    let output = inspect(&["--sheet", "data/only_train.arrow"]).expect("the program starts");
    assert_one_line_error("a sheet over data", &output, &["ends in .png"]);
    assert!(std::fs::read(data.join("only_train.arrow")).expect("there") == before);

    let output = vlct()
        .arg("inspect")
        .arg(data.join("web"))
        .output()
        .expect("the program starts");
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    for part in [
        "web/train/0.tar",
        "shard of 24 samples",
        "web/train/1.tar",
        "web/val/0.tar",
        "intact",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    let tar = data.join("web/train/0.tar");
    let original = std::fs::read(&tar).expect("written");
    std::fs::write(&tar, &original[..original.len() / 2]).expect("written");
    assert_one_line_error(
        "a truncated tar",
        &run(directory, "cut", "['web']"),
        &["0.tar", "cut short"],
    );
    let output = vlct().arg("inspect").arg(&tar).output().expect("the program starts");
    assert_one_line_error("inspecting a truncated tar", &output, &["0.tar", "cut short"]);
}

#[test]
fn suggests_the_nearest_dataset_name() {
    let directory = TempDir::new().expect("temporary directory");
    write_synthetic(&directory.path().join("data"), 12);
    assert_one_line_error(
        "a typo",
        &run(directory.path(), "typo", "['cocoa']"),
        &["\"cocoa\"", "did you mean \"coco\"?", "cocoa_train_0.arrow"],
    );
}

#[test]
fn trains_on_a_prepared_table() {
    let directory = TempDir::new().expect("temporary directory");
    let directory = directory.path();
    let data = directory.join("data");
    write_synthetic(&data, 24);
    let table = ArrowTable::open(data.join("coco_caption_karpathy_train.arrow")).expect("an Arrow file");
    std::fs::create_dir(directory.join("photos")).expect("created");
    let mut csv = String::from("url,photo,alt\n");
    for row in 0..table.rows() {
        let image = table.image(row, "image").expect("an image");
        std::fs::write(directory.join(format!("photos/{row}.png")), image).expect("written");
        for caption in table.texts(row, "caption").expect("captions") {
            csv.push_str(&format!("https://x/{row},{row}.png,\"{caption}\"\n"));
        }
    }
    std::fs::write(directory.join("photos.csv"), csv).expect("written");
    let prepare = |arguments: &[&str]| {
        let fixed = [
            "prepare",
            "csv",
            "--root",
            "photos",
            "--out",
            "data",
            "--annotations",
            "photos.csv",
        ];
        let mut command = vlct();
        command
            .current_dir(directory)
            .args(fixed)
            .args(arguments)
            .output()
            .expect("the program starts")
    };
    let columns = ["--image-column", "photo", "--text-column", "alt"];
    let output = prepare(&columns);
    assert_eq!(output.status.code(), Some(2), "--name is needed");
    assert_one_line_error(
        "a wrong column",
        &prepare(&["--name", "photos", "--text-column", "alt"]),
        &["photos.csv", "\"photo\""],
    );
    let output = prepare(&[&columns[..], &["--name", "photos"]].concat());
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("photos_train_0.arrow: 24 rows"), "{text}");

    std::fs::copy(
        data.join("coco_caption_karpathy_train.arrow"),
        data.join("copy_train.arrow"),
    )
    .expect("copied");
    for name in ["photos", "copy"] {
        let datasets = format!("['{name}']");
        assert_success(&run(directory, name, &datasets));
    }
    assert_same_checkpoint(
        &last_checkpoint(directory, "photos"),
        &last_checkpoint(directory, "copy"),
    );
}

/// Writes images and the files of a custom dataset into a directory. Returns the directory.
fn raw_data(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("temporary directory");
    let image = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/images/cmyk.jpg"));
    let image = image.expect("an image");
    std::fs::create_dir(directory.path().join("photos")).expect("created");
    for name in ["1.jpg", "2.jpg"] {
        std::fs::write(directory.path().join("photos").join(name), &image).expect("written");
    }
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).expect("written");
    }
    directory
}

fn prepare(directory: &Path, format: &str, arguments: &[&str]) -> Output {
    vlct()
        .current_dir(directory)
        .args(["prepare", format, "--root", "photos", "--name", "mine", "--out", "data"])
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// Panics unless the program succeeded and printed all `parts`.
fn assert_printed(output: &Output, parts: &[&str]) {
    assert_success(output);
    let text = String::from_utf8_lossy(&output.stdout);
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

fn open_custom(directory: &Path, contents: Contents, split: Split) -> TableDataset {
    TableDataset::open(contents, directory.join("data"), &["mine"], split).expect("a prepared dataset")
}

#[test]
fn prepares_a_table_with_one_label_per_row() {
    let directory = raw_data(&[
        (
            "train.csv",
            "image,text,label\n1.jpg,a small cat,cat\n2.jpg,,dog\n,only words,cat\n1.jpg,no label,\n,,cat\n",
        ),
        ("val.csv", "image,text,label\n1.jpg,a cat,cat\n2.jpg,a cow,cow\n"),
    ]);
    let directory = directory.path();
    let tables = ["--annotations", "train=train.csv", "--annotations", "val=val.csv"];
    let output = prepare(directory, "csv", &tables);
    assert_printed(
        &output,
        &[
            "mine_train_0.arrow: 3 rows",
            "mine_val_0.arrow: 2 rows",
            "train: 2 classes: cat 2, dog 1; rows without image: 1; rows without text: 1",
            "val: 2 classes: cat 1, cow 1",
            "train: left out 1 row with neither an image nor a text (train.csv, line 6)",
            "train: left out 1 row without a label (train.csv, line 5)",
        ],
    );
    let warning = "warning: val has labels that no training row has, so a model cannot learn them: \"cow\"";
    assert!(stderr_of(&output).contains(warning), "{}", stderr_of(&output));
    let report = std::fs::read_to_string(directory.join("data/prepare_mine.json")).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["labels"][0]["rows"], serde_json::json!({"cat": 2, "dog": 1}));

    let train = open_custom(directory, Contents::Labels, Split::Train);
    let labels = train.label_names().expect("labels");
    assert_eq!(
        (labels.names, labels.several),
        (vec!["cat".to_string(), "dog".into()], false)
    );
    let example = train.example(2).expect("a row");
    assert_eq!(
        (example.images[0].as_deref(), example.text.as_deref()),
        (None, Some("only words"))
    );
    assert_eq!(example.answer, Answer::Labels(vec!["cat".into()]));

    let inspected = vlct()
        .current_dir(directory)
        .args(["inspect", "data/mine_train_0.arrow", "--sheet", "sheet.png"])
        .output()
        .expect("the program starts");
    assert_printed(
        &inspected,
        &["label: 2 classes: cat 2, dog 1", "sheet.png: 3 rows", "intact"],
    );
    // The same command has nothing to do; another one does not replace the files.
    let again = prepare(directory, "csv", &tables);
    assert!(
        stderr_of(&again).contains("all files exist already"),
        "{}",
        stderr_of(&again)
    );
    let text = String::from_utf8_lossy(&again.stdout);
    assert!(
        text.contains("unchanged, from an earlier preparation: data/mine_train_0.arrow") && !text.contains("wrote"),
        "{text}"
    );
    assert_one_line_error(
        "other labels",
        &prepare(directory, "csv", &[&tables[..], &["--label-column", "text"]].concat()),
        &["made from other inputs", "--overwrite"],
    );
}

#[test]
fn prepares_tables_with_any_number_of_labels() {
    let directory = raw_data(&[
        (
            "films.jsonl",
            "{\"image\": \"1.jpg\", \"text\": \"one\", \"labels\": [\"drama\", \"war\"]}\n\
             {\"text\": \"two\", \"labels\": []}\n\
             {\"image\": \"2.jpg\", \"labels\": [\"war\"]}\n\
             {\"text\": \"four\", \"split\": \"test\"}\n",
        ),
        (
            "films.csv",
            "image,text,genres\n1.jpg,one,drama|war\n,two,\n2.jpg,,war\n",
        ),
    ]);
    let directory = directory.path();
    let output = prepare(directory, "jsonl", &["--annotations", "films.jsonl"]);
    let line = "train: 2 classes, any number per row: drama 1, war 2; rows without image: 1; rows without text: 1";
    assert_printed(
        &output,
        &[line, "test: 0 classes, any number per row; rows without label: 1"],
    );
    let examples = || {
        let train = open_custom(directory, Contents::Labels, Split::Train);
        assert!(train.label_names().expect("labels").several);
        let examples = (0..train.len()).map(|item| {
            let example = train.example(item).expect("a row");
            (example.text.map(|text| text.into_owned()), example.answer)
        });
        examples.collect::<Vec<_>>()
    };
    let of_json = examples();
    let test = open_custom(directory, Contents::Labels, Split::Test);
    assert_eq!(test.example(0).expect("a row").answer, Answer::None);
    let more = ["--annotations", "films.csv", "--labels-column", "genres", "--overwrite"];
    assert_printed(&prepare(directory, "csv", &more), &[line]);
    assert_eq!(examples(), of_json);
}

#[test]
fn prepares_labels_of_parquet() {
    let directory = raw_data(&[]);
    let directory = directory.path();
    // A table of three images with captions and keys.
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds/captions.parquet");
    let table = ["--annotations", table.to_str().expect("UTF-8")];
    let output = prepare(directory, "parquet", &[&table[..], &["--label-column", "key"]].concat());
    assert_printed(&output, &["train: 3 classes: x 1, y 1, z 1"]);
    let lists = ["--labels-column", "caption", "--text-column", "key", "--overwrite"];
    let output = prepare(directory, "parquet", &[&table[..], &lists].concat());
    assert_printed(&output, &["train: 3 classes, any number per row: a 1, b 1, c c 1"]);
    let train = open_custom(directory, Contents::Labels, Split::Train);
    let example = train.example(2).expect("a row");
    assert!(example.images[0].is_some());
    assert_eq!(example.text.as_deref(), Some("z"));
}

#[test]
fn prepares_pairs_of_images() {
    let directory = raw_data(&[(
        "pairs.csv",
        "image_0,image_1,statement,label,split\n1.jpg,2.jpg,two cats,True,train\n1.jpg,2.jpg,a dog,0,train\n\
         2.jpg,1.jpg,a cow,yes,val\n1.jpg,1.jpg,a pig,perhaps,val\n2.jpg,2.jpg,a hen,,test\n",
    )]);
    let directory = directory.path();
    let output = prepare(directory, "csv", &["--annotations", "pairs.csv"]);
    assert_printed(
        &output,
        &[
            "mine_train_0.arrow: 1 row",
            "mine_test_0.arrow: 1 row",
            "val: left out 1 row whose truth is neither true, yes, 1 nor false, no, 0 (pairs.csv, line 5: \"perhaps\")",
        ],
    );
    let answers = |split| {
        let pairs = open_custom(directory, Contents::Pairs, split);
        let answers = (0..pairs.len()).map(|item| pairs.example(item).expect("a row").answer);
        answers.collect::<Vec<_>>()
    };
    assert_eq!(answers(Split::Train), [Answer::Truth(true), Answer::Truth(false)]);
    assert_eq!(answers(Split::Val), [Answer::Truth(true)]);
    assert_eq!(answers(Split::Test), [Answer::None]);
}

#[test]
fn unusable_tables_are_one_line_errors() {
    let directory = raw_data(&[
        ("blank.csv", "text,label\na,\nb, \n"),
        ("both.csv", "text,label,labels\na,x,y\n"),
        ("half.csv", "image_0,statement,label\n1.jpg,a,1\n"),
        ("truth.csv", "image_0,image_1,statement,label\n1.jpg,1.jpg,a,perhaps\n"),
        ("list.jsonl", "{\"text\": \"a\", \"label\": [\"x\", \"y\"]}\n"),
        ("files.csv", "image,label\nnone.jpg,x\n"),
        ("words.csv", "name,label\na,x\n"),
    ]);
    for (format, file, parts) in [
        (
            "csv",
            "blank.csv",
            &[
                "no row has a label",
                "left out 2 rows without a label (blank.csv, line 2; blank.csv, line 3)",
            ][..],
        ),
        (
            "csv",
            "both.csv",
            &["both.csv: it has both columns label and labels; remove one of them"],
        ),
        (
            "csv",
            "half.csv",
            &["half.csv: there is no column of the right images of pairs (image_1"],
        ),
        (
            "csv",
            "truth.csv",
            &["no row has two images that exist", "(truth.csv, line 2: \"perhaps\")"],
        ),
        (
            "jsonl",
            "list.jsonl",
            &["list.jsonl: line 1, column \"label\" holds a list of texts, not one label"],
        ),
        (
            "csv",
            "files.csv",
            &["none.jpg does not exist; paths are relative to --root"],
        ),
        (
            "csv",
            "words.csv",
            &[
                "words.csv: there is no column of images",
                "or texts",
                "\"name\", \"label\"",
            ],
        ),
    ] {
        let output = prepare(directory.path(), format, &["--annotations", file]);
        assert_one_line_error(file, &output, parts);
    }
    let both = [
        "--annotations",
        "both.csv",
        "--label-column",
        "label",
        "--labels-column",
        "labels",
    ];
    assert_eq!(prepare(directory.path(), "csv", &both).status.code(), Some(2));
}
