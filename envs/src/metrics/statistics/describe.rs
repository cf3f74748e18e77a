//! Means, medians, quantiles, ranks, correlations.

/// `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() { None } else { Some(values.iter().sum::<f64>() / values.len() as f64) }
}

/// Variance with divisor `n - 1`; `None` of fewer than two numbers.
pub fn variance(values: &[f64]) -> Option<f64> {
    let middle = mean(values)?;
    let sum: f64 = values.iter().map(|v| (v - middle).powi(2)).sum();
    if values.len() < 2 { None } else { Some(sum / (values.len() - 1) as f64) }
}

pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The `q`-quantile (0 to 1) of ascending numbers, linear between neighbours (Hyndman and Fan's type 7, NumPy's default).
pub fn quantile_of_sorted(ascending: &[f64], q: f64) -> Option<f64> {
    let last = ascending.len().checked_sub(1)?;
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (ascending[at.floor() as usize], ascending[at.ceil() as usize]);
    // Equal neighbours may both be infinite.
    Some(if low == high { low } else { low + (high - low) * at.fract() })
}

pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    quantile_of_sorted(&sorted(values), q)
}

pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// Ranks from 1 in ascending order; equal values share the mean of their ranks.
pub fn midranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    for tied in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let first = order.partition_point(|&i| values[i] < values[tied[0]]);
        let rank = first as f64 + (tied.len() + 1) as f64 / 2.0;
        tied.iter().for_each(|&i| ranks[i] = rank);
    }
    ranks
}

/// Sum of `t³ - t` over the sizes `t` of the groups of equal values: what ties take from the variance of ranks.
pub fn tie_term(values: &[f64]) -> f64 {
    let size = |group: &[f64]| group.len() as f64;
    sorted(values).chunk_by(|a, b| a == b).map(|g| size(g).powi(3) - size(g)).sum()
}

/// Pearson's correlation; `None` where a side does not vary or the lengths differ.
pub fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let (ma, mb) = (mean(a)?, mean(b)?);
    let sum = |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(x, y)| f(x - ma, y - mb)).sum::<f64>();
    let (aa, bb, ab) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
    if aa == 0.0 || bb == 0.0 { None } else { Some(ab / (aa * bb).sqrt()) }
}

/// Spearman's correlation: Pearson's of the ranks.
pub fn spearman(a: &[f64], b: &[f64]) -> Option<f64> {
    pearson(&midranks(a), &midranks(b))
}

/// Kendall's tau-b of two rankings; `None` where one of them ties everything or the lengths differ.
pub fn kendall_tau_b(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    let (mut score, mut untied_a, mut untied_b) = (0.0, 0.0, 0.0);
    for i in 0..a.len() {
        for j in 0..i {
            let sign = |v: &[f64]| v[i].partial_cmp(&v[j]).map_or(0.0, |o| o as i32 as f64);
            let (x, y) = (sign(a), sign(b));
            score += x * y;
            untied_a += x * x;
            untied_b += y * y;
        }
    }
    if untied_a == 0.0 || untied_b == 0.0 { None } else { Some(score / f64::sqrt(untied_a * untied_b)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_lists() {
        assert_eq!((mean(&[]), variance(&[1.0]), median(&[]), quantile(&[], 0.5)), (None, None, None, None));
        assert_eq!((median(&[3.0, 1.0]), quantile(&[4.0, 1.0, 2.0, 3.0], 0.25)), (Some(2.0), Some(1.75)));
        assert_eq!(quantile(&[f64::INFINITY, f64::INFINITY], 0.3), Some(f64::INFINITY));
        assert_eq!(midranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        assert_eq!(midranks(&[-0.0, 0.0, 1.0]), [1.5, 1.5, 3.0]);
        assert_eq!(tie_term(&[1.0, 1.0, 2.0, 1.0]), 24.0);
        assert_eq!(pearson(&[1.0, 2.0], &[1.0, 1.0]), None);
        assert_eq!(spearman(&[1.0, 2.0, 9.0], &[-5.0, -4.0, -3.0]), Some(1.0));
        // SciPy's kendalltau([1, 2, 3, 4], [1, 3, 2, 2]).
        assert!((kendall_tau_b(&[1.0, 2.0, 3.0, 4.0], &[1.0, 3.0, 2.0, 2.0]).unwrap() - 0.182_574_185_835_055_36).abs() < 1e-15);
        assert_eq!(kendall_tau_b(&[1.0, 1.0], &[1.0, 2.0]), None);
    }
}
