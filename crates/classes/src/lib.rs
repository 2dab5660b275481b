//! Images with one class each, for classification: directories of classes, Arrow files of labels, or tars with `cls` members.
//!
//! `layout.rs` finds out which of them a directory has, `directories.rs` lists and reads directories of classes, and `names.rs` reads
//! the names of the classes of tars.

mod directories;
mod layout;
mod names;

use std::borrow::Cow;
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use directories::ClassDirectories;
use layout::{Layout, list_names};
use names::NameFile;
use vlct_data::datasets::{
    self, Answer, Contents, Dataset, Example, FileIdentity, FileRules, Part, ReadingRule, Split, SplitFile, Table,
    TableDataset,
};
use vlct_data::{DataError, Result};
use vlct_image::Reading;
use vlct_util::text::counted;

/// A split of images with one class each. An item is an image, without text; its answer is the name of its class.
#[derive(Debug)]
pub struct ClassDataset {
    source: Source,
    classes: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Directories(ClassDirectories),
    Tables(TableDataset, Option<NameFile>),
}

/// The training and validation splits of images with one class each.
#[derive(Debug)]
pub struct ClassSplits {
    /// The training split.
    pub train: ClassDataset,
    /// The validation split. Its classes are those of the training split, whether or not it has images of them.
    pub val: ClassDataset,
    /// Whether the validation split is held out of the training images.
    pub is_held_out: bool,
}

impl ClassSplits {
    /// Opens both splits; see [`ClassDataset::open`]. The classes of the training split are read once.
    ///
    /// # Errors
    /// Returns the errors of [`ClassDataset::open`].
    pub fn open(data_path: &Path, rules: &FileRules) -> Result<Self> {
        let layout = Layout::find(data_path)?;
        layout.check_val(data_path, rules)?;
        let train = layout.open_train(data_path, rules)?;
        let val = layout.open_val(data_path, rules, train.classes.clone())?;
        Ok(Self {
            train,
            val,
            is_held_out: layout.missing_val(rules)?.is_some(),
        })
    }
}

impl ClassDataset {
    /// Opens a split of the images in `data_path`, which has one of these layouts:
    ///
    /// - directories `train/CLASS` and `val/CLASS` of images, or the directories of the classes themselves, which are the training split;
    /// - Arrow files `NAME_train_0.arrow`, … with the column `label`, or with one caption per image, which is the name of its class;
    ///   `data_path` is their directory, or `DIRECTORY/NAME`;
    /// - WebDataset tars whose samples have a `cls` member: `train/*.tar` and `val/*.tar`, or tars whose names have the words `train` and
    ///   `val` or `validation`. A `cls` is the name of the class or, in ImageNet's tars, its number; `classes.txt`, `classnames.txt` or
    ///   `LOC_synset_mapping.txt` beside the tars names the classes.
    ///
    /// If there is no validation split, `rules.val_fraction` of the training images are held out as one. Images become pixels as in the
    /// published fine-tuning, without transparency and orientation, unless `rules.reading` or the Arrow file states otherwise.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if the directory has none of these layouts, a training class has no image, validation has a class
    /// that training lacks, or the split does not exist; [`DataError::Invalid`] for [`Split::Test`]; and errors of single files.
    pub fn open(data_path: &Path, split: Split, rules: &FileRules) -> Result<Self> {
        let layout = Layout::find(data_path)?;
        match split {
            Split::Train => layout.open_train(data_path, rules),
            Split::Val => {
                layout.check_val(data_path, rules)?;
                let classes = layout.train_classes(data_path, rules)?;
                layout.open_val(data_path, rules, classes)
            }
            Split::Test => Err(DataError::Invalid(
                "a dataset of classes has no test split; read train or val".into(),
            )),
        }
    }

    /// `found` are the classes with images.
    fn new(data_path: &Path, split: Split, source: Source, classes: Vec<String>, found: &[String]) -> Self {
        let mut notes = source.left_out(data_path);
        let found: HashSet<&str> = found.iter().map(String::as_str).collect();
        let lacking: Vec<&String> = classes.iter().filter(|class| !found.contains(class.as_str())).collect();
        if !lacking.is_empty() {
            let count = counted(lacking.len(), "class");
            let (of, names) = (data_path.display(), list_names(&lacking));
            notes.push(format!("{of}: the split {split} has no images of {count}: {names}"));
        }
        Self { source, classes, notes }
    }

    /// Names of the classes of the training split. The index of a name is that of its output in a classifier. Classes of directories
    /// and Arrow files are sorted by the bytes of their names, as in torchvision; those of tars by their numbers, if they have numbers.
    pub fn class_names(&self) -> &[String] {
        &self.classes
    }

    /// Says in one line each what is left out, and which classes the split lacks.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Returns what identifies the files of the split. Files of class directories count by their names and order, not by their content.
    ///
    /// # Errors
    /// Returns an error if labels are damaged.
    pub fn identities(&self) -> Result<Vec<FileIdentity>> {
        match &self.source {
            Source::Directories(images) => Ok(vec![images.identity()]),
            Source::Tables(tables, _) => tables.identities(),
        }
    }

    /// Memory of the index in bytes, without the names of the classes.
    pub fn index_memory(&self) -> usize {
        match &self.source {
            Source::Directories(images) => images.index_memory(),
            Source::Tables(tables, _) => tables.index_memory(),
        }
    }
}

impl Layout {
    /// Opens the images of a split.
    fn read(&self, split: Split, rules: &FileRules) -> Result<Source> {
        let has_val = match self {
            Self::Directories { val, .. } => val.is_some(),
            Self::Tars { val, .. } => !val.is_empty(),
            Self::Arrow { .. } => true,
        };
        let part = match split {
            Split::Train if !has_val && rules.val_fraction > 0.0 => Part::WithoutHeldOut(rules.val_fraction),
            Split::Val if !has_val => Part::HeldOut(rules.val_fraction),
            _ => Part::Whole,
        };
        let of_val = split == Split::Val && has_val;
        let default = Reading::default();
        let background = rules.reading.background.unwrap_or(default.background);
        let orientation = rules.reading.orientation.unwrap_or(default.orientation);
        Ok(match self {
            Self::Directories { train, val } => {
                let root = val.as_ref().filter(|_| of_val).unwrap_or(train);
                let reading = Reading {
                    background,
                    orientation,
                };
                Source::Directories(ClassDirectories::list(root, part, reading)?)
            }
            Self::Arrow { root, name } => {
                let contents = match datasets::contents(root, name)? {
                    Contents::Captions => Contents::Captions,
                    _ => Contents::Labels,
                };
                let tables = TableDataset::open_with(contents, root, &[name], split, rules)?;
                Source::Tables(tables, None)
            }
            Self::Tars { train, val, beside } => {
                let name_file = NameFile::find(beside)?;
                let tars = if of_val { val } else { train };
                let file = |path: &std::path::PathBuf| SplitFile {
                    dataset: 0,
                    path: path.clone(),
                    part,
                };
                let files: Vec<SplitFile> = tars.iter().map(file).collect();
                let reading = ReadingRule {
                    background: Some(background),
                    orientation: Some(orientation),
                };
                let tables = TableDataset::of_split_files(Contents::Labels, &["classes"], &files, reading)?;
                Source::Tables(tables, name_file)
            }
        })
    }

    /// Checks that there is a validation split, or that images are held out as one.
    fn check_val(&self, data_path: &Path, rules: &FileRules) -> Result<()> {
        match self.missing_val(rules)? {
            Some(missing) if rules.val_fraction <= 0.0 => Err(DataError::NoValidation {
                path: data_path.to_path_buf(),
                missing,
            }),
            _ => Ok(()),
        }
    }

    /// Says which validation files there are not; `None` if there are some.
    fn missing_val(&self, rules: &FileRules) -> Result<Option<String>> {
        Ok(Some(match self {
            Self::Directories { val: None, .. } => "is no directory val of classes (val/CLASS/IMAGE)".to_string(),
            Self::Tars { val, .. } if val.is_empty() => "are no tars of a split val".to_string(),
            Self::Arrow { root, name } if datasets::files(root, name, Split::Val, rules)?.is_empty() => {
                format!("are no files {name}_val_0.arrow, …")
            }
            _ => return Ok(None),
        }))
    }

    fn open_train(&self, data_path: &Path, rules: &FileRules) -> Result<ClassDataset> {
        let source = self.read(Split::Train, rules)?;
        let classes = source.classes(data_path)?;
        if let Source::Directories(images) = &source {
            let empty = images.empty_classes();
            if !empty.is_empty() {
                let reason = format!(
                    "it has classes without images: {}; remove them or add images",
                    list_names(&empty)
                );
                return Err(DataError::format(images.root(), reason));
            }
        }
        if let [class] = classes.as_slice() {
            let reason = format!(
                "it has only one class, {}; a classifier needs two or more",
                list_names(&[class])
            );
            return Err(DataError::format(data_path, reason));
        }
        if let Source::Tables(tables, _) = &source
            && tables.contents() == Contents::Captions
            && classes.len() * 2 > tables.len()
        {
            let (captions, images) = (classes.len(), tables.len());
            let reason =
                format!("its {images} training images have {captions} different captions, so these are not classes");
            return Err(DataError::format(data_path, reason));
        }
        let found = source.classes_with_images(data_path)?;
        Ok(ClassDataset::new(data_path, Split::Train, source, classes, &found))
    }

    /// Returns the names of the training classes; of directories without listing their images.
    fn train_classes(&self, data_path: &Path, rules: &FileRules) -> Result<Vec<String>> {
        match self {
            Self::Directories { train, .. } => directories::class_names(train),
            Self::Tars { beside, .. } => match NameFile::find(beside)? {
                Some(file) => Ok(file.names),
                None => self.read(Split::Train, rules)?.classes(data_path),
            },
            Self::Arrow { .. } => self.read(Split::Train, rules)?.classes(data_path),
        }
    }

    fn open_val(&self, data_path: &Path, rules: &FileRules, classes: Vec<String>) -> Result<ClassDataset> {
        let source = self.read(Split::Val, rules)?;
        let found = source.classes_with_images(data_path)?;
        let known: HashSet<&str> = classes.iter().map(String::as_str).collect();
        let unknown: Vec<&String> = found.iter().filter(|class| !known.contains(class.as_str())).collect();
        if !unknown.is_empty() {
            let reason = format!(
                "its validation split has classes that its training split lacks: {}; remove them or add training images",
                list_names(&unknown)
            );
            return Err(DataError::format(data_path, reason));
        }
        Ok(ClassDataset::new(data_path, Split::Val, source, classes, &found))
    }
}

impl Source {
    fn dataset(&self) -> &dyn Dataset {
        match self {
            Self::Directories(images) => images,
            Self::Tables(tables, _) => tables,
        }
    }

    /// Returns the names of all classes, in the order of their indices.
    fn classes(&self, data_path: &Path) -> Result<Vec<String>> {
        match self {
            Self::Directories(images) => Ok(images.classes().to_vec()),
            Self::Tables(_, Some(file)) => Ok(file.names.clone()),
            Self::Tables(..) => self.classes_with_images(data_path),
        }
    }

    /// Returns the names of the classes that have images.
    ///
    /// # Errors
    /// Returns an error if there are no images, or images have no class or several.
    fn classes_with_images(&self, data_path: &Path) -> Result<Vec<String>> {
        let (tables, file) = match self {
            Self::Directories(images) => {
                let empty: HashSet<&str> = images.empty_classes().into_iter().collect();
                let classes = images.classes().iter().filter(|class| !empty.contains(class.as_str()));
                let classes: Vec<String> = classes.cloned().collect();
                if classes.is_empty() {
                    return Err(DataError::format(
                        images.root(),
                        "its directories of classes have no images",
                    ));
                }
                return Ok(classes);
            }
            Self::Tables(tables, file) => (tables, file),
        };
        let error = |reason: String| Err(DataError::format(data_path, reason));
        let is_tar = has_tars(tables);
        if tables.is_empty() {
            return match is_tar {
                true => error(format!(
                    "no image of its tars has a class: the image KEY.jpg belongs to KEY.cls; {}",
                    left_out_of(tables).unwrap_or_else(|| "they have no images".into())
                )),
                false => error("its Arrow files have no rows".into()),
            };
        }
        let labels = match tables.contents() {
            Contents::Captions => tables.caption_names()?,
            _ => tables.label_names()?,
        };
        if labels.several {
            return error(
                "its rows have lists of labels (column labels); give each image one label (column label)".into(),
            );
        }
        if labels.unlabelled > 0 {
            let rows = counted(labels.unlabelled, "row");
            return error(format!("its files have {rows} without a label; give each image one"));
        }
        let mut names = labels.names;
        match file {
            Some(file) => names.iter().map(|label| Ok(file.name_of(label)?.to_string())).collect(),
            None => {
                if is_tar {
                    names::sort(&mut names);
                }
                Ok(names)
            }
        }
    }

    fn left_out(&self, data_path: &Path) -> Vec<String> {
        let of_tars = |reasons| format!("{}: {reasons}", data_path.display());
        match self {
            Self::Directories(images) => Vec::from_iter(images.left_out()),
            Self::Tables(tables, _) if has_tars(tables) => Vec::from_iter(left_out_of(tables).map(of_tars)),
            Self::Tables(tables, _) => tables.left_out(),
        }
    }
}

fn has_tars(tables: &TableDataset) -> bool {
    tables.files().any(|file| matches!(file, Table::Tar(_)))
}

/// Says what is left out of tars; `None` if nothing is.
fn left_out_of(tables: &TableDataset) -> Option<String> {
    let counts = tables.tar_counts();
    let mut phrases = Vec::new();
    if counts.without_caption > 0 {
        phrases.push(format!("{} without a class", counted(counts.without_caption, "image")));
    }
    if counts.unreadable > 0 {
        let mut reasons = tables.files().filter_map(|file| match file {
            Table::Tar(tar) => Some((tar.path(), tar.first_unreadable()?)),
            Table::Arrow(_) => None,
        });
        let reason = reasons.next().map_or(String::new(), |(path, reason)| {
            format!(" ({}: {reason})", path.display())
        });
        let images = counted(counts.unreadable, "image");
        phrases.push(format!("{images} whose class cannot be read{reason}"));
    }
    if counts.without_image > 0 {
        phrases.push(format!(
            "{} without an image",
            counted(counts.without_image, "class member")
        ));
    }
    (!phrases.is_empty()).then(|| format!("left out {}", phrases.join("; ")))
}

impl Dataset for ClassDataset {
    fn len(&self) -> usize {
        self.source.dataset().len()
    }

    fn example(&self, item: usize) -> Result<Example<'_>> {
        let mut example = self.source.dataset().example(item)?;
        let Source::Tables(tables, file) = &self.source else {
            return Ok(example);
        };
        let text = example.text.take();
        if example.images[0].is_none() {
            return Err(self.error(item, "it has no image"));
        }
        if let (Contents::Captions, Some(text)) = (tables.contents(), text) {
            example.answer = Answer::Labels(vec![text.into_owned()]);
        }
        if let (Some(file), Answer::Labels(labels)) = (file, &mut example.answer) {
            for label in labels {
                *label = file.name_of(label)?.to_string();
            }
        }
        Ok(example)
    }

    fn text(&self, _item: usize) -> Result<Option<Cow<'_, str>>> {
        Ok(None)
    }

    fn rows(&self) -> usize {
        self.source.dataset().rows()
    }

    fn items_of(&self, row: usize) -> Result<Range<usize>> {
        self.source.dataset().items_of(row)
    }

    fn peers(&self, item: usize) -> Range<usize> {
        self.source.dataset().peers(item)
    }

    fn subset(&self, item: usize) -> &str {
        self.source.dataset().subset(item)
    }

    fn describe(&self, item: usize) -> String {
        self.source.dataset().describe(item)
    }

    fn image_name(&self, item: usize) -> String {
        self.source.dataset().image_name(item)
    }

    fn class_name(&self, item: usize) -> Option<String> {
        match &self.source {
            Source::Directories(images) => images.class_name(item),
            Source::Tables(..) => match self.example(item).ok()?.answer {
                Answer::Labels(names) => names.into_iter().next(),
                _ => None,
            },
        }
    }

    fn error(&self, item: usize, reason: &str) -> DataError {
        self.source.dataset().error(item, reason)
    }
}

#[cfg(test)]
mod tests;
