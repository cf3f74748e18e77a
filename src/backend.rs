//! Where back ends meet the code: the one `match` over devices.
//!
//! Everything else is generic over [`TrainBackend`]. The element type is no part of it: Burn's is a tensor's own, and its default that of the device,
//! set once a process. Half precision is therefore a matter of what networks are given, see [`panscreen_policies::precision`].

use burn::backend::{Autodiff, Flex};
use burn::tensor::backend::{AutodiffBackend, Backend};
use panscreen_policies::PolicyBackend;

use crate::config::Device;
use crate::error::{Error, Result};
use crate::memory::keep_freed;

/// A backend that networks run on without gradients.
pub trait InferBackend: PolicyBackend {}
impl<B: PolicyBackend> InferBackend for B {}

/// A backend that trains: gradients on top of an [`InferBackend`].
pub trait TrainBackend: AutodiffBackend<InnerBackend: InferBackend> + PolicyBackend {}
impl<B: AutodiffBackend<InnerBackend: InferBackend> + PolicyBackend> TrainBackend for B {}

/// Work that is told its backend here.
pub trait Work {
    type Output;
    fn run<B: TrainBackend>(self, device: B::Device) -> Result<Self::Output>;
}

/// Do `work` on `device`.
pub fn on_device<W: Work>(device: Device, work: W) -> Result<W::Output> {
    match device {
        Device::Cpu => {
            keep_freed();
            work.run::<Autodiff<Flex>>(Default::default())
        }
        Device::Cuda => cuda(work),
    }
}

#[cfg(feature = "cuda")]
fn cuda<W: Work>(work: W) -> Result<W::Output> {
    // Making a CUDA device without a driver panics in a worker thread: look for the driver first.
    // SAFETY: loading the NVIDIA driver library runs its initialisers, which is what the backend is about to do anyway.
    let driver = unsafe { libloading::Library::new("libcuda.so.1") };
    if driver.is_err() {
        return Err(Error::Usage("device = \"cuda\", but no NVIDIA driver (libcuda.so.1) is on this machine; set device=cpu".into()));
    }
    work.run::<Autodiff<burn::backend::Cuda>>(Default::default())
}

#[cfg(not(feature = "cuda"))]
fn cuda<W: Work>(_: W) -> Result<W::Output> {
    Err(Error::Usage("device = \"cuda\", but this binary was built without it; build with `--features cuda`, or set device=cpu".into()))
}

/// The backend without gradients that goes with `B`.
pub type Inner<B> = <B as AutodiffBackend>::InnerBackend;

/// Wait until the device has done all that was asked of it, so that a clock read afterwards is honest.
pub fn sync<B: Backend>(device: &B::Device) {
    // A backend that can't be waited for has nothing queued.
    let _ = B::sync(device);
}
