//! Scalars for TensorBoard, written by a thread of their own so that nothing that happens to them can end or slow a run.
//!
//! The records are framed by `tensorboard-rs`; its own writer panics on a full disk from a thread nobody can catch, so the events go through its
//! `RecordWriter`, whose errors are values.

use std::fs::File;
use std::io::BufWriter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use protobuf::Message;
use tensorboard_proto::event::{Event, SessionLog, SessionLog_SessionStatus};
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::scalar;

use super::Observer;

/// How often the events reach the disk.
const FLUSH_EVERY: Duration = Duration::from_secs(5);

/// The writing end of a TensorBoard event file.
pub struct TensorBoard {
    sender: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Scalars(u64, Vec<(String, f32)>),
    Flush(SyncSender<()>),
}

impl TensorBoard {
    /// Begin an event file in `dir`. On resume `purge_from` is the first step that will be written again: TensorBoard then hides what older files
    /// say about it. Trouble of any kind is one warning to `observer`, after which the scalars are dropped.
    pub fn start(dir: &Path, purge_from: Option<u64>, observer: Arc<dyn Observer>) -> Self {
        // A disk that hangs fills the queue, then scalars are dropped; the run neither waits nor grows.
        let (sender, orders) = sync_channel(4096);
        let dir = dir.to_owned();
        let work = move || {
            let problem = match catch_unwind(AssertUnwindSafe(|| write(&dir, purge_from, &orders))) {
                Ok(Ok(())) => return,
                Ok(Err(e)) => e.to_string(),
                Err(_) => "its writer broke".to_owned(),
            };
            observer
                .warn(&format!("{}: TensorBoard is off for the rest of this run: {problem}; metrics.jsonl has every value", dir.display()));
        };
        // No thread to be had: then no TensorBoard either.
        let thread = std::thread::Builder::new().name("tensorboard".into()).spawn(work).ok();
        TensorBoard { sender: thread.is_some().then_some(sender), thread }
    }

    /// Queue the scalars of one step.
    pub fn scalars(&mut self, step: u64, values: Vec<(String, f32)>) {
        if let Some(sender) = &self.sender
            && let Err(TrySendError::Disconnected(_)) = sender.try_send(Order::Scalars(step, values))
        {
            self.sender = None;
        }
    }

    /// Wait, at most a few seconds, until what was queued is in the file.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if let Some(sender) = &self.sender
            && sender.try_send(Order::Flush(done)).is_ok()
        {
            let _ = wait.recv_timeout(FLUSH_EVERY);
        }
    }
}

impl Drop for TensorBoard {
    fn drop(&mut self) {
        self.flush();
        self.sender = None;
        // Joined only if it is through: a disk that hangs must not keep the run from ending.
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ = thread.join();
        }
    }
}

fn write(dir: &Path, purge_from: Option<u64>, orders: &Receiver<Order>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut out = EventFile(RecordWriter::new(BufWriter::new(File::create_new(free_name(dir))?)));
    let mut first = Event::new();
    first.set_file_version("brain.Event:2".into());
    out.add(first, 0)?;
    if let Some(step) = purge_from {
        let mut restart = SessionLog::new();
        restart.set_status(SessionLog_SessionStatus::START);
        let mut event = Event::new();
        event.set_session_log(restart);
        out.add(event, step)?;
    }
    out.0.flush()?;
    let mut flushed = Instant::now();
    while let Ok(order) = orders.recv() {
        match order {
            Order::Scalars(step, values) => {
                for (name, value) in values {
                    let mut event = Event::new();
                    event.set_summary(scalar(&name, value));
                    out.add(event, step)?;
                }
                if flushed.elapsed() > FLUSH_EVERY {
                    out.0.flush()?;
                    flushed = Instant::now();
                }
            }
            Order::Flush(done) => {
                out.0.flush()?;
                let _ = done.send(());
            }
        }
    }
    out.0.flush()
}

struct EventFile(RecordWriter<BufWriter<File>>);

impl EventFile {
    fn add(&mut self, mut event: Event, step: u64) -> std::io::Result<()> {
        event.set_wall_time(seconds_since_1970());
        event.set_step(step as i64);
        self.0.write(&event.write_to_bytes()?)
    }
}

fn seconds_since_1970() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// TensorBoard reads the files of a folder in the order of their names, so the time comes first.
fn free_name(dir: &Path) -> PathBuf {
    let (time, process) = (seconds_since_1970() as u64, std::process::id());
    (0..)
        .map(|n| dir.join(format!("events.out.tfevents.{time:010}.panscreen.{process}.{n}")))
        .find(|p| !p.exists())
        .expect("names without end")
}

#[cfg(test)]
mod tests {
    use super::super::progress::Recorder;
    use super::*;

    /// The events of the only file in `dir`.
    fn events(dir: &Path) -> Vec<Event> {
        let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().collect();
        assert_eq!(files.len(), 1);
        let bytes = std::fs::read(files.remove(0).path()).unwrap();
        let (mut at, mut events) = (0, Vec::new());
        while at < bytes.len() {
            let n = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            events.push(Event::parse_from_bytes(&bytes[at + 12..at + 12 + n]).unwrap());
            at += 12 + n + 4;
        }
        events
    }

    #[test]
    fn scalars_are_in_the_file_after_a_flush() {
        let tmp = tempfile::tempdir().unwrap();
        let mut board = TensorBoard::start(tmp.path(), Some(401), Arc::new(Recorder::default()));
        board.scalars(401, vec![("loss/focus".into(), 0.5), ("reward".into(), 1.0)]);
        board.flush();
        let events = events(tmp.path());
        assert_eq!(events[0].get_file_version(), "brain.Event:2");
        assert_eq!((events[1].get_session_log().get_status(), events[1].get_step()), (SessionLog_SessionStatus::START, 401));
        let scalars: Vec<_> = events[2..].iter().map(|e| (e.get_step(), &e.get_summary().get_value()[0])).collect();
        assert_eq!(
            scalars.iter().map(|(s, v)| (*s, v.get_tag(), v.get_simple_value())).collect::<Vec<_>>(),
            [(401, "loss/focus", 0.5), (401, "reward", 1.0)]
        );
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_one_warning() {
        let tmp = tempfile::tempdir().unwrap();
        let in_the_way = tmp.path().join("tensorboard");
        std::fs::write(&in_the_way, "a file").unwrap();
        let recorder = Arc::new(Recorder::default());
        let mut board = TensorBoard::start(&in_the_way, None, recorder.clone());
        for step in 0..5000 {
            board.scalars(step, vec![("loss".into(), 0.0)]);
        }
        board.flush();
        board.thread.take().unwrap().join().unwrap();
        drop(board);
        let warnings = recorder.0.lock().unwrap();
        assert!(warnings.len() == 1 && warnings[0].contains("TensorBoard is off"), "{warnings:?}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_value() {
        let mut out = EventFile(RecordWriter::new(BufWriter::new(File::options().write(true).open("/dev/full").unwrap())));
        out.add(Event::new(), 0).unwrap();
        assert_eq!(out.0.flush().unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }
}
