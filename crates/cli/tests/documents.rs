//! Runs the `vlct …` commands of README and `docs`, except those in `NOT_RUN`. The files that they name are created with small content.
//! Arguments in `APPENDED` reduce the running time of commands that would take minutes.
//!
//! `.ci/run` runs the README's `cargo …` commands.

#![cfg(unix)]

mod predict_support;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use vlct_data::arrow::ArrowTable;
use vlct_synthetic::{self as synthetic, SyntheticConfig};

/// Commands that are not run, each with the reason.
const NOT_RUN: [(&str, &str); 18] = [
    (
        "vlct run with data_root=arrow task_mlm_itm_mae per_gpu_batchsize=64 device=cuda",
        "needs a GPU; crates/train/tests/devices has whole runs on an emulated one",
    ),
    (
        "vlct predict vqa --load vqa.ckpt --device cuda:1 photo.jpg \"what is this?\"",
        "needs a GPU; crates/train/tests/devices has whole runs on an emulated one",
    ),
    (
        "vlct bench pretrain --image-size 384 --batch 64 --device cuda --profile",
        "needs a GPU; crates/train/tests/devices has whole runs on an emulated one",
    ),
    (
        "vlct self-test --device cuda",
        "needs a GPU; crates/train/tests/devices has whole runs on an emulated one",
    ),
    (
        "vlct run with data_root=ARROW_ROOT task_mlm_itm_mae per_gpu_batchsize=64 num_gpus=8",
        "needs eight GPUs; tests/ranks.rs has ranks on the CPU",
    ),
    ("vlct quickstart [--out DIR] [--minutes N] [KEY=VALUE …]", "a synopsis"),
    (
        "vlct bench pretrain --image-size 224 --batch 8 --precision f32 --steps 3",
        "takes minutes with the base model; tests/bench.rs runs a smaller step",
    ),
    (
        "vlct bench pretrain --image-size 384 --batch 8 --profile",
        "takes minutes with the base model; tests/bench.rs runs a smaller step",
    ),
    (
        "vlct average $RUN --out average.safetensors",
        "needs the kept checkpoints of a run; tests/optimisation.rs averages them",
    ),
    (
        "vlct predict fill --load hf-hub:ORG/NAME photo.jpg \"a [MASK] on a [MASK]\"",
        "needs the Hugging Face Hub; tests/hub.rs has a server",
    ),
    (
        "vlct run with data_root=arrow task_mlm_itm_mae step25k per_gpu_batchsize=8 pretrain_path=hf-hub:facebook/vit-mae-base",
        "needs the Hugging Face Hub; tests/hub.rs has a server",
    ),
    (
        "vlct convert hf-hub:facebook/vit-mae-base@main mae.pth",
        "needs the Hugging Face Hub; tests/hub.rs has a server",
    ),
    (
        "vlct predict vqa --load hf-hub:dandelin/vilt-b32-finetuned-vqa --image photo.jpg --question \"how many dogs are there?\"",
        "needs the Hugging Face Hub; tests/vilt.rs has small models",
    ),
    (
        "vlct predict nlvr2 --load hf-hub:dandelin/vilt-b32-finetuned-nlvr2 left.jpg right.jpg \"both images show a dog\"",
        "needs the Hugging Face Hub; tests/vilt.rs has small models",
    ),
    (
        "vlct run with data_root=ARROW_ROOT task_finetune_vqa_randaug per_gpu_batchsize=4 load_path=hf-hub:dandelin/vilt-b32-mlm",
        "needs the Hugging Face Hub; tests/vilt.rs has small models",
    ),
    (
        "vlct run with data_root=ARROW_ROOT task_finetune_nlvr2_randaug per_gpu_batchsize=4 load_path=vilt.ckpt",
        "needs weights of ViLT; tests/fine_tuning.rs runs the recipe",
    ),
    (
        "vlct run with data_root=ARROW_ROOT task_finetune_irtr_f30k_randaug per_gpu_batchsize=2 load_path=vilt.ckpt",
        "needs weights of ViLT; tests/fine_tuning.rs runs the recipe for COCO",
    ),
    (
        "vlct bench gemm --precision bf16",
        "needs a CPU that is fast at bfloat16; tests/bench.rs runs it in f32",
    ),
];

/// Beginnings of commands, each with the arguments that are appended to make the command take seconds.
const APPENDED: [(&str, &str); 9] = [
    ("vlct run with $RUN/config.toml", "max_steps=2"),
    (
        "vlct run with data_root=",
        "hidden_size=64 depth=2 heads=4 decoder_width=32 decoder_depth=2 decoder_heads=4 patch_size=16 image_size=64 max_text_len=16 \
         vocab_size=200 tokenizer=vocab.txt batch_size=4 per_gpu_batchsize=2 max_steps=1 sanity_steps=0 limit_val_batches=1 \
         num_workers=1 threads=1 precision=32",
    ),
    ("vlct run with quickstart/run-labels/config.toml", "max_steps=2"),
    (
        "vlct train",
        "max_steps=2 image_size=32 patch_size=8 hidden_size=32 depth=1 heads=2 decoder_width=16 decoder_depth=1 decoder_heads=2 \
         batch_size=4 tokenizer=vocab.txt",
    ),
    (
        "vlct imagenet",
        "--patch_size 16 --width 64 --depth 2 --heads 4 --input_size 64 --batch_size 4 --epochs 1 --num_workers 1",
    ),
    ("vlct bench answer", "--steps 1"),
    ("vlct bench loader", "--seconds 0.1 --image-size 32"),
    // The vocabulary of the golden models is smaller than that of the published models.
    ("vlct predict", "--tokenizer vocab.txt"),
    ("vlct convert vlc_vqa.ckpt vqa-model", "--tokenizer vocab.txt"),
];

/// A command of a document.
#[derive(Debug)]
struct DocumentedCommand {
    /// The command in one line, without its comment.
    text: String,
    /// The assignments of shell variables before the command.
    variables: String,
}

/// Returns the commands in indented and fenced blocks.
fn commands(document: &str) -> Vec<DocumentedCommand> {
    let (mut found, mut variables, mut is_fenced, mut unfinished) = (Vec::new(), String::new(), false, String::new());
    for line in document.lines() {
        is_fenced ^= line.starts_with("```");
        if !(is_fenced || line.starts_with("    ")) {
            continue;
        }
        let line = line.trim();
        let line = line.split("  #").next().unwrap_or(line).trim_end();
        if !unfinished.is_empty() || line.starts_with("vlct ") {
            unfinished.push_str(line.trim_end_matches('\\'));
            if !line.ends_with('\\') {
                let text = unfinished.split_whitespace().collect::<Vec<_>>().join(" ");
                found.push(DocumentedCommand {
                    text,
                    variables: variables.clone(),
                });
                unfinished.clear();
            }
        } else if line
            .split_once('=')
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase()))
        {
            variables.push_str(line);
            variables.push('\n');
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
    if from.is_dir() {
        for entry in fs::read_dir(from).expect("a directory") {
            let path = entry.expect("an entry").path();
            copy(&path, &to.join(path.file_name().expect("a name")));
        }
    } else {
        // `fs::copy` would also copy the permissions of read-only files.
        fs::write(to, fs::read(from).expect("a file")).expect("a file");
    }
}

/// Creates a directory with all files that the documents name.
fn create_files() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let path_of = |name: &str| directory.path().join(name);
    let golden = root().join("tests/golden");
    let config = SyntheticConfig {
        side: 32,
        train: 8,
        restval: 4,
        val: 4,
        test: 12,
        vqa_train: 4,
        vqa_val: 4,
        vqa_test: 2,
        nlvr2_train: 4,
        nlvr2_dev: 2,
        labels_train: 200,
        labels_test: 4,
        class_train: 20,
        class_val: 10,
        ..SyntheticConfig::default()
    };
    synthetic::write(&path_of("data"), &config, &mut |_, _| ()).expect("synthetic datasets");
    fs::rename(path_of("data/classes"), path_of("IMAGENET")).expect("renamed");
    copy(&path_of("IMAGENET"), &path_of("digits"));
    for split in ["train", "val", "test"] {
        let table = path_of(&format!("data/colors_{split}_0.arrow"));
        copy(&table, &path_of(&format!("data/tickets_{split}_0.arrow")));
        let captions = path_of(&format!("data/coco_caption_karpathy_{split}.arrow"));
        copy(
            &captions,
            &path_of(&format!("data/f30k_caption_karpathy_{split}.arrow")),
        );
    }
    copy(&path_of("data/vocab.txt"), &path_of("vocab.txt"));
    let train = path_of("data/coco_caption_karpathy_train.arrow");
    copy(&train, &path_of("data/my-cats_train_0.arrow"));

    // The four datasets of pre-training.
    copy(&path_of("data"), &path_of("ARROW_ROOT"));
    let shards = [
        ("sbu", 9),
        ("conceptual_caption_train", 31),
        ("conceptual_caption_val", 1),
    ];
    let shards = shards
        .iter()
        .flat_map(|(name, count)| (0..*count).map(move |i| format!("{name}_{i}")));
    for name in shards.chain(["vg".to_string()]) {
        copy(&train, &path_of(&format!("ARROW_ROOT/{name}.arrow")));
    }

    // A custom dataset, both as image files with a table and as a tar.
    let table = ArrowTable::open(&train).expect("an Arrow file");
    let mut csv = String::from("path,caption\n");
    fs::create_dir_all(path_of("data/laion")).expect("a directory");
    fs::create_dir_all(path_of("photos")).expect("a directory");
    fs::create_dir_all(path_of("scenes")).expect("a directory");
    let mut tar = tar::Builder::new(fs::File::create(path_of("data/laion/00000.tar")).expect("a file"));
    for row in 0..table.rows() {
        let image = table.image(row, "image").expect("an image");
        let caption = table.texts(row, "caption").expect("captions").remove(0).to_string();
        csv.push_str(&format!("{row}.png,\"{caption}\"\n"));
        fs::write(path_of(&format!("photos/{row}.png")), image).expect("a file");
        fs::write(path_of(&format!("scenes/{row}.png")), image).expect("a file");
        fs::write(path_of(&format!("scenes/{row}.txt")), &caption).expect("a file");
        for (extension, bytes) in [("png", image), ("txt", caption.as_bytes())] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            tar.append_data(&mut header, format!("{row:05}.{extension}"), bytes)
                .expect("a member");
        }
    }
    tar.finish().expect("a tar");
    fs::write(path_of("photos.csv"), csv).expect("a file");
    // Tables of labels and of pairs.
    let films = "image,text,labels\n0.png,one,crime|comedy\n,two,war\n1.png,,war\n";
    for name in ["films.csv", "more_films.csv"] {
        fs::write(path_of(name), films).expect("a file");
    }
    let pairs = "image_0,image_1,statement,truth\n0.png,1.png,one,true\n";
    fs::write(path_of("pairs.csv"), pairs).expect("a file");
    for name in [
        "images",
        "posters",
        "GCC/images_train",
        "SBU/images_train",
        "VG/images",
        "COCO/train2014",
    ] {
        copy(&path_of("photos"), &path_of(name));
    }

    copy(&path_of("photos"), &path_of("emoji"));
    copy(&path_of("photos.csv"), &path_of("emoji.csv"));

    copy(&golden.join("prepare/coco/raw"), &path_of("downloads/coco"));
    copy(&golden.join("prepare/map_vg_mscoco/raw"), &path_of("vgqa"));
    for name in ["vlc_baseset.ckpt", "step_a.ckpt", "step_b.ckpt"] {
        copy(&golden.join("model/pretrain.ckpt"), &path_of(name));
    }
    copy(
        &golden.join("model/mae.pth"),
        &path_of("mae_pretrain_vit_base_full.pth"),
    );
    // Models and inputs of predictions.
    for name in ["vqa", "nlvr2"] {
        copy(
            &golden.join(format!("model/{name}.ckpt")),
            &path_of(&format!("vlc_{name}.ckpt")),
        );
    }
    let labels = path_of("result/finetune_labels_seed0_from_vlc_baseset/version_0");
    predict_support::write_label_checkpoint(&labels, &path_of("vocab.txt"), false);
    for name in ["photo.jpg", "left.jpg", "right.jpg"] {
        copy(&path_of("photos/0.png"), &path_of(name));
    }
    let answers: Vec<String> = (0..50).map(|i| format!("answer {i}")).collect();
    let texts = [
        ("coco_vqa_label_info.pkl", serde_json::json!(answers).to_string()),
        ("classes.txt", "circle\nsquare\n".into()),
        (
            "nouns.txt",
            "circle\ncircles\nsquare\nsquares\nstar\nstars\ntriangle\ntriangles\n".into(),
        ),
        ("captions.txt", "a red circle\na blue square\n".into()),
        (
            "pairs.jsonl",
            "{\"image\": \"photo.jpg\", \"text\": \"a red circle\"}\n".into(),
        ),
    ];
    for (name, text) in texts {
        fs::write(path_of(name), text).expect("a file");
    }
    fs::create_dir(path_of("bin")).expect("a directory");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_vlct"), path_of("bin/vlct")).expect("a link");
    directory
}

/// Runs the commands of a document in order. Returns those that failed, with their messages.
fn failed_commands(name: &str, commands: &[DocumentedCommand]) -> Vec<String> {
    let directory = create_files();
    if name == "docs/data.md" {
        // Commands of this document read the vocabulary of prepared VQA files.
        copy(
            &root().join("tests/golden/prepare/vqav2/expected"),
            &directory.path().join("arrow"),
        );
    }
    if name == "docs/fine-tuning.md" {
        // This document continues from the runs of the quickstart.
        let labels = [
            "task_finetune_labels",
            "datasets=[\"colors\"]",
            "load_path=quickstart/run",
        ];
        for (run, keys) in [("run", &[][..]), ("run-labels", &labels)] {
            let log_dir = format!("log_dir=log-{run}");
            let arguments = support::tiny_model_arguments("data", &[keys, &[&log_dir, "max_steps=1"]].concat());
            support::assert_success(&support::run_with(directory.path(), &arguments));
            let mut found = directory.path().join(format!("log-{run}"));
            for _ in 0..2 {
                let mut entries = fs::read_dir(&found).expect("a directory");
                found = entries.next().expect("an entry").expect("an entry").path();
            }
            copy(&found, &directory.path().join("quickstart").join(run));
        }
    }
    let path = format!(
        "{}:{}",
        directory.path().join("bin").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut failed = Vec::new();
    for command in commands {
        if NOT_RUN.iter().any(|(text, _)| *text == command.text) {
            continue;
        }
        let appended = APPENDED.iter().find(|(start, _)| command.text.starts_with(start));
        let appended = appended.map_or("", |(_, options)| options);
        let output = Command::new("sh")
            .args(["-ec", &format!("{}{} {appended}", command.variables, command.text)])
            .current_dir(directory.path())
            .env("PATH", &path)
            .env_remove("RUST_BACKTRACE")
            .env("CUDA_VISIBLE_DEVICES", "")
            .output()
            .expect("a shell");
        if !output.status.success() {
            let messages = String::from_utf8_lossy(&output.stderr).into_owned();
            failed.push(format!("{name}: {}\n{}: {messages}", command.text, output.status));
        }
    }
    failed
}

#[test]
fn documented_commands_succeed() {
    let mut documents = vec!["README.md".to_string()];
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if name.ends_with(".md") {
            documents.push(format!("docs/{name}"));
        }
    }
    let documents: Vec<(String, Vec<DocumentedCommand>)> = documents
        .into_iter()
        .map(|name| {
            let text = fs::read_to_string(root().join(&name)).expect("a document");
            let found = commands(&text);
            (name, found)
        })
        .filter(|(_, found)| !found.is_empty())
        .collect();
    let all: Vec<&DocumentedCommand> = documents.iter().flat_map(|(_, found)| found).collect();
    assert!(all.len() > 20, "{all:?}");
    for (text, _) in NOT_RUN {
        assert!(
            all.iter().any(|command| command.text == text),
            "{text:?} is in NOT_RUN but in no document"
        );
    }
    for (start, _) in APPENDED {
        assert!(
            all.iter().any(|command| command.text.starts_with(start)),
            "{start:?} is in APPENDED, but no command in a document begins with it"
        );
    }
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = documents
            .iter()
            .map(|(name, found)| scope.spawn(|| failed_commands(name, found)))
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The compiler checks the example but not the README, so every line of the README's Rust code must be in the example.
#[test]
fn rust_code_of_the_readme_is_in_the_example() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let example = fs::read_to_string(root().join("crates/cli/examples/match.rs")).expect("the example");
    let block = readme
        .split("```rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("a block");
    for line in block.lines() {
        assert!(
            example.lines().any(|other| other.trim() == line.trim()),
            "the example lacks: {line}"
        );
    }
}

#[test]
fn finds_commands_in_blocks() {
    let text = "`vlct inline`\n\n    RUN=a/b\n    vlct run with $RUN \\\n        x=1  # comment\n    other\n\n```\nvlct two 'a b'\n```\nvlct prose\n";
    let found: Vec<_> = commands(text).into_iter().map(|c| (c.text, c.variables)).collect();
    let variables = "RUN=a/b\n".to_string();
    assert_eq!(
        found,
        [
            ("vlct run with $RUN x=1".to_string(), variables.clone()),
            ("vlct two 'a b'".to_string(), variables)
        ]
    );
}
