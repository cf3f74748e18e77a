//! Files in and out.

use std::path::Path;

use crate::volume::{Geometry, Labels, Volume};
use crate::{Error, Result};

/// A NIfTI-1 header exactly as stored (348 bytes, the file's byte order), and that order.
#[derive(Clone, Debug)]
pub struct StoredHeader {
    pub bytes: Vec<u8>,
    pub big_endian: bool,
}

/// Write `bytes` to `path` so that a reader sees the old file or the new one, never a part: temporary name in the same folder, sync, rename.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let tmp = dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let mut f = std::fs::File::create(&tmp)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        drop(f);
        std::fs::rename(&tmp, path).inspect_err(|_| {
            let _ = std::fs::remove_file(&tmp);
        })
    };
    write().map_err(|e| Error::io(path, e))
}

/// Read a scan in HU. The format is told by content, never by name.
pub fn open(path: &Path) -> Result<Volume> {
    let _ = path;
    unimplemented!("the reader is being written")
}

/// Read a label map; values that are not small whole numbers are refused.
pub fn open_labels(path: &Path) -> Result<Labels> {
    let _ = path;
    unimplemented!("the reader is being written")
}

/// Write labels (C order over `[x][y][z]`) as uint8 `.nii.gz`, atomically. Shape, both forms and codes, spacing and units come byte for byte
/// from `geometry.stored` where there is one.
pub fn write_labels(path: &Path, data: &[u8], geometry: &Geometry) -> Result<()> {
    let _ = (path, data, geometry);
    unimplemented!("the writer is being written")
}

/// Write a scan as int16 HU `.nii.gz`, atomically.
pub fn write_volume(path: &Path, volume: &Volume) -> Result<()> {
    let _ = (path, volume);
    unimplemented!("the writer is being written")
}
