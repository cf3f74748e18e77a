//! The environment: a contextual bandit over groups of sub-volumes.
//!
//! What the agent sees is an [`Observation`]: a batch of sub-volumes with the group that each belongs to. What it does is a [`Selection`]:
//! which of them deserve a look. What it gets is a reward per action, from what Focus finds in what was chosen. Groups have three meanings
//! ([`Grouping`]): the whole batch (the published code), the crops of one scan, or several selections of one scan scored as sets.

pub mod blend;
pub mod cached;
mod check;
pub mod decode;
mod environment;
pub mod gate;
pub mod heat;
mod labels;
mod sampler;
mod scan;
mod score;
mod vector;
pub mod windows;

pub use check::{CheckReport, check};
pub use environment::{CropEnv, EnvConfig, EnvState, Environment, Step};
pub use labels::{LabelBuilder, Labels};
pub use sampler::{LesionPosition, SamplerConfig};
pub use scan::{Scan, ScanSource};
pub use score::{Info, Outcome, SetReward, score};
pub use vector::VecEnv;

use serde::{Deserialize, Serialize};

/// What a "group" is: whose rewards are compared with whose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// All sub-volumes of the batch, whichever scan they come from: the published code.
    Batch,
    /// The sub-volumes of one scan: the published text.
    #[default]
    Volume,
    /// Several selections of the same scan's sub-volumes, each scored as a set: same state, different actions.
    Masks,
}

/// One sub-volume of an observation: where it was cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubVolume {
    /// Index of its scan in the scan source.
    pub scan: usize,
    /// First voxel on the prepared grid, before augmentation.
    pub start: [usize; 3],
    /// Lesions (numbers of its scan, from 1) with at least one voxel inside.
    pub lesions: Vec<u8>,
    /// The group it is compared in.
    pub group: u32,
}

/// What the agent sees in one step.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// Counter of this observation since reset.
    pub index: u64,
    pub channels: usize,
    /// Voxels of a sub-volume.
    pub window: [usize; 3],
    /// Intensities 0..1, `[G][C][window]`.
    pub x: Vec<f32>,
    /// Number of the lesion at each voxel, 0 outside, `[G][window]`.
    pub lesion: Vec<u8>,
    pub windows: Vec<SubVolume>,
}

impl Observation {
    /// Number of sub-volumes, G.
    pub fn len(&self) -> usize {
        self.windows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    pub fn voxels_per_window(&self) -> usize {
        self.window.iter().product()
    }

    /// The lesion numbers in sub-volume `i`; not 0 means lesion.
    pub fn lesion_of(&self, i: usize) -> &[u8] {
        let n = self.voxels_per_window();
        &self.lesion[i * n..(i + 1) * n]
    }

    /// Whether each sub-volume holds at least one lesion voxel: Glance's supervised target (dossier A.5 item 3).
    pub fn targets(&self) -> Vec<bool> {
        self.lesion.chunks_exact(self.voxels_per_window()).map(|w| w.iter().any(|&n| n > 0)).collect()
    }

    pub fn groups(&self) -> Vec<u32> {
        self.windows.iter().map(|w| w.group).collect()
    }

    /// The groups and their sub-volumes, in order of first appearance.
    pub fn members(&self) -> Vec<(u32, Vec<usize>)> {
        let mut groups: Vec<(u32, Vec<usize>)> = Vec::new();
        for (i, w) in self.windows.iter().enumerate() {
            match groups.iter_mut().find(|(g, _)| *g == w.group) {
                Some((_, members)) => members.push(i),
                None => groups.push((w.group, vec![i])),
            }
        }
        groups
    }
}

/// Which sub-volumes the agent chooses. One mask in [`Grouping::Batch`] and [`Grouping::Volume`]; several in [`Grouping::Masks`].
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// `[masks][G]`
    pub masks: Vec<Vec<bool>>,
}

impl Selection {
    /// One look at everything.
    pub fn all(windows: usize) -> Self {
        Selection { masks: vec![vec![true; windows]] }
    }
}
