//! Half precision: a network computes in the element type of its input.
//!
//! It is what PyTorch's autocast does, without a switch. Convolutions, linear layers and the products of attention follow their input: weights are
//! cast where they are used, so that weights, their gradients, optimisers and checkpoints are `f32` in any precision. What adds many numbers up is
//! done in `f32` and brought back: norms, softmax, gradients of biases. A network ends in `f32`: pooled features, heads, logits, and so the losses.
//!
//! The same network gives `f32` for an `f32` input, which is how a window whose logits overflowed is looked at again.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};

/// `x` with elements of `dtype`; free where it has them.
pub fn cast<B: Backend, const D: usize>(x: Tensor<B, D>, dtype: DType) -> Tensor<B, D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// Half precision to `f32`, and what is wider as it is.
pub fn wide<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    if is_half(x.dtype()) { x.cast(DType::F32) } else { x }
}

/// ReLU that lets NaN through: `max(x, 0)` would make it 0, and an overflow before it would never reach the logits.
pub fn relu<B: Backend, const D: usize>(x: Tensor<B, D>) -> Tensor<B, D> {
    let off = x.clone().lower_equal_elem(0.0);
    x.mask_fill(off, 0.0)
}

/// Whether numbers of this type have 16 bits.
pub fn is_half(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::focus::Focus;
    use crate::glance::{GlanceConfig, GlanceHeadConfig, Shared};
    use crate::nets::any::tests::each_kind;
    use crate::nets::golden::{B, fill, gradients};
    use crate::nets::{Mode, NormKind, Pooling, ResNetConfig, SegmenterConfig};
    use crate::weights::NamedTensor;
    use crate::whole_scan::WholeScanConfig;
    use burn::module::Module;
    use burn::tensor::TensorData;

    fn x(name: &str, [d, h, w]: [usize; 3], dtype: DType) -> Tensor<B, 5> {
        let values = fill(name, 2 * 2 * d * h * w, 0.5, 0.5);
        cast(Tensor::from_data(TensorData::new(values, [2, 2, d, h, w]), &Default::default()), dtype)
    }

    fn values<const D: usize>(t: &Tensor<B, D>) -> Vec<f32> {
        assert_eq!(t.dtype(), DType::F32, "a network ends in f32");
        t.to_data().to_vec().unwrap()
    }

    /// 1 where two gradients, outputs, point the same way.
    fn cosine<'a>(a: impl IntoIterator<Item = &'a f32> + Clone, b: impl IntoIterator<Item = &'a f32> + Clone) -> f64 {
        let dot = |a: &mut dyn Iterator<Item = &'a f32>, b: &mut dyn Iterator<Item = &'a f32>| -> f64 {
            a.zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let (of, to) = (|| a.clone().into_iter(), || b.clone().into_iter());
        let (aa, bb) = (dot(&mut of(), &mut of()), dot(&mut to(), &mut to()));
        dot(&mut of(), &mut to()) / (aa * bb).sqrt()
    }

    /// Outputs and gradients of `forward` on half precision are those on f32 but for rounding, and f32. `smooth`: so that the direction of the
    /// gradient can be compared.
    fn check<const D: usize>(what: &str, smooth: bool, module: &impl Module<B>, forward: impl Fn(DType) -> Tensor<B, D>) {
        let run = |dtype: DType| -> (Vec<f32>, Vec<NamedTensor>) {
            let y = forward(dtype);
            let weights = Tensor::<B, 1>::from_floats(&fill("loss", y.shape().num_elements(), 0.0, 1.0)[..], &y.device());
            let grads = (y.clone() * weights.reshape(y.dims())).sum().backward();
            (values(&y), gradients(module, &grads))
        };
        let (y, grads) = run(DType::F32);
        // A mantissa of 8 and of 11 bits. Norms over the two or three channels of these networks make much of rounding.
        for (dtype, least, least_grads) in [(DType::BF16, 0.99, 0.9), (DType::F16, 0.999, 0.99)] {
            let (half, half_grads) = run(dtype);
            assert_ne!(half, y, "{what} in {dtype:?} computes in f32");
            assert!(half.iter().all(|v| v.is_finite()) && cosine(&y, &half) > least, "{what} in {dtype:?}: {}", cosine(&y, &half));
            let names = |g: &[NamedTensor]| g.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&grads), names(&half_grads), "{what}");
            if !smooth && dtype == DType::F16 {
                // Its derivative leaves f16's range of 65,504. What is trained in is bf16, which has f32's.
                continue;
            }
            let all = |g: &[NamedTensor]| g.iter().flat_map(|t| t.values.clone()).collect::<Vec<f32>>();
            let along = cosine(&all(&grads), &all(&half_grads));
            assert!(if smooth { along > least_grads } else { along.is_finite() }, "{what} in {dtype:?}: gradients at a cosine of {along}");
        }
    }

    #[test]
    fn every_segmenter_computes_and_learns_in_half_precision() {
        for config in each_kind() {
            let size = config.divisor().map(|d| 2 * d);
            let net: Focus<B> = config.init(2, 2, 7, &Default::default()).unwrap();
            // Over its two channels a layer norm is a step: its derivative is that of a few near ties.
            let smooth = !matches!(config, SegmenterConfig::SwinUnetr(_));
            check(&format!("{config:?}"), smooth, &net, |dtype| net.forward(x("half", size, dtype), Mode::Train));
        }
    }

    #[test]
    fn every_glance_computes_and_learns_in_half_precision() {
        let focus_config = &each_kind()[0];
        let focus: Focus<B> = focus_config.init(2, 2, 7, &Default::default()).unwrap();
        let resnet = |norm, pooling| {
            GlanceConfig::Resnet3d(ResNetConfig {
                widths: vec![4, 8],
                blocks: vec![1, 1],
                norm_groups: 2,
                norm,
                pooling,
                ..Default::default()
            })
        };
        let whole = WholeScanConfig { blocks: vec![1, 1], widths: vec![4, 8], ..Default::default() };
        let head = |pooling, hidden| GlanceConfig::Encoder(GlanceHeadConfig { pooling, hidden });
        for (config, shared) in [
            (resnet(NormKind::Group, Pooling::Max), Shared::None),
            (resnet(NormKind::Batch, Pooling::Cells), Shared::None),
            (GlanceConfig::WholeScan(whole), Shared::None),
            (head(Pooling::Avg, 4), Shared::Init),
            (head(Pooling::Max, 0), Shared::Tied),
        ] {
            let net = config.init(2, Some([2.0; 3]), shared, focus_config, &focus, 7, &Default::default()).unwrap();
            for mode in [Mode::Train, Mode::Eval] {
                check(&format!("{config:?} {mode:?}"), true, &net, |dtype| net.forward(x("half", [16; 3], dtype), &focus, mode));
            }
        }
    }

    #[test]
    fn a_running_mean_stays_f32() {
        let config = ResNetConfig { widths: vec![4], blocks: vec![1], norm: NormKind::Batch, ..Default::default() };
        let net = config.init::<B>(2, 2, &crate::nets::Init::new(3, "glance", &Default::default())).unwrap();
        net.forward(x("half", [8; 3], DType::BF16), Mode::Train);
        net.visit(&mut AllF32);
    }

    struct AllF32;
    impl burn::module::ModuleVisitor<B> for AllF32 {
        fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<B, D>>) {
            assert_eq!(param.val().dtype(), DType::F32);
        }
    }

    #[test]
    fn relu_hides_no_overflow() {
        let x = Tensor::<B, 1>::from_floats([-1.0, 0.0, 2.0, f32::NAN, f32::INFINITY], &Default::default()).require_grad();
        let y = relu(x.clone());
        let grad = x.grad(&y.clone().narrow(0, 0, 3).sum().backward()).unwrap();
        assert_eq!(values(&y.clone().narrow(0, 0, 3)), [0.0, 0.0, 2.0]);
        assert_eq!(grad.into_data().to_vec::<f32>().unwrap()[..3], [0.0, 0.0, 1.0]);
        let y = values(&y);
        assert!(y[3].is_nan() && y[4].is_infinite());
    }

    /// What a screening does about it: the same weights look again, at an f32 input.
    #[test]
    fn logits_that_overflow_half_precision_are_numbers_in_f32() {
        let config = &each_kind()[0];
        let net: Focus<B> = config.init(2, 2, 7, &Default::default()).unwrap();
        let finite = |x: Tensor<B, 5>| values(&net.forward(x, Mode::Eval)).iter().all(|v| v.is_finite());
        // Beyond the largest number of each type.
        for (dtype, much) in [(DType::F16, 1e6), (DType::BF16, 3.4e38)] {
            let mut values = fill("half", 2 * 2 * 512, 0.5, 0.5);
            values[700] = much;
            let x = Tensor::<B, 5>::from_data(TensorData::new(values, [2, 2, 8, 8, 8]), &Default::default());
            assert!(!finite(cast(x.clone(), dtype)), "{dtype:?}");
            assert!(much > 1e38 || finite(x), "{dtype:?}");
        }
    }
}
