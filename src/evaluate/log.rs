//! `cases.jsonl`: a line a case, appended as cases finish. Several processes may work on one folder, on one machine or on several.
//!
//! A process that judges a case holds the lock of `.claims/CASE`, which the system frees with the process: a killed one gives its case back.
//! A line is written whole while the log is locked, and a torn last line (power cut) is skipped when the log is read.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use panscreen_envs::{Error, Result};

use super::record::CaseRecord;

pub struct CaseLog {
    path: PathBuf,
    claims: PathBuf,
    known: Mutex<Known>,
}

/// What was read of the log so far.
#[derive(Default)]
struct Known {
    /// The last line of each case.
    records: BTreeMap<String, CaseRecord>,
    /// Bytes read, up to the last line's end.
    read: u64,
}

/// While it lives, nobody else judges the case.
pub struct Claim {
    path: PathBuf,
    /// `None` where the file system knows no locks: then two processes may judge a case twice, to the same line.
    _lock: Option<File>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before the lock is freed. Who waits for the file that is now gone looks into the log first.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl CaseLog {
    pub fn open(dir: &Path) -> Result<Self> {
        let claims = dir.join(".claims");
        std::fs::create_dir_all(&claims).map_err(|e| Error::io(&claims, e))?;
        Ok(CaseLog { path: dir.join("cases.jsonl"), claims, known: Mutex::default() })
    }

    /// The record of a case with this key, if any process has finished it.
    pub fn finished(&self, case: &str, key: &str) -> Result<Option<CaseRecord>> {
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        known.refresh(&self.path)?;
        Ok(known.records.get(case).filter(|r| r.key == key).cloned())
    }

    /// Take a case; `None` where another process has it and `wait` is false.
    pub fn claim(&self, case: &str, wait: bool) -> Result<Option<Claim>> {
        let path = self.claims.join(case);
        // A process that finds all its cases done removes the folder, perhaps right now.
        let open = || std::fs::create_dir_all(&self.claims).and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        let file = open().or_else(|_| open()).map_err(|e| Error::io(&path, e))?;
        let locked = if wait { file.lock().map_err(TryLockError::Error) } else { file.try_lock() };
        Ok(match locked {
            Ok(()) => Some(Claim { path, _lock: Some(file) }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(_)) => Some(Claim { path, _lock: None }),
        })
    }

    pub fn append(&self, record: &CaseRecord) -> Result<()> {
        let io = |e| Error::io(&self.path, e);
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(&self.path).map_err(io)?;
        // Without locks an append of one buffer is still whole on local disks.
        let _ = file.lock();
        let line = serde_json::to_string(record).map_err(|e| Error::Setting(e.to_string()))?;
        let torn = file.seek(SeekFrom::End(-1)).is_ok() && {
            let mut last = [0];
            file.read_exact(&mut last).map_err(io)?;
            last != *b"\n"
        };
        let text = format!("{}{line}\n", if torn { "\n" } else { "" });
        file.write_all(text.as_bytes()).map_err(io)
    }

    /// Remove the folder of the claims, if nobody holds one.
    pub fn close(self) {
        let _ = std::fs::remove_dir(&self.claims);
    }
}

impl Known {
    fn refresh(&mut self, path: &Path) -> Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(path, e)),
        };
        let mut new = Vec::new();
        file.seek(SeekFrom::Start(self.read)).and_then(|_| file.read_to_end(&mut new)).map_err(|e| Error::io(path, e))?;
        let whole = new.iter().rposition(|&b| b == b'\n').map_or(0, |i| i + 1);
        self.read += whole as u64;
        let records = new[..whole].split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice::<CaseRecord>(line).ok());
        self.records.extend(records.map(|r| (r.case.clone(), r)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::record::Status;

    fn record(case: &str, key: &str) -> CaseRecord {
        CaseRecord { status: Status::Missing, ..CaseRecord::blank(case, key.to_owned()) }
    }

    #[test]
    fn lines_are_whole_keyed_and_survive_a_torn_one() {
        let dir = tempfile::tempdir().unwrap();
        let log = CaseLog::open(dir.path()).unwrap();
        assert_eq!(log.finished("a", "1").unwrap(), None);
        log.append(&record("a", "1")).unwrap();
        std::fs::OpenOptions::new().append(true).open(dir.path().join("cases.jsonl")).unwrap().write_all(b"{\"case\":\"to").unwrap();
        let other = CaseLog::open(dir.path()).unwrap();
        assert!(other.finished("a", "1").unwrap().is_some());
        other.append(&record("b", "1")).unwrap();
        other.append(&record("a", "2")).unwrap();
        assert_eq!(log.finished("a", "1").unwrap(), None, "another key is another result");
        assert!(log.finished("a", "2").unwrap().is_some() && log.finished("b", "1").unwrap().is_some());
    }

    #[test]
    fn a_claimed_case_is_left_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let log = CaseLog::open(dir.path()).unwrap();
        let claim = log.claim("a", false).unwrap().unwrap();
        assert!(log.claim("a", false).unwrap().is_none() && log.claim("b", false).unwrap().is_some());
        drop(claim);
        assert!(log.claim("a", true).unwrap().is_some());
        log.close();
        assert!(!dir.path().join(".claims").exists());
    }
}
