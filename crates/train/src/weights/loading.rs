//! Loading of weight files into a model.

use std::path::Path;

use log::{info, warn};
use vlct_data::random::{Purpose, stream};
use vlct_model::files::mapping::{AdaptError, is_of_decoder};
use vlct_model::files::{self, LoadReport, Options, Scope, Style, WeightIndex};
use vlct_model::initialise::initialise_new_head;
use vlct_model::{Model, ModelConfig};
use vlct_tasks::description::{VocabularyDifference, WeightsKind};
use vlct_tasks::{Description, TaskSpec};
use vlct_text::Tokenizer;
use vlct_util::text::counted;

use crate::agreement;
use crate::error::{Result, TrainError};
use crate::imagenet::classes::{self, Relation};
use crate::spec::RunSpec;
use crate::vocabulary;

/// Loads the weight files of a run and logs which tensors match. Returns the report of `load_path`; `None` without it.
pub(crate) fn load_and_log(model: &mut Model, spec: &RunSpec) -> Result<Option<LoadReport>> {
    let weights = &spec.weights;
    let trains_decoder = matches!(&spec.task, TaskSpec::Pretrain(task) if task.mae.is_some());
    let options = |scope| Options {
        scope,
        skip_heads: weights.skip_heads,
        without_decoder: !trains_decoder,
        // A test checks that every tensor is loaded.
        partial: weights.partial || spec.test_only,
    };
    if let Some(path) = &weights.pretrain_path {
        let report = load(
            model,
            path,
            options(Scope::Backbone),
            Kind::Weights,
            Expected::default(),
        )?;
        info!("weights of {}: {report}", path.display());
        if trains_decoder && weights.load_path.is_none() && report.missing.iter().any(|name| is_of_decoder(name)) {
            warn!(
                "{} does not have the whole decoder, so masked autoencoding starts with a random one",
                path.display()
            );
        }
    }
    let mut loaded = None;
    if let Some(path) = &weights.load_path {
        let (kind, name) = match weights.averages {
            true => (Kind::Averages, "averaged weights"),
            false => (Kind::Weights, "weights"),
        };
        // A run without its vocabulary file uses the vocabulary of the weights; a classifier of images has none.
        let tokenizer = Some(spec.data.tokenizer.as_str())
            .filter(|name| !(weights.partial || vocabulary::is_gone(name)))
            .filter(|_| spec.data.classes.is_none());
        let relation = relation_of_classes(path, spec)?;
        let options = Options {
            skip_heads: weights.skip_heads || relation == Relation::Other,
            ..options(Scope::Model)
        };
        let compared = Some(spec).filter(|_| matches!(model, Model::Vlc(_)) && !weights.partial);
        let report = load(
            model,
            path,
            options,
            kind,
            Expected {
                tokenizer,
                run: compared,
            },
        )?;
        info!("{name} of {}: {report}", path.display());
        if let Model::Vit(model) = model {
            check_encoder(path, &report)?;
            if let Relation::Reordered(order) = &relation
                && !report.missing.contains(&model.head_weight())
            {
                info!("the weights have the classes in another order: the rows of the head are ordered by name");
                classes::reorder(model, order);
            }
        }
        // The head of a classifier starts with small weights on a trained encoder.
        if let Model::Vit(model) = model
            && report.missing.contains(&model.head_weight())
        {
            initialise_new_head(model, &mut stream(spec.seed, Purpose::Initialisation, 1, 0));
        }
        loaded = Some(report);
    }
    Ok(loaded)
}

/// Compares the classes that a weight file names with those of a run's images. A file that names no classes counts as having the same.
///
/// # Errors
/// Returns [`TrainError::OtherClasses`] if the classes differ and the run only evaluates.
fn relation_of_classes(path: &Path, spec: &RunSpec) -> Result<Relation> {
    let TaskSpec::Images(images) = &spec.task else {
        return Ok(Relation::Same);
    };
    if spec.weights.skip_heads {
        return Ok(Relation::Same);
    }
    let Some(weights) = names_of_classes(&files::find(path)?)? else {
        return Ok(Relation::Same);
    };
    let relation = classes::compare(&weights, &images.names);
    if relation == Relation::Other {
        let difference = classes::difference(&weights, &images.names);
        if spec.test_only {
            return Err(TrainError::OtherClasses {
                path: path.to_path_buf(),
                difference,
            });
        }
        info!("{}: {difference}, so the head starts fresh", path.display());
    }
    Ok(relation)
}

/// Returns the names of the classes of an image classifier in a checkpoint of a run; `None` for other files.
pub(crate) fn names_of_classes(file: &Path) -> Result<Option<Vec<String>>> {
    Ok(match Description::of_file(file)?.map(|description| description.task) {
        Some(TaskSpec::Images(images)) => Some(images.names),
        _ => None,
    })
}

/// Checks that the whole encoder of an image classifier was loaded. The head, and the norm before it, may start fresh.
///
/// # Errors
/// Returns [`TrainError::IncompleteEncoder`] if a tensor is missing.
fn check_encoder(path: &Path, report: &LoadReport) -> Result<()> {
    let has_classifier_norm = report.unexpected.iter().any(|name| name.starts_with("fc_norm."));
    let may_lack = |name: &&String| {
        name.starts_with("head.") || name.starts_with("fc_norm.") || (name.starts_with("norm.") && has_classifier_norm)
    };
    let missing: Vec<&String> = report.missing.iter().filter(|name| !may_lack(name)).collect();
    match missing.first() {
        None => Ok(()),
        Some(name) => Err(TrainError::IncompleteEncoder {
            path: path.to_path_buf(),
            name: (*name).clone(),
            count: missing.len(),
        }),
    }
}

/// Loads a weight file, or the checkpoint of a run directory, into a model. Returns a report of the tensors that match, as text.
///
/// # Errors
/// Returns an error if the file cannot be read, it has fewer than nearly all tensors that the model needs, or a tensor has another shape
/// or values that are not finite.
pub fn load_file(model: &mut Model, path: &Path, scope: Scope, skip_heads: bool) -> Result<String> {
    let options = Options {
        scope,
        skip_heads,
        ..Options::default()
    };
    Ok(load(model, path, options, Kind::Weights, Expected::default())?.to_string())
}

/// The tensors of a file that are loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Weights,
    /// The moving averages of the weights, and the weights that have no average because they are frozen.
    Averages,
}

/// Compares the vocabulary of the weight file `path` with that of `tokenizer`. Returns a warning if they may differ.
///
/// # Errors
/// Returns [`TrainError::OtherVocabulary`] if the file says that its weights were trained with another vocabulary,
/// [`TrainError::ImageClassifier`] if they are those of an image classifier, and [`TrainError::VocabularyOfWeights`] if a file without
/// vocabulary has fewer word embeddings than `tokenizer` has tokens.
pub fn compare_vocabularies(path: &Path, index: &WeightIndex, tokenizer: &str) -> Result<Option<String>> {
    let ours = Tokenizer::named(tokenizer)?;
    let description = Description::of(path, index)?;
    let is_classifier = description
        .as_ref()
        .is_some_and(|description| matches!(description.model, ModelConfig::Vit(_)));
    let inputs = match description {
        Some(description) => Some(description.inputs),
        None => vocabulary::beside(path, index)?,
    };
    let Some(inputs) = inputs else {
        vocabulary::check_word_embeddings(path, index, tokenizer, ours.len())?;
        let is_published = ours
            .vocabulary()
            .iter()
            .eq(Tokenizer::bert_base_uncased().vocabulary().iter());
        return Ok((!is_published).then(|| {
            let rows = match vocabulary::word_embeddings(index) {
                Some(rows) => format!(" of {}", counted(rows, "word embedding")),
                None => String::new(),
            };
            format!(
                "{} does not contain its vocabulary{rows}: its weights suit tokenizer={tokenizer:?} with {} only if they were trained with it",
                path.display(),
                counted(ours.len(), "token")
            )
        }));
    };
    if is_classifier {
        return Err(TrainError::ImageClassifier {
            path: path.to_path_buf(),
        });
    }
    match inputs.unsuitable_difference(&ours) {
        None => Ok(None),
        Some(VocabularyDifference::Case { lower_case }) => Ok(Some(format!(
            "the weights of {} were trained with {} text, which tokenizer={tokenizer:?} does not give",
            path.display(),
            if lower_case { "lower-case" } else { "cased" }
        ))),
        Some(difference) => Err(TrainError::OtherVocabulary {
            path: path.to_path_buf(),
            tokenizer: tokenizer.into(),
            difference,
        }),
    }
}

/// What weights are compared with before they are loaded.
#[derive(Clone, Copy, Default)]
struct Expected<'a> {
    /// The tokenizer, of whose vocabulary they must be.
    tokenizer: Option<&'a str>,
    /// The run, of whose images and layer norms they must be.
    run: Option<&'a RunSpec>,
}

/// Loads a weight file into a model.
fn load(model: &mut Model, path: &Path, options: Options, kind: Kind, expected: Expected) -> Result<LoadReport> {
    let files = files::map(path)?;
    let mut index = files::index(&files)?;
    if let Some(run) = expected.run {
        agreement::check(files.path(), &index, run)?;
    }
    if let Some(tokenizer) = expected.tokenizer
        && let Some(warning) = compare_vocabularies(files.path(), &index, tokenizer)?
    {
        warn!("{warning}");
    }
    if kind == Kind::Averages {
        index = averages(index, files.path())?;
    }
    let (is_backbone, is_classifier) = (index.style == Style::Mae, matches!(model, Model::Vit(_)));
    model
        .load(&index, options)
        .map_err(|source| TrainError::WeightsMismatch {
            hint: match (&source, options.scope) {
                _ if is_classifier => "",
                (AdaptError::Incomplete { .. }, Scope::Model) if is_backbone => {
                    "; pretrain_path loads the weights of an image backbone, and load_partial=True whatever there is"
                }
                (AdaptError::Incomplete { .. }, _) => {
                    "; load_partial=True loads what there is and starts the others at random"
                }
                _ => "",
            },
            path: files.path().to_path_buf(),
            source,
        })
}

/// Replaces the weights of a checkpoint by their averages. The weights of a best checkpoint can be averages themselves.
fn averages<'a>(index: WeightIndex<'a>, path: &Path) -> Result<WeightIndex<'a>> {
    let description = Description::of(path, &index)?;
    let are_averages = description.is_some_and(|description| description.weights == WeightsKind::Ema);
    if index.averages.is_empty() && !are_averages {
        return Err(TrainError::NoAverages {
            path: path.to_path_buf(),
        });
    }
    Ok(index.with_averages())
}

/// Loads a weight file of which every tensor of the model must be in the file.
///
/// # Errors
/// Returns the errors of [`load_file`], and [`TrainError::IncompleteWeights`] if a tensor is missing.
pub(super) fn load_whole(model: &mut Model, path: &Path) -> Result<()> {
    let report = load(model, path, Options::default(), Kind::Weights, Expected::default())?;
    match report.missing.first() {
        None => Ok(()),
        Some(name) => Err(TrainError::IncompleteWeights {
            path: path.to_path_buf(),
            name: name.clone(),
            count: report.missing.len(),
        }),
    }
}
