#!/usr/bin/env bash
# Our engine beside Restate on this machine, the same work (workflows of ten durable steps) in the same run:
#   benches/engine/run.sh          ROUNDS=3   PERF_PARTS=seq,conc,recover,idle,park,fsync
# Brings Restate from npm into the cache folder. Prints medians and ratios as JSON lines on stdout.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../tests/testbed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tests/testbed/lib.sh"
command -v npm >/dev/null || die "npm is needed to bring Restate (apt-get install npm)"
ensure_rust
cd "$SYP_ROOT"
say "building bench_engine"
cargo build --release --locked -p syp-tests --bin bench_engine >&2
export PERF_WORK=${PERF_WORK:-$SYP_CACHE/perf} PERF_WAIT_S=${PERF_WAIT_S:-60} PERF_PARK=${PERF_PARK:-10000}
export PERF_PARTS=${PERF_PARTS:-seq,conc,recover,idle,park} OURS_BIN=$CARGO_TARGET_DIR/release/bench_engine
mkdir -p "$PERF_WORK"
RAW=$PERF_WORK/raw.jsonl
: >"$RAW"
cd benches/engine
for ((round = 1; round <= ${ROUNDS:-3}; round++)); do
  for engine in restate ours; do
    say "round $round: $engine"
    timeout 400 python3 "bench_$engine.py" >>"$RAW" 2>>"$PERF_WORK/talk.log" || die "$engine failed: see $PERF_WORK/talk.log"
  done
done
python3 summary.py "$RAW"
