//! Errors of a run.

use std::path::PathBuf;
use vlct_checkpoint::{self as checkpoint, CheckpointError};
use vlct_config::ConfigError;
use vlct_data::DataError;
use vlct_data::datasets::Split;
use vlct_image::ImageError;
use vlct_logs::LogError;
use vlct_model::files::mapping::AdaptError;
use vlct_model::files::{FileError, StateError};
use vlct_model::sizes::SizeError;
use vlct_tasks::TaskError;
use vlct_tasks::description::{VocabularyDifference, WeightsError};
use vlct_tensor::CollectiveError;
use vlct_text::TextError;
use vlct_util::IoError;

/// An error of a run. Its message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An error of the configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An error of the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An error of the tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
    /// An error of an evaluation.
    #[error(transparent)]
    Task(TaskError),
    /// An error of an image or an image transform.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An error of a weight file.
    #[error(transparent)]
    Weights(#[from] FileError),
    /// An error of a tensor in a weight file.
    #[error(transparent)]
    State(#[from] StateError),
    /// An error of a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An error of a log file.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A loss is NaN or infinite.
    #[error("loss {loss} is {value} after step {step} (batch rows: {rows}); {checkpoint}")]
    NonFinite {
        /// Short name of the loss.
        loss: String,
        /// NaN or an infinity.
        value: f32,
        /// Number of optimiser steps completed before the loss was computed.
        step: u64,
        /// File and row of each sample.
        rows: String,
        /// A clause with the path of the last checkpoint.
        checkpoint: String,
    },
    /// Weights are NaN or infinite, so they are not saved.
    #[error("weights {name} are not finite after step {step}, so they are not saved; {checkpoint}")]
    NonFiniteWeights {
        /// Name of the parameter.
        name: String,
        /// Number of completed optimiser steps.
        step: u64,
        /// A clause with the path of the last checkpoint.
        checkpoint: String,
    },
    /// `data_root` is empty.
    #[error("data_root is not set: set it to the directory of the Arrow files")]
    MissingDataRoot,
    /// The tokenizer has more tokens than the model has word embeddings.
    #[error("tokenizer={tokenizer:?} has {tokens} tokens, more than vocab_size={vocab_size}: set vocab_size={tokens}")]
    VocabularyTooSmall {
        /// The tokenizer as configured.
        tokenizer: String,
        /// Number of tokens of the tokenizer.
        tokens: usize,
        /// Number of word embeddings of the model.
        vocab_size: usize,
    },
    /// The tokenizer has more tokens than the weights of `load_path` have word embeddings.
    #[error(
        "{path}: the weights have {rows} word embeddings, but tokenizer={tokenizer:?} has {tokens} tokens: set tokenizer=FILE to the \
         vocabulary with which they were trained",
        path = path.display()
    )]
    VocabularyOfWeights {
        /// The weight file.
        path: PathBuf,
        /// Number of word embeddings in the file.
        rows: usize,
        /// The tokenizer as configured.
        tokenizer: String,
        /// Number of tokens of the tokenizer.
        tokens: usize,
    },
    /// The configuration activates tasks that are not trained together.
    #[error(
        "loss_names activates {tasks}: a run trains either itm, mlm and mae, or one of vqa, nlvr2, irtr and labels; set the others \
         to 0"
    )]
    SeveralTasks {
        /// The active tasks, with commas.
        tasks: String,
    },
    /// An answer's id is too large for the model.
    #[error("answer {answer:?} has the id {id}, but vqav2_label_size={size}: set vqav2_label_size={}", id + 1)]
    AnswerOutOfRange {
        /// The answer.
        answer: String,
        /// Its id.
        id: usize,
        /// Number of answers of the model.
        size: usize,
    },
    /// The weights that a test evaluates lack tensors of the model.
    #[error(
        "{path}: has no tensor {name}, {count} of the model are missing; weights that were trained for this task are needed",
        path = path.display()
    )]
    IncompleteWeights {
        /// The weights.
        path: PathBuf,
        /// The first missing tensor.
        name: String,
        /// Number of missing tensors.
        count: usize,
    },
    /// The weights of an image classifier lack tensors of the encoder.
    #[error(
        "{path}: it has no tensor {name}, {} missing; give weights of the whole encoder",
        if *count == 1 { "which is".into() } else { format!("{count} of the encoder are") },
        path = path.display()
    )]
    IncompleteEncoder {
        /// The weights.
        path: PathBuf,
        /// The first missing tensor.
        name: String,
        /// Number of missing tensors.
        count: usize,
    },
    /// The weights that are evaluated, or continued, have other classes than the images.
    #[error("{path}: its classes are not those of the images: {difference}", path = path.display())]
    OtherClasses {
        /// The weights.
        path: PathBuf,
        /// How they differ.
        difference: String,
    },
    /// A run is continued with another number of attention heads, which changes the meaning of its weights.
    #[error("the run began with {before} attention heads, and has {now} now: leave the number as it was")]
    OtherHeads {
        /// The number when the run began.
        before: String,
        /// The number now.
        now: String,
    },
    /// A run of a classifier is continued with micro-batches of another size, in which its position in the data is counted.
    #[error("the batch size was {before} when the run began and is {now} now")]
    OtherBatchSize {
        /// The value when the run began.
        before: u64,
        /// The value now.
        now: u64,
    },
    /// A list of answers has another length than the head.
    #[error("{path}: {}, but the head of the model has {expected}", vlct_util::text::counted(found, "answer"), path = path.display())]
    AnswerCount {
        /// The list.
        path: PathBuf,
        /// Number of answers.
        found: usize,
        /// Number of classes of the head.
        expected: usize,
    },
    /// No line of the metrics of a run is a record.
    #[error("{path}: no line is a record of metrics in JSON", path = path.display())]
    NoRecords {
        /// The file of metrics.
        path: PathBuf,
    },
    /// The directory is not that of a run.
    #[error("{path}: not a run directory, it has no config.toml", path = path.display())]
    NotARun {
        /// The directory.
        path: PathBuf,
    },
    /// The training split has no answers.
    #[error("the training split of datasets={datasets:?} has no answers, which training needs")]
    NoAnswers {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The answer texts are needed, but neither the weights nor the data have them.
    #[error(
        "the answers are unknown: {path} does not contain them, and data_root has no training questions ({source}); set \
         vqa_answers to a file of answers, such as coco_vqa_label_info.pkl",
        path = path.display()
    )]
    UnknownAnswers {
        /// The weights.
        path: PathBuf,
        /// The error of reading the training questions.
        source: Box<TrainError>,
    },
    /// The names of answers or labels differ between the weights and the data.
    #[error("{path}: id {id} is {in_weights} in the weights and {in_data} in the data: use the data that the weights were trained on", path = path.display())]
    OtherNames {
        /// The weights.
        path: PathBuf,
        /// The first id whose names differ.
        id: usize,
        /// The name in the weights.
        in_weights: String,
        /// The name in the data.
        in_data: String,
    },
    /// Rows of a split have no labels, which training and metrics need.
    #[error("rows of the {split} split without a label: {rows}; prepare them with labels, or leave them out")]
    Unlabelled {
        /// Number of rows.
        rows: u64,
        /// The split.
        split: Split,
    },
    /// The data have a label that the model does not have.
    #[error("label {label:?} of the {split} split is {missing}")]
    UnknownLabel {
        /// The label.
        label: String,
        /// The split.
        split: Split,
        /// A clause that says where the label is missing.
        missing: &'static str,
    },
    /// No task is active.
    #[error(
        "no task is active: set loss_names.mlm=1 and loss_names.itm=1, or a fine-tuning task such as loss_names.vqa=1"
    )]
    NoTask,
    /// The state of an optimiser in a PyTorch file does not fit the run.
    #[error("{path}: its optimiser is that of another model or recipe: {reason}", path = path.display())]
    OtherOptimizer {
        /// The file.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// The number of attention heads is neither in a weight file nor given.
    #[error("{path}: {source}", path = path.display())]
    UnknownHeads {
        /// The file.
        path: PathBuf,
        /// The part of the model.
        source: SizeError,
    },
    /// The model in a weight file cannot be described.
    #[error(transparent)]
    Description(#[from] WeightsError),
    /// Weights are tested with other images or layer norms than those that they were trained with.
    #[error("{path}: {differences}", path = path.display())]
    OtherImages {
        /// The weight file.
        path: PathBuf,
        /// What differs, with the keys that change it.
        differences: String,
    },
    /// The weights are those of an image classifier.
    #[error(
        "{path}: the weights are those of an image classifier, which reads no texts; pretrain_path={path} begins with its encoder",
        path = path.display()
    )]
    ImageClassifier {
        /// The file.
        path: PathBuf,
    },
    /// A run is continued from a checkpoint of the other kind of model.
    #[error(
        "{path}: the checkpoint is that of {}",
        if *is_classifier { "an image classifier" } else { "a vision-language model" },
        path = path.display()
    )]
    OtherModelKind {
        /// The checkpoint.
        path: PathBuf,
        /// Whether the model of the checkpoint is an image classifier.
        is_classifier: bool,
    },
    /// The weights were trained with another vocabulary than that of the run.
    #[error(
        "{path}: its weights were trained with another vocabulary than that of tokenizer={tokenizer:?}: {difference}; set tokenizer to the \
         vocabulary of the weights, or load_partial=True to load them all the same",
        path = path.display()
    )]
    OtherVocabulary {
        /// The weight file.
        path: PathBuf,
        /// The tokenizer of the run.
        tokenizer: String,
        /// The first difference; "there" is the weight file, "here" the run.
        difference: VocabularyDifference,
    },
    /// A resumed run has another vocabulary than its checkpoint.
    #[error(
        "{path}: the run began with another vocabulary than that of tokenizer={tokenizer:?}: {difference}; set tokenizer to the vocabulary \
         that the run began with, or start a new run",
        path = path.display()
    )]
    VocabularyChanged {
        /// The checkpoint.
        path: PathBuf,
        /// The tokenizer of the run.
        tokenizer: String,
        /// The first difference; "there" is the checkpoint, "here" the run.
        difference: VocabularyDifference,
    },
    /// A directory of classes has no validation images.
    #[error(
        "{path}: there are no validation images; add val/CLASS beside train/CLASS",
        path = path.display()
    )]
    NoValidationImages {
        /// The directory.
        path: PathBuf,
    },
    /// The training split of the datasets is empty.
    #[error("the training split of datasets={datasets:?} is empty")]
    EmptyTraining {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The datasets have no test split.
    #[error(
        "datasets={datasets:?} has no test split: use datasets with one, such as coco, f30k, vqa, nlvr2 or a custom dataset"
    )]
    NoTestSplit {
        /// The datasets as configured.
        datasets: Vec<String>,
    },
    /// The tensors of a weight file do not fit the model.
    #[error("{path}: {source}{hint}", path = path.display())]
    WeightsMismatch {
        /// The weight file.
        path: PathBuf,
        /// The cause.
        source: AdaptError,
        /// A clause about the keys that load the file; may be empty.
        hint: &'static str,
    },
    /// The model of a checkpoint has another number of parameter tensors than the model of this configuration.
    #[error("{path}: the checkpoint has {found} parameter tensors, the model of this configuration has {expected}", path = path.display())]
    OtherModel {
        /// The checkpoint.
        path: PathBuf,
        /// Number of parameter tensors of the checkpoint.
        found: usize,
        /// Number of parameter tensors of the model.
        expected: usize,
    },
    /// The state in a checkpoint is not that of a training run.
    #[error("{path}: not the state of a training run: {source}", path = path.display())]
    NotATrainingRun {
        /// The checkpoint.
        path: PathBuf,
        /// The cause: a field is missing or has another type.
        source: serde_json::Error,
    },
    /// A weight file has no optimiser state, so that training cannot continue from it.
    #[error(
        "{path}: the file has weights but no state of the optimiser, so a run cannot continue from it: start a new run with \
         load_path={path}, or resume from a run directory",
        path = path.display()
    )]
    NotResumable {
        /// The weight file.
        path: PathBuf,
    },
    /// Weights of a checkpoint are NaN or infinite.
    #[error("{path}: weights {name} are NaN or infinite: resume from another checkpoint of the run", path = path.display())]
    NonFiniteCheckpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Name of the first parameter.
        name: String,
    },
    /// The state of the run cannot be written as JSON.
    #[error("the state of the run cannot be written: {0}")]
    StateNotWritten(serde_json::Error),
    /// A checkpoint has averages instead of the weights that the optimiser updates, so it cannot be resumed.
    #[error(
        "{path}: the checkpoint has averaged weights (ema_evaluation=True), from which training cannot continue: resume from the last \
         checkpoint, or start a new run with load_path",
        path = path.display()
    )]
    AveragedWeights {
        /// The checkpoint.
        path: PathBuf,
    },
    /// A file has no averaged weights.
    #[error(
        "load_path={path}: the file has no averaged weights, which runs with ema_decay save; omit load_ema",
        path = path.display()
    )]
    NoAverages {
        /// The weight file.
        path: PathBuf,
    },
    /// There is no checkpoint to resume from.
    #[error(
        "resume_from={resume_from}: there is no checkpoint; give a run directory (…/version_0) or its last/{file}",
        file = checkpoint::FILE_NAME
    )]
    NoCheckpoint {
        /// The value of `resume_from`.
        resume_from: String,
    },
    /// The resumed run had micro-batches of another size, and its position in the data is counted in micro-batches.
    #[error(
        "per_gpu_batchsize was {before} when the run began and is {now} now: resume with {before}, or start a new run from the \
         weights with load_path"
    )]
    OtherMicroBatchSize {
        /// The value when the run began.
        before: u64,
        /// The value in this configuration.
        now: u64,
    },
    /// Another process holds the lock of the run directory.
    #[error(
        "{path}: another process trains in this run directory; wait until that process ends, or stop it",
        path = path.display()
    )]
    RunInUse {
        /// The run directory.
        path: PathBuf,
    },
    /// The micro-batches of a run do not fit into the memory of a GPU.
    #[error(
        "out of memory: micro-batches of {micro_batch} samples need {} MiB more on {device}, which has {} of {} MiB left; {}",
        mebibytes(.requested), mebibytes(.free), mebibytes(.total), advice(.fits)
    )]
    DeviceMemory {
        /// Model and name of the device.
        device: String,
        /// Samples of a micro-batch.
        micro_batch: u64,
        /// Bytes that were requested.
        requested: usize,
        /// Bytes that no program uses.
        free: usize,
        /// Bytes of the device.
        total: usize,
        /// The number of samples that fit, if it was found out.
        fits: Option<u64>,
    },
    /// An error of the communication between ranks, or of another rank.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A rank begins the run in another way than rank 0.
    #[error("rank {rank} has other {what} than rank 0: start all ranks with the same settings, data and checkpoints")]
    OtherRank {
        /// The rank.
        rank: usize,
        /// What differs.
        what: &'static str,
    },
    /// The compute threads cannot be started.
    #[error("{0}")]
    Threads(String),
}

impl From<TaskError> for TrainError {
    fn from(error: TaskError) -> Self {
        match error {
            TaskError::Data(error) => Self::Data(error),
            TaskError::Collective(error) => Self::Collective(error),
            other => Self::Task(other),
        }
    }
}

fn mebibytes(bytes: &usize) -> usize {
    bytes.div_ceil(1 << 20)
}

fn advice(fits: &Option<u64>) -> String {
    let samples = match fits {
        Some(fits) => format!("micro-batches of {fits} fit"),
        None => "use smaller micro-batches or images".to_owned(),
    };
    format!(
        "{samples} (per_gpu_batchsize; batch_size and accum_iter of image classifiers), and activation_recompute=True needs less"
    )
}

/// Result with a [`TrainError`].
pub type Result<T> = std::result::Result<T, TrainError>;
