//! A small DICOM writer: elements by tag, in any of the encodings, and CT slices with settings that each test turns.

use std::path::Path;

use super::tags;

#[derive(Clone, Copy, PartialEq)]
pub enum Encoding {
    Implicit,
    Explicit,
    BigEndian,
}

#[derive(Clone)]
pub enum Value {
    Text(String),
    Us(u16),
    Bytes(Vec<u8>),
    Items(Vec<Dcm>),
    /// Compressed frames, each one fragment.
    Fragments(Vec<Vec<u8>>),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text)
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Value::Us(number)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(bytes)
    }
}

impl From<Vec<Dcm>> for Value {
    fn from(items: Vec<Dcm>) -> Self {
        Value::Items(items)
    }
}

/// A data set.
#[derive(Clone, Default)]
pub struct Dcm {
    elements: std::collections::BTreeMap<u32, Value>,
    pub syntax: &'static str,
    /// Leave out preamble and meta information.
    pub bare: bool,
    /// Sequences and items end with delimiters.
    pub undefined: bool,
}

impl Dcm {
    pub fn new(syntax: &'static str) -> Self {
        Dcm { syntax, ..Default::default() }
    }

    pub fn with(mut self, tag: u32, value: impl Into<Value>) -> Self {
        self.elements.insert(tag, value.into());
        self
    }

    pub fn without(mut self, tag: u32) -> Self {
        self.elements.remove(&tag);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let encoding = match self.syntax {
            "1.2.840.10008.1.2" => Encoding::Implicit,
            "1.2.840.10008.1.2.2" => Encoding::BigEndian,
            _ => Encoding::Explicit,
        };
        let mut body = Vec::new();
        self.write(&mut body, encoding, self.undefined);
        if self.bare {
            return body;
        }
        if self.syntax == "1.2.840.10008.1.2.1.99" {
            let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut packer, &body).unwrap();
            body = packer.finish().unwrap();
        }
        let mut out = vec![0; 128];
        out.extend_from_slice(b"DICM");
        element(&mut out, tags::TRANSFER_SYNTAX_UID, &self.syntax.into(), Encoding::Explicit, false);
        out.extend(body);
        out
    }

    fn write(&self, out: &mut Vec<u8>, encoding: Encoding, undefined: bool) {
        for (&tag, value) in &self.elements {
            element(out, tag, value, encoding, undefined);
        }
    }
}

fn u16_bytes(v: u16, encoding: Encoding) -> [u8; 2] {
    if encoding == Encoding::BigEndian { v.to_be_bytes() } else { v.to_le_bytes() }
}

fn u32_bytes(v: u32, encoding: Encoding) -> [u8; 4] {
    if encoding == Encoding::BigEndian { v.to_be_bytes() } else { v.to_le_bytes() }
}

fn tag_bytes(tag: u32, encoding: Encoding) -> Vec<u8> {
    [u16_bytes((tag >> 16) as u16, encoding), u16_bytes(tag as u16, encoding)].concat()
}

fn element(out: &mut Vec<u8>, tag: u32, value: &Value, encoding: Encoding, undefined: bool) {
    let (vr, bytes, open) = match value {
        Value::Text(text) => (if tag >> 16 == 2 { b"UI" } else { b"LO" }, text.as_bytes().to_vec(), false),
        Value::Us(number) => (b"US", u16_bytes(*number, encoding).to_vec(), false),
        Value::Bytes(bytes) => (b"OW", bytes.clone(), false),
        Value::Items(items) => {
            let mut all = Vec::new();
            for item in items {
                let mut body = Vec::new();
                item.write(&mut body, encoding, undefined);
                all.extend(tag_bytes(tags::ITEM, encoding));
                all.extend(u32_bytes(if undefined { u32::MAX } else { body.len() as u32 }, encoding));
                all.extend(body);
                if undefined {
                    all.extend(tag_bytes(tags::ITEM_END, encoding));
                    all.extend([0; 4]);
                }
            }
            (b"SQ", all, undefined)
        }
        Value::Fragments(frames) => {
            let mut all = [tag_bytes(tags::ITEM, encoding), vec![0; 4]].concat();
            for frame in frames {
                all.extend(tag_bytes(tags::ITEM, encoding));
                all.extend(u32_bytes(frame.len() as u32 + frame.len() as u32 % 2, encoding));
                all.extend(frame);
                all.resize(all.len() + frame.len() % 2, 0);
            }
            (b"OB", all, true)
        }
    };
    let long = matches!(value, Value::Bytes(_) | Value::Items(_) | Value::Fragments(_));
    // Long text (contours) needs a long length as well.
    let (vr, long) = if bytes.len() > 60_000 && !long { (b"UT", true) } else { (vr, long) };
    let len = if open { u32::MAX } else { (bytes.len() + bytes.len() % 2) as u32 };
    out.extend(tag_bytes(tag, encoding));
    match (encoding, long) {
        (Encoding::Implicit, _) => out.extend(u32_bytes(len, encoding)),
        (_, true) => out.extend([vr.as_slice(), &[0; 2], &u32_bytes(len, encoding)].concat()),
        (_, false) => out.extend([vr.as_slice(), &u16_bytes(len as u16, encoding)].concat()),
    }
    out.extend(&bytes);
    if !open && bytes.len() % 2 == 1 {
        out.push(if matches!(value, Value::Text(_)) { b' ' } else { 0 });
    }
    if open {
        out.extend(tag_bytes(tags::SEQUENCE_END, encoding));
        out.extend([0; 4]);
    }
}

/// A text of numbers.
pub fn ds(numbers: &[f64]) -> String {
    numbers.iter().map(f64::to_string).collect::<Vec<_>>().join("\\")
}

/// One slice of a CT; 4 columns, 3 rows, its pixels counting up from `first`, unless a test says otherwise.
#[derive(Clone)]
pub struct CtSlice {
    pub dcm: Dcm,
}

pub const NX: usize = 4;
pub const NY: usize = 3;

impl CtSlice {
    /// An axial slice at height `z`, whose stored numbers are `first`, `first + 1`, ...
    pub fn at(z: f64, first: i16) -> Self {
        let pixels: Vec<u8> = (0..(NX * NY) as i16).flat_map(|i| (first + i).to_le_bytes()).collect();
        let dcm = Dcm::new("1.2.840.10008.1.2.1")
            .with(tags::SOP_CLASS_UID, "1.2.840.10008.5.1.4.1.1.2")
            .with(tags::MODALITY, "CT")
            .with(tags::IMAGE_TYPE, "ORIGINAL\\PRIMARY\\AXIAL")
            .with(tags::SERIES_INSTANCE_UID, "1.2.3")
            .with(tags::SERIES_DESCRIPTION, "Abdomen")
            .with(tags::SLICE_THICKNESS, "2.0")
            .with(tags::SAMPLES_PER_PIXEL, 1)
            .with(tags::PHOTOMETRIC_INTERPRETATION, "MONOCHROME2")
            .with(tags::ROWS, NY as u16)
            .with(tags::COLUMNS, NX as u16)
            .with(tags::PIXEL_SPACING, ds(&[0.5, 0.25]))
            .with(tags::BITS_ALLOCATED, 16)
            .with(tags::BITS_STORED, 16)
            .with(tags::HIGH_BIT, 15)
            .with(tags::PIXEL_REPRESENTATION, 1)
            .with(tags::RESCALE_SLOPE, "1")
            .with(tags::RESCALE_INTERCEPT, "0")
            .with(tags::IMAGE_POSITION, ds(&[10.0, -20.0, z]))
            .with(tags::IMAGE_ORIENTATION, ds(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
            .with(tags::PIXEL_DATA, pixels);
        CtSlice { dcm }
    }

    pub fn with(mut self, tag: u32, value: impl Into<Value>) -> Self {
        self.dcm = self.dcm.with(tag, value);
        self
    }

    pub fn without(mut self, tag: u32) -> Self {
        self.dcm = self.dcm.without(tag);
        self
    }

    pub fn words(self, numbers: &[u16]) -> Self {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        self.with(tags::PIXEL_DATA, bytes)
    }

    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.dcm.bytes()).unwrap();
    }
}
