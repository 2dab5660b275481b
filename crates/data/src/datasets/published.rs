//! The published datasets: the name, preparation, contents and files of each.
//!
//! [`DATASETS`] is the only list of these datasets; the registry, the configuration and a test of `docs/data.md` read it.

use super::contents::Contents;
use super::files::{FileRules, Split, VqaTest};

/// The files of one split, as names without `.arrow`.
#[derive(Debug)]
pub enum Files {
    /// The split does not exist.
    None,
    /// Files with these names.
    Named(&'static [&'static str]),
    /// `{prefix}_0` to `{prefix}_{count - 1}`.
    Shards(&'static str, usize),
    /// `{first}_0` and the following shards if `{first}_0` exists, else `{second}_0` and the following shards.
    EitherShards(&'static str, &'static str),
}

/// One published dataset.
#[derive(Debug)]
pub struct Published {
    /// The name in a configuration.
    pub name: &'static str,
    /// Name of the preparation that writes the files.
    pub preparation: &'static str,
    /// The contents of the rows.
    pub contents: Contents,
    /// Files of the training split.
    pub train: Files,
    /// Files of the validation split; for COCO and Flickr30k the Karpathy *test* split, as published.
    pub val: Files,
    /// Files of the test split.
    pub test: Files,
    /// Files of validation that is separate from training and test; `None` if the published validation is.
    pub honest: Option<Honest>,
}

/// Files with which validation is separate from training and test.
#[derive(Debug)]
pub struct Honest {
    /// Files of the training split.
    pub train: Files,
    /// Files of the validation split.
    pub val: Files,
    /// What differs, for the log.
    pub difference: &'static str,
}

/// Returns a dataset of captions that has only a training split.
const fn train_only(name: &'static str, preparation: &'static str, train: Files) -> Published {
    Published {
        name,
        preparation,
        contents: Contents::Captions,
        train,
        val: Files::None,
        test: Files::None,
        honest: None,
    }
}

/// Name of the published dataset of questions.
const VQA: &str = "vqa";
/// Training files of [`VQA`] with the questions of Visual Genome.
const VQA_TRAIN_WITH_VGQA: Files = Files::Named(&["vqav2_train", "vqav2_trainable_val", "vgqa_train"]);
/// File of [`VQA`] with the questions of test-dev.
const VQA_TEST_DEV: Files = Files::Named(&["vqav2_test-dev"]);

/// All published datasets.
pub const DATASETS: &[Published] = &[
    Published {
        name: "coco",
        preparation: "coco",
        contents: Contents::Captions,
        train: Files::Named(&["coco_caption_karpathy_train", "coco_caption_karpathy_restval"]),
        val: Files::Named(&["coco_caption_karpathy_test"]),
        test: Files::Named(&["coco_caption_karpathy_test"]),
        honest: Some(Honest {
            train: Files::Named(&["coco_caption_karpathy_train", "coco_caption_karpathy_restval"]),
            val: Files::Named(&["coco_caption_karpathy_val"]),
            difference: "coco is validated on the Karpathy test split",
        }),
    },
    Published {
        name: "f30k",
        preparation: "f30k",
        contents: Contents::Captions,
        train: Files::Named(&["f30k_caption_karpathy_train", "f30k_caption_karpathy_val"]),
        val: Files::Named(&["f30k_caption_karpathy_test"]),
        test: Files::Named(&["f30k_caption_karpathy_test"]),
        honest: Some(Honest {
            train: Files::Named(&["f30k_caption_karpathy_train"]),
            val: Files::Named(&["f30k_caption_karpathy_val"]),
            difference: "f30k is validated on the Karpathy test split, and trained on its validation split too",
        }),
    },
    train_only("vg", "vg", Files::Named(&["vg"])),
    Published {
        name: "gcc",
        preparation: "gcc",
        contents: Contents::Captions,
        train: Files::Shards("conceptual_caption_train", 31),
        val: Files::Named(&["conceptual_caption_val_0"]),
        test: Files::Named(&["conceptual_caption_val_0"]),
        honest: None,
    },
    train_only("sbu", "sbu", Files::Shards("sbu", 9)),
    Published {
        name: VQA,
        preparation: "vqav2",
        contents: Contents::Questions,
        train: Files::Named(&["vqav2_train", "vqav2_trainable_val"]),
        val: Files::Named(&["vqav2_rest_val"]),
        test: Files::Named(&["vqav2_test"]),
        honest: None,
    },
    Published {
        name: "nlvr2",
        preparation: "nlvr2",
        contents: Contents::Pairs,
        train: Files::Named(&["nlvr2_train"]),
        val: Files::Named(&["nlvr2_dev", "nlvr2_test1"]),
        test: Files::Named(&["nlvr2_dev", "nlvr2_test1"]),
        honest: Some(Honest {
            train: Files::Named(&["nlvr2_train"]),
            val: Files::Named(&["nlvr2_dev"]),
            difference: "nlvr2 is validated on test1, whose accuracy selects the best checkpoint",
        }),
    },
    train_only("pretrainVQA", "pretrain-vqa", Files::Shards("pretrain_vqa", 2)),
    train_only("pretrainOI", "pretrain-openimages", Files::Shards("openimages", 17)),
    train_only("pretrainGQA", "pretrain-gqa", Files::Named(&["pretrain_gqa_0"])),
    train_only(
        "pretrainFlickr30k",
        "pretrain-f30k",
        Files::Named(&["pretrain_flickr30k_train"]),
    ),
    // The original writes files with the second name, but reads only shard 0 of the first. Both names are accepted.
    train_only(
        "pretrainVGQA",
        "pretrain-vg",
        Files::EitherShards("pretrain_vgqa", "pretrain_vg"),
    ),
];

/// The names of [`DATASETS`].
pub const NAMES: [&str; DATASETS.len()] = {
    let mut names = [""; DATASETS.len()];
    let mut i = 0;
    while i < names.len() {
        names[i] = DATASETS[i].name;
        i += 1;
    }
    names
};

impl Published {
    /// Finds a published dataset by name.
    pub fn find(name: &str) -> Option<&'static Self> {
        DATASETS.iter().find(|dataset| dataset.name == name)
    }

    /// Returns the files of a split.
    pub fn files(&self, split: Split, rules: &FileRules) -> &Files {
        match (&self.honest, split) {
            (Some(honest), Split::Train) if rules.honest_validation => &honest.train,
            (Some(honest), Split::Val) if rules.honest_validation => &honest.val,
            (_, Split::Train) if self.name == VQA && rules.vgqa => &VQA_TRAIN_WITH_VGQA,
            (_, Split::Test) if self.name == VQA => match rules.vqa_test {
                VqaTest::Test => &self.test,
                VqaTest::TestDev => &VQA_TEST_DEV,
                VqaTest::RestVal => &self.val,
            },
            (_, Split::Train) => &self.train,
            (_, Split::Val) => &self.val,
            (_, Split::Test) => &self.test,
        }
    }
}

/// Whether a published dataset has a file or shards of this name. `name` has no `.arrow` and no number of a shard.
pub fn is_published_file(name: &str) -> bool {
    let all = DATASETS
        .iter()
        .flat_map(|dataset| [&dataset.train, &dataset.val, &dataset.test]);
    all.into_iter().any(|files| match files {
        Files::None => false,
        Files::Named(names) => names.contains(&name),
        Files::Shards(prefix, _) => *prefix == name,
        Files::EitherShards(first, second) => [first, second].contains(&&name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_document_lists_every_published_dataset() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/data.md");
        let document = std::fs::read_to_string(path).unwrap();
        for dataset in DATASETS {
            let row = format!("`{}`", dataset.name);
            assert!(document.contains(&row), "{path} does not mention {row}");
            let preparation = format!("`{}`", dataset.preparation);
            assert!(document.contains(&preparation), "{path} does not mention {preparation}");
            let mut names = Vec::new();
            for files in [&dataset.train, &dataset.val, &dataset.test] {
                match files {
                    Files::None => {}
                    Files::Named(files) => names.extend(files.iter().map(|file| file.to_string())),
                    Files::Shards(prefix, _) => names.push(format!("{prefix}_0")),
                    Files::EitherShards(first, second) => names.extend([first, second].map(|p| format!("{p}_0"))),
                }
            }
            if dataset.contents == Contents::Captions {
                for file in names {
                    assert!(document.contains(&file), "{path} does not mention {file} of {row}");
                }
            }
        }
    }
}
