#!/usr/bin/env bash
# k8s.sh prove [NAME]: a kind cluster comes, everything that the suites need is tried on it, and it goes. One line a fact: whether
# it holds, the seconds it took, what it is. Exit code 1 when one does not hold.
set -uo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
HERE=$SYP_ROOT/tests/testbed
NAME=${1:-syp-prove}
WORK=$(mktemp -d)
FORWARD=
BAD=0

finish() {
  trap - EXIT INT TERM
  [ -z "$FORWARD" ] || kill "$FORWARD" 2>/dev/null
  "$HERE/k8s.sh" down "$NAME" || true
  rm -rf "$WORK"
  [ "$BAD" = 0 ] || exit 1
}
trap finish EXIT
trap 'exit 130' INT TERM

now() { date +%s%3N; }
# fact WHAT CMD...: within what time it comes true (CMD's own talk is shown when it does not)
fact() {
  local what=$1 t rc=0
  shift
  t=$(now)
  "$@" >"$WORK/out" 2>&1 || rc=$?
  t=$(($(now) - t))
  if [ "$rc" = 0 ]; then
    printf 'ok     %3d.%d s  %s\n' $((t / 1000)) $((t % 1000 / 100)) "$what"
  else
    BAD=1
    printf 'FAILED %3d.%d s  %s\n' $((t / 1000)) $((t % 1000 / 100)) "$what"
    tail -n 8 "$WORK/out" >&2
  fi
  return "$rc"
}
# within SECONDS CMD...: until it succeeds
within() {
  local end=$((EPOCHSECONDS + $1))
  shift
  until "$@"; do
    [ $EPOCHSECONDS -lt $end ] || return 1
    sleep 0.25
  done
}
k() { "$SYP_K8S_KUBECTL" --namespace prove "$@"; }
is() { [ "$("${@:2}" 2>&1)" = "$1" ]; }
says() { grep -F -- "$1" <<<"$("${@:2}" 2>&1)"; }
get() { curl -sS -m 5 "$@"; }

cluster() {
  "$HERE/k8s.sh" up "$NAME" --ingress >"$WORK/env" && . "$WORK/env" && export KUBECONFIG
}
apply() { k apply -f - && k rollout status deployment/web --timeout=60s; }
forward() {
  k port-forward --address 127.0.0.1 service/web :80 >"$WORK/forward" 2>&1 &
  FORWARD=$!
  within 10 grep Forwarding "$WORK/forward" >/dev/null || return 1
  says "hello from syp" get "http://127.0.0.1:$(sed -n 's/.*127.0.0.1:\([0-9]*\) ->.*/\1/p' "$WORK/forward" | head -n 1)/"
}
top() { k top pod --no-headers | grep web; }
tls() {
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$WORK/key" -out "$WORK/cert" -days 2 -subj /CN=shop.localhost -addext subjectAltName=DNS:shop.localhost 2>/dev/null &&
    k create secret tls shop --cert "$WORK/cert" --key "$WORK/key" && k apply -f - &&
    within 30 says "hello from syp" get --cacert "$WORK/cert" --connect-to "shop.localhost:443:$SYP_K8S_HTTPS" https://shop.localhost/
}
route() { k apply -f - && within 30 says "hello from syp" get -H 'Host: route.localhost' "http://$SYP_K8S_HTTP/"; }
# from one pod to the address of another one (wget -T of a static busybox crashes)
neighbour() {
  local names addresses
  read -ra names <<<"$(k get pod -l app=web -o 'jsonpath={.items[*].metadata.name}')"
  read -ra addresses <<<"$(k get pod -l app=web -o 'jsonpath={.items[*].status.podIP}')"
  says "hello from syp" k exec "${names[0]}" -- timeout 3 wget -qO- "http://${addresses[1]}:8080/"
}
unprotected() { k apply -f - && sleep 3 && neighbour; }
claim() { k apply -f - && k wait --for=jsonpath='{.status.phase}'=Bound --timeout=30s persistentvolumeclaim/data; }
gone() {
  local left
  left=$(docker ps -aq --filter "label=io.x-k8s.kind.cluster=$NAME"
    for v in $VOLUMES; do docker volume ls -q --filter "name=^$v\$"; done
    ls -d "$SYP_CACHE/k8s/clusters/$NAME" 2>/dev/null
    if [ -z "$(docker ps -aq --filter network=kind)" ]; then docker network ls -q --filter 'name=^kind$'; fi)
  echo "$left"
  [ -z "$left" ]
}

fact "a kind cluster of one node with metrics-server, Traefik and the Gateway API" cluster || exit
fact "the same again finds it" cluster || exit
fact "its node is Ready" is True k get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}'
fact "an image of this machine's engine is loaded into it" "$HERE/k8s.sh" load "$NAME" syp-test/hello:latest
k create namespace prove >/dev/null
within 10 k get serviceaccount default >/dev/null 2>&1
fact "a Deployment of two pods is rolled out" apply <<'Y'
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: syp-test/hello:latest
        imagePullPolicy: IfNotPresent
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: burn}
spec:
  selector: {matchLabels: {app: burn}}
  template:
    metadata: {labels: {app: burn}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: burn
        image: syp-test/hello:latest
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "while :; do :; done"]
        resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: burn}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: burn}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
Y
SCALE=$(now)
fact "its NodePort answers on the node's address" within 15 says "hello from syp" get "http://$SYP_K8S_NODE:$(k get service web -o 'jsonpath={.spec.ports[0].nodePort}')/"
fact "kubectl port-forward answers" forward
fact "a name of a Service is found from a pod" within 20 says Address k exec deployment/web -- nslookup web.prove.svc.cluster.local
fact "logs and exec work" says pong k exec deployment/web -- echo pong
fact "a volume claim is bound" claim <<'Y'
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
Y
fact "RBAC is on: a pod's own account may not read secrets" is no k auth can-i list secrets --as=system:serviceaccount:prove:default
fact "an Ingress with TLS answers on 127.0.0.1" tls <<'Y'
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  tls: [{hosts: [shop.localhost], secretName: shop}]
  rules:
  - host: shop.localhost
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
Y
fact "an HTTPRoute answers on 127.0.0.1" route <<'Y'
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web}
spec: {gatewayClassName: traefik, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web}
spec:
  parentRefs: [{name: web}]
  hostnames: [route.localhost]
  rules: [{backendRefs: [{name: web, port: 80}]}]
Y
fact "kubectl top pod shows them" within 60 top
fact "a HorizontalPodAutoscaler sees CPU" within 90 says cpu k get hpa burn -o 'jsonpath={.status.currentMetrics[*].resource.name}={.status.currentMetrics[*].resource.current.averageUtilization}'
fact "and doubles the pods" within 90 is 2 k get deployment burn -o 'jsonpath={.spec.replicas}'
printf '       (%d s after the Deployment)\n' $((($(now) - SCALE) / 1000))
fact "a NetworkPolicy that refuses everything does NOT keep a pod from another one's port" unprotected <<'Y'
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: nothing}
spec: {podSelector: {}, policyTypes: [Ingress]}
Y
printf '       memory: %s\n' "$(docker stats --no-stream --format '{{.MemUsage}}' "$NAME-control-plane")"
VOLUMES=$(docker inspect -f '{{range .Mounts}}{{.Name}} {{end}}' "$NAME-control-plane")
fact "down" "$HERE/k8s.sh" down "$NAME"
fact "leaves no container, volume, network or folder" gone
