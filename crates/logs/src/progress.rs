//! Progress on standard error: a bar on a terminal, otherwise plain lines.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{FormattedDuration, HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Length of the moving window over which rates are averaged.
const WINDOW: Duration = Duration::from_secs(30);

/// Minimum time between two stored measurements.
const SAMPLING: Duration = Duration::from_millis(250);

/// Minimum time between plain lines. The time between lines is 1/60 of the time since the start, but at least this and at most
/// [`MAX_LINE_INTERVAL`].
const MIN_LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum time between plain lines.
const MAX_LINE_INTERVAL: Duration = Duration::from_secs(300);

/// The progress bars on the terminal. The last one is visible; the others are suspended.
static BARS: Mutex<Vec<ProgressBar>> = Mutex::new(Vec::new());

fn bars() -> MutexGuard<'static, Vec<ProgressBar>> {
    BARS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hides the progress bar, if one is visible, while `print` prints or shows another bar.
pub fn suspend<T>(print: impl FnOnce() -> T) -> T {
    let bar = bars().last().cloned();
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

/// The arguments of [`Progress::update`].
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// Number of completed steps.
    pub step: u64,
    /// Number of samples since the last call.
    pub samples: u64,
    /// Time spent waiting for data since the last call.
    pub waited: Duration,
    /// Short names (`mlm`, `mae`, …) and values of the losses.
    pub losses: &'a [(&'a str, f64)],
}

/// Shows the position, speed and remaining time of a loop.
pub struct Progress {
    unit: &'static str,
    content: Content,
    total: u64,
    meter: Meter,
    view: View,
}

/// What the display shows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Steps, samples, losses and the time spent waiting for data.
    Steps,
    /// A count of items.
    Items,
    /// A number of bytes.
    Bytes,
}

enum View {
    Bar(ProgressBar),
    Lines {
        out: Box<dyn Write + Send>,
        started: Instant,
        last_line: Option<Instant>,
    },
    Quiet,
}

impl Progress {
    /// Starts the display of a loop over `total` steps, `done` of them already completed. `unit` is the name of a step, such as
    /// `"step"` or `"batch"`. A display within another one must end first, and is shown while [`suspend`] hides the other one.
    pub fn new(unit: &'static str, total: u64, done: u64) -> Self {
        if !io::stderr().is_terminal() {
            return Self::lines(unit, total, done, Box::new(io::stderr()), Instant::now());
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
        // The template is valid, as a test checks.
        if let Ok(style) = ProgressStyle::with_template("{bar:20} {wide_msg}") {
            bar.set_style(style.progress_chars("━╸ "));
        }
        bar.set_position(done);
        bars().push(bar.clone());
        let meter = Meter::new(Instant::now(), done);
        Self {
            unit,
            content: Content::Steps,
            total,
            meter,
            view: View::Bar(bar),
        }
    }

    /// Starts the display of a count of `total` items, `done` of them already completed. `unit` is the name of an item, such as
    /// `"image"`.
    pub fn counting(unit: &'static str, total: u64, done: u64) -> Self {
        let mut progress = Self::new(unit, total, done);
        progress.content = Content::Items;
        progress
    }

    /// Starts the display of a number of bytes, `done` of `total` already there.
    pub fn bytes(total: u64, done: u64) -> Self {
        let mut progress = Self::new("byte", total, done);
        progress.content = Content::Bytes;
        progress
    }

    /// Sets the number of completed items or bytes, and refreshes the display if a refresh is due.
    pub fn reach(&mut self, done: u64) {
        self.update(Update {
            step: done,
            samples: 0,
            waited: Duration::ZERO,
            losses: &[],
        });
    }

    /// Makes a display that shows nothing.
    pub fn quiet() -> Self {
        Self {
            unit: "step",
            content: Content::Steps,
            total: 0,
            meter: Meter::new(Instant::now(), 0),
            view: View::Quiet,
        }
    }

    fn lines(unit: &'static str, total: u64, done: u64, out: Box<dyn Write + Send>, now: Instant) -> Self {
        let view = View::Lines {
            out,
            started: now,
            last_line: None,
        };
        Self {
            unit,
            content: Content::Steps,
            total,
            meter: Meter::new(now, done),
            view,
        }
    }

    /// Adds the progress since the last call, and refreshes the display if a refresh is due.
    pub fn update(&mut self, update: Update<'_>) {
        self.update_at(Instant::now(), update);
    }

    fn update_at(&mut self, now: Instant, update: Update<'_>) {
        self.meter.add(now, &update);
        let is_due = match &self.view {
            View::Bar(_) => true,
            View::Lines { started, last_line, .. } => {
                let interval = ((now - *started) / 60).clamp(MIN_LINE_INTERVAL, MAX_LINE_INTERVAL);
                update.step == self.total || last_line.is_none_or(|last| now - last >= interval)
            }
            View::Quiet => false,
        };
        if !is_due {
            return;
        }
        let line = self.line(&update);
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_position(update.step);
                bar.set_message(line);
            }
            View::Lines { out, last_line, .. } => {
                // If writing fails, for instance because standard error is closed, the run continues.
                let _ = writeln!(out, "{line}");
                *last_line = Some(now);
            }
            View::Quiet => {}
        }
    }

    fn line(&self, update: &Update<'_>) -> String {
        let mut parts = vec![match self.content {
            Content::Steps | Content::Items => format!("{} {}/{}", self.unit, update.step, self.total),
            Content::Bytes => format!("{} of {}", HumanBytes(update.step), HumanBytes(self.total)),
        }];
        if let Some(rates) = self.meter.rates() {
            parts.push(match self.content {
                Content::Steps => format!("{} samples/s", rate_text(rates.samples)),
                Content::Items => format!("{}/s", rate_text(rates.steps)),
                Content::Bytes => format!("{}/s", HumanBytes(rates.steps as u64)),
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
        if let Some(rates) = self.meter.rates().filter(|_| self.content == Content::Steps) {
            parts.push(format!("data wait {:.0} %", rates.waiting * 100.0));
        }
        parts.join("  ")
    }

    /// Excludes the time since the last call of [`Progress::update`] from the rates. Called after a validation.
    pub fn skip_pause(&mut self) {
        self.meter.restart(Instant::now());
    }

    /// Ends the display. The bar remains on the terminal in its last state.
    pub fn finish(&mut self) {
        if let View::Bar(bar) = &self.view
            && !bar.is_finished()
        {
            bar.abandon();
            bars().pop();
            // The cursor is at the end of the bar, so a newline separates later output from it.
            let _ = writeln!(io::stderr());
        }
    }
}

impl Drop for Progress {
    /// Ends the display, so that later output does not overwrite the bar.
    fn drop(&mut self) {
        self.finish();
    }
}

/// Rates over the last [`WINDOW`].
struct Rates {
    /// Samples per second.
    samples: f64,
    /// Steps per second.
    steps: f64,
    /// Fraction of the time spent waiting for data, 0 to 1.
    waiting: f64,
}

/// The totals of steps, samples and waiting at a point in time.
#[derive(Clone, Copy)]
struct Measurement {
    time: Instant,
    step: u64,
    samples: u64,
    waited: Duration,
}

/// Measures rates over a moving window, in bounded memory.
struct Meter {
    /// Measurements of the window and the last one before it, oldest first; never empty.
    measurements: VecDeque<Measurement>,
    latest: Measurement,
}

impl Meter {
    fn new(now: Instant, step: u64) -> Self {
        let latest = Measurement {
            time: now,
            step,
            samples: 0,
            waited: Duration::ZERO,
        };
        Self {
            measurements: VecDeque::from([latest]),
            latest,
        }
    }

    fn add(&mut self, now: Instant, update: &Update<'_>) {
        self.latest = Measurement {
            time: now,
            step: update.step,
            samples: self.latest.samples.saturating_add(update.samples),
            waited: self.latest.waited.saturating_add(update.waited),
        };
        if self
            .measurements
            .back()
            .is_none_or(|measurement| now - measurement.time >= SAMPLING)
        {
            self.measurements.push_back(self.latest);
        }
        // One measurement before the window is kept, so that there is a rate even if a step takes longer than the window.
        while self.measurements.len() > 1 && now - self.measurements[1].time >= WINDOW {
            self.measurements.pop_front();
        }
    }

    fn restart(&mut self, now: Instant) {
        self.latest.time = now;
        self.measurements = VecDeque::from([self.latest]);
    }

    fn rates(&self) -> Option<Rates> {
        let first = self.measurements.front()?;
        let seconds = (self.latest.time - first.time).as_secs_f64();
        (seconds > 0.0).then(|| Rates {
            samples: (self.latest.samples - first.samples) as f64 / seconds,
            steps: self.latest.step.saturating_sub(first.step) as f64 / seconds,
            waiting: ((self.latest.waited - first.waited).as_secs_f64() / seconds).min(1.0),
        })
    }
}

/// Formats a rate with at least three digits.
fn rate_text(value: f64) -> String {
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
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn prints_plain_lines_at_growing_intervals() {
        let out = SharedBuffer::default();
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
    fn bytes_have_units() {
        let start = Instant::now();
        let mut progress = Progress::lines("byte", 3 << 30, 0, Box::new(io::sink()), start);
        progress.content = Content::Bytes;
        let update = Update {
            step: 1 << 30,
            samples: 0,
            waited: Duration::ZERO,
            losses: &[],
        };
        progress.update_at(start + Duration::from_secs(10), update);
        assert_eq!(
            progress.line(&update),
            "1.00 GiB of 3.00 GiB  102.40 MiB/s  00:00:20 left"
        );
    }

    #[test]
    fn rates_are_means_over_the_window_or_the_last_step() {
        let start = Instant::now();
        let mut meter = Meter::new(start, 5);
        assert!(meter.rates().is_none());
        let add_step = |meter: &mut Meter, seconds: u64, step| {
            let update = Update {
                step,
                samples: 100,
                waited: Duration::ZERO,
                losses: &[],
            };
            meter.add(start + Duration::from_secs(seconds), &update);
            meter.rates().unwrap()
        };
        assert_eq!(add_step(&mut meter, 100, 6).samples, 1.0);
        assert_eq!(add_step(&mut meter, 150, 7).samples, 2.0);
        for second in 151..=200 {
            add_step(&mut meter, second, second - 143);
        }
        let rates = meter.rates().unwrap();
        assert_eq!((rates.samples, rates.steps), (100.0, 1.0));
        assert!(meter.measurements.len() < 40);
        meter.restart(start + Duration::from_secs(900));
        assert!(meter.rates().is_none());
        assert_eq!(add_step(&mut meter, 901, 58).samples, 100.0);
    }

    #[test]
    fn the_template_of_the_bar_is_valid() {
        assert!(ProgressStyle::with_template("{bar:20} {wide_msg}").is_ok());
    }
}
