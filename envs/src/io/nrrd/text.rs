//! The header of an NRRD file (<https://teem.sourceforge.net/nrrd/format.html>).

use std::collections::BTreeMap;
use std::path::Path;

use super::body::Place;
use super::{Header, MOST_HEADER_BYTES, Scalar, Warning, geometry, refuse, shape};
use crate::Result;

/// Fields that say nothing about where voxels are, by their names without spaces.
const OF_NO_USE: [&str; 18] = [
    "blocksize",
    "centerings",
    "centers",
    "content",
    "labels",
    "units",
    "axismins",
    "axismaxs",
    "axismins",
    "thicknesses",
    "min",
    "max",
    "oldmin",
    "oldmax",
    "number",
    "sampleunits",
    "measurementframe",
    "spacedimension",
];
const USED: [&str; 14] = [
    "dimension",
    "type",
    "sizes",
    "encoding",
    "endian",
    "space",
    "spacedirections",
    "spaceorigin",
    "spaceunits",
    "spacings",
    "kinds",
    "byteskip",
    "lineskip",
    "datafile",
];

pub(super) fn parse(path: &Path, head: &[u8]) -> Result<Header> {
    let (lines, end) = lines(path, head)?;
    let mut warnings = Vec::new();
    let mut fields = BTreeMap::new();
    for (number, line) in lines.iter().enumerate() {
        let line = line.trim();
        // Comments, and `key:=value` pairs of the program that wrote it.
        if line.starts_with('#') || line.split_once(":=").is_some_and(|(key, _)| !key.contains(": ")) {
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            return refuse(path, format!("line {} of the header, {:?}", number + 1, clipped(line)), "`field: value`", "repair the header");
        };
        // `byte skip` and `byteskip` are the same field.
        let name: String = name.chars().filter(|c| !c.is_whitespace()).flat_map(char::to_lowercase).collect();
        if OF_NO_USE.contains(&name.as_str()) {
            continue;
        }
        if !USED.contains(&name.as_str()) {
            warnings.push(Warning::new(format!("a header field {:?}", clipped(&name)), "a field of the NRRD format", "check the header"));
            continue;
        }
        let value = value.trim();
        if fields.insert(name.clone(), value).is_some_and(|before| before != value) {
            return refuse(path, format!("two different fields `{}`", clipped(&name)), "one", "repair the header");
        }
    }
    Fields { path, fields, warnings }.header(end)
}

/// The lines behind the magic up to the empty line that ends the header, and where the voxels begin; `None`: the header ends with the file.
fn lines<'a>(path: &Path, head: &'a [u8]) -> Result<(Vec<std::borrow::Cow<'a, str>>, Option<u64>)> {
    let (mut lines, mut at, mut end) = (Vec::new(), 0, None);
    for line in head.split_inclusive(|&b| b == b'\n') {
        at += line.len();
        let text = String::from_utf8_lossy(line);
        if text.trim().is_empty() {
            end = Some(at as u64);
            break;
        }
        lines.push(text);
    }
    if end.is_none() && head.len() >= MOST_HEADER_BYTES {
        return refuse(path, format!("no end of the header in {MOST_HEADER_BYTES} bytes"), "an empty line", "repair the header");
    }
    match lines.first().map(|l| l.trim().to_owned()) {
        Some(magic) if matches!(magic.as_str(), "NRRD0001" | "NRRD0002" | "NRRD0003" | "NRRD0004" | "NRRD0005") => {
            lines.remove(0);
            Ok((lines, end))
        }
        magic => {
            let found = format!("a first line {:?}", clipped(&magic.unwrap_or_default()));
            refuse(path, found, "NRRD0001 to NRRD0005", "convert the file (3D Slicer, unu)")
        }
    }
}

struct Fields<'a> {
    path: &'a Path,
    fields: BTreeMap<String, &'a str>,
    warnings: Vec<Warning>,
}

impl Fields<'_> {
    fn header(mut self, end: Option<u64>) -> Result<Header> {
        let path = self.path;
        let sizes = self.numbers::<u64>("sizes")?;
        let dimension = self.number::<usize>("dimension")?;
        if sizes.len() != dimension {
            return refuse(path, format!("{} sizes of {dimension} axes", sizes.len()), "one an axis", "repair the header");
        }
        let space: Vec<usize> = self.axes_in_space(dimension)?;
        let rest: Vec<u64> = (0..dimension).filter(|a| !space.contains(a)).map(|a| sizes[a]).collect();
        let shape = shape(path, &space.iter().map(|&a| sizes[a]).collect::<Vec<_>>(), &rest)?;
        let scalar = self.scalar()?;
        let big_endian = self.big_endian(scalar)?;
        let deflated = self.deflated()?;
        let geometry = {
            let directions = self.directions(&space, dimension)?;
            let origin = self.origin()?;
            let to_ras = self.signs()?;
            geometry(path, shape, directions, origin, to_ras)?
        };
        let place = self.place(end)?;
        Ok(Header { format: "NRRD", geometry, scalar, big_endian, deflated, place, warnings: self.warnings })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.fields.get(name).copied()
    }

    fn needed(&self, name: &str) -> Result<&str> {
        match self.get(name) {
            Some(value) => Ok(value),
            None => refuse(self.path, format!("no field `{name}`"), "a complete header", "write the file again"),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<T> {
        let value = self.needed(name)?;
        value.parse().or_else(|_| refuse(self.path, format!("{name}: {:?}", clipped(value)), "a number", "repair the header"))
    }

    fn numbers<T: std::str::FromStr>(&self, name: &str) -> Result<Vec<T>> {
        let value = self.needed(name)?;
        let parsed = value.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>();
        parsed.or_else(|_| refuse(self.path, format!("{name}: {:?}", clipped(value)), "numbers", "repair the header"))
    }

    /// The stored axes that lie in space: by their directions, else by their kinds, else all.
    fn axes_in_space(&self, dimension: usize) -> Result<Vec<usize>> {
        let flags: Vec<bool> = match (self.get("spacedirections"), self.get("kinds")) {
            (Some(text), _) => vectors(text).iter().map(|v| v != "none").collect(),
            (None, Some(kinds)) => {
                kinds.split_whitespace().map(|k| matches!(k.to_lowercase().as_str(), "domain" | "space" | "???" | "none")).collect()
            }
            (None, None) => vec![true; dimension],
        };
        if flags.len() != dimension {
            let found = format!("directions or kinds of {} axes", flags.len());
            return refuse(self.path, found, &format!("one for each of {dimension}"), "repair the header");
        }
        Ok((0..dimension).filter(|&a| flags[a]).collect())
    }

    fn directions(&mut self, space: &[usize], dimension: usize) -> Result<[[f64; 3]; 3]> {
        let mut directions = [[0.0; 3]; 3];
        if let Some(text) = self.get("spacedirections") {
            let vectors = vectors(text);
            for (d, &a) in directions.iter_mut().zip(space) {
                *d = match vectors.get(a).and_then(|v| vector(v)) {
                    Some(v) => v,
                    None => {
                        let found = format!("space directions: {:?}", clipped(text));
                        return refuse(self.path, found, "vectors such as (1,0,0)", "repair the header");
                    }
                };
            }
            return self.in_mm().map(|()| directions);
        }
        if self.get("spacings").is_none() {
            return refuse(self.path, "no voxel size", "space directions or spacings", "write the file again with its geometry");
        }
        let spacings = self.numbers::<f64>("spacings")?;
        if spacings.len() != dimension {
            return refuse(self.path, format!("{} spacings of {dimension} axes", spacings.len()), "one an axis", "repair the header");
        }
        for (c, (d, &a)) in directions.iter_mut().zip(space).enumerate() {
            d[c] = spacings[a];
        }
        self.warnings.push(Warning::new(
            "voxel sizes without directions",
            "space directions",
            "check that the scan's first axis runs to the left, its second to the back, its third to the head",
        ));
        Ok(directions)
    }

    fn in_mm(&self) -> Result<()> {
        match self.get("spaceunits") {
            Some(units) if units.split('"').any(|u| !matches!(u.trim(), "" | "mm" | "millimeter" | "millimeters" | "???")) => {
                refuse(self.path, format!("space units: {:?}", clipped(units)), "mm", "write the geometry in mm")
            }
            _ => Ok(()),
        }
    }

    fn origin(&mut self) -> Result<[f64; 3]> {
        let Some(text) = self.get("spaceorigin") else {
            self.warnings.push(Warning::new("no space origin", "the first voxel's position", "check where results lie, or add the origin"));
            return Ok([0.0; 3]);
        };
        match vector(text) {
            Some(v) => Ok(v),
            None => refuse(self.path, format!("space origin: {:?}", clipped(text)), "a vector such as (0,0,0)", "repair the header"),
        }
    }

    /// Signs that bring the header's space to right, anterior, superior.
    fn signs(&mut self) -> Result<[f64; 3]> {
        let space = self.get("space").map(str::to_lowercase);
        match space.as_deref() {
            Some("left-posterior-superior" | "lps") => Ok([-1.0, -1.0, 1.0]),
            Some("right-anterior-superior" | "ras") => Ok([1.0, 1.0, 1.0]),
            Some("left-anterior-superior" | "las") => Ok([-1.0, 1.0, 1.0]),
            Some(time) if time.ends_with("-time") || matches!(time, "rast" | "last" | "lpst") => {
                refuse(self.path, format!("space: {}", clipped(time)), "a space of three axes", "split the series into single volumes")
            }
            other => {
                let found = other.map_or("no space".to_owned(), |s| format!("space: {}", clipped(s)));
                let expected = "left-posterior-superior, right-anterior-superior or left-anterior-superior";
                let action = "it was read as left-posterior-superior: check that left and right are not swapped";
                self.warnings.push(Warning::new(found, expected, action));
                Ok([-1.0, -1.0, 1.0])
            }
        }
    }

    fn scalar(&self) -> Result<Scalar> {
        let name = self.needed("type")?.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        Ok(match name.as_str() {
            "signed char" | "int8" | "int8_t" => Scalar::I8,
            "uchar" | "unsigned char" | "uint8" | "uint8_t" => Scalar::U8,
            "short" | "short int" | "signed short" | "signed short int" | "int16" | "int16_t" => Scalar::I16,
            "ushort" | "unsigned short" | "unsigned short int" | "uint16" | "uint16_t" => Scalar::U16,
            "int" | "signed int" | "int32" | "int32_t" => Scalar::I32,
            "uint" | "unsigned int" | "uint32" | "uint32_t" => Scalar::U32,
            "longlong" | "long long" | "long long int" | "signed long long" | "signed long long int" | "int64" | "int64_t" => Scalar::I64,
            "ulonglong" | "unsigned long long" | "unsigned long long int" | "uint64" | "uint64_t" => Scalar::U64,
            "float" => Scalar::F32,
            "double" => Scalar::F64,
            _ => {
                return refuse(
                    self.path,
                    format!("voxels of type {:?}", clipped(&name)),
                    "a scalar type such as short",
                    "convert the file",
                );
            }
        })
    }

    fn big_endian(&self, scalar: Scalar) -> Result<bool> {
        match self.get("endian").map(str::to_lowercase).as_deref() {
            Some("little") => Ok(false),
            Some("big") => Ok(true),
            None if scalar.bytes() == 1 => Ok(false),
            other => {
                let found = other.map_or("no byte order".to_owned(), |o| format!("endian: {:?}", clipped(o)));
                refuse(self.path, found, "endian: little or big", "repair the header")
            }
        }
    }

    fn deflated(&self) -> Result<bool> {
        match self.needed("encoding")?.to_lowercase().as_str() {
            "raw" => Ok(false),
            "gzip" | "gz" => Ok(true),
            other => {
                refuse(self.path, format!("encoding: {}", clipped(other)), "raw or gzip", "write the file again with gzip (3D Slicer, unu)")
            }
        }
    }

    fn place(&self, end: Option<u64>) -> Result<Place> {
        let lines = self.get("lineskip").map_or(Ok(0), |_| self.number("lineskip"))?;
        let skip = self.get("byteskip").map_or(Ok(0), |_| self.number::<i64>("byteskip"))?;
        let bytes = match skip {
            -1 => None,
            0.. => Some(skip as u64),
            _ => return refuse(self.path, format!("byte skip: {skip}"), "-1 or more", "repair the header"),
        };
        match (self.get("datafile"), end) {
            (None, Some(start)) => Ok(Place { file: None, start, lines, bytes }),
            (None, None) => {
                refuse(self.path, "no empty line behind the header and no data file", "voxels", "the file is cut short: copy it again")
            }
            // `LIST`, or a pattern with first, last and step: one slice a file.
            (Some(name), _) if name == "LIST" || name.starts_with("LIST ") || name.contains('%') => refuse(
                self.path,
                format!("data file: {}", clipped(name)),
                "one data file",
                "join the slices into one file (3D Slicer, unu)",
            ),
            (Some(name), _) => {
                let file = self.path.parent().unwrap_or(Path::new("")).join(name);
                Ok(Place { file: Some(file), start: 0, lines, bytes })
            }
        }
    }
}

/// `(1,0,0) (0,1,0) none` to its parts.
fn vectors(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = if rest.starts_with('(') {
            rest.find(')').map_or(rest.len(), |i| i + 1)
        } else {
            rest.find([' ', '\t', '(']).unwrap_or(rest.len())
        };
        parts.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    parts
}

/// `(1,0,0)` to its three numbers.
fn vector(text: &str) -> Option<[f64; 3]> {
    let inside = text.trim().strip_prefix('(')?.strip_suffix(')')?;
    let numbers: Vec<f64> = inside.split(',').map(|n| n.trim().parse()).collect::<std::result::Result<_, _>>().ok()?;
    numbers.try_into().ok()
}

/// As much of a text from a file as belongs into a sentence.
pub(super) fn clipped(text: &str) -> String {
    if text.chars().count() <= 60 { text.to_owned() } else { text.chars().take(60).collect::<String>() + "..." }
}
