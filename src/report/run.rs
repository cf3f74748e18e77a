//! The page of a run: its health, its curves, a few groups as Glance was taught them, and the order of looks over a scan.

use std::path::Path;

use panscreen_envs::dataset::Case;
use panscreen_envs::screening::{CropEnv, Grouping, Observation};
use panscreen_policies::objectives::{AdvantageConfig, Samples, advantages};

use super::curves;
use super::groups::{Tile, sheet};
use super::html::{Card, Figure, Page, Tone};
use super::looks::{Looks, looks_gif};
use super::preview::png;
use crate::backend::{TrainBackend, Work};
use crate::config::Config;
use crate::error::Result;
use crate::run::metrics;
use crate::run::{Observer, Record, Silent, Verdict};
use crate::screen::{Choice, Image, Model, Screener};
use crate::setup;
use crate::stages::gf_screen::learner::Settings;
use crate::stages::gf_screen::train::expected;

/// Steps whose groups are shown.
const SHEETS: u64 = 3;
/// Scans whose looks are shown.
const SCANS: usize = 2;

/// The work of reporting on the run in `run`.
pub struct Reporting<'a> {
    pub run: &'a Path,
    pub observer: &'a dyn Observer,
}

impl Work for Reporting<'_> {
    type Output = String;

    /// The page as one HTML text.
    fn run<B: TrainBackend>(self, device: B::Device) -> Result<String> {
        let Reporting { run, observer } = self;
        let model = Model::<B>::open(run, &[], &device, observer)?;
        let config = &model.config;
        let records = metrics::read(&run.join("metrics.jsonl"))?;
        // What the run itself said knows how it ended.
        let now = Verdict::of(&records, expected(&Settings::new(config)));
        // One of an earlier session says nothing about a run that has gone on since.
        let health = Verdict::read(run).filter(|said| said.step == now.step).unwrap_or(now);
        let split = setup::kept_split(run)?;

        observer.phase("groups and looks", None);
        // As many scans as the sheets can show, so that a large cohort is not prepared for a picture.
        let training: Vec<Case> = split.train.iter().take(4 * config.env.volumes_per_batch).cloned().collect();
        let env = setup::environment(config, std::sync::Arc::new(setup::store(config, training, &Silent)?))?;
        let mut sheets = Vec::new();
        for index in 0..SHEETS {
            sheets.push(png(&sheet(&tiles(&model.screener, config, &env, &env.observe(config.seed, index)?)?)));
        }
        let mut gifs = Vec::new();
        let store = setup::store(config, split.validation.into_iter().take(12).collect(), &Silent)?;
        for i in 0..store.cases().len() {
            let case = store.load(i)?;
            if case.scan.lesions() == 0 || gifs.len() == SCANS {
                continue;
            }
            let plan = model.screener.plan(case.scan.shape, &config.screen);
            let image = Image { data: &case.scan.image, channels: case.scan.channels, shape: case.scan.shape };
            let glanced = model.screener.glance(image, &plan)?;
            let looks = plan.queue(&glanced).into_iter().take_while(|(_, key)| *key > model.threshold);
            let order: Vec<([usize; 3], f32)> = looks.map(|(w, _)| (plan.starts[w], glanced.windows[w])).collect();
            gifs.push((
                case.scan.name.clone(),
                looks_gif(&Looks {
                    voxels: &case.scan.image[..case.scan.voxels()],
                    shape: case.scan.shape,
                    spacing_mm: case.spacing_mm,
                    lesion: &case.scan.lesion,
                    window: plan.window,
                    order: &order,
                    windows: plan.grid,
                }),
            ));
        }
        observer.finish();
        model.screener.again.warn(observer);
        let own = model.settings(None).ok().and_then(|s| if let Choice::Above(t) = s.choice { Some(t) } else { None });
        let operating = model.operating.as_ref().map(|o| curves::operating(o, own));
        Ok(page(config, &records, &health, operating, &sheets, &gifs))
    }
}

/// The sub-volumes of a step with what the trained networks make of them.
fn tiles<B: crate::backend::InferBackend>(
    screener: &Screener<B>,
    config: &Config,
    env: &CropEnv,
    group: &Observation,
) -> Result<Vec<Tile>> {
    let (voxels, start, plan) = (group.voxels_per_window(), [[0; 3]], screener.plan(group.window, &config.screen));
    let image = |i: usize| Image {
        data: &group.x[i * group.channels * voxels..(i + 1) * group.channels * voxels],
        channels: group.channels,
        shape: group.window,
    };
    let probability: Vec<f32> = (0..group.len()).map(|i| Ok(screener.glance(image(i), &plan)?.windows[0])).collect::<Result<_>>()?;
    let focused: Vec<Vec<Vec<f32>>> = (0..group.len()).map(|i| screener.focus(image(i), &start)).collect::<Result<_>>()?;
    let predicted: Vec<u8> = focused.into_iter().flatten().flatten().map(|p| u8::from(p > 0.5)).collect();
    let odds: Vec<f32> = probability.iter().map(|p| (p / (1.0 - p)).ln()).collect();
    let grouping = env.config().grouping;
    let selection = Settings::new(config).select(grouping, &odds, group.index);
    let outcome = env.score(group, &selection, &predicted);
    let samples = Samples::new(grouping, group, &selection, &outcome);
    let compared = advantages(&samples.rewards, &samples.groups, &AdvantageConfig::default());
    // A sub-volume is credited with the selections that chose it, less those that did not.
    let mut credit = vec![(0.0_f32, 0.0_f32, 0_u32); group.len()];
    for (s, (&advantage, &reward)) in compared.values.iter().zip(&samples.rewards).enumerate() {
        for w in s * samples.width..(s + 1) * samples.width {
            let of = &mut credit[samples.windows[w]];
            of.0 += if samples.selected[w] { advantage } else { -advantage };
            of.1 += reward;
            of.2 += 1;
        }
    }
    let [dx, dy, dz] = group.window;
    let tiles = (0..group.len())
        .map(|i| {
            let lesion = group.lesion_of(i);
            let in_slice = |z: usize| (0..dx * dy).filter(|p| lesion[p * dz + z] > 0).count();
            let fullest = (0..dz).max_by_key(|&z| (in_slice(z), z == dz / 2)).unwrap_or(0);
            // Rows from anterior to posterior, columns from the patient's right: both axes from their far end.
            let pixels: Vec<usize> = (0..dy).rev().flat_map(|y| (0..dx).rev().map(move |x| (x * dy + y) * dz + fullest)).collect();
            let (credited, rewarded, times) = credit[i];
            let times = times.max(1) as f32;
            Tile {
                size: [dx, dy],
                slice: pixels.iter().map(|&v| image(i).data[v]).collect(),
                predicted: pixels.iter().map(|&v| predicted[i * voxels + v] == 1).collect(),
                lesion: pixels.iter().map(|&v| lesion[v] > 0).collect(),
                group: group.windows[i].group,
                probability: probability[i],
                reward: rewarded / times,
                advantage: credited / if grouping == Grouping::Masks { times } else { 1.0 },
            }
        })
        .collect();
    Ok(tiles)
}

fn page(
    config: &Config,
    records: &[Record],
    health: &Verdict,
    operating: Option<String>,
    sheets: &[Vec<u8>],
    gifs: &[(String, Vec<u8>)],
) -> String {
    let steps = records.last().map_or(0, |r| r.step);
    let mut page =
        Page::new(&format!("panscreen run {}", config.name), &format!("objective {}, {steps} steps", config.objective.kind.info().name));
    let (value, tone) = if health.healthy { ("healthy".to_owned(), Tone::Good) } else { (health.short(), Tone::Bad) };
    let cards = [Card { label: "verdict", value, note: health.summary.clone(), tone }];
    page.section("Health").cards(&cards).prose(&health.to_string().replace('\n', "\n\n"));
    let selection = [("selected_share", "selected"), ("select_probability", "mean probability"), ("entropy", "entropy")];
    let mut figures = vec![
        Figure::Svg { svg: curves::focus(records), caption: "What Focus learns." },
        Figure::Svg { svg: curves::reward(records), caption: "What is earned." },
        Figure::Svg { svg: curves::curve(records, "Selection", "share", &selection), caption: "What Glance does." },
        Figure::Svg { svg: curves::policy_update(records), caption: "How far each update goes." },
    ];
    if let Some(svg) = operating {
        let caption =
            "Every operating point of Glance on the validation scans, and the run's own choice; recall relative to Focus everywhere.";
        figures.push(Figure::Svg { svg, caption });
    }
    page.section("Curves").figures(&figures);
    page.section("Groups").prose(
        "Sub-volumes of one step each, as the trained networks see them: action with its probability and the group, the reward, the advantage within \
         the group. Amber frame: selected. Cyan: what Focus marks. Pink: the label.",
    );
    let figures: Vec<Figure> = sheets.iter().map(|png| Figure::Png { png, caption: "One step.", alt: "sub-volumes of a step" }).collect();
    for figure in &figures {
        // Each on a line of its own: a sheet is as wide as the page.
        page.figures(std::slice::from_ref(figure));
    }
    page.section("The order of looks").prose("Validation scans from the front and from above; the most probable window first.");
    let figures: Vec<Figure> = gifs.iter().map(|(name, gif)| Figure::Gif { gif, caption: name, alt: "order of looks" }).collect();
    page.figures(&figures);
    page.render()
}
