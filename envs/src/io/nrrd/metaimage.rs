//! The header of a MetaImage (`.mha`, `.mhd` with `.raw` or `.zraw`), as ITK reads it.

use std::collections::BTreeMap;
use std::path::Path;

use super::body::Place;
use super::text::clipped;
use super::{Header, MOST_HEADER_BYTES, Scalar, Warning, geometry, refuse, shape};
use crate::Result;

/// A file that begins with a line `ObjectType = Image`, `NDims = 3` or a comment before them.
pub(super) fn is_metaimage(head: &[u8]) -> bool {
    let line = head.split(|&b| b == b'\n').next().unwrap_or_default();
    let key = line.split(|&b| b == b'=').next().unwrap_or_default();
    key.len() < line.len() && matches!(key.trim_ascii(), b"ObjectType" | b"NDims" | b"Comment" | b"ObjectSubType")
}

pub(super) fn parse(path: &Path, head: &[u8]) -> Result<Header> {
    let (mut fields, mut end) = (BTreeMap::new(), 0);
    for line in head.split_inclusive(|&b| b == b'\n') {
        end += line.len();
        let text = String::from_utf8_lossy(line);
        let Some((key, value)) = text.split_once('=') else {
            return refuse(path, format!("a header line {:?}", clipped(text.trim())), "`Key = Value`", "repair the header");
        };
        let key = key.trim().to_owned();
        let last = key == "ElementDataFile";
        fields.insert(key, value.trim().to_owned());
        if last {
            break;
        }
    }
    if !fields.contains_key("ElementDataFile") {
        let found = if head.len() >= MOST_HEADER_BYTES { "no end of the header" } else { "a header without ElementDataFile" };
        return refuse(path, found, "a complete header", "the file is cut short: copy it again");
    }
    Fields { path, fields }.header(end as u64)
}

struct Fields<'a> {
    path: &'a Path,
    fields: BTreeMap<String, String>,
}

impl Fields<'_> {
    fn header(self, end: u64) -> Result<Header> {
        let path = self.path;
        if let Some(kind) = self.get(&["ObjectType"]).filter(|k| *k != "Image") {
            return refuse(path, format!("ObjectType = {}", clipped(kind)), "Image", "give the scan");
        }
        let sizes = self.numbers::<u64>("DimSize", &["DimSize"])?;
        let axes = sizes.len();
        if self.get(&["NDims"]).and_then(|n| n.parse().ok()) != Some(axes) {
            let found = format!("NDims = {}, {axes} sizes", clipped(self.get(&["NDims"]).unwrap_or_default()));
            return refuse(path, found, "one size an axis", "repair the header");
        }
        let (space, rest) = sizes.split_at(axes.min(3));
        let shape = shape(path, space, rest)?;
        if let Some(n) = self.get(&["ElementNumberOfChannels"]).filter(|n| *n != "1") {
            return refuse(path, format!("{} values a voxel", clipped(n)), "one", "split the channels");
        }
        let intensity = [("ElementToIntensityFunctionSlope", "1"), ("ElementToIntensityFunctionOffset", "0")];
        for (key, plain) in intensity {
            if let Some(v) = self.get(&[key]).filter(|v| v.parse::<f64>().ok() != plain.parse().ok()) {
                return refuse(path, format!("{key} = {}", clipped(v)), plain, "write the file again with HU as voxels");
            }
        }
        if self.truth(&["BinaryData"], true)? {
            let (geometry, warnings) = self.geometry(shape, axes)?;
            let deflated = self.truth(&["CompressedData"], false)?;
            let scalar = self.scalar()?;
            let big_endian = self.truth(&["BinaryDataByteOrderMSB", "ElementByteOrderMSB"], false)?;
            let place = self.place(end)?;
            return Ok(Header { format: "MetaImage", geometry, scalar, big_endian, deflated, place, warnings });
        }
        refuse(path, "voxels as text", "binary voxels", "write the file again with BinaryData = True")
    }

    /// The value under the first of several names.
    fn get(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|n| self.fields.get(*n)).map(String::as_str)
    }

    fn numbers<T: std::str::FromStr>(&self, what: &str, names: &[&str]) -> Result<Vec<T>> {
        let value = self.get(names).unwrap_or_default();
        let parsed: Option<Vec<T>> = value.split_whitespace().map(|n| n.parse().ok()).collect();
        match parsed.filter(|n| !n.is_empty()) {
            Some(numbers) => Ok(numbers),
            None => refuse(self.path, format!("{what} = {:?}", clipped(value)), "numbers", "repair the header"),
        }
    }

    /// `count` numbers, or `None` where nobody gave any.
    fn given(&self, names: &[&str], count: usize) -> Result<Option<Vec<f64>>> {
        if self.get(names).is_none() {
            return Ok(None);
        }
        let numbers = self.numbers::<f64>(names[0], names)?;
        if numbers.len() != count {
            return refuse(self.path, format!("{} = {} numbers", names[0], numbers.len()), &count.to_string(), "repair the header");
        }
        Ok(Some(numbers))
    }

    fn truth(&self, names: &[&str], default: bool) -> Result<bool> {
        match self.get(names).map(str::to_lowercase).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => refuse(self.path, format!("{} = {}", names[0], clipped(other)), "True or False", "repair the header"),
        }
    }

    fn geometry(&self, shape: [usize; 3], axes: usize) -> Result<(crate::volume::Geometry, Vec<Warning>)> {
        let mut warnings = Vec::new();
        let Some(spacing) = self.given(&["ElementSpacing", "ElementSize"], axes)? else {
            return refuse(self.path, "no voxel size", "ElementSpacing", "write the file again with its geometry");
        };
        let matrix = match self.given(&["TransformMatrix", "Rotation", "Orientation"], axes * axes)? {
            Some(matrix) => matrix,
            None => {
                warnings.push(Warning::new("no TransformMatrix", "directions of the axes", "check that left and right are not swapped"));
                (0..axes * axes).map(|i| f64::from(u8::from(i % (axes + 1) == 0))).collect()
            }
        };
        let origin = match self.given(&["Offset", "Position", "Origin"], axes)? {
            Some(origin) => origin,
            None => {
                warnings.push(Warning::new("no Offset", "the first voxel's position", "check where results lie, or add the offset"));
                vec![0.0; axes]
            }
        };
        // Each three numbers are the direction of one axis.
        let directions = std::array::from_fn(|a| std::array::from_fn(|r| matrix[a * axes + r] * spacing[a]));
        let geometry = geometry(self.path, shape, directions, [origin[0], origin[1], origin[2]], [-1.0, -1.0, 1.0])?;
        Ok((geometry, warnings))
    }

    fn scalar(&self) -> Result<Scalar> {
        Ok(match self.get(&["ElementType"]).unwrap_or_default() {
            "MET_CHAR" | "MET_ASCII_CHAR" => Scalar::I8,
            "MET_UCHAR" => Scalar::U8,
            "MET_SHORT" => Scalar::I16,
            "MET_USHORT" => Scalar::U16,
            "MET_INT" | "MET_LONG" => Scalar::I32,
            "MET_UINT" | "MET_ULONG" => Scalar::U32,
            "MET_LONG_LONG" => Scalar::I64,
            "MET_ULONG_LONG" => Scalar::U64,
            "MET_FLOAT" => Scalar::F32,
            "MET_DOUBLE" => Scalar::F64,
            other => {
                return refuse(
                    self.path,
                    format!("ElementType = {}", clipped(other)),
                    "a scalar type such as MET_SHORT",
                    "convert the file",
                );
            }
        })
    }

    fn place(&self, end: u64) -> Result<Place> {
        let skip = self.get(&["HeaderSize"]).map_or(Ok(0), |v| {
            let parsed = v.parse::<i64>().ok().filter(|n| *n >= -1);
            parsed.map_or_else(|| refuse(self.path, format!("HeaderSize = {}", clipped(v)), "-1 or more", "repair the header"), Ok)
        })?;
        let bytes = u64::try_from(skip).ok();
        match self.get(&["ElementDataFile"]).unwrap_or_default() {
            "LOCAL" | "Local" | "local" => Ok(Place { file: None, start: end, lines: 0, bytes: Some(0) }),
            name if name.is_empty() || name.starts_with("LIST") || name.contains('%') => refuse(
                self.path,
                format!("ElementDataFile = {}", clipped(name)),
                "LOCAL or one file",
                "join the slices into one file (SimpleITK)",
            ),
            name => Ok(Place { file: Some(self.path.parent().unwrap_or(Path::new("")).join(name)), start: 0, lines: 0, bytes }),
        }
    }
}
