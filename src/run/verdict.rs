//! What a run's log says about its health, in plain words with the numbers. A pure function of the log: the same live and afterwards.
//!
//! Each rule looks at the last third of the lines it is given, because the first steps are rough in every run; `docs/metrics.md` says what is
//! healthy for each metric and why.

use std::path::Path;

use panscreen_envs::io::write_atomic;
use serde::{Deserialize, Serialize};

use super::Result;
use super::metrics::{Record, series};

const FILE: &str = "health.json";

/// Lines of the log that a rule needs before it speaks.
const LEAST: usize = 30;

/// `health.json`: what was found, or that nothing was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub healthy: bool,
    pub findings: Vec<Finding>,
    /// The figures in one sentence.
    pub summary: String,
    /// The last step that it knows of.
    #[serde(default)]
    pub step: u64,
}

/// Something that a person should know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Short name, for the bar and for programs.
    pub name: String,
    /// What was seen, with numbers, and what to do.
    pub text: String,
}

/// What the rules must know of the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The objective compares rewards within groups.
    pub groups: bool,
    /// The objective has a ratio to an old policy.
    pub ratio: bool,
}

impl Verdict {
    /// The verdict on `records`, the lines of `metrics.jsonl` or the last of them.
    pub fn of(records: &[Record], expected: Expected) -> Self {
        let log = Log(records);
        let mut findings = Vec::new();
        let mut found = |name: &str, text: Option<String>| findings.extend(text.map(|text| Finding { name: name.into(), text }));
        found("zero signal", log.zero_signal(expected));
        found("ratio always 1", log.ratio_always_one(expected));
        found("clip saturated", log.clip_saturated());
        found("KL drifts", log.kl_drifts());
        found("selection collapsed", log.selection_collapsed());
        found("every window kept", log.every_window_kept());
        found("data-bound", log.data_bound());
        Verdict { healthy: findings.is_empty(), findings, summary: log.summary(), step: log.step() }
    }

    /// What the run in `run` said when it last ended; `None` where it never did.
    pub fn read(run: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(run.join(FILE)).ok()?).ok()
    }

    /// Keep it as `health.json` of the run in `run`.
    pub fn write(&self, run: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self).expect("a verdict is plain data");
        Ok(write_atomic(&run.join(FILE), (text + "\n").as_bytes())?)
    }

    /// As [`Verdict::of`], of a run that ended with `error`, such as a value that was not finite.
    pub fn with_error(mut self, error: &str) -> Self {
        self.findings.insert(0, Finding { name: "not finite".into(), text: error.to_owned() });
        self.healthy = false;
        self
    }

    /// What a bar has room for.
    pub fn short(&self) -> String {
        match self.findings.as_slice() {
            [] => String::new(),
            [only] => only.name.clone(),
            [first, rest @ ..] => format!("{}, +{}", first.name, rest.len()),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.healthy {
            return write!(f, "nothing conspicuous: {}", self.summary);
        }
        for (i, finding) in self.findings.iter().enumerate() {
            write!(f, "{}{}", if i == 0 { "" } else { "\n" }, finding.text)?;
        }
        Ok(())
    }
}

struct Log<'a>(&'a [Record]);

impl Log<'_> {
    /// The values of `name` in the last third of the steps; empty where there are too few.
    fn late(&self, name: &str) -> Vec<f64> {
        let all: Vec<f64> = series(self.0, name).into_iter().map(|(_, v)| v).collect();
        if all.len() < LEAST { Vec::new() } else { all[all.len() - all.len() / 3..].to_vec() }
    }

    fn late_mean(&self, name: &str) -> Option<f64> {
        mean(&self.late(name))
    }

    fn zero_signal(&self, expected: Expected) -> Option<String> {
        let share = self.late_mean("frac_reward_zero_std").filter(|s| expected.groups && *s > 0.2)?;
        let reward = self.late_mean("reward").unwrap_or(0.0);
        let why = match reward {
            r if r < 0.02 => "Focus earns nothing yet: train it longer, or start from a trained one (`init_focus_from`)".to_owned(),
            r if r > 0.98 => "nearly every action earns the reward: draw harder sub-volumes (`env.lesion_fraction`)".to_owned(),
            r => format!(
                "the mean reward is {r:.2}, so groups are all of one kind: larger groups (`glance.group_size`), or more even draws \
                 (`env.lesion_fraction`, `env.lesion_free_weight`)"
            ),
        };
        Some(format!("{:.0} % of groups have equal rewards: they teach Glance nothing; {why}", share * 100.0))
    }

    fn ratio_always_one(&self, expected: Expected) -> Option<String> {
        let all = |name: &str| series(self.0, name).into_iter().map(|(_, v)| v).collect::<Vec<_>>();
        let (low, high) = (all("ratio/min"), all("ratio/max"));
        let one = |values: &[f64]| values.len() >= LEAST && values.iter().all(|v| (v - 1.0).abs() < 1e-6);
        (expected.ratio && one(&low) && one(&high)).then(|| {
            format!(
                "the ratio was 1 in all {} lines of the log, because there is one update per rollout: clipping and KL never act, and the objective is a plain \
                 policy gradient; raise `objective.refresh_steps` or `objective.num_iterations` if that is not meant",
                low.len()
            )
        })
    }

    fn clip_saturated(&self) -> Option<String> {
        let share = self.late_mean("clip_ratio/region_mean").filter(|s| *s > 0.3)?;
        Some(format!(
            "{:.0} % of the sub-volumes are clipped: they have no gradient until the old policy is refreshed; lower `objective.refresh_steps` or \
             `optim.glance.lr`",
            share * 100.0
        ))
    }

    fn kl_drifts(&self) -> Option<String> {
        let all: Vec<f64> = series(self.0, "kl").into_iter().map(|(_, v)| v).collect();
        if all.len() < LEAST {
            return None;
        }
        let third = all.len() / 3;
        let (before, late) = (mean(&all[third..2 * third])?, mean(&all[all.len() - third..])?);
        (late > 0.05 && late > 3.0 * before.max(1e-9)).then(|| {
            format!("KL rose from {before:.3} to {late:.3} in the last third: the policy runs away from the old one; lower `optim.glance.lr`, raise `objective.beta`")
        })
    }

    fn selection_collapsed(&self) -> Option<String> {
        let selected = self.late_mean("selected_share")?;
        let positive = self.late_mean("positive_share")?;
        let probability = self.late_mean("select_probability").map_or(String::new(), |p| format!(" (mean probability {p:.2})"));
        let what = match selected {
            // Of whole scans few windows hold a lesion: what is selected is compared with them.
            s if s < 0.01 && positive >= 0.01 && s < 0.2 * positive => "nothing",
            s if s > 0.99 && positive < 0.95 => "everything",
            _ => return None,
        };
        Some(format!(
            "Glance selects {what}: {:.1} % of the sub-volumes{probability}, while {:.1} % hold a lesion; its ranking may still be good, see \
             `validation/windows_kept`, else raise `loss.alpha` or lower `optim.glance.lr`",
            selected * 100.0,
            positive * 100.0
        ))
    }

    fn every_window_kept(&self) -> Option<String> {
        let kept = series(self.0, "validation/windows_kept").last()?.1;
        (kept >= 0.999).then(|| {
            "no share of the windows below all reached the wanted recall at the last validation: Glance spares nothing; train longer, lower \
             `screen.recall` or set `screen.most_windows`"
                .to_owned()
        })
    }

    fn data_bound(&self) -> Option<String> {
        let share = self.late_mean("time/waiting_for_data").filter(|s| *s > 0.2)?;
        Some(format!(
            "{:.0} % of the time went by waiting for data: raise `data.memory_gib` so that prepared scans stay in memory, or `env.workers`",
            share * 100.0
        ))
    }

    fn step(&self) -> u64 {
        self.0.last().map_or(0, |r| r.step)
    }

    fn summary(&self) -> String {
        let steps = self.step();
        let percent = |name: &str, text: &str| self.late_mean(name).map(|v| format!("{:.0} % {text}", v * 100.0));
        let parts = [
            percent("frac_reward_zero_std", "of groups have equal rewards"),
            percent("clip_ratio/region_mean", "clipped"),
            self.late_mean("kl").map(|v| format!("KL {v:.4}")),
            percent("selected_share", "selected"),
            percent("positive_share", "with a lesion"),
            percent("time/waiting_for_data", "of the time waiting for data"),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        if parts.is_empty() {
            format!("{steps} steps in {} lines of the log, too few for a verdict", self.0.len())
        } else {
            format!("{steps} steps; in the last third {}", parts.join(", "))
        }
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A healthy run of 90 steps, with `change` made to each step's values.
    fn log(change: impl Fn(u64, &mut Vec<(String, f64)>)) -> Vec<Record> {
        let healthy = [
            ("reward", 0.5),
            ("frac_reward_zero_std", 0.05),
            ("ratio/min", 0.9),
            ("ratio/max", 1.1),
            ("clip_ratio/region_mean", 0.1),
            ("kl", 0.002),
            ("selected_share", 0.4),
            ("select_probability", 0.4),
            ("positive_share", 0.4),
            ("time/waiting_for_data", 0.01),
        ];
        (1..=90)
            .map(|step| {
                let mut fields = healthy.map(|(name, value)| (name.to_owned(), value)).to_vec();
                change(step, &mut fields);
                Record { step, fields }
            })
            .collect()
    }

    fn set(fields: &mut Vec<(String, f64)>, name: &str, value: f64) {
        fields.retain(|(n, _)| n != name);
        fields.push((name.to_owned(), value));
    }

    #[test]
    fn each_illness_is_named_with_its_numbers() {
        type Change = fn(u64, &mut Vec<(String, f64)>);
        let all = Expected { groups: true, ratio: true };
        let cases: [(&str, &str, Change); 13] = [
            ("zero signal", "38 % of groups have equal rewards", |_, f| set(f, "frac_reward_zero_std", 0.38)),
            ("zero signal", "Focus earns nothing yet", |_, f| {
                set(f, "frac_reward_zero_std", 1.0);
                set(f, "reward", 0.0);
            }),
            ("zero signal", "nearly every action", |_, f| {
                set(f, "frac_reward_zero_std", 0.9);
                set(f, "reward", 1.0);
            }),
            ("ratio always 1", "1 in all 90 lines of the log, because there is one update per rollout", |_, f| {
                set(f, "ratio/min", 1.0);
                set(f, "ratio/max", 1.0);
            }),
            ("clip saturated", "41 % of the sub-volumes are clipped", |_, f| set(f, "clip_ratio/region_mean", 0.41)),
            ("KL drifts", "from 0.002 to 0.200", |step, f| set(f, "kl", if step > 60 { 0.2 } else { 0.002 })),
            ("selection collapsed", "selects nothing: 0.0 %", |_, f| set(f, "selected_share", 0.0)),
            (
                "selection collapsed",
                "selects nothing: 0.2 % of the sub-volumes (mean probability 0.40), while 3.0 % hold a lesion",
                |_, f| {
                    set(f, "selected_share", 0.002);
                    set(f, "positive_share", 0.03);
                },
            ),
            ("", "", |_, f| {
                // Few windows, of few that deserve it.
                set(f, "selected_share", 0.006);
                set(f, "positive_share", 0.02);
            }),
            ("selection collapsed", "selects everything: 100.0 %", |_, f| set(f, "selected_share", 1.0)),
            ("every window kept", "spares nothing", |step, f| {
                if step == 90 {
                    set(f, "validation/windows_kept", 1.0);
                }
            }),
            ("data-bound", "60 % of the time", |_, f| set(f, "time/waiting_for_data", 0.6)),
            ("", "", |step, f| {
                // Rough at the start is no illness.
                if step < 40 {
                    set(f, "frac_reward_zero_std", 1.0);
                    set(f, "clip_ratio/region_mean", 0.9);
                    set(f, "selected_share", 0.0);
                    set(f, "time/waiting_for_data", 0.9);
                }
            }),
        ];
        for (name, text, change) in cases {
            let verdict = Verdict::of(&log(change), all);
            let names: Vec<&str> = verdict.findings.iter().map(|f| f.name.as_str()).collect();
            let expected: Vec<&str> = [name].into_iter().filter(|n| !n.is_empty()).collect();
            assert_eq!(names, expected, "{text}");
            assert!(verdict.to_string().contains(text), "{verdict}");
            assert_eq!((verdict.short().as_str(), verdict.healthy), (name, name.is_empty()));
        }
    }

    #[test]
    fn a_verdict_is_for_the_objective_that_ran() {
        let records = log(|_, f| {
            set(f, "frac_reward_zero_std", 0.5);
            set(f, "ratio/min", 1.0);
            set(f, "ratio/max", 1.0);
        });
        assert!(Verdict::of(&records, Expected::default()).healthy, "a supervised objective needs neither rewards nor ratios");
        assert_eq!(Verdict::of(&records, Expected { groups: true, ratio: true }).short(), "zero signal, +1");
        let few = Verdict::of(&records[..5], Expected { groups: true, ratio: true });
        assert!(few.healthy && few.summary.contains("too few"), "{few}");
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Verdict::read(dir.path()), None);
        few.write(dir.path()).unwrap();
        assert_eq!(Verdict::read(dir.path()), Some(Verdict { step: 5, ..few }));
        let broken = Verdict::of(&records[..5], Expected::default()).with_error("step 5: `losses/dice` is NaN");
        assert!(!broken.healthy && broken.to_string().contains("NaN"));
    }
}
