//! The voxels behind a header, or in the file that it names.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::bufread::{MultiGzDecoder, ZlibDecoder};

use super::super::source::{Source, zeroed};
use super::super::voxels::swap_bytes;
use super::{Header, refuse};
use crate::{Error, Result};

/// The best that deflate can do is 1032 to 1: a file that would have to do better is lying about its size.
const DEFLATE_LIMIT: u64 = 1032;
/// What may be allocated before it is known that the voxels are there: this and four times the file.
const FREE_BYTES: u64 = 64 << 20;

/// Where the voxels are.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    /// `None`: behind the header.
    pub file: Option<PathBuf>,
    /// Where in the file they begin.
    pub start: u64,
    /// Lines to leave out after `start`, in the file as it is.
    pub lines: u64,
    /// Bytes to leave out after that, of the inflated stream where there is one; `None`: the voxels are the file's last bytes.
    pub bytes: Option<u64>,
}

/// The voxels of a scan as stored, turned to little-endian.
pub(super) fn read(header: &Header, source: &Source) -> Result<Vec<u8>> {
    // Both factors were checked: at most 2^31 voxels of 8 bytes.
    let count = header.geometry.voxels() as u64 * header.scalar.bytes() as u64;
    let file = open(header, source)?;
    let mut raw = if header.place.file.is_none() && file.gzip {
        if header.deflated {
            return refuse(&file.path, "deflated voxels in a gzipped file", "one of the two", "unpack the file (gunzip)");
        }
        // The header is gzipped as well: voxels begin so far behind its first byte.
        match (header.place.lines, header.place.bytes) {
            (0, Some(skip)) => file.inflated(0, header.place.start.saturating_add(skip), count)?,
            _ => return refuse(&file.path, "voxels counted from the end of a gzipped file", "from its start", "unpack the file (gunzip)"),
        }
    } else {
        file.voxels(header, count)?
    };
    if header.big_endian {
        swap_bytes(&mut raw, header.scalar.bytes());
    }
    Ok(raw)
}

pub(super) struct Body {
    path: PathBuf,
    file: File,
    len: u64,
    gzip: bool,
}

/// Open the file that holds the voxels. What a header names may be anything: only regular files are opened.
pub(super) fn open(header: &Header, source: &Source) -> Result<Body> {
    let path = header.place.file.as_ref().unwrap_or(&source.path);
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) if header.place.file.is_some() => {
            let found = format!("voxels in {}, which can't be read ({e})", path.display());
            return refuse(&source.path, found, "the data file beside the header", "copy both files");
        }
        Err(e) => return Err(Error::io(path, e)),
    };
    if !meta.is_file() {
        let found = format!("voxels in {}, which is no regular file", path.display());
        return refuse(&source.path, found, "the data file beside the header", "repair the header");
    }
    let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
    let mut magic = Vec::new();
    file.by_ref().take(2).read_to_end(&mut magic).map_err(|e| Error::io(path, e))?;
    Ok(Body { path: path.to_owned(), file, len: meta.len(), gzip: magic == [0x1f, 0x8b] })
}

impl Body {
    fn voxels(&self, header: &Header, count: u64) -> Result<Vec<u8>> {
        let place = &header.place;
        let start = self.after_lines(place.start, place.lines)?;
        match (place.bytes, header.deflated) {
            (None, true) => refuse(&self.path, "deflated voxels at the end of a file", "an offset from the start", "repair the header"),
            (None, false) => match self.len.checked_sub(count).filter(|&at| at >= start) {
                Some(at) => self.plain(at, count),
                None => self.cut_short(self.len.saturating_sub(start), count),
            },
            (Some(skip), false) => self.plain(start.saturating_add(skip), count),
            (Some(skip), true) => self.inflated(start, skip, count),
        }
    }

    /// Where the line after the next `lines` begins.
    fn after_lines(&self, start: u64, lines: u64) -> Result<u64> {
        self.seek(start)?;
        let mut input = BufReader::new(&self.file);
        let mut at = start;
        for _ in 0..lines {
            // No line is kept: one without an end may be the whole file.
            match input.skip_until(b'\n').map_err(|e| Error::io(&self.path, e))? {
                0 => {
                    return refuse(
                        &self.path,
                        "fewer lines than are to be skipped",
                        "the lines that its header announces",
                        "repair the header",
                    );
                }
                n => at += n as u64,
            }
        }
        Ok(at)
    }

    fn seek(&self, at: u64) -> Result<()> {
        (&self.file).seek(SeekFrom::Start(at)).map(drop).map_err(|e| Error::io(&self.path, e))
    }

    fn plain(&self, at: u64, count: u64) -> Result<Vec<u8>> {
        if at.checked_add(count).is_none_or(|end| end > self.len) {
            return self.cut_short(self.len.saturating_sub(at), count);
        }
        self.seek(at)?;
        let mut bytes = zeroed::<u8>(count as usize, &self.path)?;
        (&self.file).read_exact(&mut bytes).map_err(|e| Error::io(&self.path, e))?;
        Ok(bytes)
    }

    fn inflated(&self, start: u64, skip: u64, count: u64) -> Result<Vec<u8>> {
        let packed = self.len.saturating_sub(start);
        let needed = skip.checked_add(count).filter(|&n| n <= packed.saturating_mul(DEFLATE_LIMIT));
        if needed.is_none() {
            return self.cut_short(packed, count);
        }
        // Where little holds much, as label maps do and bombs: count before anything is allocated.
        if count > self.len.saturating_mul(4).saturating_add(FREE_BYTES) {
            let mut stream = self.inflate(start)?;
            let there = std::io::copy(&mut stream.by_ref().take(skip + count), &mut std::io::sink());
            let there = there.map_err(|e| damaged(&self.path, &e))?;
            if there < skip + count {
                return self.cut_short(there.saturating_sub(skip), count);
            }
        }
        let mut bytes = zeroed::<u8>(count as usize, &self.path)?;
        let mut stream = self.inflate(start)?;
        let skipped = std::io::copy(&mut stream.by_ref().take(skip), &mut std::io::sink());
        if skipped.map_err(|e| damaged(&self.path, &e))? < skip {
            return self.cut_short(0, count);
        }
        stream.read_exact(&mut bytes).map_err(|e| damaged(&self.path, &e))?;
        drop(stream);
        Ok(bytes)
    }

    /// The inflated stream from `start` on: gzip (several members as well) or zlib, as its first byte says.
    fn inflate(&self, start: u64) -> Result<Box<dyn Read + '_>> {
        self.seek(start)?;
        let mut input = BufReader::with_capacity(1 << 16, &self.file);
        let first = input.fill_buf().map_err(|e| Error::io(&self.path, e))?.first().copied();
        Ok(if first == Some(0x1f) { Box::new(MultiGzDecoder::new(input)) } else { Box::new(ZlibDecoder::new(input)) })
    }

    fn cut_short<T>(&self, there: u64, count: u64) -> Result<T> {
        let found = format!("{there} bytes of voxels");
        refuse(&self.path, found, &format!("the {count} bytes that its header announces"), "the file is cut short: copy it again")
    }
}

fn damaged(path: &Path, e: &std::io::Error) -> Error {
    Error::file(path, format!("damaged deflated voxels ({e})"), "an intact gzip or zlib stream", "copy the file again")
}
