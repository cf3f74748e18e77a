//! Times rows of `panscreen bench conv` whose name holds the argument, for side-by-side measurements of two builds.
use burn::backend::{Autodiff, Flex};
unsafe extern "C" {
    fn mallopt(p: i32, v: i32) -> i32;
    fn clock_gettime(id: i32, t: *mut [i64; 2]) -> i32;
}
fn main() {
    unsafe {
        mallopt(-3, 1 << 30);
        mallopt(-1, i32::MAX);
    }
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global().unwrap();
    let clock = || unsafe {
        let mut t = [0i64; 2];
        clock_gettime(2, &mut t);
        t[0] as f64 + t[1] as f64 * 1e-9
    };
    let args: Vec<String> = std::env::args().collect();
    let seconds: f64 = args[1].parse().unwrap();
    for row in panscreen_policies::bench::operations::<Autodiff<Flex>>(&Default::default()) {
        if args[2..].iter().any(|a| row.name.contains(a.as_str())) {
            let mut s = row.prepare().measure(seconds, &clock);
            s.sort_by(f64::total_cmp);
            println!("{}\t{:.3}\t{:.3}\t{:.1}", row.name, s[0] * 1e3, s[s.len() / 2] * 1e3, row.flop.map_or(0.0, |f| f / s[0] * 1e-9));
        }
    }
}
