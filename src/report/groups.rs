//! What rewards were compared with each other: the sub-volumes of a step with action, reward and advantage.

use image::{Rgb, RgbImage};

use super::font::draw_text;
use super::preview::{BACKDROP, GLANCE, INK, PREDICTION, REFERENCE};

/// One sub-volume of a group, as the slice that shows most of its lesion (its middle where it has none).
pub struct Tile {
    /// Columns and rows of the slice.
    pub size: [usize; 2],
    /// Intensities 0..1, `[row][column]`.
    pub slice: Vec<f32>,
    /// What Focus marks, and what is labelled.
    pub predicted: Vec<bool>,
    pub lesion: Vec<bool>,
    pub group: u32,
    /// Glance's probability to select it.
    pub probability: f32,
    pub reward: f32,
    pub advantage: f32,
}

const SIDE: u32 = 132;
const TEXT: u32 = 40;
const GAP: u32 = 8;
const COLUMNS: usize = 8;

const BETTER: Rgb<u8> = Rgb([0x4a, 0xde, 0x80]);
const WORSE: Rgb<u8> = Rgb([0xf8, 0x71, 0x71]);

/// All tiles, eight in a row; those that Glance selects have a frame. Below each: action, reward and advantage.
pub fn sheet(tiles: &[Tile]) -> RgbImage {
    let columns = tiles.len().clamp(1, COLUMNS) as u32;
    let rows = tiles.len().div_ceil(COLUMNS).max(1) as u32;
    let mut image = RgbImage::from_pixel(GAP + columns * (SIDE + GAP), GAP + rows * (SIDE + TEXT + GAP), BACKDROP);
    for (i, tile) in tiles.iter().enumerate() {
        let (column, row) = ((i % COLUMNS) as u32, (i / COLUMNS) as u32);
        draw(&mut image, tile, [GAP + column * (SIDE + GAP), GAP + row * (SIDE + TEXT + GAP)]);
    }
    image
}

fn draw(image: &mut RgbImage, tile: &Tile, [left, top]: [u32; 2]) {
    let [width, height] = tile.size;
    if width == 0 || height == 0 || tile.slice.len() != width * height {
        return;
    }
    let scale = f64::from(SIDE) / width.max(height) as f64;
    let size = [width, height].map(|n| ((n as f64 * scale) as u32).clamp(1, SIDE));
    let voxel = |x: u32, y: u32| {
        let at = |p: u32, pixels: u32, voxels: usize| (p as usize * voxels / pixels as usize).min(voxels - 1);
        at(y, size[1], height) * width + at(x, size[0], width)
    };
    // A pixel is outline where its voxel is marked and a neighbour's is not.
    let outline = |mask: &[bool], x: u32, y: u32| {
        let marked = |x: u32, y: u32| mask.get(voxel(x.min(size[0] - 1), y.min(size[1] - 1))).copied().unwrap_or(false);
        marked(x, y) && !(marked(x + 2, y) && marked(x.saturating_sub(2), y) && marked(x, y + 2) && marked(x, y.saturating_sub(2)))
    };
    let selected = tile.probability > 0.5;
    for y in 0..size[1] {
        for x in 0..size[0] {
            let grey = (tile.slice[voxel(x, y)].clamp(0.0, 1.0) * 255.0) as u8;
            let edge = x < 3 || y < 3 || x + 3 >= size[0] || y + 3 >= size[1];
            let colour = match () {
                () if selected && edge => GLANCE,
                () if outline(&tile.predicted, x, y) => PREDICTION,
                () if outline(&tile.lesion, x, y) => REFERENCE,
                () => Rgb([grey; 3]),
            };
            image.put_pixel(left + x, top + y, colour);
        }
    }
    let action = if selected { "look" } else { "skip" };
    draw_text(image, [left, top + SIDE + 4], &format!("{action} {:.2}  g{}", tile.probability, tile.group), INK, 1);
    draw_text(image, [left, top + SIDE + 15], &format!("reward {:.2}", tile.reward), INK, 1);
    let colour = if tile.advantage > 0.0 {
        BETTER
    } else if tile.advantage < 0.0 {
        WORSE
    } else {
        INK
    };
    draw_text(image, [left, top + SIDE + 26], &format!("advantage {:+.2}", tile.advantage), colour, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(probability: f32) -> Tile {
        let lesion: Vec<bool> = (0..64).map(|v| (2..5).contains(&(v % 8)) && (2..5).contains(&(v / 8))).collect();
        Tile { size: [8, 8], slice: vec![0.5; 64], predicted: vec![false; 64], lesion, group: 3, probability, reward: 1.0, advantage: -0.5 }
    }

    #[test]
    fn selected_sub_volumes_are_framed_and_lesions_outlined() {
        for (probability, framed) in [(0.9, true), (0.1, false)] {
            let image = sheet(&[tile(probability)]);
            assert_eq!(image.get_pixel(GAP, GAP) == &GLANCE, framed);
            assert!(image.pixels().any(|p| *p == REFERENCE) && image.pixels().any(|p| *p == WORSE));
            assert!(!image.pixels().any(|p| *p == PREDICTION));
        }
        let nine: Vec<Tile> = (0..9).map(|_| tile(0.2)).collect();
        assert_eq!(sheet(&nine).dimensions(), (GAP + 8 * (SIDE + GAP), GAP + 2 * (SIDE + TEXT + GAP)));
        sheet(&[]);
        sheet(&[Tile { size: [0, 4], slice: vec![], ..tile(0.5) }]);
    }
}
