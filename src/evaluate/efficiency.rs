//! What a container costs: seconds a case with the model load, and the area under its memory over time.

use std::path::Path;

use panscreen_envs::metrics::protocols::flare24::MemoryUse;
use panscreen_envs::{Error, Result};
use serde::{Deserialize, Serialize};

/// One launch of the container's entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    pub case: String,
    /// From start to end of the process, model load included.
    pub seconds: f64,
    /// Resident memory of all its processes, sampled; `null` where the system does not tell.
    pub memory: Option<MemoryUse>,
}

/// Means over the launches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Efficiency {
    pub launches: usize,
    pub mean_seconds: f64,
    pub longest_seconds: f64,
    /// MB s of main memory: without a GPU there is no other. `null` where a launch has none.
    pub mean_memory_area_mb_s: Option<f64>,
    pub peak_mb: Option<f64>,
}

impl Efficiency {
    /// In one line.
    pub fn text(&self) -> String {
        let area = self.mean_memory_area_mb_s.map_or(String::new(), |a| format!(", {a:.0} MB s under memory over time"));
        let peak = self.peak_mb.map_or(String::new(), |p| format!(", at most {p:.0} MB"));
        let Efficiency { launches, mean_seconds, longest_seconds, .. } = self;
        format!("{mean_seconds:.1} s a case with the model load (at most {longest_seconds:.1} s){area}{peak}; {launches} launches")
    }

    /// `None` without launches.
    pub fn of(launches: &[Launch]) -> Option<Self> {
        let n = launches.len();
        let memory: Option<Vec<MemoryUse>> = launches.iter().map(|l| l.memory).collect();
        let highest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        (n > 0).then(|| Efficiency {
            launches: n,
            mean_seconds: launches.iter().map(|l| l.seconds).sum::<f64>() / n as f64,
            longest_seconds: highest(&mut launches.iter().map(|l| l.seconds)),
            mean_memory_area_mb_s: memory.as_ref().map(|m| m.iter().map(|m| m.area_mb_s).sum::<f64>() / n as f64),
            peak_mb: memory.as_ref().map(|m| highest(&mut m.iter().map(|m| m.peak_mb))),
        })
    }

    /// From the report of `panscreen submit check --json`.
    pub fn read(path: &Path) -> Result<Self> {
        #[derive(Deserialize)]
        struct Report {
            launches: Vec<Launch>,
        }
        let text = std::fs::read(path).map_err(|e| Error::io(path, e))?;
        let wrong = |found: String| Error::file(path, found, "the report of `panscreen submit check --json`", "make it anew");
        let report: Report = serde_json::from_slice(&text).map_err(|e| wrong(e.to_string()))?;
        Self::of(&report.launches).ok_or_else(|| wrong("no launch".into()))
    }
}

#[test]
fn means_over_launches() {
    let memory = |area_mb_s, peak_mb| Some(MemoryUse { area_mb_s, sustained_mb: 0.0, peak_mb });
    let launch = |seconds, memory| Launch { case: "a".into(), seconds, memory };
    let e = Efficiency::of(&[launch(1.0, memory(10.0, 5.0)), launch(3.0, memory(30.0, 9.0))]).unwrap();
    assert_eq!((e.mean_seconds, e.longest_seconds, e.mean_memory_area_mb_s, e.peak_mb), (2.0, 3.0, Some(20.0), Some(9.0)));
    assert_eq!(e.text(), "2.0 s a case with the model load (at most 3.0 s), 20 MB s under memory over time, at most 9 MB; 2 launches");
    assert_eq!(Efficiency::of(&[launch(1.0, None)]).unwrap().peak_mb, None);
    assert_eq!(Efficiency::of(&[]), None);
}
