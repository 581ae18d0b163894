#!/usr/bin/env bash
# The conformance suite of the targets k8s (a real kind cluster that is made for it and goes with it), kind and kind-ingress (clusters
# that the engine makes), side by side, since most of it is waiting; then what is particular to kind.
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

finish() {
  local rc=$?
  trap - EXIT INT TERM
  tests/testbed/k8s.sh down "$NAME" >&2 || true
  [ -z "$INOTIFY" ] || sysctl_inotify "$INOTIFY" || true
  docker rmi "$GATE" >/dev/null 2>&1 || true
  [ -z "$AUDIT" ] || rm -f "$AUDIT"
  exit "$rc"
}

AUDIT=
# Five clusters at once need more than most kernels give; it is put back at the end.
INOTIFY=
sysctl_inotify() { need_root_or_sudo "to let several clusters run at once" && echo "$1" | "${SUDO[@]}" tee /proc/sys/fs/inotify/max_user_instances >/dev/null; }

# suites NAME...: each of them, whatever another one does
suites() {
  cargo test --locked --offline -p syp-tests "${@/#/--test=}" --no-fail-fast -- --nocapture
}

main() {
  local said limit
  : "${SYP_TEST_SYPCTL:?}" "${SYP_TEST_GATE:?}"
  tests/testbed/k8s.sh check
  trap finish EXIT
  trap 'exit 130' INT TERM
  limit=$(cat /proc/sys/fs/inotify/max_user_instances)
  if [ "$limit" -lt 512 ]; then
    say "fs.inotify.max_user_instances is $limit: 1024 while the clusters run"
    sysctl_inotify 1024 && INOTIFY=$limit
  fi
  said=$(tests/testbed/k8s.sh up "$NAME" --ingress)
  eval "$said"
  deploy/image/build.sh gate "$GATE" "$SYP_TEST_GATE"
  tests/testbed/k8s.sh load "$NAME" "$GATE" "${IMAGES[@]}"
  said=$(tests/testbed/k8s.sh own)
  eval "$said"
  export PATH=$SYP_K8S_BIN:$PATH SYP_KIND_NODE_IMAGE SYP_KIND_INGRESS_IMAGE SYP_TEST_KIND=1
  export KUBECONFIG SYP_K8S_KUBECTL SYP_TEST_K8S=1 SYP_TEST_DOCKER=1 SYP_GATE_IMAGE=docker.io/library/$GATE
  cargo test --locked --offline -p syp-tests --test conformance -- --exact --nocapture --test-threads 3 k8s kind kind_ingress
  suites k8s k8s_cost k8s_pull k8s_namespace k8s_plan k8s_troubles k8s_ways_in
  # these wait, most of the time: for an autoscaler, for what must not happen
  suites k8s_scale >"$SYP_CACHE/k8s-scale-$$" 2>&1 &
  local scale=$! failed=0
  suites crash_k8s k8s_drift || failed=1
  wait "$scale" || failed=1
  cat "$SYP_CACHE/k8s-scale-$$"
  rm -f "$SYP_CACHE/k8s-scale-$$"
  [ "$failed" = 0 ]
  # of all that came before
  AUDIT=$SYP_CACHE/k8s-audit-$$
  tests/testbed/k8s.sh audit "$NAME" >"$AUDIT"
  SYP_K8S_AUDIT=$AUDIT suites k8s_rights
  cargo test --locked --offline -p syp-tests --test kind -- --nocapture
  cargo test --locked --offline -p syp-tests --test crash_kind -- --nocapture
}
main "$@"
