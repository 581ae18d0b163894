#!/usr/bin/env bash
# From 'up' to ready on a real Kubernetes, against 'kubectl apply' and 'kubectl rollout status' of the very objects that it made, in
# turn on the same cluster. What up does beyond that (a pod that tries to get past the gate) is told apart.
#   benches/up_vs_kubectl.sh [ROUNDS]      needs a KUBECONFIG whose context is a kind cluster, SYP_GATE_IMAGE, sypctl and jq
set -euo pipefail
ROUNDS=${1:-7}
IMAGE=${SYP_BENCH_IMAGE:-syp-test/hello:latest}
KUBECTL=${SYP_K8S_KUBECTL:-kubectl}
SYPCTL=${SYP_TEST_SYPCTL:-sypctl}
SYP_DATA_DIR=$(mktemp -d)
export SYP_DATA_DIR
OUT=$(mktemp -d)

finish() {
  local rc=$?
  trap - EXIT INT TERM
  "$SYPCTL" down --all --yes >/dev/null 2>&1 || true
  "$SYPCTL" server stop >/dev/null 2>&1 || true
  "$KUBECTL" delete namespace syp-bench-kubectl --ignore-not-found >/dev/null 2>&1 || true
  rm -rf "$OUT" "$SYP_DATA_DIR"
  exit "$rc"
}
trap finish EXIT
trap 'exit 130' INT TERM

now() { date +%s%N; }
# since NANOSECONDS: milliseconds
since() { echo $((($(now) - $1) / 1000000)); }
median() { sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# What the cluster adds to an object is not ours to apply, and names of the instance become the other namespace's.
plain='del(.metadata.uid, .metadata.resourceVersion, .metadata.creationTimestamp, .metadata.managedFields, .metadata.generation,
  .metadata.annotations["deployment.kubernetes.io/revision"], .status, .spec.clusterIP, .spec.clusterIPs, .spec.ports[]?.nodePort)
  | .metadata.namespace = "syp-bench-kubectl" | .metadata.labels = {}'

# The objects of an instance, without its namespace.
objects() {
  "$KUBECTL" get serviceaccounts,secrets,services,deployments,networkpolicies,poddisruptionbudgets -n "$1" -l syp.dev/instance -o json |
    jq ".items[] | $plain" | jq -s '{ apiVersion: "v1", kind: "List", items: . }'
}

round() {
  local t namespace op
  t=$(now)
  "$SYPCTL" up bench --image "$IMAGE" --port 8080 --on k8s --isolation rules --yes >/dev/null 2>&1
  since "$t" >>"$OUT/up"
  op=$("$SYPCTL" op ls bench -o json | jq -c '[.operations[] | select(.metadata.verb == "up")][0].metadata.steps[] | select(.id == "isolation")')
  jq -r '((.endTime | sub("\\.[0-9]+"; "") | fromdate) - (.startTime | sub("\\.[0-9]+"; "") | fromdate)) * 1000
    + ((.endTime | capture("\\.(?<ms>[0-9]{3})").ms | tonumber) - (.startTime | capture("\\.(?<ms>[0-9]{3})").ms | tonumber))' <<<"$op" >>"$OUT/isolation"
  namespace=$("$KUBECTL" get namespaces -l syp.dev/name=bench -o jsonpath='{.items[0].metadata.name}')
  objects "$namespace" >"$OUT/objects.json"
  "$SYPCTL" down bench --yes >/dev/null 2>&1
  t=$(now)
  "$KUBECTL" create namespace syp-bench-kubectl >/dev/null
  "$KUBECTL" label namespace syp-bench-kubectl pod-security.kubernetes.io/enforce=privileged >/dev/null
  "$KUBECTL" apply -f "$OUT/objects.json" >/dev/null 2>&1
  "$KUBECTL" rollout status -n syp-bench-kubectl deployment --timeout=120s >/dev/null
  since "$t" >>"$OUT/kubectl"
  "$KUBECTL" delete namespace syp-bench-kubectl >/dev/null
}

# the first one pays for images and caches
round
rm -f "$OUT"/up "$OUT"/kubectl "$OUT"/isolation
for ((i = 1; i <= ROUNDS; i++)); do
  round
  echo "round $i: up $(tail -n 1 "$OUT/up") ms (of it isolation $(tail -n 1 "$OUT/isolation") ms), kubectl $(tail -n 1 "$OUT/kubectl") ms" >&2
done
up=$(median "$OUT/up") isolation=$(median "$OUT/isolation") kubectl=$(median "$OUT/kubectl")
awk -v u="$up" -v i="$isolation" -v k="$kubectl" -v n="$ROUNDS" 'BEGIN {
  printf "medians of %d rounds: up %d ms, of it the try of isolation %d ms; kubectl apply and rollout status of the same objects %d ms\n", n, u, i, k
  printf "ratio %.2f, without the try %.2f\n", u / k, (u - i) / k }'
