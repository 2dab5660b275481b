//! `vlct quickstart`: generates images, pre-trains, evaluates and writes a report.

use log::info;
use vlct_report::quickstart::{self, QuickstartError, QuickstartOptions};

use crate::args::Quickstart;
use crate::output::{Failure, print};
use crate::signals::Signals;

/// Runs the quickstart.
pub fn run(args: &Quickstart) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    let options = QuickstartOptions {
        out: args.out.clone(),
        minutes: args.minutes,
        updates: args.updates.clone(),
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
    for command in &result.commands {
        print(&format!("  {command}\n"))?;
    }
    signals.check()
}
