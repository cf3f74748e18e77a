//! What a run tells whoever watches it. The library reports here; only `src/cli` prints.

/// Receives the progress of a run. All methods may be called from any thread.
pub trait Observer: Send + Sync {
    /// A phase begins (`train`, `validate`, `screen`) with so many units of work, if that is known. It ends the phase before.
    fn phase(&self, name: &str, total: Option<u64>);
    /// `n` more units are done. `fields` are the values worth showing beside the bar, the most telling first.
    fn advance(&self, n: u64, fields: &[(&str, f64)]);
    /// One sentence worth keeping on the screen.
    fn message(&self, text: &str);
    /// What the run's health looks like now, in a word or two beside the bar; nothing where all is well.
    fn health(&self, _short: &str) {}
    /// Something went wrong that does not end the run.
    fn warn(&self, text: &str);
    /// The last phase is over.
    fn finish(&self);
}

/// Nobody watches.
pub struct Silent;

impl Observer for Silent {
    fn phase(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64, _: &[(&str, f64)]) {}
    fn message(&self, _: &str) {}
    fn warn(&self, _: &str) {}
    fn finish(&self) {}
}

/// Keeps the warnings, for tests.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Recorder(pub std::sync::Mutex<Vec<String>>);

#[cfg(test)]
impl Observer for Recorder {
    fn phase(&self, _: &str, _: Option<u64>) {}
    fn advance(&self, _: u64, _: &[(&str, f64)]) {}
    fn message(&self, _: &str) {}
    fn warn(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn finish(&self) {}
}
