//! Files that appear whole or not at all.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// Write `bytes` to `path` so that a reader sees the old file or the new one, never a part: temporary name in the same folder, sync, rename.
///
/// The temporary name is unique to the process and the call, so threads may write to one path; the last rename wins.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or_else(|| Error::file(path, "no file name", "a path that ends in one", "name the file to write"))?;
    let mut tmp = std::ffi::OsString::from(".");
    tmp.push(name);
    tmp.push(format!(".{}-{}.tmp", std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed)));
    let tmp = dir.join(tmp);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let mut f = std::fs::File::create(&tmp)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        drop(f);
        std::fs::rename(&tmp, path)?;
        // The rename itself survives a power cut only once the folder is synced; where folders can't be opened (Windows) there is no such call.
        std::fs::File::open(dir).map_or(Ok(()), |d| d.sync_all())
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&tmp);
        Error::io(path, e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_on_one_path_leave_one_whole_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/folder/x.bin");
        std::thread::scope(|s| {
            for t in 0..8u8 {
                let path = &path;
                s.spawn(move || (0..20).for_each(|_| write_atomic(path, &vec![t; 10_000]).unwrap()));
            }
        });
        let got = std::fs::read(&path).unwrap();
        assert_eq!(got.len(), 10_000);
        assert!(got.iter().all(|&b| b == got[0]));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_says_where_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("is_a_folder");
        std::fs::create_dir_all(target.join("full")).unwrap();
        assert!(write_atomic(&target, b"x").unwrap_err().to_string().contains("is_a_folder"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
