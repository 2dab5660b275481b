//! How each kind of row is read as an [`Example`].

use std::borrow::Cow;
use std::ops::Range;

use super::contents::Contents;
use super::dataset::{Answer, Dataset, Example};
use super::index::AROUND_BYTES;
use super::items::{Location, TableDataset};
use crate::answers::MAX_ANSWERS;
use crate::webdataset::TarCounts;
use crate::{DataError, Result};

impl Dataset for TableDataset {
    fn len(&self) -> usize {
        self.items()
    }

    fn example(&self, item: usize) -> Result<Example<'_>> {
        self.example_at(&self.locate(item)?)
    }

    fn text(&self, item: usize) -> Result<Option<Cow<'_, str>>> {
        let at = self.locate(item)?;
        Ok(Some(self.text_at(&at)?))
    }

    fn rows(&self) -> usize {
        self.row_count()
    }

    fn items_of(&self, row: usize) -> Result<Range<usize>> {
        self.items_of_row(row)
    }

    fn peers(&self, item: usize) -> Range<usize> {
        let mut datasets = self.datasets().map(|(_, items)| items);
        datasets.find(|items| items.contains(&item)).unwrap_or_default()
    }

    fn describe(&self, item: usize) -> String {
        let named = self
            .locate(item)
            .and_then(|at| Ok(format!("{} {}", self.file(&at)?.name(), at.row)));
        named.unwrap_or_else(|error| error.to_string())
    }

    fn error(&self, item: usize, reason: &str) -> DataError {
        match self.locate(item) {
            Ok(at) => self.row_error(&at, reason),
            Err(error) => error,
        }
    }
}

impl TableDataset {
    /// The item at a location that [`Self::locate`] gave.
    ///
    /// # Errors
    /// Returns an error if there is no such place, a row has no image, or its columns are damaged or contradict each other.
    pub fn example_at(&self, at: &Location) -> Result<Example<'_>> {
        let image = |column: &str| -> Result<_> { Ok(Some(Cow::Borrowed(self.image_in(at, column)?))) };
        match self.contents() {
            Contents::Captions => Ok(Example {
                images: [image("image")?, None],
                text: Some(self.text_at(at)?),
                answer: Answer::None,
            }),
            Contents::Questions => {
                let images = [image("image")?, None];
                let (text, answer) = self.question(at)?;
                let text = Some(Cow::Owned(text));
                Ok(Example { images, text, answer })
            }
            Contents::Pairs => {
                let images = [image("image_0")?, image("image_1")?];
                let (text, truth) = self.sentence(at)?;
                Ok(Example {
                    images,
                    text: Some(Cow::Borrowed(text)),
                    answer: Answer::Truth(truth),
                })
            }
        }
    }

    /// The text at a location.
    fn text_at(&self, at: &Location) -> Result<Cow<'_, str>> {
        let text = self.texts_at(at)?.into_iter().nth(at.text);
        text.ok_or_else(|| DataError::Invalid(format!("there is no text {} in row {}", at.text, at.row)))
    }

    /// The (only or left) image at a location: the bytes of its file.
    ///
    /// # Errors
    /// Returns an error if there is no such place, or the row has no image.
    pub fn image_at(&self, at: &Location) -> Result<&[u8]> {
        self.image_in(
            at,
            match self.contents() {
                Contents::Captions | Contents::Questions => "image",
                Contents::Pairs => "image_0",
            },
        )
    }

    /// The question at a location, with the answers that count.
    fn question(&self, at: &Location) -> Result<(String, Answer)> {
        let questions = self.file(at)?.arrow()?.questions(at.row)?;
        self.read(at, AROUND_BYTES);
        let count = questions.len();
        let question = questions
            .into_iter()
            .nth(at.text)
            .ok_or_else(|| self.row_error(at, &format!("there is no question {}; there are {count}", at.text)))?;
        let impossible = |(_, label, score): &&(String, i64, f64)| {
            !(0..MAX_ANSWERS as i64).contains(label) || !(0.0..=1.0).contains(score)
        };
        match question.answers.iter().find(impossible) {
            None => Ok((
                question.question,
                Answer::Scored {
                    question_id: question.question_id,
                    answers: question.answers,
                },
            )),
            Some((_, label, score)) => {
                let reason = format!(
                    "question {} has an answer with the number {label} and the score {score}; possible are numbers from 0 and \
                     scores from 0 to 1",
                    at.text
                );
                Err(self.row_error(at, &reason))
            }
        }
    }

    /// The sentence at a location, and whether it is true of the pair. As in the original, every answer but `True` is false.
    fn sentence(&self, at: &Location) -> Result<(&str, bool)> {
        let table = self.file(at)?.arrow()?;
        let sentences = table.texts(at.row, "questions")?;
        let answers = table.texts(at.row, "answers")?;
        self.read(at, AROUND_BYTES);
        if sentences.len() != answers.len() {
            let reason = format!("{} sentences, but {} answers", sentences.len(), answers.len());
            return Err(self.row_error(at, &reason));
        }
        match (sentences.get(at.text), answers.get(at.text)) {
            (Some(text), Some(answer)) => Ok((text, *answer == "True")),
            _ => Err(DataError::Invalid(format!(
                "there is no sentence {} in row {}",
                at.text, at.row
            ))),
        }
    }

    /// The name of the image at a location: `image_id` of an Arrow file, mostly the name of the image's file; of a pair its
    /// `identifier`.
    ///
    /// # Errors
    /// Returns an error if the file has no such column.
    pub fn image_id_at(&self, at: &Location) -> Result<Option<String>> {
        let file = self.file(at)?;
        match self.contents() {
            Contents::Captions => file.image_id(at.row),
            Contents::Questions => Ok(file.arrow()?.integer(at.row, "image_id")?.map(|id| id.to_string())),
            Contents::Pairs => Ok(file.arrow()?.string(at.row, "identifier")?.map(str::to_string)),
        }
    }

    /// Samples in the tars among the files, and what was left out of them.
    pub fn tar_counts(&self) -> TarCounts {
        let counts = self.files().filter_map(|file| file.tar_counts());
        counts.fold(TarCounts::default(), |sum, counts| TarCounts {
            samples: sum.samples + counts.samples,
            without_caption: sum.without_caption + counts.without_caption,
            without_image: sum.without_image + counts.without_image,
            others: sum.others + counts.others,
        })
    }
}
