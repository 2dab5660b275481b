//! `vlct quickstart`: generates images, pre-trains, evaluates and writes a report.

use log::info;
use vlct_report::quickstart::{self, QuickstartError, QuickstartOptions, Trial, TrialTask};

use crate::args::Quickstart;
use crate::output::{Failure, print};
use crate::references;
use crate::shell::shell_word;
use crate::signals::Signals;

/// Runs the quickstart.
pub fn run(args: &Quickstart) -> Result<(), Failure> {
    let mut updates = args.updates.clone();
    references::resolve_words(&mut updates)?;
    // Ctrl-C ends a download at once.
    let signals = Signals::listen()?;
    let options = QuickstartOptions {
        out: args.out.clone(),
        minutes: args.minutes,
        with_imagenet: args.with_imagenet,
        updates,
    };
    let result = match quickstart::run(&options, signals.stop_flag()) {
        Err(stopped @ QuickstartError::Stopped) => {
            info!("{stopped}");
            return signals.check();
        }
        Err(error) if quickstart::fixed_key(&options.updates).is_some() => {
            let hint = "`vlct run with quickstart …` accepts every key";
            return Err(Failure::Failed(format!("{error}; {hint}")));
        }
        result => result?,
    };
    for line in &result.metric_lines {
        print(&format!("{line}\n"))?;
    }
    print(&format!("report: {}\n", result.report.display()))?;
    print("Try the models on held-out images:\n")?;
    for trial in &result.trials {
        print(&format!("  {}\n", predict_command(trial)))?;
    }
    signals.check()
}

/// Returns the command that makes the prediction of a trial.
fn predict_command(trial: &Trial) -> String {
    let task = match trial.task {
        TrialTask::Answer => "vqa",
        TrialTask::Truth => "nlvr2",
        TrialTask::Label | TrialTask::Class => "classify",
        TrialTask::Fill => "fill",
    };
    // Labels can be predicted without a text, so it is an option.
    let text = match trial.task {
        TrialTask::Class => String::new(),
        TrialTask::Label => format!(" --text {:?}", trial.text),
        _ => format!(" {:?}", trial.text),
    };
    let images: Vec<String> = trial.images.iter().map(|path| shell_word(path.display())).collect();
    let (run, images) = (shell_word(trial.run.display()), images.join(" "));
    format!("vlct predict {task} --load {run} {images}{text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn commands_quote_the_text() {
        let trial = Trial {
            task: TrialTask::Truth,
            run: PathBuf::from("run-nlvr2"),
            images: ["a.png", "b.png"].map(PathBuf::from).into(),
            text: "both images show a star".into(),
        };
        let command = "vlct predict nlvr2 --load run-nlvr2 a.png b.png \"both images show a star\"";
        assert_eq!(predict_command(&trial), command);
    }
}
