#!/usr/bin/env bash
# What screening costs: windows, arithmetic and seconds, Glance counted, beside Focus everywhere at overlaps of 0.75, 0.5 and 0.25.
#
# scripts/cost_table.sh RUN WORK SCAN... [-- KEY=VALUE...]
#
# RUN is a run folder, WORK keeps what was screened. Every way screens the same scans in one process, one thread; the ways alternate three times,
# seconds are medians over those. Needs Python 3, no package. The table goes to standard output as Markdown.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7p' "$0" | cut -c3- >&2; exit 2; }
run=$1 work=$2
shift 2
scans=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do scans+=("$1") && shift; done
[ $# -gt 0 ] && shift
overrides=("$@")
panscreen=$(dirname "$0")/../target/release/panscreen

screen() { # NAME ROUND OPTIONS
    local out="$work/$1-$2"
    rm -rf "$out"
    "$panscreen" screen "${scans[@]}" --model "$run" --out "$out" --threads 1 --no-preview --quiet "${@:3}" ${overrides[@]+"${overrides[@]}"} > /dev/null
}
for round in 1 2 3; do
    screen "Glance and Focus" $round
    for overlap in 0.75 0.5 0.25; do screen "Focus everywhere, overlap $overlap" $round --select all screen.overlap=$overlap; done
done

python3 - "$work" <<'PYTHON'
import json, pathlib, statistics, sys

ways = ["Glance and Focus"] + [f"Focus everywhere, overlap {o}" for o in ("0.75", "0.5", "0.25")]
print("| way | windows | Glance, GFLOP | Focus, GFLOP | Glance, CPU s | Focus, CPU s | all steps, CPU s | findings |")
print("|---|---|---|---|---|---|---|---|")
for way in ways:
    rounds = []
    for round in (1, 2, 3):
        records = [json.loads(p.read_text()) for p in sorted(pathlib.Path(sys.argv[1], f"{way}-{round}").glob("*.json"))]
        records = [r for r in records if "costs" in r]
        of = lambda key, steps: sum(c[key] for r in records for c in r["costs"] if steps is None or c["step"] in steps)
        glance, focus = ("glance", "second glance"), ("focus",)
        figures = [sum(r["windows"]["kept"] for r in records), of("gflop", glance), of("gflop", focus)]
        rounds.append(figures + [of("cpu_seconds", steps) for steps in (glance, focus, None)] + [sum(len(r["lesions"]) for r in records)])
    row = [statistics.median(values) for values in zip(*rounds)]
    print(f"| {way} | {row[0]:.0f} | {row[1]:.1f} | {row[2]:.1f} | {row[3]:.2f} | {row[4]:.2f} | {row[5]:.2f} | {row[6]:.0f} |")
PYTHON
