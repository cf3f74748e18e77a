//! Touchstone's published tables, to stand beside ours: Dice and NSD times 100. Typed from the project's page and recomputed from its released
//! tables; nothing here is measured by this program.

/// The public leaderboard (hidden hospital set): mean DSC of nine organs and of each, in the order of [`HOSPITAL_COLUMNS`].
pub const HOSPITAL: [(&str, [f64; 10]); 17] = [
    ("MedNeXt", [89.2, 83.1, 85.3, 91.8, 92.6, 96.3, 83.3, 81.3, 95.2, 93.5]),
    ("MedFormer", [89.0, 82.1, 85.3, 91.9, 92.8, 96.4, 83.1, 80.7, 95.5, 93.4]),
    ("STU-Net-B", [89.0, 82.1, 85.5, 91.9, 92.5, 96.2, 83.2, 81.3, 95.1, 93.5]),
    ("nnU-Net U-Net", [88.9, 82.8, 84.7, 91.9, 92.7, 96.2, 82.3, 81.0, 95.1, 93.3]),
    ("nnU-Net ResEncL", [88.8, 81.4, 84.9, 91.9, 92.6, 96.3, 82.9, 80.5, 95.2, 93.4]),
    ("UniSeg", [88.8, 82.3, 84.7, 91.5, 92.2, 96.1, 82.7, 81.2, 94.9, 93.3]),
    ("Diff-UNet", [88.5, 81.2, 83.8, 91.9, 92.8, 96.2, 81.9, 80.8, 95.0, 93.1]),
    ("LHU-Net", [88.0, 79.5, 83.9, 91.8, 92.5, 96.2, 81.0, 79.4, 94.9, 93.0]),
    ("NexToU", [87.8, 86.4, 82.3, 89.6, 90.1, 95.7, 80.2, 78.1, 94.7, 92.7]),
    ("SegVol", [87.1, 80.2, 79.3, 91.8, 92.5, 96.0, 79.1, 77.8, 94.5, 92.5]),
    ("U-Net+CLIP", [87.1, 77.1, 82.1, 91.1, 91.9, 96.0, 80.8, 78.5, 94.3, 92.4]),
    ("Swin UNETR+CLIP", [86.7, 78.1, 80.2, 91.0, 91.7, 95.8, 80.2, 76.8, 94.1, 92.2]),
    ("UNesT", [84.9, 77.7, 75.1, 90.1, 90.9, 95.3, 76.2, 74.4, 93.2, 90.9]),
    ("Swin UNETR", [84.8, 77.2, 76.9, 89.7, 89.8, 95.2, 75.6, 75.4, 92.7, 90.5]),
    ("UNETR", [83.3, 76.5, 74.7, 89.2, 90.1, 95.0, 72.3, 71.5, 91.7, 88.8]),
    ("UCTransNet", [81.1, 86.5, 77.8, 86.9, 86.5, 93.6, 59.0, 68.1, 90.2, 81.9]),
    ("SAM-Adapter", [73.4, 62.8, 49.4, 87.3, 90.4, 94.1, 50.2, 48.0, 90.5, 88.0]),
];

/// Columns of [`HOSPITAL`]; the organs as the protocol calls them.
pub const HOSPITAL_COLUMNS: [&str; 11] =
    ["method", "mean", "aorta", "gall_bladder", "kidney_left", "kidney_right", "liver", "pancreas", "postcava", "spleen", "stomach"];

/// TotalSegmentator (all cases, and the official test split) and DAP Atlas, in the order of [`PUBLIC_COLUMNS`]; means of the organs' means where
/// it does not say otherwise. Case sets differ between methods.
pub const PUBLIC: [(&str, [Option<f64>; 6]); 19] = [
    ("STU-Net-L", [Some(83.0), Some(78.9), Some(78.9), Some(88.1), None, None]),
    ("STU-Net-H", [Some(82.7), Some(78.5), Some(77.6), Some(88.7), None, None]),
    ("ResEncL", [Some(82.7), Some(78.6), Some(77.8), Some(86.2), Some(92.3), Some(83.6)]),
    ("STU-Net-B (DAP: 'STU-Net')", [Some(82.5), Some(78.2), Some(76.6), Some(87.3), Some(92.5), Some(84.2)]),
    ("nnU-Net U-Net", [Some(82.3), Some(78.0), Some(74.4), Some(86.3), Some(91.8), Some(84.0)]),
    ("MedNeXt", [Some(80.9), Some(76.9), Some(73.9), Some(86.2), Some(92.3), Some(83.5)]),
    ("MedFormer", [Some(80.0), Some(74.6), Some(75.1), Some(86.0), None, None]),
    ("UniSeg", [Some(78.7), Some(74.6), Some(71.8), Some(85.4), None, None]),
    ("U-Net+CLIP", [Some(77.3), Some(72.5), Some(67.7), Some(82.2), Some(90.8), Some(80.2)]),
    ("LHU-Net", [Some(75.5), Some(70.3), Some(65.6), Some(82.5), Some(91.8), Some(82.1)]),
    ("Diff-UNet", [Some(75.5), Some(70.0), Some(62.5), Some(82.4), Some(92.2), Some(83.6)]),
    ("SegVol", [Some(74.6), Some(68.0), Some(66.8), Some(79.9), Some(91.1), Some(79.8)]),
    ("Swin UNETR+CLIP", [Some(74.5), Some(69.6), Some(64.6), Some(79.3), Some(90.8), Some(81.1)]),
    ("NexToU", [Some(72.9), Some(68.0), Some(61.4), Some(79.9), Some(91.5), Some(83.0)]),
    ("UCTransNet", [Some(64.9), Some(59.7), Some(48.5), Some(74.5), Some(90.8), Some(76.3)]),
    ("UNesT", [Some(63.4), Some(56.3), Some(49.4), Some(70.9), Some(83.7), Some(66.2)]),
    ("Swin UNETR", [Some(55.8), Some(48.0), Some(45.4), Some(64.5), Some(83.0), Some(63.1)]),
    ("UNETR", [Some(46.8), Some(36.8), Some(37.3), Some(56.4), Some(69.6), Some(43.5)]),
    ("SAM-Adapter", [Some(28.8), Some(20.9), Some(23.1), Some(31.2), Some(69.0), Some(38.7)]),
];

/// Columns of [`PUBLIC`]. TS: TotalSegmentator, DAP: DAP Atlas.
pub const PUBLIC_COLUMNS: [&str; 7] = ["method", "TS DSC", "TS NSD", "TS DSC, mean of cases", "TS test DSC", "DAP DSC", "DAP NSD"];

#[test]
fn the_average_is_the_mean_of_the_organs() {
    for (model, [mean, organs @ ..]) in HOSPITAL {
        let own = organs.iter().sum::<f64>() / 9.0;
        // Both are rounded to a tenth.
        assert!((own - mean).abs() < 0.11, "{model}: {own} and {mean}");
    }
    let organs: Vec<&str> = super::PROTOCOL.structures.iter().map(|s| s.name).collect();
    assert_eq!(HOSPITAL_COLUMNS[2..], organs);
    assert!(PUBLIC.iter().all(|(_, v)| v.iter().flatten().all(|v| (0.0..=100.0).contains(v))));
}
