use std::time::Instant;

use panscreen_envs::metrics::calibration::Scaling;
use panscreen_envs::screening::heat::CellGrid;

use super::*;
use crate::config::{self, ScreenConfig};

fn plan(second_look: bool, denominator: Denominator) -> Plan {
    let config =
        ScreenConfig { overlap: 0.5, blend: config::Blend::Flat, denominator, second_look, glance_weight: 0.0, ..ScreenConfig::default() };
    Plan::new([1, 1, 8], [1, 1, 4], &config, None)
}

/// One window of three cries wolf at voxels 4 and 5.
fn wolf(numbers: &[usize]) -> Result<Vec<Vec<f32>>, ()> {
    Ok(numbers.iter().map(|&i| if i == 1 { vec![0.0, 0.0, 0.9, 0.9] } else { vec![0.0; 4] }).collect())
}

#[test]
fn a_second_look_outvotes_a_false_alarm_as_focus_everywhere_does() {
    let glance = Glanced { windows: vec![0.1, 0.9, 0.1], heat: None };
    let none = Budget::default();
    let everywhere = plan(false, Denominator::Kept).run(&glance, Choice::All, &none, wolf).unwrap();
    assert_eq!(everywhere.probability[4], 0.45);
    let once = plan(false, Denominator::Kept).run(&glance, Choice::Above(0.5), &none, wolf).unwrap();
    assert_eq!((once.probability[4], once.windows_kept()), (0.9, 1));
    let twice = plan(true, Denominator::Kept).run(&glance, Choice::Above(0.5), &none, wolf).unwrap();
    assert_eq!((twice.probability[4], twice.windows_kept()), (0.45, 2));
    let covering = plan(false, Denominator::Covering).run(&glance, Choice::Above(0.5), &none, wolf).unwrap();
    assert_eq!((covering.probability[4], covering.windows_kept()), (0.45, 1));
}

/// Rejected neighbours would vote a lesion down that all four windows over it see.
#[test]
fn one_window_of_several_over_a_lesion_is_enough_for_a_second_look() {
    let config =
        ScreenConfig { overlap: 0.75, blend: config::Blend::Flat, second_look: true, glance_weight: 0.0, ..ScreenConfig::default() };
    let glance = Glanced { windows: vec![0.1, 0.6, 0.9, 0.6, 0.1], heat: None };
    let lesion = |numbers: &[usize]| -> Result<Vec<Vec<f32>>, ()> {
        Ok(numbers.iter().map(|&i| (0..4).map(|v| f32::from(u8::from(i + v == 4))).collect()).collect())
    };
    for decoder in [config::Decoder::SoftApart, config::Decoder::GreedyApart, config::Decoder::Threshold] {
        let config = ScreenConfig { decode: Some(decoder), denominator: Denominator::Covering, ..config.clone() };
        let plan = Plan::new([1, 1, 8], [1, 1, 4], &config, None);
        for threshold in [0.5, 0.8] {
            let looked = plan.run(&glance, Choice::Above(threshold), &Budget::default(), lesion).unwrap();
            assert_eq!(looked.kept, [false, true, true, true, true], "{decoder:?} above {threshold}");
            assert_eq!(looked.probability[4], 1.0, "{decoder:?} above {threshold}");
        }
    }
}

type Seen = Result<Vec<Vec<f32>>, ()>;

/// A scan of 16 voxels whose cells of one voxel are hot where lesions are; Focus marks lesions it sees.
fn whole(lesions: &'static [usize]) -> (Plan, Glanced, impl Fn(&[usize]) -> Seen) {
    let cells = CellGrid { shape: [1, 1, 16], factor: [1; 3], stride: 1 };
    let config = ScreenConfig { blend: config::Blend::Flat, batch: 1, ..ScreenConfig::default() };
    let plan = Plan::new([1, 1, 16], [1, 1, 4], &config, Some(cells));
    let mut odds = vec![-4.0; 16];
    lesions.iter().zip([2.0, 1.0]).for_each(|(&v, z)| odds[v] = z);
    let p = |z: f32| 1.0 / (1.0 + (-z).exp());
    let windows = cells.read(&odds, [1, 1, 4], &plan.starts, 1.0).iter().map(|r| p(r.log_odds)).collect();
    let glanced = Glanced { windows, heat: Some((cells, odds.iter().map(|&z| p(z)).collect())) };
    let starts = plan.starts.clone();
    let focus = move |numbers: &[usize]| {
        let of = |&i: &usize| (0..4).map(|v| f32::from(u8::from(lesions.contains(&(starts[i][2] + v))))).collect();
        Ok(numbers.iter().map(of).collect())
    };
    (plan, glanced, focus)
}

#[test]
fn windows_lie_on_peaks_and_only_hits_are_looked_at_again() {
    let (plan, glanced, focus) = whole(&[3, 12]);
    // Cells near the faces share their window.
    assert_eq!((plan.grid, plan.starts.len()), (7, 7 + 13));
    let looked = plan.run(&glanced, Choice::Above(0.4), &Budget::default(), &focus).unwrap();
    let seen: Vec<[usize; 3]> = (0..20).filter(|&i| looked.kept[i]).map(|i| plan.starts[i]).collect();
    // Two of the grid's seven over each lesion, and the one that found it; of the second lesion that is where one of the grid's lies, which is not
    // looked at twice.
    assert_eq!(seen.iter().map(|s| s[2]).collect::<BTreeSet<_>>(), [0, 1, 2, 10, 12].into(), "{seen:?}");
    assert_eq!(seen.len(), 5);
    assert_eq!((looked.probability[3], looked.probability[12], looked.probability[7], looked.skipped), (1.0, 1.0, 0.0, 0));
}

#[test]
fn a_budget_takes_the_most_promising_first_and_says_what_is_left() {
    let (plan, glanced, focus) = whole(&[3, 12]);
    let budget = Budget { windows: Some(3), seconds: None };
    let looked = plan.run(&glanced, Choice::Above(0.4), &budget, &focus).unwrap();
    assert_eq!((looked.windows_kept(), looked.probability[3], looked.probability[12], looked.skipped), (3, 1.0, 0.0, 1));
    let left = plan.unseen(&glanced, &looked, Scaling::IDENTITY);
    let all: f32 = 0.880797 + 0.731059 + 14.0 * 0.017986;
    assert!(left > f64::from(0.731059 / all) && left < f64::from((0.731059 + 12.0 * 0.017986) / all), "{left}");
    let over = Budget { windows: None, seconds: Some((0.0, Instant::now())) };
    let looked = plan.run(&glanced, Choice::Above(0.4), &over, &focus).unwrap();
    assert_eq!((looked.windows_kept(), looked.skipped), (0, 2));
    assert!((plan.unseen(&glanced, &looked, Scaling::IDENTITY) - 1.0).abs() < 1e-9);
}

#[test]
fn a_budget_that_is_never_reached_changes_nothing_on_the_grid() {
    let glance = Glanced { windows: vec![0.1, 0.9, 0.1], heat: None };
    for denominator in [Denominator::Kept, Denominator::Covering] {
        let plan = plan(false, denominator);
        let free = plan.run(&glance, Choice::Above(0.5), &Budget::default(), wolf).unwrap();
        let wide = Budget { windows: Some(100), seconds: Some((1e6, Instant::now())) };
        let bound = plan.run(&glance, Choice::Above(0.5), &wide, wolf).unwrap();
        assert_eq!((free.probability, free.kept), (bound.probability, bound.kept));
    }
}

#[test]
fn what_a_second_look_has_seen_is_not_left() {
    let mut plan = plan(true, Denominator::Kept);
    plan.batch = 1;
    let glance = Glanced { windows: vec![0.1, 0.9, 0.2], heat: None };
    // The window that cries wolf, and the second look at it; one of the two that were chosen besides is the same.
    let budget = Budget { windows: Some(2), seconds: None };
    let looked = plan.run(&glance, Choice::Above(0.05), &budget, wolf).unwrap();
    assert_eq!((&looked.kept[..], looked.skipped), (&[false, true, true][..], 1));
}

/// A scan of 16 voxels, its windows of 4 and 8, and a Focus that is surer of lesion voxels in the wide ones.
fn at_two_scales(lesion: std::ops::Range<usize>) -> (Plan, Glanced, impl Fn(&[usize]) -> Seen) {
    let config = ScreenConfig { blend: config::Blend::Flat, scales: vec![1, 2], ..ScreenConfig::default() };
    let plan = Plan::new([1, 1, 16], [1, 1, 4], &config, None);
    assert_eq!((plan.grid, plan.wide.len()), (7, 3));
    let glanced = Glanced { windows: vec![0.9; 7], heat: None };
    let of_plan = plan.clone();
    let focus = move |numbers: &[usize]| {
        let of = |&i: &usize| {
            let place = of_plan.place(i);
            // Along x and y the wide ones reach beyond the scan, which is one voxel there: their first row is the scan's.
            let voxel = |v: usize| u8::from(v < of_plan.size(place)[2] && lesion.contains(&(place.start[2] + v)));
            let sure = if place.scale == 1 { 0.6 } else { 1.0 };
            (0..of_plan.size(place).iter().product()).map(|v| f32::from(voxel(v)) * sure).collect()
        };
        Ok(numbers.iter().map(of).collect())
    };
    (plan, glanced, focus)
}

#[test]
fn a_finding_longer_than_a_window_is_looked_at_through_wider_ones() {
    let none = Budget::default();
    for choice in [Choice::All, Choice::Above(0.5)] {
        let (plan, glanced, focus) = at_two_scales(4..12);
        let looked = plan.run(&glanced, choice, &none, focus).unwrap();
        // Of the three wide windows, those over its centre, at 4 and at 8.
        assert_eq!((looked.windows_kept(), &looked.kept[7..]), (9, &[false, true, true][..]), "{choice:?}");
        let expected = [(3, 0.0), (4, (2.0 * 0.6 + 1.0) / 3.0), (8, (2.0 * 0.6 + 2.0) / 4.0), (11, (2.0 * 0.6 + 2.0) / 4.0), (12, 0.0)];
        for (v, p) in expected {
            assert!((looked.probability[v] - p).abs() < 1e-6, "{choice:?}: voxel {v} of {:?}", looked.probability);
        }
        // What the wide ones saw is covered.
        assert!((0..16).all(|z| plan.covered(&looked)([0, 0, z])));

        let (plan, glanced, focus) = at_two_scales(4..8);
        assert_eq!(plan.run(&glanced, choice, &none, focus).unwrap().windows_kept(), 7, "it fits into a window");
    }
}

#[test]
fn wider_windows_count_in_the_budget() {
    let (plan, glanced, focus) = at_two_scales(4..12);
    let looked = plan.run(&glanced, Choice::All, &Budget { windows: Some(8), seconds: None }, focus).unwrap();
    assert_eq!((looked.windows_kept(), looked.skipped), (8, 1));
}
