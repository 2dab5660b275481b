//! The types that readers require of columns.

use std::fmt;

use super::kinds::Kind;

/// The required type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// The bytes of image files, or structs with the bytes in a field `bytes`.
    Images,
    /// The bytes of image files, or the type null: Arrow writes this type if all values are null.
    OptionalImages,
    /// A text in each row, or the type null.
    OptionalText,
    /// A list of texts in each row, or the type null.
    OptionalTexts,
    /// A list of texts in each row.
    Texts,
    /// A text or a list of texts in each row.
    TextOrTexts,
    /// A list of 64-bit integers in each row.
    Integers,
    /// A list of lists of texts in each row. Items of type null are accepted too: Arrow writes this type if all lists are empty.
    TextLists,
    /// A list of lists of 64-bit integers in each row, or a list with items of type null, as for [`Self::TextLists`].
    IntegerLists,
    /// A list of lists of 64-bit floating-point numbers in each row, or a list with items of type null, as for [`Self::TextLists`].
    FloatLists,
}

impl ColumnType {
    /// Returns whether a column of this kind has the type.
    pub(super) fn matches(self, kind: &Kind) -> bool {
        let is_list_of = |kind: &Kind, fits: &dyn Fn(&Kind) -> bool| match kind {
            Kind::List { item, .. } => fits(item),
            _ => false,
        };
        // Lists that are empty in every row, such as answers of a test split, have items of type null.
        let is_list_of_lists =
            |fits: &dyn Fn(&Kind) -> bool| is_list_of(kind, &|item| *item == Kind::Null || is_list_of(item, fits));
        match self {
            Self::Images => kind.is_image(),
            Self::OptionalImages => *kind == Kind::Null || Self::Images.matches(kind),
            Self::OptionalText => *kind == Kind::Null || kind.is_text(),
            Self::OptionalTexts => *kind == Kind::Null || Self::Texts.matches(kind),
            Self::Texts => is_list_of(kind, &Kind::is_text),
            Self::TextOrTexts => kind.is_text() || Self::Texts.matches(kind),
            Self::Integers => is_list_of(kind, &|item| *item == Kind::Int64),
            Self::TextLists => is_list_of_lists(&Kind::is_text),
            Self::IntegerLists => is_list_of_lists(&|item| *item == Kind::Int64),
            Self::FloatLists => is_list_of_lists(&|item| *item == Kind::Float64),
        }
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Images | Self::OptionalImages => "images (binary)",
            Self::OptionalText => "text",
            Self::Texts | Self::OptionalTexts => "lists of text",
            Self::TextOrTexts => "text or lists of text",
            Self::Integers => "lists of 64-bit integers",
            Self::TextLists => "lists of lists of text",
            Self::IntegerLists => "lists of lists of 64-bit integers",
            Self::FloatLists => "lists of lists of 64-bit floating-point numbers",
        })
    }
}
