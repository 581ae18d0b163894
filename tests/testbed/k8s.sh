#!/usr/bin/env bash
# Real Kubernetes clusters with no image registry, from programs that are built here of Go modules (pinned in k8s/).
#   k8s.sh check                  whether clusters are possible here
#   k8s.sh build                  what is missing of the programs and of kind's node image (programs: only those)
#   k8s.sh up NAME [--ingress]    a kind cluster of one node; on stdout KUBECONFIG= and more, a line each (a shell can eval it)
#   k8s.sh own                    what an engine needs to make clusters of its own: on stdout SYP_K8S_BIN= (for the PATH) and more
#   k8s.sh load NAME IMAGE...     images of this machine's engine into the cluster
#   k8s.sh audit NAME             what engines asked its API server for: a JSON line each
#   k8s.sh down NAME              removes it
#   k8s.sh helm                   builds helm if it is not there, and prints where it is
#   k8s.sh prometheus             a Prometheus and its adapter: on stdout SYP_TEST_PROMETHEUS= and SYP_TEST_PROMETHEUS_ADAPTER=
#   k8s.sh prove [NAME]           a cluster comes, everything is tried, it goes: one line a fact
#   k8s.sh bare up|down|...       a cluster beside Docker whose components a test can stop (k8s/bare.sh)
# Exit code 3: it can't be had here (the reason is the last line of talk).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

HERE=$SYP_ROOT/tests/testbed/k8s
K8S=$SYP_CACHE/k8s
GROUPS_OF_GO=(kubernetes kind etcd crictl coredns metrics-server traefik gateway-api)
DIR=$SYP_CACHE/images

unavailable() {
  say "$*"
  exit 3
}

KEY_OF_BIN=$(cd "$HERE" && cat "${GROUPS_OF_GO[@]/%//go.mod}" "${GROUPS_OF_GO[@]/%//tools.go}" | hash_of | cut -c1-12)
BIN=$K8S/$KEY_OF_BIN

# === programs ===

# version MODULE GROUP: what GROUP pins
version() { sed -n "s,^require $1 v,,p" "$HERE/$2/go.mod"; }
KUBE=$(version k8s.io/kubernetes kubernetes)

# build GROUP: the commands that its tools.go names, into BIN
build() {
  local group=$1 packages ld="-s -w" v=k8s.io/component-base/version
  [ ! -e "$BIN/.$group" ] || return 0
  say "building $group"
  cd "$HERE/$group"
  case $group in
    kubernetes)
      ld+=" -X $v.gitVersion=v$KUBE -X $v.gitMajor=${KUBE%%.*} -X $v.gitMinor=$(cut -d. -f2 <<<"$KUBE") -X $v.gitTreeState=archive"
      ld+=" -X $v.gitCommit=0000000000000000000000000000000000000000 -X $v.buildDate=1970-01-01T00:00:00Z"
      ;;
    helm)
      ld+=" -X helm.sh/helm/v3/internal/version.version=v$(version helm.sh/helm/v3 helm)"
      # what 'helm template' takes for the cluster's version is that of its client
      ld+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1"
      ld+=" -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$(sed -n 's,^\tk8s.io/client-go v0\.\([0-9]*\)\..*,\1,p' go.mod)"
      ;;
    traefik) ld+=" -X github.com/traefik/traefik/v3/pkg/version.Version=$(version github.com/traefik/traefik/v3 traefik)" ;;
  esac
  if [ "$group" = gateway-api ]; then
    # no program: the definitions that are beside the code
    go mod download sigs.k8s.io/gateway-api && copy_of sigs.k8s.io/gateway-api config/crd/standard gateway-api || return 1
  else
    mapfile -t packages < <(sed -n 's/^\t_ "\(.*\)"$/\1/p' tools.go)
    CGO_ENABLED=0 go build -mod=readonly -trimpath -ldflags "$ld" -o "$BIN/" "${packages[@]}" >"$CACHES/log" 2>&1 || { tail -n 10 "$CACHES/log" >&2; return 1; }
  fi
  case $group in
    etcd) mv "$BIN/server" "$BIN/etcd" ;;
    kind) copy_of sigs.k8s.io/kind images/base/files node-files || return 1 ;;
  esac
  cd "$SYP_ROOT"
  touch "$BIN/.$group"
}

# copy_of MODULE FOLDER NAME: a folder of a module that was downloaded (and checked against go.sum)
copy_of() {
  local from
  from=$(go list -mod=readonly -m -f '{{.Dir}}' "$1") && [ -d "$from/$2" ] || return 1
  rm -rf "${BIN:?}/$3"
  cp -r --no-preserve=mode "$from/$2" "$BIN/$3"
}

# programs [GB]: those of GROUPS_OF_GO, with so much room
programs() {
  local group missing=() t=$EPOCHSECONDS free room=${1:-18}
  for group in "${GROUPS_OF_GO[@]}"; do [ -e "$BIN/.$group" ] || missing+=("$group"); done
  [ ${#missing[@]} -gt 0 ] || return 0
  ensure_go 1.26.4 || unavailable "Kubernetes is built with Go 1.26.4, and there is none and no way to get it"
  mkdir -p "$BIN"
  free=$(df -Pk "$K8S" | awk 'NR == 2 { print int($4 / 1048576) }')
  [ "$free" -ge "$room" ] || unavailable "building ${missing[*]} takes $room GB of disk for a while, and $K8S has $free"
  # the caches of these builds are larger than all the rest: they go with it
  CACHES=$(mktemp -d "$K8S/go.XXXXXX")
  export GOMODCACHE=$CACHES/mod GOCACHE=$CACHES/build GOFLAGS=-modcacherw GOTOOLCHAIN=local
  for group in "${missing[@]}"; do build "$group" || unavailable "$group does not build here"; done
  rm -rf "$CACHES"
  CACHES=
  say "the programs are there ($(du -sm "$BIN" | cut -f1) MB, $((EPOCHSECONDS - t)) s)"
}

# own_folder GROUP: it is no part of a cluster, and another one of it makes nobody build Kubernetes again
own_folder() {
  GROUPS_OF_GO=("$1")
  BIN=$K8S/$1-$(cd "$HERE/$1" && cat go.mod tools.go | hash_of | cut -c1-12)
  lock
  programs 4
}

helm() {
  own_folder helm
  echo "$BIN/helm"
}

prometheus() {
  local it
  it=$(unpacked prometheus prometheus) || unavailable "there is no Prometheus here, and no Debian package of it can be had"
  own_folder prometheus-adapter
  printf 'SYP_TEST_PROMETHEUS=%q\n' "$it"
  printf 'SYP_TEST_PROMETHEUS_ADAPTER=%q\n' "$BIN/adapter"
}

# === node image ===

KEY_OF_IMAGE=$(cd "$HERE/node" && (echo "$KEY_OF_BIN"; cat image.sh mkimage.py cni-lite conflist.tmpl default-cni.yaml) | hash_of | cut -c1-12)
IMAGE=kindest/node:syp-$KEY_OF_IMAGE
PACKAGES=systemd,systemd-sysv,dbus,containerd,runc,containernetworking-plugins,iptables,nftables,iproute2,conntrack,ethtool,util-linux,mount,kmod,procps,jq,bash,ca-certificates,busybox-static,hostname

node_image() {
  local saved=$K8S/node-$KEY_OF_IMAGE.tar.zst t=$EPOCHSECONDS id
  docker image inspect "$IMAGE" >/dev/null 2>&1 && return 0
  command -v zstd >/dev/null || apt_install zstd || unavailable "the node image is kept with zstd, which is not here"
  if [ -s "$saved" ]; then
    zstd -dcq "$saved" | docker load -q >/dev/null
    say "loaded $IMAGE ($((EPOCHSECONDS - t)) s)"
    return 0
  fi
  command -v apt-get >/dev/null || unavailable "kind's node image is made of Debian's or Ubuntu's packages, and this is neither"
  command -v python3 >/dev/null || apt_install python3 || unavailable "python3 is needed to make kind's node image"
  command -v unshare >/dev/null || apt_install util-linux || unavailable "unshare is needed to make kind's node image"
  mkdir -p "$DIR"
  debian_tar k8s-node "$PACKAGES"
  need_root_or_sudo "to make kind's node image" || unavailable "kind's node image is made as root"
  say "making $IMAGE"
  WORK=$(mktemp -d "$K8S/work.XXXXXX")
  "${SUDO[@]}" env BIN="$BIN" ROOTFS="$TAR" WORK="$WORK" GOARCH="$(dpkg --print-architecture)" KUBE="$KUBE" \
    ETCD_TAG="$(version go.etcd.io/etcd/server/v3 etcd)-0" COREDNS_TAG="v$(version github.com/coredns/coredns coredns)" \
    unshare --mount bash "$HERE/node/image.sh" 2>"$WORK.log" | docker import - "$IMAGE-import" >/dev/null ||
    { docker rmi "$IMAGE-import" >/dev/null 2>&1 || true; tail -n 10 "$WORK.log" >&2; die "the node image can't be made (log: $WORK.log)"; }
  # import knows no stop signal, a container's commit keeps it
  id=$(docker create --stop-signal SIGRTMIN+3 --env container=docker --entrypoint /usr/local/bin/entrypoint "$IMAGE-import" /sbin/init)
  docker commit "$id" "$IMAGE" >/dev/null
  docker rm "$id" >/dev/null
  docker rmi "$IMAGE-import" >/dev/null
  "${SUDO[@]}" rm -rf "$WORK" "$WORK.log"
  WORK=
  docker save "$IMAGE" | zstd -3 -T0 -q >"$saved.part"
  mv "$saved.part" "$saved"
  say "made $IMAGE ($((EPOCHSECONDS - t)) s, $(du -sm "$saved" | cut -f1) MB kept)"
}

# === clusters ===

check() {
  [ "$(uname -s)" = Linux ] || unavailable "the clusters of the testbed are made on Linux only"
  have_docker || unavailable "no Docker engine answers here, and kind's nodes are its containers"
  ensure_docker_cli || unavailable "kind calls the docker command, which is not here"
  if lacks_sys_resource && [ "$(docker info -f '{{.DefaultRuntime}}')" = runc ]; then
    unavailable "this machine lacks CAP_SYS_RESOURCE and its Docker engine was not started by lib.sh (or by an older one): without a default runtime that gets by (tests/testbed/runc-nosysres) kind's privileged containers do not run"
  fi
}

kubectl() { "$BIN/kubectl" --kubeconfig "$CLUSTER/kubeconfig" "$@"; }
nodes_of() { docker ps -aq --filter "label=io.x-k8s.kind.cluster=$1"; }
# there is a cluster of this name, and it is not of this testbed
foreign() {
  local id
  for id in $(nodes_of "$1"); do
    case $(docker inspect -f '{{.Config.Image}}' "$id") in kindest/node:syp-*) ;; *) return 0 ;; esac
  done
  return 1
}
name() {
  [[ ${1:-} =~ ^[a-z0-9]([a-z0-9.-]{0,48}[a-z0-9])?$ ]] || die "a cluster's name is of a-z, 0-9, '.' and '-' (not '${1:-}')"
  NAME=$1 CLUSTER=$K8S/clusters/$1
}

up() {
  local ingress='' t=$EPOCHSECONDS ports=''
  name "${1:-}"
  case ${2:-} in '') ;; --ingress) ingress=1 ;; *) die "usage: k8s.sh up NAME [--ingress]" ;; esac
  start_docker || unavailable "no Docker engine answers here and none could be started, and kind's nodes are its containers"
  check
  lock
  programs
  node_image
  if foreign "$NAME"; then die "there is a kind cluster '$NAME' that this testbed did not make"; fi
  if [ -s "$CLUSTER/env" ] && [ -n "$(nodes_of "$NAME")" ] && kubectl --request-timeout 10s get --raw /readyz >/dev/null 2>&1; then
    [ -z "$ingress" ] || grep SYP_K8S_HTTP= "$CLUSTER/env" >/dev/null || die "the cluster '$NAME' is there without --ingress: 'k8s.sh down $NAME' first"
    say "the cluster '$NAME' is there"
    cat "$CLUSTER/env"
    return 0
  fi
  # what an interrupted run left
  remove "$NAME"
  mkdir -p "$CLUSTER"
  # a host port of 0 is a free one
  # whoever has just the engine's role: what it asks for is written down
  cat >"$CLUSTER/audit.yaml" <<T
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, users: ["system:serviceaccount:syp-system:syp-engine", "system:serviceaccount:syp-test-given:syp-engine", "system:serviceaccount:syp-test-alone:syp-engine"]}
- {level: None}
T
  [ -z "$ingress" ] || ports='
  extraPortMappings:
  - {containerPort: 30080, hostPort: 0, listenAddress: 127.0.0.1}
  - {containerPort: 30443, hostPort: 0, listenAddress: 127.0.0.1}'
  cat >"$CLUSTER/kind.yaml" <<T
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
name: $NAME
networking: {apiServerAddress: 127.0.0.1}
nodes:
- role: control-plane
  image: $IMAGE$ports
  extraMounts:
  - {hostPath: $CLUSTER/audit.yaml, containerPath: /etc/syp-audit/policy.yaml, readOnly: true}
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  apiServer:
    extraArgs:
      audit-policy-file: /etc/syp-audit/policy.yaml
      audit-log-path: /var/log/syp-audit/log
    extraVolumes:
    - {name: audit-policy, hostPath: /etc/syp-audit, mountPath: /etc/syp-audit, readOnly: true}
    - {name: audit-log, hostPath: /var/log/syp-audit, mountPath: /var/log/syp-audit, pathType: DirectoryOrCreate}
  controllerManager:
    extraArgs:
      # 15 s are long for tests
      horizontal-pod-autoscaler-sync-period: 5s
- |
  kind: KubeletConfiguration
  # a hundred instances at once, and whatever tries them
  maxPods: 250
T
  if ! env -u KUBECONFIG "$BIN/kind" create cluster --config "$CLUSTER/kind.yaml" --kubeconfig "$CLUSTER/kubeconfig" --wait 120s >"$CLUSTER/log" 2>&1; then
    tail -n 25 "$CLUSTER/log" >&2
    remove "$NAME"
    die "kind could not make the cluster '$NAME'"
  fi
  say "kind's cluster '$NAME' is up ($((EPOCHSECONDS - t)) s)"
  if ! addons "$ingress" >"$CLUSTER/log" 2>&1; then
    tail -n 5 "$CLUSTER/log" >&2
    kubectl get pods -A >&2 || true
    [ -n "${SYP_K8S_KEEP:-}" ] || remove "$NAME"
    die "the own parts of the cluster '$NAME' did not come up (SYP_K8S_KEEP=1 keeps such a cluster)"
  fi
  {
    printf 'KUBECONFIG=%q\n' "$CLUSTER/kubeconfig"
    printf 'SYP_K8S_KUBECTL=%q\n' "$BIN/kubectl"
    echo "SYP_K8S_NODE=$(docker inspect -f '{{.NetworkSettings.Networks.kind.IPAddress}}' "$NAME-control-plane")"
    if [ -n "$ingress" ]; then
      echo "SYP_K8S_HTTP=$(docker port "$NAME-control-plane" 30080/tcp | head -n 1)"
      echo "SYP_K8S_HTTPS=$(docker port "$NAME-control-plane" 30443/tcp | head -n 1)"
    fi
  } >"$CLUSTER/env.part"
  mv "$CLUSTER/env.part" "$CLUSTER/env"
  say "all of '$NAME' is ready ($((EPOCHSECONDS - t)) s)"
  cat "$CLUSTER/env"
}

# Traefik is in the node image; whoever is on line has kind pull both.
own() {
  start_docker || unavailable "no Docker engine answers here and none could be started, and kind's nodes are its containers"
  check
  lock
  programs
  node_image
  printf 'SYP_K8S_BIN=%q\n' "$BIN"
  printf 'SYP_K8S_KUBECTL=%q\n' "$BIN/kubectl"
  echo "SYP_KIND_NODE_IMAGE=$IMAGE"
  echo "SYP_KIND_INGRESS_IMAGE=testbed.local/traefik:1"
}

# addons INGRESS
addons() {
  kubectl apply -f "$HERE/addons/metrics-server.yaml" || return 1
  if [ -n "$1" ]; then
    kubectl apply --server-side -f "$BIN/gateway-api" || return 1
    kubectl wait --for=condition=Established --timeout=30s -f "$BIN/gateway-api" || return 1
    kubectl apply -f "$HERE/addons/traefik.yaml" || return 1
    kubectl rollout status -n kube-system deployment/traefik --timeout=90s || return 1
    kubectl wait --for=condition=Accepted --timeout=60s gatewayclass/traefik || return 1
  fi
  kubectl rollout status -n kube-system deployment/coredns --timeout=90s || return 1
  kubectl wait --for=condition=Available --timeout=90s apiservice/v1beta1.metrics.k8s.io || return 1
  # a pod is refused until its namespace has this one
  local i
  for ((i = 0; i < 100; i++)); do
    kubectl get serviceaccount default >/dev/null 2>&1 && return 0
    sleep 0.2
  done
  return 1
}

load() {
  name "${1:-}"
  shift
  [ $# -gt 0 ] || die "usage: k8s.sh load NAME IMAGE..."
  [ -s "$CLUSTER/env" ] || die "there is no cluster '$NAME'"
  local i
  # kind says nothing of it, and loads none
  for i in "$@"; do docker image inspect "$i" >/dev/null 2>&1 || die "there is no image '$i' here"; done
  "$BIN/kind" load docker-image -q "$@" --name "$NAME" >&2
}

audit() {
  local id
  name "${1:-}"
  for id in $(nodes_of "$NAME"); do docker exec "$id" sh -c 'cat /var/log/syp-audit/log*'; done
}

# remove NAME: its containers with their volumes, and its folder
remove() {
  local ids
  ids=$(nodes_of "$1")
  # shellcheck disable=SC2086  # ids
  [ -z "$ids" ] || docker rm -f -v $ids >/dev/null
  rm -rf "${K8S:?}/clusters/${1:?}"
}

down() {
  name "${1:-}"
  have_docker || die "no Docker engine answers"
  if foreign "$NAME"; then die "the kind cluster '$NAME' is not of this testbed"; fi
  remove "$NAME"
  # kind's network goes when nobody is in it, not even a stopped container, and no cluster is about to be made
  mkdir -p "$K8S"
  exec 9>"$K8S/lock"
  if flock -n 9 && [ -z "$(docker ps -aq --filter network=kind)" ] && docker network inspect kind >/dev/null 2>&1; then docker network rm kind >/dev/null; fi
}

# === main ===

CACHES=
WORK=
finish() {
  local rc=${1:-$?}
  trap - EXIT INT TERM
  [ -z "$CACHES" ] || rm -rf "$CACHES"
  [ -z "$WORK" ] || "${SUDO[@]}" rm -rf "$WORK"
  exit "$rc"
}

# one builds, the others wait for it
lock() {
  mkdir -p "$K8S"
  exec 9>"$K8S/lock"
  flock 9
}

main() {
  trap finish EXIT
  trap 'exit 130' INT TERM
  case ${1:-} in
    check) check ;;
    build) check; lock; programs; node_image ;;
    programs) lock; programs ;;
    helm | prometheus) "$1" ;;
    up | own | load | audit | down) "$@" ;;
    prove)
      shift
      "$HERE/prove.sh" "$@"
      ;;
    bare)
      # shellcheck source=/dev/null
      . "$HERE/bare.sh"
      "$@"
      ;;
    *) sed -n '2,15s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
}
main "$@"
exit
