//! Class labels of images, texts, or images with texts: `image`, `text`, `label` or `labels`, `image_id`, `split`.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};

use super::{TakeArray, image_column, text_column, texts_column};
use crate::arrow::write::{BatchBlock, ColumnSpec, TableFile};
use crate::arrow::{ArrowTable, ColumnType};
use crate::{DataError, Result};

/// The number of labels that a row may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LabelKind {
    /// Exactly one label in each row: column `label` (text).
    Single,
    /// Any number of labels in each row, also none: column `labels` (list of text).
    Multiple,
}

impl LabelKind {
    /// Name of the column of labels.
    pub fn column(self) -> &'static str {
        match self {
            Self::Single => "label",
            Self::Multiple => "labels",
        }
    }
}

/// One row of a file with labels. It has an image, a text, or both.
#[derive(Clone, Copy, Debug)]
pub struct LabelRow<'a> {
    /// The bytes of the image's file.
    pub image: Option<&'a [u8]>,
    /// The text.
    pub text: Option<&'a str>,
    /// The labels; `None` in a test split without labels. [`LabelKind::Single`] requires exactly one.
    pub labels: Option<&'a [String]>,
    /// The name of the row, usually that of the image.
    pub image_id: Option<&'a str>,
    /// `train`, `val` or `test`.
    pub split: &'a str,
}

impl ArrowTable {
    /// Returns whether the file has one label or several labels per row; `None` if it has no column of labels.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if it has both columns, or the column has another type.
    pub fn label_kind(&self) -> Result<Option<LabelKind>> {
        let kind = match (self.has_column("label"), self.has_column("labels")) {
            (true, true) => {
                let reason = "it has both columns label and labels; keep one of them";
                return Err(DataError::format(self.path(), reason));
            }
            (true, false) => LabelKind::Single,
            (false, true) => LabelKind::Multiple,
            (false, false) => return Ok(None),
        };
        self.check_columns(&[match kind {
            LabelKind::Single => (kind.column(), ColumnType::OptionalText),
            LabelKind::Multiple => (kind.column(), ColumnType::OptionalTexts),
        }])?;
        Ok(Some(kind))
    }

    fn has_column(&self, name: &str) -> bool {
        self.columns().any(|column| column == name)
    }

    /// Checks that the file has a column `label` or `labels`, a column `image` or `text` or both, and that these have the right types.
    ///
    /// # Errors
    /// Returns [`DataError::Format`] if a column is missing or has another type.
    pub(crate) fn check_label_columns(&self) -> Result<()> {
        let error = |reason| Err(DataError::format(self.path(), reason));
        if self.label_kind()?.is_none() {
            return error("it has no labels; add a column label (text) or labels (lists of text)");
        }
        let columns = [
            ("image", ColumnType::OptionalImages),
            ("text", ColumnType::OptionalText),
        ];
        let mut present = columns.into_iter().filter(|(name, _)| self.has_column(name)).peekable();
        if present.peek().is_none() {
            return error("it has neither a column image (binary) nor a column text");
        }
        self.check_columns(&present.collect::<Vec<_>>())
    }

    /// Returns the labels of a row, without repetitions; `None` if the value is null, as in test splits.
    ///
    /// # Errors
    /// Returns the errors of [`Self::string`] and [`Self::texts`], and [`DataError::Format`] if a label is empty.
    pub fn labels(&self, row: usize, kind: LabelKind) -> Result<Option<Vec<&str>>> {
        let column = kind.column();
        let all = match kind {
            LabelKind::Single => self.string(row, column)?.map(|label| vec![label]),
            LabelKind::Multiple if self.is_null(row, column)? => None,
            LabelKind::Multiple => Some(self.texts(row, column)?),
        };
        let Some(all) = all else { return Ok(None) };
        let mut labels: Vec<&str> = Vec::with_capacity(all.len());
        for label in all {
            if label.is_empty() {
                return Err(self.row_error(row, "a label is empty; give every class a name"));
            }
            if !labels.contains(&label) {
                labels.push(label);
            }
        }
        Ok(Some(labels))
    }

    /// Returns the text of a row with labels; `None` if it is null or the file has no column `text`.
    ///
    /// # Errors
    /// Returns the errors of [`Self::string`].
    pub(crate) fn optional_text(&self, row: usize) -> Result<Option<&str>> {
        match self.has_column("text") {
            true => self.string(row, "text"),
            false => Ok(None),
        }
    }

    /// Returns the image and the text of a row with labels. Either may be missing.
    ///
    /// # Errors
    /// Returns the errors of [`Self::image`] and [`Self::string`], and [`DataError::Format`] if the row has neither.
    pub fn image_and_text(&self, row: usize) -> Result<(Option<&[u8]>, Option<&str>)> {
        let has_image = self.has_column("image") && !self.is_null(row, "image")?;
        let image = has_image.then(|| self.image(row, "image")).transpose()?;
        let text = self.optional_text(row)?;
        if image.is_none() && text.is_none() {
            return Err(self.row_error(row, "it has neither an image nor a text"));
        }
        Ok((image, text))
    }
}

/// The builder of the column `label` or `labels`.
enum LabelColumn {
    Single(StringBuilder),
    Multiple(ListBuilder<StringBuilder>),
}

impl LabelColumn {
    fn take_array(&mut self) -> ArrayRef {
        match self {
            Self::Single(builder) => builder.take_array(),
            Self::Multiple(builder) => builder.take_array(),
        }
    }
}

/// Writes files with class labels: `image`, `text`, `label` or `labels`, `image_id`, `split`.
pub struct LabelWriter {
    file: TableFile,
    image: BinaryBuilder,
    text: StringBuilder,
    labels: LabelColumn,
    image_id: StringBuilder,
    split: StringBuilder,
}

impl LabelWriter {
    fn columns(kind: LabelKind) -> [ColumnSpec; 5] {
        [
            image_column("image"),
            text_column("text"),
            match kind {
                LabelKind::Single => text_column(kind.column()),
                LabelKind::Multiple => texts_column(kind.column()),
            },
            text_column("image_id"),
            text_column("split"),
        ]
    }

    fn with_file(file: TableFile, kind: LabelKind) -> Self {
        Self {
            file,
            image: BinaryBuilder::new(),
            text: StringBuilder::new(),
            labels: match kind {
                LabelKind::Single => LabelColumn::Single(StringBuilder::new()),
                LabelKind::Multiple => LabelColumn::Multiple(ListBuilder::new(StringBuilder::new())),
            },
            image_id: StringBuilder::new(),
            split: StringBuilder::new(),
        }
    }

    /// Creates a writer of the file `path`, which appears when [`Self::finish`] succeeds.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if the directory does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>, kind: LabelKind) -> Result<Self> {
        Ok(Self::with_file(
            TableFile::create(path.as_ref(), &Self::columns(kind))?,
            kind,
        ))
    }

    /// Continues the file of an earlier writer, or starts a new file if `blocks` is empty. `blocks` are the batches that the earlier
    /// writer recorded ([`Self::blocks`]): the file at [`partial_path`] is truncated after the last of them, and rows are appended. If
    /// this writer is dropped before [`Self::finish`], the file at `partial_path` is kept.
    ///
    /// [`partial_path`]: crate::arrow::partial_path
    ///
    /// # Errors
    /// Returns the errors of [`Self::create`], and [`DataError::Format`] if `blocks` are inconsistent or the file ends before the end
    /// of the last batch.
    pub fn resume(path: impl AsRef<Path>, kind: LabelKind, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(Self::with_file(
            TableFile::resume(path.as_ref(), &Self::columns(kind), blocks)?,
            kind,
        ))
    }

    /// Adds a row.
    ///
    /// # Errors
    /// Returns [`DataError::RowTooLarge`] if the row has about 2 GiB or more, [`DataError::Io`] if writing fails, and
    /// [`DataError::Invalid`] if the row has neither image nor text, an empty label, or not one label where one is required.
    pub fn push(&mut self, row: LabelRow<'_>) -> Result<()> {
        self.check(&row)?;
        let length = |text: Option<&str>| text.map_or(0, str::len);
        let labels = row.labels.unwrap_or_default();
        // The offset of a label takes 4 bytes.
        let label_bytes: usize = labels.iter().map(|label| label.len() + 4).sum();
        let image_bytes = row.image.map_or(0, <[u8]>::len);
        make_room!(
            self,
            image_bytes + length(row.text) + label_bytes + length(row.image_id) + row.split.len()
        );
        self.image.append_option(row.image);
        self.text.append_option(row.text);
        match &mut self.labels {
            LabelColumn::Single(builder) => builder.append_option(labels.first()),
            LabelColumn::Multiple(builder) => {
                builder.append_option(row.labels.map(|labels| labels.iter().map(Some)));
            }
        }
        self.image_id.append_option(row.image_id);
        self.split.append_value(row.split);
        Ok(())
    }

    fn check(&self, row: &LabelRow<'_>) -> Result<()> {
        let error = |reason: &str| Err(DataError::Invalid(format!("a row with labels {reason}")));
        if row.image.is_none() && row.text.is_none() {
            return error("has neither an image nor a text");
        }
        let Some(labels) = row.labels else { return Ok(()) };
        if labels.iter().any(String::is_empty) {
            return error("has an empty label");
        }
        match &self.labels {
            LabelColumn::Single(_) if labels.len() != 1 => {
                error(&format!("has {} labels, but its file has one per row", labels.len()))
            }
            _ => Ok(()),
        }
    }

    writer_methods!(image, text, labels, image_id, split);
}
