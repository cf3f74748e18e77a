//! One case in three planes: axial, coronal and sagittal through one voxel, as a radiologist expects to see them.
//!
//! Volumes are in canonical axes (RAS: x grows to the patient's right, y to anterior, z to superior). Shown are the patient's right on the left,
//! anterior above (sagittal: on the left), the head above, in true proportions.

use image::{Rgb, RgbImage};
use panscreen_envs::volume::Volume;
use panscreen_envs::volume::components::{Components, Connectivity};
use panscreen_envs::volume::runs::Runs;

use super::font::{self, draw_text};

/// What a preview shows. All grids have the same `shape`, C order over `[x][y][z]`.
pub struct PreviewInput<'a> {
    /// HU, or an already windowed image.
    pub voxels: &'a [f32],
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    /// The values shown black and white; [`SOFT_TISSUE_HU`] for HU, `[0.0, 1.0]` for a windowed image.
    pub window: [f32; 2],
    /// The voxel that all three planes go through.
    pub at: [usize; 3],
    /// Predicted lesions, outlined where not 0.
    pub prediction: Option<&'a [u8]>,
    /// Labelled lesions, outlined in another colour where not 0.
    pub reference: Option<&'a [u8]>,
    /// Glance's probability, laid over in a translucent colour.
    pub heat: Option<&'a [f32]>,
    /// One short line below the pictures; letters are shown as capitals.
    pub caption: &'a str,
}

/// Where to look at a mask: the voxel nearest to the centroid of its largest component.
pub fn middle_of_largest(mask: &[u8], shape: [usize; 3]) -> Option<[usize; 3]> {
    let components = Components::of(&Runs::of(mask, shape), Connectivity::Corner);
    components.largest().map(|i| components.parts[i].centroid.map(|v| v.round() as usize))
}

/// The intensity window that abdominal CT is read in, W 400 L 40.
pub const SOFT_TISSUE_HU: [f32; 2] = [-160.0, 240.0];

// The colours of all pictures: the label, what Focus marks, what Glance says, and what is drawn around them.
pub(super) const PREDICTION: Rgb<u8> = Rgb([0x22, 0xd3, 0xee]);
pub(super) const REFERENCE: Rgb<u8> = Rgb([0xff, 0x5f, 0xd2]);
pub(super) const GLANCE: Rgb<u8> = Rgb([0xf5, 0x9e, 0x0b]);
pub(super) const BACKDROP: Rgb<u8> = Rgb([0x0b, 0x0e, 0x14]);
pub(super) const INK: Rgb<u8> = Rgb([0xe2, 0xe8, 0xf0]);
const MUTED: Rgb<u8> = Rgb([0x94, 0xa3, 0xb8]);
/// How much of the heat's colour a probability of 1 gets: the tissue below must stay readable.
const HEAT_STRENGTH: f32 = 0.4;

/// Sides of a panel, of the gap between panels, and of the line below them, in pixels.
const PANEL: u32 = 360;
const GAP: u32 = 8;
const FOOTER: u32 = 34;

/// The size of every preview, in pixels.
pub const SIZE: (u32, u32) = (3 * PANEL + 4 * GAP, PANEL + GAP + FOOTER);

/// A plane: the axes along its columns and rows, both shown from their far end, and the letters at the left, right, top and bottom.
struct Plane {
    name: &'static str,
    columns: usize,
    rows: usize,
    letters: [char; 4],
}

const PLANES: [Plane; 3] = [
    Plane { name: "AXIAL", columns: 0, rows: 1, letters: ['R', 'L', 'A', 'P'] },
    Plane { name: "CORONAL", columns: 0, rows: 2, letters: ['R', 'L', 'S', 'I'] },
    Plane { name: "SAGITTAL", columns: 1, rows: 2, letters: ['A', 'P', 'S', 'I'] },
];

impl<'a> PreviewInput<'a> {
    /// A scan alone, in the soft-tissue window, through its centre. Add overlays with `PreviewInput { heat, ..PreviewInput::of(&scan) }`.
    pub fn of(scan: &'a Volume) -> Self {
        PreviewInput {
            voxels: &scan.data,
            shape: scan.shape(),
            spacing_mm: scan.geometry.spacing_mm(),
            window: SOFT_TISSUE_HU,
            at: scan.shape().map(|n| n / 2),
            prediction: None,
            reference: None,
            heat: None,
            caption: "",
        }
    }
}

/// Draw the preview, [`SIZE`] pixels.
///
/// # Panics
/// If a grid does not have `shape` or `at` lies outside: grids of one case are one shape long before they are drawn.
pub fn preview(input: &PreviewInput) -> RgbImage {
    let voxels = input.shape.iter().product::<usize>();
    let masks = [input.prediction, input.reference].into_iter().flatten().map(<[u8]>::len);
    for n in masks.chain(input.heat.map(<[f32]>::len)).chain([input.voxels.len()]) {
        assert_eq!(n, voxels, "a grid of the preview does not have the shape {:?}", input.shape);
    }
    assert!((0..3).all(|a| input.at[a] < input.shape[a]), "voxel {:?} lies outside the shape {:?}", input.at, input.shape);
    let mut image = RgbImage::from_pixel(SIZE.0, SIZE.1, BACKDROP);
    for (i, plane) in PLANES.iter().enumerate() {
        draw_plane(&mut image, input, plane, [GAP + i as u32 * (PANEL + GAP), GAP]);
    }
    draw_footer(&mut image, input);
    image
}

/// An image as the bytes of a PNG file.
pub fn png(image: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("writing to memory does not fail");
    bytes.into_inner()
}

/// Draw one plane, centred in its panel whose corner is `origin`, as large as fits in true proportions.
fn draw_plane(image: &mut RgbImage, input: &PreviewInput, plane: &Plane, origin: [u32; 2]) {
    let axes = [plane.columns, plane.rows];
    let voxels = axes.map(|a| input.shape[a]);
    let mm: [f64; 2] = std::array::from_fn(|i| voxels[i] as f64 * input.spacing_mm[axes[i]]);
    let scale = f64::from(PANEL) / mm[0].max(mm[1]);
    let size = mm.map(|m| ((m * scale).round() as u32).clamp(1, PANEL));
    let corner: [u32; 2] = std::array::from_fn(|i| origin[i] + (PANEL - size[i]) / 2);

    // Where pixel `p` of this plane lies on an axis, in voxels from the first voxel's centre; both axes are shown from their far end.
    let along = |i: usize, p: u32| voxels[i] as f64 * (1.0 - (f64::from(p) + 0.5) / f64::from(size[i])) - 0.5;
    let index = |u: usize, v: usize| {
        let mut at = input.at;
        (at[axes[0]], at[axes[1]]) = (u, v);
        (at[0] * input.shape[1] + at[1]) * input.shape[2] + at[2]
    };
    let linear = |grid: &[f32], [px, py]: [u32; 2]| {
        let split = |i, p| {
            let x: f64 = f64::clamp(along(i, p), 0.0, (voxels[i] - 1) as f64);
            (x as usize, (x as usize + 1).min(voxels[i] - 1), x.fract() as f32)
        };
        let ((u0, u1, fu), (v0, v1, fv)) = (split(0, px), split(1, py));
        let row = |v| grid[index(u0, v)] * (1.0 - fu) + grid[index(u1, v)] * fu;
        row(v0) * (1.0 - fv) + row(v1) * fv
    };
    // The plane of a mask in pixels, by the nearest voxel.
    let shown = |mask: &[u8]| -> Vec<bool> {
        let near = |i, p| (along(i, p).round().max(0.0) as usize).min(voxels[i] - 1);
        (0..size[1])
            .flat_map(|py| (0..size[0]).map(move |px| [px, py]))
            .map(|[px, py]| mask[index(near(0, px), near(1, py))] != 0)
            .collect()
    };
    // An outline two pixels wide: just inside a prediction and just outside a reference, so that equal ones are both seen.
    let edge = |shown: &[bool], [px, py]: [u32; 2], inside: bool| {
        let at = |px: i64, py: i64| {
            shown[(py.clamp(0, i64::from(size[1]) - 1) * i64::from(size[0]) + px.clamp(0, i64::from(size[0]) - 1)) as usize]
        };
        let (px, py) = (i64::from(px), i64::from(py));
        at(px, py) == inside && [-2, -1, 1, 2].into_iter().any(|d| at(px + d, py) != inside || at(px, py + d) != inside)
    };

    let (prediction, reference) = (input.prediction.map(shown), input.reference.map(shown));
    let [low, high] = input.window;
    for py in 0..size[1] {
        for px in 0..size[0] {
            let p = [px, py];
            let grey = ((linear(input.voxels, p) - low) / (high - low)).clamp(0.0, 1.0) * 255.0;
            let mut colour = Rgb([grey as u8; 3]);
            if let Some(heat) = input.heat {
                colour = mix(colour, GLANCE, HEAT_STRENGTH * linear(heat, p).clamp(0.0, 1.0));
            }
            if reference.as_ref().is_some_and(|m| edge(m, p, false)) {
                colour = REFERENCE;
            }
            if prediction.as_ref().is_some_and(|m| edge(m, p, true)) {
                colour = PREDICTION;
            }
            image.put_pixel(corner[0] + px, corner[1] + py, colour);
        }
    }

    let (near, middle, far) = (6, PANEL / 2 - font::HEIGHT, PANEL - 6 - 2 * font::HEIGHT);
    let [left, right, top, bottom] = plane.letters;
    for (letter, x, y) in [
        (left, near, middle),
        (right, PANEL - 6 - 2 * font::WIDTH, middle),
        (top, PANEL / 2 - font::WIDTH, near),
        (bottom, PANEL / 2 - font::WIDTH, far),
    ] {
        draw_text(image, [origin[0] + x, origin[1] + y], letter.encode_utf8(&mut [0; 4]), INK, 2);
    }
    draw_text(image, [origin[0] + near, origin[1] + near], plane.name, MUTED, 2);
}

/// The legend of the overlays that are there, on the right; the caption on the left as far as there is room.
fn draw_footer(image: &mut RgbImage, input: &PreviewInput) {
    let y = PANEL + GAP + (FOOTER - font::HEIGHT * 2) / 2;
    let entries = [
        ("PREDICTION", PREDICTION, input.prediction.is_some()),
        ("REFERENCE", REFERENCE, input.reference.is_some()),
        ("GLANCE", GLANCE, input.heat.is_some()),
    ];
    let mut right = SIZE.0 - GAP;
    for (name, colour, _) in entries.iter().rev().filter(|e| e.2) {
        right -= font::text_width(name, 2);
        draw_text(image, [right, y], name, INK, 2);
        right -= 22;
        for dx in 0..14 {
            for dy in 0..14 {
                image.put_pixel(right + dx, y + dy, *colour);
            }
        }
        right -= 20;
    }
    let room = (right.saturating_sub(GAP) / font::text_width("M", 2)) as usize;
    let caption: String = input.caption.chars().take(room).collect();
    draw_text(image, [GAP, y], &caption, INK, 2);
}

fn mix(a: Rgb<u8>, b: Rgb<u8>, share: f32) -> Rgb<u8> {
    Rgb(std::array::from_fn(|c| (f32::from(a.0[c]) * (1.0 - share) + f32::from(b.0[c]) * share).round() as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use panscreen_envs::volume::Geometry;

    fn scan(shape: [usize; 3], spacing_mm: [f64; 3], hu: f32) -> Volume {
        Volume { data: vec![hu; shape.iter().product()], geometry: Geometry::ras(shape, spacing_mm, [0.0; 3]) }
    }

    /// A dark box with one bright voxel, and where that voxel's centre is drawn.
    fn check_marker(at: [usize; 3], plane: usize, expected: [u32; 2]) {
        let mut scan = scan([20, 10, 40], [2.0, 4.0, 1.0], -1000.0);
        scan.data[(at[0] * 10 + at[1]) * 40 + at[2]] = 1000.0;
        let image = preview(&PreviewInput { at, ..PreviewInput::of(&scan) });
        assert_eq!(image.dimensions(), SIZE);
        let panel = [GAP + plane as u32 * (PANEL + GAP), GAP];
        assert_eq!(image.get_pixel(panel[0] + expected[0], panel[1] + expected[1]), &Rgb([255; 3]), "{at:?} in plane {plane}");
    }

    /// 40 x 40 x 40 mm, so 9 pixels a millimetre in every plane.
    #[test]
    fn a_marker_is_where_a_radiologist_looks_for_it() {
        // Patient's left, anterior, superior: right, above.
        let corner = [0, 9, 39];
        check_marker(corner, 0, [360 - 9, 18]);
        check_marker(corner, 1, [360 - 9, 4]);
        // Sagittal: anterior is on the left.
        check_marker(corner, 2, [18, 4]);
        // Patient's right, posterior, inferior: left, below.
        check_marker([19, 0, 0], 0, [9, 360 - 18]);
        check_marker([19, 0, 0], 1, [9, 360 - 5]);
        check_marker([19, 0, 0], 2, [360 - 18, 360 - 5]);
    }

    #[test]
    fn a_flat_volume_keeps_its_proportions() {
        let scan = scan([10, 10, 1], [1.0, 1.0, 2.5], 1000.0);
        let image = preview(&PreviewInput::of(&scan));
        let white_rows = (0..PANEL).filter(|y| image.get_pixel(GAP + PANEL + GAP + 60, GAP + y) == &Rgb([255; 3])).count();
        assert_eq!(white_rows, 90);
    }

    #[test]
    fn overlays_are_drawn_in_their_colours() {
        let scan = scan([24; 3], [1.0; 3], -1000.0);
        let inside = |v: usize, lo: usize, hi: usize| [v / 576, v / 24 % 24, v % 24].iter().all(|p| (lo..hi).contains(p));
        let mask: Vec<u8> = (0..scan.data.len()).map(|v| u8::from(inside(v, 8, 16))).collect();
        let heat: Vec<f32> = (0..scan.data.len()).map(|v| f32::from(u8::from(inside(v, 0, 12)))).collect();
        let input = PreviewInput {
            prediction: Some(&mask),
            reference: Some(&mask),
            heat: Some(&heat),
            caption: "case 7",
            at: [11; 3],
            ..PreviewInput::of(&scan)
        };
        let image = preview(&input);
        let pixel = |x: u32, y: u32| *image.get_pixel(GAP + x, GAP + y);
        // 15 pixels a voxel: the box of the mask covers pixels 120 to 239.
        assert_eq!((pixel(120, 150), pixel(119, 150)), (PREDICTION, REFERENCE));
        assert_eq!((pixel(239, 150), pixel(240, 150)), (PREDICTION, REFERENCE));
        assert_eq!(pixel(150, 150), Rgb([0; 3]));
        assert_eq!(pixel(300, 300), mix(Rgb([0; 3]), GLANCE, HEAT_STRENGTH));
        let (png, legend) = (png(&image), image.rows().skip(PANEL as usize + 8).flatten().filter(|p| **p == REFERENCE).count());
        assert_eq!((&png[..4], legend), (&b"\x89PNG"[..], 14 * 14));
    }
}
