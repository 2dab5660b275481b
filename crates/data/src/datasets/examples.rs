//! Reads items of each kind of dataset as [`Example`]s.

use std::borrow::Cow;
use std::ops::Range;

use super::contents::Contents;
use super::dataset::{Answer, Dataset, Example};
use super::index::READ_AROUND_BYTES;
use super::items::{Location, TableDataset};
use super::table::Table;
use crate::answers::MAX_ANSWERS;
use crate::webdataset::TarCounts;
use crate::{DataError, Result};
use vlct_util::text::counted;

impl Dataset for TableDataset {
    fn len(&self) -> usize {
        self.items()
    }

    fn example(&self, item: usize) -> Result<Example<'_>> {
        self.example_at(&self.locate(item)?)
    }

    fn text(&self, item: usize) -> Result<Option<Cow<'_, str>>> {
        let location = self.locate(item)?;
        match self.contents() {
            Contents::Labels => Ok(self.texts_at(&location)?.into_iter().next()),
            Contents::Captions | Contents::Questions | Contents::Pairs => Ok(Some(self.text_at(&location)?)),
        }
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

    fn subset(&self, item: usize) -> &str {
        self.table_of_item(item).map_or("", |table| self.subset_of_table(table))
    }

    fn describe(&self, item: usize) -> String {
        let description = self
            .locate(item)
            .and_then(|location| Ok(format!("{} {}", self.file(&location)?.name(), location.row)));
        description.unwrap_or_else(|error| error.to_string())
    }

    fn image_name(&self, item: usize) -> String {
        let name = self.locate(item).and_then(|location| self.image_id_at(&location));
        let name = name.ok().flatten().filter(|name| !name.is_empty());
        name.unwrap_or_else(|| self.describe(item))
    }

    fn error(&self, item: usize, reason: &str) -> DataError {
        match self.locate(item) {
            Ok(location) => self.row_error(&location, reason),
            Err(error) => error,
        }
    }
}

impl TableDataset {
    /// Returns the item at a location that [`Self::locate`] returned.
    ///
    /// # Errors
    /// Returns an error if there is no such location, the row has no image (with labels: neither image nor text), or its columns are
    /// damaged or have different lengths.
    pub fn example_at(&self, location: &Location) -> Result<Example<'_>> {
        let reading = self.reading_at(location);
        let image = |column: &str| -> Result<_> { Ok(Some(Cow::Borrowed(self.image_in(location, column)?))) };
        match self.contents() {
            Contents::Captions => Ok(Example {
                images: [image("image")?, None],
                reading,
                text: Some(self.text_at(location)?),
                answer: Answer::None,
            }),
            Contents::Questions => {
                let images = [image("image")?, None];
                let (text, answer) = self.question(location)?;
                let text = Some(Cow::Owned(text));
                Ok(Example {
                    images,
                    reading,
                    text,
                    answer,
                })
            }
            Contents::Pairs => {
                let images = [image("image_0")?, image("image_1")?];
                let (text, answer) = self.sentence(location)?;
                Ok(Example {
                    images,
                    reading,
                    text: Some(Cow::Borrowed(text)),
                    answer,
                })
            }
            Contents::Labels => self.labelled(location),
        }
    }

    /// Returns the text at a location.
    fn text_at(&self, location: &Location) -> Result<Cow<'_, str>> {
        let text = self.texts_at(location)?.into_iter().nth(location.text);
        text.ok_or_else(|| DataError::Invalid(format!("there is no text {} in row {}", location.text, location.row)))
    }

    /// Returns the bytes of the image file at a location. For a pair of images, these are the bytes of the left one.
    ///
    /// # Errors
    /// Returns an error if there is no such location, or the row has no image.
    pub fn image_at(&self, location: &Location) -> Result<&[u8]> {
        self.image_in(
            location,
            match self.contents() {
                Contents::Captions | Contents::Questions | Contents::Labels => "image",
                Contents::Pairs => "image_0",
            },
        )
    }

    /// Returns the question at a location, with its answers.
    fn question(&self, location: &Location) -> Result<(String, Answer)> {
        let table = self.file(location)?.arrow()?;
        let questions = table.questions(location.row)?;
        // Test splits have empty answer columns.
        let is_answered = !table.text_lists(location.row, "answers")?.is_empty();
        self.count_bytes_read_at(location, READ_AROUND_BYTES);
        let count = questions.len();
        let question = questions
            .into_iter()
            .nth(location.text)
            .ok_or_else(|| self.row_error(location, &format!("there is no question {} of {count}", location.text)))?;
        let is_invalid = |(_, id, score): &&(String, i64, f64)| {
            !(0..MAX_ANSWERS as i64).contains(id) || !(0.0..=1.0).contains(score)
        };
        match question.answers.iter().find(is_invalid) {
            None => Ok((
                question.question,
                Answer::Question {
                    question_id: question.question_id,
                    answers: is_answered.then_some(question.answers),
                },
            )),
            Some((_, id, score)) => {
                let reason = format!(
                    "question {} has an answer with the id {id} and the score {score}; ids are 0 to {}, scores 0 to 1",
                    location.text,
                    MAX_ANSWERS - 1
                );
                Err(self.row_error(location, &reason))
            }
        }
    }

    /// Returns the sentence at a location, and whether it is true of the pair. As in the original, every answer except `True` is false.
    /// A test split may have no answers.
    fn sentence(&self, location: &Location) -> Result<(&str, Answer)> {
        let table = self.file(location)?.arrow()?;
        let sentences = table.texts(location.row, "questions")?;
        let answers = table.texts(location.row, "answers")?;
        self.count_bytes_read_at(location, READ_AROUND_BYTES);
        if !answers.is_empty() && sentences.len() != answers.len() {
            let reason = format!(
                "{}, but {}",
                counted(sentences.len(), "sentence"),
                counted(answers.len(), "answer")
            );
            return Err(self.row_error(location, &reason));
        }
        let answer = match answers.get(location.text) {
            Some(answer) => Answer::Truth(*answer == "True"),
            None => Answer::None,
        };
        let text = sentences.get(location.text).ok_or_else(|| {
            DataError::Invalid(format!(
                "there is no sentence {} in row {}",
                location.text, location.row
            ))
        })?;
        Ok((text, answer))
    }

    /// Returns the row with labels at a location.
    fn labelled(&self, location: &Location) -> Result<Example<'_>> {
        let file = self.file(location)?;
        if let Table::Tar(tar) = file {
            let image = self.image_in(location, "image")?;
            let class = tar.class(location.row)?.map(|class| vec![class.into_owned()]);
            return Ok(Example {
                images: [Some(Cow::Borrowed(image)), None],
                reading: self.reading_at(location),
                text: None,
                answer: class.map_or(Answer::None, Answer::Labels),
            });
        }
        let table = file.arrow()?;
        let (image, text) = table.image_and_text(location.row)?;
        let labels = match table.label_kind()? {
            Some(kind) => table.labels(location.row, kind)?,
            None => None,
        };
        self.count_bytes_read_at(location, image.map_or(0, <[u8]>::len) + READ_AROUND_BYTES);
        Ok(Example {
            images: [image.map(Cow::Borrowed), None],
            reading: self.reading_at(location),
            text: text.map(Cow::Borrowed),
            answer: labels.map_or(Answer::None, |labels| {
                Answer::Labels(labels.into_iter().map(str::to_string).collect())
            }),
        })
    }

    /// Returns the name of the image at a location: `image_id`, usually the name of the image file; for a pair, its `identifier`.
    /// `None` if the file does not have this column.
    ///
    /// # Errors
    /// Returns an error if there is no such location.
    pub fn image_id_at(&self, location: &Location) -> Result<Option<String>> {
        let file = self.file(location)?;
        match self.contents() {
            Contents::Captions | Contents::Labels | Contents::Questions => file.image_id(location.row),
            Contents::Pairs => file.arrow()?.name_at(location.row, "identifier"),
        }
    }

    /// Counts of the samples and members of all tars among the files.
    pub fn tar_counts(&self) -> TarCounts {
        let mut sum = TarCounts::default();
        self.files()
            .filter_map(|file| file.tar_counts())
            .for_each(|counts| sum.add(counts));
        sum
    }
}
