//! Bytes of a file, unpacked where they are gzipped, and never more of them than asked for.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Seek};
use std::path::{Path, PathBuf};

use super::Warning;
use crate::{Error, Result};

/// The best that deflate can do is 1032 to 1: a file that would have to do better is lying about its size.
const DEFLATE_LIMIT: u64 = 1032;

/// Room for a volume before it is known that the file holds one: packed file and content together stay below 4 times its size + 64 MiB.
const UNSEEN_BYTES: u64 = 48 << 20;
/// Read at once where content only streams by.
const CHUNK: usize = 1 << 17;
/// The checksum of a gzip member comes after its last byte; one that goes on is not worth inflating to its end (it may be a bomb).
const BEHIND: u64 = 1 << 16;

/// An open file whose content may be gzipped: told by its first bytes, never by its name.
pub(super) struct Source {
    pub path: PathBuf,
    /// What is odd about the bytes that were read so far.
    pub warnings: Vec<Warning>,
    file: File,
    /// Bytes on disk.
    len: u64,
    gzip: bool,
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        // Before it is opened: a pipe would wait for its writer.
        let meta = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Err(Error::file(path, "not a regular file", "a scan", "give the path of one scan"));
        }
        if meta.len() == 0 {
            return Err(Error::file(path, "an empty file", "a scan", "copy the file again"));
        }
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mut magic = Vec::new();
        file.by_ref().take(2).read_to_end(&mut magic).map_err(|e| Error::io(path, e))?;
        Ok(Source { path: path.to_owned(), warnings: Vec::new(), file, len: meta.len(), gzip: magic == [0x1f, 0x8b] })
    }

    pub fn is_gzip(&self) -> bool {
        self.gzip
    }

    /// The first `count` bytes of the content, fewer where it ends before: what there is of a cut file is enough to tell what it was.
    pub fn head(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream(count as u64, |chunk| bytes.extend_from_slice(chunk))?;
        Ok(bytes)
    }

    /// Exactly the first `count` bytes of the content. Refused before much is allocated where the file doesn't hold them.
    pub fn read(&mut self, count: u64) -> Result<Vec<u8>> {
        if !self.is_modest(count) {
            self.look(count, |_| {})?;
        }
        self.read_looked(count)
    }

    /// As [`read`](Source::read), for a count that is modest or that was looked through.
    pub fn read_looked(&mut self, count: u64) -> Result<Vec<u8>> {
        let count = usize::try_from(count).map_err(|_| self.truncated(format!("{} bytes", self.len), count))?;
        if let Some(bytes) = self.inflate_at_once(count)? {
            return Ok(bytes);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count).map_err(|_| out_of_memory(&self.path, count))?;
        let end = self.stream(count as u64, |chunk| bytes.extend_from_slice(chunk))?;
        self.judge(end, count as u64)?;
        Ok(bytes)
    }

    /// Whether `count` bytes of content are little enough beside the file to be unpacked without looking through them first.
    pub fn is_modest(&self, count: u64) -> bool {
        count <= self.len || (self.gzip && count <= self.len.saturating_mul(3).saturating_add(UNSEEN_BYTES) && self.may_hold(count))
    }

    /// Show the first `count` bytes of the content in pieces to `see`. Nothing is kept; refused as in [`read`](Source::read).
    pub fn look(&mut self, count: u64, see: impl FnMut(&[u8])) -> Result<()> {
        if !self.may_hold(count) {
            let packed = if self.gzip { "gzipped " } else { "" };
            return Err(self.truncated(format!("{} {packed}bytes on disk", self.len), count));
        }
        let end = self.stream(count, see)?;
        if end.got < count { Err(self.truncated(format!("only {} bytes of content", end.got), count)) } else { Ok(()) }
    }

    fn may_hold(&self, count: u64) -> bool {
        count <= if self.gzip { self.len.saturating_mul(DEFLATE_LIMIT) } else { self.len }
    }

    fn judge(&mut self, end: End, count: u64) -> Result<()> {
        if end.got < count {
            return Err(self.truncated(format!("only {} bytes of content", end.got), count));
        }
        if let Some(flaw) = end.flaw {
            self.warnings.push(Warning::new(flaw, "an intact gzip stream", "all voxels came, but copy the file again to be sure of them"));
        }
        if end.more {
            let found = if self.gzip { "more content".to_owned() } else { format!("{} more bytes", self.len - count) };
            let expected = format!("an end after the {count} bytes that the header announces");
            self.warnings.push(Warning::new(format!("{found} behind the last voxel"), expected, "check the shape; the rest is not read"));
        }
        Ok(())
    }

    fn truncated(&self, found: String, count: u64) -> Error {
        Error::file(&self.path, found, format!("the {count} bytes that its header announces"), "the file is cut short: copy it again")
    }

    /// The quick way (libdeflate, some 1.6 times the speed of streaming): only for one gzip member of exactly `count` bytes, as its trailer says.
    fn inflate_at_once(&mut self, count: usize) -> Result<Option<Vec<u8>>> {
        // Deflate never grows data by more than a few bytes in 16 KB: a larger file holds something else as well.
        if !self.gzip || self.len > count as u64 + count as u64 / 1024 + 65536 {
            return Ok(None);
        }
        self.file.rewind().map_err(|e| Error::io(&self.path, e))?;
        let mut packed = Vec::new();
        packed.try_reserve_exact(self.len as usize).map_err(|_| out_of_memory(&self.path, self.len as usize))?;
        self.file.by_ref().take(self.len).read_to_end(&mut packed).map_err(|e| Error::io(&self.path, e))?;
        let trailer = packed.last_chunk().map(|&b| u32::from_le_bytes(b));
        if trailer != Some(count as u32) {
            return Ok(None);
        }
        let mut bytes = zeroed(count, &self.path)?;
        // Any failure takes the streaming way, which knows how to say what is wrong.
        let got = libdeflater::Decompressor::new().gzip_decompress(&packed, &mut bytes);
        Ok((got == Ok(count)).then_some(bytes))
    }

    /// The first `count` bytes of the content to `see`, in pieces.
    fn stream(&self, count: u64, mut see: impl FnMut(&[u8])) -> Result<End> {
        let failed = |e| Error::io(&self.path, e);
        let mut file = &self.file;
        file.rewind().map_err(failed)?;
        let mut input = BufReader::with_capacity(1 << 16, file);
        let mut chunk = vec![0; CHUNK.min(count as usize).max(1)];
        let mut end = End { got: 0, more: false, flaw: None };
        if !self.gzip {
            while end.got < count {
                let room = (count - end.got).min(chunk.len() as u64) as usize;
                match input.read(&mut chunk[..room]).map_err(failed)? {
                    0 => return Ok(end),
                    n => {
                        see(&chunk[..n]);
                        end.got += n as u64;
                    }
                }
            }
            end.more = self.len > count;
            return Ok(end);
        }
        // A gzip file may be several members one after the other (pigz, bgzip, `cat`); what follows the last one is padding.
        while input.fill_buf().map_err(failed)?.first() == Some(&0x1f) {
            let mut member = flate2::bufread::GzDecoder::new(&mut input);
            loop {
                // Behind the last byte asked for, only whether there are more.
                let room = if end.got < count { (count - end.got).min(chunk.len() as u64) as usize } else { 1 };
                match member.read(&mut chunk[..room]) {
                    Ok(0) => break,
                    Ok(_) if end.got == count => {
                        end.more = true;
                        end.flaw = std::io::copy(&mut member.take(BEHIND), &mut std::io::sink()).err().map(flaw);
                        return Ok(end);
                    }
                    Ok(n) => {
                        see(&chunk[..n]);
                        end.got += n as u64;
                    }
                    Err(e) if end.got == count || e.kind() == ErrorKind::UnexpectedEof => {
                        end.flaw = Some(flaw(e));
                        return Ok(end);
                    }
                    Err(e) => {
                        let found = format!("damaged gzip data ({e})");
                        return Err(Error::file(&self.path, found, "an intact gzip stream", "copy the file again"));
                    }
                }
            }
        }
        Ok(end)
    }
}

/// How far a stream went.
struct End {
    got: u64,
    /// There is content behind what was asked for.
    more: bool,
    /// What is wrong with the packing behind the last byte asked for.
    flaw: Option<String>,
}

fn flaw(e: std::io::Error) -> String {
    if e.kind() == ErrorKind::UnexpectedEof {
        "a gzip stream without its end".into()
    } else {
        format!("damage behind the last voxel ({e})")
    }
}

fn out_of_memory(path: &Path, bytes: usize) -> Error {
    let found = format!("a volume that needs {} MiB at once", bytes >> 20);
    Error::file(path, found, "one that fits into memory", "use a machine with more memory or a smaller scan")
}

/// `count` zeros, or an error where the memory is not to be had (a plain `vec!` would end the process).
pub(super) fn zeroed<T: Default + Clone>(count: usize, path: &Path) -> Result<Vec<T>> {
    // Asking and giving back costs nothing; `vec!` then gets zero pages from the system without touching them.
    Vec::<T>::new().try_reserve_exact(count).map_err(|_| out_of_memory(path, count.saturating_mul(size_of::<T>())))?;
    Ok(vec![T::default(); count])
}

/// One gzip member at level 1: twice as fast as the usual 6 and 12 % larger on CTs; label maps shrink to almost nothing at any level.
pub(super) fn gzip(bytes: &[u8], path: &Path) -> Result<Vec<u8>> {
    let mut packer = libdeflater::Compressor::new(libdeflater::CompressionLvl::new(1).expect("level 1 exists"));
    let mut packed = zeroed(packer.gzip_compress_bound(bytes.len()), path)?;
    let n = packer.gzip_compress(bytes, &mut packed).expect("the buffer has the size that libdeflate asked for");
    packed.truncate(n);
    Ok(packed)
}
