//! Slices to a volume.

use rayon::prelude::*;

use super::codec::Syntax;
use super::content::ALLOWANCE;
use super::pixels::{AIR_HU, stored};
use super::series::Slice;
use super::stack::{Plan, Uneven};
use crate::io::source::zeroed;
use crate::volume::Volume;
use crate::{Error, Result};

/// Slices decoded together (their planes stay in the last cache) and the extent of a tile along x (a tile stays in the first).
const Z_BLOCK: usize = 16;
const X_BLOCK: usize = 128;
/// A position closer to a slice or pixel than this part of a step is the slice itself.
const SNAP: f64 = 1e-3;

pub fn volume(plan: Plan) -> Result<Volume> {
    let Some(first) = plan.slices.first() else { return Err(Error::Setting("a volume of no slices".into())) };
    let path = first.path().to_owned();
    let [nx, ny, nz] = plan.geometry.shape;
    check_compressed(&plan)?;
    let mut data;
    match &plan.uneven {
        None => {
            data = zeroed::<f32>(plan.geometry.voxels(), &path)?;
            let mut planes = vec![(Vec::new(), Vec::new()); Z_BLOCK.min(nz)];
            for (block, slices) in plan.slices.chunks(Z_BLOCK).enumerate() {
                let read = |(slice, (scratch, plane)): (&Slice, &mut (Vec<u8>, Vec<f32>))| slice.hu(scratch, plane);
                slices.par_iter().zip(&mut planes).map(read).collect::<Vec<_>>().into_iter().collect::<Result<()>>()?;
                let planes: Vec<&[f32]> = planes.iter().take(slices.len()).map(|(_, plane)| plane.as_slice()).collect();
                place(&planes, block * Z_BLOCK, [nx, ny, nz], &mut data);
            }
        }
        Some(uneven) => {
            let size = [plan.slices[0].image.layout.columns, plan.slices[0].image.layout.rows];
            let moved = |(slice, &shift): (&Slice, &[f64; 2])| {
                let mut plane = Vec::new();
                slice.hu(&mut Vec::new(), &mut plane)?;
                Ok(shifted(&plane, size, shift, [nx, ny]))
            };
            let planes: Vec<Result<Vec<f32>>> = plan.slices.par_iter().zip(&uneven.shifts).map(moved).collect();
            let planes: Vec<Vec<f32>> = planes.into_iter().collect::<Result<_>>()?;
            data = zeroed::<f32>(plan.geometry.voxels(), &path)?;
            for z0 in (0..nz).step_by(Z_BLOCK) {
                let block: Vec<Vec<f32>> = (z0..nz.min(z0 + Z_BLOCK)).into_par_iter().map(|z| between(&planes, uneven, z)).collect();
                let block: Vec<&[f32]> = block.iter().map(Vec::as_slice).collect();
                place(&block, z0, [nx, ny, nz], &mut data);
            }
        }
    }
    Ok(Volume { data, geometry: plan.geometry })
}

/// Compressed slices that are small for their matrix are all decompressed once before the volume is made: headers can promise anything.
fn check_compressed(plan: &Plan) -> Result<()> {
    let compressed = plan.slices.iter().any(|s| s.image.syntax != Syntax::Native);
    let bytes: u64 = plan.slices.iter().flat_map(|s| &s.image.frames[s.frame].bytes).map(|r| r.end - r.start).sum();
    if !compressed || plan.geometry.voxels() as u64 * 4 <= bytes * 8 + ALLOWANCE {
        return Ok(());
    }
    let checks: Vec<Result<()>> =
        plan.slices.par_iter().map(|s| stored(&s.image, &s.image.frames[s.frame], Vec::new()).map(drop)).collect();
    checks.into_iter().collect()
}

/// Planes (`[y][x]`) to their place in `[x][y][z]`: tiles that stay in the cache, as `io::voxels` does.
fn place(planes: &[&[f32]], z0: usize, [nx, ny, nz]: [usize; 3], out: &mut [f32]) {
    out.par_chunks_mut(X_BLOCK * ny * nz).enumerate().for_each(|(block, out)| {
        let (x0, width) = (block * X_BLOCK, out.len() / (ny * nz));
        let mut tile = [0f32; X_BLOCK * Z_BLOCK];
        for y in 0..ny {
            for (z, plane) in planes.iter().enumerate() {
                let row = &plane[y * nx + x0..][..width];
                row.iter().enumerate().for_each(|(x, &v)| tile[x * Z_BLOCK + z] = v);
            }
            for (x, column) in tile.chunks_exact(Z_BLOCK).take(width).enumerate() {
                out[(x * ny + y) * nz + z0..][..planes.len()].copy_from_slice(&column[..planes.len()]);
            }
        }
    });
}

/// A slice whose first pixel lies at `shift`, on a wider plane: linear between its pixels, air beside them.
fn shifted(plane: &[f32], [nx, ny]: [usize; 2], shift: [f64; 2], [wide, high]: [usize; 2]) -> Vec<f32> {
    // The two pixels that each pixel of the wider line lies between, and how far it is from the first.
    let taps = |n: usize, shift: f64, count: usize| -> Vec<Option<(usize, usize, f32)>> {
        let tap = |i: usize| {
            let at = i as f64 - shift;
            let at = if (at - at.round()).abs() < SNAP { at.round() } else { at };
            if at < -0.5 || at > n as f64 - 0.5 {
                return None;
            }
            let at = at.clamp(0.0, n as f64 - 1.0);
            let low = at as usize;
            Some((low, (low + 1).min(n - 1), (at - low as f64) as f32))
        };
        (0..count).map(tap).collect()
    };
    let (along_x, along_y) = (taps(nx, shift[0], wide), taps(ny, shift[1], high));
    let mut out = vec![AIR_HU; wide * high];
    for (row, tap) in out.chunks_exact_mut(wide).zip(along_y) {
        let Some((a, b, w)) = tap else { continue };
        let (a, b) = (&plane[a * nx..][..nx], &plane[b * nx..][..nx]);
        for (o, tap) in row.iter_mut().zip(&along_x) {
            let &Some((low, high, v)) = tap else { continue };
            let line = |row: &[f32]| row[low] + v * (row[high] - row[low]);
            let (from, to) = (line(a), line(b));
            *o = from + w * (to - from);
        }
    }
    out
}

/// The plane at height `z` of the grid, linear between the slices below and above it.
fn between(planes: &[Vec<f32>], uneven: &Uneven, z: usize) -> Vec<f32> {
    let heights = &uneven.heights;
    let (z, last) = (z as f64, heights.len() - 1);
    let above = heights.partition_point(|&h| h < z - SNAP).min(last);
    let below = if (heights[above] - z).abs() <= SNAP { above } else { above.saturating_sub(1) };
    let step = heights[above] - heights[below];
    if above == below || step <= 0.0 {
        return planes[above].clone();
    }
    let weight = ((z - heights[below]) / step).clamp(0.0, 1.0) as f32;
    planes[below].iter().zip(&planes[above]).map(|(&a, &b)| a + weight * (b - a)).collect()
}
