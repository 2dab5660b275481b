//! Hashes of what the written files are made from: a fingerprint of everything that determines them except the content of images, and
//! the hash of the sizes and modification times of the image files.
//!
//! Fingerprints are stored in reports and journals. A file whose fingerprint is unchanged is not written again, so the texts that are
//! hashed keep the names that types had in the first release.

use std::fmt::Write;
use std::hash::Hasher;

use xxhash_rust::xxh3::Xxh3;

use super::image_stamps::hash_stamps;
use crate::Result;
use crate::image_processing::ImageProcessing;
use crate::plan::{Plan, PlannedFile, Schema, TailSplit};
use vlct_data::arrow::{LabelKind, VqaKind};
use vlct_data::manifest::Inputs;
use vlct_image::Reading;

/// Version of the written files, which is part of every fingerprint. It must change if the same plan gives other files than before.
const VERSION: &str = "2";

/// The hashes of the inputs of a plan, in hexadecimal digits.
pub(super) struct Fingerprints {
    /// The inputs of each file of the plan.
    pub files: Vec<Inputs>,
    /// The inputs that the two files of each [`TailSplit`] share.
    pub tail_splits: Vec<Inputs>,
    /// The inputs of the whole plan.
    pub all: Inputs,
}

impl Fingerprints {
    pub fn new(dataset: &str, plan: &Plan, processing: &ImageProcessing) -> Result<Self> {
        let processing = processing_text(processing);
        let file_fingerprint = |file: &PlannedFile| {
            let mut hash = Xxh3::new();
            let schema = schema_text(file.schema);
            let head = format!("{VERSION} {dataset} {processing} {} {schema}", file.name);
            Hasher::write(&mut hash, head.as_bytes());
            file.rows.hash_rows(&mut hash)?;
            Ok(Inputs {
                fingerprint: digits(&hash),
                images: digits(&hash_stamps(&*file.rows)),
            })
        };
        let files: Vec<Inputs> = plan.files.iter().map(file_fingerprint).collect::<Result<_>>()?;
        let split_fingerprint = |split: &TailSplit| {
            let from = plan.files.iter().position(|file| file.name == split.from);
            let (from, images) = from.map_or(("", ""), |index| (&files[index].fingerprint, &files[index].images));
            Inputs {
                fingerprint: fingerprint(&format!("{} {from}", tail_split_text(split))),
                images: images.to_string(),
            }
        };
        let tail_splits: Vec<Inputs> = plan.tail_splits.iter().map(split_fingerprint).collect();
        let join = |inputs: &[Inputs], hash: fn(&Inputs) -> &str| inputs.iter().map(hash).collect::<Vec<_>>().join(" ");
        let of_all = |hash| fingerprint(&format!("{} {}", join(&files, hash), join(&tail_splits, hash)));
        let all = Inputs {
            fingerprint: of_all(|inputs| &inputs.fingerprint),
            images: of_all(|inputs| &inputs.images),
        };
        Ok(Self {
            files,
            tail_splits,
            all,
        })
    }

    /// Returns the name and the inputs of each file of the plan, including those of its tail splits.
    pub fn by_name<'a>(&'a self, plan: &'a Plan) -> impl Iterator<Item = (&'a str, &'a Inputs)> {
        let files = plan.files.iter().zip(&self.files);
        let splits = plan.tail_splits.iter().zip(&self.tail_splits);
        let parts = splits.flat_map(|(split, inputs)| [(split.head.as_str(), inputs), (&split.tail, inputs)]);
        files.map(|(file, inputs)| (file.name.as_str(), inputs)).chain(parts)
    }
}

/// Returns the fingerprint of the plan's answer vocabulary, if it has one.
pub(super) fn vocabulary_fingerprint(plan: &Plan) -> Option<String> {
    let vocabulary = plan.vocabulary.as_ref()?;
    let answers = (0..vocabulary.len() as u32).map(|id| vocabulary.answer(id));
    Some(fingerprint(&format!("{:?}", answers.collect::<Vec<_>>())))
}

fn processing_text(processing: &ImageProcessing) -> String {
    let downscale = match processing.downscale {
        None => "None".to_string(),
        Some(downscale) => {
            let (max_side, quality) = (downscale.max_side, downscale.quality);
            format!("Some(Shrink {{ max_side: {max_side}, quality: {quality} }})")
        }
    };
    let mut text = format!("Treatment {{ validate: {}, shrink: {downscale} }}", processing.validate);
    if let Some(Reading {
        background,
        orientation,
    }) = processing.reading
    {
        let _ = write!(text, " {background} {orientation}");
    }
    text
}

fn schema_text(schema: Schema) -> &'static str {
    match schema {
        Schema::Captions => "Captions",
        Schema::Regions => "Regions",
        Schema::Questions(VqaKind::Answered) => "Questions(Answered)",
        Schema::Questions(VqaKind::Test) => "Questions(Test)",
        Schema::ImagePairs => "Pairs",
        Schema::Labels(LabelKind::Single) => "Labels(Single)",
        Schema::Labels(LabelKind::Multiple) => "Labels(Multiple)",
    }
}

fn tail_split_text(split: &TailSplit) -> String {
    let TailSplit {
        from,
        head,
        tail,
        count,
    } = split;
    format!("Cut {{ from: {from:?}, head: {head:?}, tail: {tail:?}, count: {count} }}")
}

fn fingerprint(text: &str) -> String {
    let mut hash = Xxh3::new();
    Hasher::write(&mut hash, text.as_bytes());
    digits(&hash)
}

fn digits(hash: &Xxh3) -> String {
    format!("{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Downscale;

    #[test]
    fn hashed_texts_are_those_of_the_first_release() {
        let mut processing = ImageProcessing {
            validate: true,
            downscale: None,
            reading: None,
        };
        assert_eq!(
            processing_text(&processing),
            "Treatment { validate: true, shrink: None }"
        );
        processing.downscale = Some(Downscale {
            max_side: 512,
            quality: 90,
        });
        assert_eq!(
            processing_text(&processing),
            "Treatment { validate: true, shrink: Some(Shrink { max_side: 512, quality: 90 }) }"
        );
        let split = TailSplit {
            from: "a".into(),
            head: "b".into(),
            tail: "c".into(),
            count: 7,
        };
        assert_eq!(
            tail_split_text(&split),
            "Cut { from: \"a\", head: \"b\", tail: \"c\", count: 7 }"
        );
        assert_eq!(fingerprint(""), "99aa06d3014798d86001c324468d497f");
    }
}
