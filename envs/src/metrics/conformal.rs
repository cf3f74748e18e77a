//! Conformal risk control: an operating point that keeps its promise on scans like those it was chosen on.
//!
//! Source: Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control" (ICLR 2024), theorem 1.

/// Number of the first setting, from the cheapest to the most careful, whose expected loss on a new exchangeable scan is at most `risk`.
///
/// `losses[scan][setting]`, each 0 to 1. A loss that rises again towards the careful side counts there as the largest from it on, so that the
/// theorem's monotone losses are given. `None` where no setting gives the guarantee; with fewer than [`scans_needed`] scans none can.
pub fn risk_control(losses: &[Vec<f64>], risk: f64) -> Option<usize> {
    let n = losses.len() as f64;
    let settings = losses.iter().map(Vec::len).min()?;
    let mut worst = vec![0.0_f64; losses.len()];
    let mut allowed = None;
    for setting in (0..settings).rev() {
        worst.iter_mut().zip(losses).for_each(|(worst, of_scan)| *worst = worst.max(of_scan[setting]));
        // The scan to come may lose everything: the 1 in the numerator. A hair's tolerance for sums such as 0.01 * 100.
        if (worst.iter().sum::<f64>() + 1.0) / (n + 1.0) > risk + 1e-12 {
            break;
        }
        allowed = Some(setting);
    }
    allowed
}

/// Fewest scans with which a risk can be guaranteed at all, even if none of them loses anything.
pub fn scans_needed(risk: f64) -> usize {
    if risk > 0.0 { (1.0 / risk - 1e-9).ceil().max(1.0) as usize - 1 } else { usize::MAX }
}

/// The smallest risk that `scans` scans can guarantee.
pub fn smallest_risk(scans: usize) -> f64 {
    1.0 / (scans as f64 + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{RngExt, stream};

    #[test]
    fn the_bound_by_hand() {
        let losses = |n: usize| vec![vec![1.0, 0.5, 0.0]; n];
        // (n * loss + 1) / (n + 1): 1, 0.545.., 0.09.. for n = 10.
        for (risk, expected) in [(0.6, Some(1)), (0.54, Some(2)), (0.1, Some(2)), (0.09, None)] {
            assert_eq!(risk_control(&losses(10), risk), expected, "{risk}");
        }
        assert_eq!(risk_control(&[], 0.5), None);
        assert_eq!([scans_needed(0.01), scans_needed(0.05), scans_needed(0.5), scans_needed(1.0)], [99, 19, 1, 0]);
        assert_eq!(scans_needed(0.0), usize::MAX);
        for risk in [0.01, 0.03, 0.05, 0.1, 0.3] {
            let n = scans_needed(risk);
            assert!(risk_control(&vec![vec![0.0]; n], risk).is_some(), "{risk}");
            assert!(risk_control(&vec![vec![0.0]; n - 1], risk).is_none(), "{risk}");
            assert!(smallest_risk(n) <= risk + 1e-12 && smallest_risk(n - 1) > risk);
        }
    }

    #[test]
    fn a_loss_that_rises_again_counts_from_there_on() {
        let losses = vec![vec![0.9, 0.0, 0.9, 0.0]; 99];
        assert_eq!(risk_control(&losses, 0.02), Some(3));
    }

    /// A scan has one to four lesions; Glance gives each a score, lower for some scans; a threshold misses those below it.
    fn draw(rng: &mut crate::rng::Stream) -> Vec<f64> {
        let hard: f64 = rng.random::<f64>() * 0.5;
        let scores: Vec<f64> = (0..rng.random_range(1..=4)).map(|_| rng.random::<f64>() * (1.0 - hard)).collect();
        (0..=200).map(|t| scores.iter().filter(|&&s| s < 1.0 - t as f64 / 200.0).count() as f64 / scores.len() as f64).collect()
    }

    #[test]
    fn the_promise_is_kept_over_many_draws() {
        for (risk, scans) in [(0.1, 40), (0.2, 15), (0.05, 60)] {
            let (mut total, mut promised) = (0.0, 0);
            for trial in 0..3000 {
                let mut rng = stream(1, "conformal", trial, scans);
                let calibration: Vec<Vec<f64>> = (0..scans).map(|_| draw(&mut rng)).collect();
                let fresh = draw(&mut rng);
                if let Some(setting) = risk_control(&calibration, risk) {
                    promised += 1;
                    total += fresh[setting];
                }
            }
            let mean = total / f64::from(promised);
            // Three standard errors of a loss within 0 to 1 and of small mean.
            assert!(promised == 3000 && mean <= risk + 3.0 * (risk / 3000.0).sqrt(), "risk {risk}: {mean} over {promised}");
            assert!(mean > risk / 4.0, "risk {risk}: {mean} is more careful than it has to be");
        }
    }

    #[test]
    fn the_share_seen_on_the_same_scans_promises_too_much() {
        // What the bound is for: taking the first setting whose mean loss on the calibration scans is at most the risk breaks the promise.
        let (risk, scans, mut total) = (0.05, 20, 0.0);
        for trial in 0..3000 {
            let mut rng = stream(2, "conformal", trial, 0);
            let calibration: Vec<Vec<f64>> = (0..scans).map(|_| draw(&mut rng)).collect();
            let mean = |s: usize| calibration.iter().map(|l| l[s]).sum::<f64>() / scans as f64;
            let plain = (0..201).find(|&s| mean(s) <= risk).unwrap();
            total += draw(&mut rng)[plain];
        }
        assert!(total / 3000.0 > risk, "{}", total / 3000.0);
    }
}
