#!/usr/bin/env bash
# Emulators of AWS (ministack, moto), a proxy that breaks calls to them (microburst) and the linters of its templates and policies, from PyPI (pinned in aws/requirements.txt) in an environment of their own.
#   aws.sh programs    on stdout SYP_TEST_MINISTACK=, SYP_TEST_CFN_LINT= and SYP_TEST_PARLIAMENT=, a line each (a shell can eval it)
# Exit code 3: they can't be had here (the reason is the last line of talk).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LIST=$SYP_ROOT/tests/testbed/aws/requirements.txt
# another Python needs an environment of its own
DIR=$SYP_CACHE/aws/$( (cat "$LIST"; python3 --version 2>&1 || true) | sha256sum | cut -c1-12)

unavailable() {
  say "$*"
  exit 3
}

programs() {
  if [ ! -e "$DIR/.ready" ]; then
    command -v python3 >/dev/null || apt_install python3 || unavailable "python3 is needed for the emulator of AWS"
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv || unavailable "python3-venv is needed for the emulator of AWS"
    say "installing emulators of AWS and linters of its templates and policies into $DIR"
    rm -rf "$DIR"
    mkdir -p "${DIR%/*}"
    python3 -m venv "$DIR" >&2 || unavailable "python3 makes no environment here"
    "$DIR/bin/pip" install -q --disable-pip-version-check --no-deps -r "$LIST" >&2 || unavailable "their packages can't be had here"
    touch "$DIR/.ready"
  fi
  printf 'SYP_TEST_MINISTACK=%q\n' "$DIR/bin/ministack"
  printf 'SYP_TEST_CFN_LINT=%q\n' "$DIR/bin/cfn-lint"
  printf 'SYP_TEST_PARLIAMENT=%q\n' "$DIR/bin/parliament"
}

case ${1:-} in
  programs) programs ;;
  *) sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
