#!/usr/bin/env bash
# All tests that need no more than this machine's engine. Suites that have a bed of their own are left out: here they would pass
# without having looked at anything.
# tests/testbed/plain.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

tests=(cargo test --workspace --locked --no-fail-fast)
some=()
# a target's program carries its name
while read -r name; do
  case $name in
    long | conformance | k8s | k8s_* | kind | crash_k8s | crash_kind | aws | aws_* | crash_aws) ;;
    *) some+=(--test "$name") ;;
  esac
done < <("${tests[@]}" --no-run 2>&1 | sed -n 's/^ *Executable tests\/.*deps\/\(.*\)-[0-9a-f]*)$/\1/p')
[ "${#some[@]}" -gt 0 ] || { echo "error: no test programs are named" >&2; exit 1; }

rc=0
"${tests[@]}" --lib --bins "${some[@]}" || rc=$?
"${tests[@]}" --doc || rc=$?
"${tests[@]}" --test conformance -- --exact docker || rc=$?
exit "$rc"
