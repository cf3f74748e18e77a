"""Dice + NSD at 2 mm + HD95 + components of two 512x512x200 lesion masks: this program beside DeepMind's surface-distance and cc3d, in one run.

python scripts/bench_metrics.py [--false-positives N] [--rounds N] [--out docs/results/metrics.md]

Needs scripts/requirements.txt and cargo. The masks are those of `panscreen bench metrics`, which writes them for this script. The two sides alternate;
printed are medians of CPU seconds on one thread, and whether the two agree; exits with 1 where they don't.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

SHAPE = (512, 512, 200)
SPACING_MM = (0.8, 0.8, 2.5)


def cpu(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor() or "unknown"


def main():
    import cc3d
    import numpy as np
    import surface_distance as sd

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--false-positives", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the table as Markdown")
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "-q"], check=True)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.u8"
        for _ in range(args.rounds):
            command = ["target/release/panscreen", "bench", "metrics", "--json", "--rounds", "1", "--masks", str(path)]
            command += ["--false-positives", str(args.false_positives)]
            ours.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
            reference, predicted = np.fromfile(path, np.uint8).reshape(2, *SHAPE).astype(bool)

            def nsd():
                distances = sd.compute_surface_distances(reference, predicted, SPACING_MM)
                return sd.compute_surface_dice_at_tolerance(distances, 2.0), sd.compute_robust_hausdorff(distances, 95)

            def components():
                return [int(cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32).max()) for mask in (reference, predicted)]

            dice_seconds, dice = cpu(lambda: sd.compute_dice_coefficient(reference, predicted))
            components_seconds, counts = cpu(components)
            nsd_seconds, (nsd_2mm, hd95) = cpu(nsd)
            theirs.append([dice_seconds, nsd_seconds, components_seconds, dice_seconds + nsd_seconds + components_seconds])
    median = lambda rows: [statistics.median(column) for column in zip(*rows)]
    seconds = lambda run: {row["name"]: row["seconds_median"] for row in run["rows"]}
    names = ["runs of voxels", "Dice", "NSD and HD95", "components and matching", "all"]
    mine = dict(zip(names, median([[seconds(run)[name] for name in names] for run in ours])))
    python = dict(zip(["Dice", "NSD and HD95", "components and matching", "all"], median(theirs)))
    label = {"Dice": "Dice: surface-distance", "NSD and HD95": "NSD and HD95: surface-distance", "components and matching": "components: cc3d (no matching)",
             "all": "all", "runs of voxels": "reading the masks once"}
    lines = ["| step | panscreen, CPU s | Python, CPU s | ratio |", "|---|---|---|---|"]
    for name in names:
        other = python.get(name)
        # A ratio to less than a millisecond says nothing.
        ratio = f"{other / mine[name]:.1f}" if other is not None and mine[name] >= 0.001 else ""
        lines.append(f"| {label[name]} | {mine[name]:.3f} | {'' if other is None else f'{other:.3f}'} | {ratio} |")
    results = ours[-1]["results"]
    want = {"dice": dice, "nsd_2mm": nsd_2mm, "hd95_mm": hd95, "lesions": counts[0], "findings": counts[1]}
    wrong = [key for key in want if abs(results[key] - float(want[key])) > 1e-9]
    agree = "The two agree to 1e-9 in Dice, NSD, HD95 and both counts." if not wrong else f"The two differ in {', '.join(wrong)}."
    packages = ", ".join(f"{p} {version(p)}" for p in ("surface-distance-based-measures", "connected-components-3d", "numpy"))
    table = "\n".join(lines)
    text = f"""# Metrics: time and memory

Made by `python scripts/bench_metrics.py --rounds {args.rounds} --out docs/results/metrics.md`: two masks of 512x512x200 voxels (0.8 x 0.8 x 2.5 mm) with {results['lesions']} lesions and
{args.false_positives} scattered false positives ({results['findings']} findings), one thread each, alternating, medians of {args.rounds} round{'s' if args.rounds > 1 else ''}.

{table}

{agree} Dice {results['dice']:.6f}, NSD at 2 mm {results['nsd_2mm']:.6f}, HD95 {results['hd95_mm']:.4f} mm. Memory beyond the two masks (a byte a voxel each): {ours[-1]['bytes_per_voxel']:.2f} bytes a
voxel. Machine: {processor()}. {packages}.

`surface-distance` transforms the box that holds both masks, which one far false positive makes the whole scan; here both surfaces go into k-d trees.
"""
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
