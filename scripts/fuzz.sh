#!/bin/sh
# Damage good inputs of every kind and read them: 200,000 executions each, none may panic. Same seed, same inputs.
#   scripts/fuzz.sh [SEED] [EXECUTIONS]
set -eu
cd "$(dirname "$0")/.."
seed=${1:-1}
executions=${2:-200000}
cargo build --release --workspace --examples
examples=${CARGO_TARGET_DIR:-target}/release/examples
for format in nifti gzip; do
    "$examples/fuzz_io" --format $format --executions "$executions" --seed "$seed"
done
"$examples/fuzz_dicom" --executions "$executions" --seed "$seed"
for format in nrrd list; do
    "$examples/fuzz_nrrd" --format $format --executions "$executions" --seed "$seed"
done
PANSCREEN_FUZZ_EXECUTIONS=$executions cargo test --release --workspace --lib damaged_configs
