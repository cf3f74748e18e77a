//! Curves of a run that more than one page shows.

use super::chart::{Axis, Chart, kept_vs_recall};
use crate::run::Record;
use crate::run::metrics::series;
use crate::stages::gf_screen::Operating;

/// Metrics of the log over the steps, by name and by what the legend calls them.
pub fn curve(records: &[Record], title: &str, label: &str, names: &[(&str, &str)]) -> String {
    let chart = Chart::new(title, Axis::new("step"), Axis::new(label));
    names.iter().fold(chart, |c, (name, shown)| c.line(shown, series(records, name))).smoothed(0.9).svg()
}

pub fn focus(records: &[Record]) -> String {
    curve(records, "Focus", "loss", &[("losses/dice", "Dice"), ("losses/ce", "cross-entropy")])
}

pub fn reward(records: &[Record]) -> String {
    curve(records, "Reward", "reward", &[("reward", "reward"), ("positive_share", "sub-volumes with a lesion")])
}

pub fn policy_update(records: &[Record]) -> String {
    let names =
        [("clip_ratio/region_mean", "clipped"), ("frac_reward_zero_std", "groups without a lesson"), ("kl", "KL to the old policy")];
    curve(records, "Policy update", "", &names)
}

/// Every operating point of Glance on the validation scans, and the one that the run has chosen.
pub fn operating(operating: &Operating, threshold: Option<f32>) -> String {
    let curve = operating.curve.iter().map(|p| (p.windows_kept, p.relative_recall)).collect();
    // Measured from few windows to many: the first that is no stricter.
    let own = threshold.and_then(|t| operating.curve.iter().find(|p| p.threshold <= t)).map(|p| (p.windows_kept, p.relative_recall));
    kept_vs_recall(curve, own, Some(1.0)).svg()
}

#[test]
fn the_runs_own_choice_stands_on_its_curve() {
    let mut operating: Operating = serde_json::from_value(serde_json::json!({
        "step": 1,
        "curve": [],
        "calibration": { "ece": null, "ece_temperature": null, "temperature": 1.0, "ece_scaled": null, "scaling": { "temperature": 1.0, "intercept": 0.0 } },
        "losses": { "thresholds": [], "scans": [] },
        "left": { "estimated": 0.0, "measured": 0.0 },
        "gate": null,
    }))
    .unwrap();
    let dots = |operating: &Operating, threshold| self::operating(operating, Some(threshold)).matches("<circle").count();
    assert_eq!(dots(&operating, 0.5), 0, "nothing was measured");
    for (threshold, windows_kept, relative_recall) in [(0.9, 0.02, 0.5), (0.3, 0.1, 0.96), (0.1, 0.4, 1.0)] {
        operating.curve.push(crate::stages::gf_screen::OperatingPoint { threshold, relative_recall, windows_kept, scans: 9, lesions: 20 });
    }
    // The point, and its key in the legend.
    assert!(dots(&operating, 0.3) == 2 && self::operating(&operating, Some(0.3)).contains("its own choice"));
    assert_eq!(dots(&operating, 0.05), 0, "a threshold below all that were measured");
}
