//! What half precision could not answer: places that are looked at once more in `f32`, and the list of them.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Int, Tensor, TensorData};
use panscreen_policies::PolicyBackend;
use panscreen_policies::precision::{cast, is_half};
use serde::{Deserialize, Serialize};

use super::Place;
use crate::run::Observer;

/// A place whose logits were no numbers in half precision, and were computed again in `f32`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recomputed {
    pub network: String,
    /// First voxel on the prepared grid, and the size in windows; the whole scan or a part of it for a Glance that reads those.
    pub start: [usize; 3],
    pub scale: usize,
}

/// Places recomputed since they were last asked for.
#[derive(Debug, Default)]
pub struct Again(Mutex<Vec<Recomputed>>);

impl Again {
    /// The numbers that `net` gives for each of `places`, in order. `x` holds what it sees of each, `f32`, and is given to it in `dtype`; a place
    /// with an answer that is no number is put to the same network once more as it is, and noted. The rest is the caller's to check.
    pub fn ask<B: PolicyBackend>(
        &self,
        network: &str,
        x: Tensor<B, 5>,
        dtype: DType,
        places: &[Place],
        net: impl Fn(Tensor<B, 5>) -> Vec<f32>,
    ) -> Vec<f32> {
        if !is_half(dtype) {
            return net(x);
        }
        let mut answers = net(cast(x.clone(), dtype));
        let each = (answers.len() / places.len().max(1)).max(1);
        let broken = |answer: &[f32]| answer.iter().any(|v| !v.is_finite());
        let numbers: Vec<usize> = answers.chunks(each).enumerate().filter(|(_, a)| broken(a)).map(|(i, _)| i).collect();
        if numbers.is_empty() {
            return answers;
        }
        let index: Vec<i64> = numbers.iter().map(|&i| i as i64).collect();
        let index = Tensor::<B, 1, Int>::from_data(TensorData::from(&index[..]), &x.device());
        for (&i, answer) in numbers.iter().zip(net(x.select(0, index)).chunks(each)) {
            answers[i * each..(i + 1) * each].copy_from_slice(answer);
        }
        let note = |&i: &usize| Recomputed { network: network.to_owned(), start: places[i].start, scale: places[i].scale };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(numbers.iter().map(note));
        answers
    }

    /// Everything noted so far, which is then forgotten.
    pub fn take(&self) -> Vec<Recomputed> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One warning about everything noted so far, where there is no record to keep it in.
    pub fn warn(&self, observer: &dyn Observer) {
        if let Some(sentence) = sentence(&self.take()) {
            observer.warn(&format!("{sentence}; they were computed again in f32"));
        }
    }
}

/// Names the first few; `None` where there is nothing to name.
pub fn sentence(recomputed: &[Recomputed]) -> Option<String> {
    const NAMED: usize = 5;
    let named: Vec<String> = recomputed.iter().take(NAMED).map(|r| format!("{} at {:?}", r.network, r.start)).collect();
    let more = if recomputed.len() > NAMED { ", ..." } else { "" };
    (!named.is_empty()).then(|| format!("{} windows overflowed half precision ({}{more})", recomputed.len(), named.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use burn::backend::Flex;
    use burn::module::{Module, ModuleMapper, Param};
    use panscreen_envs::io::write_probability;
    use panscreen_envs::metrics::calibration::Scaling;
    use panscreen_envs::volume::{Geometry, PrepareConfig};
    use panscreen_policies::focus::FocusConfig;
    use panscreen_policies::glance::{GlanceConfig, Shared};
    use panscreen_policies::nets::{ResNetConfig, ResidualUNetConfig};

    use super::*;
    use crate::config::ScreenConfig;
    use crate::screen::{Choice, ScreenSettings, Screener, screen_case};

    fn x(values: [f32; 4]) -> Tensor<Flex, 5> {
        Tensor::from_data(TensorData::new(values.to_vec(), [4, 1, 1, 1, 1]), &Default::default())
    }

    fn places() -> Vec<Place> {
        (0..4).map(|i| Place { start: [i, 0, 2 * i], scale: 1 }).collect()
    }

    /// Twice the voxel and its square, in the type of what it is given.
    fn net(x: Tensor<Flex, 5>) -> Vec<f32> {
        Tensor::cat(vec![x.clone() * 2.0, x.clone() * x], 1).into_data().iter::<f32>().collect()
    }

    #[test]
    fn only_what_overflowed_is_computed_again_and_named() {
        // The square of the third is beyond f16; that of the fourth beyond f32 too.
        let values = [1.0, 2.5, 1e3, 1e30];
        let again = Again::default();
        let expected = net(x(values));
        assert_eq!(again.ask("Focus", x(values), DType::F32, &places(), net), expected);
        assert!(again.take().is_empty(), "f32 has nothing to fall back on");
        let found = again.ask("Focus", x(values), DType::F16, &places(), net);
        assert_eq!(found, expected);
        let seen = again.take();
        assert_eq!(seen.iter().map(|r| r.start).collect::<Vec<_>>(), [[2, 0, 4], [3, 0, 6]]);
        assert_eq!(sentence(&seen).unwrap(), "2 windows overflowed half precision (Focus at [2, 0, 4], Focus at [3, 0, 6])");
        assert!(found[7].is_infinite() && again.take().is_empty());
    }

    #[test]
    fn what_fits_half_precision_is_left_as_it_came_out() {
        let again = Again::default();
        // 1.001 has no place in 8 bits of mantissa.
        let found = again.ask("Glance", x([1.001, 0.0, -3.0, 1e30]), DType::BF16, &places(), net);
        assert_eq!((found[0], found[4]), (2.0, -6.0));
        assert_eq!(again.take().iter().map(|r| r.start).collect::<Vec<_>>(), [[3, 0, 6]]);
    }

    #[test]
    fn a_warning_names_a_few_and_comes_once() {
        let again = Again::default();
        let observer = crate::run::progress::Recorder::default();
        again.ask("Glance", x([1e30; 4]), DType::BF16, &places(), net);
        again.ask("Focus", x([1e30; 4]), DType::BF16, &places(), net);
        again.warn(&observer);
        again.warn(&observer);
        let said = observer.0.lock().unwrap().clone();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].starts_with("8 windows overflowed half precision (Glance at [0, 0, 0], ")
                && said[0].contains("Focus at [0, 0, 0], ...)")
        );
    }

    /// Focus and Glance with the weights of their first convolutions times a number each. If those are large, the norm behind them brings that back, but
    /// in between, where the scan is bright, are numbers beyond f16.
    fn screener(dtype: DType, [much_focus, much_glance]: [f32; 2]) -> Screener<Flex> {
        let unet = ResidualUNetConfig { widths: vec![4, 8], blocks: vec![1, 1], ..Default::default() };
        let resnet = ResNetConfig { widths: vec![4, 8], blocks: vec![1, 1], norm_groups: 2, ..Default::default() };
        let (focus_config, config) = (FocusConfig::ResidualUnet(unet), GlanceConfig::Resnet3d(resnet));
        let focus = focus_config.init(1, 2, 7, &Default::default()).unwrap();
        let glance = config.init(1, None, Shared::None, &focus_config, &focus, 7, &Default::default()).unwrap();
        let (focus, glance) = (focus.map(&mut Times(much_focus, true)), glance.map(&mut Times(much_glance, true)));
        Screener { glance, focus, window: [16; 3], batch: 3, device: Default::default(), dtype, again: Again::default() }
    }

    /// The first weights it meets times a number.
    struct Times(f32, bool);
    impl ModuleMapper<Flex> for Times {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<Flex, D>>) -> Param<Tensor<Flex, D>> {
            if std::mem::replace(&mut self.1, false) { param.map(|t| t * self.0) } else { param }
        }
    }

    /// A scan of 48 voxels along z, of which the last 16 are air.
    fn scan(dir: &Path) -> PathBuf {
        let hu: Vec<f32> = (0..16 * 16 * 48).map(|i| if i % 48 < 32 { ((i * 7919) % 1013) as f32 } else { -1000.0 }).collect();
        let path = dir.join("scan.nii.gz");
        write_probability(&path, &hu, &Geometry::ras([16, 16, 48], [1.0; 3], [0.0; 3])).unwrap();
        path
    }

    fn settings(choice: Choice) -> ScreenSettings {
        let prepare = PrepareConfig { spacing_mm: None, windows_hu: vec![[0.0, 1000.0]], crop_foreground: false, pad_to: [16; 3] };
        let screen = ScreenConfig { overlap: 0.0, second_look: false, ..ScreenConfig::default() };
        ScreenSettings { screen, prepare, choice, scaling: Scaling::IDENTITY, gate: None, guarantee: None }
    }

    #[test]
    fn a_scan_that_overflows_half_precision_is_screened_in_f32_where_it_does_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = scan(dir.path());
        // The weights themselves are below 65504, the largest f16, and so is what they make of air.
        let much = [5e4, 1e5];
        let screen = |dtype, much, choice| screen_case(&screener(dtype, much), &path, &settings(choice)).unwrap();
        for choice in [Choice::All, Choice::Above(0.0)] {
            let (exact, half) = (screen(DType::F32, much, choice), screen(DType::F16, much, choice));
            assert!(exact.result.recomputed.is_empty() && exact.result.warnings.is_empty());
            let by = |network: &str| -> Vec<[usize; 3]> {
                half.result.recomputed.iter().filter(|r| r.network == network).map(|r| r.start).collect()
            };
            // The window of air has nothing to overflow.
            let bright = vec![[0, 0, 0], [0, 0, 16]];
            assert_eq!((by("Focus"), by("Glance")), (bright.clone(), if choice == Choice::All { vec![] } else { bright }));
            assert_eq!(half.result.warnings.len(), 1);
            assert!(half.result.warnings[0].found.contains("Focus at [0, 0, 16]"), "{:?}", half.result.warnings);
            let text = serde_json::to_value(&half.result).unwrap();
            assert_eq!(text["recomputed"][0]["start"], serde_json::json!([0, 0, 0]));
            for (i, (a, b)) in exact.probability.iter().zip(&half.probability).enumerate() {
                assert!(if i % 48 < 32 { a == b } else { (a - b).abs() < 0.01 }, "voxel {i}: {a} and {b}");
            }
        }
        // Weights that fit are used as they are, and nothing is said.
        let half = screen(DType::BF16, [1.0; 2], Choice::All).result;
        assert!(half.recomputed.is_empty() && half.warnings.is_empty() && serde_json::to_value(&half).unwrap().get("recomputed").is_none());
    }

    #[test]
    fn what_is_no_number_in_f32_either_is_an_error_that_names_its_window() {
        let dir = tempfile::tempdir().unwrap();
        let broken = screener(DType::BF16, [f32::NAN; 2]);
        let error = screen_case(&broken, &scan(dir.path()), &settings(Choice::All)).err().unwrap().to_string();
        assert!(error.contains("Focus's answer for the window at [0, 0, 0]"), "{error}");
    }
}
