//! Successive halving: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016.
//!
//! Synchronous, so that which trials go on depends on their figures alone, never on who was first.

/// Steps of the rungs below `most`: `least`, then `factor` times as many, and so on.
pub fn rungs(least: u64, factor: u64, most: u64) -> Vec<u64> {
    std::iter::successors(Some(least), |step| step.checked_mul(factor)).take_while(|step| *step < most).collect()
}

/// Which of the trials that reached a rung go on, by their figure (higher is better): the best `1 / factor`, at least one; of equals the first.
pub fn survivors(figures: &[f64], factor: u64) -> Vec<bool> {
    let wanted = (figures.len() as u64).div_ceil(factor.max(1)) as usize;
    let mut order: Vec<usize> = (0..figures.len()).collect();
    order.sort_by(|&a, &b| figures[b].total_cmp(&figures[a]));
    let mut stays = vec![false; figures.len()];
    order.into_iter().take(wanted).for_each(|i| stays[i] = true);
    stays
}

#[test]
fn the_best_third_goes_on() {
    assert_eq!(rungs(100, 3, 2000), [100, 300, 900]);
    assert_eq!(rungs(100, 4, 100), [0; 0]);
    assert_eq!(survivors(&[0.1, 0.5, 0.3, 0.5, 0.2, 0.0, 0.4], 3), [false, true, false, true, false, false, true]);
    assert_eq!(survivors(&[0.1], 4), [true]);
    assert!(survivors(&[], 4).is_empty());
}
