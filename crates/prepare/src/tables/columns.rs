//! Assignment of columns to roles, and conversion of the values of a row to a [`Record`].

use super::record::{ImageSource, Question, Record};

/// Roles of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The image.
    Image,
    /// A caption of the image, or a list of captions.
    Text,
    /// A question about the image.
    Question,
    /// The answer to the question, or a list of answers.
    Answer,
    /// Name of the image.
    Id,
    /// The split of the row.
    Split,
}

impl Role {
    /// All roles, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::Image,
        Self::Text,
        Self::Question,
        Self::Answer,
        Self::Id,
        Self::Split,
    ];

    /// Returns the usual names of columns with this role; case is ignored. The first name that a table has is used.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Image => &[
                "image",
                "image_path",
                "filepath",
                "file_path",
                "file_name",
                "filename",
                "path",
                "jpg",
                "bytes",
            ],
            Self::Text => &["caption", "captions", "text", "sentence", "sentences"],
            Self::Question => &["question"],
            Self::Answer => &["answer", "answers"],
            Self::Id => &["image_id", "id", "key"],
            Self::Split => &["split"],
        }
    }
}

/// The names of a table's columns. A column whose name is `None` has one of the usual names ([`Role::names`]), or does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// The image.
    pub image: Option<String>,
    /// Captions.
    pub text: Option<String>,
    /// Questions.
    pub question: Option<String>,
    /// Answers.
    pub answer: Option<String>,
    /// Names of the images.
    pub id: Option<String>,
    /// Splits.
    pub split: Option<String>,
}

/// The position of the column of each role, in the order of [`Role::ALL`].
pub(super) type Positions = [Option<usize>; 6];

/// The values of a row, in the order of [`Role::ALL`].
pub(super) type Cells = [Cell; 6];

/// A value of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Cell {
    /// A missing value.
    #[default]
    Null,
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Bytes(Vec<u8>),
    /// An image as Hugging Face's datasets store it.
    Image {
        bytes: Option<Vec<u8>>,
        path: Option<String>,
    },
    /// A value that no role can use, with a description of its type.
    Other(&'static str),
}

impl ColumnNames {
    fn given_name(&self, role: Role) -> Option<&str> {
        match role {
            Role::Image => self.image.as_deref(),
            Role::Text => self.text.as_deref(),
            Role::Question => self.question.as_deref(),
            Role::Answer => self.answer.as_deref(),
            Role::Id => self.id.as_deref(),
            Role::Split => self.split.as_deref(),
        }
    }

    /// Returns the position of each role's column in `names`, the columns of a table. The error names the missing column and the
    /// existing columns.
    pub(super) fn find<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<Positions, String> {
        let positions = self.positions(names.clone());
        self.check(&positions, names)?;
        Ok(positions)
    }

    /// Returns the position of each role's column in `names`, which are the columns of a table or the keys of a JSON object.
    pub(super) fn positions<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Positions {
        Role::ALL.map(|role| match self.given_name(role) {
            Some(given) => names.clone().position(|name| name == given),
            None => role
                .names()
                .iter()
                .find_map(|usual| names.clone().position(|name| name.eq_ignore_ascii_case(usual))),
        })
    }

    /// Returns whether all necessary columns exist: a column of images, a column of captions or of questions, and every column whose
    /// name is given. `existing` tells for each role whether its column exists.
    pub(super) fn necessary_columns_exist(&self, existing: [bool; 6]) -> bool {
        let [image, text, question, ..] = existing;
        let has_given_columns = Role::ALL
            .iter()
            .zip(existing)
            .all(|(role, exists)| exists || self.given_name(*role).is_none());
        image && (text || question) && has_given_columns
    }

    /// Checks that all necessary columns exist. The error names the missing column and the existing columns.
    pub(super) fn check<'a>(
        &self,
        positions: &Positions,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), String> {
        let quoted_names = || {
            let quoted: Vec<String> = names.clone().map(|name| format!("{name:?}")).collect();
            quoted.join(", ")
        };
        for (position, role) in positions.iter().zip(Role::ALL) {
            if let (None, Some(given)) = (position, self.given_name(role)) {
                return Err(format!(
                    "there is no column {given:?}; the columns are {}",
                    quoted_names()
                ));
            }
        }
        let [image, text, question, ..] = positions;
        if image.is_none() {
            let url_hint = if names.clone().any(|name| name.eq_ignore_ascii_case("url")) {
                ". URLs are not followed: download the images first, with img2dataset for example"
            } else {
                ""
            };
            return Err(format!(
                "there is no column of images ({}); the columns are {}{url_hint}",
                Role::Image.names().join(", "),
                quoted_names()
            ));
        }
        if text.is_none() && question.is_none() {
            return Err(format!(
                "there is no column of captions ({}) or questions ({}); the columns are {}",
                Role::Text.names().join(", "),
                Role::Question.names().join(", "),
                quoted_names()
            ));
        }
        Ok(())
    }
}

/// Converts the values of a row to a record. `column_name` returns the name of a role's column, for errors.
pub(super) fn to_record(cells: Cells, column_name: impl Fn(Role) -> String) -> Result<Record, String> {
    let column_error = |role: Role, what: &str| format!("column {:?} {what}", column_name(role));
    let type_error =
        |role: Role, cell: &Cell, expected: &str| column_error(role, &format!("holds {}, not {expected}", cell.kind()));
    let [image, text, question, answer, id, split] = cells;

    let mut file_name = None;
    let image = match image {
        Cell::Bytes(bytes) => ImageSource::Bytes(bytes),
        Cell::Image {
            bytes: Some(bytes),
            path,
        } => {
            file_name = path;
            ImageSource::Bytes(bytes)
        }
        Cell::Image {
            bytes: None,
            path: Some(path),
        } if !path.is_empty() => ImageSource::File(path),
        Cell::Text(path) if path.contains("://") => {
            let reason = format!("holds the URL {path:?}: download the images and give their paths");
            return Err(column_error(Role::Image, &reason));
        }
        Cell::Text(path) if !path.is_empty() => ImageSource::File(path),
        Cell::Null | Cell::Text(_) | Cell::Image { .. } => return Err(column_error(Role::Image, "is empty")),
        other => return Err(type_error(Role::Image, &other, "the path of an image or its bytes")),
    };
    let texts = |role: Role, cell: Cell| -> Result<Vec<String>, String> {
        let mut texts = match cell {
            Cell::Null => Vec::new(),
            Cell::Text(text) => vec![text],
            Cell::Texts(texts) => texts,
            Cell::Bytes(bytes) => vec![String::from_utf8(bytes).map_err(|_| column_error(role, "is not UTF-8"))?],
            other => return Err(type_error(role, &other, "text or a list of texts")),
        };
        texts.retain(|text| !text.trim().is_empty());
        Ok(texts)
    };
    let single_text = |role: Role, cell: Cell| -> Result<Option<String>, String> {
        match cell {
            Cell::Number(number) => Ok(Some(number.to_string())),
            Cell::Texts(_) => Err(type_error(role, &cell, "one text")),
            other => Ok(texts(role, other)?.pop()),
        }
    };
    let answers = match answer {
        Cell::Number(number) => vec![number.to_string()],
        other => texts(Role::Answer, other)?,
    };
    let question = single_text(Role::Question, question)?;
    Ok(Record {
        image,
        captions: texts(Role::Text, text)?,
        questions: Vec::from_iter(question.map(|text| Question { text, answers })),
        image_id: single_text(Role::Id, id)?.or(file_name),
        split: single_text(Role::Split, split)?,
    })
}

impl Cell {
    fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "text",
            Self::Texts(_) => "a list of texts",
            Self::Number(_) => "a number",
            Self::Bytes(_) => "bytes",
            Self::Image { .. } => "an image",
            Self::Other(kind) => kind,
        }
    }
}
