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
  exit "$rc"
}

# Five clusters at once need more than most kernels give; it is put back at the end.
INOTIFY=
sysctl_inotify() { need_root_or_sudo "to let several clusters run at once" && echo "$1" | "${SUDO[@]}" tee /proc/sys/fs/inotify/max_user_instances >/dev/null; }

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
  cargo test --locked --offline -p syp-tests --test k8s --test k8s_cost --test k8s_pull --test k8s_namespace --test k8s_plan --test k8s_troubles --test k8s_ways_in --no-fail-fast -- --nocapture
  cargo test --locked --offline -p syp-tests --test kind -- --nocapture
  cargo test --locked --offline -p syp-tests --test crash_kind -- --nocapture
}
main "$@"
