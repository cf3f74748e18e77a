#!/usr/bin/env bash
# Whole-scan Glances beside Focus everywhere, as they screen: lesions found, false alarms, windows and CPU seconds on the 240 test scans of the
# selection cohort; then what scans of 512 x 512 x 200 cost with the networks of configs/small.toml. The page is docs/results/whole_scan.md.
#
# scripts/whole_scan.sh [WORK]    (default: runs/whole-scan; one thread; about 40 minutes)
#
# Needs Python 3, no package. Finished parts are kept: the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
work=${1:-runs/whole-scan} panscreen=target/release/panscreen
mkdir -p "$work"

common=(
    objective.name=best_window env.group=volume env.volumes_per_batch=2 env.crops_per_volume=1000 env.lesion_free_weight=0.25
    loss.cell_weight=30 init_from="$work/focus"
)
resnet='glance={ kind = "whole_scan", widths = [16, 32], blocks = [2, 2], norm = "batch" }'
encoder='glance={ kind = "whole_scan", reader = "encoder" }'
"$panscreen" train configs/ablations/focus.toml --out "$work/focus"
"$panscreen" train configs/ablations/selection.toml --out "$work/resnet" "${common[@]}" "$resnet" optim.glance.lr=4e-3 selection.steps=1200
"$panscreen" train configs/ablations/selection.toml --out "$work/encoder" "${common[@]}" "$encoder" backbone.shared=init optim.glance.lr=2e-3 \
    selection.steps=400

data=runs/selection-data
mapfile -t scans < <(python3 -c 'import json, sys
for case in json.load(open(sys.argv[1] + "/dataset.json"))["test"]: print(sys.argv[1] + "/" + case["image"])' $data)
# As the demo screens: Gaussian blending, second looks near hits, windows that were not looked at vote for background.
how=(--threads 1 --no-preview --quiet screen.blend=gaussian screen.denominator=covering screen.second_look=true)
# The highest threshold that reaches a recall on the validation scans.
threshold() { # RUN RECALL
    python3 -c 'import json, sys
curve = json.load(open(sys.argv[1] + "/operating.json"))["curve"]
print(max(c["threshold"] for c in curve if c["relative_recall"] >= float(sys.argv[2]) - 1e-9))' "$work/$1" "$2"
}
for run in resnet encoder; do
    for recall in 0.95 0.99; do
        "$panscreen" screen "${scans[@]}" --model "$work/$run" --out "$work/$run-$recall" --threshold "$(threshold $run $recall)" "${how[@]}" > /dev/null
    done
done
"$panscreen" screen "${scans[@]}" --model "$work/resnet" --out "$work/everywhere" --select all "${how[@]}" > /dev/null

mkdir -p "$work/references"
for scan in "${scans[@]}"; do
    case=$(basename "$scan" _0000.nii.gz)
    cp -n "$data/labelsTr/$case.nii.gz" "$work/references/"
done
for way in resnet-0.95 resnet-0.99 encoder-0.95 encoder-0.99 everywhere; do
    echo "== $way"
    "$panscreen" evaluate --pred "$work/$way" --ref "$work/references" | grep -E '^(lesion +dice|lesion recall|lesion precision|false positives) '
    python3 - "$work/$way" <<'PYTHON'
import json, pathlib, sys

records = [json.loads(p.read_text()) for p in pathlib.Path(sys.argv[1]).glob("*.json")]
records = [r for r in records if "costs" in r]
seconds = lambda step: sum(c["cpu_seconds"] for r in records for c in r["costs"] if step in (None, c["step"])) / len(records)
windows = sum(r["windows"]["kept"] for r in records) / sum(r["windows"]["total"] for r in records)
print(f"windows {100 * windows:.1f} %; CPU s a scan: {seconds(None):.3f}, Glance {seconds('glance'):.3f}, Focus {seconds('focus'):.3f}")
PYTHON
done

[ -d "$work/ct512" ] || "$panscreen" data phantom --spacing-mm 0.625,0.625,1 --cases 2 --seed 3 --split 0,0,2 --out "$work/ct512"
[ -d "$work/small" ] || "$panscreen" model new configs/small.toml --out "$work/small"
for way in "--keep-fraction 0.2" "--select all"; do
    out="$work/512 ${way#--}"
    rm -rf "$out"
    # shellcheck disable=SC2086
    "$panscreen" screen "$work"/ct512/imagesTr/*.nii.gz --model "$work/small" --out "$out" --threads 1 --no-preview --quiet $way > /dev/null
    python3 - "$out" <<'PYTHON'
import json, pathlib, sys

for path in sorted(pathlib.Path(sys.argv[1]).glob("*.json")):
    record = json.loads(path.read_text())
    if "costs" in record:
        steps = {c["step"]: round(c["cpu_seconds"], 2) for c in record["costs"]}
        print(path.parent.name, path.stem, record["windows"]["kept"], "of", record["windows"]["total"], "windows, CPU s", steps, round(sum(steps.values()), 2))
PYTHON
done
