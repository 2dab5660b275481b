//! VQA: questions about a picture, with or without answers.

use std::path::Path;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, Float64Builder, Int64Builder, ListBuilder, NullBuilder, StringBuilder,
};
use arrow_schema::DataType;

use super::{TakeArray, column, integers_column, list, picture_column, text_column, texts_column};
use crate::Result;
use crate::arrow::ArrowTable;
use crate::arrow::write::{BatchBlock, ColumnSpec, TableFile};

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

impl ArrowTable {
    /// The questions of a row of a VQA file, with their answers.
    ///
    /// # Errors
    /// As [`Self::texts`]; columns that disagree about how many questions or answers there are.
    pub fn questions(&self, row: usize) -> Result<Vec<AnsweredQuestion>> {
        let questions = self.texts(row, "questions")?;
        let ids = self.integers(row, "question_id")?;
        let mut answers = self.text_lists(row, "answers")?;
        let mut labels = self.integer_lists(row, "answer_labels")?;
        let mut scores = self.float_lists(row, "answer_scores")?;

        let asked = questions.len();
        let counts = [ids.len(), answers.len(), labels.len(), scores.len()];
        if counts == [asked, 0, 0, 0] {
            // A test split.
            answers.resize_with(asked, Vec::new);
            labels.resize_with(asked, Vec::new);
            scores.resize_with(asked, Vec::new);
        } else if counts != [asked; 4] {
            let [ids, answers, labels, scores] = counts;
            let reason = format!(
                "{asked} questions, but numbers of {ids}, answers of {answers}, labels of {labels} and scores of {scores}"
            );
            return Err(self.row_error(row, &reason));
        }
        let lists = answers.into_iter().zip(labels).zip(scores);
        let questions = (questions.into_iter().zip(ids).zip(lists).enumerate()).map(|(number, (question, lists))| {
            let ((answers, labels), scores) = lists;
            if answers.len() != labels.len() || answers.len() != scores.len() {
                let reason = format!(
                    "question {number} has {} answers, but {} labels and {} scores",
                    answers.len(),
                    labels.len(),
                    scores.len()
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
    fn columns(kind: VqaKind) -> [ColumnSpec; 8] {
        let answers = |name, item: DataType, pandas_type| match kind {
            VqaKind::Answered => column(name, list(list(item)), pandas_type),
            VqaKind::Test => column(name, list(DataType::Null), "list[empty]"),
        };
        [
            picture_column("image"),
            texts_column("questions"),
            answers("answers", DataType::Utf8, "list[list[unicode]]"),
            answers("answer_labels", DataType::Int64, "list[list[int64]]"),
            answers("answer_scores", DataType::Float64, "list[list[float64]]"),
            column("image_id", DataType::Int64, "int64"),
            integers_column("question_id"),
            text_column("split"),
        ]
    }

    fn on(file: TableFile, kind: VqaKind) -> Self {
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

    /// Begins the file `path`. Nothing has that name before [`Self::finish`].
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn create(path: impl AsRef<Path>, kind: VqaKind) -> Result<Self> {
        Ok(Self::on(TableFile::create(path.as_ref(), &Self::columns(kind))?, kind))
    }

    /// Goes on with a file that an earlier writer, also from here, left behind the given batches ([`Self::blocks`]); without any, begins.
    /// What is written stays, under a hidden name, if this writer too is dropped.
    ///
    /// # Errors
    /// As [`Self::create`]; [`crate::DataError::Format`] if that file is not as long as its batches.
    pub fn resume(path: impl AsRef<Path>, kind: VqaKind, blocks: Vec<BatchBlock>) -> Result<Self> {
        Ok(Self::on(
            TableFile::resume(path.as_ref(), &Self::columns(kind), blocks)?,
            kind,
        ))
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

    /// Writes the file `path` without rows, with the columns that pandas gives an empty selection of them: of type null, but for
    /// the number of the picture.
    ///
    /// # Errors
    /// [`crate::DataError::Io`] if the folder does not exist or cannot be written.
    pub fn write_none(path: impl AsRef<Path>) -> Result<()> {
        let columns = Self::columns(VqaKind::Answered).map(|answered| match answered.field.data_type() {
            DataType::Int64 => answered,
            _ => column(answered.field.name(), DataType::Null, "empty"),
        });
        TableFile::create(path.as_ref(), &columns)?.finish()?;
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
