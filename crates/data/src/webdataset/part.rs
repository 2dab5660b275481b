//! The role of a member in its sample, which its name and the kind of the table determine.

use vlct_image::EXTENSIONS;

/// What belongs to an image in a tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A caption: `.txt`, or `caption` of a `.json`.
    Captions,
    /// A class: `.cls`.
    Classes,
}

/// The role of a member in its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Image,
    /// The text: `.txt`, or `.cls` in a tar of classes.
    Txt,
    Json,
}

/// The name of a visible file: its path up to the first dot of the file name, and what follows this dot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub key: &'a [u8],
    pub ending: &'a [u8],
}

impl<'a> Name<'a> {
    /// Divides the name of a member. Returns `None` for hidden files, such as those that macOS adds, and for names without a dot.
    pub fn of(name: &'a [u8]) -> Option<Self> {
        let name = name.strip_prefix(b"./").unwrap_or(name);
        let base = name.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        let dot = name[base..]
            .iter()
            .position(|byte| *byte == b'.')
            .filter(|dot| *dot > 0)?;
        Some(Self {
            key: &name[..base + dot],
            ending: &name[base + dot + 1..],
        })
    }

    /// Returns the role of a member with this name in a tar of this kind, if its ending is known.
    pub fn part(&self, kind: Kind) -> Option<Part> {
        let is = |extension: &str| self.ending.eq_ignore_ascii_case(extension.as_bytes());
        match kind {
            Kind::Captions if is("txt") => Some(Part::Txt),
            Kind::Captions if is("json") => Some(Part::Json),
            Kind::Classes if is("cls") => Some(Part::Txt),
            _ => EXTENSIONS.iter().any(|extension| is(extension)).then_some(Part::Image),
        }
    }
}
