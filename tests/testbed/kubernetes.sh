#!/usr/bin/env bash
# The conformance suite of the k8s target, and what it asks of a cluster, on a real kind cluster that is made for it and goes with it.
# tests/testbed/kubernetes.sh    exit code 3: a cluster can't be had here (the reason is the last line of talk)
#
# Needs the engine of this machine (with the test images), sypctl and syp-gate (SYP_TEST_SYPCTL, SYP_TEST_GATE).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/testbed/lib.sh
. tests/testbed/lib.sh

NAME=syp-test-$$
GATE=syp-gate:test-$$
IMAGES=(syp-test/hello:latest syp-test/crash:latest)
DIR=

finish() {
  local rc=$?
  trap - EXIT INT TERM
  tests/testbed/k8s.sh down "$NAME" >&2 || true
  docker rmi "$GATE" >/dev/null 2>&1 || true
  [ -z "$DIR" ] || rm -rf "$DIR"
  exit "$rc"
}

main() {
  local said
  : "${SYP_TEST_SYPCTL:?}" "${SYP_TEST_GATE:?}"
  tests/testbed/k8s.sh check
  trap finish EXIT
  trap 'exit 130' INT TERM
  said=$(tests/testbed/k8s.sh up "$NAME")
  eval "$said"
  # as the engine makes it for Docker: the program alone, and a place for its files
  DIR=$(mktemp -d)
  mkdir -p "$DIR/etc/syp"
  install -m 755 "$SYP_TEST_GATE" "$DIR/syp-gate"
  tar -C "$DIR" -c . | docker import - "$GATE" >/dev/null
  tests/testbed/k8s.sh load "$NAME" "$GATE" "${IMAGES[@]}"
  export KUBECONFIG SYP_K8S_KUBECTL SYP_TEST_K8S=1 SYP_TEST_DOCKER=1 SYP_GATE_IMAGE=docker.io/library/$GATE
  cargo test --locked --offline -p syp-tests --test conformance k8s -- --nocapture
  cargo test --locked --offline -p syp-tests --test k8s --test k8s_cost -- --nocapture
}
main "$@"
