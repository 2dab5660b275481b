//! Writes synthetic datasets with the file names and columns of the published ones.

use std::fs;
use std::ops::Range;
use std::path::Path;

use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::{
    Contrast, Scene, Shape, SyntheticConfig, answers, captions, class_of, labelled_text, questions, render, vocabulary,
};
use crate::Result;
use vlct_data::DataError;
use vlct_data::arrow::{
    AnsweredQuestion, CaptionWriter, LabelKind, LabelRow, LabelWriter, Nlvr2Row, Nlvr2Writer, VqaKind, VqaRow,
    VqaWriter,
};
use vlct_data::random::{Purpose, stream};
use vlct_util::at;

/// Sets of scenes. The discriminants are part of the keys of random streams: append variants, never renumber them.
#[derive(Clone, Copy)]
#[repr(u64)]
enum SceneSet {
    CaptionTrain = 1,
    CaptionRestval = 2,
    CaptionVal = 3,
    CaptionTest = 4,
    VqaTrain = 5,
    VqaVal = 6,
    VqaTest = 7,
    Nlvr2Train = 8,
    Nlvr2Dev = 9,
    Nlvr2Test1 = 10,
    ClassTrain = 11,
    ClassVal = 12,
    LabelsTrain = 13,
    LabelsVal = 14,
    LabelsTest = 15,
}

/// Number of rows that are generated in parallel and held in memory at a time.
const CHUNK: usize = 512;

impl SceneSet {
    /// Returns the index of scene `i` of the set among all scenes.
    fn index(self, i: usize) -> u64 {
        (self as u64) << 40 | i as u64
    }
}

/// The file with the words of the generated texts.
const VOCABULARY_FILE: &str = "vocab.txt";

/// Writes the datasets of `config` to the directory `out`: the Arrow files of `coco`, `vqa`, `nlvr2` and the custom dataset `colors`,
/// `vocab.txt`, `answers.txt` (one answer per line, ordered by label) and the directory `classes`. Creates `out` if it is missing.
///
/// Calls `progress` with the number of images rendered so far and the total. The files do not depend on the number of threads.
/// Returns the number of images rendered.
///
/// # Errors
/// Returns [`DataError::Invalid`](crate::DataError::Invalid) if `config` is invalid or `out` has Arrow files that were not generated, and
/// [`DataError::Io`](crate::DataError::Io) if a file cannot be written.
pub fn write(out: &Path, config: &SyntheticConfig, progress: &mut dyn FnMut(u64, u64)) -> Result<u64> {
    config.check()?;
    create_directory(out)?;
    reject_other_data(out)?;
    // Written first: it marks the directory as generated.
    write_lines(&out.join(VOCABULARY_FILE), vocabulary().iter())?;
    let mut writer = DatasetWriter {
        out,
        config,
        done: 0,
        progress,
    };
    if config.train > 0 {
        writer.write_captions(SceneSet::CaptionTrain, "train", config.train)?;
        writer.write_captions(SceneSet::CaptionRestval, "restval", config.restval)?;
        writer.write_captions(SceneSet::CaptionVal, "val", config.val)?;
        writer.write_captions(SceneSet::CaptionTest, "test", config.test)?;
    }
    if config.vqa_train > 0 {
        let half = config.vqa_val / 2;
        writer.write_questions(
            SceneSet::VqaTrain,
            "train",
            config.vqa_train,
            &[("train", 0..usize::MAX)],
        )?;
        let val = [
            ("val", 0..usize::MAX),
            ("trainable_val", 0..half),
            ("rest_val", half..usize::MAX),
        ];
        writer.write_questions(SceneSet::VqaVal, "val", config.vqa_val, &val)?;
        let test = [("test", 0..usize::MAX), ("test-dev", 0..usize::MAX)];
        writer.write_questions(SceneSet::VqaTest, "test", config.vqa_test, &test)?;
        write_lines(&out.join("answers.txt"), answers().iter())?;
    }
    if config.nlvr2_train > 0 {
        writer.write_statements(SceneSet::Nlvr2Train, "train", config.nlvr2_train, &[])?;
        writer.write_statements(SceneSet::Nlvr2Dev, "dev", config.nlvr2_dev, &["balanced", "unbalanced"])?;
        writer.write_statements(
            SceneSet::Nlvr2Test1,
            "test1",
            config.nlvr2_dev,
            &["balanced", "unbalanced"],
        )?;
    }
    if config.labels_train > 0 {
        writer.write_labels(SceneSet::LabelsTrain, "train", config.labels_train)?;
        writer.write_labels(SceneSet::LabelsVal, "val", config.labels_test)?;
        writer.write_labels(SceneSet::LabelsTest, "test", config.labels_test)?;
    }
    if config.class_train > 0 {
        writer.write_classes(SceneSet::ClassTrain, "train", config.class_train)?;
        writer.write_classes(SceneSet::ClassVal, "val", config.class_val)?;
    }
    Ok(writer.done)
}

/// Returns an error if the directory has Arrow files but not the vocabulary file of a generated dataset. `write`
/// could replace these Arrow files.
fn reject_other_data(out: &Path) -> Result<()> {
    if fs::read_to_string(out.join(VOCABULARY_FILE)).is_ok_and(|text| text == to_text(vocabulary().iter())) {
        return Ok(());
    }
    let mut entries = fs::read_dir(out).map_err(at::<DataError>(out))?;
    let is_arrow = |entry: &fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "arrow");
    match entries.find_map(|entry| entry.ok().filter(is_arrow)) {
        Some(other) => Err(DataError::Invalid(format!(
            "{}: {} was not generated and could be replaced; give another directory",
            out.display(),
            other.file_name().display()
        ))),
        None => Ok(()),
    }
}

/// Generates rows in parallel and writes them in order.
struct DatasetWriter<'a> {
    out: &'a Path,
    config: &'a SyntheticConfig,
    /// Number of images rendered so far.
    done: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl DatasetWriter<'_> {
    /// Generates `count` rows of a set with `generate`, [`CHUNK`] at a time, and passes them to `write` in order. Each row has `images`
    /// images.
    fn write_rows<T: Send>(
        &mut self,
        set: SceneSet,
        count: usize,
        images: u64,
        generate: impl Fn(u64, &mut ChaCha8Rng) -> Result<T> + Sync,
        mut write: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        let total = self.config.image_count();
        for start in (0..count).step_by(CHUNK) {
            let chunk: Range<usize> = start..count.min(start + CHUNK);
            let rows: Vec<Result<T>> = chunk
                .clone()
                .into_par_iter()
                .map(|i| {
                    generate(
                        set.index(i),
                        &mut stream(self.config.seed, Purpose::Synthetic, set.index(i), 1),
                    )
                })
                .collect();
            for (i, row) in chunk.zip(rows) {
                write(i, row?)?;
                self.done += images;
            }
            (self.progress)(self.done, total);
        }
        Ok(())
    }

    fn write_captions(&mut self, set: SceneSet, split: &str, count: usize) -> Result<()> {
        let config = self.config;
        let mut writer = CaptionWriter::create(self.out.join(format!("coco_caption_karpathy_{split}.arrow")))?;
        let generate = |index, rng: &mut ChaCha8Rng| {
            let scene = Scene::generate(config.seed, index);
            Ok((render_and_encode(&scene, config)?, captions(&scene, rng)))
        };
        self.write_rows(set, count, 1, generate, |i, (image, captions)| {
            let name = format!("WORLD_{split}_{i:012}.{}", config.format.extension());
            writer.push(&image, &captions, &name, split)
        })?;
        writer.finish().map(drop)
    }

    /// Writes images with questions. Each row is written to every file of `files` whose range contains the index of the row.
    fn write_questions(
        &mut self,
        set: SceneSet,
        split: &str,
        count: usize,
        files: &[(&str, Range<usize>)],
    ) -> Result<()> {
        let config = self.config;
        let labels = answers();
        let is_test = split == "test";
        let kind = if is_test { VqaKind::Test } else { VqaKind::Answered };
        let mut writers = Vec::new();
        for (name, rows) in files {
            writers.push((
                VqaWriter::create(self.out.join(format!("vqav2_{name}.arrow")), kind)?,
                rows,
                *name,
            ));
        }
        let generate = |index, rng: &mut ChaCha8Rng| {
            let scene = Scene::generate(config.seed, index);
            Ok((render_and_encode(&scene, config)?, questions(&scene, rng)))
        };
        self.write_rows(set, count, 1, generate, |i, (image, answered)| {
            let image_id = (set as i64) << 40 | i as i64;
            let questions: Vec<AnsweredQuestion> = answered
                .into_iter()
                .zip(image_id * 16..)
                .map(|((question, answer), question_id)| {
                    let labelled_answer = labels
                        .iter()
                        .position(|a| *a == answer)
                        .map(|label| (answer, label as i64, 1.0));
                    let answers = labelled_answer.filter(|_| !is_test).into_iter().collect();
                    AnsweredQuestion {
                        question,
                        question_id,
                        answers,
                    }
                })
                .collect();
            for (writer, _, name) in writers.iter_mut().filter(|(_, rows, _)| rows.contains(&i)) {
                // As in the original, the column `split` has `val` in `trainable_val` and `rest_val` too.
                let split = if is_test { *name } else { split };
                writer.push(VqaRow {
                    image: &image,
                    questions: &questions,
                    image_id,
                    split,
                })?;
            }
            Ok(())
        })?;
        writers
            .into_iter()
            .try_for_each(|(writer, _, _)| writer.finish().map(drop))
    }

    /// Writes pairs with statements. Each row is written to the file of the split. If `halves` has names, the rows are also written to
    /// the files of these names, alternately.
    fn write_statements(&mut self, set: SceneSet, split: &str, count: usize, halves: &[&str]) -> Result<()> {
        let config = self.config;
        let create = |name: String| Nlvr2Writer::create(self.out.join(format!("nlvr2_{name}.arrow")));
        let mut all = create(split.to_owned())?;
        let mut parts = Vec::new();
        for half in halves {
            parts.push(create(format!("{half}_{split}"))?);
        }
        // Two consecutive rows are the pairs of a contrast.
        let generate = |index: u64, _: &mut ChaCha8Rng| {
            let rng = &mut stream(config.seed, Purpose::Synthetic, index & !1, 1);
            let contrast = Contrast::draw(rng);
            let pair = (index & 1) as usize;
            let [first, second] = &contrast.pairs[pair];
            Ok((
                render_and_encode(first, config)?,
                render_and_encode(second, config)?,
                contrast.statements_of(pair),
            ))
        };
        self.write_rows(set, count, 2, generate, |i, (image_0, image_1, sentences)| {
            let identifier = format!("{split}-{i}-0");
            let row = Nlvr2Row {
                image_0: &image_0,
                image_1: &image_1,
                sentences: &sentences,
                identifier: &identifier,
            };
            all.push(row)?;
            let parts_count = parts.len().max(1);
            parts.get_mut(i % parts_count).map_or(Ok(()), |part| part.push(row))
        })?;
        all.finish()?;
        parts.into_iter().try_for_each(|part| part.finish().map(drop))
    }

    /// Writes images with texts and labels.
    fn write_labels(&mut self, set: SceneSet, split: &str, count: usize) -> Result<()> {
        let config = self.config;
        let path = self.out.join(format!("colors_{split}_0.arrow"));
        let mut writer = LabelWriter::create(path, LabelKind::Single)?;
        let generate = |index, rng: &mut ChaCha8Rng| {
            let scene = Scene::generate_single(config.seed, index);
            let (text, label) = labelled_text(&scene, rng);
            Ok((render_and_encode(&scene, config)?, text, label))
        };
        self.write_rows(set, count, 1, generate, |i, (image, text, label)| {
            writer.push(LabelRow {
                image: Some(&image),
                text: text.as_deref(),
                labels: Some(&[label.word().to_string()]),
                image_id: Some(&format!("{split}-{i}")),
                split,
            })
        })?;
        writer.finish().map(drop)
    }

    /// Writes images of one shape each, in one directory per class.
    fn write_classes(&mut self, set: SceneSet, split: &str, count: usize) -> Result<()> {
        let config = self.config;
        let directory = self.out.join("classes").join(split);
        for shape in Shape::ALL {
            create_directory(&directory.join(shape.word()))?;
        }
        let generate = |index, _: &mut ChaCha8Rng| {
            let scene = Scene::generate_single(config.seed, index);
            Ok((render_and_encode(&scene, config)?, class_of(&scene)))
        };
        self.write_rows(set, count, 1, generate, |i, (image, class)| {
            let path = directory
                .join(class.word())
                .join(format!("{i:08}.{}", config.format.extension()));
            fs::write(&path, image).map_err(at(&path))
        })
    }
}

fn render_and_encode(scene: &Scene, config: &SyntheticConfig) -> Result<Vec<u8>> {
    config.format.encode(&render(scene, config.side))
}

fn create_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(at(path))
}

fn write_lines(path: &Path, lines: impl Iterator<Item = impl AsRef<str>>) -> Result<()> {
    fs::write(path, to_text(lines)).map_err(at(path))
}

/// Joins lines, each followed by a line break.
fn to_text(lines: impl Iterator<Item = impl AsRef<str>>) -> String {
    lines
        .flat_map(|line| [line.as_ref().to_owned(), "\n".to_owned()])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlct_data::arrow::ArrowTable;

    fn small_config() -> SyntheticConfig {
        SyntheticConfig {
            seed: 3,
            side: 32,
            train: 7,
            restval: 3,
            val: 2,
            test: 2,
            vqa_train: 4,
            vqa_val: 3,
            vqa_test: 2,
            nlvr2_train: 3,
            nlvr2_dev: 3,
            labels_train: 4,
            labels_test: 2,
            class_train: 12,
            class_val: 4,
            ..SyntheticConfig::default()
        }
    }

    /// Returns the relative path and content of every file below a directory.
    fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(next) = directories.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let name = path.strip_prefix(directory).unwrap().to_string_lossy().into_owned();
                    found.push((name, fs::read(&path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn files_do_not_depend_on_the_number_of_threads() {
        let config = small_config();
        let [one, three] = [1, 3].map(|threads| {
            let directory = tempfile::tempdir().unwrap();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut reported = (0, 0);
            let rendered = pool
                .install(|| write(directory.path(), &config, &mut |done, total| reported = (done, total)))
                .unwrap();
            assert_eq!(
                (rendered, reported),
                (config.image_count(), (config.image_count(), config.image_count()))
            );
            files(directory.path())
        });
        assert!(one == three);
        let names: Vec<&str> = one
            .iter()
            .map(|f| f.0.as_str())
            .filter(|n| !n.starts_with("classes"))
            .collect();
        let expected = [
            "answers.txt",
            "coco_caption_karpathy_restval.arrow",
            "coco_caption_karpathy_test.arrow",
            "coco_caption_karpathy_train.arrow",
            "coco_caption_karpathy_val.arrow",
            "colors_test_0.arrow",
            "colors_train_0.arrow",
            "colors_val_0.arrow",
            "nlvr2_balanced_dev.arrow",
            "nlvr2_balanced_test1.arrow",
            "nlvr2_dev.arrow",
            "nlvr2_test1.arrow",
            "nlvr2_train.arrow",
            "nlvr2_unbalanced_dev.arrow",
            "nlvr2_unbalanced_test1.arrow",
            "vocab.txt",
            "vqav2_rest_val.arrow",
            "vqav2_test-dev.arrow",
            "vqav2_test.arrow",
            "vqav2_train.arrow",
            "vqav2_trainable_val.arrow",
            "vqav2_val.arrow",
        ];
        assert_eq!(names, expected);
        assert_eq!(one.iter().filter(|f| f.0.starts_with("classes")).count(), 16);
    }

    #[test]
    fn does_not_replace_files_that_were_not_generated() {
        let directory = tempfile::tempdir().unwrap();
        let foreign = directory.path().join("coco_caption_karpathy_train.arrow");
        fs::write(&foreign, "real data").unwrap();
        let error = write(directory.path(), &small_config(), &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains("was not generated"), "{error}");
        assert_eq!(fs::read(&foreign).unwrap(), b"real data");
        fs::remove_file(&foreign).unwrap();
        // Generated files are replaced.
        for _ in 0..2 {
            write(directory.path(), &small_config(), &mut |_, _| ()).unwrap();
        }
    }

    #[test]
    fn written_files_have_the_configured_rows() {
        let directory = tempfile::tempdir().unwrap();
        let config = SyntheticConfig {
            labels_train: 0,
            class_train: 0,
            ..small_config()
        };
        write(directory.path(), &config, &mut |_, _| ()).unwrap();
        let open = |name: &str| ArrowTable::open(directory.path().join(format!("{name}.arrow"))).unwrap();
        for (name, rows) in [("train", 7), ("restval", 3), ("val", 2), ("test", 2)] {
            assert_eq!(open(&format!("coco_caption_karpathy_{name}")).rows(), rows, "{name}");
        }
        for (name, rows) in [
            ("train", 4),
            ("val", 3),
            ("trainable_val", 1),
            ("rest_val", 2),
            ("test-dev", 2),
        ] {
            assert_eq!(open(&format!("vqav2_{name}")).rows(), rows, "{name}");
        }
        for (name, rows) in [("train", 3), ("dev", 3), ("balanced_dev", 2), ("unbalanced_test1", 1)] {
            assert_eq!(open(&format!("nlvr2_{name}")).rows(), rows, "{name}");
        }
        assert!(!directory.path().join("classes").exists());

        let table = open("coco_caption_karpathy_train");
        let index = SceneSet::CaptionTrain.index(6);
        let scene = Scene::generate(config.seed, index);
        let image = image::load_from_memory(table.image(6, "image").unwrap())
            .unwrap()
            .to_rgb8();
        assert!(image == render(&scene, config.side));
        let expected = captions(&scene, &mut stream(config.seed, Purpose::Synthetic, index, 1));
        assert_eq!(table.texts(6, "caption").unwrap(), expected);
        assert_eq!(
            table.string(6, "image_id").unwrap(),
            Some("WORLD_train_000000000006.png")
        );

        let table = open("vqav2_train");
        let (row_answers, labels) = (
            table.text_lists(0, "answers").unwrap(),
            table.integer_lists(0, "answer_labels").unwrap(),
        );
        assert_eq!(row_answers.len(), table.texts(0, "questions").unwrap().len());
        for (answer, label) in row_answers.iter().zip(&labels) {
            assert_eq!(answers()[label[0] as usize], answer[0]);
        }
    }
}
