//! One launch of the entry: alone, timed, its memory sampled, stopped at its limits.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use panscreen_envs::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Entry, Limits};

/// Distance of the memory samples, as in FLARE's harness.
pub const SAMPLE_SECONDS: f64 = 0.1;

/// How a launch is kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// In a network namespace without a device: nothing can be reached.
    Network,
    /// The system permits no namespaces.
    None,
}

/// `unshare` with a network namespace: as root, or as a user that is root in it.
const UNSHARE: [&[&str]; 2] = [&["--net"], &["--net", "--map-root-user"]];

impl Isolation {
    pub fn possible() -> Self {
        if unshare().is_some() { Isolation::Network } else { Isolation::None }
    }
}

/// The options with which `unshare` works here.
fn unshare() -> Option<&'static [&'static str]> {
    let works = |options: &&&[&str]| {
        let mut command = Command::new("unshare");
        command.args(**options).arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    UNSHARE.iter().find(works).copied()
}

/// What a launch gave.
pub struct Ran {
    /// `None` where a signal ended it, ours at a limit included.
    pub code: Option<i32>,
    pub seconds: f64,
    /// Resident memory of all processes of the launch, in MB of 2^20 bytes; empty where the system does not tell.
    pub memory_mb: Vec<f64>,
    /// The end of what it printed.
    pub said: String,
}

/// Run `sh predict.sh` with nothing of our environment but a path.
pub fn launch(entry: &Entry, inputs: &Path, outputs: &Path, home: &Path, limits: Limits, isolation: Isolation) -> Result<Ran> {
    let log = home.join("log.txt");
    let io = |e| Error::io(&entry.script, e);
    let mut command = match unshare().filter(|_| isolation == Isolation::Network) {
        Some(options) => {
            let mut command = Command::new("unshare");
            command.args(options).arg("sh");
            command
        }
        None => Command::new("sh"),
    };
    let file = File::create(&log).map_err(io)?;
    command
        .arg(&entry.script)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("INPUTS", inputs)
        .env("OUTPUTS", outputs)
        .env("MODEL", &entry.model)
        .env("PANSCREEN", &entry.program)
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(io)?)
        .stderr(file);
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let start = Instant::now();
    let mut child = command.spawn().map_err(io)?;
    let mut memory_mb = Vec::new();
    let mut next = Duration::ZERO;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            break status;
        }
        let elapsed = start.elapsed();
        if elapsed >= next {
            memory_mb.extend(resident_mb(child.id()));
            next += Duration::from_secs_f64(SAMPLE_SECONDS);
        }
        let too_large = memory_mb.last().is_some_and(|mb| *mb > limits.memory_gib * 1024.0);
        // A little longer than allowed, so that what is measured says by how much it was missed.
        if too_large || elapsed.as_secs_f64() > limits.seconds + 1.0 {
            end_group(child.id());
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let seconds = start.elapsed().as_secs_f64();
    // A container ends with its entry, whatever the entry left running.
    end_group(child.id());
    let text = std::fs::read(&log).unwrap_or_default();
    let said = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).trim().to_owned();
    Ok(Ran { code: status.code(), seconds, memory_mb, said })
}

fn end_group(group: u32) {
    // None may be left, which is no failure.
    let _ = Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).stderr(Stdio::null()).status();
}

/// Resident memory of the processes of a group, in MB; `None` where there is no `/proc`.
fn resident_mb(group: u32) -> Option<f64> {
    let mut kib = 0;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        let path = entry.path();
        // A process may end between two reads.
        let Ok(stat) = std::fs::read_to_string(path.join("stat")) else { continue };
        // After the name in brackets: state, parent, group.
        let of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(2)?.parse::<u32>().ok());
        if of != Some(group) {
            continue;
        }
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
        kib += resident.and_then(|r| r.split_ascii_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    }
    Some(kib as f64 / 1024.0)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn ran(script: &str, limits: Limits) -> Ran {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("predict.sh");
        std::fs::write(&path, script).unwrap();
        let entry = Entry { script: path, model: "/model".into(), program: "/bin/true".into() };
        launch(&entry, Path::new("/in"), Path::new("/out"), dir.path(), limits, Isolation::possible()).unwrap()
    }

    #[test]
    fn a_launch_knows_its_folders_and_nothing_else() {
        let r = ran("echo $INPUTS $OUTPUTS $MODEL $PANSCREEN; env | grep -c CARGO; exit 3", Limits::default());
        assert_eq!((r.code, r.said.as_str()), (Some(3), "/in /out /model /bin/true\n0"));
        assert!(r.seconds < 10.0);
    }

    #[test]
    fn a_launch_is_stopped_at_its_time_with_its_children() {
        let r = ran("sleep 60 & sleep 60", Limits { seconds: 0.3, memory_gib: 28.0 });
        assert!(r.code.is_none() && (1.3..10.0).contains(&r.seconds), "{:?} {}", r.code, r.seconds);
        assert!(!r.memory_mb.is_empty() && r.memory_mb.iter().any(|mb| *mb > 0.1));
    }

    #[test]
    fn what_the_entry_left_running_ends_with_it() {
        let r = ran("sleep 61.7 & echo $!", Limits::default());
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", r.said)).unwrap_or_default();
        // Gone, or a zombie that nobody has collected yet; the signal takes a moment.
        let gone = || state().rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'));
        assert!(
            (0..100).any(|_| gone() || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }),
            "{}",
            state()
        );
        assert_eq!(r.code, Some(0));
    }

    #[test]
    fn a_launch_without_a_network_has_no_way_out() {
        if Isolation::possible() == Isolation::None {
            eprintln!("skipped: no network namespaces here");
            return;
        }
        // The lines of the routing table below its heading.
        let r = ran("tail -n +2 /proc/net/route | wc -l", Limits::default());
        assert_eq!(r.said, "0");
    }
}
