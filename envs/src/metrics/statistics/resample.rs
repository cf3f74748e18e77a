//! Random draws of resampling methods: a counter, so that draw `i` depends on the seed and on `i` alone.

/// The finaliser of SplitMix64: one well-mixed number for each `x`.
pub fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A number in 0..1 that depends on `seed + i` only.
pub fn uniform(seed: u64, i: u64) -> f64 {
    (splitmix64(seed.wrapping_add(i)) >> 11) as f64 * (-53f64).exp2()
}

/// Draws of one analysis. Seeds that lie closer together than the number of draws share some of them: take seeds far apart.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    pub seed: u64,
}

impl Draws {
    /// Resample `r` of `n` things: `n` indices with replacement.
    pub fn with_replacement(self, r: usize, n: usize) -> impl Iterator<Item = usize> {
        (0..n).map(move |i| (uniform(self.seed, (r * n + i) as u64) * n as f64) as usize)
    }

    /// Signs `r` of `n` things: `true` flips.
    pub fn flips(self, r: usize, n: usize) -> impl Iterator<Item = bool> {
        (0..n).map(move |i| uniform(self.seed, (r * n + i) as u64) < 0.5)
    }

    /// Permutation `r` of `items` (Fisher and Yates), in place.
    pub fn shuffle(self, r: usize, items: &mut [f64]) {
        let n = items.len();
        for i in (1..n).rev() {
            let j = (uniform(self.seed, (r * n + i) as u64) * (i + 1) as f64) as usize;
            items.swap(i, j);
        }
    }
}

#[test]
fn draws_depend_on_seed_and_counter_alone() {
    let d = Draws { seed: 5 };
    let first: Vec<usize> = d.with_replacement(3, 10).collect();
    assert_eq!(first, d.with_replacement(3, 10).collect::<Vec<_>>());
    assert_ne!(first, d.with_replacement(4, 10).collect::<Vec<_>>());
    assert!(first.iter().all(|&i| i < 10));
    let mut items: Vec<f64> = (0..20).map(f64::from).collect();
    d.shuffle(0, &mut items);
    assert_ne!(items, (0..20).map(f64::from).collect::<Vec<_>>());
    items.sort_by(f64::total_cmp);
    assert_eq!(items, (0..20).map(f64::from).collect::<Vec<_>>());
}
