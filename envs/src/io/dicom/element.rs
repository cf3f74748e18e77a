//! Walking a data set in place: elements are slices of the file, and nothing is allocated for what a length says.
//!
//! `dicom-parser` makes its buffers as long as an element claims to be (4 GiB for a file of 20 bytes), so it can't keep the bound on memory
//! that readers have here.

use std::borrow::Cow;

use super::tags;

/// How deep sequences may nest; real ones go to about 8, and each level is a call.
const DEPTH: usize = 32;
/// The length of what ends with a delimiter.
pub const UNDEFINED: u32 = u32::MAX;

/// How the elements of a data set are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    pub explicit: bool,
    pub big_endian: bool,
}

impl Encoding {
    pub const IMPLICIT: Encoding = Encoding { explicit: false, big_endian: false };
    pub const EXPLICIT: Encoding = Encoding { explicit: true, big_endian: false };

    pub fn u16(self, bytes: &[u8]) -> Option<u16> {
        let b = *bytes.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    }

    pub fn u32(self, bytes: &[u8]) -> Option<u32> {
        let b = *bytes.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    }
}

/// Why a walk ended early.
#[derive(Debug)]
pub enum Stop {
    /// In the middle of something that needs this many bytes from the start.
    Cut(usize),
    Bad(String),
}

/// The head of an element: what it is, where its value starts, how long it says it is.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub tag: u32,
    pub vr: [u8; 2],
    pub at: usize,
    pub len: u32,
}

/// Whether two bytes are a VR of explicit encoding.
pub fn is_vr(vr: &[u8]) -> bool {
    const ALL: &[u8] = b"AEASATCSDADSDTFDFLISLOLTOBODOFOLOVOWPNSHSLSQSSSTSVTMUCUIULUNURUSUTUV";
    ALL.chunks_exact(2).any(|known| known == vr)
}

pub fn head_at(bytes: &[u8], at: usize, encoding: Encoding) -> Result<Head, Stop> {
    let cut = |more: usize| Stop::Cut(at.saturating_add(more));
    let rest = bytes.get(at..).ok_or(cut(8))?;
    let (Some(group), Some(element)) = (encoding.u16(rest), rest.get(2..).and_then(|b| encoding.u16(b))) else { return Err(cut(8)) };
    let tag = (group as u32) << 16 | element as u32;
    let after = rest.get(4..8).ok_or(cut(8))?;
    let vr = [after[0], after[1]];
    // Delimiters and items have no VR in either encoding; neither have elements that some writers leave implicit among explicit ones.
    if !encoding.explicit || group == 0xFFFE || !vr.iter().all(u8::is_ascii_uppercase) {
        let len = encoding.u32(after).ok_or(cut(8))?;
        return Ok(Head { tag, vr: *b"--", at: at + 8, len });
    }
    if matches!(&vr, b"OB" | b"OD" | b"OF" | b"OL" | b"OV" | b"OW" | b"SQ" | b"SV" | b"UC" | b"UN" | b"UR" | b"UT" | b"UV") {
        let len = rest.get(8..).and_then(|b| encoding.u32(b)).ok_or(cut(12))?;
        return Ok(Head { tag, vr, at: at + 12, len });
    }
    let len = encoding.u16(&after[2..]).ok_or(cut(8))? as u32;
    Ok(Head { tag, vr, at: at + 8, len })
}

/// Where the value of an element ends and where the next element starts.
pub fn end_of(bytes: &[u8], head: &Head, encoding: Encoding, depth: usize) -> Result<(usize, usize), Stop> {
    if head.len != UNDEFINED {
        let end = head.at.saturating_add(head.len as usize);
        return if end > bytes.len() { Err(Stop::Cut(end)) } else { Ok((end, end)) };
    }
    if depth >= DEPTH {
        return Err(Stop::Bad(format!("sequences nested more than {DEPTH} deep")));
    }
    let inner = inside(head.vr, encoding);
    let mut at = head.at;
    loop {
        let item = head_at(bytes, at, inner)?;
        at = match item.tag {
            tags::SEQUENCE_END => return Ok((at, item.at)),
            tags::ITEM => item_end(bytes, &item, inner, depth + 1)?.1,
            tag => return Err(Stop::Bad(format!("{} where an item of {} should be", name(tag), name(head.tag)))),
        };
    }
}

fn item_end(bytes: &[u8], item: &Head, encoding: Encoding, depth: usize) -> Result<(usize, usize), Stop> {
    if item.len != UNDEFINED {
        return end_of(bytes, item, encoding, depth);
    }
    let mut at = item.at;
    loop {
        let head = head_at(bytes, at, encoding)?;
        if head.tag == tags::ITEM_END {
            return Ok((at, head.at));
        }
        at = end_of(bytes, &head, encoding, depth)?.1;
    }
}

/// Sequences that a gateway could not name (VR UN) hold implicit little-endian items (PS3.5, 6.2.2).
fn inside(vr: [u8; 2], encoding: Encoding) -> Encoding {
    if vr == *b"UN" { Encoding::IMPLICIT } else { encoding }
}

/// `(0028,0010)`
pub fn name(tag: u32) -> String {
    format!("({:04x},{:04x})", tag >> 16, tag & 0xFFFF)
}

/// The elements of an item.
#[derive(Clone, Copy)]
pub struct DataSet<'a> {
    bytes: &'a [u8],
    encoding: Encoding,
}

impl<'a> DataSet<'a> {
    /// The first element of this tag, where there is one and all before it is sound.
    pub fn find(self, tag: u32) -> Option<Element<'a>> {
        let mut at = 0;
        while at < self.bytes.len() {
            let head = head_at(self.bytes, at, self.encoding).ok()?;
            let (end, next) = end_of(self.bytes, &head, self.encoding, 0).ok()?;
            if head.tag == tag {
                return Some(Element { value: &self.bytes[head.at..end], vr: head.vr, encoding: self.encoding });
            }
            at = next;
        }
        None
    }

    /// The element `tag` of the first item of `sequence`: how functional groups hold what they say.
    pub fn find_in(self, sequence: u32, tag: u32) -> Option<Element<'a>> {
        self.find(sequence)?.items().next()?.find(tag)
    }
}

/// The value of an element.
#[derive(Clone, Copy)]
pub struct Element<'a> {
    pub value: &'a [u8],
    pub vr: [u8; 2],
    pub encoding: Encoding,
}

impl<'a> Element<'a> {
    /// Text without its padding. What is no UTF-8 is taken for Latin-1, so that no byte is lost.
    pub fn text(self) -> Cow<'a, str> {
        let value = self.value.trim_ascii_end();
        let end = value.iter().rposition(|&b| b != 0 && b != b' ').map_or(0, |last| last + 1);
        let value = value[..end].trim_ascii_start();
        match std::str::from_utf8(value) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(value.iter().map(|&b| b as char).collect()),
        }
    }

    /// The numbers of a text (DS, IS), `None` for each that is no finite one.
    pub fn decimals(self) -> impl Iterator<Item = Option<f64>> + 'a {
        self.value.split(|&b| b == b'\\').map(|part| {
            let end = part.iter().position(|&b| b == 0).unwrap_or(part.len());
            let number: f64 = std::str::from_utf8(&part[..end]).ok()?.trim().parse().ok()?;
            number.is_finite().then_some(number)
        })
    }

    /// Exactly `N` numbers of a text.
    pub fn numbers<const N: usize>(self) -> Option<[f64; N]> {
        let mut all = [0.0; N];
        let mut parts = self.decimals();
        for number in &mut all {
            *number = parts.next()??;
        }
        parts.next().is_none().then_some(all)
    }

    /// A binary whole number of two bytes (US; SS as its bits).
    pub fn u16(self) -> Option<u16> {
        self.encoding.u16(self.value)
    }

    /// The items of a sequence, up to the first that is not sound.
    pub fn items(self) -> impl Iterator<Item = DataSet<'a>> {
        let (bytes, encoding) = (self.value, inside(self.vr, self.encoding));
        let mut at = 0;
        std::iter::from_fn(move || {
            let item = head_at(bytes, at, encoding).ok().filter(|item| item.tag == tags::ITEM)?;
            let (end, next) = item_end(bytes, &item, encoding, 0).ok()?;
            at = next;
            Some(DataSet { bytes: &bytes[item.at..end], encoding })
        })
    }
}
