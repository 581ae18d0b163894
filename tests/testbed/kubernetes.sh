#!/usr/bin/env bash
# The conformance suite of the targets k8s (a real kind cluster that is made for it and goes with it), kind and kind-ingress (clusters
# that the engine makes), and what is particular to each.
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

# suite NAME [FILTER...]: its output comes in one piece, since others run beside it. Of the workspace, not of a package alone: that
# would be built with other features, once more.
suite() {
  local name=$1 out t=$EPOCHSECONDS rc=0
  shift
  out=$(mktemp "$SYP_CACHE/suite.XXXXXX")
  cargo test --workspace --locked --offline --test "$name" -- --nocapture "$@" >"$out" 2>&1 || rc=$?
  {
    flock 8
    say "-- $name: $([ "$rc" = 0 ] && echo ok || echo "code $rc"), $((EPOCHSECONDS - t)) s"
    cat "$out"
  } 8>"$SYP_CACHE/suite.lock"
  rm -f "$out"
  return "$rc"
}

# lane NAME...: one after the other, whatever another one does
lane() {
  local s failed=0
  for s in "$@"; do
    case $s in
      conformance_k8s) suite conformance --exact k8s ;;
      conformance_kind) suite conformance --exact kind kind_ingress ;;
      crash_kind) suite crash_kind --test-threads 2 ;;
      # a hundred take a quarter of an hour: BENCHMARKS.md has them
      k8s_many) SYP_TEST_MANY=25 suite k8s_many ;;
      # one of them takes the network away
      k8s_troubles) suite k8s_troubles --test-threads 1 ;;
      *) suite "$s" ;;
    esac || failed=1
  done
  return "$failed"
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
  # only on Debian and Ubuntu; the suite that needs it says that it is skipped
  if said=$(tests/testbed/k8s.sh prometheus); then
    eval "$said"
    export SYP_TEST_PROMETHEUS SYP_TEST_PROMETHEUS_ADAPTER
  elif [ "${CI:-}" = true ]; then
    die "no Prometheus: k8s_requests can't run"
  fi
  export PATH=$SYP_K8S_BIN:$PATH SYP_KIND_NODE_IMAGE SYP_KIND_INGRESS_IMAGE SYP_TEST_KIND=1
  export KUBECONFIG SYP_K8S_KUBECTL SYP_TEST_K8S=1 SYP_TEST_DOCKER=1 SYP_GATE_IMAGE=docker.io/library/$GATE
  # They wait, much of the time, but two cores can't carry more: who makes clusters makes them beside who uses this one.
  local lanes=() pid failed=0
  lane conformance_kind kind crash_kind k8s_requests k8s_isolation k8s_life k8s_pods &
  lanes+=($!)
  lane conformance_k8s k8s k8s_cost k8s_plan k8s_namespace k8s_ways_in k8s_scale k8s_drift crash_k8s k8s_pull &
  lanes+=($!)
  for pid in "${lanes[@]}"; do wait "$pid" || failed=1; done
  # many at once, and what takes the network from a node that all others use
  lane k8s_many k8s_troubles || failed=1
  [ "$failed" = 0 ] || return 1
  # of all that came before
  AUDIT=$SYP_CACHE/k8s-audit-$$
  tests/testbed/k8s.sh audit "$NAME" >"$AUDIT"
  SYP_K8S_AUDIT=$AUDIT lane k8s_rights
}
main "$@"
