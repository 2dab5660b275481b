//! Evaluation of weights: accuracies, mistakes, nearest neighbours.

use std::fmt::Write;

use log::{info, warn};
use vlct_classes::ClassSplits;
use vlct_tasks::confusion::Confusion;
use vlct_tasks::neighbours::NeighbourAccuracy;
use vlct_tasks::predictions::{self, PREDICTIONS_FILE};
use vlct_tasks::{Row, Rows};
use vlct_train::spec::RunSpec;
use vlct_train::trainer::Control;
use vlct_train::trainer::classifiers::{self, Evaluation};
use vlct_util::text::{counted, escape_control};
use vlct_util::{IoError, at};

use super::Imagenet;
use super::start::check_directory;
use crate::hints::with_hint;
use crate::output::{Failure, print};
use crate::ranks::Place;
use crate::signals::Signals;

/// Number of classes, and of mistakes, that are listed.
const LISTED: usize = 5;

/// Evaluates weights on the validation images, prints the accuracies as the script does, the worst classes and the most frequent mistakes,
/// and writes the predictions if `--output_dir` is given.
///
/// # Errors
/// Returns the errors of [`classifiers::evaluate`], and an error if images could not be read, after everything else.
pub(super) fn evaluate(
    args: &Imagenet,
    mut spec: RunSpec,
    splits: ClassSplits,
    place: Place,
    signals: &Signals,
) -> Result<(), Failure> {
    let classes = splits.train.class_names().to_vec();
    spec.weights.load_path = args.weights();
    if spec.weights.load_path.is_none() {
        return Err(Failure::Usage("--eval needs weights: --finetune FILE".into()));
    }
    // A directory that cannot be created is an error before the evaluation, not after it.
    if let Some(out) = &args.output_dir {
        check_directory(out)?;
        std::fs::create_dir_all(out).map_err(at::<IoError>(out))?;
    }
    let ranks = place.join(signals)?;
    let is_first = ranks.is_first();
    let control = evaluation_control(signals, is_first);
    let result = classifiers::evaluate_rank(&spec, splits, &control, ranks.collectives());
    let evaluation = ranks.finish(result, |error| Failure::Failed(with_hint(error)))?;
    if let Some(Evaluation { report, data, rows }) = evaluation.filter(|_| is_first) {
        let value = |name: &str| {
            let metric = report.values.iter().find(|(key, _)| key == name);
            metric.map_or(f64::NAN, |(_, value)| *value)
        };
        print(&format!(
            "* Acc@1 {:.3} Acc@5 {:.3} loss {:.3}\n",
            100.0 * value("images/val/accuracy_epoch"),
            100.0 * value("images/val/top5_epoch"),
            value("images/val/loss_epoch")
        ))?;
        print(&describe_mistakes(&Confusion::of_rows(&classes, &rows)))?;
        if let Some(out) = &args.output_dir {
            predictions::write(out, &classes, &*data, &rows)?;
            info!("predictions: {}", out.join(PREDICTIONS_FILE).display());
        }
        check_readable(&rows)?;
    }
    signals.check()
}

/// Returns the control of an evaluation, which writes no run directory.
fn evaluation_control(signals: &Signals, progress: bool) -> Control<'_> {
    Control {
        stop: signals.stop_flag(),
        progress,
        run_directory: None,
        device: None,
    }
}

/// Prints the accuracy of nearest neighbours on the features of the given weights.
pub(super) fn neighbours(
    args: &Imagenet,
    spec: &RunSpec,
    splits: ClassSplits,
    ks: &[usize],
    signals: &Signals,
) -> Result<(), Failure> {
    if args.output_dir.is_some() {
        warn!("--output_dir has no effect with --knn, which writes no files");
    }
    if args.finetune.is_none() {
        warn!("the encoder has random weights: --finetune FILE loads weights");
    }
    let control = evaluation_control(signals, true);
    if let Some(accuracies) = classifiers::neighbours(spec, splits, ks, &control)? {
        let mut text = String::new();
        for NeighbourAccuracy { k, accuracy, top5 } in accuracies {
            let _ = writeln!(text, "* k {k} Acc@1 {:.3} Acc@5 {:.3}", 100.0 * accuracy, 100.0 * top5);
        }
        print(&text)?;
    }
    signals.check()
}

/// Lists the classes of the lowest accuracies and the most frequent mistakes; empty if there are no mistakes.
fn describe_mistakes(confusion: &Confusion) -> String {
    let mistakes = confusion.mistakes();
    if mistakes.is_empty() {
        return String::new();
    }
    let name = |class| escape_control(confusion.name(class));
    let mut text = String::from("worst classes:\n");
    for class in confusion.worst_classes().iter().take(LISTED) {
        let accuracy = 100.0 * class.accuracy();
        let images = counted(class.images, "image");
        let _ = writeln!(text, "  {}: {accuracy:.2} % of {images}", name(class.class));
    }
    text.push_str("most frequent mistakes:\n");
    for mistake in mistakes.iter().take(LISTED) {
        let images = counted(mistake.images, "image");
        let (class, predicted) = (name(mistake.class), name(mistake.predicted));
        let _ = writeln!(text, "  {images} of {class} as {predicted}");
    }
    text
}

/// Returns an error if images could not be read.
fn check_readable(rows: &Rows) -> Result<(), Failure> {
    let mut reasons = rows.values().filter_map(|row| match row {
        Row::Unreadable { reason, .. } => Some(reason),
        _ => None,
    });
    let Some(first) = reasons.next() else { return Ok(()) };
    let count = 1 + reasons.count();
    let (images, are) = (counted(count, "image"), if count == 1 { "is" } else { "are" });
    Err(Failure::Failed(format!(
        "{images} could not be read and {are} not part of the accuracies: {first}"
    )))
}
