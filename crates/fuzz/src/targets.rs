//! The readers, and valid files to damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use vlct_checkpoint as checkpoint;
use vlct_checkpoint::TensorRef;
use vlct_data::answers::{Annotations, Vocabulary};
use vlct_data::arrow::{ArrowTable, LabelKind, LabelRow, LabelWriter};
use vlct_data::datasets::{Contents, Dataset as _, Split, TableDataset};
use vlct_data::testing::read_values;
use vlct_data::webdataset::TarTable;
use vlct_image::{TransformKind, TransformSpec, decode};
use vlct_model::config::{Backbone, Heads};
use vlct_model::files::training::{Group, ParameterState, Setting, Training};
use vlct_model::sizes::{self, GivenHeads};
use vlct_model::{ModelConfig, VitConfig, Vlc, VlcConfig, files};
use vlct_predict::images::ImageClassifier;
use vlct_predict::records::json_lines;
use vlct_predict::{Head, OpenOptions, Predictor, npy};
use vlct_prepare::tables::{self, ColumnNames, TableFormat};
use vlct_prepare::vgqa;
use vlct_prepare::{Dataset, RawDataset};
use vlct_tasks::description::WeightsKind;
use vlct_tasks::images::ImagesSpec;
use vlct_tasks::vqa::VqaSpec;
use vlct_tasks::{Description, InputSpec, TaskSpec};
use vlct_tensor::{Compute, Device};
use vlct_text::{Tokenizer, Vocabulary as WordPieces};

/// A reader to fuzz.
pub struct Target {
    /// The name on the command line.
    pub name: &'static str,
    /// Reads a file; of a table, at most 1000 rows. The second argument is a directory for temporary files.
    pub read: fn(&[u8], &Path),
    /// Extensions of the files to damage.
    pub extensions: &'static [&'static str],
}

/// All readers of untrusted files.
pub const TARGETS: [Target; 15] = [
    Target {
        name: "arrow",
        read: read_arrow,
        extensions: &["arrow"],
    },
    Target {
        name: "image",
        read: |file, _| drop(decode(file)),
        extensions: &vlct_image::EXTENSIONS,
    },
    Target {
        name: "tar",
        read: read_tar,
        extensions: &["tar"],
    },
    Target {
        name: "annotations",
        read: read_annotations,
        extensions: &["json"],
    },
    Target {
        name: "jsonl",
        read: |file, directory| read_table(file, directory, TableFormat::Jsonl),
        extensions: &["jsonl"],
    },
    Target {
        name: "csv",
        read: |file, directory| {
            read_table(file, directory, TableFormat::Csv);
            read_table(file, directory, TableFormat::Tsv);
        },
        extensions: &["csv"],
    },
    Target {
        name: "parquet",
        read: |file, directory| read_table(file, directory, TableFormat::Parquet),
        extensions: &["parquet"],
    },
    Target {
        name: "pickle",
        read: read_pickle,
        extensions: &["pkl", "dict"],
    },
    Target {
        name: "weights",
        read: |file, _| read_weights(file),
        extensions: &["ckpt", "pth", "safetensors"],
    },
    Target {
        name: "index",
        read: read_index,
        extensions: &["json"],
    },
    Target {
        name: "check",
        read: |file, _| drop(vlct_image::check::check(file)),
        extensions: &vlct_image::EXTENSIONS,
    },
    Target {
        name: "description",
        read: read_description,
        extensions: &[],
    },
    Target {
        name: "settings",
        read: read_settings,
        extensions: &[],
    },
    Target {
        name: "inputs",
        read: |file, _| json_lines(file, Path::new("inputs"), Path::new("")).for_each(drop),
        extensions: &["jsonl"],
    },
    Target {
        name: "npy",
        read: |file, _| drop(npy::read(file)),
        extensions: &["npy"],
    },
];

/// Reads weights, and builds the model that they are of, with the checksums of a zip archive and without them.
fn read_weights(file: &[u8]) {
    build_model(file);
    let mut without_checksums = file.to_vec();
    for start in 0..file.len().saturating_sub(ZIP_CHECKSUM.end) {
        if file[start..].starts_with(ZIP_DIRECTORY_ENTRY) {
            without_checksums[start..][ZIP_CHECKSUM].fill(0);
        }
    }
    if without_checksums != file {
        build_model(&without_checksums);
    }
}

/// Signature of an entry in the directory of a zip archive.
const ZIP_DIRECTORY_ENTRY: &[u8] = b"PK\x01\x02";
/// Bytes of the checksum in an entry of the directory; with 0, an entry has no checksum.
const ZIP_CHECKSUM: std::ops::Range<usize> = 16..20;

fn build_model(file: &[u8]) {
    let Ok(index) = files::index_bytes(file) else { return };
    if let Ok(sizes) = sizes::derive(&index, GivenHeads::default()) {
        let _ = Vlc::read(sizes.config, &index);
    }
    let _ = index.non_finite();
    drop(index.decode());
    let mut values = Vec::new();
    if let Ok(Some(training)) = files::training::training_bytes(file) {
        for moment in training
            .parameters
            .iter()
            .flat_map(|parameter| parameter.moments.values())
        {
            values.resize(moment.shape().iter().product(), 0.0);
            let _ = moment.read_f32(&mut values);
        }
    }
}

/// Reads an index of several weight files.
fn read_index(file: &[u8], directory: &Path) {
    let path = directory.join("model.safetensors.index.json");
    fs::write(&path, file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    if let Ok(files) = files::map(&path) {
        let _ = files::index(&files);
    }
    fs::remove_file(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Opens a checkpoint with one tensor that has the file, if it is JSON, as its description.
fn read_description(file: &[u8], directory: &Path) {
    let Ok(description) = serde_json::from_slice::<Value>(file) else {
        return;
    };
    let path = directory.join("checkpoint.safetensors");
    let tensor = TensorRef {
        name: "transformer.cls_token",
        shape: &[1],
        data: Device::cpu().tensor(1, 1, &[1.0]),
    };
    checkpoint::save(&path, &[tensor], &Value::Null, &description)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let wanted: Vec<Head> = Head::ALL.to_vec();
    drop(Predictor::open(&path, &wanted, &OpenOptions::default()));
    drop(ImageClassifier::open(&path, Compute::default()));
}

/// The settings beside a model of Hugging Face.
const SETTINGS: [&str; 5] = [
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
];

/// Opens a model of Hugging Face that has the file in place of each of its settings.
fn read_settings(file: &[u8], directory: &Path) {
    let model = directory.join("model");
    if !model.exists() {
        fs::create_dir(&model).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        for entry in models_of_hugging_face()
            .first()
            .into_iter()
            .flat_map(fs::read_dir)
            .flatten()
            .flatten()
        {
            let copy = model.join(entry.file_name());
            fs::copy(entry.path(), &copy).unwrap_or_else(|e| panic!("{}: {e}", copy.display()));
        }
    }
    for name in SETTINGS {
        let path = model.join(name);
        let original = fs::read(&path).ok();
        write_file(file, &model, name);
        drop(Predictor::open(&model, &Head::ALL, &OpenOptions::default()));
        let restored = match original {
            Some(original) => fs::write(&path, original),
            None => fs::remove_file(&path),
        };
        restored.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
}

/// Returns the directories of recorded models of Hugging Face, those of question answering first.
fn models_of_hugging_face() -> Vec<PathBuf> {
    let roots = vlct_golden::vilt_directories("hf");
    let all = |name: &str| roots.iter().map(|root| root.join(name)).collect::<Vec<_>>();
    [all("vqa"), all("mlm_v5")].concat()
}

/// Returns the descriptions of a small model of questions and of a small image classifier.
fn descriptions() -> Vec<Vec<u8>> {
    let model = ModelConfig::Vlc(VlcConfig {
        image_size: 16,
        backbone: Backbone {
            patch_size: 8,
            width: 8,
            depth: 1,
            heads: 2,
            decoder_width: 4,
            decoder_depth: 1,
            decoder_heads: 1,
        },
        vocab_size: 6,
        max_text_len: 8,
        token_types: 2,
        variant: vlct_model::config::Variant::VLC,
        drop_rate: 0.1,
        heads: Heads {
            vqa: Some(2),
            ..Heads::default()
        },
    });
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"].map(String::from);
    let vocabulary = WordPieces::from_tokens(Path::new("seed"), &tokens).expect("a vocabulary");
    let inputs = InputSpec {
        format: TransformSpec::Named(TransformKind::MaeTest).published_format(16),
        train_transform: TransformKind::Mae.into(),
        eval_transform: TransformKind::MaeTest.into(),
        tokenizer: Tokenizer::new(Arc::new(vocabulary), true),
        max_patches: None,
        max_text_len: 8,
    };
    let answers = vec![Some("yes".into()), None];
    let classifier = ModelConfig::Vit(VitConfig {
        image_size: 16,
        patch_size: 8,
        width: 8,
        depth: 1,
        heads: 2,
        classes: 2,
        global_pool: true,
        drop_path: 0.1,
        layer_norm_eps: 1e-6,
        linear_probe: false,
    });
    let names = ["cat", "dog"].map(String::from).to_vec();
    let images = ImagesSpec {
        names,
        ..ImagesSpec::default()
    };
    let descriptions = [
        (model, TaskSpec::Vqa(VqaSpec { answers })),
        (classifier, TaskSpec::Images(images)),
    ];
    descriptions
        .iter()
        .map(|(model, task)| {
            let description = Description::new(model, task, &inputs, None, WeightsKind::Raw);
            serde_json::to_vec(&description).expect("a description in JSON")
        })
        .collect()
}

/// Writes the file into a directory and returns the path.
fn write_file(file: &[u8], directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

fn read_arrow(file: &[u8], directory: &Path) {
    let Ok(table) = ArrowTable::open(write_file(file, directory, "f_train.arrow")) else {
        return;
    };
    read_values(&table, 1000);
    for contents in [
        Contents::Captions,
        Contents::Questions,
        Contents::Pairs,
        Contents::Labels,
    ] {
        read_items(contents, directory);
    }
}

/// Reads `f_train.arrow` as a dataset with `contents`, if the file has the columns of `contents`.
fn read_items(contents: Contents, directory: &Path) {
    let Ok(dataset) = TableDataset::open(contents, directory, &["f"], Split::Train) else {
        return;
    };
    for item in 0..dataset.len().min(1000) {
        let _ = dataset.example(item);
    }
    let _ = dataset.label_names();
    let _ = Vocabulary::from_dataset(&dataset);
}

fn read_tar(file: &[u8], directory: &Path) {
    // A file that begins as gzip is decompressed first.
    let Ok(table) = TarTable::open_compressed(write_file(file, directory, "f.tar")) else {
        return;
    };
    let _ = (table.left_out(), table.other_endings());
    for row in 0..table.rows().min(1000) {
        let _ = table.image(row);
        let _ = table.captions(row);
        let _ = table.image_id(row);
    }
}

/// Reads the file as each kind of annotation file.
fn read_annotations(file: &[u8], directory: &Path) {
    for (dataset, file_names, image_directory) in [
        (Dataset::Coco, &["karpathy/dataset_coco.json"][..], "train2014"),
        (Dataset::Vg, &["annotations/region_descriptions.json"], "images/VG_100K"),
        (Dataset::Sbu, &["annot.json"], "images_train/a"),
        (Dataset::PretrainVqa, &["vqa_annt.json"], "train2014"),
        (Dataset::Nlvr2, &["nlvr2/data/dev.json"], "dev"),
        (
            Dataset::Vqav2,
            &[
                "v2_OpenEnded_mscoco_val2014_questions.json",
                "v2_mscoco_train2014_annotations.json",
                "v2_mscoco_val2014_annotations.json",
            ],
            "val2014",
        ),
    ] {
        let root = directory.join(dataset.name());
        let _ = fs::create_dir_all(root.join(image_directory));
        for name in file_names {
            let _ = fs::create_dir_all(root.join(name).parent().unwrap_or(&root));
            write_file(file, &root, name);
        }
        let mut raw = RawDataset::new(root);
        raw.splits = match dataset {
            Dataset::Nlvr2 => Some(vec!["dev".into()]),
            Dataset::Vqav2 => Some(vec!["val".into()]),
            _ => None,
        };
        let _ = dataset.plan(&raw);
    }
    let _ = Vocabulary::open(write_file(file, directory, "labels.json"));
    let _ = vgqa::read(&write_file(file, directory, "questions.json"));
    write_file(file, directory, "image_data.json");
    write_file(file, directory, "question_answers.json");
    let _ = vgqa::select(directory, &Vocabulary::default());
    if let Ok(annotations) = Annotations::open(directory.join("labels.json")) {
        let _ = annotations.check([1].into_iter());
        let _ = annotations.accuracy([(1, "yes")].into_iter());
    }
}

fn read_table(file: &[u8], directory: &Path, format: TableFormat) {
    let path = write_file(file, directory, &format!("f.{}", format.extension()));
    if let Ok(records) = tables::read(path, format, &ColumnNames::default()) {
        records.take(1000).for_each(drop);
    }
}

fn read_pickle(file: &[u8], directory: &Path) {
    if let Ok(pickle) = vlct_pickle::parse(file) {
        let _ = pickle.describe(pickle.root());
    }
    let _ = Vocabulary::open(write_file(file, directory, "labels.pkl"));
    let _ = vgqa::read(&write_file(file, directory, "questions.pkl"));
}

/// Returns the valid files of a target: the golden files with its extensions, and [`extra_files`]; all are smaller than 1 MiB.
pub fn valid_files(target: &Target) -> Vec<Vec<u8>> {
    let mut files = extra_files(target.name);
    let parts = ["prepare", "images", "model", "weights"];
    let directories = parts.iter().flat_map(|part| vlct_golden::directories(part));
    for directory in directories.chain(vlct_golden::vilt_directories("mae")) {
        collect(&directory, target.extensions, &mut files);
    }
    // Large files are slow, and small files cover the same structures.
    files.retain(|file| file.len() < 1 << 20);
    files
}

fn collect(directory: &Path, extensions: &[&str], files: &mut Vec<Vec<u8>>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, extensions, files);
        } else if path
            .extension()
            .is_some_and(|e| extensions.iter().any(|extension| e.eq_ignore_ascii_case(extension)))
        {
            files.extend(fs::read(path));
        }
    }
}

/// Returns a PyTorch file with weights and the state of an optimiser.
fn file_with_optimizer() -> Vec<u8> {
    let tensor = |name| TensorRef {
        name,
        shape: &[1, 1, 2],
        data: Device::cpu().tensor(1, 2, &[1.0, 2.0]),
    };
    let training = Training {
        epoch: 1,
        heads: 1,
        layer_norm_eps: 1e-6,
        groups: vec![Group {
            settings: vec![("lr", Setting::Number(0.1)), ("betas", Setting::Pair([0.9, 0.999]))],
            parameters: 1,
        }],
        parameters: vec![ParameterState {
            step: 3,
            moments: vec![tensor("exp_avg"), tensor("exp_avg_sq")],
        }],
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("checkpoint.pth");
    files::training::write_training(&path, &[tensor("cls_token")], &training).expect("a written file");
    fs::read(&path).expect("the written file")
}

/// Returns an Arrow file with labels.
fn labels_file(kind: LabelKind) -> Vec<u8> {
    let labels = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    let write = || -> vlct_data::Result<Vec<u8>> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("f_train.arrow");
        let mut writer = LabelWriter::create(&path, kind)?;
        for (image, text, labels) in [
            (Some(&b"image"[..]), Some("a cat"), Some(labels(&["cat"]))),
            (None, Some("a dog"), Some(labels(&["dog"]))),
            (Some(&b"image"[..]), None, None),
        ] {
            writer.push(LabelRow {
                image,
                text,
                labels: labels.as_deref(),
                image_id: text,
                split: "train",
            })?;
        }
        writer.finish()?;
        Ok(fs::read(&path).expect("the written file"))
    };
    write().expect("a file with labels")
}

/// Returns valid files of the formats that golden data lacks.
fn extra_files(name: &str) -> Vec<Vec<u8>> {
    let one_file = |text: &str| vec![text.as_bytes().to_vec()];
    match name {
        "arrow" => {
            let mut files = [LabelKind::Single, LabelKind::Multiple].map(labels_file).to_vec();
            // Text and images as views, and a stream with a column of every type.
            files.push(include_bytes!("../seeds/views.arrow").to_vec());
            files.push(include_bytes!("../seeds/types_stream.arrow").to_vec());
            files
        }
        "jsonl" => one_file(concat!(
            "{\"image\": \"a.jpg\", \"caption\": \"a cat\", \"split\": \"train\"}\n",
            "{\"image\": \"b.jpg\", \"captions\": [\"a dog\", \"\\u00e9t\\u00e9\"], \"id\": 7}\n",
            "\n",
            "{\"image_path\": \"c.jpg\", \"question\": \"what?\", \"answers\": [\"yes\", \"no\"]}\n",
        ))
        .into_iter()
        .chain(one_file(concat!(
            "{\"image\": \"a.jpg\", \"text\": \"a cat\", \"labels\": [\"cat\", 2], \"split\": \"train\"}\n",
            "{\"text\": \"a dog\", \"labels\": \"dog|cat\"}\n",
        )))
        .chain(one_file(concat!(
            "{\"filepath\": \"a\", \"filename\": \"b.jpg\", \"sentences\": [{\"raw\": \"x \\ud83d\"}], \"score\": NaN}\n",
            "{\"image\": \"a.jpg\", \"question\": \"what?\", \"answers\": [{\"answer\": \"yes\", \"answer_id\": 1}], \"id\": 1.0}\n",
        )))
        .chain(one_file(
            "{\"image_0\": \"a.jpg\", \"image_1\": \"b.jpg\", \"statement\": \"two cats\", \"truth\": true}\n",
        ))
        .collect(),
        "csv" => {
            let captions =
                "image,caption,split,url\na.jpg,\"a cat, \"\"small\"\"\",train,x\nb.jpg,\"two\nlines\",val,\n";
            let labels = "image,text,labels\na.jpg,\"a cat\",cat|small\n,\"a dog\",\n";
            let tabs = "filepath\ttitle\na.jpg\t\"a\" cat\nb.jpg\t\"a\tdog\"\n";
            let blanks = "image, caption\na.jpg, \"a, cat\"\rb.jpg, a dog\r";
            [captions, labels, tabs, blanks].into_iter().flat_map(one_file).collect()
        }
        "index" => one_file(
            "{\"metadata\": {\"total_size\": 8}, \"weight_map\": {\"cls_token\": \"1.safetensors\", \"norm.weight\": \"2.safetensors\"}}",
        ),
        "description" => descriptions(),
        "settings" => {
            let models = models_of_hugging_face();
            let paths = models.iter().flat_map(|model| SETTINGS.map(|name| model.join(name)));
            paths.filter_map(|path| fs::read(path).ok()).collect()
        }
        "weights" => vec![file_with_optimizer()],
        "inputs" => one_file(concat!(
            "{\"image\": \"a.jpg\", \"question\": \"what?\"}\n\n",
            "{\"image_0\": \"a.jpg\", \"image_1\": \"b.jpg\", \"statement\": \"two cats\"}\n",
        )),
        "npy" => {
            let mut file = Vec::new();
            npy::write(&mut file, &[2, 3], &[0.5; 6]).expect("memory takes every byte");
            vec![file]
        }
        "tar" => vec![
            include_bytes!("../seeds/two_samples.tar").to_vec(),
            include_bytes!("../seeds/apart.tar.gz").to_vec(),
        ],
        "parquet" => vec![
            include_bytes!("../seeds/captions.parquet").to_vec(),
            include_bytes!("../seeds/zstd.parquet").to_vec(),
        ],
        _ => Vec::new(),
    }
}
