//! The distribution functions that tests and intervals need.

use statrs::function::{beta, erf, gamma};

use super::{Alternative, Interval};

/// Probability that a standard normal number is above `z`.
pub fn normal_above(z: f64) -> f64 {
    // Of libm: statrs has ten digits only.
    libm::erfc(z / std::f64::consts::SQRT_2) / 2.0
}

/// Probability that a standard normal number is below `z`.
pub fn normal_below(z: f64) -> f64 {
    normal_above(-z)
}

/// The `z` below which a standard normal number is with probability `p`; infinite at 0 and 1.
pub fn normal_quantile(p: f64) -> f64 {
    let z = -std::f64::consts::SQRT_2 * erf::erfc_inv(2.0 * p);
    // One step of Newton's method takes it to the last digits.
    let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    if density > 0.0 { z - (normal_below(z) - p) / density } else { z }
}

/// p-value of the standard normal statistic `z`.
pub fn normal_p(z: f64, alternative: Alternative) -> f64 {
    match alternative {
        Alternative::Greater => normal_above(z),
        Alternative::Less => normal_below(z),
        Alternative::TwoSided => (2.0 * normal_above(z.abs())).min(1.0),
    }
}

/// Probability that a chi-squared number with `df` degrees of freedom is above `x`.
pub fn chi_squared_above(x: f64, df: f64) -> f64 {
    if x <= 0.0 { 1.0 } else { gamma::gamma_ur(df / 2.0, x / 2.0) }
}

/// The `x` with `I_x(a, b) = p` (regularised incomplete beta function), by halving.
fn beta_quantile(p: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    // Every step halves the bracket: no double lies between the ends after the last.
    for _ in 0..1100 {
        let middle = (low + high) / 2.0;
        if middle <= low || middle >= high {
            break;
        }
        if beta::beta_reg(a, b, middle) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// Wilson's score interval of the share `hits / n` at confidence `level` (0.95); `None` where `n` is 0.
pub fn wilson(hits: usize, n: usize, level: f64) -> Option<Interval> {
    if n == 0 || hits > n {
        return None;
    }
    let (share, n, z) = (hits as f64 / n as f64, n as f64, normal_quantile((1.0 + level) / 2.0));
    let scale = 1.0 + z * z / n;
    let reach = z / scale * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    Some(Interval::around((share + z * z / (2.0 * n)) / scale, reach))
}

/// Clopper and Pearson's exact interval of the share `hits / n` at confidence `level`; `None` where `n` is 0.
pub fn clopper_pearson(hits: usize, n: usize, level: f64) -> Option<Interval> {
    if n == 0 || hits > n {
        return None;
    }
    let (tail, hits, misses) = ((1.0 - level) / 2.0, hits as f64, (n - hits) as f64);
    let low = if hits == 0.0 { 0.0 } else { beta_quantile(tail, hits, misses + 1.0) };
    let high = if misses == 0.0 { 1.0 } else { beta_quantile(1.0 - tail, hits + 1.0, misses) };
    Some(Interval { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_from_tables() {
        let close = |got: f64, want: f64| assert!((got - want).abs() <= 1e-12 * want.abs(), "got {got}, want {want}");
        close(normal_above(1.959963984540054), 0.025);
        close(normal_above(8.0), 6.220960574271785e-16);
        close(normal_quantile(0.975), 1.959963984540054);
        close(normal_quantile(1e-10), -6.361340902404056);
        close(chi_squared_above(3.841458820694124, 1.0), 0.05);
        close(chi_squared_above(20.0, 2.0), (-10.0f64).exp());
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0), chi_squared_above(0.0, 2.0)), (f64::NEG_INFINITY, f64::INFINITY, 1.0));
        assert_eq!((wilson(0, 0, 0.95), clopper_pearson(3, 2, 0.95)), (None, None));
        let none = clopper_pearson(0, 10, 0.95).unwrap();
        assert_eq!(none.low, 0.0);
        close(none.high, 1.0 - 0.025f64.powf(0.1));
        let all = clopper_pearson(10, 10, 0.95).unwrap();
        close(all.low, 0.025f64.powf(0.1));
        assert_eq!(all.high, 1.0);
    }
}
