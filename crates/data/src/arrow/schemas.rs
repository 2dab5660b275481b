//! The schemas of ViLT's files, one writer each.

use std::path::Path;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Float64Builder, Int64Builder, ListBuilder, NullBuilder, StringBuilder,
};
use arrow_schema::{DataType, Field};

use super::write::{ColumnSpec, TableFile};
use crate::Result;

fn list(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

fn column(name: &str, data_type: DataType, pandas_type: &'static str) -> ColumnSpec {
    let numpy_type = if pandas_type == "int64" { "int64" } else { "object" };
    ColumnSpec {
        field: Field::new(name, data_type, true),
        pandas_type,
        numpy_type,
    }
}

fn picture_column(name: &str) -> ColumnSpec {
    column(name, DataType::Binary, "bytes")
}

fn text_column(name: &str) -> ColumnSpec {
    column(name, DataType::Utf8, "unicode")
}

fn texts_column(name: &str) -> ColumnSpec {
    column(name, list(DataType::Utf8), "list[unicode]")
}

fn integers_column(name: &str) -> ColumnSpec {
    column(name, list(DataType::Int64), "list[int64]")
}

/// Writes the collected rows of `$self` if the next row, of `$bytes` bytes, would make the batch too large.
macro_rules! make_room {
    ($self:ident, $bytes:expr) => {
        let bytes: usize = $bytes;
        if $self.file.admit(bytes)? {
            let columns = $self.take();
            $self.file.write(columns)?;
            $self.file.admit(bytes)?;
        }
    };
}

/// Builds the methods that all writers share.
macro_rules! finish {
    ($($builder:ident),*) => {
        /// The collected rows, column by column.
        fn take(&mut self) -> Vec<ArrayRef> {
            vec![$(self.$builder.take_array()),*]
        }

        /// Completes the file and gives it its name. Returns the number of rows.
        ///
        /// # Errors
        /// [`crate::DataError::Io`] if the disk is full or refuses. The file that had the name before is then still there.
        pub fn finish(mut self) -> Result<u64> {
            let columns = self.take();
            self.file.write(columns)?;
            self.file.finish()
        }
    };
}

/// An [`ArrayBuilder`] that yields a shared array without being consumed.
trait TakeArray: ArrayBuilder {
    fn take_array(&mut self) -> ArrayRef {
        ArrayBuilder::finish(self)
    }
}
impl<B: ArrayBuilder> TakeArray for B {}

/// Writes files of the caption datasets: `image`, `caption`, `image_id`, `split`.
pub struct CaptionWriter {
    file: TableFile,
    image: BinaryBuilder,
    caption: ListBuilder<StringBuilder>,
    image_id: StringBuilder,
    split: StringBuilder,
}

impl CaptionWriter {
    /// Begins the file `path`. Nothing has that name before [`Self::finish`].
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let columns = [
            picture_column("image"),
            texts_column("caption"),
            text_column("image_id"),
            text_column("split"),
        ];
        Ok(Self {
            file: TableFile::create(path.as_ref(), &columns)?,
            image: BinaryBuilder::new(),
            caption: ListBuilder::new(StringBuilder::new()),
            image_id: StringBuilder::new(),
            split: StringBuilder::new(),
        })
    }

    /// Adds a picture (the bytes of its file) with its captions.
    ///
    /// # Errors
    /// A picture of 2 GiB or more; a disk that is full.
    pub fn push<S: AsRef<str>>(&mut self, image: &[u8], captions: &[S], image_id: &str, split: &str) -> Result<()> {
        let text: usize = captions.iter().map(|c| c.as_ref().len()).sum();
        make_room!(self, image.len() + text + image_id.len() + split.len());
        self.image.append_value(image);
        self.caption.append_value(captions.iter().map(|c| Some(c.as_ref())));
        self.image_id.append_value(image_id);
        self.split.append_value(split);
        Ok(())
    }

    finish!(image, caption, image_id, split);
}

/// A described region of a Visual Genome picture, in pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// The description.
    pub phrase: String,
    /// Width of the region.
    pub width: i64,
    /// Height of the region.
    pub height: i64,
    /// Left edge; negative values occur.
    pub x: i64,
    /// Upper edge; negative values occur.
    pub y: i64,
}

/// Writes the Visual Genome file: `image`, `caption`, `width`, `height`, `x`, `y`, `image_id`.
pub struct VgWriter {
    file: TableFile,
    image: BinaryBuilder,
    caption: ListBuilder<StringBuilder>,
    width: ListBuilder<Int64Builder>,
    height: ListBuilder<Int64Builder>,
    x: ListBuilder<Int64Builder>,
    y: ListBuilder<Int64Builder>,
    image_id: StringBuilder,
}

impl VgWriter {
    /// Begins the file `path`. Nothing has that name before [`Self::finish`].
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let columns = [
            picture_column("image"),
            texts_column("caption"),
            integers_column("width"),
            integers_column("height"),
            integers_column("x"),
            integers_column("y"),
            text_column("image_id"),
        ];
        let integers = || ListBuilder::new(Int64Builder::new());
        Ok(Self {
            file: TableFile::create(path.as_ref(), &columns)?,
            image: BinaryBuilder::new(),
            caption: ListBuilder::new(StringBuilder::new()),
            width: integers(),
            height: integers(),
            x: integers(),
            y: integers(),
            image_id: StringBuilder::new(),
        })
    }

    /// Adds a picture (the bytes of its file) with its regions.
    ///
    /// # Errors
    /// A picture of 2 GiB or more; a disk that is full.
    pub fn push(&mut self, image: &[u8], regions: &[Region], image_id: &str) -> Result<()> {
        let text: usize = regions.iter().map(|r| r.phrase.len() + 32).sum();
        make_room!(self, image.len() + text + image_id.len());
        self.image.append_value(image);
        self.caption.append_value(regions.iter().map(|r| Some(&r.phrase)));
        self.width.append_value(regions.iter().map(|r| Some(r.width)));
        self.height.append_value(regions.iter().map(|r| Some(r.height)));
        self.x.append_value(regions.iter().map(|r| Some(r.x)));
        self.y.append_value(regions.iter().map(|r| Some(r.y)));
        self.image_id.append_value(image_id);
        Ok(())
    }

    finish!(image, caption, width, height, x, y, image_id);
}

/// A question about a picture with the answers that count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnsweredQuestion {
    /// The question.
    pub question: String,
    /// Its number in the annotations.
    pub question_id: i64,
    /// Answers: text, number in the answer vocabulary, score in 0..=1. Empty in test splits.
    pub answers: Vec<(String, i64, f64)>,
}

/// One row of a VQA file: a picture and its questions.
#[derive(Clone, Copy, Debug)]
pub struct VqaRow<'a> {
    /// The bytes of the picture's file.
    pub image: &'a [u8],
    /// The questions.
    pub questions: &'a [AnsweredQuestion],
    /// Number of the picture.
    pub image_id: i64,
    /// `train`, `val`, `test` or `test-dev`.
    pub split: &'a str,
}

/// Whether a VQA file has answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VqaKind {
    /// Questions with answers, labels and scores.
    Answered,
    /// Test questions: empty lists, of type null, in place of the answers.
    Test,
}

/// One of the columns `answers`, `answer_labels`, `answer_scores`.
enum AnswerColumn<B: ArrayBuilder> {
    Answered(ListBuilder<ListBuilder<B>>),
    Test(ListBuilder<NullBuilder>),
}

impl<B: ArrayBuilder> AnswerColumn<B> {
    fn new(kind: VqaKind, builder: B) -> Self {
        match kind {
            VqaKind::Answered => Self::Answered(ListBuilder::new(ListBuilder::new(builder))),
            VqaKind::Test => Self::Test(ListBuilder::new(NullBuilder::new())),
        }
    }

    fn push<'a>(&mut self, row: &VqaRow<'a>, append: impl Fn(&mut B, &'a (String, i64, f64))) {
        match self {
            Self::Answered(questions) => {
                for question in row.questions {
                    for answer in &question.answers {
                        append(questions.values().values(), answer);
                    }
                    questions.values().append(true);
                }
                questions.append(true);
            }
            Self::Test(questions) => questions.append(true),
        }
    }

    fn take_array(&mut self) -> ArrayRef {
        match self {
            Self::Answered(builder) => builder.take_array(),
            Self::Test(builder) => builder.take_array(),
        }
    }
}

/// Writes VQA files: `image`, `questions`, `answers`, `answer_labels`, `answer_scores`, `image_id`, `question_id`, `split`.
pub struct VqaWriter {
    file: TableFile,
    image: BinaryBuilder,
    questions: ListBuilder<StringBuilder>,
    answers: AnswerColumn<StringBuilder>,
    answer_labels: AnswerColumn<Int64Builder>,
    answer_scores: AnswerColumn<Float64Builder>,
    image_id: Int64Builder,
    question_id: ListBuilder<Int64Builder>,
    split: StringBuilder,
}

impl VqaWriter {
    /// Begins the file `path`. Nothing has that name before [`Self::finish`].
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>, kind: VqaKind) -> Result<Self> {
        let answers = |name, item: DataType, pandas_type| match kind {
            VqaKind::Answered => column(name, list(list(item)), pandas_type),
            VqaKind::Test => column(name, list(DataType::Null), "list[empty]"),
        };
        let columns = [
            picture_column("image"),
            texts_column("questions"),
            answers("answers", DataType::Utf8, "list[list[unicode]]"),
            answers("answer_labels", DataType::Int64, "list[list[int64]]"),
            answers("answer_scores", DataType::Float64, "list[list[float64]]"),
            column("image_id", DataType::Int64, "int64"),
            integers_column("question_id"),
            text_column("split"),
        ];
        Ok(Self {
            file: TableFile::create(path.as_ref(), &columns)?,
            image: BinaryBuilder::new(),
            questions: ListBuilder::new(StringBuilder::new()),
            answers: AnswerColumn::new(kind, StringBuilder::new()),
            answer_labels: AnswerColumn::new(kind, Int64Builder::new()),
            answer_scores: AnswerColumn::new(kind, Float64Builder::new()),
            image_id: Int64Builder::new(),
            question_id: ListBuilder::new(Int64Builder::new()),
            split: StringBuilder::new(),
        })
    }

    /// Adds a picture with its questions.
    ///
    /// # Errors
    /// A picture of 2 GiB or more; a disk that is full.
    pub fn push(&mut self, row: VqaRow<'_>) -> Result<()> {
        let text: usize = row
            .questions
            .iter()
            .map(|q| q.question.len() + 16 + q.answers.iter().map(|a| a.0.len() + 24).sum::<usize>())
            .sum();
        make_room!(self, row.image.len() + text + row.split.len());
        self.image.append_value(row.image);
        self.questions
            .append_value(row.questions.iter().map(|q| Some(&q.question)));
        self.answers
            .push(&row, |builder, answer| builder.append_value(&answer.0));
        self.answer_labels
            .push(&row, |builder, answer| builder.append_value(answer.1));
        self.answer_scores
            .push(&row, |builder, answer| builder.append_value(answer.2));
        self.image_id.append_value(row.image_id);
        self.question_id
            .append_value(row.questions.iter().map(|q| Some(q.question_id)));
        self.split.append_value(row.split);
        Ok(())
    }

    finish!(
        image,
        questions,
        answers,
        answer_labels,
        answer_scores,
        image_id,
        question_id,
        split
    );
}

/// One row of an NLVR2 file: a pair of pictures and the sentences about it.
#[derive(Clone, Copy, Debug)]
pub struct Nlvr2Row<'a> {
    /// The bytes of the left picture's file.
    pub image_0: &'a [u8],
    /// The bytes of the right picture's file.
    pub image_1: &'a [u8],
    /// Sentences, and whether each is true of the pair.
    pub sentences: &'a [(String, bool)],
    /// Name of the pair.
    pub identifier: &'a str,
}

/// Writes NLVR2 files: `image_0`, `image_1`, `questions`, `answers` (`True` or `False`), `identifier`.
pub struct Nlvr2Writer {
    file: TableFile,
    image_0: BinaryBuilder,
    image_1: BinaryBuilder,
    questions: ListBuilder<StringBuilder>,
    answers: ListBuilder<StringBuilder>,
    identifier: StringBuilder,
}

impl Nlvr2Writer {
    /// Begins the file `path`. Nothing has that name before [`Self::finish`].
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let columns = [
            picture_column("image_0"),
            picture_column("image_1"),
            texts_column("questions"),
            texts_column("answers"),
            text_column("identifier"),
        ];
        Ok(Self {
            file: TableFile::create(path.as_ref(), &columns)?,
            image_0: BinaryBuilder::new(),
            image_1: BinaryBuilder::new(),
            questions: ListBuilder::new(StringBuilder::new()),
            answers: ListBuilder::new(StringBuilder::new()),
            identifier: StringBuilder::new(),
        })
    }

    /// Adds a pair of pictures with its sentences.
    ///
    /// # Errors
    /// Pictures of 2 GiB or more; a disk that is full.
    pub fn push(&mut self, row: Nlvr2Row<'_>) -> Result<()> {
        let text: usize = row.sentences.iter().map(|s| s.0.len() + 16).sum();
        make_room!(
            self,
            row.image_0.len() + row.image_1.len() + text + row.identifier.len()
        );
        self.image_0.append_value(row.image_0);
        self.image_1.append_value(row.image_1);
        self.questions.append_value(row.sentences.iter().map(|s| Some(&s.0)));
        let word = |truth: bool| if truth { "True" } else { "False" };
        self.answers.append_value(row.sentences.iter().map(|s| Some(word(s.1))));
        self.identifier.append_value(row.identifier);
        Ok(())
    }

    finish!(image_0, image_1, questions, answers, identifier);
}
