//! A DICOM file opened: its elements up to the pixels, and where the pixels are.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::element::{self, DataSet, Element, Encoding, Head, Stop, UNDEFINED, end_of, head_at, is_vr};
use super::tags;
use crate::{Error, Result};

/// What is read of a file at first: the headers of most slices are smaller.
const FIRST: u64 = 1 << 15;
/// Elements of the outermost level; real files have some hundreds.
const MOST_ELEMENTS: usize = 1 << 16;
/// Bytes that may be made of a file, before it is known to be sound, beyond 4 times its size.
pub const ALLOWANCE: u64 = 64 << 20;

/// Transfer syntaxes by what they say of the data set; those of the pixels are in `codec`.
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";

pub struct Content {
    pub path: PathBuf,
    /// Bytes on disk.
    pub len: u64,
    /// The transfer syntax UID, empty where the file names none.
    pub syntax: String,
    pub encoding: Encoding,
    /// Everything up to the pixels; the whole content where it had to be unpacked.
    bytes: Vec<u8>,
    /// Elements of the outermost level: head, and where the value ends.
    elements: Vec<(Head, usize)>,
    /// The head of the pixel data.
    pub pixels: Option<Head>,
    unpacked: bool,
}

/// Whether the first bytes of a file are DICOM's: `DICM` after the preamble, or the first elements of a data set without one.
pub fn is_dicom(head: &[u8]) -> bool {
    if head.get(128..132) == Some(b"DICM") {
        return true;
    }
    let Some(encoding) = guess(head) else { return false };
    let (mut at, mut last, mut count) = (0, 0, 0);
    // Three elements that begin in the order of their tags, all of the groups that come first, are no accident.
    while count < 3 {
        let Ok(head_) = head_at(head, at, encoding) else { return false };
        let named = !encoding.explicit || is_vr(&head_.vr);
        if head_.tag <= last || !matches!(head_.tag >> 16, 2 | 8) || !named || head_.len > 1 << 16 {
            return false;
        }
        (at, last, count) = (head_.at + head_.len as usize, head_.tag, count + 1);
    }
    true
}

/// How a data set that begins here is written.
fn guess(bytes: &[u8]) -> Option<Encoding> {
    let group = bytes.get(..2)?;
    // All groups of a data set's beginning are below 256: the zero byte tells the order.
    let big_endian = group[0] == 0 && group[1] != 0;
    Some(Encoding { explicit: is_vr(bytes.get(4..6)?), big_endian })
}

impl Content {
    /// `None` where the file is no DICOM.
    pub fn open(path: &Path) -> Result<Option<Content>> {
        let mut file = File::open(path).map_err(|e| Error::io(path, e))?;
        let meta = file.metadata().map_err(|e| Error::io(path, e))?;
        if !meta.is_file() {
            return Ok(None);
        }
        let len = meta.len();
        let mut bytes = Vec::new();
        file.by_ref().take(FIRST).read_to_end(&mut bytes).map_err(|e| Error::io(path, e))?;
        let mut unpacked = false;
        if bytes.starts_with(&[0x1F, 0x8B]) {
            // Something else that is gzipped, and larger than this, is let be.
            let Ok(head) = inflate(flate2::read::MultiGzDecoder::new(&bytes[..]), FIRST, false) else { return Ok(None) };
            if !is_dicom(&head) {
                return Ok(None);
            }
            file.rewind().map_err(|e| Error::io(path, e))?;
            bytes = inflate(flate2::read::MultiGzDecoder::new(&file), unpacked_limit(len), true).map_err(|found| damaged(path, found))?;
            unpacked = true;
        }
        if !is_dicom(&bytes) {
            return Ok(None);
        }
        let mut content = Content {
            path: path.to_owned(),
            len,
            syntax: String::new(),
            encoding: Encoding::EXPLICIT,
            bytes,
            elements: Vec::new(),
            pixels: None,
            unpacked,
        };
        content.parse(&mut file)?;
        Ok(Some(content))
    }

    /// Walks the data set, reading on where it needs more of the file.
    fn parse(&mut self, file: &mut File) -> Result<()> {
        loop {
            let needed = match self.walk() {
                Ok(()) => return Ok(()),
                Err(Stop::Cut(needed)) => needed as u64,
                Err(Stop::Bad(found)) => return Err(damaged(&self.path, found)),
            };
            let have = self.bytes.len() as u64;
            if self.unpacked || needed > self.len {
                let found = format!("{} bytes and an element that ends at byte {needed}", if self.unpacked { have } else { self.len });
                return Err(Error::file(&self.path, found, "a whole DICOM file", "the file is cut short: copy it again"));
            }
            let more = needed.max(have * 4).min(self.len).saturating_sub(have);
            let mut part = file.by_ref().take(more);
            if part.read_to_end(&mut self.bytes).map_err(|e| Error::io(&self.path, e))? == 0 {
                return Err(damaged(&self.path, "a file that shrinks while it is read".into()));
            }
        }
    }

    fn walk(&mut self) -> Result<(), Stop> {
        self.elements.clear();
        let mut at = if self.bytes.get(128..132) == Some(b"DICM") { 132 } else { 0 };
        // The file meta information is explicit little-endian whatever follows.
        while let Ok(head) = head_at(&self.bytes, at, Encoding::EXPLICIT) {
            if head.tag >> 16 != 2 {
                break;
            }
            let (end, next) = end_of(&self.bytes, &head, Encoding::EXPLICIT, 0)?;
            if head.tag == tags::TRANSFER_SYNTAX_UID {
                let uid = Element { value: &self.bytes[head.at..end], vr: head.vr, encoding: Encoding::EXPLICIT };
                self.syntax = uid.text().into_owned();
            }
            at = next;
        }
        if self.syntax == DEFLATED && !self.unpacked {
            return self.unpack_from(at);
        }
        if self.unpacked && self.syntax == DEFLATED {
            at = 0;
        }
        let rest = self.bytes.get(at..).unwrap_or_default();
        // Files that say one encoding and are written in the other exist; the first element shows which it is.
        self.encoding = match guess(rest) {
            Some(seen) => Encoding { big_endian: seen.big_endian || self.syntax == BIG_ENDIAN, ..seen },
            None => Encoding::IMPLICIT,
        };
        let end = if self.unpacked { self.bytes.len() as u64 } else { self.len };
        while (at as u64) < end {
            let rest = self.bytes.get(at..).unwrap_or_default();
            // A few zeros at the end are padding.
            if end - at as u64 == rest.len() as u64 && rest.len() < 8 && rest.iter().all(|&b| b == 0) {
                break;
            }
            let head = head_at(&self.bytes, at, self.encoding)?;
            if matches!(head.tag, tags::PIXEL_DATA | tags::FLOAT_PIXEL_DATA | tags::DOUBLE_PIXEL_DATA) {
                self.pixels = Some(head);
                return Ok(());
            }
            let (end, next) = end_of(&self.bytes, &head, self.encoding, 0)?;
            if self.elements.len() == MOST_ELEMENTS {
                return Err(Stop::Bad(format!("more than {MOST_ELEMENTS} elements")));
            }
            self.elements.push((head, end));
            at = next;
        }
        Ok(())
    }

    /// A deflated data set, made to plain bytes.
    fn unpack_from(&mut self, at: usize) -> Result<(), Stop> {
        if (self.bytes.len() as u64) < self.len {
            return Err(Stop::Cut(usize::try_from(self.len).unwrap_or(usize::MAX)));
        }
        let packed = flate2::read::DeflateDecoder::new(&self.bytes[at..]);
        self.bytes = inflate(packed, unpacked_limit(self.len), true).map_err(Stop::Bad)?;
        self.unpacked = true;
        self.walk()
    }

    pub fn find(&self, tag: u32) -> Option<Element<'_>> {
        let (head, end) = self.elements.iter().find(|(head, _)| head.tag == tag)?;
        Some(Element { value: &self.bytes[head.at..*end], vr: head.vr, encoding: self.encoding })
    }

    /// The items of a sequence of the outermost level; none where it is missing.
    pub fn items(&self, tag: u32) -> impl Iterator<Item = DataSet<'_>> {
        self.find(tag).into_iter().flat_map(Element::items)
    }

    pub fn text(&self, tag: u32) -> String {
        self.find(tag).map(|e| e.text().into_owned()).unwrap_or_default()
    }

    pub fn u16(&self, tag: u32) -> Option<u16> {
        self.find(tag)?.u16()
    }

    pub fn numbers<const N: usize>(&self, tag: u32) -> Option<[f64; N]> {
        self.find(tag)?.numbers()
    }

    /// The bytes that the pixels are taken from, and where each fragment of encapsulated pixels lies (the offset table first).
    pub fn into_store(mut self) -> Result<(Store, Vec<std::ops::Range<u64>>)> {
        let Some(head) = self.pixels else { return Ok((Store::File(self.path), Vec::new())) };
        let mut fragments = Vec::new();
        if head.len == UNDEFINED {
            if !self.unpacked {
                let mut file = File::open(&self.path).map_err(|e| Error::io(&self.path, e))?;
                let have = self.bytes.len() as u64;
                file.seek(SeekFrom::Start(have)).map_err(|e| Error::io(&self.path, e))?;
                file.take(self.len.saturating_sub(have)).read_to_end(&mut self.bytes).map_err(|e| Error::io(&self.path, e))?;
            }
            let mut at = head.at;
            loop {
                let cut = |_| {
                    let found = format!("compressed pixels that stop after {} fragments", fragments.len());
                    Error::file(&self.path, found, "a whole DICOM file", "the file is cut short: copy it again")
                };
                let item = head_at(&self.bytes, at, self.encoding).map_err(cut)?;
                if item.tag != tags::ITEM {
                    break;
                }
                let (end, next) = end_of(&self.bytes, &item, self.encoding, 0).map_err(cut)?;
                fragments.push(item.at as u64..end as u64);
                at = next;
            }
        }
        Ok((if self.unpacked { Store::Memory(Arc::new(self.bytes)) } else { Store::File(self.path) }, fragments))
    }
}

/// Where pixels are read from, any number of times.
#[derive(Clone)]
pub enum Store {
    File(PathBuf),
    /// Content that was packed.
    Memory(Arc<Vec<u8>>),
}

impl Store {
    /// Reads `range` into `out` (appending). The range lies inside the file: its size was seen when it was opened.
    pub fn read(&self, path: &Path, range: &std::ops::Range<u64>, out: &mut Vec<u8>) -> Result<()> {
        let count = range.end.saturating_sub(range.start);
        let before = out.len();
        match self {
            Store::Memory(bytes) => {
                let part = bytes.get(range.start as usize..range.end as usize).unwrap_or_default();
                out.extend_from_slice(part);
            }
            Store::File(file) => {
                let mut file = File::open(file).map_err(|e| Error::io(path, e))?;
                file.seek(SeekFrom::Start(range.start)).map_err(|e| Error::io(path, e))?;
                let inside = file.metadata().map_err(|e| Error::io(path, e))?.len().saturating_sub(range.start);
                out.reserve(count.min(inside) as usize);
                file.take(count).read_to_end(out).map_err(|e| Error::io(path, e))?;
            }
        }
        if (out.len() - before) as u64 == count {
            return Ok(());
        }
        let found = format!("{} bytes of pixels from byte {}", out.len() - before, range.start);
        Err(Error::file(path, found, format!("the {count} that its header announces"), "the file is cut short: copy it again"))
    }
}

/// Half of what a file may take: the vector that grows may be twice as large as what is in it.
fn unpacked_limit(len: u64) -> u64 {
    len.saturating_mul(2).saturating_add(ALLOWANCE / 2)
}

/// All of a packed stream, at most `limit` bytes; where not `whole`, as much as there is.
fn inflate(stream: impl Read, limit: u64, whole: bool) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let got = stream.take(limit.saturating_add(u64::from(whole))).read_to_end(&mut bytes);
    match got {
        _ if whole && bytes.len() as u64 > limit => Err(format!("packed data that grows to more than {} MiB", limit >> 20)),
        Err(e) if whole => Err(format!("damaged packed data ({e})")),
        _ => Ok(bytes),
    }
}

fn damaged(path: &Path, found: String) -> Error {
    Error::file(path, found, "a sound DICOM file", "copy the file again, or convert the series (dcm2niix)")
}

/// A name for what an element should have said.
pub fn missing(path: &Path, tag: u32, what: &str) -> Error {
    Error::file(path, format!("no usable {what} {}", element::name(tag)), "an image slice", "export the series again")
}
