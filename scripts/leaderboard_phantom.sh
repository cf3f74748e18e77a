#!/usr/bin/env bash
# Three methods on the demo's held-out phantom scans: Focus on every window, Glance and Focus, and a method that never marks anything.
#
# scripts/leaderboard_phantom.sh [RUN] [WORK]
#
# RUN is a demo's folder (default runs/demo; made by `panscreen demo` if it isn't there), WORK keeps masks and page (default
# runs/leaderboard_phantom). Started again, it goes on where it was. Needs Python 3 to read the split, no package.
set -euo pipefail
cd "$(dirname "$0")/.."
run=${1:-runs/demo}
work=${2:-runs/leaderboard_phantom}

cargo build --release
panscreen=target/release/panscreen
[ -f "$run/summary.json" ] || $panscreen demo --out "$run"

# The held-out scans, their references, and where their lesions are as groups.
mkdir -p "$work/reference"
python3 - "$run" "$work" > "$work/scans.txt" <<'PYTHON'
import json, pathlib, sys

run, work = map(pathlib.Path, sys.argv[1:])
CHEST = {"lung_tumour", "lung_nodule", "covid19", "pleural_effusion"}
lines = ["case,lesions,region"]
for case in json.loads((run / "split.json").read_text())["test"]:
    link = work / "reference" / f"{case['name']}.nii.gz"
    link.unlink(missing_ok=True)
    link.symlink_to(pathlib.Path(case["label"]).resolve())
    lesions = json.loads((run / "data/findings" / f"{case['name']}.json").read_text())["lesions"]
    regions = sorted({"chest" if lesion["kind"] in CHEST else "abdomen" for lesion in lesions})
    lines.append(f"{case['name']},{len(lesions)},{' and '.join(regions) or 'none'}")
    print(case["image"])
(work / "cases.csv").write_text("\n".join(lines) + "\n")
PYTHON
mapfile -t scans < "$work/scans.txt"

screen() { $panscreen screen "${scans[@]}" --model "$run" --out "$work/$1" --save-probabilities --no-preview "${@:2}" > /dev/null; }
screen dense --select all
screen glance_and_focus
# No window passes a threshold of 1, so Focus sees nothing.
screen all_empty --threshold 1

$panscreen leaderboard "$work/dense" "$work/glance_and_focus" "$work/all_empty" --ref "$work/reference" --images "$run/data/imagesTr" \
    --metadata "$work/cases.csv" --out "$work/board"
