//! Progress on standard error: a bar when a terminal watches, plain lines when none does.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Rates are means over this stretch of time.
const WINDOW: Duration = Duration::from_secs(30);

/// Time between two measurements kept for the rates.
const SAMPLING: Duration = Duration::from_millis(250);

/// Shortest and longest time between plain lines: often enough at the start, few in a run of days.
const LINE_INTERVAL: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// The bar that is on the terminal, if there is one.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

fn set_shown(bar: Option<ProgressBar>) {
    *SHOWN.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Runs something that prints, with the progress bar, if one is shown, out of its way.
pub fn suspend<T>(printing: impl FnOnce() -> T) -> T {
    let shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match shown {
        Some(bar) => bar.suspend(printing),
        None => printing(),
    }
}

/// What happened since the last update.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Steps done so far.
    pub step: u64,
    /// Samples gone through since the last update.
    pub samples: u64,
    /// Time spent waiting for data since the last update.
    pub waited: Duration,
    /// Losses worth seeing, by short names (`mlm`, `mae`, …).
    pub losses: &'a [(&'a str, f64)],
}

/// Shows how far a loop is, how fast it goes and when it will be done.
pub struct Progress {
    unit: &'static str,
    /// Whether only steps are shown, without samples and waiting.
    counting: bool,
    total: u64,
    meter: Meter,
    view: View,
}

enum View {
    Bar(ProgressBar),
    Lines {
        out: Box<dyn Write + Send>,
        started: Instant,
        last: Option<Instant>,
    },
    Quiet,
}

impl Progress {
    /// Progress of a loop over `total` steps, called `unit` (`"step"`, `"batch"`), of which `done` are done already.
    pub fn new(unit: &'static str, total: u64, done: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::lines(unit, total, done, Box::new(io::stderr()), Instant::now());
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
        // The template is a constant, and its test shows that it reads.
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_position(done);
        set_shown(Some(bar.clone()));
        let meter = Meter::new(Instant::now(), done);
        Self {
            unit,
            counting: false,
            total,
            meter,
            view: View::Bar(bar),
        }
    }

    /// Progress of work that consists of `total` things called `unit` (`"image"`), of which `done` are done already.
    pub fn counting(unit: &'static str, total: u64, done: u64) -> Self {
        let mut progress = Self::new(unit, total, done);
        progress.counting = true;
        progress
    }

    /// Takes note that `done` things are done, and shows it when it is time to.
    pub fn reach(&mut self, done: u64) {
        self.update(Update {
            step: done,
            samples: 0,
            waited: Duration::ZERO,
            losses: &[],
        });
    }

    /// Shows nothing.
    pub fn quiet() -> Self {
        Self {
            unit: "step",
            counting: false,
            total: 0,
            meter: Meter::new(Instant::now(), 0),
            view: View::Quiet,
        }
    }

    fn lines(unit: &'static str, total: u64, done: u64, out: Box<dyn Write + Send>, now: Instant) -> Self {
        let view = View::Lines {
            out,
            started: now,
            last: None,
        };
        Self {
            unit,
            counting: false,
            total,
            meter: Meter::new(now, done),
            view,
        }
    }

    /// Takes note of an update, and shows it when it is time to.
    pub fn update(&mut self, update: Update<'_>) {
        self.update_at(Instant::now(), update);
    }

    fn update_at(&mut self, now: Instant, update: Update<'_>) {
        self.meter.add(now, &update);
        let due = match &self.view {
            View::Bar(_) => true,
            View::Lines { started, last, .. } => {
                let interval = ((now - *started) / 60).clamp(LINE_INTERVAL.0, LINE_INTERVAL.1);
                update.step == self.total || last.is_none_or(|last| now - last >= interval)
            }
            View::Quiet => false,
        };
        if !due {
            return;
        }
        let line = self.line(&update);
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_position(update.step);
                bar.set_message(line);
            }
            View::Lines { out, last, .. } => {
                // Nothing can be done if standard error is closed.
                let _ = writeln!(out, "{line}");
                *last = Some(now);
            }
            View::Quiet => {}
        }
    }

    fn line(&self, update: &Update<'_>) -> String {
        let mut parts = vec![format!("{} {}/{}", self.unit, update.step, self.total)];
        if let Some(rates) = self.meter.rates() {
            parts.push(if self.counting {
                format!("{}/s", rate(rates.steps))
            } else {
                format!("{} samples/s", rate(rates.samples))
            });
            if rates.steps > 0.0 && update.step < self.total {
                let left = (self.total - update.step) as f64 / rates.steps;
                let left = Duration::try_from_secs_f64(left.round()).unwrap_or(Duration::MAX);
                parts.push(format!("{} left", FormattedDuration(left)));
            }
        }
        parts.extend(
            update
                .losses
                .iter()
                .map(|(name, loss)| format!("{name} {}", loss_text(*loss))),
        );
        if let Some(rates) = self.meter.rates().filter(|_| !self.counting) {
            parts.push(format!("data wait {:.0} %", rates.waiting * 100.0));
        }
        parts.join("  ")
    }

    /// Leaves the time since the last update out of the rates: to be called after a validation or a save.
    pub fn skip_pause(&mut self) {
        self.meter.restart(Instant::now());
    }

    /// Ends the display; the bar stays as it is.
    pub fn finish(&mut self) {
        if let View::Bar(bar) = &self.view
            && !bar.is_finished()
        {
            bar.abandon();
            set_shown(None);
            // The bar leaves the cursor at its end.
            let _ = writeln!(io::stderr());
        }
    }
}

impl Drop for Progress {
    /// So that an error printed next does not end up inside the bar.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Speeds over the last [`WINDOW`].
struct Rates {
    /// Samples per second.
    samples: f64,
    /// Steps per second.
    steps: f64,
    /// Share of the time spent waiting for data, 0 to 1.
    waiting: f64,
}

/// Running totals at some moment.
#[derive(Clone, Copy)]
struct Mark {
    time: Instant,
    step: u64,
    samples: u64,
    waited: Duration,
}

/// Measures speeds over a moving window, in bounded memory.
struct Meter {
    /// Oldest first; never empty.
    marks: VecDeque<Mark>,
    latest: Mark,
}

impl Meter {
    fn new(now: Instant, step: u64) -> Self {
        let latest = Mark {
            time: now,
            step,
            samples: 0,
            waited: Duration::ZERO,
        };
        Self {
            marks: VecDeque::from([latest]),
            latest,
        }
    }

    fn add(&mut self, now: Instant, update: &Update<'_>) {
        self.latest = Mark {
            time: now,
            step: update.step,
            samples: self.latest.samples.saturating_add(update.samples),
            waited: self.latest.waited.saturating_add(update.waited),
        };
        if self.marks.back().is_none_or(|mark| now - mark.time >= SAMPLING) {
            self.marks.push_back(self.latest);
        }
        // The oldest mark lies just before the window, or steps slower than the window would have no rate.
        while self.marks.len() > 1 && now - self.marks[1].time >= WINDOW {
            self.marks.pop_front();
        }
    }

    fn restart(&mut self, now: Instant) {
        self.latest.time = now;
        self.marks = VecDeque::from([self.latest]);
    }

    fn rates(&self) -> Option<Rates> {
        let first = self.marks.front()?;
        let seconds = (self.latest.time - first.time).as_secs_f64();
        (seconds > 0.0).then(|| Rates {
            samples: (self.latest.samples - first.samples) as f64 / seconds,
            steps: self.latest.step.saturating_sub(first.step) as f64 / seconds,
            waiting: ((self.latest.waited - first.waited).as_secs_f64() / seconds).min(1.0),
        })
    }
}

/// Three digits or more.
fn rate(value: f64) -> String {
    let decimals = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}")
}

fn loss_text(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.001 {
        format!("{value:.1e}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn prints_plain_lines_at_growing_intervals() {
        let out = Shared::default();
        let start = Instant::now();
        let mut progress = Progress::lines("step", 1000, 0, Box::new(out.clone()), start);
        for step in 1..=1000u64 {
            let losses = [("mlm", 2.0), ("mae", 0.0001)];
            let waited = Duration::from_millis(20);
            let now = start + Duration::from_millis(100 * step);
            progress.update_at(
                now,
                Update {
                    step,
                    samples: 8,
                    waited,
                    losses: &losses,
                },
            );
        }
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 11, "{text}");
        assert_eq!(
            lines[0],
            "step 1/1000  80.0 samples/s  00:01:40 left  mlm 2.000  mae 1.0e-4  data wait 20 %"
        );
        assert_eq!(
            lines[3],
            "step 301/1000  80.0 samples/s  00:01:10 left  mlm 2.000  mae 1.0e-4  data wait 20 %"
        );
        assert_eq!(
            lines[10],
            "step 1000/1000  80.0 samples/s  mlm 2.000  mae 1.0e-4  data wait 20 %"
        );
    }

    #[test]
    fn rates_follow_changes_and_slow_steps() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 5);
        assert!(meter.rates().is_none());
        let step = |meter: &mut Meter, seconds: u64, step| {
            let update = Update {
                step,
                samples: 100,
                waited: Duration::ZERO,
                losses: &[],
            };
            meter.add(start + Duration::from_secs(seconds), &update);
            meter.rates().unwrap()
        };
        assert_eq!(step(&mut meter, 100, 6).samples, 1.0);
        assert_eq!(step(&mut meter, 150, 7).samples, 2.0);
        for second in 151..=200 {
            step(&mut meter, second, second - 143);
        }
        let rates = meter.rates().unwrap();
        assert_eq!((rates.samples, rates.steps), (100.0, 1.0));
        assert!(meter.marks.len() < 40);
        meter.restart(start + Duration::from_secs(900));
        assert!(meter.rates().is_none());
        assert_eq!(step(&mut meter, 901, 58).samples, 100.0);
    }

    #[test]
    fn the_template_of_the_bar_is_valid() {
        assert!(ProgressStyle::with_template("{bar:20} {wide_msg}").is_ok());
    }
}
