#!/usr/bin/env bash
# Upgrades a real engine of a former commit, with instances that serve, to the one of this checkout (after ./quickstart or ./test).
# tests/upgrade.sh COMMIT
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/testbed/lib.sh
. tests/testbed/lib.sh
commit=$(git rev-parse --verify "${1:?which former commit?}^{commit}")
former=$SYP_CACHE/former/$commit
if [ ! -x "$former/sypctl" ]; then
  say "building $commit (some minutes the first time)"
  tree=$(mktemp -d)
  trap 'git worktree remove --force "$tree"' EXIT
  git worktree add -q --detach "$tree" "$commit"
  target=$SYP_CACHE/former/target
  (cd "$tree" && CARGO_TARGET_DIR=$target cargo build -q --locked -p sypctl &&
    CARGO_TARGET_DIR=$target RUSTFLAGS="-C target-feature=+crt-static" \
      cargo build -q --locked --target "$(uname -m)-unknown-linux-gnu" -p syp-gate)
  mkdir -p "$former"
  cp "$target/debug/sypctl" "$target/$(uname -m)-unknown-linux-gnu/debug/syp-gate" "$former/"
fi
bin=$SYP_CACHE/bin
SYP_TEST_FORMER=$former/sypctl SYP_TEST_DOCKER=1 SYP_TEST_SYPCTL=$bin/sypctl SYP_TEST_GATE=$bin/syp-gate \
  cargo test -q --locked -p syp-tests --test upkeep upgraded -- --nocapture
