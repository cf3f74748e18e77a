#!/bin/sh
# Damage good inputs of every format and read them: 200,000 executions each, none may panic. Same seed, same inputs.
#   scripts/fuzz.sh [SEED] [EXECUTIONS]
set -eu
cd "$(dirname "$0")/.."
cargo build --release -p panscreen-envs --example fuzz_io
for format in nifti gzip; do
    "${CARGO_TARGET_DIR:-target}/release/examples/fuzz_io" --format "$format" --executions "${2:-200000}" --seed "${1:-1}"
done
