#!/usr/bin/env bash
# engine.yaml is what the chart gives with the values in engine-values.yaml.
#   deploy/kubernetes/render.sh [--check]     writes it; or says whether it is so. HELM: where helm is
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
HELM=${HELM:-helm}
command -v "$HELM" >/dev/null || { echo "error: there is no helm here; HELM=FILE names one ('tests/testbed/k8s.sh helm' builds it)" >&2; exit 1; }

render() {
  cat <<'T'
# The engine in a cluster, with no helm needed: made by deploy/kubernetes/render.sh of the chart in deploy/helm/syp.
# Change REGISTRY, VERSION, the issuer and who is admin; make the Secret first:
#   kubectl create namespace syp-system
#   kubectl -n syp-system create secret tls syp-tls --cert CHAIN.pem --key KEY.pem
---
apiVersion: v1
kind: Namespace
metadata:
  name: syp-system
  labels:
    pod-security.kubernetes.io/enforce: restricted
T
  # what says 'helm' is for releases of its own
  "$HELM" template syp ../helm/syp --namespace syp-system -f engine-values.yaml --set persistence.keep=false |
    sed '/^ *helm.sh\//d; /^# Source: /d; s/managed-by: Helm/managed-by: kubectl/'
}

case ${1:-} in
  '')
    render >engine.yaml.new
    mv engine.yaml.new engine.yaml
    ;;
  --check)
    render | diff -u engine.yaml - || { echo "error: engine.yaml is not what the chart gives: run deploy/kubernetes/render.sh" >&2; exit 1; }
    ;;
  *) sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
