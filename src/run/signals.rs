//! SIGINT and SIGTERM ask a run to save and stop (exit 75); the second one ends it at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGINT, SIGTERM};

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}

/// Start listening. Call once, from `main`; a second call changes nothing.
pub fn install() -> std::io::Result<()> {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.set(()).is_err() {
        return Ok(());
    }
    for signal in [SIGINT, SIGTERM] {
        // Order matters: the shutdown is armed only by a flag that an earlier signal has set.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(flag()))?;
        signal_hook::flag::register(signal, Arc::clone(flag()))?;
    }
    Ok(())
}

/// Has somebody asked the run to stop? Loops ask after every step, then save and return.
pub fn stop_requested() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Ask the run to stop, as a signal would (time limits, tests).
pub fn request_stop() {
    flag().store(true, Ordering::Relaxed);
}

/// Ask another process to save and stop; where there are no signals, end it. One that has just ended needs no asking.
pub fn ask_to_stop(child: &mut std::process::Child) {
    #[cfg(unix)]
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM);
    #[cfg(not(unix))]
    let _ = child.kill();
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "PANSCREEN_TEST_SIGNALS";

    /// What the child process of the test below runs: the flag belongs to the whole process, and other tests ask it.
    #[test]
    fn child_that_gets_two_signals() {
        if std::env::var_os(CHILD).is_some() {
            install().unwrap();
            install().unwrap();
            assert!(!stop_requested());
            signal_hook::low_level::raise(SIGINT).unwrap();
            assert!(stop_requested());
            signal_hook::low_level::raise(SIGTERM).unwrap();
            unreachable!("the second signal ends the process");
        }
    }

    #[test]
    fn the_first_signal_sets_the_flag_and_the_second_ends_the_process() {
        let name = "run::signals::tests::child_that_gets_two_signals";
        let child = Command::new(std::env::current_exe().unwrap()).args(["--exact", name]).env(CHILD, "1").output().unwrap();
        assert_eq!(child.status.code(), Some(128 + SIGTERM), "{}", String::from_utf8_lossy(&child.stdout));
    }
}
