//! Figures as files of their own: an SVG that needs no page around it, and its picture as PNG.

use std::sync::{Arc, OnceLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Pixels for a unit of the drawing: sharp in print at the size of a column.
const SCALE: f32 = 2.0;

/// `svg` as a file: with its namespace, a white ground, and the colours of the light page in place of the page's variables.
pub fn standalone(svg: &str) -> String {
    let mut out = String::with_capacity(svg.len() + 200);
    let mut rest = svg;
    while let Some(at) = rest.find("var(--") {
        out.push_str(&rest[..at]);
        let inside = &rest[at..];
        // `var(--name, fallback)`; no fallback holds a bracket.
        let end = inside.find(')').map_or(inside.len(), |e| e + 1);
        let fallback = inside[..end].trim_end_matches(')').split_once(',').map_or("#000000", |(_, f)| f.trim());
        out.push_str(fallback);
        rest = &inside[end..];
    }
    out.push_str(rest);
    let ground = "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>";
    let named = out.replacen("<svg ", "<svg xmlns=\"http://www.w3.org/2000/svg\" ", 1);
    match named.find('>') {
        Some(end) => format!("{}{ground}{}", &named[..=end], &named[end + 1..]),
        None => named,
    }
}

/// The picture of a [`standalone`] SVG as PNG bytes; `None` where it can't be drawn.
///
/// Text is set in a font of the program's own: the same picture on every system.
pub fn png_of(svg: &str) -> Option<Vec<u8>> {
    let options = Options { fontdb: fonts(), font_family: FAMILY.into(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).ok()?;
    let size = tree.size().to_int_size().scale_by(SCALE)?;
    let mut pixels = Pixmap::new(size.width(), size.height())?;
    resvg::render(&tree, Transform::from_scale(SCALE, SCALE), &mut pixels.as_mut());
    let image = image::RgbaImage::from_raw(size.width(), size.height(), pixels.take())?;
    Some(super::preview::png(&image::DynamicImage::ImageRgba8(image).into_rgb8()))
}

const FAMILY: &str = "Ubuntu";

fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    let load = || {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
        // The family that the drawings name last.
        fonts.set_sans_serif_family(FAMILY);
        Arc::new(fonts)
    };
    FONTS.get_or_init(load).clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::chart::{Axis, Chart};

    #[test]
    fn a_chart_becomes_a_file_and_a_picture_with_text() {
        let chart = Chart::new("a < b", Axis::new("x"), Axis::new("y")).line("curve", vec![(0.0, 0.0), (1.0, 2.0)]);
        let svg = standalone(&chart.svg());
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" ") && !svg.contains("var("), "{svg}");
        let picture = |svg: &str| image::load_from_memory(&png_of(svg).unwrap()).unwrap().into_rgb8();
        let (with, without) = (picture(&svg), picture(&standalone(&Chart::new("", Axis::new(""), Axis::new("")).svg())));
        assert_eq!(with.dimensions(), (1120, 600));
        // The title's row: dark letters in one, white ground in the other.
        let dark = |p: &image::RgbImage| {
            (10..200).flat_map(|x| (14..44).map(move |y| (x, y))).filter(|&(x, y)| p.get_pixel(x, y).0[0] < 100).count()
        };
        assert!(dark(&with) > 30 && dark(&without) == 0, "{} and {}", dark(&with), dark(&without));
        assert_eq!(png_of("no svg"), None);
    }
}
