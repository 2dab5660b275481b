//! Assignment of columns to roles.

use std::fmt;

use vlct_data::arrow::LabelKind;

/// Number of roles.
pub(super) const ROLES: usize = 9;

/// The usual names of captions. The last one, open_clip's, is not that of texts of rows with labels: it may be the title of a thing.
const CAPTION_NAMES: &[&str] = &["caption", "captions", "text", "sentence", "sentences", "title"];

/// Names of columns of images that may hold a directory if there is a column of file names, as in Karpathy's annotations.
const DIRECTORY_NAMES: [&str; 3] = ["filepath", "file_path", "path"];

/// Roles of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The image; of a pair, the left one.
    Image,
    /// The right image of a pair.
    SecondImage,
    /// A caption of the image, or a list of captions; the text of a row with labels; the statement about a pair.
    Text,
    /// A question about the image.
    Question,
    /// The answer to the question, or a list of answers.
    Answer,
    /// The label or the labels; whether the statement is true.
    Label,
    /// Name of the image.
    Id,
    /// The split of the row.
    Split,
    /// The file of the image, in the directory that the column of the image names.
    FileName,
}

/// The contents of the rows of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableContents {
    /// Images with captions or questions.
    Texts,
    /// Images, texts or both, with class labels.
    Labels(LabelKind),
    /// Pairs of images with statements.
    Pairs,
}

impl fmt::Display for TableContents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Texts => "captions or questions",
            Self::Labels(LabelKind::Single) => "one label per row (label)",
            Self::Labels(LabelKind::Multiple) => "several labels per row (labels)",
            Self::Pairs => "pairs of images",
        })
    }
}

impl Role {
    /// All roles, in the order of their discriminants.
    pub const ALL: [Self; ROLES] = [
        Self::Image,
        Self::SecondImage,
        Self::Text,
        Self::Question,
        Self::Answer,
        Self::Label,
        Self::Id,
        Self::Split,
        Self::FileName,
    ];

    /// Returns the usual names of columns with this role; case, and blanks at both ends, are ignored. The first name that a table has is
    /// used. The list is empty if tables with these contents have no such column.
    pub fn names(self, contents: TableContents) -> &'static [&'static str] {
        use TableContents::{Labels, Pairs, Texts};
        match (self, contents) {
            (Self::Image, Pairs) => &["image_0", "left_image"],
            (Self::Image, Texts | Labels(_)) => &[
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
            (Self::SecondImage, Pairs) => &["image_1", "right_image"],
            (Self::Text, Texts) => CAPTION_NAMES,
            (Self::Text, Labels(_)) => &CAPTION_NAMES[..5],
            (Self::Text, Pairs) => &["statement", "sentence", "text", "caption"],
            (Self::Question, Texts) => &["question"],
            (Self::Answer, Texts) => &["answer", "answers", "multiple_choice_answer"],
            (Self::Label, Labels(kind)) => match kind {
                LabelKind::Single => &["label"],
                LabelKind::Multiple => &["labels"],
            },
            (Self::Label, Pairs) => &["truth", "label", "answer"],
            (Self::Id, Texts | Labels(_)) => &["image_id", "id", "key"],
            (Self::Id, Pairs) => &["identifier", "id", "key"],
            (Self::Split, _) => &["split"],
            (Self::FileName, Texts | Labels(_)) => &["filename", "file_name"],
            (Self::SecondImage | Self::Question | Self::Answer | Self::Label | Self::FileName, _) => &[],
        }
    }
}

impl Role {
    /// Returns the fields of a struct or JSON object one of which is the text, in a list or instead of a text: `raw` in Karpathy's
    /// annotations, `answer` in those of VQA.
    pub(super) fn text_fields(self) -> &'static [&'static str] {
        match self {
            Self::Text => &["raw", "caption", "text", "sentence"],
            Self::Answer => &["answer"],
            Self::Image | Self::SecondImage => &["path"],
            Self::Question | Self::Label | Self::Id | Self::Split | Self::FileName => &[],
        }
    }
}

/// The names of a table's columns. A column whose name is `None` has one of the usual names ([`Role::names`]), or does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnNames {
    /// The image.
    pub image: Option<String>,
    /// Captions; texts of rows with labels; statements about pairs.
    pub text: Option<String>,
    /// Questions.
    pub question: Option<String>,
    /// Answers; whether statements about pairs are true.
    pub answer: Option<String>,
    /// The one label of each row; whether statements about pairs are true.
    pub label: Option<String>,
    /// The labels of each row, any number.
    pub labels: Option<String>,
    /// Names of the images.
    pub id: Option<String>,
    /// Splits.
    pub split: Option<String>,
    /// Whether columns with the usual names of labels are ignored, so that the texts are captions.
    pub ignore_labels: bool,
}

/// The position of the column of each role, in the order of [`Role::ALL`].
pub(super) type Positions = [Option<usize>; ROLES];

impl ColumnNames {
    fn given_name(&self, role: Role, contents: TableContents) -> Option<&str> {
        use TableContents::{Labels, Pairs, Texts};
        match (role, contents) {
            (Role::Image, Texts | Labels(_)) => self.image.as_deref(),
            (Role::Text, _) => self.text.as_deref(),
            (Role::Question, Texts) => self.question.as_deref(),
            (Role::Answer, Texts) => self.answer.as_deref(),
            (Role::Label, Labels(LabelKind::Single)) => self.label.as_deref(),
            (Role::Label, Labels(LabelKind::Multiple)) => self.labels.as_deref(),
            (Role::Label, Pairs) => self.label.as_deref().or(self.answer.as_deref()),
            (Role::Id, _) => self.id.as_deref(),
            (Role::Split, _) => self.split.as_deref(),
            (Role::Image | Role::SecondImage | Role::Question | Role::Answer | Role::Label | Role::FileName, _) => None,
        }
    }

    /// Returns the position of each role's column in `names`, which are the columns of a table or the keys of a JSON object.
    pub(super) fn positions<'a>(
        &self,
        contents: TableContents,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Positions {
        let mut positions = Role::ALL.map(|role| match self.given_name(role, contents) {
            Some(given) => names.clone().position(|name| is_given(name, given)),
            None => role
                .names(contents)
                .iter()
                .find_map(|usual| names.clone().position(|name| is_usual(name, usual))),
        });
        let image = positions[Role::Image as usize].and_then(|position| names.clone().nth(position));
        let may_be_directory = |name: &str| DIRECTORY_NAMES.iter().any(|usual| is_usual(name, usual));
        if self.image.is_some() || !image.is_some_and(may_be_directory) {
            positions[Role::FileName as usize] = None;
        }
        positions
    }

    /// Returns the contents of a table with the columns `names`.
    ///
    /// # Errors
    /// Returns a message if a necessary column or another column with a given name is missing, or columns contradict each other.
    pub(super) fn contents<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<TableContents, String> {
        self.check_given([&self.label, &self.labels], names.clone())?;
        self.check_given(self.given_except_labels(), names.clone())?;
        let contents = self.detect(names.clone())?;
        self.check_necessary(contents, names.clone())?;
        self.check_unique(contents, names)?;
        Ok(contents)
    }

    /// Checks that a table with the columns `names` has the necessary columns of `contents`, except the column of labels.
    ///
    /// # Errors
    /// Returns a message if a necessary column or another column with a given name is missing.
    pub(super) fn check_without_labels<'a>(
        &self,
        contents: TableContents,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), String> {
        self.check_given(self.given_except_labels(), names.clone())?;
        self.check_necessary(contents, names.clone())?;
        self.check_unique(contents, names)
    }

    /// Checks that no column that is used has the name of another column.
    fn check_unique<'a>(
        &self,
        contents: TableContents,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), String> {
        for position in self.positions(contents, names.clone()).into_iter().flatten() {
            let name = names.clone().nth(position).unwrap_or_default();
            let count = names.clone().filter(|other| other.trim() == name.trim()).count();
            if count > 1 {
                return Err(format!(
                    "there are {count} columns {:?}; rename all but one",
                    name.trim()
                ));
            }
        }
        Ok(())
    }

    fn given_except_labels(&self) -> [&Option<String>; 6] {
        [
            &self.image,
            &self.text,
            &self.question,
            &self.answer,
            &self.id,
            &self.split,
        ]
    }

    fn check_given<'a, const N: usize>(
        &self,
        given: [&Option<String>; N],
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), String> {
        let exists = |given: &&String| names.clone().any(|name| is_given(name, given));
        match given.into_iter().flatten().find(|given| !exists(given)) {
            Some(missing) => Err(format!("there is no column {missing:?}")),
            None => Ok(()),
        }
    }

    fn detect<'a>(&self, names: impl Iterator<Item = &'a str> + Clone) -> Result<TableContents, String> {
        use TableContents::{Labels, Pairs, Texts};
        let has = |usual: &[&str]| {
            names
                .clone()
                .any(|name| usual.iter().any(|usual| is_usual(name, usual)))
        };
        if self.question.is_some() {
            return Ok(Texts);
        }
        if self.image.is_none() {
            let (left, right) = (Role::Image.names(Pairs), Role::SecondImage.names(Pairs));
            match (has(left), has(right)) {
                (false, false) => {}
                (true, true) => return Ok(Pairs),
                _ if has(Role::Image.names(Texts)) => {}
                // The missing image is reported as missing.
                _ => return Ok(Pairs),
            }
        }
        let has_kind = |kind| has(Role::Label.names(Labels(kind)));
        match (&self.label, &self.labels) {
            (Some(_), _) => return Ok(Labels(LabelKind::Single)),
            (_, Some(_)) => return Ok(Labels(LabelKind::Multiple)),
            _ if self.ignore_labels => return Ok(Texts),
            _ if has(Role::Question.names(Texts)) && self.text.is_none() && !has(Role::Text.names(Texts)) => {
                return Ok(Texts);
            }
            _ => {}
        }
        match (has_kind(LabelKind::Single), has_kind(LabelKind::Multiple)) {
            (true, true) => Err("it has both columns label and labels; remove one of them".into()),
            (true, false) => Ok(Labels(LabelKind::Single)),
            (false, true) => Ok(Labels(LabelKind::Multiple)),
            (false, false) => Ok(Texts),
        }
    }

    /// Checks that all necessary columns exist. The error names the missing column.
    fn check_necessary<'a>(
        &self,
        contents: TableContents,
        names: impl Iterator<Item = &'a str> + Clone,
    ) -> Result<(), String> {
        let positions = self.positions(contents, names.clone());
        let has = |role: Role| positions[role as usize].is_some();
        let usual = |role: Role| role.names(contents).join(", ");
        match contents {
            TableContents::Texts if !has(Role::Image) => {
                let url_hint = if names.clone().any(|name| is_usual(name, "url")) {
                    " (URLs are not followed: download the images first, with img2dataset for example)"
                } else {
                    ""
                };
                Err(format!(
                    "there is no column of images ({}){url_hint}",
                    usual(Role::Image)
                ))
            }
            TableContents::Texts if !has(Role::Text) && !has(Role::Question) => Err(format!(
                "there is no column of captions ({}) or questions ({})",
                usual(Role::Text),
                usual(Role::Question)
            )),
            TableContents::Labels(_) if !has(Role::Image) && !has(Role::Text) => Err(format!(
                "there is no column of images ({}) or texts ({})",
                usual(Role::Image),
                usual(Role::Text)
            )),
            TableContents::Pairs if !has(Role::Image) || !has(Role::SecondImage) => {
                let (side, role) = match has(Role::Image) {
                    true => ("right", Role::SecondImage),
                    false => ("left", Role::Image),
                };
                Err(format!(
                    "there is no column of the {side} images of pairs ({})",
                    usual(role)
                ))
            }
            TableContents::Pairs if !has(Role::Text) => {
                Err(format!("there is no column of statements ({})", usual(Role::Text)))
            }
            TableContents::Texts | TableContents::Labels(_) | TableContents::Pairs => Ok(()),
        }
    }

    /// Whether `name` can be the name of a column that this assignment uses, or that an error mentions.
    pub(super) fn uses(&self, name: &str) -> bool {
        use TableContents::{Labels, Pairs, Texts};
        let kinds = [Labels(LabelKind::Single), Labels(LabelKind::Multiple), Pairs, Texts];
        let given = self
            .given_except_labels()
            .into_iter()
            .chain([&self.label, &self.labels]);
        given.flatten().any(|given| is_given(name, given))
            || is_usual(name, "url")
            || kinds.into_iter().any(|contents| {
                let names = Role::ALL.into_iter().flat_map(|role| role.names(contents));
                names.into_iter().any(|usual| is_usual(name, usual))
            })
    }
}

/// Whether a column has the name that was given for it.
fn is_given(name: &str, given: &str) -> bool {
    name == given || name.trim() == given.trim()
}

/// Whether a column has a usual name.
fn is_usual(name: &str, usual: &str) -> bool {
    name.trim().eq_ignore_ascii_case(usual)
}

/// Completes an error about missing columns with the existing columns.
pub(super) fn with_columns(reason: &str, names: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("{:?}", name.as_ref())).collect();
    format!("{reason}; the columns are {}", quoted.join(", "))
}
