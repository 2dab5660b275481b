//! Describes Arrow tables and WebDataset shards.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;

use vlct_data::arrow::{ArrowTable, LabelKind};
use vlct_data::datasets::{Contents, LabelNames};
use vlct_data::webdataset::TarTable;
use vlct_image::Reading;
use vlct_util::text::{counted, escape_control};

use crate::output::{Failure, format_bytes, with_thousands_separators};

/// Columns that hold images, in tables of ViLT's layout.
const IMAGE_COLUMNS: [&str; 3] = ["image", "image_0", "image_1"];
/// The column of questions, in tables of ViLT's layout.
const QUESTIONS: &str = "questions";

/// Maximum number of splits that are listed.
const MAX_SPLITS: usize = 16;

/// Maximum number of labels that are listed.
const MAX_LABELS: usize = 16;

/// Histogram of the number of words in texts.
#[derive(Default)]
struct WordCounts {
    /// `counts[n]` texts have `n` words; `counts[MAX]` includes longer texts.
    counts: Vec<u64>,
}

impl WordCounts {
    const MAX: usize = 999;

    fn add(&mut self, text: &str) {
        let words = text.split_whitespace().count().min(Self::MAX);
        if self.counts.len() <= words {
            self.counts.resize(words + 1, 0);
        }
        self.counts[words] += 1;
    }
}

impl fmt::Display for WordCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: u64 = self.counts.iter().sum();
        write!(f, "{}", counted(with_thousands_separators(texts), "text"))?;
        let (mut seen, mut median) = (0, 0);
        for (words, count) in self.counts.iter().enumerate() {
            if 2 * seen < texts {
                median = words;
            }
            seen += count;
        }
        match self.counts.iter().position(|count| *count > 0) {
            None => Ok(()),
            Some(fewest) if fewest + 1 == self.counts.len() => write!(f, " of {}", counted(fewest, "word")),
            Some(fewest) => write!(f, " of {fewest} to {} words, median {median}", self.counts.len() - 1),
        }
    }
}

/// Describes an Arrow table. Reads every row, to add up the sizes of images and to count the words of texts.
pub fn describe_arrow(path: &Path) -> Result<String, Failure> {
    let table = ArrowTable::open(path)?;
    let columns: Vec<&str> = table.columns().collect();
    let mut text = format!("{}\n", path.display());
    let _ = writeln!(
        text,
        "  Arrow table of {} in {}; columns {}",
        counted(with_thousands_separators(table.rows() as u64), "row"),
        match table.batches().len() {
            1 => "1 record batch".to_string(),
            batches => format!("{batches} record batches"),
        },
        columns.join(", ")
    );
    if let Some(Reading {
        background,
        orientation,
    }) = table.reading()
    {
        let _ = writeln!(text, "  images: background {background}, orientation {orientation}");
    }
    match label_kind(&table)? {
        Some(kind) => describe_labels(&table, kind, &mut text)?,
        None => describe_images_and_texts(&table, &columns, &mut text)?,
    }
    if let Ok(contents) = Contents::of_table(&table) {
        contents.check_rows(&table)?;
    }
    if table.rows() > 0 && table.has_text_column("split") {
        let mut splits: BTreeMap<String, u64> = BTreeMap::new();
        for row in 0..table.rows() {
            let split = table.string(row, "split")?.unwrap_or("none");
            // A column with more than `MAX_SPLITS` values does not hold splits: the remaining rows are not counted.
            if !splits.contains_key(split) && splits.len() == MAX_SPLITS {
                break;
            }
            *splits.entry(split.to_string()).or_default() += 1;
        }
        let listed = splits
            .iter()
            .map(|(split, rows)| format!("{split} {}", with_thousands_separators(*rows)));
        let _ = writeln!(text, "  split: {}", listed.collect::<Vec<_>>().join(", "));
    }
    text.push_str("  intact: every row can be read\n");
    Ok(text)
}

/// Adds the sizes of images and the numbers of words of a table in ViLT's layout.
fn describe_images_and_texts(table: &ArrowTable, columns: &[&str], text: &mut String) -> Result<(), Failure> {
    for column in columns
        .iter()
        .filter(|c| IMAGE_COLUMNS.contains(c) && table.has_typed_column(c))
    {
        let (mut bytes, mut without_image, null_rows) = (0u64, 0u64, table.null_rows(column));
        for row in 0..table.rows() {
            match table.image(row, column) {
                Ok(image) => bytes += image.len() as u64,
                Err(_) if null_rows > 0 && table.is_null(row, column)? => without_image += 1,
                Err(error) => return Err(error.into()),
            }
        }
        let images = table.rows() as u64 - without_image;
        let _ = write!(
            text,
            "  {column}: {} of images, {} on average",
            format_bytes(bytes),
            format_bytes(bytes / images.max(1))
        );
        if without_image > 0 {
            let _ = write!(text, "; rows without any: {}", with_thousands_separators(without_image));
        }
        text.push('\n');
    }
    let captions = table.caption_column();
    for column in columns
        .iter()
        .filter(|c| [captions, QUESTIONS].contains(c) && table.has_typed_column(c))
    {
        let (mut word_counts, mut rows_without_text, mut empty) = (WordCounts::default(), 0u64, 0u64);
        for row in 0..table.rows() {
            let texts = match *column {
                QUESTIONS => table.texts(row, column)?,
                _ => table.captions(row)?,
            };
            texts.iter().for_each(|text| word_counts.add(text));
            match texts.iter().filter(|text| text.trim().is_empty()).count() {
                blank if blank == texts.len() => rows_without_text += 1,
                blank => empty += blank as u64,
            }
        }
        let _ = write!(text, "  {column}: {word_counts}");
        if rows_without_text > 0 {
            let _ = write!(
                text,
                "; rows without any: {}",
                with_thousands_separators(rows_without_text)
            );
        }
        if empty > 0 {
            let _ = write!(
                text,
                "; empty texts in other rows: {}",
                with_thousands_separators(empty)
            );
        }
        text.push('\n');
    }
    Ok(())
}

/// Returns the kind of labels of a table with labels; `None` for a table with other contents.
pub fn label_kind(table: &ArrowTable) -> Result<Option<LabelKind>, Failure> {
    match Contents::of_table(table) {
        Ok(Contents::Labels) => Ok(table.label_kind()?),
        _ => Ok(None),
    }
}

/// Adds the sizes of images, the numbers of words, and the labels of a table with labels.
fn describe_labels(table: &ArrowTable, kind: LabelKind, text: &mut String) -> Result<(), Failure> {
    let (mut images, mut bytes, mut texts, mut word_counts) = (0u64, 0u64, 0u64, WordCounts::default());
    for row in 0..table.rows() {
        let (image, row_text) = table.image_and_text(row)?;
        images += u64::from(image.is_some());
        bytes += image.map_or(0, |image| image.len() as u64);
        texts += u64::from(row_text.is_some());
        row_text.into_iter().for_each(|text| word_counts.add(text));
    }
    let without = |count: u64| match table.rows() as u64 - count {
        0 => String::new(),
        missing => format!("; rows without any: {}", with_thousands_separators(missing)),
    };
    let average = format_bytes(bytes / images.max(1));
    let _ = writeln!(
        text,
        "  image: {} of images, {average} on average{}",
        format_bytes(bytes),
        without(images)
    );
    let _ = writeln!(text, "  text: {word_counts}{}", without(texts));

    let labels = LabelNames::of_table(table)?;
    let listed = list_labels(labels.names.iter().zip(labels.counts.iter().copied()));
    let _ = write!(text, "  {}: {listed}", kind.column());
    let _ = writeln!(text, "{}", without(table.rows() as u64 - labels.unlabelled));
    Ok(())
}

/// Says how many classes there are, and lists the first with their numbers of rows.
fn list_labels<'a>(labels: impl ExactSizeIterator<Item = (&'a String, u64)>) -> String {
    let classes = counted(labels.len(), "class");
    let more = if labels.len() > MAX_LABELS { ", …" } else { "" };
    let listed: Vec<String> = labels
        .take(MAX_LABELS)
        .map(|(name, rows)| format!("{} {}", escape_control(name), with_thousands_separators(rows)))
        .collect();
    match listed.is_empty() {
        true => classes,
        false => format!("{classes}: {}{more}", listed.join(", ")),
    }
}

/// Describes a WebDataset shard of images with classes; `None` if there is no image with a class.
fn describe_classes(path: &Path) -> Result<Option<String>, Failure> {
    let table = TarTable::open_classes(path)?;
    if table.rows() == 0 {
        return Ok(None);
    }
    let (mut bytes, mut classes) = (0u64, BTreeMap::new());
    for row in 0..table.rows() {
        bytes += table.image(row)?.len() as u64;
    }
    table.for_each_class(|class| *classes.entry(class.unwrap_or_default().to_owned()).or_insert(0u64) += 1)?;
    let mut text = format!("{}\n", path.display());
    let samples = counted(with_thousands_separators(table.rows() as u64), "sample");
    let _ = writeln!(
        text,
        "  WebDataset shard of classes (cls) with {samples} and {} of images",
        format_bytes(bytes)
    );
    let _ = writeln!(
        text,
        "  cls: {}",
        list_labels(classes.iter().map(|(name, rows)| (name, *rows)))
    );
    let counts = table.counts();
    for (count, reason) in [
        (counts.without_caption, "without a class"),
        (counts.unreadable, "whose class cannot be read"),
    ] {
        if count > 0 {
            let images = counted(with_thousands_separators(count as u64), "image");
            let _ = writeln!(text, "  left out: {images} {reason}");
        }
    }
    text.push_str("  intact: the classes of all samples can be read\n");
    Ok(Some(text))
}

/// Describes a WebDataset shard. Reads every sample. A shard that is compressed with gzip is first decompressed to a temporary file.
pub fn describe_tar(path: &Path) -> Result<String, Failure> {
    let table = TarTable::open_compressed(path)?;
    let is_compressed = path.extension().is_none_or(|extension| extension != "tar");
    if table.rows() == 0
        && !is_compressed
        && let Some(text) = describe_classes(path)?
    {
        return Ok(text);
    }
    let (mut bytes, mut captions) = (0u64, 0u64);
    for row in 0..table.rows() {
        bytes += table.image(row)?.len() as u64;
        captions += table.captions(row)?.len() as u64;
    }
    let counts = table.counts();
    let counted = |count: u64, noun| counted(with_thousands_separators(count), noun);
    let mut text = format!("{}\n", path.display());
    let _ = writeln!(
        text,
        "  WebDataset shard of {} with {} and {} of images",
        counted(counts.samples as u64, "sample"),
        counted(captions, "caption"),
        format_bytes(bytes)
    );
    for phrase in table.left_out() {
        let _ = writeln!(text, "  left out: {phrase}");
    }
    if counts.others > 0 {
        let endings = table
            .other_endings()
            .map_or(String::new(), |endings| format!(": {endings}"));
        let _ = writeln!(text, "  {}{endings}", counted(counts.others as u64, "other member"));
    }
    text.push_str(match counts.samples {
        0 => "  no samples: a sample is an image KEY.jpg with a caption, KEY.txt or KEY.json, or a class, KEY.cls\n",
        _ => "  intact: the captions of all samples can be read\n",
    });
    Ok(text)
}
