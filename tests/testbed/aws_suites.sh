#!/usr/bin/env bash
# The suites of the target aws, on an AWS that runs on this machine (tests/src/aws_bed.rs): the bed itself, the conformance suite, stacks that emulators keep, and
# kill -9 at every step.
# tests/testbed/aws_suites.sh    exit code 3: it can't be had here (the reason is the last line of talk)
#
# Needs the engine of this machine (with the test images), sypctl and syp-gate (SYP_TEST_SYPCTL, SYP_TEST_GATE), the emulator
# (SYP_TEST_MINISTACK) and a registry (SYP_TEST_REGISTRY). About six minutes, most of them waiting.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/testbed/lib.sh
. tests/testbed/lib.sh

GATE=syp-gate:aws-$$
OUT=$SYP_CACHE/test-$$.aws

finish() {
  local rc=$?
  trap - EXIT INT TERM
  docker rmi "$GATE" >/dev/null 2>&1 || true
  rm -f "$OUT"
  exit "$rc"
}

unavailable() {
  say "$*"
  exit 3
}

suites() { cargo test --workspace --locked --offline --no-fail-fast "$@"; }

main() {
  local rc=0 beside
  : "${SYP_TEST_SYPCTL:?}" "${SYP_TEST_GATE:?}"
  [ -n "${SYP_TEST_MINISTACK:-}" ] || unavailable "no emulator of AWS: Python 3.11 or later and PyPI are needed"
  [ -n "${SYP_TEST_REGISTRY:-}" ] || unavailable "no docker-registry, from which tasks would pull"
  trap finish EXIT
  trap 'exit 130' INT TERM
  deploy/image/build.sh gate "$GATE" "$SYP_TEST_GATE"
  export SYP_TEST_AWS=1 SYP_TEST_DOCKER=1 SYP_GATE_IMAGE=$GATE
  # beds are apart: each has addresses and an emulator of its own
  suites --test conformance -- --nocapture --exact aws >"$OUT" 2>&1 &
  beside=$!
  suites --test aws --test aws_bed --test aws_emulators --test aws_faults --test aws_many --test crash_aws -- --nocapture || rc=$?
  wait "$beside" || rc=$?
  cat "$OUT"
  return "$rc"
}
main "$@"
