#!/usr/bin/env bash
# What the engine does when parts of a cluster fail, on a Kubernetes whose parts are processes; it is made for this and goes with it.
# tests/testbed/faults.sh [CASE]    exit code 3: such a cluster can't be had here (the reason is the last line of talk)
#
# Needs the engine of this machine (with the test images), sypctl and syp-gate (SYP_TEST_SYPCTL, SYP_TEST_GATE). About seven minutes, most of them waiting.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/testbed/lib.sh
. tests/testbed/lib.sh

GATE=syp-gate:faults-$$

finish() {
  local rc=$?
  trap - EXIT INT TERM
  tests/testbed/k8s.sh bare down >&2 || true
  docker rmi "$GATE" >/dev/null 2>&1 || true
  exit "$rc"
}

main() {
  local said
  : "${SYP_TEST_SYPCTL:?}" "${SYP_TEST_GATE:?}"
  tests/testbed/k8s.sh check
  trap finish EXIT
  trap 'exit 130' INT TERM
  said=$(tests/testbed/k8s.sh bare up)
  eval "$said"
  deploy/image/build.sh gate "$GATE" "$SYP_TEST_GATE"
  tests/testbed/k8s.sh bare load "$GATE" syp-test/hello:latest
  export KUBECONFIG SYP_K8S_KUBECTL SYP_K8S_RUN SYP_TEST_DOCKER=1 SYP_GATE_IMAGE=docker.io/library/$GATE
  [ -z "${1:-}" ] || export SYP_TEST_CASE=$1
  cargo test --workspace --locked --offline --test k8s_faults -- --nocapture
}
main "$@"
