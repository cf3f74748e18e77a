//! Who trains, who validates, who tests: by patient, reproducible, saved with the run.

use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::list::{Case, CohortList};
use crate::rng::stream;
use crate::{Error, Result};

/// Cases by their part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    pub train: Vec<Case>,
    pub validation: Vec<Case>,
    pub test: Vec<Case>,
}

impl Split {
    /// Take the parts that the list names. `held_out` patients (or cases) leave the training part for the test part; where the list has no
    /// validation part, `validation_fraction` of the patients left (at least one) are drawn for it by `seed`. Refused where a patient
    /// would be on two sides.
    pub fn new(list: CohortList, held_out: &[String], validation_fraction: f64, seed: u64) -> Result<Self> {
        let held = |c: &Case| held_out.iter().any(|h| *h == c.patient || *h == c.name);
        if let Some(missing) = held_out.iter().find(|h| !list.training.iter().chain(&list.test).any(|c| **h == c.patient || **h == c.name))
        {
            return Err(Error::Setting(format!("`data.test_cases` names `{missing}`, but no case or patient of the list is called so")));
        }
        let (mut test, train): (Vec<Case>, Vec<Case>) = list.training.into_iter().partition(|c| held(c));
        test.extend(list.test);
        let mut split = Split { train, validation: list.validation, test };
        if split.validation.is_empty() && validation_fraction > 0.0 {
            let mut patients: Vec<String> = split.train.iter().map(|c| c.patient.clone()).collect();
            patients.sort();
            patients.dedup();
            patients.shuffle(&mut stream(seed, "split", 0, 0));
            let wanted = ((patients.len() as f64 * validation_fraction).round() as usize).max(1);
            if wanted >= patients.len() {
                return Err(Error::Setting(format!(
                    "{} patients are left to train and validate on, expected at least 2; add data or lower `data.validation_fraction`",
                    patients.len()
                )));
            }
            let chosen = &patients[..wanted];
            (split.validation, split.train) = split.train.into_iter().partition(|c| chosen.contains(&c.patient));
        }
        split.check()?;
        Ok(split)
    }

    /// No patient on two sides.
    fn check(&self) -> Result<()> {
        let sides = [("train", &self.train), ("validation", &self.validation), ("test", &self.test)];
        let mut side_of = std::collections::BTreeMap::new();
        for (side, cases) in sides {
            for c in cases {
                if let Some(other) = side_of.insert(&c.patient, side).filter(|o| *o != side) {
                    return Err(Error::Mismatch {
                        case: c.name.clone(),
                        found: format!("patient `{}` in {other} and in {side}", c.patient),
                        expected: "each patient on one side only".into(),
                        action: "move the case, or tell patients apart with `data.patient_parts`".into(),
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &str) -> Case {
        Case {
            name: name.into(),
            image: name.into(),
            label: Some(name.into()),
            patient: name.split('_').next().unwrap().into(),
            lesion_free: false,
        }
    }

    fn list(names: &[&str]) -> CohortList {
        CohortList { training: names.iter().map(|n| case(n)).collect(), ..CohortList::default() }
    }

    #[test]
    fn a_patient_is_never_on_two_sides() {
        let names: Vec<String> = (0..40).map(|i| format!("p{}_{i}", i / 3)).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let split = Split::new(list(&names), &["p3".into()], 0.25, 5).unwrap();
        assert_eq!(split.test.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["p3_9", "p3_10", "p3_11"]);
        assert!(split.validation.len() >= 3 && split.train.len() + split.validation.len() == 37);
        assert_eq!(split, Split::new(list(&names), &["p3".into()], 0.25, 5).unwrap());
        assert_ne!(split, Split::new(list(&names), &["p3".into()], 0.25, 6).unwrap());
    }

    #[test]
    fn a_leaking_list_is_refused() {
        let mut leaking = list(&["p1_a", "p2"]);
        leaking.validation = vec![case("p1_b")];
        let error = Split::new(leaking, &[], 0.2, 1).unwrap_err().to_string();
        assert!(error.contains("patient `p1` in train and in validation"), "{error}");
    }
}
