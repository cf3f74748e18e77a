//! An evaluation for people: the text on the terminal and the files beside it.

use std::fmt;
use std::path::Path;

use panscreen_envs::Result;
use panscreen_envs::io::write_atomic;
use panscreen_envs::metrics::{Mean, Outcome};

use super::{Evaluation, Judged};

impl Evaluation {
    /// Write `evaluation.json` (everything) and `cases.tsv` (a line a case) into `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).map_err(|e| panscreen_envs::Error::Setting(e.to_string()))?;
        write_atomic(&dir.join("evaluation.json"), (json + "\n").as_bytes())?;
        write_atomic(&dir.join("cases.tsv"), self.tsv().as_bytes())
    }

    fn tsv(&self) -> String {
        let mut text = String::from(
            "case\tstatus\tdice\tnsd_2mm\tflare_dsc\tflare_nsd\tlesions\tlesions_hit\tfalse_positives\treference_ml\tpredicted_ml\treason\n",
        );
        for c in &self.cases {
            let cells = match &c.judged {
                Judged::Scored(s) => format!(
                    "scored\t{}\t{}\t{:.4}\t{:.4}\t{}\t{}\t{}\t{:.3}\t{:.3}\t",
                    cell(&s.dice),
                    cell(&s.nsd_2mm),
                    s.flare.dsc,
                    s.flare.nsd,
                    s.lesions,
                    s.lesions_hit,
                    s.false_positives,
                    s.reference_ml,
                    s.predicted_ml
                ),
                Judged::Missing { matched } => format!("missing\t\t\t\t\t{}\t0\t\t\t\t", matched.lesions.len()),
                Judged::Failed { reason, matched } => {
                    format!("failed\t\t\t\t\t{}\t0\t\t\t\t{}", matched.lesions.len(), reason.replace(['\t', '\n'], " "))
                }
            };
            text += &format!("{}\t{cells}\n", c.case);
        }
        text
    }
}

/// Empty where there is no number. The 0 added turns the -0 of an empty sum into 0.
fn cell(outcome: &Outcome) -> String {
    outcome.value().map_or(String::new(), |v| format!("{:.4}", v + 0.0))
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let s = &self.summary;
        writeln!(f, "cases                     {} ({} scored, {} missing, {} failed)", s.cases, s.scored, s.missing, s.failed)?;
        writeln!(f, "  with an empty mask      {} of the scored", s.empty_predictions)?;
        for (name, mean) in [
            ("lesion Dice", &s.lesion_dice),
            ("lesion NSD 2 mm", &s.lesion_nsd_2mm),
            ("FLARE DSC", &s.flare_dsc),
            ("FLARE NSD", &s.flare_nsd),
        ] {
            writeln!(f, "{name:26}{}", mean_text(mean))?;
        }
        let t = &s.scans;
        writeln!(f, "scan sensitivity          {} ({} of {} scans with lesions)", number(&s.scan_sensitivity), t.tp, t.tp + t.fn_)?;
        writeln!(f, "scan specificity          {} ({} of {} lesion-free scans)", number(&s.scan_specificity), t.tn, t.tn + t.fp)?;
        let l = &s.lesions;
        writeln!(f, "lesion recall             {} ({} of {} lesions)", number(&l.recall), l.hits, l.lesions)?;
        writeln!(f, "lesion precision          {} ({} of {} findings)", number(&l.precision), l.findings - l.false_positives, l.findings)?;
        let per_scan = number(&l.false_positives_per_healthy_scan);
        write!(f, "false positives           {} in all; a lesion-free scan: {per_scan} ({} scans)", l.false_positives, l.healthy_scans)?;
        if !self.without_reference.is_empty() {
            write!(f, "\npredictions that no reference asks for: {}", self.without_reference.join(", "))?;
        }
        Ok(())
    }
}

fn number(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Value(v) => format!("{:.4}", v + 0.0),
        Outcome::NotApplicable(why) => format!("none, {why}"),
        Outcome::Failed(why) => format!("failed, {why}"),
    }
}

/// A mean with what it was made of.
fn mean_text(m: &Mean) -> String {
    let lost = [(m.failed, "failed"), (m.missing, "missing")].into_iter().filter(|(n, _)| *n > 0);
    let lost: String = lost.map(|(n, what)| format!(" + {n} {what} as 0")).collect();
    let apart = if m.not_applicable > 0 { format!(", {} without meaning", m.not_applicable) } else { String::new() };
    format!("{} (mean of {}{lost}{apart})", number(&m.mean), m.values)
}

#[test]
fn a_mean_says_what_it_was_made_of() {
    let na = Outcome::not_applicable("both empty");
    let outcomes = [Some(Outcome::Value(0.5)), Some(na), Some(Outcome::failed("wrong grid")), None];
    let mean = Mean::of(outcomes.iter().map(Option::as_ref), Some(0.0));
    assert_eq!(mean_text(&mean), "0.1667 (mean of 1 + 1 failed as 0 + 1 missing as 0, 1 without meaning)");
}
