//! The offsets of the members of a sample.

use super::part::Part;

/// The offset in a [`Sample`] of a member that the sample does not have.
pub(super) const NO_MEMBER: u64 = u64::MAX;

/// Offsets of the members of a sample. Their headers are parsed again at each access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub image: u64,
    pub txt: u64,
    pub json: u64,
}

impl Sample {
    pub const EMPTY: Self = Self {
        image: NO_MEMBER,
        txt: NO_MEMBER,
        json: NO_MEMBER,
    };

    /// The offset of the member with a role.
    pub fn offset_mut(&mut self, part: Part) -> &mut u64 {
        match part {
            Part::Image => &mut self.image,
            Part::Txt => &mut self.txt,
            Part::Json => &mut self.json,
        }
    }

    /// The offset of the first member in the file.
    pub fn first(&self) -> u64 {
        self.image.min(self.txt).min(self.json)
    }
}
