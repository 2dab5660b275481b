//! VQA: questions about an image, with or without answers.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Float64Builder, Int64Builder, ListBuilder, NullBuilder, StringBuilder,
};
use arrow_schema::DataType;

use super::{TakeArray, column, image_column, integers_column, list, text_column, texts_column};
use crate::Result;
use crate::arrow::ArrowTable;
use crate::arrow::write::{BatchBlock, ColumnSpec, TableFile};
use vlct_util::text::counted;

/// A question about an image, with the answers that are in the vocabulary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AnsweredQuestion {
    /// The text of the question.
    pub question: String,
    /// The id of the question in the annotations.
    pub question_id: i64,
    /// The text, label (id in the answer vocabulary) and score (0 to 1) of each answer. Empty in test splits.
    pub answers: Vec<(String, i64, f64)>,
}

impl ArrowTable {
    /// Returns the questions of a row of a VQA file, with their answers.
    ///
    /// # Errors
    /// Returns the errors of [`Self::texts`], and [`crate::DataError::Format`] if the columns have different numbers of questions
    /// or answers.
    pub fn questions(&self, row: usize) -> Result<Vec<AnsweredQuestion>> {
        let questions = self.texts(row, "questions")?;
        let ids = self.integers(row, "question_id")?;
        let mut answers = self.text_lists(row, "answers")?;
        let mut labels = self.integer_lists(row, "answer_labels")?;
        let mut scores = self.float_lists(row, "answer_scores")?;

        let count = questions.len();
        let counts = [ids.len(), answers.len(), labels.len(), scores.len()];
        if counts == [count, 0, 0, 0] {
            // Test splits have empty answer columns.
            answers.resize_with(count, Vec::new);
            labels.resize_with(count, Vec::new);
            scores.resize_with(count, Vec::new);
        } else if counts != [count; 4] {
            let [ids, answers, labels, scores] = counts;
            let reason = format!(
                "the lists of a row differ: questions {count}, ids {ids}, answers {answers}, labels {labels}, scores {scores}"
            );
            return Err(self.row_error(row, &reason));
        }
        let lists = answers.into_iter().zip(labels).zip(scores);
        let questions = (questions.into_iter().zip(ids).zip(lists).enumerate()).map(|(index, (question, lists))| {
            let ((answers, labels), scores) = lists;
            if answers.len() != labels.len() || answers.len() != scores.len() {
                let reason = format!(
                    "question {index} has {}, but {} and {}",
                    counted(answers.len(), "answer"),
                    counted(labels.len(), "label"),
                    counted(scores.len(), "score")
                );
                return Err(self.row_error(row, &reason));
            }
            let answers = answers.into_iter().zip(labels).zip(scores);
            Ok(AnsweredQuestion {
                question: question.0.to_string(),
                question_id: question.1,
                answers: answers
                    .map(|((answer, label), score)| (answer.to_string(), label, score))
                    .collect(),
            })
        });
        questions.collect()
    }
}

/// One row of a VQA file: an image and its questions.
#[derive(Clone, Copy, Debug)]
pub struct VqaRow<'a> {
    /// The bytes of the image's file.
    pub image: &'a [u8],
    /// The questions about the image.
    pub questions: &'a [AnsweredQuestion],
    /// Id of the image.
    pub image_id: i64,
    /// `train`, `val`, `test` or `test-dev`.
    pub split: &'a str,
}

/// Whether a VQA file has answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VqaKind {
    /// Questions with answers, labels and scores.
    Answered,
    /// Questions without answers: the lists of the answer columns are empty, and their items have the type null.
    Test,
}

/// The builder of one of the columns `answers`, `answer_labels`, `answer_scores`.
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
    fn columns(kind: VqaKind) -> [ColumnSpec; 8] {
        let answers = |name, item: DataType, pandas_type| match kind {
            VqaKind::Answered => column(name, list(list(item)), pandas_type),
            VqaKind::Test => column(name, list(DataType::Null), "list[empty]"),
        };
        [
            image_column("image"),
            texts_column("questions"),
            answers("answers", DataType::Utf8, "list[list[unicode]]"),
            answers("answer_labels", DataType::Int64, "list[list[int64]]"),
            answers("answer_scores", DataType::Float64, "list[list[float64]]"),
            column("image_id", DataType::Int64, "int64"),
            integers_column("question_id"),
            text_column("split"),
        ]
    }

    fn with_file(file: TableFile, kind: VqaKind) -> Self {
        Self {
            file,
            image: BinaryBuilder::new(),
            questions: ListBuilder::new(StringBuilder::new()),
            answers: AnswerColumn::new(kind, StringBuilder::new()),
            answer_labels: AnswerColumn::new(kind, Int64Builder::new()),
            answer_scores: AnswerColumn::new(kind, Float64Builder::new()),
            image_id: Int64Builder::new(),
            question_id: ListBuilder::new(Int64Builder::new()),
            split: StringBuilder::new(),
        }
    }

    /// Creates a writer of the file `path`, which appears when [`Self::finish`] succeeds.
    ///
    /// # Errors
    /// Returns [`crate::DataError::Io`] if the directory does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>, kind: VqaKind) -> Result<Self> {
        Ok(Self::with_file(
            TableFile::create(path.as_ref(), &Self::columns(kind))?,
            kind,
        ))
    }

    /// Continues the file of an earlier writer, or starts a new file if `blocks` is empty. `blocks` are the batches that the earlier
    /// writer recorded ([`Self::blocks`]): the file at [`partial_path`] is truncated after the last of them, and rows are appended. If
    /// this writer is dropped before [`Self::finish`], the file at `partial_path` is kept.
    ///
    /// [`partial_path`]: crate::arrow::partial_path
    ///
    /// # Errors
    /// Returns the errors of [`Self::create`], and [`crate::DataError::Format`] if `blocks` are inconsistent or
    /// the file ends before the end of the last batch.
    pub fn resume(path: impl AsRef<Path>, kind: VqaKind, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(Self::with_file(
            TableFile::resume(path.as_ref(), &Self::columns(kind), blocks)?,
            kind,
        ))
    }

    /// Adds an image with its questions.
    ///
    /// # Errors
    /// Returns [`crate::DataError::RowTooLarge`] if the row has about 2 GiB or more, [`crate::DataError::Io`] if writing fails.
    pub fn push(&mut self, row: VqaRow<'_>) -> Result<()> {
        // The id and offsets of a question take about 16 bytes; the label, score and offset of an answer take about 24.
        let question_bytes: usize = row
            .questions
            .iter()
            .map(|q| q.question.len() + 16 + q.answers.iter().map(|a| a.0.len() + 24).sum::<usize>())
            .sum();
        make_room!(self, row.image.len() + question_bytes + row.split.len());
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

    /// Writes a file without rows. As in the original's empty files, all columns except `image_id` have the type null.
    ///
    /// # Errors
    /// Returns [`crate::DataError::Io`] if the directory does not exist or writing fails.
    pub fn write_empty(path: impl AsRef<Path>) -> Result<()> {
        let columns = Self::columns(VqaKind::Answered).map(|spec| match spec.field.data_type() {
            DataType::Int64 => spec,
            _ => column(spec.field.name(), DataType::Null, "empty"),
        });
        TableFile::create(path.as_ref(), &columns)?.finish(|_| Ok(()))?;
        Ok(())
    }

    writer_methods!(
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
