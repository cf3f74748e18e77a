//! What a run leaves behind, and how it survives being interrupted.
//!
//! ```text
//! runs/NAME/  config.toml (effective)  manifest.json  metrics.jsonl  tensorboard/
//!             checkpoints/step-000400/{glance,focus}.safetensors, ..., state.json   checkpoints/best.json   report/index.html
//! ```
//!
//! [`RunFolder`] owns the folder while a process writes it; [`CheckpointStore`] saves whole checkpoints or none; [`MetricsLog`] holds one line
//! a step and is cut back to the checkpoint on resume; [`health`] stops a run on the first value that is not finite, [`verdict`] says in plain
//! words what the log says about its health (`health.json`). Every file that matters is
//! written under a temporary name, synced and renamed, so a kill at any moment leaves a folder the same command continues from.

pub mod checkpoint;
pub mod error;
pub mod folder;
pub mod health;
pub mod metrics;
pub mod progress;
pub mod signals;
pub mod tensorboard;
pub mod usage;
pub mod verdict;

pub use checkpoint::{Best, Checkpoint, CheckpointStore};
pub use error::{Error, Result};
pub use folder::{Manifest, OnDifference, RunFolder, Session};
pub use health::{NonFinite, check_finite};
pub use metrics::{MetricsLog, Record, Scalar};
pub use progress::{Observer, Silent};
pub use verdict::Verdict;

#[cfg(all(test, unix))]
mod tests {
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::Duration;

    use super::progress::Recorder;
    use super::*;

    const CHILD: &str = "PANSCREEN_TEST_RUN";
    const EVERY: u64 = 3;

    fn loss(step: u64) -> f64 {
        1.0 / (step as f64 + 0.1)
    }

    /// A run without networks: a line a step, a checkpoint every few, continued from the newest one. Says what it resumed from.
    fn train(root: &Path, until: u64) -> Result<Option<u64>> {
        let recorder = Arc::new(Recorder::default());
        let folder = RunFolder::create_or_open(root, "seed = 1", OnDifference::Refuse)?;
        let store = folder.checkpoints(2)?;
        let from = store.latest(&*recorder)?.map(|c| c.step);
        assert!(recorder.0.lock().unwrap().is_empty(), "a kill left a damaged checkpoint: {recorder:?}", recorder = recorder.0);
        let mut log = MetricsLog::open(&folder.metrics_path(), None, from, recorder.clone())?;
        for step in from.unwrap_or(0) + 1..=until {
            log.append(step, &[("loss", loss(step).into())])?;
            if step % EVERY == 0 {
                log.sync()?;
                store.save(step, &[("focus", vec![step as u8; 100_000]), ("glance", vec![1; 10])], &serde_json::json!({ "step": step }))?;
                store.mark_best(&Best { step, metric: "loss".into(), value: loss(step) })?;
            }
        }
        Ok(from)
    }

    /// What the child process of the test below runs; by itself it does nothing.
    #[test]
    fn child_that_trains_until_it_is_killed() {
        if let Some(root) = std::env::var_os(CHILD) {
            train(Path::new(&root), u64::MAX).unwrap();
        }
    }

    fn spawn(root: &Path) -> Child {
        let name = "run::tests::child_that_trains_until_it_is_killed";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name]).env(CHILD, root).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_run_killed_again_and_again_equals_one_that_was_not() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("killed");
        let mut draws = panscreen_envs::rng::stream(1, "kill test", 0, 0);
        for _ in 0..20 {
            let mut child = spawn(&root);
            let checkpoints = root.join("checkpoints");
            // Not before it works: a slow machine would kill twenty processes that had not begun.
            while !checkpoints.exists() && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(panscreen_envs::rng::Rng::next_u64(&mut draws) % 60_000));
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let reached = CheckpointStore::read_only(&root.join("checkpoints")).latest(&Silent).unwrap().unwrap().step;
        let until = reached + 2 * EVERY;
        assert_eq!(train(&root, until).unwrap(), Some(reached));
        let whole = tmp.path().join("whole");
        train(&whole, until).unwrap();
        let text = |root: &Path| std::fs::read_to_string(root.join("metrics.jsonl")).unwrap();
        assert!(text(&root) == text(&whole));
        let mut left: Vec<_> = std::fs::read_dir(root.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left.len(), 3, "{left:?}");
    }
}
