//! The floor: the fewest windows that keep every lesion which Focus can hit.

use std::collections::BTreeMap;

use super::super::cached::CachedScan;

/// Lesions up to which the fewest windows are found exactly: 2^20 sets of lesions are looked at.
const EXACT_LESIONS: usize = 20;

/// The windows of somebody who knows what Focus will find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oracle {
    /// Windows that together hit every lesion that any window hits, ascending.
    pub windows: Vec<usize>,
    /// No fewer windows do; where this is false they are those of the greedy cover, and fewer may do.
    pub exact: bool,
    /// Lesions that some window hits.
    pub reachable: usize,
    /// Lesions that Focus hits in no window: no selection finds them.
    pub unreachable: usize,
}

/// The fewest windows of `scan` that hit all there is to hit: set cover, exact up to 20 reachable lesions, greedy beyond.
pub fn oracle(scan: &CachedScan) -> Oracle {
    let lesions = scan.hits().len();
    let reachable: Vec<usize> = (0..lesions).filter(|&l| scan.hits().windows(l).next().is_some()).collect();
    // What each window hits; of windows that hit the same, the first.
    let mut of_window: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, &l) in reachable.iter().enumerate() {
        scan.hits().windows(l).for_each(|w| of_window.entry(w).or_default().push(place));
    }
    let mut distinct: BTreeMap<Vec<usize>, usize> = BTreeMap::new();
    for (w, hits) in of_window {
        distinct.entry(hits).or_insert(w);
    }
    let sets: Vec<(Vec<usize>, usize)> = distinct.into_iter().collect();
    let exact = reachable.len() <= EXACT_LESIONS;
    let mut windows = if exact { fewest(&sets, reachable.len()) } else { greedy(&sets, reachable.len()) };
    windows.sort_unstable();
    Oracle { windows, exact, reachable: reachable.len(), unreachable: lesions - reachable.len() }
}

/// Breadth first over sets of lesions: each step covers the first lesion that is still open.
fn fewest(sets: &[(Vec<usize>, usize)], lesions: usize) -> Vec<usize> {
    let all = (1_u32 << lesions) - 1;
    let masks: Vec<u32> = sets.iter().map(|(hits, _)| hits.iter().fold(0, |mask, l| mask | 1 << l)).collect();
    // How each set of lesions was reached first: from which one, by which window.
    let mut from: Vec<Option<(u32, usize)>> = vec![None; all as usize + 1];
    let mut reached = vec![0_u32];
    while from[all as usize].is_none() && all != 0 {
        let mut next = Vec::new();
        for &covered in &reached {
            let open = (!covered).trailing_zeros();
            for (i, mask) in masks.iter().enumerate().filter(|(_, m)| *m >> open & 1 == 1) {
                let more = covered | mask;
                if more != covered && from[more as usize].is_none() {
                    from[more as usize] = Some((covered, i));
                    next.push(more);
                }
            }
        }
        reached = next;
    }
    let (mut windows, mut covered) = (Vec::new(), all);
    while let Some((before, i)) = from[covered as usize].filter(|_| covered != 0) {
        windows.push(sets[i].1);
        covered = before;
    }
    windows
}

/// The window that hits most of the open lesions, again and again.
fn greedy(sets: &[(Vec<usize>, usize)], lesions: usize) -> Vec<usize> {
    let (mut open, mut windows) = (vec![true; lesions], Vec::new());
    let gain = |hits: &[usize], open: &[bool]| hits.iter().filter(|&&l| open[l]).count();
    while let Some((hits, window)) = sets.iter().rev().max_by_key(|(hits, _)| gain(hits, &open)).filter(|(hits, _)| gain(hits, &open) > 0) {
        hits.iter().for_each(|&l| open[l] = false);
        windows.push(*window);
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{RngExt, stream};

    fn scan(hits: &[Vec<usize>], lesions: usize) -> CachedScan {
        CachedScan::new(hits, vec![0; lesions], vec![0.0; hits.len()])
    }

    #[test]
    fn the_greedy_trap_is_solved_exactly() {
        // The largest window is in no smallest cover.
        let hits = [vec![0, 1, 2, 3], vec![0, 1, 4], vec![2, 3, 5], vec![], vec![4], vec![5]];
        let found = oracle(&scan(&hits, 7));
        assert_eq!(found, Oracle { windows: vec![1, 2], exact: true, reachable: 6, unreachable: 1 });
        let none = oracle(&scan(&[vec![], vec![]], 2));
        assert_eq!(none, Oracle { windows: vec![], exact: true, reachable: 0, unreachable: 2 });
    }

    #[test]
    fn small_scans_equal_trying_everything() {
        let mut rng = stream(1, "oracle", 0, 0);
        for _ in 0..60 {
            let lesions = rng.random_range(1..=6_usize);
            let hits: Vec<Vec<usize>> = (0..9).map(|_| (0..lesions).filter(|_| rng.random_bool(0.3)).collect()).collect();
            let covered = |set: u32| (0..9).filter(|w| set >> w & 1 == 1).flat_map(|w| &hits[w]).fold(0_u32, |m, l| m | 1 << l);
            let everything = covered(511);
            let least = (0..512_u32).filter(|&s| covered(s) == everything).map(u32::count_ones).min().unwrap();
            let found = oracle(&scan(&hits, lesions));
            assert_eq!(found.windows.len() as u32, least, "{hits:?}");
            assert_eq!(covered(found.windows.iter().fold(0, |s, w| s | 1 << w)), everything);
            assert!(found.exact);
        }
    }

    #[test]
    fn many_lesions_are_covered_greedily_and_said_so() {
        let hits: Vec<Vec<usize>> = (0..30).map(|w| vec![w, (w + 1) % 30, (w + 2) % 30]).collect();
        let found = oracle(&scan(&hits, 30));
        assert!(!found.exact && found.windows.len() >= 10);
        let covered: std::collections::BTreeSet<usize> = found.windows.iter().flat_map(|&w| &hits[w]).copied().collect();
        assert_eq!(covered.len(), 30);
    }
}
