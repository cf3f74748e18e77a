//! Operations at the shapes that the published networks, the small ones and the first comparison with PyTorch have.

use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{DType, Tensor};

use super::{Row, Work};
use crate::kernels::{self, KernelBackend};
use crate::nets::Init;
use crate::precision::cast;

/// The rows `NAME forward` and `NAME forward+backward` of each operation, on elements of `dtype`.
pub fn operations<B>(device: &B::Device, dtype: DType) -> Vec<Row>
where
    B: AutodiffBackend<InnerBackend: KernelBackend> + KernelBackend,
{
    let mut rows = Rows { device: device.clone(), dtype, rows: vec![] };
    convolutions::<B>(&mut rows);
    volumes::<B>(&mut rows);
    tokens::<B>(&mut rows);
    rows.rows
}

struct Rows<B: AutodiffBackend> {
    device: B::Device,
    dtype: DType,
    rows: Vec<Row>,
}

impl<B: AutodiffBackend> Rows<B> {
    /// Both passes of `op` on an input and parameters of these shapes.
    fn add<const D: usize, const P: usize>(
        &mut self,
        name: String,
        flop: Option<f64>,
        (x_shape, parameter_shape): ([usize; D], [usize; P]),
        with_dx: bool,
        op: impl Fn(Tensor<B, D>, Tensor<B, P>) -> Tensor<B, D> + Copy + 'static,
    ) {
        let (device, dtype) = (self.device.clone(), self.dtype);
        self.rows.push(Row::new(format!("{name} forward"), flop, move || {
            let (x, parameters) = (cast(random(x_shape, &device), dtype), random(parameter_shape, &device));
            let device = device.clone();
            Work::new(move || {
                let y = op(Tensor::from_inner(x.clone()), Tensor::from_inner(parameters.clone()));
                drop(y);
                wait::<B>(&device);
            })
        }));
        let (device, passes) = (self.device.clone(), if with_dx { 3.0 } else { 2.0 });
        self.rows.push(Row::new(format!("{name} forward+backward"), flop.map(|flop| passes * flop), move || {
            let x = Tensor::<B, D>::from_inner(cast(random(x_shape, &device), dtype));
            let x = if with_dx { x.require_grad() } else { x };
            let parameters = Tensor::<B, P>::from_inner(random(parameter_shape, &device)).require_grad();
            let y = op(x.clone(), parameters.clone());
            let dy = Tensor::<B, D>::from_inner(cast(random(y.dims(), &device), y.dtype()));
            // What it takes to bring the gradient to the output isn't the operation's.
            let output = y.detach().require_grad();
            let [run, scaffold] = [device.clone(), device.clone()];
            let carried = dy.clone();
            Work {
                run: Box::new(move || {
                    drop((op(x.clone(), parameters.clone()) * dy.clone()).sum().backward());
                    wait::<B>(&run);
                }),
                scaffold: Some(Box::new(move || {
                    drop((output.clone() * carried.clone()).sum().backward());
                    wait::<B>(&scaffold);
                })),
            }
        }));
    }
}

/// A device that can't be waited for has nothing queued.
fn wait<B: AutodiffBackend>(device: &B::Device) {
    let _ = B::sync(device);
}

fn random<B: burn::tensor::backend::Backend, const D: usize>(shape: [usize; D], device: &B::Device) -> Tensor<B, D> {
    Init::<B>::new(0, "bench", device).normal("values", shape, 1.0).val().detach()
}

fn convolutions<B>(rows: &mut Rows<B>)
where
    B: AutodiffBackend + KernelBackend,
{
    for (x, channels, kernel, stride) in [
        // Of the first comparison.
        ([2, 32, 48, 48, 32], 32, 3, 1),
        ([1, 64, 48, 48, 32], 64, 3, 1),
        ([1, 48, 96, 96, 64], 48, 3, 1),
        ([1, 1, 96, 96, 64], 64, 7, 1),
        ([1, 256, 12, 12, 8], 256, 3, 1),
        ([1, 512, 6, 6, 4], 512, 3, 1),
        ([4, 8, 24, 24, 16], 16, 3, 1),
        // What else the networks have: stems, strides, the deepest levels, small training crops.
        ([1, 1, 96, 96, 64], 64, 7, 2),
        ([1, 1, 96, 96, 64], 48, 3, 1),
        ([16, 1, 64, 64, 32], 16, 3, 1),
        ([16, 16, 64, 64, 32], 16, 3, 1),
        ([16, 16, 32, 32, 16], 16, 3, 1),
        ([16, 32, 32, 32, 16], 64, 3, 2),
        ([1, 64, 48, 48, 32], 128, 3, 2),
        ([1, 128, 24, 24, 16], 128, 3, 1),
        ([1, 768, 3, 3, 2], 768, 3, 1),
        ([16, 48, 3, 3, 2], 48, 3, 1),
        ([1, 96, 96, 96, 64], 48, 1, 1),
        ([1, 48, 48, 48, 32], 48, 1, 1),
    ] {
        let (padding, strides) = ([kernel / 2; 3], [stride; 3]);
        let weight = [channels, x[1], kernel, kernel, kernel];
        let out: usize = x[2..].iter().map(|n| (n - 1) / stride + 1).product();
        let flop = 2.0 * (x[0] * channels * out * x[1] * kernel.pow(3)) as f64;
        let name = format!("conv{kernel}/{stride} {x:?}->{channels}");
        rows.add(name, Some(flop), (x, weight), x[1] > 1, move |x, w| kernels::conv3d(x, w, None, strides, padding));
    }
    for (x, channels) in [([1, 64, 24, 24, 16], 32), ([1, 48, 48, 48, 32], 48)] {
        let flop = 2.0 * (x.iter().product::<usize>() * channels * 8) as f64;
        let name = format!("up2 {x:?}->{channels}");
        rows.add(name, Some(flop), (x, [x[1], channels, 2, 2, 2]), true, |x, w| kernels::conv_transpose3d(x, w, None, [2; 3]));
    }
}

fn volumes<B>(rows: &mut Rows<B>)
where
    B: AutodiffBackend + KernelBackend,
{
    let x = [2, 32, 48, 48, 32];
    rows.add(format!("instance_norm+leaky_relu {x:?}"), None, (x, [32]), true, |x, gamma| {
        kernels::norm_act(x, Some(gamma), None, 32, 1e-5, Some(0.01))
    });
    let x = [1, 64, 48, 48, 32];
    rows.add(format!("max_pool3/2 {x:?}"), None, (x, [1]), true, |x, _| kernels::max_pool3d(x, [3; 3], [2; 3], [1; 3]));
}

fn tokens<B>(rows: &mut Rows<B>)
where
    B: AutodiffBackend + KernelBackend,
{
    rows.add("gelu [32928, 144]".to_owned(), None, ([32928, 144], [1]), true, |x, _| kernels::gelu(x));
    for (x, outputs) in [([32928, 48], 192), ([32928, 192], 48), ([512, 384], 1536)] {
        let flop = 2.0 * (x[0] * x[1] * outputs) as f64;
        rows.add(format!("linear {x:?}->{outputs}"), Some(flop), (x, [outputs, x[1]]), true, |x, w| kernels::linear(x, w, None));
    }
    rows.add("softmax [96, 3, 343, 343]".to_owned(), None, ([96, 3, 343, 343], [1]), true, |x, _| kernels::softmax(x));
    rows.add("layer_norm [73728, 48]".to_owned(), None, ([73728, 48], [48]), true, |x, gamma| {
        kernels::layer_norm(x, gamma.clone(), gamma, 1e-5)
    });
    // Two products of 16 values for each pair of tokens.
    let (windows, heads, length, per_head) = (96, 3, 343, 16);
    let flop = 4.0 * (windows * heads * length * length * per_head) as f64;
    let shapes = ([windows, length, 3 * heads * per_head], [heads, length, length]);
    rows.add("window_attention 96x343, 3 heads of 16".to_owned(), Some(flop), shapes, true, move |qkv, bias| {
        kernels::attention(qkv, Some(bias), None, heads)
    });
}
