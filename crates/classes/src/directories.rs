//! Images in one directory per class, listed like torchvision's `ImageFolder` and read in place.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use vlct_data::datasets::{Answer, Dataset, Example, FileIdentity, Part, RowView};
use vlct_data::{DataError, Result};
use vlct_image::{EXTENSIONS, Reading};
use vlct_util::text::counted;
use vlct_util::{IoError, at, open_file, read_open_file};
use xxhash_rust::xxh3::Xxh3;

/// Maximum size of an image file in bytes.
const MAX_IMAGE_BYTES: u64 = 512 << 20;
/// Maximum number of extensions of other files that a note lists.
const LISTED_EXTENSIONS: usize = 6;

/// The names of the files of a directory, sorted.
#[derive(Debug, Default)]
struct FileNames {
    /// The names, one after the other.
    text: Box<str>,
    /// The end of each name in `text`.
    ends: Box<[u32]>,
}

/// A directory with images.
#[derive(Debug)]
struct Directory {
    /// Path relative to the directory of classes.
    path: Box<str>,
    /// Index of the class.
    class: u32,
    /// Number of images in the directories before this one.
    first: usize,
    images: FileNames,
}

/// The images in the directories of the classes of a split: `ROOT/CLASS/…/IMAGE`.
///
/// Classes are sorted by name. The images of a class are in the order of torchvision's `ImageFolder`: sorted by directory, then by name.
/// Hidden files and directories, and resource forks `._NAME`, are left out. Symbolic links are followed, except to a directory that
/// contains them. Only names are kept in memory: the length of the file's name and 4 bytes for each image.
#[derive(Debug)]
pub(crate) struct ClassDirectories {
    root: PathBuf,
    classes: Vec<String>,
    directories: Vec<Directory>,
    rows: RowView,
    reading: Reading,
    /// Number of files that are not images by their extension, by extension in lower case.
    others: BTreeMap<String, usize>,
}

/// The visible entries of a directory, sorted by name.
struct Entries {
    /// Name, and path after links are resolved.
    directories: Vec<(String, PathBuf)>,
    files: Vec<String>,
}

/// The directories of one class.
#[derive(Default)]
struct Listing {
    /// Path relative to the directory of classes, and images.
    directories: Vec<(String, FileNames)>,
    others: BTreeMap<String, usize>,
}

/// Returns whether a file is an image by its extension, in upper or lower case.
fn is_image(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension);
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

impl FileNames {
    /// `None` if the names have 4 GiB or more.
    fn new(names: &[String]) -> Option<Self> {
        let mut end = 0u32;
        let mut ends = Vec::with_capacity(names.len());
        for name in names {
            end = end.checked_add(u32::try_from(name.len()).ok()?)?;
            ends.push(end);
        }
        Some(Self {
            text: names.concat().into(),
            ends: ends.into(),
        })
    }

    fn get(&self, index: usize) -> Option<&str> {
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start as usize..*self.ends.get(index)? as usize)
    }
}

impl Entries {
    /// Lists a directory. `ancestors` are the resolved paths of the directory and of those that contain it, or through whose links it was
    /// reached; links to one of them, or to a directory that contains one, are left out.
    fn read(directory: &Path, ancestors: &[PathBuf]) -> Result<Self> {
        let (mut directories, mut files) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(directory).map_err(at::<IoError>(directory))? {
            let entry = entry.map_err(at::<IoError>(directory))?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = || directory.join(entry.file_name());
            let name = entry.file_name().into_string();
            let name = name.map_err(|_| DataError::format(path(), "its name is not UTF-8; rename it"))?;
            let file_type = entry.file_type().map_err(at::<IoError>(&path()))?;
            // A broken link counts as a file, so that reading it is an error that names it.
            let is_link = file_type.is_symlink();
            if file_type.is_dir() {
                let parent = ancestors.last().map_or(directory, PathBuf::as_path);
                directories.push((name.clone(), parent.join(name)));
            } else if is_link && path().is_dir() {
                let target = path().canonicalize().map_err(at::<IoError>(&path()))?;
                if !ancestors.iter().any(|ancestor| ancestor.starts_with(&target)) {
                    directories.push((name, target));
                }
            } else {
                files.push(name);
            }
        }
        directories.sort();
        files.sort();
        Ok(Self { directories, files })
    }

    /// Lists a directory that is in no other one.
    fn of_root(root: &Path) -> Result<(Self, PathBuf)> {
        let resolved = root.canonicalize().map_err(at::<IoError>(root))?;
        Ok((Self::read(root, std::slice::from_ref(&resolved))?, resolved))
    }

    /// Returns the names of the directories in `root`, whose entries these are. It is an error if there are none.
    fn class_names(&self, root: &Path) -> Result<Vec<String>> {
        if self.directories.is_empty() {
            let reason = match self.files.iter().filter(|name| is_image(name)).count() {
                0 => "it has no directories; it must have one directory of images for each class".into(),
                images => format!(
                    "it has {}, but no directories of classes; move the images into one directory for each class",
                    counted(images, "image")
                ),
            };
            return Err(DataError::format(root, reason));
        }
        Ok(self.directories.iter().map(|(name, _)| name.clone()).collect())
    }
}

/// What a directory holds, not counting hidden entries and subdirectories of subdirectories.
pub(crate) struct Summary {
    /// Names of the directories, sorted.
    pub directories: Vec<String>,
    /// Names of the files, sorted.
    pub files: Vec<String>,
}

impl Summary {
    /// # Errors
    /// Returns [`DataError::Io`] if the directory cannot be read, [`DataError::Format`] if a name is not UTF-8.
    pub fn of(directory: &Path) -> Result<Self> {
        let (entries, _) = Entries::of_root(directory)?;
        Ok(Self {
            directories: entries.directories.into_iter().map(|(name, _)| name).collect(),
            files: entries.files,
        })
    }

    /// Number of files that are images by their extension.
    pub fn images(&self) -> usize {
        self.files.iter().filter(|name| is_image(name)).count()
    }
}

/// Returns the names of the classes in `root`, sorted, with or without images.
///
/// # Errors
/// Returns the errors of [`Summary::of`], and [`DataError::Format`] if there is no class.
pub(crate) fn class_names(root: &Path) -> Result<Vec<String>> {
    Entries::of_root(root)?.0.class_names(root)
}

impl Listing {
    /// Lists a directory and those in it. `ancestors` are the resolved paths of the directories above.
    fn add(&mut self, root: &Path, relative: &str, resolved: PathBuf, ancestors: &mut Vec<PathBuf>) -> Result<()> {
        let directory = root.join(relative);
        ancestors.push(resolved);
        let mut entries = Entries::read(&directory, ancestors)?;
        entries.files.retain(|name| {
            let is_image = is_image(name);
            if !is_image {
                let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
                *self.others.entry(extension.to_lowercase()).or_default() += 1;
            }
            is_image
        });
        if !entries.files.is_empty() {
            let too_many =
                || DataError::format(&directory, "it has too many files; divide it into several directories");
            let names = FileNames::new(&entries.files).ok_or_else(too_many)?;
            self.directories.push((relative.to_string(), names));
        }
        for (name, resolved) in entries.directories {
            self.add(root, &format!("{relative}/{name}"), resolved, ancestors)?;
        }
        ancestors.pop();
        Ok(())
    }
}

impl ClassDirectories {
    /// Lists the images of all classes in `root`, on all threads of the current pool. `part` are the images that belong to the split.
    ///
    /// # Errors
    /// Returns the errors of [`class_names`], and [`DataError::Io`] if a directory cannot be read.
    pub fn list(root: &Path, part: Part, reading: Reading) -> Result<Self> {
        let (entries, resolved_root) = Entries::of_root(root)?;
        let classes = entries.class_names(root)?;
        let list_class = |(name, resolved): &(String, PathBuf)| -> Result<Listing> {
            let mut listing = Listing::default();
            listing.add(root, name, resolved.clone(), &mut vec![resolved_root.clone()])?;
            // Paths are sorted as text, as in torchvision: `a-b` comes before `a/c`.
            listing.directories.sort_by(|(a, _), (b, _)| a.cmp(b));
            Ok(listing)
        };
        let listings: Vec<Result<Listing>> = entries.directories.par_iter().map(list_class).collect();
        let (mut directories, mut first) = (Vec::new(), 0);
        let mut others = BTreeMap::new();
        for (class, listing) in (0u32..).zip(listings) {
            let listing = listing?;
            for (path, images) in listing.directories {
                let count = images.ends.len();
                directories.push(Directory {
                    path: path.into(),
                    class,
                    first,
                    images,
                });
                first += count;
            }
            for (extension, count) in listing.others {
                *others.entry(extension).or_default() += count;
            }
        }
        directories.shrink_to_fit();
        Ok(Self {
            root: root.to_path_buf(),
            classes,
            directories,
            rows: RowView::new(part, first, 0, 0),
            reading,
            others,
        })
    }

    /// The directory of the classes.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names of the classes, sorted, with or without images.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Names of the classes without images, whatever the split.
    pub fn empty_classes(&self) -> Vec<&str> {
        let mut has_images = vec![false; self.classes.len()];
        for directory in &self.directories {
            has_images[directory.class as usize] = true;
        }
        let classes = self.classes.iter().zip(has_images);
        classes
            .filter(|(_, has_images)| !has_images)
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Says which files are left out because of their extensions; `None` if there are none.
    pub fn left_out(&self) -> Option<String> {
        let mut others: Vec<(&String, &usize)> = self.others.iter().collect();
        others.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let listed = others.iter().take(LISTED_EXTENSIONS).map(|(extension, count)| {
            let extension = vlct_util::text::escape_control(extension);
            match extension.is_empty() {
                true => format!("{count} without extension"),
                false => format!("{count} .{extension}"),
            }
        });
        let more = if others.len() > LISTED_EXTENSIONS { ", …" } else { "" };
        let listed = listed.collect::<Vec<_>>().join(", ");
        (!others.is_empty()).then(|| {
            let root = self.root.display();
            format!("{root}: left out files that are not images by their extension: {listed}{more}")
        })
    }

    /// Returns what identifies the images: the names of their directories and files, in order.
    pub fn identity(&self) -> FileIdentity {
        let mut hash = Xxh3::new();
        for directory in &self.directories {
            hash.update(directory.path.as_bytes());
            hash.update(&[0]);
            hash.update(directory.images.text.as_bytes());
            hash.update(&[0]);
        }
        FileIdentity {
            dataset: "classes".into(),
            file: self.root.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            rows: self.rows.len() as u64,
            items: self.rows.len() as u64,
            bytes: 0,
            digest: hash.digest(),
        }
    }

    /// Memory of the index in bytes.
    pub fn index_memory(&self) -> usize {
        let of_directory = |directory: &Directory| {
            let images = &directory.images;
            size_of::<Directory>() + directory.path.len() + images.text.len() + images.ends.len() * size_of::<u32>()
        };
        self.directories.iter().map(of_directory).sum::<usize>() + self.rows.memory()
    }

    /// Returns the path and the class of an item.
    fn locate(&self, item: usize) -> Result<(PathBuf, &str)> {
        let no_item = || DataError::Invalid(format!("there is no item {item}; there are {} items", self.len()));
        if item >= self.len() {
            return Err(no_item());
        }
        let image = self.rows.row_at(item);
        let after = self.directories.partition_point(|directory| directory.first <= image);
        let directory = after.checked_sub(1).and_then(|index| self.directories.get(index));
        let directory = directory.ok_or_else(no_item)?;
        let name = directory.images.get(image - directory.first).ok_or_else(no_item)?;
        let path = self.root.join(&*directory.path).join(name);
        Ok((path, &self.classes[directory.class as usize]))
    }
}

impl Dataset for ClassDirectories {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn example(&self, item: usize) -> Result<Example<'_>> {
        let (path, class) = self.locate(item)?;
        // For files of 100 kB this is faster than mapping them, above all on several threads.
        let image = read_open_file(open_file(&path)?, &path, MAX_IMAGE_BYTES, "an image file")?;
        Ok(Example {
            images: [Some(Cow::Owned(image)), None],
            reading: self.reading,
            text: None,
            answer: Answer::Labels(vec![class.to_string()]),
        })
    }

    fn text(&self, _item: usize) -> Result<Option<Cow<'_, str>>> {
        Ok(None)
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn items_of(&self, row: usize) -> Result<Range<usize>> {
        self.locate(row)?;
        Ok(row..row + 1)
    }

    fn peers(&self, item: usize) -> Range<usize> {
        if item < self.len() { 0..self.len() } else { 0..0 }
    }

    fn subset(&self, _item: usize) -> &str {
        ""
    }

    fn describe(&self, item: usize) -> String {
        match self.locate(item) {
            Ok((path, _)) => path.display().to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn class_name(&self, item: usize) -> Option<String> {
        self.locate(item).ok().map(|(_, class)| class.to_owned())
    }

    fn error(&self, item: usize, reason: &str) -> DataError {
        match self.locate(item) {
            Ok((path, _)) => DataError::format(path, reason),
            Err(error) => error,
        }
    }
}
