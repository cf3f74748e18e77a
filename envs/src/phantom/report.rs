//! The report of a case in words.

use crate::rng::{RngExt, Stream};

use super::lesions::{Lesion, LesionKind};

/// One paragraph: how the scan was made, each finding with organ, side, size and volume, and what is unremarkable.
pub fn paragraph(findings: &[Lesion], rng: &mut Stream) -> String {
    let mut pick = |choices: &[&'static str]| choices[rng.random_range(0..choices.len())];
    let mut text =
        pick(&["Contrast-enhanced CT of the chest and upper abdomen.", "CT of the chest and abdomen in the portal venous phase."])
            .to_owned();
    if findings.is_empty() {
        text += pick(&[
            " There is no focal lesion in the lungs, liver, pancreas, spleen, kidneys, adrenal glands or colon.",
            " Lungs, liver, spleen, pancreas, kidneys, adrenal glands and colon show no focal lesion.",
        ]);
        text += pick(&[" No pleural effusion.", " There is no pleural effusion and no consolidation."]);
        return text + "\n";
    }
    for (n, lesion) in findings.iter().enumerate() {
        let lead = if n == 0 {
            pick(&["There is", "The scan shows"])
        } else {
            pick(&["There is also", "In addition there is", "Further, there is"])
        };
        text += &format!(" {lead} {}.", sentence(lesion));
    }
    let affected = |words: &[&str]| findings.iter().any(|f| words.iter().any(|w| f.organ.contains(w)));
    let clear: Vec<&str> = [
        ("lungs", "lung"),
        ("liver", "liver"),
        ("pancreas", "pancreas"),
        ("kidneys", "kidney"),
        ("adrenal glands", "adrenal"),
        ("colon", "colon"),
        ("spleen", "spleen"),
    ]
    .into_iter()
    .filter(|(_, word)| !affected(&[word]))
    .map(|(name, _)| name)
    .collect();
    if let Some((last, rest)) = clear.split_last() {
        let list = if rest.is_empty() { (*last).to_owned() } else { format!("{} and {last}", rest.join(", ")) };
        text += &format!(" The {list} {}.", pick(&["show no focal lesion", "are unremarkable"]));
    }
    text + "\n"
}

fn sentence(l: &Lesion) -> String {
    let size = format!("{:.0} mm ({:.1} mL)", l.longest_mm, l.volume_ml);
    let density = if l.contrast_hu < 0.0 { "hypodense" } else { "hyperdense" };
    let organ = l.organ;
    match l.kind {
        LesionKind::PleuralEffusion => {
            format!(
                "a {} pleural effusion of {:.1} mL, {:.0} mm in its longest extent",
                organ.trim_end_matches(" lung"),
                l.volume_ml,
                l.longest_mm
            )
        }
        LesionKind::Covid19 => format!("a ground-glass opacity in the {organ}, {size}, in keeping with COVID-19"),
        LesionKind::LungNodule => format!("a nodule in the {organ}, {size}"),
        LesionKind::LungTumour => format!("a mass in the {organ}, {size}"),
        LesionKind::ColonTumour => format!("a tumour of the wall of the colon, {size}"),
        _ => format!("a {density} tumour of the {organ}, {size}"),
    }
}
