//! Linear layers, layer norm, GELU and attention against compositions of Burn's operations.

use super::*;

fn matrix(x: &X) -> Tensor<Cpu, 2> {
    let [n, c, ..] = x.dims();
    x.clone().reshape([n, c])
}

fn volume(x: Tensor<Cpu, 2>) -> X {
    let [n, c] = x.dims();
    x.reshape([n, c, 1, 1, 1])
}

#[test]
fn linear_under_autodiff_equals_burn() {
    for [rows, inputs, outputs] in
        [[5, 3, 2], [200, 48, 192], [1, 8, 1], [37, 13, 21], [3000, 7, 70], [700, 16, 5], [3, 1030, 40], [9, 64, 2]]
    {
        let shapes = [[rows, inputs, 1, 1, 1], [outputs, inputs, 1, 1, 1], [outputs, 1, 1, 1, 1]];
        check_gradients(
            "linear",
            &|t| volume(linear(matrix(&t[0]), matrix(&t[1]), Some(channels(&t[2])))),
            &|t| volume(matrix(&t[0]).matmul(matrix(&t[1]).transpose()) + channels(&t[2]).unsqueeze()),
            &shapes,
        );
        check_gradients(
            "linear without bias",
            &|t| volume(linear(matrix(&t[0]), matrix(&t[1]), None)),
            &|t| volume(matrix(&t[0]).matmul(matrix(&t[1]).transpose())),
            &shapes[..2],
        );
    }
}

#[test]
fn gelu_under_autodiff_equals_burn() {
    for dims in [[1, 1, 1, 1, 1], [2, 3, 4, 5, 6], [1, 8, 33, 40, 9]] {
        check_gradients("gelu", &|t| gelu(t[0].clone() * 5.0), &|t| activation::gelu(t[0].clone() * 5.0), &[dims]);
    }
}

#[test]
fn layer_norm_under_autodiff_equals_burn() {
    for [rows, width] in [[1, 5], [7, 48], [1100, 20], [3, 769]] {
        let shapes = [[rows, width, 1, 1, 1], [width, 1, 1, 1, 1], [width, 1, 1, 1, 1]];
        let ours = |t: &[X]| volume(layer_norm(matrix(&t[0]) * 2.0 + 1.0, channels(&t[1]), channels(&t[2]), 1e-3));
        let burn = |t: &[X]| {
            let x = matrix(&t[0]) * 2.0 + 1.0;
            let centred = x.clone() - x.mean_dim(1);
            let y = centred.clone() / (centred.clone() * centred).mean_dim(1).add_scalar(1e-3).sqrt();
            volume(y * channels(&t[1]).unsqueeze() + channels(&t[2]).unsqueeze())
        };
        check_gradients("layer_norm", &ours, &burn, &shapes);
    }
}

#[test]
fn softmax_under_autodiff_equals_burn() {
    for dims in [[1, 1, 1, 1, 1], [2, 3, 4, 5, 7], [1, 2, 3, 9, 343]] {
        check_gradients("softmax", &|t| softmax(t[0].clone() * 5.0), &|t| activation::softmax(t[0].clone() * 5.0, 4), &[dims]);
    }
}

/// By the definition; also where our code leaves the work to the fallback (5 values a head, 6 tokens).
#[test]
fn attention_under_autodiff_equals_burn() {
    for (windows, length, heads, per_head) in [(4, 27, 3, 16), (2, 100, 2, 8), (6, 49, 1, 24), (2, 12, 2, 5), (2, 6, 2, 8), (20, 9, 2, 8)] {
        let width = heads * per_head;
        let shapes = [[windows, length, 3 * width, 1, 1], [heads, length, length, 1, 1]];
        let regions: Vec<f32> = (0..2 * length).map(|i| (i * i % 7 % 3) as f32).collect();
        for (with_bias, with_regions) in [(true, true), (true, false), (false, true), (false, false)] {
            let regions = |x: &X| Tensor::<Cpu, 2>::from_data(TensorData::new(regions.clone(), [2, length]), &x.device()).cast(x.dtype());
            let qkv = |x: &X| x.clone().reshape([windows, length, 3 * width]) * 2.0;
            let bias = |x: &X| x.clone().reshape([heads, length, length]);
            let output = |y: Tensor<Cpu, 3>| y.reshape([windows, length, width, 1, 1]);
            let ours = |t: &[X]| {
                let regions = with_regions.then(|| regions(&t[0]));
                output(attention(qkv(&t[0]), with_bias.then(|| bias(&t[1])), regions, heads))
            };
            let burn = |t: &[X]| {
                let qkv = qkv(&t[0]);
                let part = |i: usize| qkv.clone().narrow(2, i * width, width).reshape([windows, length, heads, per_head]).swap_dims(1, 2);
                let mut scores = part(0).matmul(part(1).transpose()) * (per_head as f64).powf(-0.5);
                if with_bias {
                    scores = scores + bias(&t[1]).unsqueeze();
                }
                if with_regions {
                    let regions = regions(&t[0]).repeat_dim(0, windows / 2);
                    let pairs = [windows, heads, length, length];
                    let rows = regions.clone().reshape([windows, 1, length, 1]).expand(pairs);
                    let columns = regions.reshape([windows, 1, 1, length]).expand(pairs);
                    let lowered = scores.clone() - 100.0;
                    scores = scores.mask_where(rows.not_equal(columns), lowered);
                }
                output(activation::softmax(scores, 3).matmul(part(2)).swap_dims(1, 2).reshape([windows, length, width]))
            };
            check_gradients(
                &format!("attention, bias {with_bias}, regions {with_regions}"),
                &ours,
                &burn,
                &shapes[..1 + with_bias as usize],
            );
        }
    }
}

/// The portable code gives what the processor's does, to rounding.
#[test]
fn rows_agree_between_instruction_sets() {
    let (rows, inputs, outputs) = (50, 24, 40);
    let (x, w, dy) = (values(rows * inputs, 1), values(outputs * inputs, 2), values(rows * outputs, 3));
    let (heads, length) = (2, 20);
    let qkv = values(3 * length * 3 * heads * 8, 4);
    let bias = values(heads * length * length, 5);
    let results = |isa| {
        let inputs = attention::Attention { qkv: &qkv, bias: Some(&bias), regions: None, heads, length, width: heads * 8 };
        let y = inputs.forward(isa);
        let (dqkv, dbias) = inputs.backward(isa, &y);
        let size = [outputs, 24];
        let (dw, db) = linear::weight_gradient(isa, &x, &dy, size);
        let [dx, dgamma, _] = layer_norm::backward(isa, &x, &w[..24], &x, 1e-5);
        let forward = linear::forward(isa, &x, &w, None, size);
        [y, dqkv, dbias, dw, db, dx, dgamma, forward, linear::input_gradient(isa, &w, &dy, size)]
    };
    for &isa in Isa::all() {
        for (i, (a, b)) in results(Isa::Portable).iter().zip(&results(isa)).enumerate() {
            check_close(&format!("{isa:?}, result {i}"), b, a, 1e-5);
        }
    }
}
