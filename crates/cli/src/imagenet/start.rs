//! What a command begins with: its settings, with those of a continued run and of the weights, and its images.

use std::path::{Path, PathBuf};

use log::{info, warn};
use vlct_classes::ClassSplits;
use vlct_model::sizes::Assumption;
use vlct_train::TrainError;
use vlct_train::imagenet::{RunSettings, Settings, WeightFacts};
use vlct_train::trainer;
use vlct_util::text::counted;

use super::Imagenet;
use crate::hints::with_hint;
use crate::output::{Failure, format_bytes};
use crate::ranks::Place;
use crate::shell::shell_word;

/// Widths of the encoders of the published models, whose numbers of heads follow from their widths.
const PUBLISHED_WIDTHS: [usize; 3] = [768, 1024, 1280];
/// Number of images with which a model of a published width is trained from random weights without a warning.
const MANY_IMAGES: usize = 100_000;
/// Product of the number of steps and the learning rate below which LARS changes the head of a probe too little: a step changes its norm
/// by a thousandth of the rate.
const LARS_PROGRESS: f64 = 300.0;
/// The product that gives a small data set enough progress.
const LARS_ENOUGH: f64 = 900.0;

/// Settings and images of a command.
pub(super) struct Start {
    pub settings: Settings,
    pub splits: ClassSplits,
    /// The directory of the run that is continued.
    pub resumed: Option<PathBuf>,
}

impl Start {
    /// Finds the settings and lists the images.
    pub fn new(args: &Imagenet, place: &Place, is_given: &dyn Fn(&str) -> bool) -> Result<Self, Failure> {
        check_paths(args)?;
        let (mut settings, saved, resumed) = settings(args, is_given)?;
        settings.continue_on(place.ranks() as u64, resumed.is_none() || is_given("accum_iter"));
        if let Some(device) = place.device() {
            settings.device = device;
        }
        if args.linear_probe && is_given("layer_decay") {
            return Err(Failure::Usage(
                "--layer_decay has no effect with --linear_probe, which trains the head alone: leave it out".into(),
            ));
        }
        if args.resume.is_some() && args.finetune.is_some() {
            warn!("--finetune has no effect with --resume, whose weights are used");
        }
        if let Some(weights) = args.weights() {
            // A continued run has its model in its settings.
            let takes_sizes = args.model.is_none();
            let facts = settings.use_weights(&weights, takes_sizes)?;
            use_facts(args, &mut settings, &facts, &weights)?;
        }
        for warning in settings.warnings().iter().filter(|_| !args.eval && args.knn.is_none()) {
            warn!("{warning}");
        }
        let splits = ClassSplits::open(&settings.data_path, &settings.rules())?;
        check_splits(args, &settings, &splits)?;
        warn_of_held_out(args, &settings, &splits, saved.as_ref());
        Ok(Self {
            settings,
            splits,
            resumed,
        })
    }
}

/// Returns an error for a path that is an address, or for a directory that is a file.
fn check_paths(args: &Imagenet) -> Result<(), Failure> {
    let finetune = args.finetune.as_ref().map(|path| path.to_string_lossy().into_owned());
    for path in [args.resume.clone(), finetune].into_iter().flatten() {
        if path.starts_with("http://") || path.starts_with("https://") {
            return Err(Failure::Failed(format!(
                "{path}: download the file first; a path is needed"
            )));
        }
    }
    if let Some(from) = args.resume.as_ref().filter(|from| !Path::new(from).exists()) {
        return Err(Failure::Failed(format!(
            "--resume {from}: it does not exist; give a run directory or a file checkpoint-EPOCH.pth"
        )));
    }
    args.output_dir.as_deref().map_or(Ok(()), check_directory)
}

/// Returns an error if `out` is a file.
pub(super) fn check_directory(out: &Path) -> Result<(), Failure> {
    match out.is_file() {
        true => Err(Failure::Failed(format!(
            "{}: it is a file; --output_dir takes a directory",
            out.display()
        ))),
        false => Ok(()),
    }
}

/// Returns the settings, those of the run that the weights are from, and the directory of the run that is continued.
fn settings(
    args: &Imagenet,
    is_given: &dyn Fn(&str) -> bool,
) -> Result<(Settings, Option<Settings>, Option<PathBuf>), Failure> {
    let given = args.settings();
    let run = args.weights().and_then(|path| trainer::run_of(&path));
    let saved = match run.as_deref().map(RunSettings::read).transpose()? {
        Some(RunSettings::Classifier(saved)) => Some(*saved),
        _ => None,
    };
    if args.resume.is_none() {
        return Ok((given, saved, None));
    }
    let is_given = |name: &str| match name {
        "global_pool" => is_given("global_pool") || is_given("cls_token"),
        name => is_given(name),
    };
    let settings = match &saved {
        // A probe and fine-tuning have other defaults.
        Some(saved) if saved.linear_probe || !given.linear_probe => given.continuing(saved, is_given)?,
        _ if args.data_path.is_none() => {
            return Err(Failure::Usage(
                "the run to continue does not say where its images are: give --data_path DIR".into(),
            ));
        }
        _ => given,
    };
    Ok((settings, saved, run))
}

/// Uses what the weights say about the images and the head where no flag does.
fn use_facts(args: &Imagenet, settings: &mut Settings, facts: &WeightFacts, path: &Path) -> Result<(), Failure> {
    let is_frozen = args.eval || args.knn.is_some() || args.linear_probe;
    if let Some(size) = facts.image_size.filter(|_| is_frozen && args.input_size.is_none()) {
        if size != settings.input_size {
            info!("images of {size} x {size} pixels, as in the weights");
        }
        settings.input_size = size;
    }
    let chooses_pool = args.global_pool || args.cls_token;
    if let Some(global_pool) = facts.global_pool.filter(|_| is_frozen && !chooses_pool) {
        settings.global_pool = global_pool;
    }
    if args.eval && facts.linear_probe && !settings.linear_probe {
        settings.become_probe();
    }
    if let Some(assumption) = facts.assumption {
        let Assumption { heads, width, .. } = assumption;
        if args.eval && !PUBLISHED_WIDTHS.contains(&width) {
            return Err(Failure::Failed(format!(
                "{}: the file does not state the number of attention heads, and its width {width} is that of no published model; give it \
                 with --heads",
                path.display()
            )));
        }
        warn!(
            "{}: {assumption}; if it is another, give it with --heads {heads}",
            path.display()
        );
    }
    Ok(())
}

/// Checks the number of classes, and that there are images to train on.
fn check_splits(args: &Imagenet, settings: &Settings, splits: &ClassSplits) -> Result<(), Failure> {
    let data_path = settings.data_path.display();
    let classes = splits.train.class_names().len();
    if let Some(expected) = args.nb_classes
        && expected != classes
    {
        return Err(Failure::Failed(format!(
            "{data_path}: it has {classes} classes, not the {expected} of --nb_classes; leave the option out to use those of the images"
        )));
    }
    let images = vlct_data::datasets::Dataset::len(&splits.train);
    if !args.eval && images == 0 {
        return Err(Failure::Failed(format!(
            "{data_path}: no training images are left: --val_fraction {} holds all of them out",
            settings.val_fraction
        )));
    }
    if !args.eval && args.knn.is_none() && settings.samples_per_step() > images as u64 {
        return Err(Failure::Failed(format!(
            "{data_path}: there are {} for training, fewer than the {} of an optimiser step (--batch_size {} times --accum_iter {}{}): give \
             a smaller --batch_size",
            counted(images, "image"),
            settings.samples_per_step(),
            settings.batch_size,
            settings.accum_iter,
            match settings.ranks {
                1 => String::new(),
                ranks => format!(" times {ranks} ranks"),
            }
        )));
    }
    Ok(())
}

/// Warns if the fraction that is held out has no effect, or differs from that of the run of the evaluated weights.
fn warn_of_held_out(args: &Imagenet, settings: &Settings, splits: &ClassSplits, saved: Option<&Settings>) {
    if !splits.is_held_out {
        if args.val_fraction > 0.0 {
            warn!("--val_fraction has no effect, because there are validation images");
        }
        return;
    }
    let Some(saved) = saved.filter(|_| args.eval) else {
        return;
    };
    let is_same = |a: &Path, b: &Path| a.canonicalize().ok().is_some_and(|a| Some(a) == b.canonicalize().ok());
    if is_same(&saved.data_path, &settings.data_path) && saved.val_fraction != settings.val_fraction {
        warn!(
            "the weights were trained with --val_fraction {}: with {}, images that they were trained on are evaluated, too",
            saved.val_fraction, settings.val_fraction
        );
    }
}

/// Returns the directory of a training run.
///
/// # Errors
/// Returns an error if a run is to be continued in another directory than its own.
pub(super) fn output_directory(args: &Imagenet, resumed: Option<&Path>) -> Result<PathBuf, Failure> {
    let given = args.output_dir.clone();
    let default = || PathBuf::from(super::DEFAULT_OUTPUT);
    let Some((run, from)) = resumed.zip(args.resume.as_deref()) else {
        return Ok(given.unwrap_or_else(default));
    };
    // The file of an epoch begins a run in any directory.
    if Path::new(from).extension().is_some_and(|extension| extension == "pth") {
        return Ok(given.unwrap_or_else(default));
    }
    let is_run = |out: &Path| out.canonicalize().ok() == run.canonicalize().ok();
    match given {
        Some(out) if !is_run(&out) => Err(Failure::Failed(format!(
            "{}: a run continues in its own directory, not in {}: leave out --output_dir, or begin a run there from an epoch, with --resume \
             {}/checkpoint-EPOCH.pth",
            run.display(),
            out.display(),
            shell_word(run.display())
        ))),
        _ => Ok(run.to_path_buf()),
    }
}

/// Warns of runs that will not end well: a large model from random weights, too few steps of a probe, checkpoints that fill the disk.
pub(super) fn check_training(
    settings: &Settings,
    splits: &ClassSplits,
    out: &Path,
    is_resumed: bool,
) -> Result<(), Failure> {
    let images = vlct_data::datasets::Dataset::len(&splits.train);
    let classes = splits.train.class_names().len();
    let (width, parameters) = settings.model_size(classes)?;
    if !is_resumed && settings.finetune.is_none() && PUBLISHED_WIDTHS.contains(&width) && images < MANY_IMAGES {
        warn!(
            "a model of width {width} with {parameters} values starts from random weights, and {} are few for it: begin with trained \
             weights (--finetune FILE), or with a small model such as --width 128 --depth 4 --heads 4",
            counted(images, "image")
        );
    }
    let steps = (images as u64 / settings.samples_per_step().max(1)) * settings.epochs;
    if settings.linear_probe && (steps as f64) * settings.learning_rate() < LARS_PROGRESS {
        warn!(
            "the probe takes {}, too few for the learning rate {:.2e}, which suits ImageNet: give --lr {:.2}, a smaller --batch_size or \
             more --epochs",
            counted(steps, "step"),
            settings.learning_rate(),
            LARS_ENOUGH / steps.max(1) as f64
        );
    }
    let needed = space_of_checkpoints(settings, parameters as u64);
    if let Some(free) = trainer::free_space(out).filter(|free| *free < needed) {
        let hint = match settings.keep {
            Some(1) => "",
            _ => ": --keep 1 keeps the file of the last epoch only",
        };
        warn!(
            "the checkpoints of this run need about {}, but {} are free in {}{hint}",
            format_bytes(needed),
            format_bytes(free),
            out.display()
        );
    }
    Ok(())
}

/// Returns the bytes of the checkpoints of a run: those of its epochs, the best, the last, and one that is being written.
fn space_of_checkpoints(settings: &Settings, parameters: u64) -> u64 {
    // Weights and both moments, in single precision.
    let file = parameters.saturating_mul(12);
    let epochs = settings.epochs.saturating_sub(settings.start_epoch);
    let files = settings.keep.unwrap_or(epochs).min(epochs).saturating_add(3);
    files.saturating_mul(file)
}

/// Returns the failure of a run. If the last checkpoint of a continued run is damaged, it says from which file the run can continue.
pub(super) fn failure(error: &TrainError, from: Option<&str>, run: Option<&Path>) -> Failure {
    // The libraries name the keys of `vlct run`.
    let message = match error {
        TrainError::NotResumable { path } => format!(
            "{0}: it has weights but no state of an optimiser, so a run cannot continue from it: begin a new run with --finetune {1}",
            path.display(),
            shell_word(path.display())
        ),
        TrainError::NoCheckpoint { resume_from } => format!(
            "--resume {resume_from}: there is no checkpoint; give a run directory or a file checkpoint-EPOCH.pth"
        ),
        TrainError::AveragedWeights { path } => format!(
            "{}: it has averaged weights, from which training cannot continue: give the run directory, or begin a new run with --finetune",
            path.display()
        ),
        error => with_hint(error),
    };
    let is_checkpoint = matches!(error, TrainError::Checkpoint(_) | TrainError::Weights(_));
    let (Some(run), Some(from), true) = (run, from, is_checkpoint) else {
        return Failure::Failed(message);
    };
    let epoch = |entry: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
        let name = entry.ok()?.file_name().into_string().ok()?;
        name.strip_prefix("checkpoint-")?.strip_suffix(".pth")?.parse().ok()
    };
    let epochs = std::fs::read_dir(run).into_iter().flatten().filter_map(epoch);
    let last = epochs.max().map(|epoch| run.join(format!("checkpoint-{epoch}.pth")));
    match last.filter(|last| last != Path::new(from)) {
        Some(last) => Failure::Failed(format!(
            "{message}; continue from its last epoch with --resume {0} --output_dir {1}",
            shell_word(last.display()),
            shell_word(run.display())
        )),
        None => Failure::Failed(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_space_of_checkpoints_is_that_of_the_epochs_that_are_kept() {
        let mut settings = super::super::default_settings().unwrap();
        settings.epochs = 50;
        assert_eq!(space_of_checkpoints(&settings, 1000), 53 * 12_000);
        settings.keep = Some(2);
        assert_eq!(space_of_checkpoints(&settings, 1000), 5 * 12_000);
        settings.keep = Some(u64::MAX);
        assert_eq!(space_of_checkpoints(&settings, u64::MAX), u64::MAX);
    }
}
