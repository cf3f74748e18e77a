//! From a prepared grid back to the voxels of the file.

use serde::{Deserialize, Serialize};

use super::orientation::permute;
use super::resample::{Strided, Taps, gather, nearest, resample_planes};
use super::sheared::Sheared;
use super::target::Target;
use super::{Affine, Geometry, Orientation};

/// Everything needed to bring a result on a prepared grid back to the scan as stored, header included. Can be saved with the prepared voxels.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WayBack {
    native: Geometry,
    orientation: Orientation,
    /// Voxel sizes along R, A, S as stored and as resampled.
    native_mm: [f64; 3],
    spacing_mm: [f64; 3],
    /// Voxels along R, A, S after resampling, and the box that was kept of them.
    resampled: [usize; 3],
    crop_start: [usize; 3],
    crop_end: [usize; 3],
    pad_before: [usize; 3],
    shape: [usize; 3],
    /// Prepared voxel to world.
    affine: Affine,
    /// The file's grid is sheared and the prepared one is not: no axis can be brought back alone.
    #[serde(default)]
    sheared: bool,
}

impl WayBack {
    pub(super) fn new(
        native: Geometry,
        orientation: Orientation,
        target: &Target,
        (crop_start, crop_end): ([usize; 3], [usize; 3]),
        pad_to: [usize; 3],
    ) -> Self {
        let kept: [usize; 3] = std::array::from_fn(|a| crop_end[a] - crop_start[a]);
        let shape: [usize; 3] = std::array::from_fn(|a| kept[a].max(pad_to[a]));
        let pad_before: [usize; 3] = std::array::from_fn(|a| (shape[a] - kept[a]) / 2);
        let Target { from, grid, spacing_mm, sheared } = target;
        let mut affine = grid.affine;
        for row in &mut affine {
            for a in 0..3 {
                row[3] += row[a] * (crop_start[a] as f64 - pad_before[a] as f64);
            }
        }
        WayBack {
            native,
            orientation,
            native_mm: from.spacing_mm(),
            spacing_mm: *spacing_mm,
            resampled: grid.shape,
            crop_start,
            crop_end,
            pad_before,
            shape,
            affine,
            sheared: *sheared,
        }
    }

    /// The grid of the file, with its stored header: what the writers in [`crate::io`] take.
    pub fn native(&self) -> &Geometry {
        &self.native
    }

    /// Shape of the prepared grid.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// First and one-past-last voxel, on the resampled grid, of what the foreground crop kept.
    pub fn crop_box(&self) -> ([usize; 3], [usize; 3]) {
        (self.crop_start, self.crop_end)
    }

    /// Prepared voxel index to world, mm.
    pub fn prepared_affine(&self) -> Affine {
        self.affine
    }

    /// World position in mm of a (fractional) voxel index of the prepared grid.
    pub fn native_world_of(&self, ijk: [f64; 3]) -> [f64; 3] {
        Geometry { shape: self.shape, affine: self.affine, stored: None }.world(ijk)
    }

    /// Labels on the prepared grid `[X][Y][Z]` to the file's grid, nearest voxel, half to even (MONAI `Invert`); 0 where the crop left out.
    pub fn restore_labels(&self, labels: &[u8]) -> Vec<u8> {
        assert_eq!(labels.len(), self.shape.iter().product::<usize>(), "labels to restore have the prepared shape");
        if self.sheared {
            return self.lookup(labels).nearest(&self.native.shape.map(|n| (0..n).map(Some).collect()));
        }
        let kept = self.kept();
        let turned = self.orientation.turned_of();
        let tables = std::array::from_fn(|stored| {
            let c = turned[stored];
            let n = self.native.shape[stored];
            let index = nearest(self.resampled[c], n, self.spacing_mm[c], self.native_mm[c]);
            (0..n).map(|i| kept[c][index[if self.orientation.flip[c] { n - 1 - i } else { i }]]).collect()
        });
        gather(labels, &tables)
    }

    /// One value a voxel on the prepared grid to the file's grid, linear; the crop left out counts as 0.
    pub fn restore_probability(&self, values: &[f32]) -> Vec<f32> {
        assert_eq!(values.len(), self.shape.iter().product::<usize>(), "probabilities to restore have the prepared shape");
        if self.sheared {
            let [nx, ny, nz] = self.native.shape;
            let mut out = vec![0f32; nx * ny * nz];
            let planes = out.chunks_exact_mut((ny * nz).max(1)).collect();
            self.lookup(values).planes([nx, ny, nz], planes, |plane, out: &mut [f32]| out.copy_from_slice(plane));
            return out;
        }
        let whole = gather(values, &self.kept());
        let canonical = self.orientation.axes.map(|a| self.native.shape[a]);
        let taps: [Taps; 3] = std::array::from_fn(|c| {
            Taps::linear(self.resampled[c], canonical[c], self.spacing_mm[c], self.native_mm[c], false, self.orientation.flip[c])
        });
        let mut out = vec![0f32; self.native.voxels()];
        let planes = out.chunks_exact_mut(canonical[1] * canonical[2]).collect();
        resample_planes(Strided::new(&whole, self.resampled), &taps, planes, |plane, out: &mut [f32]| out.copy_from_slice(plane));
        if self.orientation.axes == [0, 1, 2] { out } else { permute(&out, canonical, self.orientation.turned_of()) }
    }

    /// Where in the prepared voxels those of the resampled grid are, by axis; `None` where the crop left out.
    fn kept(&self) -> [Vec<Option<usize>>; 3] {
        let strides = [self.shape[1] * self.shape[2], self.shape[2], 1];
        std::array::from_fn(|c| {
            let at = |i: usize| {
                (self.crop_start[c]..self.crop_end[c]).contains(&i).then(|| (i - self.crop_start[c] + self.pad_before[c]) * strides[c])
            };
            (0..self.resampled[c]).map(at).collect()
        })
    }

    /// Prepared values at the places of the file's voxels, for a sheared file.
    fn lookup<'a, T: Copy + Default + Send + Sync>(&self, values: &'a [T]) -> Sheared<'a, T> {
        let prepared = Geometry { shape: self.shape, affine: self.affine, stored: None };
        let mut map = self.native.index_map(&prepared);
        // From prepared to resampled indices.
        (0..3).for_each(|c| map[c][3] += self.crop_start[c] as f64 - self.pad_before[c] as f64);
        Sheared::new(values, self.kept(), map)
    }

    /// A table for axis `c` of the cropped box, widened to the prepared length with nothing on both sides.
    pub(super) fn padded(&self, c: usize, inside: impl Iterator<Item = Option<usize>>) -> Vec<Option<usize>> {
        let mut table = vec![None; self.pad_before[c]];
        table.extend(inside);
        table.resize(self.shape[c], None);
        table
    }

    /// `[C][X][Y][Z]` of the cropped box to the prepared shape, zeros around it.
    pub(super) fn pad(&self, image: &[f32], channels: usize) -> Vec<f32> {
        let kept: [usize; 3] = std::array::from_fn(|c| self.crop_end[c] - self.crop_start[c]);
        let strides = [kept[1] * kept[2], kept[2], 1];
        let [tx, ty, tz] = std::array::from_fn(|c| self.padded(c, (0..kept[c]).map(|i| Some(i * strides[c]))));
        let all = (0..channels).flat_map(|channel| tx.iter().map(move |x| x.map(|x| channel * kept[0] * strides[0] + x))).collect();
        gather(image, &[all, ty, tz])
    }
}
