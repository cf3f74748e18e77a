//! Many environments stepped side by side.

use rayon::prelude::*;

use super::{EnvState, Environment, Observation, Selection, Step};
use crate::Result;

/// `n` copies of an environment with seeds of their own, stepped on all threads. Order and bytes don't depend on the number of threads.
pub struct VecEnv<E> {
    envs: Vec<E>,
}

impl<E: Environment + Clone + Send> VecEnv<E> {
    pub fn new(env: &E, n: usize) -> Self {
        VecEnv { envs: vec![env.clone(); n] }
    }

    /// Environment `i` is reset with `seed + i`.
    pub fn reset(&mut self, seed: u64) -> Result<Vec<Observation>> {
        self.envs.par_iter_mut().enumerate().map(|(i, e)| e.reset(seed.wrapping_add(i as u64))).collect()
    }

    /// Action and Focus's masks `i` go to environment `i`.
    pub fn step(&mut self, actions: &[(Selection, Vec<u8>)]) -> Result<Vec<Step>> {
        assert_eq!(actions.len(), self.envs.len(), "one action per environment");
        self.envs.par_iter_mut().zip(actions).map(|(e, (selection, predicted))| e.step(selection, predicted)).collect()
    }

    pub fn states(&self) -> Vec<EnvState> {
        self.envs.iter().map(E::state).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::environment::tests::env;
    use super::super::{Environment, Grouping, Selection};
    use super::*;

    #[test]
    fn side_by_side_equals_one_after_the_other() {
        let one = env(Grouping::Volume, 1.0);
        let mut many = VecEnv::new(&one, 3);
        let first = many.reset(40).unwrap();
        let actions: Vec<_> = first.iter().map(|o| (Selection::all(o.len()), vec![1; o.lesion.len()])).collect();
        let steps = many.step(&actions).unwrap();
        for i in 0..3 {
            let mut alone = one.clone();
            assert_eq!(alone.reset(40 + i as u64).unwrap(), first[i]);
            let step = alone.step(&actions[i].0, &actions[i].1).unwrap();
            assert_eq!((&step.outcome, &step.next), (&steps[i].outcome, &steps[i].next));
            assert_eq!(alone.state(), many.states()[i]);
        }
    }
}
