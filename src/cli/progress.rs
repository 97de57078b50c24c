//! How far a run has come: bars on a terminal, plain lines everywhere else.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::error_line;
use super::printable::printable;
use crate::ops::{Clock, Progress};

/// Without a terminal a long step says so often that it still works.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// The clock of this host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostClock;

impl Clock for HostClock {
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// A bar with a rate.
    Bar,
    /// A line at the start and the end of each step.
    Lines,
    /// Warnings only.
    Warnings,
}

struct Step {
    name: String,
    started: Instant,
    said: Instant,
    bytes: u64,
    total_bytes: Option<u64>,
}

/// Progress on standard error.
pub(crate) struct TerminalProgress {
    show: Show,
    bar: Option<ProgressBar>,
    step: Mutex<Option<Step>>,
}

impl TerminalProgress {
    /// Returns progress that is shown this way.
    #[must_use]
    pub(crate) fn new(show: Show) -> Self {
        let bar = (show == Show::Bar).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self { show, bar, step: Mutex::new(None) }
    }

    /// Ends the last step.
    pub(crate) fn finish(&self) {
        let last = self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        self.end(last);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn end(&self, step: Option<Step>) {
        if let Some(step) = step
            && step.bytes > 0
            && self.show != Show::Warnings
        {
            self.line(&summary(&step));
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| error_line(text)),
            None => error_line(text),
        }
    }

    fn begin_bar(&self, name: &str, total_bytes: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        let template = match total_bytes {
            Some(_) => "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}",
            None => "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec} {elapsed}",
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the templates are constant"));
        match total_bytes {
            Some(total_bytes) => bar.set_length(total_bytes),
            None => bar.unset_length(),
        }
        bar.reset();
        bar.set_message(printable(name));
    }
}

impl Progress for TerminalProgress {
    fn step(&self, name: &str, total_bytes: Option<u64>) {
        let now = Instant::now();
        let next = Step { name: name.to_owned(), started: now, said: now, bytes: 0, total_bytes };
        let last = self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(next);
        self.end(last);
        if self.show == Show::Lines {
            error_line(name);
        }
        self.begin_bar(name, total_bytes);
    }

    fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        let mut step = self.step.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(step) = step.as_mut() else { return };
        step.bytes += bytes;
        if self.show == Show::Lines && step.said.elapsed() >= LINE_EVERY {
            step.said = Instant::now();
            let of = step.total_bytes.map(|total| format!(" of {}", size(total))).unwrap_or_default();
            error_line(&format!("{}{of}", summary(step)));
        }
    }

    fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }
}

fn summary(step: &Step) -> String {
    let elapsed = step.started.elapsed();
    let rate = u128::from(step.bytes) * 1000 / elapsed.as_millis().max(1);
    let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
    format!("{}: {} in {:.1} s, {rate}/s", step.name, size(step.bytes), elapsed.as_secs_f64())
}

/// Returns bytes for people: `71.8 MiB`.
#[must_use]
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, in integers: exact for every length.
    let mut tenths = u128::from(bytes) * 10 / 1024;
    let mut units = UNITS.iter().peekable();
    let mut unit = "KiB";
    while let Some(next) = units.next() {
        unit = next;
        if tenths < 10_240 || units.peek().is_none() {
            break;
        }
        tenths /= 1024;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1024 * 1024, "1.0 MiB"),
            (75_287_757, "71.8 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(size(bytes), shown);
        }
    }
}
