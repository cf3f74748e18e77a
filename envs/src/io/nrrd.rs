//! NRRD (attached and detached) and MetaImage (MHA, MHD).

use super::Opened;
use super::source::Source;
use crate::volume::{Labels, Volume};
use crate::{Error, Result};

/// Whether the first bytes of a file are those of an NRRD or a MetaImage header.
pub(super) fn is_nrrd(head: &[u8]) -> bool {
    head.starts_with(b"NRRD")
}

pub(super) fn read_volume(source: Source) -> Result<Opened<Volume>> {
    Err(not_here(&source))
}

pub(super) fn read_labels(source: Source) -> Result<Opened<Labels>> {
    Err(not_here(&source))
}

fn not_here(source: &Source) -> Error {
    Error::file(&source.path, "an NRRD file", "NIfTI-1, plain or gzipped", "convert it (nibabel)")
}
