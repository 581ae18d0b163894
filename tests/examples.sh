#!/usr/bin/env bash
# The examples, for real: tests/examples.sh [PATTERN]     only tests whose name is like PATTERN: 'client-go*'
#
# Brings what they need (Python packages, Node, Go, Rust, the test issuer; all into the cache folder), runs the wrapper's own tests, then starts an engine
# of its own and lets the clients, the wrapper and the instance files loose on it. The last line is 'N passed, N failed' (with
# ', N skipped' when something was); under CI=true a skip for want of something is a failure.
# SYP_TEST_SYPCTL says which sypctl (with syp-gate beside it), SYP_TEST_DOCKER=0 leaves out what needs Docker.
# the tests are called by name, and what is set in ensure_... is used in them
# shellcheck disable=SC2317,SC2154
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=../examples/clients/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/../examples/clients/common.sh"
cd "$SYP_ROOT" || exit 1

WRAPPER=$SYP_ROOT/examples/python-wrapper
ONLY=${1:-*}
PASSED=0 FAILED=0 SKIPPED=0
TMP=$(mktemp -d)
ENGINE='' ISSUER_PID=''
RUNNING=()
SYPCTL=${SYP_TEST_SYPCTL:-$SYP_CACHE/bin/sypctl}
unset SYPCTL_SERVER SYPCTL_TOKEN SYPCTL_APP_TOKEN SYP_SERVER SYP_TOKEN WRAPPER_CONFIG PORT
export SYP_DATA_DIR=$TMP/data XDG_DATA_HOME=$TMP/share

# === counting ===

pass() { PASSED=$((PASSED + 1)); }
fail() {
  FAILED=$((FAILED + 1))
  say "FAILED: $*"
}
# skip WHAT WHY: something the machine lacks
skip() {
  if [ "${CI:-}" = true ]; then
    fail "$1 can't be left out under CI=true: $2"
  else
    SKIPPED=$((SKIPPED + 1))
    say "SKIPPED SKIPPED SKIPPED: $1: $2"
  fi
}
# begin NAME CMD...: a test, beside the others that are under way; its talk is shown when it fails.
begin() {
  local name=$1
  shift
  # a pattern
  # shellcheck disable=SC2053
  [[ $name == $ONLY ]] || return 0
  (
    exec 8>&-
    t=$EPOCHSECONDS
    "$@"
    rc=$?
    echo "$rc $((EPOCHSECONDS - t))" >"$TMP/$name.rc"
  ) >"$TMP/$name.log" 2>&1 </dev/null &
  RUNNING+=("$name $!")
}
# end: waits for them and counts. A log with unittest's own count is so many tests.
end() {
  local each name rc seconds ran bad
  for each in "${RUNNING[@]}"; do
    name=${each% *}
    wait "${each##* }"
    rc=1 seconds='?'
    read -r rc seconds <"$TMP/$name.rc"
    ran=$(sed -n 's/^Ran \([0-9]*\) tests\{0,1\} in .*/\1/p' "$TMP/$name.log" | tail -n 1)
    if [ -n "$ran" ]; then
      # FAILED (failures=1, errors=2)
      bad=$(grep -E '^(OK|FAILED)' "$TMP/$name.log" | tail -n 1 | grep -oE '(failures|errors|skipped|unexpected successes)=[0-9]+' | awk -F= '{ n += $2 } END { print n + 0 }')
      if [ "$rc" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
      if [ "$ran" = 0 ]; then bad=1; fi
      PASSED=$((PASSED + ran - bad)) FAILED=$((FAILED + bad))
      say "$name: $ran tests, $bad failed (${seconds} s)"
    elif [ "$rc" = 0 ]; then
      pass
      say "$name: ok (${seconds} s)"
    else
      fail "$name (code $rc, ${seconds} s)"
    fi
    if [ "$rc" != 0 ]; then sed 's/^/    /' "$TMP/$name.log" >&2; fi
  done
  RUNNING=()
}

finish() {
  trap '' INT TERM EXIT
  stop_engine
  # only where it was made
  docker rmi "syp-example/slow-$$:latest" >/dev/null 2>&1
  rm -rf "$TMP"
  say "summary of the examples"
  if [ "$SKIPPED" -gt 0 ]; then
    echo "$PASSED passed, $FAILED failed, $SKIPPED skipped"
  else
    echo "$PASSED passed, $FAILED failed"
  fi
  [ "$FAILED" = 0 ] && exit 0
  exit 1
}
trap finish EXIT
trap 'fail "interrupted"; exit 1' INT TERM

# is WHAT WANTED GOT; has TEXT PART
is() { [ "$2" = "$3" ] || { echo "$1 is '$3' and not '$2'"; return 1; }; }
has() {
  case $1 in *"$2"*) ;; *)
    printf "no '%s' in:\n%s\n" "$2" "$1"
    return 1
    ;;
  esac
}

# === what needs no engine ===

# wrapper_tests PYTHON
wrapper_tests() { cd "$WRAPPER" && PYTHONDONTWRITEBYTECODE=1 "$1" -W error -m unittest discover -t . -s tests; }
# The same with what Debian or Ubuntu has, in the image that is served.
wrapper_tests_in_image() {
  docker run --rm --name "syp-example-tests-$$" --network none --read-only --tmpfs /tmp -v "$WRAPPER/tests:/app/tests:ro" \
    syp-example/python-wrapper:latest python3 -m unittest discover -t . -s tests
}
# Formatting, lint, types.
python_style() {
  local bin=$1
  export MYPY_CACHE_DIR=$MADE/mypy RUFF_CACHE_DIR=$MADE/ruff
  "$bin/ruff" check --config "$WRAPPER/pyproject.toml" "$WRAPPER" "$CLIENTS/python" &&
    "$bin/ruff" format --check --config "$WRAPPER/pyproject.toml" "$WRAPPER" "$CLIENTS/python" &&
    cd "$WRAPPER" && "$bin/mypy" syp_wrapper app.py
}
go_style() { is "what gofmt would change" '' "$(gofmt -l "$CLIENTS/go")"; }
rust_style() { cd "$CLIENTS/rust" && cargo fmt --check -- --config-path "$SYP_ROOT/rustfmt.toml"; }
# What the Dockerfile takes is there, and .dockerignore lets it in.
dockerfile() {
  local f n=0
  for f in $(sed -n 's/^COPY \(.*\) [^ ]*$/\1/p' "$WRAPPER/Dockerfile"); do
    n=$((n + 1))
    [ -e "$WRAPPER/$f" ] && grep -qx "!$f" "$WRAPPER/.dockerignore" || { echo "$f"; return 1; }
  done
  is "the number of files it takes" 4 "$n"
}

# The Dockerfile makes the image; here over a base that asks no package index.
dockerfile_builds() {
  local image=syp-example/by-dockerfile-$$:latest base rc=0
  base=$(docker images --format '{{.Repository}}:{{.Tag}}' syp-example/python-base | head -n 1)
  DOCKER_BUILDKIT=0 docker build --network none --pull=false --build-arg "BASE=$base" -t "$image" "$WRAPPER" || return 1
  is "what it says" 'app:greet at POST /: name, times' "$(docker run --rm --network none "$image" python3 -m syp_wrapper --check)" || rc=1
  docker rmi "$image" >/dev/null
  return "$rc"
}

# yaml [--ask] FILE...
yaml() { PYTHONPATH=$PYTHON_GEN:$CLIENTS/python PYTHONDONTWRITEBYTECODE=1 "$PYTHON" "$CLIENTS/python/check_yaml.py" "$@"; }
samples() { yaml "$@" "$SYP_ROOT"/examples/yaml/*.yaml "$SYP_ROOT"/examples/yaml/*/*.yaml; }
# A mistake in each would be found.
samples_with_mistakes() {
  local bad=$TMP/mistakes full=$SYP_ROOT/examples/yaml/full.yaml f out
  mkdir "$bad"
  sed 's/^  port:/  prt:/' "$full" >"$bad/key.yaml"
  sed 's/drainGrace/drain_grace/' "$full" >"$bad/name.yaml"
  sed 's/"OFF"/OFF/' "$full" >"$bad/boolean.yaml"
  sed 's/28800s/8h/' "$full" >"$bad/duration.yaml"
  sed 's/ENFORCED/FORCED/' "$full" >"$bad/enum.yaml"
  sed 's/^  port: .*/&\n&/' "$full" >"$bad/twice.yaml"
  sed 's/^kind: .*/kind: Service/' "$full" >"$bad/kind.yaml"
  sed 's/^labels:/tags:/' "$full" >"$bad/top.yaml"
  sed 's/^labels:/allow: ["user:a@x.org"]\n&/' "$full" >"$bad/both.yaml"
  sed '/^  image:/d' "$full" >"$bad/missing.yaml"
  for f in "$bad"/*.yaml; do
    if out=$(yaml "$f" 2>&1); then
      echo "$(basename "$f") was taken"
      return 1
    fi
    has "$out" "$(basename "$f"): " || return 1
  done
}

# The engine would take them, and not one that says too much.
samples_asked() {
  samples --ask || return 1
  sed 's/^  target: .*/  target: nowhere/' "$SYP_ROOT/examples/yaml/minimal.yaml" >"$TMP/nowhere.yaml"
  fails 'reason: ' -- yaml --ask "$TMP/nowhere.yaml"
}

# Applied they serve, and applied again nothing happens.
samples_applied() {
  local out alice mallory at name
  "$SYPCTL" apply -f examples/yaml -f examples/yaml/two --yes >/dev/null || return 1
  for name in minimal full greet hello; do
    is "the state of $name" SERVING "$("$SYPCTL" show "$name" -o json | field '["state"]')" || return 1
  done
  out=$("$SYPCTL" apply -f examples/yaml -f examples/yaml/two --plan -o json) || return 1
  is "what a second time changes" '[True, True, True, True]' "$(field '["plans"]' <<<"$out" | "$PYTHON" -c 'import ast, sys; print([p.get("noChange") for p in ast.literal_eval(sys.stdin.read())])')" || return 1
  # full: Alice is let in and greeted as its variables say, Mallory is not
  at=$(endpoint full) && alice=$("$SYPCTL" token full --as user:alice@example.com) && mallory=$("$SYPCTL" token full --as user:mallory@example.com) || return 1
  has "$(json -d '{"name": "Ada"}' -H "authorization: Bearer $alice" "$at/")" 'Welcome, Ada!' || return 1
  has "$(json -d '{"name": "Ada"}' -H "authorization: Bearer $mallory" "$at/")" ' 403' || return 1
  "$SYPCTL" down minimal full greet hello --yes >/dev/null
}

# === the engine ===

free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# wait_for PID CMD...: until CMD succeeds, while the process lives, two minutes at most.
wait_for() {
  local pid=$1 end=$((EPOCHSECONDS + 120))
  shift
  while [ "$EPOCHSECONDS" -lt "$end" ]; do
    if "$@" >/dev/null 2>&1; then return 0; fi
    kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

# An identity provider, for who comes over the network.
start_issuer() {
  local port
  port=$(free_port)
  (cd "$SYP_TEST_OIDC_DIR" && PORT=$port exec "$SYP_TEST_NODE" server.mjs) >"$TMP/issuer.log" 2>&1 </dev/null 8>&- &
  ISSUER_PID=$!
  ISSUER=http://127.0.0.1:$port
  wait_for "$ISSUER_PID" curl -fsS -m 5 "$ISSUER/admin/state" || { tail -n 5 "$TMP/issuer.log" >&2; return 1; }
}
# provider_token AUDIENCE: Alice's
provider_token() {
  curl -fsS -m 10 -d "{\"alg\": \"ES256\", \"claims\": {\"sub\": \"u-alice\", \"email\": \"alice@example.com\", \"email_verified\": true, \"aud\": \"$1\"}}" \
    "$ISSUER/admin/mint" | field '["token"]'
}

# On its socket and, with TLS, on a port of loopback.
start_engine() {
  local ec=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2) port
  openssl req -x509 -subj '/CN=syp example authority' -out "$TMP/ca.pem" -keyout "$TMP/ca.key" "${ec[@]}" 2>/dev/null &&
    openssl req -x509 -subj '/CN=syp example engine' -out "$TMP/cert.pem" -keyout "$TMP/key.pem" "${ec[@]}" -CA "$TMP/ca.pem" -CAkey "$TMP/ca.key" \
      -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2>/dev/null || { say "no certificate"; return 1; }
  port=$(free_port)
  TLS_SERVER=https://127.0.0.1:$port
  mkdir -m 700 "$SYP_DATA_DIR"
  run_engine
}
run_engine() {
  "$SYPCTL" server run --listen "${TLS_SERVER#https://}" --tls-cert "$TMP/cert.pem" --tls-key "$TMP/key.pem" \
    --issuer "$ISSUER" --audience syp-apps --admin user:alice@example.com >>"$TMP/engine.log" 2>&1 </dev/null 8>&- &
  ENGINE=$!
  wait_for "$ENGINE" "$SYPCTL" server status || { tail -n 5 "$TMP/engine.log" >&2; return 1; }
}
stop_engine() {
  [ -z "$ENGINE" ] || "$SYPCTL" down --all --yes --timeout 60s >/dev/null 2>&1
  local pid
  for pid in $ENGINE $ISSUER_PID; do
    kill "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
  done
  ENGINE='' ISSUER_PID=''
}
nothing_left() {
  local store filter left
  store=$("$SYPCTL" server status -o json | field '["storeId"]') || return 1
  filter=label=syp.dev/store=$store
  left=$(docker ps -aq --filter "$filter" && docker network ls -q --filter "$filter" && docker volume ls -q --filter "$filter") || return 1
  is "what is left on the Docker engine" '' "$left"
}

# === the clients ===

client() {
  local language=$1
  shift
  timeout 120 "$CLIENTS/$language/run" "$@"
}
# The whole way: what it prints is what happened.
whole_way() {
  local out=$1 name=$2
  printf '%s\n' "$out"
  has "$out" "creating projects/default/instances/$name@" && has "$out" 'serving at http://127.0.0.1:' &&
    has "$out" 'without a token: 401' && has "$out" 'with a token: 200' && has "$out" 'destroying ' || return 1
  # steps are seen while they run, on the way up and on the way down
  has "$(sed '/^destroying/,$d' <<<"$out")" ' running' && has "$(sed '/^destroying/,$d' <<<"$out")" ' succeeded' &&
    has "$(sed '1,/^destroying/d' <<<"$out")" ' succeeded' || return 1
  local created gone left
  read -r created gone left < <(sed -n 's/^receipt: \([0-9]*\) created, \([0-9]*\) verified gone, \([0-9]*\) left$/\1 \2 \3/p' <<<"$out")
  [ "${created:-0}" -gt 0 ] && is "what was verified gone" "$created" "$gone" && is "what is left" 0 "$left"
}
client_on_socket() {
  local out
  out=$(client "$1" "$1") || { printf '%s\n' "$out"; return 1; }
  whole_way "$out" "$1"
}
# With TLS and a provider's tokens, as from another machine.
client_over_tls() {
  local out token app
  token=$(provider_token syp-api) && app=$(provider_token syp-apps) || return 1
  out=$(SYPCTL_SERVER=$TLS_SERVER SYPCTL_TOKEN=$token SYPCTL_APP_TOKEN=$app SYP_DATA_DIR=$TMP/none client "$1" --ca-file "$TMP/ca.pem" "$1-tls") ||
    { printf '%s\n' "$out"; return 1; }
  whole_way "$out" "$1-tls"
}
# The engine is killed while a client watches: with the next one the watch goes on, and so does the work.
client_over_restart() {
  local out
  client "$1" --image "syp-example/slow-$$:latest" "$1-slow" 2>&1 | tee "$TMP/$1-slow.out" >/dev/null
  out=$(cat "$TMP/$1-slow.out")
  whole_way "$out" "$1-slow"
}
# An image that takes its time to listen.
make_slow() {
  local id
  id=$(docker create syp-example/python-wrapper:latest) || return 1
  docker commit -c 'ENV WRAPPER_METHOD=GET' -c 'ENV WRAPPER_CALLABLE=platform:node' \
    -c 'CMD ["python3","-c","import time, runpy; time.sleep(12); runpy.run_module(\"syp_wrapper\", run_name=\"__main__\")"]' "$id" "syp-example/slow-$$:latest" >/dev/null
  docker rm "$id" >/dev/null
}
# When all clients see the slow app being waited for.
kill_engine() {
  local l all='' end=$((EPOCHSECONDS + 120))
  while [ "$EPOCHSECONDS" -lt "$end" ]; do
    all=1
    for l in "$@"; do grep -q 'step probe *running' "$TMP/$l-slow.out" 2>/dev/null || all=; done
    [ -z "$all" ] || break
    sleep 0.1
  done
  [ -n "$all" ] || { say "no client waits for the slow app"; return 1; }
  kill -9 "$ENGINE"
  wait "$ENGINE" 2>/dev/null
  run_engine
}

# fails PART... -- CMD...: it must fail, and say these
fails() {
  local parts=() out
  while [ "$1" != -- ]; do parts+=("$1"); shift; done
  shift
  if out=$("$@" 2>&1); then
    printf 'it did not fail: %s\n%s\n' "$*" "$out"
    return 1
  fi
  local p
  for p in "${parts[@]}"; do has "$out" "$p" || return 1; done
}
# Every error has its reason: a bad request, a bad token, a server that is not trusted, one that would see the token in clear, an
# instance that does not come up and is taken away all the same.
client_errors() {
  export SYPCTL_TOKEN=
  fails 'reason: INVALID_ARGUMENT' -- client "$1" Bad_Name || return 1
  SYPCTL_TOKEN=not.a.token fails 'reason: TOKEN_' -- client "$1" never || return 1
  SYPCTL_SERVER=$TLS_SERVER SYPCTL_TOKEN=x fails 'error: ' -- client "$1" never || return 1
  SYPCTL_SERVER=http://127.0.0.1:1 SYPCTL_TOKEN=x fails 'neither unix:/PATH nor https://HOST:PORT' -- client "$1" never || return 1
  fails 'reason: PORT_NOT_LISTENING' 'destroying' -- client "$1" --port 9999 "$1-wrong" || return 1
}

# === the wrapper, served ===

# http ARGS...: status and body in one line
http() { curl -sS -m 20 -w ' %{http_code}' "$@"; }
json() { http -H 'content-type: application/json' "$@"; }
up() {
  local name=$1
  shift
  "$SYPCTL" up "$name" --image syp-example/python-wrapper:latest --port 8080 --on docker --probe /healthz --yes "$@"
}
endpoint() { "$SYPCTL" show "$1" -o json | field '["endpoint"]'; }
# field EXPRESSION: of the JSON on stdin
field() { "$PYTHON" -c "import json, sys; print(json.load(sys.stdin)$1)"; }

wrapper_served() {
  local at ada bob
  up wrapped --env GREETING=Salut --allow user:ada@example.com >/dev/null || return 1
  at=$(endpoint wrapped) && ada=$("$SYPCTL" token wrapped --as user:ada@example.com) && bob=$("$SYPCTL" token wrapped --as user:bob@example.com) || return 1
  ada="authorization: Bearer $ada" bob="authorization: Bearer $bob"
  has "$(json -d '{"name": "Ada"}' "$at/")" ' 401' || return 1
  has "$(json -d '{"name": "Ada"}' -H "$bob" "$at/")" ' 403' || return 1
  is "the answer" '{"greeting":"Salut, Ada!","you":"ada@example.com"} 200' "$(json -d '{"name": "Ada"}' -H "$ada" "$at/")" || return 1
  # as the README has it
  is "the answer" '{"greeting":"Salut, Ada!","you":"ada@example.com"}' \
    "$("$SYPCTL" curl wrapped / --as user:ada@example.com -d '{"name": "Ada"}' -H 'content-type: application/json')" || return 1
  # nobody says who they are but the gate
  is "the answer" '{"greeting":"Salut, Eve!","you":"ada@example.com"} 200' \
    "$(json -d '{"name": "Eve"}' -H "$ada" -H 'x-syp-user: eve@example.com' -H 'x_syp_user: eve@example.com' "$at/")" || return 1
  has "$(json -d '{"name": 1}' -H "$ada" "$at/")" '"reason":"ARGUMENT_INVALID"' || return 1
  is "its health" '{"status":"ok"} 200' "$(http -H "$ada" "$at/healthz")" || return 1
  # the request's line in the log knows its caller
  has "$("$SYPCTL" logs wrapped)" '"user": "ada@example.com"' || return 1
  "$SYPCTL" down wrapped --yes >/dev/null && "$SYPCTL" receipt wrapped --verify >/dev/null
}
wrapper_streams() {
  local at token
  up counts --env WRAPPER_CALLABLE=app:count >/dev/null || return 1
  at=$(endpoint counts) && token=$("$SYPCTL" token counts) || return 1
  is "the stream" '{"n":1}|{"n":2}| 200' "$(json -N -d '{"to": 2}' -H "authorization: Bearer $token" "$at/" | tr '\n' '|')" || return 1
  is "the events" 'data: {"n":1}|| 200' "$(json -N -d '{"to": 1}' -H 'accept: text/event-stream' -H "authorization: Bearer $token" "$at/" | tr '\n' '|')" || return 1
  "$SYPCTL" down counts --yes >/dev/null
}
# What is wrong in its configuration is said to who runs `up`.
wrapper_refused() {
  fails "WRAPPER_TIMEOUT must be a number of seconds from 0.01 to 86400, not 'soon'" -- up wrong --env WRAPPER_TIMEOUT=soon
}
# another folder, with a program of its own
wrapper_of_others() {
  mkdir "$TMP/other"
  echo 'callable = "own:double"' >"$TMP/other/wrapper.toml"
  printf 'def double(n: int) -> int:\n    return 2 * n\n' >"$TMP/other/own.py"
  "$WRAPPER/build.sh" "$TMP/other" "syp-example/other-$$:latest" || return 1
  local rc=0
  is "what it says" 'own:double at POST /: n' "$(docker run --rm --network none "syp-example/other-$$:latest" python3 -m syp_wrapper --check)" || rc=1
  docker rmi "syp-example/other-$$:latest" >/dev/null
  return "$rc"
}

# === main ===

main() {
  local languages=() l docker=1 bin
  if command -v python3 >/dev/null && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    skip "the examples" "they need Python 3.11 or later (Debian 12, Ubuntu 24.04)"
    return
  fi
  if ! ensure_python_client || ! venv "$MADE/wrapper-$(key "$WRAPPER"/requirements*.txt)" "$WRAPPER/requirements-dev.txt"; then
    skip "the Python examples, and all that need protoc" "no Python packages"
    return
  fi
  bin=$MADE/wrapper-$(key "$WRAPPER"/requirements*.txt)/bin
  languages=(python)
  if ensure_typescript_client; then languages+=(typescript); else skip "the TypeScript client" "no Node >= 20, or it does not build"; fi
  if ensure_go_client; then languages+=(go) && begin go-style go_style; else skip "the Go client" "no Go, or it does not build"; fi
  if ensure_rust_client; then languages+=(rust) && begin rust-style rust_style; else skip "the Rust client" "no Rust, or it does not build"; fi
  made

  begin dockerfile dockerfile
  begin python-style python_style "$bin"
  begin instance-files samples
  begin instance-files-with-mistakes samples_with_mistakes
  end
  begin wrapper-tests wrapper_tests "$bin/python"

  if [ "${SYP_TEST_DOCKER:-1}" = 0 ]; then
    SKIPPED=$((SKIPPED + 1))
    docker=
    say "SKIPPED SKIPPED SKIPPED: what the examples do on Docker"
  elif ! have_docker || ! ensure_docker_cli || ! ensure_curl; then
    docker=
    skip "what the examples do on Docker" "no Docker engine answers"
  elif [ ! -x "$SYPCTL" ]; then
    docker=
    fail "there is no sypctl at $SYPCTL: ./quickstart or ./test builds it"
  elif ! examples/hello/build.sh || ! "$WRAPPER/build.sh"; then
    docker=
    fail "the images of the examples can't be made"
  elif ! command -v openssl >/dev/null && ! apt_install openssl; then
    docker=
    fail "openssl is needed"
  elif ! ensure_issuer || ! start_issuer; then
    docker=
    skip "what the examples do on Docker" "no Node >= 20 or no npm packages for the test issuer"
  elif ! start_engine; then
    docker=
    fail "the engine does not start"
  fi
  if [ -n "$docker" ]; then
    for l in "${languages[@]}"; do begin "client-$l-socket" client_on_socket "$l"; done
    begin wrapper-served wrapper_served
    begin wrapper-streams wrapper_streams
    end
    # these mostly wait
    for l in "${languages[@]}"; do begin "client-$l-errors" client_errors "$l"; done
    begin wrapper-refused wrapper_refused
    begin wrapper-tests-in-image wrapper_tests_in_image
    for l in "${languages[@]}"; do begin "client-$l-tls" client_over_tls "$l"; done
    end
    # shellcheck disable=SC2053
    if [[ client-go-restart == $ONLY ]]; then
      make_slow || fail "the slow image can't be made"
      for l in "${languages[@]}"; do begin "client-$l-restart" client_over_restart "$l"; done
      kill_engine "${languages[@]}" || fail "the engine could not be killed and started in the middle"
      end
    fi
    begin wrapper-of-others wrapper_of_others
    begin dockerfile-builds dockerfile_builds
    begin instance-files-asked samples_asked
    begin instance-files-applied samples_applied
    end
    begin nothing-left nothing_left
  fi
  end
}
main
exit
