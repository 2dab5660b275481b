//! The readers, and whole files of the kinds that they read.

use std::fs;
use std::path::{Path, PathBuf};

use vlct_data::answers::Vocabulary;
use vlct_data::arrow::ArrowTable;
use vlct_data::datasets::{Contents, Dataset as _, Split, TableDataset};
use vlct_data::webdataset::TarTable;
use vlct_image::decode;
use vlct_prepare::tables::{self, ColumnNames, TableFormat};
use vlct_prepare::vgqa;
use vlct_prepare::{Dataset, RawDataset};

/// A reader of files.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// Reads all of a file. The folder is empty and for the reader's use.
    pub read: fn(&[u8], &Path),
    /// Endings of the whole files to damage.
    pub endings: &'static [&'static str],
}

/// All readers of files that come from elsewhere.
pub const TARGETS: [Target; 10] = [
    Target {
        name: "arrow",
        read: arrow,
        endings: &["arrow"],
    },
    Target {
        name: "picture",
        read: |file, _| drop(decode(file)),
        endings: &["jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp"],
    },
    Target {
        name: "tar",
        read: tar,
        endings: &["tar"],
    },
    Target {
        name: "annotations",
        read: annotations,
        endings: &["json"],
    },
    Target {
        name: "jsonl",
        read: |file, folder| table(file, folder, TableFormat::Jsonl),
        endings: &["jsonl"],
    },
    Target {
        name: "csv",
        read: |file, folder| table(file, folder, TableFormat::Csv),
        endings: &["csv"],
    },
    Target {
        name: "parquet",
        read: |file, folder| table(file, folder, TableFormat::Parquet),
        endings: &["parquet"],
    },
    Target {
        name: "pickle",
        read: pickle,
        endings: &["pkl", "dict"],
    },
    Target {
        name: "weights",
        read: |file, _| drop(vlct_model::files::read_bytes(file)),
        endings: &["ckpt", "pth", "safetensors"],
    },
    Target {
        name: "check",
        read: |file, _| drop(vlct_image::check::check(file)),
        endings: &["jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp"],
    },
];

/// Writes the file into the folder.
fn put(file: &[u8], folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

fn arrow(file: &[u8], folder: &Path) {
    let Ok(table) = ArrowTable::open(put(file, folder, "f_train.arrow")) else {
        return;
    };
    let columns: Vec<String> = table.columns().map(str::to_string).collect();
    for row in 0..table.rows().min(1000) {
        for column in &columns {
            let _ = table.image(row, column);
            let _ = table.string(row, column);
            let _ = table.texts(row, column);
            let _ = table.integer(row, column);
            let _ = table.integers(row, column);
            let _ = table.text_lists(row, column);
            let _ = table.integer_lists(row, column);
            let _ = table.float_lists(row, column);
        }
    }
    for contents in [Contents::Captions, Contents::Questions, Contents::Pairs] {
        items(contents, folder);
    }
}

/// Opens the file as the dataset `f` of these contents, if it has them, and reads its items.
fn items(contents: Contents, directory: &Path) {
    let Ok(dataset) = TableDataset::open(contents, directory, &["f"], Split::Train) else {
        return;
    };
    for item in 0..dataset.len().min(1000) {
        let _ = dataset.example(item);
    }
}

fn tar(file: &[u8], folder: &Path) {
    let Ok(table) = TarTable::open(put(file, folder, "f.tar")) else {
        return;
    };
    for row in 0..table.rows().min(1000) {
        let _ = table.image(row);
        let _ = table.captions(row);
    }
}

/// The same file in the place of each kind of annotation file.
fn annotations(file: &[u8], folder: &Path) {
    for (dataset, names, pictures) in [
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
        let root = folder.join(dataset.name());
        let _ = fs::create_dir_all(root.join(pictures));
        for name in names {
            let _ = fs::create_dir_all(root.join(name).parent().unwrap_or(&root));
            put(file, &root, name);
        }
        let mut raw = RawDataset::new(root);
        raw.splits = match dataset {
            Dataset::Nlvr2 => Some(vec!["dev".into()]),
            Dataset::Vqav2 => Some(vec!["val".into()]),
            _ => None,
        };
        let _ = dataset.plan(&raw);
    }
    let _ = Vocabulary::open(put(file, folder, "labels.json"));
    let _ = vgqa::read(&put(file, folder, "questions.json"));
    put(file, folder, "image_data.json");
    put(file, folder, "question_answers.json");
    let _ = vgqa::select(folder, &Vocabulary::default());
}

fn table(file: &[u8], folder: &Path, format: TableFormat) {
    let path = put(file, folder, &format!("f.{}", format.extension()));
    if let Ok(records) = tables::read(path, format, &ColumnNames::default()) {
        records.take(1000).for_each(drop);
    }
}

fn pickle(file: &[u8], folder: &Path) {
    if let Ok(pickle) = vlct_pickle::parse(file) {
        let _ = pickle.describe(pickle.root());
    }
    let _ = Vocabulary::open(put(file, folder, "labels.pkl"));
    let _ = vgqa::read(&put(file, folder, "questions.pkl"));
}

/// The whole files of a target: those of its endings among the golden data, and those that are made.
pub fn seeds(target: &Target) -> Vec<Vec<u8>> {
    let mut files = made(target.name);
    for part in ["prepare", "images", "model"] {
        for folder in vlct_golden::directories(part) {
            collect(&folder, target.endings, &mut files);
        }
    }
    // Large files are slow to damage and read, and have nothing that small ones lack.
    files.retain(|file| file.len() < 1 << 20);
    files
}

fn collect(folder: &Path, endings: &[&str], files: &mut Vec<Vec<u8>>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path())
        .collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, endings, files);
        } else if path
            .extension()
            .is_some_and(|e| endings.iter().any(|ending| e.eq_ignore_ascii_case(ending)))
        {
            files.extend(fs::read(path));
        }
    }
}

/// Files of kinds that the golden data do not have.
fn made(name: &str) -> Vec<Vec<u8>> {
    let text = |text: &str| vec![text.as_bytes().to_vec()];
    match name {
        "jsonl" => text(concat!(
            "{\"image\": \"a.jpg\", \"caption\": \"a cat\", \"split\": \"train\"}\n",
            "{\"image\": \"b.jpg\", \"captions\": [\"a dog\", \"\\u00e9t\\u00e9\"], \"id\": 7}\n",
            "\n",
            "{\"image_path\": \"c.jpg\", \"question\": \"what?\", \"answers\": [\"yes\", \"no\"]}\n",
        )),
        "csv" => text("image,caption,split,url\na.jpg,\"a cat, \"\"small\"\"\",train,x\nb.jpg,\"two\nlines\",val,\n"),
        "tar" => vec![include_bytes!("../seeds/two_samples.tar").to_vec()],
        "parquet" => vec![include_bytes!("../seeds/captions.parquet").to_vec()],
        _ => Vec::new(),
    }
}
