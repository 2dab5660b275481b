//! Inputs of predictions: image files, directories of images, JSON lines.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use vlct_image::{EXTENSIONS, is_image_extension};
use vlct_util::{IoError, at};

use crate::{PredictError, Result};

/// The character that some editors write at the beginning of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Maximum length of a line of JSON in bytes.
const MAX_LINE: u64 = 1 << 20;
/// Keys of the text of a record, in the order in which they are looked up.
const TEXT_KEYS: [&str; 5] = ["text", "question", "statement", "caption", "query"];

/// One input: images and a text, each of which may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Paths of the images: none, one, or the left and the right one.
    pub images: Vec<PathBuf>,
    /// The text: a caption, a question or a statement.
    pub text: Option<String>,
}

impl Record {
    /// Returns the path of the image.
    ///
    /// # Errors
    /// Returns an error unless there is one image.
    pub fn image(&self) -> Result<&Path> {
        match self.images.as_slice() {
            [image] => Ok(image),
            images => Err(PredictError::Invalid(format!(
                "one image is needed, there are {}",
                images.len()
            ))),
        }
    }

    /// Returns the paths of the left and the right image.
    ///
    /// # Errors
    /// Returns an error unless there are two images.
    pub fn image_pair(&self) -> Result<[&Path; 2]> {
        match self.images.as_slice() {
            [left, right] => Ok([left, right]),
            images => Err(PredictError::Invalid(format!(
                "two images are needed, there are {}",
                images.len()
            ))),
        }
    }

    /// Returns the text.
    ///
    /// # Errors
    /// Returns an error if there is no text.
    pub fn text(&self) -> Result<&str> {
        let text = self.text.as_deref();
        text.ok_or_else(|| PredictError::Invalid("a text is needed, there is none".into()))
    }

    /// Reads a record from an object: the image under `image`, or two under `image_0` and `image_1`; the text under `text`, `question`,
    /// `statement`, `caption` or `query`. Other keys are ignored. Paths are relative to `root`.
    ///
    /// # Errors
    /// Returns a message if the line is not an object, or a value is not text.
    fn parse(line: &[u8], root: &Path) -> Result<Self, String> {
        let value: Value = vlct_util::json::from_slice(line).map_err(|error| format!("not JSON: {error}"))?;
        if !value.is_object() {
            return Err("not a JSON object".into());
        }
        let text = |key: &str| match value.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("the value of {key:?} is not text")),
        };
        let mut record = Self::default();
        for key in ["image", "image_0", "image_1"] {
            record.images.extend(text(key)?.map(|path| root.join(path)));
        }
        for key in TEXT_KEYS {
            if record.text.is_none() {
                record.text = text(key)?;
            }
        }
        if record == Self::default() {
            return Err("neither an image (key image) nor a text (key text or question)".into());
        }
        Ok(record)
    }
}

/// Reads records from lines of JSON. Empty lines are skipped. An error names the line; the next line is read all the
/// same. The iterator ends after an error of the operating system.
pub fn json_lines<R: BufRead>(reader: R, name: &Path, root: &Path) -> JsonLines<R> {
    JsonLines {
        reader,
        name: name.to_path_buf(),
        root: root.to_path_buf(),
        line: 0,
        is_at_end: false,
    }
}

/// The iterator of [`json_lines`].
pub struct JsonLines<R> {
    reader: R,
    name: PathBuf,
    root: PathBuf,
    line: usize,
    is_at_end: bool,
}

impl<R: BufRead> JsonLines<R> {
    /// Reads a line of at most [`MAX_LINE`] bytes. Skips the rest of a longer line and returns `None`.
    fn read_line(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        (&mut self.reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if line.last() == Some(&b'\n') || (line.len() as u64) < MAX_LINE {
            return Ok(Some(line));
        }
        loop {
            let available = self.reader.fill_buf()?;
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(available.len(), |end| end + 1);
            self.reader.consume(used);
            if end.is_some() {
                return Ok(None);
            }
        }
    }
}

impl<R: BufRead> Iterator for JsonLines<R> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.is_at_end {
            let line = match self.read_line() {
                Ok(line) => line,
                Err(error) => {
                    self.is_at_end = true;
                    return Some(Err(at::<IoError>(&self.name)(error).into()));
                }
            };
            self.is_at_end = line.as_ref().is_some_and(Vec::is_empty);
            self.line += 1;
            let line = line.map(|line| match line.strip_prefix(BYTE_ORDER_MARK) {
                Some(rest) if self.line == 1 => rest.to_vec(),
                _ => line,
            });
            let record = match &line {
                Some(line) if line.trim_ascii().is_empty() => continue,
                Some(line) => Record::parse(line, &self.root),
                None => Err(format!("more than {} MiB", MAX_LINE >> 20)),
            };
            let (name, number) = (self.name.display(), self.line);
            return Some(record.map_err(|reason| PredictError::Invalid(format!("{name}: line {number}: {reason}"))));
        }
        None
    }
}

/// Returns the image files of a path, by their extensions: the path itself if it is not a directory, else the files in it and in the
/// directories below, sorted by path.
///
/// # Errors
/// Returns an error if the directory cannot be read or has no image file.
pub fn images(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    let mut pending = vec![path.to_path_buf()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).map_err(at::<IoError>(&directory))? {
            let entry = entry.map_err(at::<IoError>(&directory))?;
            // Links to directories are not followed, so that a cycle of links ends.
            if entry.file_type().map_err(at::<IoError>(&directory))?.is_dir() {
                pending.push(entry.path());
            } else if is_image(&entry.path()) && entry.path().is_file() {
                found.push(entry.path());
            }
        }
    }
    if found.is_empty() {
        return Err(PredictError::Invalid(format!(
            "{}: no image file in this directory ({})",
            path.display(),
            EXTENSIONS.join(", ")
        )));
    }
    found.sort();
    Ok(found)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|extension| extension.to_string_lossy());
    extension.is_some_and(|extension| is_image_extension(&extension))
}

/// Reads a text file of one item per line. Empty lines are skipped, white space around an item is removed.
///
/// # Errors
/// Returns an error if the file cannot be read, is not UTF-8 or has no item.
pub fn lines(path: &Path) -> Result<Vec<String>> {
    let bytes = vlct_util::read_at_most(path, 64 * MAX_LINE, "a list of one text a line")?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut items = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| {
            let place = format!("{}: line {}", path.display(), number + 1);
            PredictError::Invalid(format!("{place}: not text in UTF-8"))
        })?;
        if !line.trim().is_empty() {
            items.push(line.trim().to_owned());
        }
    }
    match items.is_empty() {
        true => Err(PredictError::Invalid(format!(
            "{}: has no line of text",
            path.display()
        ))),
        false => Ok(items),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<Result<Record, String>> {
        let lines = json_lines(text.as_bytes(), Path::new("x.jsonl"), Path::new("root"));
        lines.map(|record| record.map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn records_have_images_and_text() {
        let records = read(
            "{\"image\": \"a.png\", \"question\": \"who?\"}\n\n\
             {\"image_0\": \"a.png\", \"image_1\": \"/b.png\", \"statement\": \"yes\"}\n{\"text\": \"no image\", \"id\": 7}",
        );
        let record = |images: &[&str], text: &str| {
            Ok(Record {
                images: images.iter().map(PathBuf::from).collect(),
                text: Some(text.into()),
            })
        };
        assert_eq!(
            records,
            [
                record(&["root/a.png"], "who?"),
                record(&["root/a.png", "/b.png"], "yes"),
                record(&[], "no image")
            ]
        );
        assert!(records[0].as_ref().unwrap().image_pair().is_err());
        assert!(records[1].as_ref().unwrap().image().is_err());
    }

    #[test]
    fn errors_name_the_line_and_later_lines_are_read() {
        let long = "x".repeat(MAX_LINE as usize + 10);
        assert_eq!(
            read("\u{feff}{\"text\": \"a\"}")[0].as_ref().unwrap().text.as_deref(),
            Some("a")
        );
        let records = read(&format!(
            "nothing\n[1]\n{{\"image\": 3}}\n{{}}\n{long}\n{{\"text\": \"fine\"}}\n"
        ));
        let errors: Vec<_> = records.iter().filter_map(|r| r.as_ref().err()).collect();
        for (i, (error, part)) in errors
            .iter()
            .zip([
                "not JSON",
                "not a JSON object",
                "\"image\" is not text",
                "neither an image",
                "more than 1 MiB",
            ])
            .enumerate()
        {
            assert!(
                error.starts_with(&format!("x.jsonl: line {}: ", i + 1)) && error.contains(part),
                "{error}"
            );
        }
        assert_eq!((errors.len(), records.len()), (5, 6));
        assert_eq!(records[5].as_ref().unwrap().text.as_deref(), Some("fine"));
    }

    #[test]
    fn directories_are_searched_and_empty_ones_rejected() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        let error = images(directory.path()).unwrap_err().to_string();
        assert!(error.contains("no image file"), "{error}");
        for name in ["z.PNG", "a/b/x.jpg", "a/notes.txt"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(images(directory.path()).unwrap(), [path("a/b/x.jpg"), path("z.PNG")]);
        assert_eq!(images(&path("a/notes.txt")).unwrap(), [path("a/notes.txt")]);
    }

    #[test]
    fn lists_have_one_item_per_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("classes.txt");
        std::fs::write(&path, "\u{feff}cat\r\n\n  a dog \n").unwrap();
        assert_eq!(lines(&path).unwrap(), ["cat", "a dog"]);
        std::fs::write(&path, "\n\n").unwrap();
        assert!(lines(&path).unwrap_err().to_string().contains("no line"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(lines(&path).unwrap_err().to_string().contains("UTF-8"));
    }
}
