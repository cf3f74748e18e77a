//! What `panscreen bench` times: [`operations`] that networks are made of; and how it is timed.

mod operations;

pub use operations::operations;

use std::time::{Duration, Instant};

/// Shorter runs are repeated up to this, so that the clock's steps don't show.
const SAMPLE: Duration = Duration::from_millis(50);

/// Something to time.
pub struct Row {
    /// Operation, shape of its input, pass.
    pub name: String,
    /// Floating-point operations of one run: a multiply and an add are 2, backward counts twice the forward. `None` where time says more.
    pub flop: Option<f64>,
    make: Box<dyn Fn() -> Work>,
}

/// A row with its inputs in memory.
pub struct Work {
    run: Box<dyn FnMut()>,
    /// What `run` does besides the operation; its time is taken off.
    scaffold: Option<Box<dyn FnMut()>>,
}

impl Work {
    pub fn new(run: impl FnMut() + 'static) -> Self {
        Work { run: Box::new(run), scaffold: None }
    }
}

impl Row {
    pub fn new(name: String, flop: Option<f64>, make: impl Fn() -> Work + 'static) -> Self {
        Row { name, flop, make: Box::new(make) }
    }

    /// Make the inputs.
    pub fn prepare(&self) -> Work {
        (self.make)()
    }
}

impl Work {
    /// Seconds of a run by `clock`, at least one sample and as many as fit into `seconds`, after a run that isn't counted.
    pub fn measure(&mut self, seconds: f64, clock: &dyn Fn() -> f64) -> Vec<f64> {
        (self.run)();
        let (mut samples, began) = (Vec::new(), Instant::now());
        while samples.is_empty() || began.elapsed().as_secs_f64() < seconds {
            let (from, from_time, mut runs) = (clock(), Instant::now(), 0);
            while runs == 0 || from_time.elapsed() < SAMPLE {
                (self.run)();
                runs += 1;
            }
            let middle = clock();
            if let Some(scaffold) = &mut self.scaffold {
                (0..runs).for_each(|_| scaffold());
            }
            samples.push((2.0 * middle - from - clock()).max(0.0) / f64::from(runs));
        }
        samples
    }
}

#[test]
fn a_sample_is_the_run_without_its_scaffold() {
    use std::cell::Cell;
    use std::rc::Rc;
    let now = Rc::new(Cell::new(0.0));
    let spend = |seconds: f64| {
        let now = now.clone();
        Box::new(move || {
            now.set(now.get() + seconds);
            std::thread::sleep(SAMPLE);
        })
    };
    let mut work = Work { run: spend(5.0), scaffold: Some(spend(2.0)) };
    assert_eq!(work.measure(0.0, &|| now.get()), [3.0]);
}
