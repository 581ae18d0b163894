#!/usr/bin/env bash
# The engine as a pod of a real kind cluster that is made for it and goes with it: images without a registry, the chart, Pod Security
# 'restricted', an identity provider over TLS, the chart's own role and no right more.
# tests/testbed/engine_in_cluster.sh    the last line is 'N passed, N failed'; exit code 3: it can't be had here (the reason is the
#                                       last line of talk)
#
# Needs the engine of this machine (with the test images), sypctl and syp-gate (SYP_TEST_SYPCTL, SYP_TEST_GATE; SYP_TEST_ENGINE: another
# sypctl for the image), the test issuer (SYP_TEST_OIDC_DIR, SYP_TEST_NODE). SYP_K8S_KEEP=1 keeps the cluster of a run that failed.
# the facts are called by name
# shellcheck disable=SC2317
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
# shellcheck source=tests/testbed/lib.sh
. tests/testbed/lib.sh

NAME=syp-engine-$$
ENGINE=syp-engine:test-$$
GATE=syp-gate:test-$$
APP=syp-test/hello:latest
SPACE=syp-system
ISSUER=https://issuer.idp.svc:8443
DIR=
PIDS=()
PASSED=0 FAILED=0
HOLDS=

unavailable() {
  say "$*"
  exit 3
}

finish() {
  local rc=$? pid
  trap - EXIT INT TERM
  for pid in "${PIDS[@]}"; do kill "$pid" 2>/dev/null; done
  if [ -n "$DIR" ]; then
    if [ "$rc" = 0 ] || [ -z "${SYP_K8S_KEEP:-}" ]; then tests/testbed/k8s.sh down "$NAME" >&2 || rc=1; fi
    docker rmi "$ENGINE" "$GATE" >/dev/null 2>&1
    rm -rf "$DIR"
  fi
  exit "$rc"
}

# === facts ===

# fact WHAT CMD...: does it hold? HOLDS says so: behind 'if' nothing in CMD would end at its first error. Its talk is shown when it
# does not.
fact() {
  local what=$1 t=$EPOCHSECONDS rc=0
  shift
  # in the background, for the same reason
  (set -e; "$@") >"$DIR/out" 2>&1 </dev/null &
  wait $! || rc=$?
  if [ "$rc" = 0 ]; then
    HOLDS=1
    PASSED=$((PASSED + 1))
    say "ok      $what ($((EPOCHSECONDS - t)) s)"
  else
    HOLDS=
    FAILED=$((FAILED + 1))
    say "FAILED  $what ($((EPOCHSECONDS - t)) s)"
    tail -n 12 "$DIR/out" >&2
  fi
}
# within SECONDS CMD...: until it succeeds
within() {
  local end=$((EPOCHSECONDS + $1))
  shift
  until "$@"; do
    [ $EPOCHSECONDS -lt "$end" ] || return 1
    sleep 0.3
  done
}
# is GOT WANTED
is() { [ "$1" = "$2" ] || { echo "'$1' and not '$2'"; return 1; }; }
# ends CODE CMD...
ends() {
  local want=$1 rc=0
  shift
  "$@" || rc=$?
  is "$rc" "$want"
}
has() { grep -e "$1" >/dev/null || { echo "without '$1'"; return 1; }; }

k() { "$SYP_K8S_KUBECTL" "$@"; }
# inside ARGS...: sypctl in the engine's pod
inside() { k -n "$SPACE" exec syp-0 -- sypctl "$@"; }
# as WHO ARGS...: sypctl with a token of the provider, over TLS
as() {
  local token=''
  [ "$1" = nobody ] || token=$(token "$1" syp-api) || return 1
  shift
  SYPCTL_TOKEN=$token SYP_TOKEN=$token "$SYP_TEST_SYPCTL" --server "https://$SYP_K8S_NODE:$PORT" --ca-file "$DIR/ca.pem" "$@"
}

# === what is around it ===

# authority and the certificates of the engine and of the provider
certificates() {
  local key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2)
  openssl req -x509 -subj "/CN=syp test authority" -out "$DIR/ca.pem" -keyout "$DIR/ca.key" "${key[@]}"
  certificate engine "IP:$SYP_K8S_NODE,IP:127.0.0.1,DNS:syp.$SPACE.svc"
  certificate issuer "DNS:issuer.idp.svc"
}
certificate() {
  openssl req -x509 -subj "/CN=$1" -out "$DIR/$1.pem" -keyout "$DIR/$1.key" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
    -CA "$DIR/ca.pem" -CAkey "$DIR/ca.key" -addext "subjectAltName=$2" -addext basicConstraints=critical,CA:FALSE
}

# the provider on loopback, TLS in front of it on the address that kind's nodes have this host at
issuer() {
  local gateway port front
  gateway=$(docker network inspect kind -f '{{range .IPAM.Config}}{{println .Gateway}}{{end}}' | grep -m 1 '^[0-9.]*$')
  ISSUER_PORT=$("$SYP_TEST_NODE" -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close() })')
  port=$ISSUER_PORT
  PORT=$port ISSUER=$ISSUER ACCESS_TTL=3600 "$SYP_TEST_NODE" "$SYP_TEST_OIDC_DIR/server.mjs" 2>"$DIR/issuer.log" &
  PIDS+=($!)
  "$SYP_TEST_NODE" tests/testbed/tls_front.mjs "$gateway" 0 "$DIR/issuer.pem" "$DIR/issuer.key" "$port" 2>"$DIR/front.log" &
  PIDS+=($!)
  within 20 grep -q listening "$DIR/issuer.log" && within 20 grep -q listening "$DIR/front.log" || { cat "$DIR/issuer.log" "$DIR/front.log" >&2; return 1; }
  front=$(sed -n 's/^listening on .*:\([0-9]*\)$/\1/p' "$DIR/front.log")
  k create namespace idp
  k apply -f - <<Y
apiVersion: v1
kind: Service
metadata: {name: issuer, namespace: idp}
spec: {ports: [{name: https, port: 8443, targetPort: $front}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: issuer, namespace: idp, labels: {kubernetes.io/service-name: issuer}}
addressType: IPv4
ports: [{name: https, port: $front}]
endpoints: [{addresses: ["$gateway"]}]
Y
}

# token WHO AUDIENCE
token() {
  local mail group
  case $1 in
    admin) mail=alice@example.com group=sre ;;
    bob) mail=bob@example.com group=users ;;
    *) mail=mallory@example.net group=outsiders ;;
  esac
  curl -sS -f -m 10 -H 'content-type: application/json' "http://127.0.0.1:$ISSUER_PORT/admin/mint" \
    -d "{\"alg\":\"ES256\",\"claims\":{\"sub\":\"u-$1\",\"email\":\"$mail\",\"email_verified\":true,\"groups\":[\"$group\"],\"aud\":\"$2\"}}" |
    sed -n 's/.*"token": *"\([^"]*\)".*/\1/p' | grep .
}

# a disk of the node, as a volume that takes the pod's group (a host path does not)
volume() {
  docker exec "$NAME-control-plane" mkdir -p /var/lib/syp-data
  k apply -f - <<Y
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: node-disk}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: syp-data}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: node-disk
  persistentVolumeReclaimPolicy: Retain
  local: {path: /var/lib/syp-data}
  nodeAffinity:
    required:
      nodeSelectorTerms:
      - matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: ["$NAME-control-plane"]}]
Y
}

# === the chart ===

values() {
  cat >"$DIR/values.yaml" <<Y
image: {repository: docker.io/library/${ENGINE%:*}, tag: ${ENGINE#*:}, pullPolicy: Never}
gateImage: docker.io/library/$GATE
oidc:
  issuers: ["$ISSUER"]
  audience: syp-apps
  admins: ["group:sre"]
  ca: {configMap: issuer-ca}
tls: {secretName: syp-tls}
service: {type: NodePort}
persistence: {storageClass: node-disk}
Y
}
chart() { "$HELM" template syp deploy/helm/syp --namespace "$SPACE" -f "$DIR/values.yaml" "$@"; }
# refused WORDS ARGS...: the chart refuses, with these words
refused() {
  local words=$1 out
  shift
  if out=$(chart "$@" 2>&1); then echo "it is taken: $*"; return 1; fi
  has "$words" <<<"$out"
}

the_plain_manifest_is_the_charts() { HELM=$HELM deploy/kubernetes/render.sh --check; }
the_chart_refuses_what_can_not_work() {
  "$HELM" lint --strict deploy/helm/syp -f "$DIR/values.yaml"
  refused "must not cross a network in clear" --set tls.secretName=
  refused "gateImage" --set gateImage=
  refused "oidc/issuers\|oidc.issuers" --set 'oidc.issuers={http://issuer}'
  refused "exclude each other" --set tls.certManager.issuer=x
  refused "terminationGracePeriodSeconds" --set terminationGracePeriodSeconds=1
  refused "relicas" --set relicas=2
}
# what the server says of the other ways, without making anything
other_values_are_understood() {
  chart --set rbac.scope=namespace --set listenAddress='[::]' --set env.OTEL_SERVICE_NAME=x --set persistence.existingClaim=mine >"$DIR/other.yaml"
  has "^kind: Role$" <"$DIR/other.yaml"
  if grep -e ClusterRole "$DIR/other.yaml"; then return 1; fi
  k apply --dry-run=server -f "$DIR/other.yaml"
  # as a release of helm's, with what it tells then
  "$HELM" install other deploy/helm/syp --namespace "$SPACE" -f "$DIR/values.yaml" --dry-run=server >"$DIR/installed"
  has "rollout status statefulset/other" <"$DIR/installed"
  chart --set tls.secretName= --set tls.certManager.issuer=letsencrypt | has "kind: Certificate"
}

it_comes_up() {
  k create namespace "$SPACE"
  k label namespace "$SPACE" pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted
  k -n "$SPACE" create secret tls syp-tls --cert "$DIR/engine.pem" --key "$DIR/engine.key"
  k -n "$SPACE" create configmap issuer-ca --from-file=ca.crt="$DIR/ca.pem"
  chart >"$DIR/all.yaml"
  k apply -f "$DIR/all.yaml" 2>"$DIR/warned"
  cat "$DIR/warned"
  # a warning of Pod Security
  [ ! -s "$DIR/warned" ]
  k -n "$SPACE" rollout status statefulset/syp --timeout=120s || { k -n "$SPACE" describe pods; k -n "$SPACE" logs syp-0; return 1; }
}

# === the engine ===

who_may_speak_to_it() {
  ends 4 as nobody ls
  ends 6 as mallory up shop --image "$APP" --port 8080 --on k8s --yes
  ends 6 as mallory audit
  as admin audit | has mallory@example.net
  as admin server status | has "$ISSUER"
  # what is not there is said, and what to do
  ends 11 as admin up shop --image "$APP" --port 8080 --on docker --yes 2>"$DIR/said"
  has "no Docker engine" <"$DIR/said"
}
probes_and_metrics() {
  local port
  k -n "$SPACE" get service syp-metrics -o yaml | has 'prometheus.io/scheme: https'
  forward "$SPACE" service/syp-metrics 9464
  port=$FORWARDED
  is "$(status "https://127.0.0.1:$port/healthz")" 200
  is "$(status "https://127.0.0.1:$port/metrics")" 401
  is "$(status "https://127.0.0.1:$port/metrics" "$(token mallory syp-api)")" 403
  is "$(status "https://127.0.0.1:$port/metrics" "$(token admin syp-api)")" 200
}
the_way_back_in() {
  # the engine's own user, over its socket
  local token
  inside ls
  token=$(inside token create --control viewer --name prometheus --ttl 1h)
  forward "$SPACE" service/syp-metrics 9464
  is "$(status "https://127.0.0.1:$FORWARDED/metrics" "$token")" 200
  inside server backup - >"$DIR/backup"
  [ "$(stat -c %s "$DIR/backup")" -gt 1000 ]
}

# forward NAMESPACE WHAT PORT: FORWARDED is a port of loopback that leads there, for the rest of this fact
forward() {
  # not what an earlier one said
  : >"$DIR/forward"
  # the shell that runs a fact ends with it, and the forward with that
  k -n "$1" port-forward --address 127.0.0.1 "$2" ":$3" >"$DIR/forward" 2>&1 &
  # shellcheck disable=SC2064  # now
  trap "kill $! 2>/dev/null" EXIT
  within 20 grep -q 'Forwarding from' "$DIR/forward"
  FORWARDED=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) .*/\1/p' "$DIR/forward")
}
# status URL [TOKEN]
status() {
  local with=()
  [ -z "${2:-}" ] || with=(-H "authorization: Bearer $2")
  curl -sS -m 10 --cacert "$DIR/ca.pem" "${with[@]}" -o /dev/null -w '%{http_code}' "$1"
}

namespace_of() { k get namespaces -l syp.dev/name="$1" -o 'jsonpath={.items[0].metadata.name}' | grep .; }
it_serves_in_its_own_cluster() {
  as admin up shop --image "$APP" --port 8080 --on k8s --isolation rules --allow user:bob@example.com --yes --timeout 180s
  as admin show shop | has k8s:in-cluster
}
the_gate_lets_in_who_is_named() {
  local space
  space=$(namespace_of shop)
  forward "$space" "service/$(k -n "$space" get services -o 'jsonpath={.items[0].metadata.name}')" 80
  is "$(status "http://127.0.0.1:$FORWARDED/")" 401
  is "$(status "http://127.0.0.1:$FORWARDED/" "$(token mallory syp-apps)")" 403
  # a token for the engine is none for the instance
  is "$(status "http://127.0.0.1:$FORWARDED/" "$(token bob syp-api)")" 401
  is "$(status "http://127.0.0.1:$FORWARDED/" "$(token bob syp-apps)")" 200
}

# rotate KEEP: the provider signs with new keys; true: the former ones are good as well
rotate() { curl -sS -f -m 10 -H 'content-type: application/json' "http://127.0.0.1:$ISSUER_PORT/admin/rotate" -d "{\"keep_old\":$1}"; }
answers() { [ "$(status "$2" "$3")" = "$1" ]; }
gates() { k get pods -n "$1" -o 'jsonpath={range .items[*]}{.metadata.uid} {.status.initContainerStatuses[*].restartCount}{"\n"}{end}'; }
changed_keys_reach_the_gates() {
  local space url old new before
  space=$(namespace_of shop)
  forward "$space" "service/$(k -n "$space" get services -o 'jsonpath={.items[0].metadata.name}')" 80
  url=http://127.0.0.1:$FORWARDED/
  before=$(gates "$space")
  old=$(token bob syp-apps)
  answers 200 "$url" "$old"
  rotate true
  new=$(token bob syp-apps)
  # the engine meets the new key, and tells its gates
  as admin ls
  within 5 answers 200 "$url" "$new"
  answers 200 "$url" "$old"
  # keys that the provider does not publish any more
  rotate false
  new=$(token bob syp-apps)
  as admin ls
  within 5 answers 200 "$url" "$new"
  within 5 answers 401 "$url" "$old"
  is "$(gates "$space")" "$before"
}

# the newest operation's state in one word
runs() { as admin op ls shop --running -o json | has '"name"'; }
apps() { k get deployments -A -l syp.dev/name=shop -o 'jsonpath={.items[*].spec.template.spec.containers[0].env[?(@.name=="COLOUR")].value}'; }
begun() { [ "$(apps)" = blue ]; }
an_update_outlives_the_engines_pod() {
  local old new
  old=$(k -n "$SPACE" get pod syp-0 -o 'jsonpath={.metadata.uid}')
  as admin set shop --env COLOUR=blue --yes --no-wait
  # the new revision's pods are on their way, the old one serves
  within 30 begun
  runs
  k -n "$SPACE" delete pod syp-0 --grace-period=0 --force
  within 60 other_pod "$old"
  k -n "$SPACE" rollout status statefulset/syp --timeout=120s
  new=$(k -n "$SPACE" get pod syp-0 -o 'jsonpath={.metadata.uid}')
  [ "$old" != "$new" ]
  within 120 done_with_it || { as admin op ls shop; as admin show shop; return 1; }
  as admin revisions shop
  as admin events shop | tail -n 20
  is "$(k get deployments -A -l syp.dev/name=shop -o name | wc -l)" 1
  begun
  as admin show shop | has SERVING
}
other_pod() { [ "$(k -n "$SPACE" get pod syp-0 -o 'jsonpath={.metadata.uid}' 2>/dev/null || echo "$1")" != "$1" ]; }
done_with_it() { as admin revisions shop >"$DIR/revisions" 2>&1 && ! runs >/dev/null 2>&1; }

it_stops_when_it_is_told_to() {
  # a new pod of the same: the old one ends by itself, well before it is killed
  local t=$EPOCHSECONDS
  k -n "$SPACE" rollout restart statefulset/syp
  k -n "$SPACE" rollout status statefulset/syp --timeout=120s
  [ $((EPOCHSECONDS - t)) -lt 40 ]
  as admin ls
}

# a Secret comes to a pod within a minute or so: it is looked at when something else was done meanwhile
renew() {
  certificate renewed "IP:$SYP_K8S_NODE,IP:127.0.0.1,DNS:syp.$SPACE.svc"
  k -n "$SPACE" create secret tls syp-tls --cert "$DIR/renewed.pem" --key "$DIR/renewed.key" --dry-run=client -o yaml | k apply -f -
  k -n "$SPACE" get pod syp-0 -o 'jsonpath={.metadata.uid}' >"$DIR/pod"
}
renewed() { openssl s_client -connect "$SYP_K8S_NODE:$PORT" </dev/null 2>/dev/null | openssl x509 -noout -subject | grep renewed; }
a_renewed_certificate_is_taken() {
  within 150 renewed
  as admin ls
  is "$(k -n "$SPACE" get pod syp-0 -o 'jsonpath={.metadata.uid}')" "$(cat "$DIR/pod")"
  is "$(k -n "$SPACE" get pod syp-0 -o 'jsonpath={.status.containerStatuses[0].restartCount}')" 0
}

nothing_is_left() {
  local kinds
  as admin down shop --yes --timeout 180s
  as admin receipt shop --verify
  as admin receipt shop -o json
  kinds=$(k api-resources --verbs=list -o name | grep -v metrics.k8s.io | paste -sd,)
  is "$(k get "$kinds" -A -l syp.dev/instance -o name --ignore-not-found)" ""
  inside fsck | has "0 problems"
}
its_log_has_no_errors() {
  k -n "$SPACE" logs syp-0 --tail=-1 >"$DIR/log"
  if grep -E '"level":"ERROR"|panicked' "$DIR/log"; then return 1; fi
}
the_release_goes() {
  k delete -f "$DIR/all.yaml" --wait --timeout=60s
  is "$(k -n "$SPACE" get statefulsets,services,serviceaccounts,persistentvolumeclaims -l app.kubernetes.io/name=syp-engine -o name)" ""
  is "$(k get clusterroles,clusterrolebindings -l app.kubernetes.io/name=syp-engine -o name)" ""
}

# === main ===

main() {
  local said rc=0
  : "${SYP_TEST_SYPCTL:?}" "${SYP_TEST_GATE:?}"
  [ -n "${SYP_TEST_OIDC_DIR:-}" ] && [ -n "${SYP_TEST_NODE:-}" ] || unavailable "there is no test issuer (SYP_TEST_OIDC_DIR, SYP_TEST_NODE), and off a kind context an engine needs one"
  command -v openssl >/dev/null || unavailable "openssl makes the certificates, and it is not here"
  ensure_curl || unavailable "curl is not here"
  tests/testbed/k8s.sh check || rc=$?
  [ "$rc" = 0 ] || exit "$rc"
  HELM=$(tests/testbed/k8s.sh helm) || exit $?
  DIR=$(mktemp -d)
  export SYP_DATA_DIR=$DIR/none
  unset SYPCTL_SERVER SYPCTL_TOKEN SYP_SERVER SYP_TOKEN KUBECONFIG
  trap finish EXIT
  trap 'exit 130' INT TERM
  said=$(tests/testbed/k8s.sh up "$NAME") || exit $?
  eval "$said"
  export KUBECONFIG
  { deploy/image/build.sh engine "$ENGINE" "${SYP_TEST_ENGINE:-$SYP_TEST_SYPCTL}" && deploy/image/build.sh gate "$GATE" "$SYP_TEST_GATE" &&
    tests/testbed/k8s.sh load "$NAME" "$ENGINE" "$GATE" "$APP"; } || die "the images can't be made"
  { certificates && issuer && volume && values; } >"$DIR/around" 2>&1 || { tail -n 12 "$DIR/around" >&2; die "what is around the engine can't be made"; }

  fact "engine.yaml is what the chart gives" the_plain_manifest_is_the_charts
  fact "the chart refuses what can't work, with words" the_chart_refuses_what_can_not_work
  fact "it comes up under Pod Security 'restricted'" it_comes_up
  if [ -n "$HOLDS" ]; then
    PORT=$(k -n "$SPACE" get service syp -o 'jsonpath={.spec.ports[0].nodePort}')
    fact "the chart's other values are understood by the API server" other_values_are_understood
    fact "the control plane: 401, 403 and in, by tokens of the provider over TLS" who_may_speak_to_it
    fact "probes need no token, metrics do" probes_and_metrics
    fact "kubectl exec is the way in when nobody has a token, and to a backup" the_way_back_in
    fact "an instance comes up in the engine's own cluster" it_serves_in_its_own_cluster
    if [ -n "$HOLDS" ]; then
      fact "its gate: 401, 403, 200" the_gate_lets_in_who_is_named
      fact "keys that the engine saw change are at its gate within 5 s, without a restart" changed_keys_reach_the_gates
      fact "an update outlives the engine's pod" an_update_outlives_the_engines_pod
      fact "its gate after that: 401, 403, 200" the_gate_lets_in_who_is_named
      fact "the engine stops when it is told to, and goes on" it_stops_when_it_is_told_to
      fact "the certificate's Secret is changed" renew
      fact "nothing is left of the instance" nothing_is_left
      fact "the renewed certificate is taken without a restart" a_renewed_certificate_is_taken
    fi
    fact "its log has no errors" its_log_has_no_errors
    fact "the release goes" the_release_goes
  fi
  say "$((EPOCHSECONDS - SYP_T0)) s"
  echo "$PASSED passed, $FAILED failed"
  [ "$FAILED" = 0 ]
}
main "$@"; exit
