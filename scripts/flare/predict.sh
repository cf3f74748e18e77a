#!/bin/sh
# FLARE's entry, one case a launch: /workspace/inputs/CASE_0000.nii.gz -> /workspace/outputs/CASE.nii.gz, uint8, 0 and 1, the scan's own geometry.
#
# A launch may take 60 s and 28 GiB. BUDGET_SECONDS is what a scan may take until the last window goes to Focus; the rest is for loading the model
# and for writing. `panscreen submit check` runs this file as the organisers do, with INPUTS, OUTPUTS, MODEL and PANSCREEN pointing elsewhere.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
inputs=${INPUTS:-/workspace/inputs}
outputs=${OUTPUTS:-/workspace/outputs}
model=${MODEL:-$here/model}
panscreen=${PANSCREEN:-panscreen}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
code=0
"$panscreen" screen "$inputs" --model "$model" --out "$work" --budget-seconds "${BUDGET_SECONDS:-40}" --no-preview --quiet >&2 || code=$?
mkdir -p "$outputs"
for mask in "$work"/*.nii.gz; do
    [ -e "$mask" ] || continue
    name=$(basename "$mask")
    # Whole or not at all, also where the outputs are another disk.
    cp "$mask" "$outputs/.$name.part"
    mv "$outputs/.$name.part" "$outputs/$name"
done
exit "$code"
