//! A prepared scan as the environment needs it.

use std::sync::Arc;

use crate::Result;
use crate::volume::components::{Connectivity, label};

/// Lesion numbers are a byte: what lies beyond shares the last number.
const MOST_LESIONS: u32 = 255;

/// A prepared scan with its lesions told apart.
#[derive(Clone, Debug)]
pub struct Scan {
    pub name: String,
    /// 0..1, `[C][X][Y][Z]`.
    pub image: Vec<f32>,
    pub channels: usize,
    pub shape: [usize; 3],
    /// Number of the lesion (26-connected component, from 1) at each voxel, 0 outside, `[X][Y][Z]`.
    pub lesion: Vec<u8>,
    /// Flat index of every lesion voxel, ascending.
    lesion_voxels: Vec<u32>,
    lesions: u8,
}

impl Scan {
    /// `lesion`: not 0 on lesion voxels.
    pub fn new(name: String, image: Vec<f32>, channels: usize, shape: [usize; 3], lesion: &[u8]) -> Self {
        let (labels, components) = label(lesion, shape, Connectivity::Corner);
        let number: Vec<u8> = labels.iter().map(|&n| n.min(MOST_LESIONS) as u8).collect();
        let lesion_voxels = number.iter().enumerate().filter(|(_, n)| **n > 0).map(|(i, _)| i as u32).collect();
        Scan { name, image, channels, shape, lesion: number, lesion_voxels, lesions: components.count().min(MOST_LESIONS as usize) as u8 }
    }

    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// How many lesions the scan has (at most 255 are told apart).
    pub fn lesions(&self) -> u8 {
        self.lesions
    }

    /// Flat indices of the lesion voxels, ascending.
    pub fn lesion_voxels(&self) -> &[u32] {
        &self.lesion_voxels
    }

    pub fn position(&self, flat: usize) -> [usize; 3] {
        let [_, ny, nz] = self.shape;
        [flat / (ny * nz), flat / nz % ny, flat % nz]
    }

    /// Numbers of the lesions with a voxel in the window at `start`, ascending.
    pub fn lesions_in(&self, start: [usize; 3], window: [usize; 3]) -> Vec<u8> {
        let mut seen = [false; 256];
        for &flat in &self.lesion_voxels {
            let p = self.position(flat as usize);
            seen[self.lesion[flat as usize] as usize] |= (0..3).all(|a| p[a] >= start[a] && p[a] < start[a] + window[a]);
        }
        (1..=255).filter(|&n| seen[n as usize]).collect()
    }

    /// Bytes held in memory, for the budget of a scan source.
    pub fn bytes(&self) -> usize {
        self.image.len() * 4 + self.lesion.len() + self.lesion_voxels.len() * 4
    }
}

/// Where scans come from: a cached cohort, or scans in memory.
pub trait ScanSource: Send + Sync {
    fn len(&self) -> usize;
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    fn scan(&self, index: usize) -> Result<Arc<Scan>>;
    /// Whether the scan has a lesion, without loading it if that is known.
    fn has_lesion(&self, index: usize) -> Result<bool> {
        Ok(self.scan(index)?.lesions() > 0)
    }
}

impl ScanSource for Vec<Arc<Scan>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn scan(&self, index: usize) -> Result<Arc<Scan>> {
        Ok(self[index].clone())
    }
}
