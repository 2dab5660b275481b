//! The index of a tar: the offsets of the members of each sample.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::file::{Captions, TarFile, Texts};
use super::part::{Name, Part};
use super::sample::{NO_MEMBER, Sample};
use crate::Result;
use vlct_image::EXTENSIONS;
use vlct_util::text::{counted, escape_control};

/// Members read between two releases of pages. The system may map 2 MiB around each.
const MEMBERS_PER_RELEASE: usize = 64;
/// Maximum number of different unknown endings that are counted.
const MAX_ENDINGS: usize = 32;
/// Maximum length in bytes of an unknown ending that is counted.
const MAX_ENDING: usize = 40;
/// Maximum number of unknown endings that a remark lists.
const LISTED_ENDINGS: usize = 6;

/// Counts of the samples and members of a tar file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TarCounts {
    /// Images with a caption, which are the rows.
    pub samples: usize,
    /// Images without a caption, which are left out.
    pub without_caption: usize,
    /// Images whose caption cannot be read, which are left out.
    pub unreadable: usize,
    /// Captions without an image, which are left out.
    pub without_image: usize,
    /// Hidden files, and files with unknown endings.
    pub others: usize,
}

impl TarCounts {
    /// Adds the counts of another file.
    pub fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.without_caption += other.without_caption;
        self.unreadable += other.unreadable;
        self.without_image += other.without_image;
        self.others += other.others;
    }

    /// Says what is left out: a phrase for each reason, such as `2 images without a caption`. `first_unreadable` says why the first
    /// unreadable caption cannot be read.
    pub fn left_out(&self, first_unreadable: Option<&str>) -> Vec<String> {
        let mut phrases = Vec::new();
        if self.without_caption > 0 {
            phrases.push(format!("{} without a caption", counted(self.without_caption, "image")));
        }
        if self.unreadable > 0 {
            let images = counted(self.unreadable, "image");
            let reason = first_unreadable.map_or(String::new(), |reason| format!(" ({reason})"));
            phrases.push(format!("{images} whose caption cannot be read{reason}"));
        }
        if self.without_image > 0 {
            phrases.push(format!("{} without an image", counted(self.without_image, "caption")));
        }
        phrases
    }
}

/// The samples of a tar file, and what is left out.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub samples: Vec<Sample>,
    pub counts: TarCounts,
    /// Why the first unreadable caption cannot be read.
    pub first_unreadable: Option<String>,
    /// The number of visible members with each unknown ending.
    endings: BTreeMap<String, usize>,
}

/// Adjacent members with the same key.
struct Run {
    sample: Sample,
    /// The contents of the `.txt` and of the `.json`.
    texts: Texts,
}

/// A run that is not a complete sample.
#[derive(Clone, Copy)]
struct Fragment {
    key_hash: u64,
    sample: Sample,
    captions: Captions,
}

impl Fragment {
    fn new(key: &[u8], sample: Sample, captions: Captions) -> Self {
        Self {
            key_hash: hash(key),
            sample,
            captions,
        }
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// What [`Index::join`] found.
#[derive(Default)]
struct Joined {
    /// Number of samples whose members are not adjacent.
    samples: usize,
    /// Fragments without image, in the order of their hashes.
    without_image: Vec<Fragment>,
}

impl Run {
    const EMPTY: Self = Self {
        sample: Sample::EMPTY,
        texts: Texts { txt: None, json: None },
    };

    fn add(&mut self, part: Part, offset: usize, data: Range<usize>) {
        *self.sample.offset_mut(part) = offset as u64;
        match part {
            Part::Image => {}
            Part::Txt => self.texts.txt = Some(data),
            Part::Json => self.texts.json = Some(data),
        }
    }
}

impl Index {
    /// Reads all headers, and the captions of all samples.
    ///
    /// # Errors
    /// Returns an error if the file is not a complete tar file.
    pub fn build(file: &TarFile) -> Result<Self> {
        let mut index = Self::default();
        let mut fragments = Vec::new();
        let (mut offset, mut members) = (0, 0usize);
        let (mut key, mut run) = (Vec::new(), Run::EMPTY);
        while let Some(member) = file.member(offset)? {
            members += 1;
            if members.is_multiple_of(MEMBERS_PER_RELEASE) {
                file.release_pages();
            }
            let name = Name::of(&member.name).filter(|_| member.is_file);
            match name.map(|name| (name.key, name.part(file.kind))) {
                Some((member_key, Some(part))) => {
                    // A second image, text or JSON begins another sample.
                    if key != member_key || *run.sample.offset_mut(part) != NO_MEMBER {
                        index.add(file, &key, std::mem::replace(&mut run, Run::EMPTY), &mut fragments);
                        key.clear();
                        key.extend_from_slice(member_key);
                    }
                    run.add(part, offset, member.data);
                }
                _ if member.is_file => index.count_other(name),
                _ => {}
            }
            offset = member.next;
        }
        index.add(file, &key, run, &mut fragments);
        let joined = index.join(file, fragments)?;
        let attached = index.attach(file, joined.without_image)?;
        if joined.samples + attached > 0 {
            index.samples.sort_by_key(Sample::first);
        }
        index.samples.shrink_to_fit();
        Ok(index)
    }

    /// Adds a run to the samples, or to `fragments` if it is incomplete.
    fn add(&mut self, file: &TarFile, key: &[u8], run: Run, fragments: &mut Vec<Fragment>) {
        let sample = run.sample;
        if sample == Sample::EMPTY {
            return;
        }
        let captions = file.captions(&run.texts);
        if sample.image != NO_MEMBER && captions == Captions::Present {
            self.samples.push(sample);
            self.counts.samples += 1;
            return;
        }
        fragments.push(Fragment::new(key, sample, captions));
    }

    /// Joins the fragments with equal keys to samples, and counts images that remain without a caption.
    fn join(&mut self, file: &TarFile, mut fragments: Vec<Fragment>) -> Result<Joined> {
        // The sort is stable: fragments with the same key stay in the order of the file.
        fragments.sort_by_key(|fragment| fragment.key_hash);
        let mut joined = Joined::default();
        for (read, group) in fragments.chunk_by(|a, b| a.key_hash == b.key_hash).enumerate() {
            if let [fragment] = group {
                self.add_fragment(file, *fragment, &mut joined);
                continue;
            }
            let mut by_key: BTreeMap<Vec<u8>, [Vec<u64>; 3]> = BTreeMap::new();
            for fragment in group {
                let parts = by_key.entry(file.key_of(&fragment.sample)?).or_default();
                let Sample { image, txt, json } = fragment.sample;
                for (offsets, offset) in parts.iter_mut().zip([image, txt, json]) {
                    offsets.extend(Some(offset).filter(|offset| *offset != NO_MEMBER));
                }
            }
            for (key, [images, txts, jsons]) in by_key {
                let offset = |offsets: &[u64], index: usize| offsets.get(index).copied().unwrap_or(NO_MEMBER);
                for index in 0..images.len().max(txts.len()).max(jsons.len()) {
                    let sample = Sample {
                        image: offset(&images, index),
                        txt: offset(&txts, index),
                        json: offset(&jsons, index),
                    };
                    let captions = file.captions(&file.texts_of(sample.txt, sample.json)?);
                    self.add_fragment(file, Fragment::new(&key, sample, captions), &mut joined);
                }
            }
            if read.is_multiple_of(MEMBERS_PER_RELEASE) {
                file.release_pages();
            }
        }
        Ok(joined)
    }

    /// Adds a fragment to the samples if it is complete. Otherwise counts its image, or keeps it in `joined` if it has none.
    fn add_fragment(&mut self, file: &TarFile, fragment: Fragment, joined: &mut Joined) {
        let sample = fragment.sample;
        match (sample.image != NO_MEMBER, fragment.captions) {
            (true, Captions::Present) => {
                self.samples.push(sample);
                self.counts.samples += 1;
                joined.samples += 1;
            }
            (true, Captions::Absent) => self.counts.without_caption += 1,
            (true, Captions::Unreadable) => {
                self.counts.unreadable += 1;
                if self.first_unreadable.is_none() {
                    self.first_unreadable = file.unreadable_reason(sample.txt, sample.json);
                }
            }
            (false, _) => joined.without_image.push(fragment),
        }
    }

    /// Adds fragments without image to the samples with the same key that lack their members: a sample is complete with one text, and
    /// its other text may be elsewhere in the file. Counts the captions of the other fragments. Returns the number of samples that
    /// received a member. `fragments` are in the order of their hashes.
    fn attach(&mut self, file: &TarFile, fragments: Vec<Fragment>) -> Result<usize> {
        let mut is_attached = vec![false; fragments.len()];
        let mut attached = 0;
        if !fragments.is_empty() {
            for (read, sample) in self.samples.iter_mut().enumerate() {
                if read.is_multiple_of(MEMBERS_PER_RELEASE) {
                    file.release_pages();
                }
                if sample.txt != NO_MEMBER && sample.json != NO_MEMBER {
                    continue;
                }
                let key = file.key_of(sample)?;
                let key_hash = hash(&key);
                let first = fragments.partition_point(|fragment| fragment.key_hash < key_hash);
                let same_hash = fragments[first..]
                    .iter()
                    .take_while(|fragment| fragment.key_hash == key_hash);
                for (fragment, is_attached) in same_hash.zip(&mut is_attached[first..]) {
                    let Sample { txt, json, .. } = fragment.sample;
                    let is_free = |own: u64, other: u64| own == NO_MEMBER || other == NO_MEMBER;
                    if !*is_attached
                        && is_free(sample.txt, txt)
                        && is_free(sample.json, json)
                        && file.key_of(&fragment.sample)? == key
                    {
                        // `NO_MEMBER` is the greatest offset.
                        (sample.txt, sample.json) = (sample.txt.min(txt), sample.json.min(json));
                        *is_attached = true;
                        attached += 1;
                    }
                }
            }
        }
        let remaining = fragments.iter().zip(is_attached).filter(|(_, attached)| !attached);
        self.counts.without_image += remaining
            .filter(|(fragment, _)| fragment.captions == Captions::Present)
            .count();
        Ok(attached)
    }

    fn count_other(&mut self, name: Option<Name<'_>>) {
        self.counts.others += 1;
        let Some(name) = name.filter(|name| name.ending.len() <= MAX_ENDING) else {
            return;
        };
        let ending = String::from_utf8_lossy(name.ending).into_owned();
        if self.endings.len() < MAX_ENDINGS || self.endings.contains_key(&ending) {
            *self.endings.entry(ending).or_default() += 1;
        }
    }

    /// Whether an unknown ending is that of an image after another dot, such as `input.jpg`.
    pub fn has_images_with_other_endings(&self) -> bool {
        let last = |ending: &String| ending.rsplit_once('.').map(|(_, last)| last.to_lowercase());
        self.endings
            .keys()
            .filter_map(last)
            .any(|last| EXTENSIONS.contains(&last.as_str()))
    }

    /// Lists the unknown endings, the most frequent first: `3 input.jpg, 3 outputs.txt`. `None` if there are none.
    pub fn list_endings(&self) -> Option<String> {
        let mut endings: Vec<(&String, &usize)> = self.endings.iter().collect();
        endings.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let listed = endings.iter().take(LISTED_ENDINGS);
        let listed: Vec<String> = listed
            .map(|(ending, count)| format!("{count} {}", escape_control(ending)))
            .collect();
        let more = if endings.len() > LISTED_ENDINGS { ", …" } else { "" };
        (!listed.is_empty()).then(|| format!("{}{more}", listed.join(", ")))
    }
}
