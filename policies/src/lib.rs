//! Networks, objectives, losses and CPU kernels of the Glance and Focus policies, on Burn.
//!
//! Opens no file but weights.

pub mod bench;
pub mod focus;
pub mod glance;
pub mod kernels;
pub mod losses;
pub mod nets;
pub mod objectives;
pub mod optim;
pub mod precision;
pub mod weights;
pub mod whole_scan;

/// A backend that both policies run and learn on.
pub trait PolicyBackend: kernels::KernelBackend + losses::DiceCeBackend {}
impl<B: kernels::KernelBackend + losses::DiceCeBackend> PolicyBackend for B {}
