"""Dice + NSD at 2 mm + HD95 + components of two 512x512x200 lesion masks: this program beside DeepMind's surface-distance and cc3d, in one run.

python scripts/bench_metrics.py [--false-positives N]

Needs scripts/requirements.txt and cargo. The masks are those of `envs/examples/bench_metrics.rs`, which writes them for this script. Prints CPU
seconds of each side and whether the two agree; exits with 1 where they don't.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = (512, 512, 200)
SPACING_MM = (0.8, 0.8, 2.5)


def cpu(work):
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def main():
    import cc3d
    import numpy as np
    import surface_distance as sd

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--false-positives", type=int, default=300)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "masks.u8"
        command = ["cargo", "run", "--release", "-q", "-p", "panscreen-envs", "--example", "bench_metrics", "--"]
        ours = subprocess.run([*command, str(args.false_positives), str(path)], check=True, capture_output=True, text=True).stdout
        masks = np.fromfile(path, np.uint8).reshape(2, *SHAPE)
    print("panscreen\n" + ours)
    reference, predicted = masks.astype(bool)

    def nsd():
        distances = sd.compute_surface_distances(reference, predicted, SPACING_MM)
        return sd.compute_surface_dice_at_tolerance(distances, 2.0), sd.compute_robust_hausdorff(distances, 95)

    def components():
        return [int(cc3d.connected_components(mask, connectivity=26, out_dtype=np.uint32).max()) for mask in masks]

    dice_seconds, dice = cpu(lambda: sd.compute_dice_coefficient(reference, predicted))
    components_seconds, counts = cpu(components)
    nsd_seconds, (nsd_2mm, hd95) = cpu(nsd)
    print(f"Python: {dice_seconds + components_seconds + nsd_seconds:.3f} CPU s (Dice {dice_seconds:.3f}, "
          f"NSD and HD95 of surface-distance {nsd_seconds:.3f}, components of cc3d {components_seconds:.3f})")
    print(f"  Dice {dice!r}, NSD {nsd_2mm!r}, HD95 {hd95!r}; {counts[0]} lesions, {counts[1]} findings")
    got = {key: float(re.search(rf"{key}=([0-9.]+)", ours)[1]) for key in ("dice", "nsd", "hd95", "lesions", "findings")}
    want = {"dice": dice, "nsd": nsd_2mm, "hd95": hd95, "lesions": counts[0], "findings": counts[1]}
    wrong = [key for key in want if abs(got[key] - float(want[key])) > 1e-9]
    print("the two agree" if not wrong else f"the two differ in {', '.join(wrong)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
