//! What only moves values, against compositions of Burn's operations; and places of which one is taken twice, or nothing.

use super::*;
use crate::kernels::{Places, side_by_side, swap_last, take_rows};
use std::sync::Arc;

#[test]
fn rows_at_other_places_have_burns_gradients() {
    for [rows, width, taken] in [[1, 1, 1], [7, 3, 20], [1500, 48, 1600], [40, 9, 5]] {
        // The last two rows are zeros; some rows are taken more than once, others never.
        let from: Vec<u32> = (0..taken).map(|i| if i + 2 > taken { Places::NONE } else { (i * i % rows) as u32 }).collect();
        let index: Vec<i64> = from.iter().map(|&place| if place == Places::NONE { rows as i64 } else { i64::from(place) }).collect();
        let places = Arc::new(Places::new(rows, from));
        let matrix = |x: &X| x.clone().reshape([rows, width]);
        let ours = |t: &[X]| take_rows(matrix(&t[0]), &places).reshape([taken, width, 1, 1, 1]);
        let burn = |t: &[X]| {
            let x = matrix(&t[0]);
            let index = Tensor::<Cpu, 1, burn::tensor::Int>::from_data(TensorData::new(index.clone(), [taken]), &x.device());
            Tensor::cat(vec![x.clone(), Tensor::zeros([1, width], (&x.device(), x.dtype()))], 0)
                .select(0, index)
                .reshape([taken, width, 1, 1, 1])
        };
        check_gradients("take_rows", &ours, &burn, &[[rows, width, 1, 1, 1]]);
    }
}

#[test]
fn places_lead_back() {
    let places = Places::new(4, vec![2, Places::NONE, 0, 3, 1]);
    let x = Tensor::<Flex, 2>::from_data([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0], [4.0, 8.0]], &Default::default());
    let back = Arc::new(places.inverse());
    assert_eq!(take_rows(take_rows(x.clone(), &Arc::new(places)), &back).to_data(), x.to_data());
}

#[test]
fn swapped_axes_have_burns_gradients() {
    for [n, rows, columns] in [[1, 1, 1], [2, 7, 9], [1, 48, 700], [3, 513, 24], [1, 8, 16], [2, 1, 300], [1, 33, 270]] {
        let whole = |x: &X| x.clone().reshape([n, rows, columns]);
        let shape = [n, columns, rows, 1, 1];
        let ours = |t: &[X]| swap_last(whole(&t[0])).reshape(shape);
        check_gradients("swap_last", &ours, &|t| whole(&t[0]).swap_dims(1, 2).reshape(shape), &[[n, rows, columns, 1, 1]]);
    }
}

#[test]
fn axes_are_swapped_alike_on_every_instruction_set() {
    for (rows, columns) in [(1, 1), (16, 16), (9, 530), (300, 7), (257, 264)] {
        let x = values(2 * rows * columns, 4);
        let at = |image: usize, c: usize, r: usize| x[(image * rows + r) * columns + c];
        let expected: Vec<f32> = (0..x.len()).map(|i| at(i / rows / columns, i / rows % columns, i % rows)).collect();
        for &isa in Isa::all() {
            assert_eq!(super::super::moves::swapped(isa, &x, rows, columns), expected, "{isa:?} {rows} {columns}");
        }
    }
}

#[test]
fn maps_side_by_side_have_burns_gradients() {
    for (n, channels, others, size) in [(1, 1, 1, [1, 1, 1]), (2, 3, 5, [4, 3, 2]), (1, 40, 24, [16, 16, 16])] {
        let [d, h, w] = size;
        let shapes = [[n, channels, d, h, w], [n, others, d, h, w]];
        let ours = |t: &[X]| side_by_side(t[0].clone(), t[1].clone());
        check_gradients("side_by_side", &ours, &|t| Tensor::cat(vec![t[0].clone(), t[1].clone()], 1), &shapes);
    }
}
