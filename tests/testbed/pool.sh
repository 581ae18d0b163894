# shellcheck shell=bash
# Suites side by side: they wait, most of the time. Sourced by ./test, whose note, say, fail and skip it uses.
#
#   suite WIDTH NAME COUNT CMD...   queues one: how many places it takes, how it is called, and who adds up its log (COUNT RC, with
#                                   LOG set). CMD is a program; exit code 3 says it can't be had here, its last line why
#   run_suites PLACES               runs what is queued, in that order and as many at once as there is room for; what they say is
#                                   shown as they say it, each line under its suite's name
#   end_suites                      ends what is under way

WIDTHS=() NAMES=() COUNTS=() COMMANDS=()
declare -A UNDER_WAY=() SINCE=() TAILS=()
PLACES_TAKEN=0

suite() {
  WIDTHS+=("$1") NAMES+=("$2") COUNTS+=("$3")
  shift 3
  # one word a command, to be read again by begin_suite
  COMMANDS+=("$(printf '%q ' "$@")")
}

# A process group of its own: a process that a test left behind can't hold this script's output open, and is found.
begin_suite() {
  local name=${NAMES[$1]} log=$LOG.${NAMES[$1]// /-} pid
  : >"$log"
  setsid bash -c "exec ${COMMANDS[$1]}" >"$log" 2>&1 </dev/null &
  pid=$!
  UNDER_WAY[$pid]=$1 SINCE[$pid]=$EPOCHSECONDS
  PLACES_TAKEN=$((PLACES_TAKEN + WIDTHS[$1]))
  tail -n +1 -s 0.5 -f --pid="$pid" "$log" | sed -u "s/^/$name | /" &
  TAILS[$pid]=$!
  say "== $name"
}

end_suite() {
  local pid=$1 rc=$2 i=${UNDER_WAY[$1]} how=ok seconds
  local name=${NAMES[$i]}
  local LOG=$LOG.${name// /-}
  seconds=$((EPOCHSECONDS - SINCE[$pid]))
  wait "${TAILS[$pid]}" 2>/dev/null
  if left_in "$pid" 10; then fail "processes that '$name' left running: $(ps -o pid=,args= -g "$pid" | cut -c1-120 | tr '\n' ';')"; fi
  end_group "$pid"
  unset "UNDER_WAY[$pid]" "SINCE[$pid]" "TAILS[$pid]"
  PLACES_TAKEN=$((PLACES_TAKEN - WIDTHS[i]))
  [ "$rc" = 0 ] || how="code $rc"
  note "$(printf '%-8s %s (%d s)' "$how" "$name" "$seconds")"
  if [ "$rc" = 3 ]; then skip "$name" "$(tail -n 1 "$LOG")"; else "${COUNTS[$i]}" "$rc"; fi
  say "== $name: $how, $seconds s$(still)"
}
still() {
  local pid
  for pid in "${!UNDER_WAY[@]}"; do printf '; still %s (%d s)' "${NAMES[${UNDER_WAY[$pid]}]}" $((EPOCHSECONDS - SINCE[$pid])); done
}

run_suites() {
  local next=0 pid rc
  while [ "$next" -lt ${#NAMES[@]} ] || [ ${#UNDER_WAY[@]} -gt 0 ]; do
    # one that is wider than all places runs alone
    while [ "$next" -lt ${#NAMES[@]} ] && { [ ${#UNDER_WAY[@]} = 0 ] || [ $((PLACES_TAKEN + WIDTHS[next])) -le "$1" ]; }; do
      begin_suite "$next"
      next=$((next + 1))
    done
    rc=0 pid=
    wait -n -p pid "${!UNDER_WAY[@]}" || rc=$?
    if [ -n "$pid" ]; then
      end_suite "$pid" "$rc"
    else
      # no word of one that ended just before (bash 5.1)
      sleep 1
      for pid in "${!UNDER_WAY[@]}"; do
        kill -0 "$pid" 2>/dev/null && continue
        rc=0
        wait "$pid" || rc=$?
        end_suite "$pid" "$rc"
      done
    fi
  done
}

end_suites() {
  local pid
  for pid in "${!UNDER_WAY[@]}"; do kill -- -"$pid" 2>/dev/null; done
  for pid in "${!UNDER_WAY[@]}"; do end_group "$pid"; done
}

# left_in GROUP N: something of it is still alive after N times 0.2 s. What has ended and nobody asked about is not alive.
left_in() {
  local i
  for ((i = 0; i < $2; i++)); do
    ps -eo pgid=,stat= | awk -v g="$1" '$1 == g && $2 !~ /^Z/ { n++ } END { exit !n }' || return 1
    sleep 0.2
  done
}
# Scripts take away what they made, which takes a while.
end_group() {
  [ -n "$1" ] && kill -- -"$1" 2>/dev/null || return 0
  ! left_in "$1" 150 || kill -9 -- -"$1" 2>/dev/null || true
}
