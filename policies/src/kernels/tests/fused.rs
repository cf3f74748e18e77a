//! Convolutions with what follows them in one pass, statistics of channels, and where a backward pass starts.

use super::*;

/// Under autodiff the operation is composed from Burn's; without, it is one pass.
#[test]
fn a_fused_convolution_equals_its_parts() {
    for (x, outputs, kernel, stride) in [
        ([2, 5, 6, 7, 9], 11, 3, 2),
        ([1, 1, 9, 8, 20], 16, 7, 1),
        ([1, 32, 9, 11, 13], 40, 3, 1),
        ([2, 16, 6, 6, 4], 24, 1, 1),
        ([1, 16, 6, 6, 4], 130, 3, 1),
    ] {
        let (strides, padding) = ([stride; 3], [kernel / 2; 3]);
        let out = Window { kernel: [kernel; 3], stride: strides, padding }.output([x[2], x[3], x[4]]);
        let random = |seed, dims: Dims| X::from_data(TensorData::new(values(len(dims), seed), dims), &Default::default());
        let [x, w] = [random(1, x), random(2, [outputs, x[1], kernel, kernel, kernel])];
        let [scale, shift] = [3, 4].map(|seed| channels(&random(seed, [outputs, 1, 1, 1, 1])));
        let residual = random(5, [x.dims()[0], outputs, out[0], out[1], out[2]]);
        for (residual, slope) in [(None, None), (Some(residual.clone()), Some(0.0)), (Some(residual), Some(0.1)), (None, Some(0.01))] {
            let parts = conv3d_act(x.clone(), w.clone(), scale.clone(), shift.clone(), strides, padding, residual.clone(), slope);
            let fused = conv3d_act(
                x.clone().inner(),
                w.clone().inner(),
                scale.clone().inner(),
                shift.clone().inner(),
                strides,
                padding,
                residual.map(X::inner),
                slope,
            );
            let [fused, parts] = [fused, parts.inner()].map(|t| t.into_data().to_vec::<f32>().expect("f32"));
            check_close(&format!("{:?} {outputs} {kernel}/{stride} {slope:?}", x.dims()), &fused, &parts, 1e-5);
        }
    }
}

#[test]
fn channel_moments_equal_their_fallback() {
    for dims in [[3, 5, 4, 6, 7], [1, 2, 1, 1, 1], [2, 3, 16, 24, 16]] {
        let x = X::from_data(TensorData::new(values(len(dims), 1).iter().map(|v| v + 2.0).collect(), dims), &Default::default());
        let expected = channel_moments(x.clone().cast(DType::F64));
        for (found, expected) in channel_moments(x).into_iter().zip(expected) {
            let [found, expected] = [found, expected].map(|t| t.into_data().convert::<f32>().to_vec::<f32>().expect("f32"));
            check_close(&format!("moments of {dims:?}"), &found, &expected, 1e-5);
        }
    }
}

#[test]
fn a_backward_pass_starts_where_it_is_told() {
    let x = Tensor::<Cpu, 1>::from_floats([1.0, 2.0, 3.0], &Default::default()).require_grad();
    let gradient = Tensor::from_floats([0.5, -1.0, 2.0], &Default::default());
    let carried = carry(x.clone() * x.clone(), gradient);
    assert_eq!(carried.clone().into_data().to_vec::<f32>().expect("f32"), [0.0]);
    let dx = x.grad(&carried.backward()).expect("a gradient");
    assert_eq!(dx.into_data().to_vec::<f32>().expect("f32"), [1.0, -4.0, 12.0]);
}
