#!/usr/bin/env bash
# The conformance suite of the docker target on another container engine, in a network namespace of its own beside this machine's.
# tests/testbed/engines.sh current|podman    exit code 3: that engine can't be had here (the reason is the last line of talk)
#
#   current   a Docker Engine of the 29 generation with its containerd and runc, built from Go modules (pinned in engines/)
#   podman    Debian's or Ubuntu's podman behind its Docker API
#
# Needs root, the engine of this machine (for the test images), sypctl and syp-gate (SYP_TEST_SYPCTL, SYP_TEST_GATE).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/testbed/lib.sh
. tests/testbed/lib.sh

HERE=$PWD/tests/testbed/engines
IMAGES=(syp-test/hello syp-test/crash)
DIR=
NETNS=syp-engine-$$
PIDS=()

unavailable() {
  say "$*"
  exit 3
}

# Ends what was started here, in the reverse order, and removes what it left.
finish() {
  local rc=$? i
  trap - EXIT INT TERM
  [ -z "$DIR" ] || docker -H "unix://$DIR/sock" ps -aq 2>/dev/null | xargs -r docker -H "unix://$DIR/sock" rm -f >/dev/null 2>&1 || true
  for ((i = ${#PIDS[@]} - 1; i >= 0; i--)); do stop "${PIDS[i]}"; done
  ip netns del "$NETNS" 2>/dev/null || true
  if [ -n "$DIR" ]; then
    # mounts of containers that were killed
    awk -v d="$DIR/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true
    rm -rf "$DIR"
  fi
  exit "$rc"
}

stop() {
  local i
  kill "$1" 2>/dev/null || return 0
  for ((i = 0; i < 150; i++)); do
    kill -0 "$1" 2>/dev/null || return 0
    sleep 0.2
  done
  kill -9 "$1" 2>/dev/null || true
}

# daemon LOG CMD...: in the namespace and the background; the process itself is kept, not a shell around it
daemon() {
  local log=$1
  shift
  nsenter --net="/run/netns/$NETNS" "$@" >"$log" 2>&1 </dev/null &
  PIDS+=($!)
}

# === current ===

# build MODULE TAGS CGO PACKAGE...: into BIN
build() {
  local module=$1 tags=$2 cgo=$3 ld="-s -w"
  shift 3
  [ "$module" != moby ] || ld="$ld -X github.com/moby/moby/v2/dockerversion.Version=29-testbed"
  say "building $module"
  (cd "$HERE/$module" && CGO_ENABLED=$cgo go build -mod=readonly -trimpath -tags "$tags" -ldflags "$ld" -o "$BIN/" "$@")
}

current() {
  local key
  key=$(cat "$HERE"/*/go.mod "$HERE"/*/tools.go | sha256sum | cut -c1-12)
  BIN=$SYP_CACHE/engines/$key
  if [ ! -e "$BIN/whole" ]; then
    ensure_go 1.26 || unavailable "a current Docker Engine is built with Go 1.26, and there is none and no way to get it"
    apt_install libseccomp-dev pkg-config gcc libc6-dev || unavailable "runc is built with gcc and libseccomp-dev"
    mkdir -p "$BIN"
    # the caches of this build are larger than all the rest: they go with it
    local caches
    caches=$(mktemp -d "$SYP_CACHE/go.XXXXXX")
    export GOMODCACHE=$caches/mod GOCACHE=$caches/build GOFLAGS=-modcacherw GOTOOLCHAIN=local
    build moby "" 0 github.com/moby/moby/v2/cmd/dockerd github.com/moby/moby/v2/cmd/docker-proxy &&
      build containerd "" 0 github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 &&
      build runc seccomp 1 github.com/opencontainers/runc ||
      { rm -rf "$caches"; unavailable "the engine does not build here"; }
    rm -rf "$caches"
    touch "$BIN/whole"
  fi
  cat >"$DIR/containerd.toml" <<T
version = 3
root = "$DIR/containerd"
state = "$DIR/containerd-run"
[grpc]
  address = "$DIR/containerd.sock"
[ttrpc]
  address = "$DIR/containerd.sock.ttrpc"
T
  PATH=$BIN:$PATH
  daemon "$DIR/containerd.log" containerd --config "$DIR/containerd.toml"
  local i
  for ((i = 0; i < 100; i++)); do
    [ ! -S "$DIR/containerd.sock" ] || break
    sleep 0.1
  done
  daemon "$DIR/log" dockerd --containerd "$DIR/containerd.sock" --data-root "$DIR/data" --exec-root "$DIR/run" \
    --pidfile "$DIR/pid" --host "unix://$DIR/sock" --bridge none
}

# === podman ===

podman_engine() {
  apt_install podman netavark aardvark-dns containernetworking-plugins || unavailable "no podman package here"
  # what this machine's limits allow, and a cgroup manager that needs no systemd
  cat >"$DIR/containers.conf" <<T
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
T
  printf '[storage]\ndriver = "overlay"\nrunroot = "%s/run"\ngraphroot = "%s/data"\n' "$DIR" "$DIR" >"$DIR/storage.conf"
  export CONTAINERS_CONF=$DIR/containers.conf CONTAINERS_STORAGE_CONF=$DIR/storage.conf
  daemon "$DIR/log" podman system service -t 0 "unix://$DIR/sock"
}

# === main ===

main() {
  local i version
  case ${1:-} in current | podman) ;; *) die "usage: engines.sh current|podman" ;; esac
  [ "$(id -u)" = 0 ] || unavailable "only root can run another container engine beside this machine's"
  : "${SYP_TEST_SYPCTL:?}" "${SYP_TEST_GATE:?}"
  have_docker || unavailable "no Docker engine answers here, and the test images come from it"
  trap finish EXIT
  trap 'exit 130' INT TERM
  # short: paths of sockets have a limit
  DIR=$(mktemp -d /tmp/syp-engine-XXXXXX)
  ip netns add "$NETNS"
  ip -n "$NETNS" link set lo up
  case $1 in current) current ;; podman) podman_engine ;; esac
  for ((i = 0; i < 150; i++)); do
    version=$(docker -H "unix://$DIR/sock" version --format '{{.Server.Version}} (API {{.Server.APIVersion}})' 2>/dev/null) && break
    sleep 0.2
  done
  [ -n "${version:-}" ] || { tail -n 10 "$DIR/log" >&2; unavailable "the engine '$1' does not answer within 30 s"; }
  say "$1 $version answers"
  docker save "${IMAGES[@]}" | docker -H "unix://$DIR/sock" load >&2
  DOCKER_HOST=unix://$DIR/sock SYP_TEST_DOCKER=1 nsenter --net="/run/netns/$NETNS" cargo test --workspace --locked --offline --test conformance -- --nocapture
}
main "$@"
