//! A part of a large cohort: many processes screen into one folder, each its own scans.

use std::str::FromStr;

/// Part `part` of `of`, from 1: every `of`-th input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    part: usize,
    of: usize,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Shard = Shard { part: 1, of: 1 };

    /// Whether input number `index`, from 0, is in this part.
    pub fn has(self, index: usize) -> bool {
        index % self.of == self.part - 1
    }

    /// The summary's name: each part has its own.
    pub fn summary(self) -> String {
        if self == Shard::WHOLE { "summary".into() } else { format!("summary-{}-of-{}", self.part, self.of) }
    }

    /// From the variables of a Slurm array task.
    fn of_slurm(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str| -> Result<usize, String> {
            let text = variable(name).ok_or_else(|| format!("{name} is not set; `slurm` works in tasks of a Slurm job array"))?;
            text.parse().map_err(|_| format!("{name} is {text:?}, expected a number"))
        };
        let (id, least, most) = (number("SLURM_ARRAY_TASK_ID")?, number("SLURM_ARRAY_TASK_MIN")?, number("SLURM_ARRAY_TASK_MAX")?);
        let count = number("SLURM_ARRAY_TASK_COUNT")?;
        if most.checked_sub(least).and_then(|n| n.checked_add(1)) != Some(count) || !(least..=most).contains(&id) {
            return Err(format!("the array's indices {least} to {most} are {count} tasks; submit one without gaps, such as --array=1-40"));
        }
        Ok(Shard { part: id - least + 1, of: count })
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "slurm" {
            return Shard::of_slurm(|name| std::env::var(name).ok());
        }
        let parts = text.split_once('/').and_then(|(part, of)| Some((part.parse().ok()?, of.parse().ok()?)));
        match parts {
            Some((part, of)) if (1..=of).contains(&part) => Ok(Shard { part, of }),
            _ => Err("expected PART/PARTS from 1/PARTS to PARTS/PARTS, such as 3/40, or `slurm`".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_share_out_all_inputs() {
        for of in [1, 3, 7] {
            let parts: Vec<Shard> = (1..=of).map(|part| format!("{part}/{of}").parse().unwrap()).collect();
            assert!((0..20).all(|index| parts.iter().filter(|p| p.has(index)).count() == 1));
        }
        for wrong in ["0/3", "4/3", "3", "a/b", "1/0", "-1/2", "1/2/3", ""] {
            assert!(wrong.parse::<Shard>().unwrap_err().contains("such as 3/40"), "{wrong}");
        }
        assert_eq!("3/40".parse::<Shard>().unwrap().summary(), "summary-3-of-40");
    }

    #[test]
    fn a_slurm_array_is_a_set_of_parts() {
        let of = |numbers: [usize; 4]| {
            let names = ["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"];
            Shard::of_slurm(|name| names.iter().position(|n| *n == name).map(|i| numbers[i].to_string()))
        };
        assert_eq!(of([2, 0, 39, 40]), "3/40".parse());
        assert_eq!(of([5, 5, 6, 2]), "1/2".parse());
        assert!(of([4, 0, 8, 5]).unwrap_err().contains("without gaps"));
        assert!(Shard::of_slurm(|_| None).unwrap_err().contains("SLURM_ARRAY_TASK_ID is not set"));
    }
}
