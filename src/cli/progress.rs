//! Progress on standard error: bars with the time left on a terminal, a plain line every few seconds elsewhere, warnings alone with `--quiet`.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::say;
use crate::run::Observer;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The observer for this process.
pub fn observer(quiet: bool) -> Arc<dyn Observer> {
    if quiet {
        Arc::new(Quiet)
    } else if std::io::stderr().is_terminal() {
        Arc::new(Bars { bar: Mutex::new(ProgressBar::hidden()), health: Mutex::default() })
    } else {
        Arc::new(Lines { phase: Mutex::default(), print: say })
    }
}

/// `--quiet`: warnings only.
struct Quiet;

impl Observer for Quiet {
    fn phase(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64, _: &[(&str, f64)]) {}
    fn message(&self, _: &str) {}
    fn warn(&self, text: &str) {
        say(&format!("warning: {text}"));
    }
    fn finish(&self) {}
}

/// One bar on a terminal, with the run's health behind its values.
struct Bars {
    bar: Mutex<ProgressBar>,
    health: Mutex<String>,
}

impl Observer for Bars {
    fn phase(&self, name: &str, total: Option<u64>) {
        let (bar, template) = match total {
            Some(n) => (ProgressBar::new(n), "{prefix:12} {bar:24} {pos}/{len}  {elapsed} elapsed, {eta} left  {msg}"),
            None => (ProgressBar::new_spinner(), "{prefix:12} {spinner} {pos}  {elapsed} elapsed  {msg}"),
        };
        bar.set_style(ProgressStyle::with_template(template).expect("the template is ours").progress_chars("=> "));
        bar.set_prefix(name.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        hold(&self.health).clear();
        let before = std::mem::replace(&mut *hold(&self.bar), bar);
        before.finish();
    }

    fn advance(&self, n: u64, fields: &[(&str, f64)]) {
        let bar = hold(&self.bar);
        if !fields.is_empty() {
            bar.set_message(shown(fields) + &hold(&self.health));
        }
        bar.inc(n);
    }

    fn health(&self, short: &str) {
        *hold(&self.health) = unhealthy(short);
    }

    fn message(&self, text: &str) {
        hold(&self.bar).suspend(|| say(text));
    }

    fn warn(&self, text: &str) {
        hold(&self.bar).suspend(|| say(&format!("warning: {text}")));
    }

    fn finish(&self) {
        hold(&self.bar).finish();
    }
}

/// Plain lines for logs.
struct Lines {
    phase: Mutex<Option<Phase>>,
    print: fn(&str),
}

struct Phase {
    name: String,
    done: u64,
    total: Option<u64>,
    started: Instant,
    printed: Instant,
    fields: String,
    health: String,
}

impl Phase {
    fn line(&self) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let of = self.total.map_or(String::new(), |n| format!("/{n}"));
        let left = match self.total {
            Some(n) if n > self.done && self.done > 0 => format!(", {} left", clock(seconds * (n - self.done) as f64 / self.done as f64)),
            _ => String::new(),
        };
        format!("{} {}{of}  {} elapsed{left}  {}", self.name, self.done, clock(seconds), self.fields).trim_end().to_owned() + &self.health
    }
}

impl Observer for Lines {
    fn phase(&self, name: &str, total: Option<u64>) {
        self.finish();
        let now = Instant::now();
        *hold(&self.phase) =
            Some(Phase { name: name.to_owned(), done: 0, total, started: now, printed: now, fields: String::new(), health: String::new() });
    }

    fn advance(&self, n: u64, fields: &[(&str, f64)]) {
        if let Some(phase) = &mut *hold(&self.phase) {
            phase.done += n;
            if !fields.is_empty() {
                phase.fields = shown(fields);
            }
            // The last line of a phase is written when it ends.
            if phase.printed.elapsed() >= LINE_EVERY && phase.total != Some(phase.done) {
                phase.printed = Instant::now();
                (self.print)(&phase.line());
            }
        }
    }

    fn health(&self, short: &str) {
        if let Some(phase) = &mut *hold(&self.phase) {
            phase.health = unhealthy(short);
        }
    }

    fn message(&self, text: &str) {
        (self.print)(text);
    }

    fn warn(&self, text: &str) {
        (self.print)(&format!("warning: {text}"));
    }

    fn finish(&self) {
        if let Some(phase) = hold(&self.phase).take() {
            (self.print)(&phase.line());
        }
    }
}

fn unhealthy(short: &str) -> String {
    if short.is_empty() { String::new() } else { format!("  health: {short}") }
}

/// A panic elsewhere must not take the progress with it.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// `loss 0.5123  lr 1.0e-4`.
fn shown(fields: &[(&str, f64)]) -> String {
    let number = |v: f64| if v == 0.0 || (1e-3..1e5).contains(&v.abs()) { format!("{v:.4}") } else { format!("{v:.1e}") };
    fields.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect::<Vec<_>>().join("  ")
}

/// `42s`, `3m07s`, `1h02m`.
fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_are_short() {
        assert_eq!(shown(&[("loss", 0.51234), ("lr", 1e-4), ("kl", 0.0), ("n", -1e9)]), "loss 0.5123  lr 1.0e-4  kl 0.0000  n -1.0e9");
        for (seconds, text) in [(0.2, "0s"), (59.6, "1m00s"), (187.0, "3m07s"), (3725.0, "1h02m")] {
            assert_eq!(clock(seconds), text);
        }
    }

    #[test]
    fn a_phase_ends_with_its_last_line() {
        static PRINTED: Mutex<Vec<String>> = Mutex::new(Vec::new());
        let lines = Lines { phase: Mutex::default(), print: |line| PRINTED.lock().unwrap().push(line.to_owned()) };
        lines.phase("train", Some(10));
        lines.advance(4, &[("loss", 0.5)]);
        lines.health("zero signal");
        lines.advance(6, &[]);
        lines.phase("validate", None);
        lines.warn("a case failed");
        lines.finish();
        lines.finish();
        let expected = ["train 10/10  0s elapsed  loss 0.5000  health: zero signal", "warning: a case failed", "validate 0  0s elapsed"];
        assert_eq!(*PRINTED.lock().unwrap(), expected);
    }
}
