#!/usr/bin/env bash
# benches/gate_vs_nginx.sh: the gate with cached tokens against nginx as a plain reverse proxy without any authentication.
#
# Both stand in front of the same upstream (another nginx with a small static answer), in the same run, with the same number of
# workers on the same cores, and keep their connections to it. Rounds alternate; the medians are compared. Prints a table on
# stdout, everything else on stderr. Exit 0: all goals met; 1: one is missed; 2: it could not be measured.
#
#   ROUNDS=5 SECONDS_EACH=5 CONNECTIONS=64 WORKERS=1 ANSWER_BYTES=1024 LOG=on benches/gate_vs_nginx.sh
#
# WORKERS: the proxies get the first so many cores, load and upstream the others (all share when there are no others).
# LOG=on: both write an access log to a file (nginx buffered, 64 KiB); off: neither does.
# SYP_GATE=FILE: this gate instead of the one that is built from this tree.
set -euo pipefail

# shellcheck source-path=SCRIPTDIR source=../tests/testbed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../tests/testbed/lib.sh"

ROUNDS=${ROUNDS:-5}
SECONDS_EACH=${SECONDS_EACH:-5}
CONNECTIONS=${CONNECTIONS:-64}
WORKERS=${WORKERS:-1}
ANSWER_BYTES=${ANSWER_BYTES:-1024}
LOG=${LOG:-on}
MIN_RATE=0.70 MAX_P99=1.50 MAX_RSS_MB=10 MAX_SIZE_MB=12
AUDIENCE=https://bench.example
ISSUER=https://issuer.bench.example
ADMIN_TOKEN=the-admin-token-of-the-benchmark

gone() { say "error: $*"; exit 2; }

DIR=$(mktemp -d)
PIDS=()
# shellcheck disable=SC2317 # called by the trap
cleanup() {
  local pid
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$DIR"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# === tools ===

# an nginx that is only installed for this starts no service of its own
install_tools() {
  local need=()
  command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || need+=(nginx-light)
  command -v wrk >/dev/null || need+=(wrk)
  command -v openssl >/dev/null || need+=(openssl)
  command -v curl >/dev/null || need+=(curl)
  [ ${#need[@]} = 0 ] || RUNLEVEL=1 apt_install "${need[@]}" || gone "please install: ${need[*]}"
}

find_gate() {
  if [ -n "${SYP_GATE:-}" ]; then
    [ -x "$SYP_GATE" ] || gone "$SYP_GATE is no program"
    return
  fi
  if ! ensure_cc || ! ensure_rust; then gone "the gate cannot be built here"; fi
  local host
  host=$(rustc -vV | sed -n 's/^host: //p')
  say "building the gate (static, as it is shipped)"
  (cd "$SYP_ROOT" && RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
    cargo build --profile gate --locked --target "$host" -p syp-gate >&2) || gone "the gate does not build"
  SYP_GATE=$CARGO_TARGET_DIR/$host/gate/syp-gate
}

# === cores ===

# Fills ON_PROXY and ON_REST with what a command needs in front.
choose_cores() {
  local allowed all=() part from to
  allowed=$(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status)
  for part in ${allowed//,/ }; do
    from=${part%-*} to=${part#*-}
    while [ "$from" -le "$to" ]; do all+=("$from") && from=$((from + 1)); done
  done
  local IFS=,
  local proxy="${all[*]:0:WORKERS}" rest="${all[*]:WORKERS}"
  ON_PROXY=(taskset -c "$proxy")
  ON_REST=(taskset -c "${rest:-$proxy}")
  say "proxies on cores $proxy, load and upstream on ${rest:-$proxy}"
}

# === servers ===

# A port that nobody listens on, above the one given.
free_port() {
  local port=$1
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  echo "$port"
}

# answers URL [curl arguments]: waits until it answers 200.
answers() {
  local url=$1 left=200
  shift
  while ((left-- > 0)); do
    [ "$(curl -s -o /dev/null -m 1 -w '%{http_code}' "$@" "$url")" != 200 ] || return 0
    sleep 0.05
  done
  return 1
}

# nginx_conf NAME WORKERS HTTP-PART
nginx_conf() {
  local user=
  [ "$(id -u)" != 0 ] || user='user root;'
  mkdir -p "$DIR/$1"
  printf '%s\n' "$user" "worker_processes $2;" 'daemon off;' "pid $DIR/$1/pid;" "error_log $DIR/$1/error.log warn;" \
    'worker_rlimit_nofile 65536;' 'events { worker_connections 16384; }' 'http {' \
    "client_body_temp_path $DIR/$1/body; proxy_temp_path $DIR/$1/proxy; fastcgi_temp_path $DIR/$1/f; uwsgi_temp_path $DIR/$1/u; scgi_temp_path $DIR/$1/s;" \
    'keepalive_requests 1000000000; keepalive_timeout 75s; tcp_nodelay on;' "$3" '}' >"$DIR/$1/nginx.conf"
}

start_upstream() {
  mkdir -p "$DIR/www"
  head -c "$ANSWER_BYTES" /dev/zero | tr '\0' x >"$DIR/www/answer"
  nginx_conf upstream 1 "access_log off; open_file_cache max=10; sendfile on; tcp_nopush on;
    server { listen 127.0.0.1:$UPSTREAM backlog=4096; root $DIR/www; }"
  "${ON_REST[@]}" "$NGINX" -c "$DIR/upstream/nginx.conf" -e "$DIR/upstream/error.log" >&2 &
  PIDS+=($!)
  answers "http://127.0.0.1:$UPSTREAM/answer" || gone "the upstream does not answer"
}

start_nginx() {
  local log='access_log off;'
  [ "$LOG" = off ] || log="access_log $DIR/proxy/access.log combined buffer=64k flush=1s;"
  nginx_conf proxy "$WORKERS" "$log
    upstream app { server 127.0.0.1:$UPSTREAM; keepalive 256; keepalive_requests 1000000000; }
    server { listen 127.0.0.1:$PROXY reuseport backlog=4096;
      location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host \$host; } }"
  "${ON_PROXY[@]}" "$NGINX" -c "$DIR/proxy/nginx.conf" -e "$DIR/proxy/error.log" >&2 &
  PIDS+=($!)
  answers "http://127.0.0.1:$PROXY/answer" || gone "nginx does not answer"
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# An RSA key of an issuer of our own, its public part for the gate, a token of one user.
make_token() {
  local modulus head claims now
  openssl genrsa -out "$DIR/key.pem" 2048 2>/dev/null
  modulus=$(openssl rsa -in "$DIR/key.pem" -noout -modulus 2>/dev/null | sed 's/^Modulus=//; s/../\\x&/g')
  # shellcheck disable=SC2059 # the bytes are the format
  MODULUS=$(printf "$modulus" | base64url)
  now=$(date +%s)
  head=$(printf '{"alg":"RS256","typ":"JWT","kid":"k"}' | base64url)
  claims=$(printf '{"iss":"%s","sub":"u","aud":"%s","iat":%d,"exp":%d,"email":"alice@example.com","email_verified":true}' \
    "$ISSUER" "$AUDIENCE" "$now" $((now + 86400)) | base64url)
  TOKEN=$head.$claims.$(printf '%s.%s' "$head" "$claims" | openssl dgst -sha256 -sign "$DIR/key.pem" | base64url)
}

start_gate() {
  local log=--no-access-log
  [ "$LOG" = off ] || log=
  mkdir -p "$DIR/gate"
  printf '%s' "$ADMIN_TOKEN" >"$DIR/gate/token"
  cat >"$DIR/gate/config.json" <<JSON
{ "generation": 1, "instance_uid": "bench", "audiences": ["$AUDIENCE"],
  "issuers": [{ "issuer": "$ISSUER", "jwks": { "keys": [
    { "kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "e": "AQAB", "n": "$MODULUS" }] } }],
  "policy": { "rules": [{ "id": "users", "effect": "allow", "members": ["user:alice@example.com"] }] },
  "upstreams": [{ "id": "0", "address": "127.0.0.1:$UPSTREAM" }] }
JSON
  # shellcheck disable=SC2086 # one word or none
  "${ON_PROXY[@]}" "$SYP_GATE" serve --listen "127.0.0.1:$GATE" --admin "127.0.0.1:$ADMIN" --workers "$WORKERS" \
    --admin-token-file "$DIR/gate/token" --config "$DIR/gate/config.json" $log >"$DIR/gate/access.log" &
  GATE_PID=$!
  PIDS+=("$GATE_PID")
  answers "http://127.0.0.1:$GATE/_syp/health" || gone "the gate does not answer"
  answers "http://127.0.0.1:$GATE/answer" -H "Authorization: Bearer $TOKEN" || gone "the gate does not let the token in"
  [ "$(curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:$GATE/answer")" = 401 ] || gone "the gate lets everybody in"
}

# === measuring ===

# rss_kb PID [VmHWM]: resident now, or at most so far
rss_kb() { sed -n "s/^${2:-VmRSS}:\s*\([0-9]*\) kB/\1/p" "/proc/$1/status"; }
# all of nginx's processes: those of this configuration
nginx_rss_kb() {
  local master worker workers sum
  master=$(cat "$DIR/proxy/pid")
  sum=$(rss_kb "$master" "$@")
  read -ra workers <"/proc/$master/task/$master/children" || true
  for worker in "${workers[@]}"; do sum=$((sum + $(rss_kb "$worker" "$@"))); done
  echo "$sum"
}

# CPU time that a proxy has used, in ticks. Unlike a rate it says something on a machine that has other things to do, too.
ticks() {
  local pids=("$GATE_PID") pid sum=0 stat
  [ "$1" = gate ] || read -ra pids <"/proc/$(cat "$DIR/proxy/pid")/task/$(cat "$DIR/proxy/pid")/children" || true
  for pid in "${pids[@]}"; do
    read -r stat <"/proc/$pid/stat"
    # shellcheck disable=SC2086 # the fields after the name, which may hold spaces
    set -- ${stat##*) }
    sum=$((sum + ${12} + ${13}))
  done
  echo "$sum"
}

# load PORT SECONDS: prints 'requests/s p50-us p99-us'. Both proxies get the same requests, token and all.
load() {
  local out
  out=$("${ON_REST[@]}" wrk -t1 -c"$CONNECTIONS" -d"$2s" --timeout 5s -s "$DIR/report.lua" -H "Authorization: Bearer $TOKEN" \
    "http://127.0.0.1:$1/answer") || gone "wrk failed"
  sed -n 's/^RESULT //p' <<<"$out" | grep . || gone "wrk said: $out"
}
cat >"$DIR/report.lua" <<'LUA'
done = function(summary, latency, requests)
  local e = summary.errors
  local bad = e.connect + e.read + e.write + e.status + e.timeout
  if bad > 0 then print("errors: " .. bad) return end
  print(string.format("RESULT %.0f %.0f %.0f", summary.requests / (summary.duration / 1e6), latency:percentile(50), latency:percentile(99)))
end
LUA

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }
column() { awk -v c="$2" '{ print $c }' "$DIR/$1.txt" | median; }

# row NAME GATE NGINX VALUE GOAL: prints a line of the table and remembers a miss.
MISSED=0
row() {
  local verdict=
  if [ -n "$5" ]; then
    verdict=$(awk -v v="$4" -v g="${5#??}" -v op="${5%% *}" 'BEGIN { print (op == ">=" ? v >= g : v <= g) ? "met" : "MISSED" }')
    [ "$verdict" = met ] || MISSED=1
  fi
  printf '%-26s %10s %10s %8s %9s  %s\n' "$1" "$2" "$3" "$4" "$5" "$verdict"
}
div() { awk -v a="$1" -v b="$2" -v f="%.${3:-2}f" 'BEGIN { printf f, a / b }'; }

install_tools
NGINX=$(command -v nginx || echo /usr/sbin/nginx)
find_gate
choose_cores
UPSTREAM=$(free_port 18180)
PROXY=$(free_port $((UPSTREAM + 1)))
GATE=$(free_port $((PROXY + 1)))
ADMIN=$(free_port $((GATE + 1)))
make_token
start_upstream
start_nginx
start_gate
sleep 2
IDLE_KB=$(rss_kb "$GATE_PID")
NGINX_IDLE_KB=$(nginx_rss_kb)
load "$PROXY" 1 >/dev/null
load "$GATE" 1 >/dev/null
for ((round = 1; round <= ROUNDS; round++)); do
  # the one that went first goes second in the next round
  order=(nginx gate)
  ((round % 2)) || order=(gate nginx)
  for who in "${order[@]}"; do
    port=$GATE
    [ "$who" = gate ] || port=$PROXY
    before=$(ticks "$who")
    found=$(load "$port" "$SECONDS_EACH")
    used=$((($(ticks "$who") - before) * 1000000 / $(getconf CLK_TCK)))
    # wrk runs for a moment longer than it says, so this is a little too much for both
    echo "$found $(awk -v t="$used" -v r="${found%% *}" -v s="$SECONDS_EACH" 'BEGIN { printf "%.2f", t / r / s }')" >>"$DIR/$who.txt"
    say "round $round $who (requests/s, p50 us, p99 us, CPU us a request): $(tail -n 1 "$DIR/$who.txt")"
  done
done
LOADED_KB=$(rss_kb "$GATE_PID")
NGINX_LOADED_KB=$(nginx_rss_kb)
PEAK_KB=$(rss_kb "$GATE_PID" VmHWM)
NGINX_PEAK_KB=$(nginx_rss_kb VmHWM)

echo "gate $("$SYP_GATE" version) against $("$NGINX" -v 2>&1 | sed 's/^nginx version: //'): medians of $ROUNDS rounds of $SECONDS_EACH s," \
  "$CONNECTIONS connections, $WORKERS worker(s), $ANSWER_BYTES bytes, access log $LOG, $(nproc) core(s)"
printf '%-26s %10s %10s %8s %9s\n' '' gate nginx value goal
row 'requests/s (ratio)' "$(column gate 1)" "$(column nginx 1)" "$(div "$(column gate 1)" "$(column nginx 1)")" ">= $MIN_RATE"
row 'p50 us (ratio)' "$(column gate 2)" "$(column nginx 2)" "$(div "$(column gate 2)" "$(column nginx 2)")" ''
row 'p99 us (ratio)' "$(column gate 3)" "$(column nginx 3)" "$(div "$(column gate 3)" "$(column nginx 3)")" "<= $MAX_P99"
row 'CPU us/request (ratio)' "$(column gate 4)" "$(column nginx 4)" "$(div "$(column gate 4)" "$(column nginx 4)")" ''
row 'resident MB, idle' "$(div "$IDLE_KB" 1024 1)" "$(div "$NGINX_IDLE_KB" 1024 1)" "$(div "$IDLE_KB" 1024 1)" "<= $MAX_RSS_MB"
row 'resident MB, after load' "$(div "$LOADED_KB" 1024 1)" "$(div "$NGINX_LOADED_KB" 1024 1)" "$(div "$LOADED_KB" 1024 1)" "<= $MAX_RSS_MB"
row 'resident MB, at most' "$(div "$PEAK_KB" 1024 1)" "$(div "$NGINX_PEAK_KB" 1024 1)" "$(div "$PEAK_KB" 1024 1)" ''
SIZE=$(stat -Lc %s "$SYP_GATE")
row 'binary MB' "$(div "$SIZE" 1000000 1)" - "$(div "$SIZE" 1000000 1)" "<= $MAX_SIZE_MB"
exit $MISSED
