#!/usr/bin/env bash
# Images for a cluster, made of the programs alone: no base image, no registry.
#   deploy/image/build.sh engine IMAGE [SYPCTL]     the engine: sypctl, the libraries that it names, certificate authorities
#   deploy/image/build.sh gate IMAGE [SYP-GATE]     the gate; its name is what the engine is given as SYP_GATE_IMAGE
# Without a program it is built first (release). Then push it, or load it: 'kind load docker-image IMAGE'.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../tests/testbed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tests/testbed/lib.sh"

# who the engine is in its image; the chart says the same
ENGINE_USER=65532
ROOT=
trap '[ -z "$ROOT" ] || rm -rf "$ROOT"' EXIT

# program GIVEN NAME: the one that was given, or a new one
program() {
  if [ -n "$1" ]; then
    [ -x "$1" ] || die "$1 is no program that can be run"
    PROGRAM=$1
    return 0
  fi
  { ensure_rust && ensure_cc && build_binaries; } || die "$2 does not build here: the reason is above; a program that is there can be given as the last argument"
  PROGRAM=$SYP_CACHE/bin/$2
}

# libraries PROGRAM: those that it names, its loader included, where it looks for them; none for a static one
libraries() {
  local all lib
  # ldd fails for a static program
  all=$(ldd "$1" 2>/dev/null) || return 0
  case $all in *"not found"*) die "$1 does not run on this machine: $(grep -m 1 'not found' <<<"$all")" ;; esac
  # before 2.34 glibc has the parts that ask DNS in files of their own, and opens them by itself
  for lib in $(grep -oE '/[^ ]+' <<<"$all") /lib/*/libnss_{dns,files}.so.2; do
    [ ! -e "$lib" ] || install -D -m 755 "$lib" "$ROOT$lib"
  done
}

# image NAME CHANGE...: what is in ROOT
image() {
  local name=$1 changes=() c
  shift
  for c in "$@"; do changes+=(--change "$c"); done
  tar -C "$ROOT" --numeric-owner --owner=0 --group=0 --exclude=./data -cf "$ROOT.tar" .
  # the one place that the engine writes to
  [ ! -d "$ROOT/data" ] || tar -C "$ROOT" --numeric-owner --owner=$ENGINE_USER --group=$ENGINE_USER -rf "$ROOT.tar" ./data
  docker import "${changes[@]}" - "$name" <"$ROOT.tar" >/dev/null || die "the Docker engine did not take the image $name: its words are above"
  say "made $name ($(($(stat -c %s "$ROOT.tar") / 1048576)) MB)"
  rm -f "$ROOT.tar"
}

engine() {
  program "$2" sypctl
  install -D -m 755 "$PROGRAM" "$ROOT/usr/bin/sypctl"
  libraries "$PROGRAM"
  mkdir -p "$ROOT/etc/ssl/certs" "$ROOT/tmp"
  install -d -m 700 "$ROOT/data"
  chmod 1777 "$ROOT/tmp"
  echo "syp:x:$ENGINE_USER:$ENGINE_USER::/data:/" >"$ROOT/etc/passwd"
  echo "syp:x:$ENGINE_USER:" >"$ROOT/etc/group"
  echo "hosts: files dns" >"$ROOT/etc/nsswitch.conf"
  # for collectors of traces; issuers are tried by a list that is in the program
  if [ -e /etc/ssl/certs/ca-certificates.crt ]; then cp -L /etc/ssl/certs/ca-certificates.crt "$ROOT/etc/ssl/certs/"; fi
  image "$1" "USER $ENGINE_USER:$ENGINE_USER" "WORKDIR /data" "ENV PATH=/usr/bin" "ENV HOME=/data" "ENV SYP_DATA_DIR=/data/syp" \
    'ENTRYPOINT ["/usr/bin/sypctl"]' 'CMD ["server", "run"]'
}

# as the engine makes it for Docker: the program alone, and a place for its files
gate() {
  program "$2" syp-gate
  if ldd "$PROGRAM" 2>/dev/null | grep -q '=>'; then
    die "$PROGRAM is not static, and the gate's image has no libraries: build it with RUSTFLAGS='-C target-feature=+crt-static' and --target, or leave it away here"
  fi
  mkdir -p "$ROOT/etc/syp"
  install -m 755 "$PROGRAM" "$ROOT/syp-gate"
  image "$1"
}

case ${1:-}:$# in
  engine:[23] | gate:[23])
    ensure_docker_cli && have_docker || die "no Docker engine answers here, and it keeps the image"
    ROOT=$(mktemp -d)
    chmod 755 "$ROOT"
    "$1" "$2" "${3:-}"
    ;;
  *) sed -n '2,5s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
