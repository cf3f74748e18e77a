//! The order in which Focus looks at a scan, as an animated picture.

use image::codecs::gif::{GifEncoder, Repeat};
use image::{Delay, Frame, Rgb, RgbImage, buffer::ConvertBuffer};

use super::font::draw_text;
use super::preview::{BACKDROP, GLANCE, INK, REFERENCE};

/// A scan and the windows that Focus looks at, in order.
pub struct Looks<'a> {
    /// Intensities 0..1, C order over `[x][y][z]`, RAS axes.
    pub voxels: &'a [f32],
    pub shape: [usize; 3],
    pub spacing_mm: [f64; 3],
    /// Number of the lesion at each voxel, 0 outside.
    pub lesion: &'a [u8],
    pub window: [usize; 3],
    /// First voxel and Glance's probability of each window, the first look first.
    pub order: &'a [([usize; 3], f32)],
    /// Windows of the scan.
    pub windows: usize,
}

/// The longer side of a panel in pixels.
const PANEL: u32 = 300;
const GAP: u32 = 8;
const FOOTER: u32 = 20;
/// Looks that are shown one by one.
const MOST: usize = 32;

/// The frame of a window that was looked at before.
const BEFORE: Rgb<u8> = Rgb([0x7a, 0x5a, 0x1c]);

/// A GIF: the scan from the front and from above (the brightest voxel along each ray), lesions coloured, a frame a look.
pub fn looks_gif(looks: &Looks) -> Vec<u8> {
    let views = [View::new(looks, [0, 2]), View::new(looks, [0, 1])];
    let base = base(looks, &views);
    let mut frames = vec![frame(&base, &format!("{} windows", looks.windows), 800)];
    let mut image = base;
    for (i, (start, probability)) in looks.order.iter().take(MOST).enumerate() {
        let mut now = image.clone();
        for view in &views {
            view.outline(&mut now, *start, looks.window, GLANCE);
            view.outline(&mut image, *start, looks.window, BEFORE);
        }
        frames.push(frame(&now, &format!("look {} of {}: {probability:.2}", i + 1, looks.order.len()), 400));
    }
    let seen = format!("{} of {} windows chosen", looks.order.len(), looks.windows);
    frames.push(frame(&image, &seen, 2000));
    let mut bytes = Vec::new();
    {
        // Speed 10 of 1 to 30: few colours, so that quality does not suffer.
        let mut encoder = GifEncoder::new_with_speed(&mut bytes, 10);
        let endless = encoder.set_repeat(Repeat::Infinite);
        endless.and_then(|()| encoder.encode_frames(frames)).expect("writing to memory does not fail");
    }
    bytes
}

fn frame(image: &RgbImage, text: &str, milliseconds: u32) -> Frame {
    let mut image = image.clone();
    let height = image.height();
    draw_text(&mut image, [GAP, height - FOOTER + 6], text, INK, 1);
    Frame::from_parts(image.convert(), 0, 0, Delay::from_numer_denom_ms(milliseconds, 1))
}

/// The scan seen along the axis that is not in `axes`; both axes are shown from their far end.
struct View {
    axes: [usize; 2],
    voxels: [usize; 2],
    size: [u32; 2],
    corner: [u32; 2],
}

impl View {
    fn new(looks: &Looks, axes: [usize; 2]) -> Self {
        let voxels = axes.map(|a| looks.shape[a].max(1));
        let mm: [f64; 2] = std::array::from_fn(|i| voxels[i] as f64 * looks.spacing_mm[axes[i]]);
        let scale = f64::from(PANEL) / mm[0].max(mm[1]).max(1e-6);
        let left = if axes == [0, 2] { GAP } else { 2 * GAP + PANEL };
        View { axes, voxels, size: mm.map(|m| ((m * scale) as u32).clamp(1, PANEL)), corner: [left, GAP] }
    }

    /// Pixel at which voxel border `v` of axis `i` lies.
    fn pixel(&self, i: usize, v: usize) -> u32 {
        self.size[i] - (v.min(self.voxels[i]) as u64 * u64::from(self.size[i]) / self.voxels[i] as u64) as u32
    }

    fn outline(&self, image: &mut RgbImage, start: [usize; 3], window: [usize; 3], colour: Rgb<u8>) {
        let range = |i: usize| {
            let a = self.axes[i];
            (self.pixel(i, start[a] + window[a]), self.pixel(i, start[a]).max(1) - 1)
        };
        let ((left, right), (top, bottom)) = (range(0), range(1));
        for y in top..=bottom {
            for x in left..=right {
                if x < left + 2 || x + 2 > right || y < top + 2 || y + 2 > bottom {
                    let at = [self.corner[0] + x, self.corner[1] + y];
                    if at[0] < image.width() && at[1] < image.height() {
                        image.put_pixel(at[0], at[1], colour);
                    }
                }
            }
        }
    }
}

fn base(looks: &Looks, views: &[View; 2]) -> RgbImage {
    let mut image = RgbImage::from_pixel(2 * PANEL + 3 * GAP, PANEL + GAP + FOOTER, BACKDROP);
    let [_, sy, sz] = looks.shape;
    for view in views {
        let [u_axis, v_axis] = view.axes;
        let mut brightest = vec![0.0_f32; view.voxels[0] * view.voxels[1]];
        let mut lesion = vec![false; brightest.len()];
        for (flat, (&value, &number)) in looks.voxels.iter().zip(looks.lesion).enumerate() {
            let at = [flat / (sy * sz), flat / sz % sy, flat % sz];
            let pixel = at[v_axis] * view.voxels[0] + at[u_axis];
            brightest[pixel] = brightest[pixel].max(value);
            lesion[pixel] |= number > 0;
        }
        for y in 0..view.size[1] {
            for x in 0..view.size[0] {
                let voxel = |i: usize, p: u32| (view.voxels[i] - 1).saturating_sub(p as usize * view.voxels[i] / view.size[i] as usize);
                let pixel = voxel(1, y) * view.voxels[0] + voxel(0, x);
                let grey = (brightest[pixel].clamp(0.0, 1.0) * 255.0) as u8;
                let mixed = |c: usize| ((u16::from(grey) + 2 * u16::from(REFERENCE.0[c])) / 3) as u8;
                let colour = if lesion[pixel] { Rgb(std::array::from_fn(mixed)) } else { Rgb([grey; 3]) };
                image.put_pixel(view.corner[0] + x, view.corner[1] + y, colour);
            }
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use image::AnimationDecoder;
    use image::codecs::gif::GifDecoder;

    use super::*;

    #[test]
    fn a_frame_a_look_and_one_before_and_behind() {
        let shape = [12, 10, 8];
        let lesion: Vec<u8> = (0..960).map(|v| u8::from(v == 500)).collect();
        let order = [([0, 0, 0], 0.9), ([6, 4, 4], 0.5), ([8, 8, 8], 0.4)];
        let looks = Looks {
            voxels: &[0.3; 960],
            shape,
            spacing_mm: [1.0, 1.0, 2.0],
            lesion: &lesion,
            window: [6, 6, 4],
            order: &order,
            windows: 20,
        };
        let gif = looks_gif(&looks);
        let frames = GifDecoder::new(std::io::Cursor::new(&gif)).unwrap().into_frames().collect_frames().unwrap();
        assert_eq!(frames.len(), 5);
        let amber = |frame: &Frame| frame.buffer().pixels().filter(|p| p.0[0] > 200 && p.0[1] > 120 && p.0[2] < 80).count();
        assert!(amber(&frames[0]) == 0 && amber(&frames[1]) > 100 && amber(&frames[4]) == 0);
        looks_gif(&Looks { order: &[], ..looks });
    }
}
