//! Many scans, one folder of results: what is finished is skipped, what fails does not stop the rest.
//!
//! ```text
//! OUT/  CASE.nii.gz (mask)  CASE.png  CASE.json (written last: the case is finished)
//!       CASE_probability.nii.gz  CASE_windows.json (where asked for)  summary.json  summary.tsv
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use panscreen_envs::Error as DataError;
use panscreen_envs::io::{self, write_atomic, write_labels, write_probability};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{CaseResult, Guarantee, Lesion, Model, ScreenSettings, Screened, Shard, lesions, picture, screen_case};
use crate::backend::TrainBackend;
use crate::config::ScreenConfig;
use crate::error::{Error, Result};
use crate::report::preview::png;
use crate::run::usage::Stopwatch;
use crate::run::{Observer, signals};

/// What is written beside the masks.
#[derive(Clone, Copy, Debug)]
pub struct Extras {
    pub previews: bool,
    /// Probability maps and windows, from which thresholds are swept without networks.
    pub probabilities: bool,
}

/// `CASE.json`: the result, and what it was made from and by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseRecord {
    #[serde(flatten)]
    pub result: CaseResult,
    /// Voxels with a blended probability above this were marked, and findings smaller than this were dropped.
    pub mask_threshold: f64,
    pub min_component_ml: f64,
    /// What the choice of windows promises; `null` where it was not made for a promise.
    #[serde(default)]
    pub guarantee: Option<Guarantee>,
    pub input_blake3: String,
    /// Of both networks' weights.
    pub model_blake3: String,
    /// Of every setting that can change the mask.
    pub settings_blake3: String,
    /// Files written for this case, with the hash of their content.
    pub files_blake3: BTreeMap<String, String>,
    /// Version of the program.
    pub panscreen: String,
    /// Run folder, and the step of the checkpoint.
    pub model: PathBuf,
    pub step: u64,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Screened,
    /// An earlier start had finished it: same input, model and settings, its files untouched.
    AlreadyThere,
    Failed,
}

/// One line of the summary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaseLine {
    pub case: String,
    pub input: PathBuf,
    pub status: Status,
    /// `lesion` or `clear`; `null` where the case failed, as all below.
    pub verdict: Option<String>,
    pub lesions: Option<usize>,
    pub largest_ml: Option<f64>,
    pub windows: Option<usize>,
    pub windows_kept: Option<usize>,
    /// Of the start that screened it.
    pub seconds: Option<f64>,
    /// Why it failed.
    pub cause: Option<String>,
}

/// `summary.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchSummary {
    pub cases: Vec<CaseLine>,
    pub screened: usize,
    pub already_there: usize,
    pub failed: usize,
    /// Inputs that were not reached because the process was asked to stop.
    pub left: usize,
    /// What the choice of windows promises for every case; `null` where it was not made for a promise.
    #[serde(default)]
    pub guarantee: Option<Guarantee>,
    pub seconds: f64,
}

/// Scans of `paths`: files and DICOM folders as they are, and of other folders every scan in them. A folder without one is an error; a file that
/// isn't there is that case's failure, later.
pub fn inputs(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let scans = io::scans_in(path)?;
        if scans.is_empty() {
            return Err(DataError::file(path, "no scan (NIfTI, DICOM, NRRD or MetaImage)", "a folder of scans", "check the path").into());
        }
        found.extend(scans);
    }
    Ok(found)
}

/// Screen every input of `shard` with `model` (read from the run folder `run`) into `out`.
#[expect(clippy::too_many_arguments, reason = "the parts of one request, each named at its only call")]
pub fn screen_all<B: TrainBackend>(
    model: &Model<B>,
    run: &Path,
    settings: &ScreenSettings,
    extras: Extras,
    inputs: &[PathBuf],
    shard: Shard,
    out: &Path,
    observer: &dyn Observer,
) -> Result<BatchSummary> {
    // How Glance reads a scan is more than its weights, and what the networks compute in changes their answers.
    let how = (&model.config.glance.network, model.config.precision);
    let settings_blake3 = hash(&json!([hash_of_settings(settings), how]));
    for_all(inputs, shard, settings.guarantee.as_ref(), out, observer, |input, case| {
        let input_blake3 = hash_scan(input)?;
        if let Some(record) = finished(out, case) {
            let same =
                record.input_blake3 == input_blake3 && record.model_blake3 == model.hash && record.settings_blake3 == settings_blake3;
            if same && names(case, extras).iter().all(|name| untouched(out, name, &record)) {
                return Ok((record.result, Status::AlreadyThere));
            }
        }
        let screened = screen_case(&model.screener, input, settings)?;
        for w in &screened.result.warnings {
            observer.warn(&format!("{}: {}, expected {}; {}", input.display(), w.found, w.expected, w.action));
        }
        let files_blake3 = write_files(out, case, &screened, extras)?;
        let record = CaseRecord {
            result: screened.result,
            mask_threshold: settings.screen.mask_threshold,
            min_component_ml: settings.screen.min_component_ml,
            guarantee: settings.guarantee.clone(),
            input_blake3,
            model_blake3: model.hash.clone(),
            settings_blake3: settings_blake3.clone(),
            files_blake3,
            panscreen: env!("CARGO_PKG_VERSION").into(),
            model: run.to_owned(),
            step: model.step,
        };
        write_json(&record_path(out, case), &record)?;
        Ok((record.result, Status::Screened))
    })
}

/// Decide anew from the probability maps that an earlier screening saved in `from`: no network runs. The masks, thresholded at
/// `mask_threshold` on the scan's own grid, and the records go to `out`.
pub fn decide_all(from: &Path, mask_threshold: f64, out: &Path, observer: &dyn Observer) -> Result<BatchSummary> {
    let entries = std::fs::read_dir(from).map_err(|e| DataError::io(from, e))?;
    let mut maps: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|p| p.to_string_lossy().ends_with(PROBABILITY)).collect();
    maps.sort();
    if maps.is_empty() {
        let action = "screen with --save-probabilities first";
        return Err(DataError::file(from, format!("no *{PROBABILITY}"), "saved probabilities", action).into());
    }
    let same_folder = |a: &Path, b: &Path| a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if same_folder(from, out) {
        return Err(Error::Usage(format!("{}: these are the results to decide anew; give another --out", out.display())));
    }
    for_all(&maps, Shard::WHOLE, None, out, observer, |map, _| {
        let clock = Stopwatch::start();
        let file = map.file_name().unwrap_or_default().to_string_lossy();
        let case = file.strip_suffix(PROBABILITY).unwrap_or(&file);
        let mut record = read_record(&record_path(from, case))?;
        let probability = io::open(map)?;
        let geometry = &probability.geometry;
        let (mask, found) = lesions(&probability.data, geometry, mask_threshold as f32, record.min_component_ml);
        let name = format!("{case}.nii.gz");
        write_labels(&out.join(&name), &mask, geometry)?;
        let verdict = if found.is_empty() { "clear" } else { "lesion" };
        let most = probability.data.iter().copied().fold(0.0, f32::max);
        let why =
            format!("highest lesion probability {most:.2}, needed above {mask_threshold:.2} and at least {} mL", record.min_component_ml);
        record.result.verdict = verdict.into();
        record.result.reason = found.is_empty().then_some(why);
        record.result.lesions = found;
        record.result.costs.clear();
        record.result.seconds = clock.seconds();
        record.settings_blake3 = hash(&json!([record.settings_blake3, mask_threshold]));
        // The promise was about the threshold that the case was screened with.
        record.guarantee = record.guarantee.filter(|_| record.mask_threshold == mask_threshold);
        record.mask_threshold = mask_threshold;
        record.files_blake3 = BTreeMap::from([(name.clone(), hash_file(&out.join(name))?)]);
        write_json(&record_path(out, case), &record)?;
        Ok((record.result, Status::Screened))
    })
}

/// Do `work` on every input of `shard`; list failures and go on; stop between two cases when asked to.
fn for_all(
    inputs: &[PathBuf],
    shard: Shard,
    guarantee: Option<&Guarantee>,
    out: &Path,
    observer: &dyn Observer,
    work: impl Fn(&Path, &str) -> Result<(CaseResult, Status)>,
) -> Result<BatchSummary> {
    let clock = Stopwatch::start();
    std::fs::create_dir_all(out).map_err(|e| DataError::io(out, e))?;
    let wanted = (0..inputs.len()).filter(|i| shard.has(*i)).count();
    observer.phase("screen", Some(wanted as u64));
    let mut taken: BTreeMap<String, &Path> = BTreeMap::new();
    let mut cases = Vec::with_capacity(wanted);
    for (index, input) in inputs.iter().enumerate() {
        if signals::stop_requested() {
            break;
        }
        let case = io::case_name(input);
        let allowed = refuse_name(&case, input, &taken, out);
        // The names of other parts' inputs are taken too.
        taken.entry(case.clone()).or_insert(input);
        if !shard.has(index) {
            continue;
        }
        cases.push(match allowed.and_then(|()| work(input, &case)) {
            Ok((result, status)) => CaseLine::of(result, status),
            Err(e) => {
                let cause = without_path(&e.to_string(), input);
                observer.warn(&format!("{}: {cause}", input.display()));
                CaseLine::failed(case, input, cause)
            }
        });
        observer.advance(1, &[]);
    }
    observer.finish();
    let count = |status| cases.iter().filter(|c| c.status == status).count();
    let summary = BatchSummary {
        screened: count(Status::Screened),
        already_there: count(Status::AlreadyThere),
        failed: count(Status::Failed),
        left: wanted - cases.len(),
        guarantee: guarantee.cloned(),
        seconds: clock.seconds(),
        cases,
    };
    write_json(&out.join(format!("{}.json", shard.summary())), &summary)?;
    write_atomic(&out.join(format!("{}.tsv", shard.summary())), summary.tsv().as_bytes())?;
    Ok(summary)
}

/// Results are named after the case: no two inputs may share a name, and no result may replace a scan.
fn refuse_name(case: &str, input: &Path, taken: &BTreeMap<String, &Path>, out: &Path) -> Result<()> {
    if let Some(first) = taken.get(case) {
        let text = format!("its results would be named `{case}` as those of {}; screen it into another folder", first.display());
        return Err(Error::Usage(text));
    }
    let mask = out.join(format!("{case}.nii.gz"));
    if mask.canonicalize().is_ok_and(|mask| input.canonicalize().is_ok_and(|input| mask == input)) {
        return Err(Error::Usage("its mask would replace the scan itself; give another --out".into()));
    }
    Ok(())
}

/// The cause without the path that many errors begin with: the path is said beside it.
fn without_path(cause: &str, input: &Path) -> String {
    cause.strip_prefix(&format!("{}: ", input.display())).unwrap_or(cause).to_owned()
}

impl CaseLine {
    fn of(result: CaseResult, status: Status) -> Self {
        CaseLine {
            case: result.case,
            input: result.input,
            status,
            verdict: Some(result.verdict),
            lesions: Some(result.lesions.len()),
            largest_ml: Some(result.lesions.first().map_or(0.0, |l: &Lesion| l.volume_ml)),
            windows: Some(result.windows.total),
            windows_kept: Some(result.windows.kept),
            seconds: Some(result.seconds),
            cause: None,
        }
    }

    fn failed(case: String, input: &Path, cause: String) -> Self {
        CaseLine {
            case,
            input: input.to_owned(),
            status: Status::Failed,
            verdict: None,
            lesions: None,
            largest_ml: None,
            windows: None,
            windows_kept: None,
            seconds: None,
            cause: Some(cause),
        }
    }

    /// The figures as text, empty where there are none: verdict, lesions, largest mL, windows kept, windows, seconds.
    pub fn cells(&self) -> [String; 6] {
        let count = |n: Option<usize>| n.map_or(String::new(), |n| n.to_string());
        [
            self.verdict.clone().unwrap_or_else(|| "failed".into()),
            count(self.lesions),
            self.largest_ml.map_or(String::new(), |v| format!("{v:.1}")),
            count(self.windows_kept),
            count(self.windows),
            self.seconds.map_or(String::new(), |s| format!("{s:.1}")),
        ]
    }
}

impl BatchSummary {
    fn tsv(&self) -> String {
        let mut text = String::from("case\tverdict\tlesions\tlargest_ml\twindows_kept\twindows\tseconds\tinput\tcause\n");
        for c in &self.cases {
            let cause = c.cause.as_deref().unwrap_or("").replace(['\t', '\n'], " ");
            text += &format!("{}\t{}\t{}\t{cause}\n", c.case, c.cells().join("\t"), c.input.display());
        }
        text
    }
}

const PROBABILITY: &str = "_probability.nii.gz";

fn record_path(out: &Path, case: &str) -> PathBuf {
    out.join(format!("{case}.json"))
}

/// Names of a case's files besides its record.
fn names(case: &str, extras: Extras) -> Vec<String> {
    let mut names = vec![format!("{case}.nii.gz")];
    if extras.previews {
        names.push(format!("{case}.png"));
    }
    if extras.probabilities {
        names.extend([format!("{case}{PROBABILITY}"), format!("{case}_windows.json")]);
    }
    names
}

fn write_files(out: &Path, case: &str, screened: &Screened, extras: Extras) -> Result<BTreeMap<String, String>> {
    let geometry = &screened.volume.geometry;
    write_labels(&out.join(format!("{case}.nii.gz")), &screened.mask, geometry)?;
    if extras.previews {
        write_atomic(&out.join(format!("{case}.png")), &png(&picture(screened, None)))?;
    }
    if extras.probabilities {
        write_probability(&out.join(format!("{case}{PROBABILITY}")), &screened.probability, geometry)?;
        let (starts, scales): (Vec<_>, Vec<_>) = screened.windows.iter().map(|place| (place.start, place.scale)).unzip();
        let windows = json!({ "starts": starts, "scales": scales, "glance": screened.glance, "kept": screened.kept });
        write_json(&out.join(format!("{case}_windows.json")), &windows)?;
    }
    names(case, extras).into_iter().map(|name| Ok((name.clone(), hash_file(&out.join(name))?))).collect()
}

/// The record of a finished case; a damaged one counts as none.
fn finished(out: &Path, case: &str) -> Option<CaseRecord> {
    read_record(&record_path(out, case)).ok()
}

fn untouched(out: &Path, name: &str, record: &CaseRecord) -> bool {
    record.files_blake3.get(name).is_some_and(|expected| hash_file(&out.join(name)).is_ok_and(|now| now == *expected))
}

fn read_record(path: &Path) -> Result<CaseRecord> {
    let text = std::fs::read(path).map_err(|e| DataError::io(path, e))?;
    let unreadable = |e: serde_json::Error| DataError::file(path, e.to_string(), "the record of a screened case", "screen the case again");
    Ok(serde_json::from_slice(&text).map_err(unreadable)?)
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::Usage(e.to_string()))?;
    Ok(write_atomic(path, (text + "\n").as_bytes())?)
}

/// Everything that can change a mask besides the scan and the weights.
fn hash_of_settings(settings: &ScreenSettings) -> String {
    // The scaling changes an estimate, no mask; a guarantee is in the choice.
    let ScreenSettings { screen, prepare, choice, gate, .. } = settings;
    // How many windows go through a network at once changes speed only.
    let screen = ScreenConfig { batch: ScreenConfig::default().batch, ..screen.clone() };
    hash(&json!([screen, prepare, format!("{choice:?}"), gate]))
}

fn hash(value: &serde_json::Value) -> String {
    short(blake3::hash(value.to_string().as_bytes()))
}

/// BLAKE3 of a file's content, a block at a time.
fn hash_file(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let read = std::fs::File::open(path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_err(|e| DataError::io(path, e))?;
    Ok(short(hasher.finalize()))
}

fn hash_scan(input: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    io::hash(input, &mut hasher)?;
    Ok(short(hasher.finalize()))
}

/// 128 bits are enough to tell contents apart, and short enough to read.
fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use panscreen_envs::metrics::calibration::Scaling;
    use panscreen_envs::volume::PrepareConfig;

    use super::*;
    use crate::screen::Choice;

    #[test]
    fn folders_give_their_scans_by_name_and_nothing_else() {
        let tmp = tempfile::tempdir().unwrap();
        let at = |name: &str| tmp.path().join(name);
        for name in ["b.nii.gz", "a.nii", "._a.nii", ".b.nii.gz.7-0.tmp", "notes.txt", "c.nii.gz.part"] {
            std::fs::write(at(name), "").unwrap();
        }
        std::fs::create_dir(at("folder.nii")).unwrap();
        let found = inputs(&[at("z.nii"), tmp.path().to_owned()]).unwrap();
        assert_eq!(found, [at("z.nii"), at("a.nii"), at("b.nii.gz")]);
        let message = inputs(&[at("folder.nii")]).unwrap_err().to_string();
        assert!(message.ends_with("no scan (NIfTI, DICOM, NRRD or MetaImage), expected a folder of scans; check the path"), "{message}");
    }

    #[test]
    fn a_cause_names_its_path_once() {
        for (cause, left) in [("a/b.nii: torn", "torn"), ("torn", "torn"), ("a/b.nii.gz: torn", "a/b.nii.gz: torn")] {
            assert_eq!(without_path(cause, Path::new("a/b.nii")), left);
        }
    }

    #[test]
    fn what_changes_a_mask_changes_the_hash_of_the_settings() {
        let settings = |change: fn(&mut ScreenSettings)| {
            let prepare =
                PrepareConfig { spacing_mm: None, windows_hu: vec![[-175.0, 250.0]], crop_foreground: true, pad_to: [24, 24, 16] };
            let mut settings = ScreenSettings {
                screen: ScreenConfig::default(),
                prepare,
                choice: Choice::Above(0.25),
                scaling: Scaling::IDENTITY,
                gate: None,
                guarantee: None,
            };
            change(&mut settings);
            hash_of_settings(&settings)
        };
        let same = settings(|_| {});
        assert_eq!(settings(|s| s.screen.batch = 64), same);
        let changes: [fn(&mut ScreenSettings); 4] = [
            |s| s.choice = Choice::Above(0.25f32.next_up()),
            |s| s.choice = Choice::All,
            |s| s.screen.mask_threshold = 0.4,
            |s| s.prepare.spacing_mm = Some([1.0; 3]),
        ];
        assert!(changes.into_iter().all(|change| settings(change) != same));
    }
}
