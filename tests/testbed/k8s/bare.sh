# shellcheck shell=bash
# A one-node Kubernetes in a network namespace of its own, beside Docker, each component a process that a test can stop: for
# faults. Source it from k8s.sh; root only.
#   k8s.sh bare up                    on stdout KUBECONFIG= and more, a line each
#   k8s.sh bare load IMAGE...         images of this machine's Docker engine into it
#   k8s.sh bare stop|kill|start PART  etcd containerd apiserver controller-manager scheduler kubelet proxy; their pids are in
#                                     $SYP_K8S_RUN/PART.pid (SIGSTOP is a hang), their talk in PART.log; the API server takes 15 s to stop
#   k8s.sh bare down                  ends all of it, its pods too, and removes what it made
# From this machine the API is on 10.201.0.2:6443, NodePorts are on 10.201.0.2; addresses of services and pods are routed. It has no
# way out of this machine.

NETNS=syp-bare
HOST_IP=10.201.0.1 NODE_IP=10.201.0.2
RUN=$K8S/bare
# short: paths of sockets have a limit
STATE=/run/syp-bare
SOCK=$STATE/c.sock
PARTS=(containerd etcd apiserver controller-manager scheduler kubelet proxy)

bare() {
  [ "$(id -u)" = 0 ] || unavailable "only root can run a Kubernetes node beside Docker"
  case ${1:-} in
    up) bare_up ;;
    down) bare_down ;;
    load) shift; bare_load "$@" ;;
    start | stop | kill)
      [ -f "$RUN/${2:-}.run" ] || die "no component '${2:-}' (there are: ${PARTS[*]})"
      "bare_$1" "$2"
      ;;
    *) die "usage: k8s.sh bare up|down|load IMAGE...|stop|kill|start PART" ;;
  esac
}

# not 'ip netns exec': that mounts another /sys, without the control groups
in_netns() { nsenter --net="/run/netns/$NETNS" "$@"; }
bare_ctr() { ctr -a "$SOCK" -n k8s.io "$@"; }
bare_kubectl() { "$BIN/kubectl" --kubeconfig "$RUN/kubeconfig" "$@"; }

# part NAME CMD...: how a component is started, for now and for later
part() {
  { echo '#!/bin/sh'; printf 'exec'; printf ' %q' nsenter --net="/run/netns/$NETNS" "${@:2}"; echo; } >"$RUN/$1.run"
  bare_start "$1"
}
bare_alive() { [ -f "$RUN/$1.pid" ] && kill -0 "$(cat "$RUN/$1.pid")" 2>/dev/null; }
bare_start() {
  bare_alive "$1" && return 0
  # none of our open files, for the lock is one
  (cd "$RUN" && exec setsid bash "$RUN/$1.run" >>"$RUN/$1.log" 2>&1 </dev/null 9>&-) &
  echo $! >"$RUN/$1.pid"
}
# bare_stop COMPONENT [SIGNAL]: waits for its end
bare_stop() {
  local pid i
  bare_alive "$1" || { rm -f "$RUN/$1.pid"; return 0; }
  pid=$(cat "$RUN/$1.pid")
  # it may be stopped by SIGSTOP
  kill "-${2:-TERM}" "$pid" 2>/dev/null && kill -CONT "$pid" 2>/dev/null || true
  for ((i = 0; i < 75; i++)); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.2
  done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$RUN/$1.pid"
}

bare_up() {
  local i t=$EPOCHSECONDS p cni=/usr/lib/cni
  lock
  programs
  if bare_alive apiserver && bare_alive kubelet && bare_kubectl --request-timeout 10s get --raw /readyz >/dev/null 2>&1; then
    say "the bare cluster is there"
    cat "$RUN/env"
    return 0
  fi
  bare_down
  # what is there stays: other packages than Debian's bring these too
  for p in containerd:containerd runc:runc iptables:iptables nft:nftables conntrack:conntrack openssl:openssl ip:iproute2 nsenter:util-linux python3:python3; do
    command -v "${p%:*}" >/dev/null || [ -x "/usr/sbin/${p%:*}" ] || apt_install "${p#*:}" || unavailable "${p%:*} is needed for a bare cluster"
  done
  [ -x $cni/bridge ] || [ ! -x /opt/cni/bin/bridge ] || cni=/opt/cni/bin
  [ -x $cni/bridge ] || apt_install containernetworking-plugins || unavailable "the CNI plugins are needed for a bare cluster"
  PATH=$PATH:/usr/sbin:/sbin
  for p in 10.96.0.0/16 10.244.0.0/24 10.201.0.0/30; do
    [ -z "$(ip route show "$p")" ] || unavailable "this machine has a route of its own to $p, which a bare cluster uses"
  done
  trap 'bare_failed' EXIT
  mkdir -p "$RUN"/{pki,cni,kubelet} "$STATE"
  ip netns list | grep -o '^cni-[0-9a-f-]*' | sort >"$RUN/netns.before" || true
  find /sys/fs/cgroup -maxdepth 2 -type d -name kubepods >"$RUN/cgroups.before"

  ip netns add "$NETNS"
  ip link add syp-bare0 type veth peer name syp-bare1 netns "$NETNS"
  ip addr add "$HOST_IP/30" dev syp-bare0
  ip link set syp-bare0 up
  ip -n "$NETNS" addr add "$NODE_IP/30" dev syp-bare1
  ip -n "$NETNS" link set syp-bare1 up
  ip -n "$NETNS" link set lo up
  # kubelet and local processes that go to a service address want a default route: one to nowhere
  ip -n "$NETNS" link add syp-null type bridge
  ip -n "$NETNS" link set syp-null up
  ip -n "$NETNS" route add default dev syp-null src "$NODE_IP"
  ip route add 10.96.0.0/16 via "$NODE_IP"
  ip route add 10.244.0.0/24 via "$NODE_IP"
  in_netns sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables' 2>/dev/null || true

  bare_files "$cni"
  part containerd containerd -c "$RUN/containerd.toml"
  part etcd "$BIN/etcd" --data-dir "$RUN/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380 --unsafe-no-fsync
  for ((i = 0; i < 100; i++)); do
    if in_netns bash -c '</dev/tcp/127.0.0.1/2379' 2>/dev/null; then break; fi
    sleep 0.1
  done
  local pki=$RUN/pki
  part apiserver "$BIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --bind-address=$NODE_IP --advertise-address=$NODE_IP --secure-port=6443 \
    --client-ca-file="$pki/ca.crt" --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" --service-cluster-ip-range=10.96.0.0/16 \
    --service-account-key-file="$pki/sa.key" --service-account-signing-key-file="$pki/sa.key" --service-account-issuer=https://kubernetes.default.svc \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --kubelet-client-certificate="$pki/admin.crt" --kubelet-client-key="$pki/admin.key" --kubelet-preferred-address-types=InternalIP \
    --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User \
    --proxy-client-cert-file="$pki/front-proxy.crt" --proxy-client-key-file="$pki/front-proxy.key" --enable-aggregator-routing=true
  for ((i = 0; i < 240; i++)); do
    if bare_kubectl get --raw /readyz >/dev/null 2>&1; then break; fi
    bare_alive apiserver || break
    sleep 0.25
  done
  part controller-manager "$BIN/kube-controller-manager" --kubeconfig="$RUN/kubeconfig" --service-account-private-key-file="$pki/sa.key" --root-ca-file="$pki/ca.crt" \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --use-service-account-credentials --bind-address=127.0.0.1 \
    --horizontal-pod-autoscaler-sync-period=5s
  part scheduler "$BIN/kube-scheduler" --kubeconfig="$RUN/kubeconfig" --bind-address=127.0.0.1
  part kubelet "$BIN/kubelet" --kubeconfig="$RUN/node.kubeconfig" --config="$RUN/kubelet.yaml" --hostname-override=node1 --node-ip=$NODE_IP --root-dir="$RUN/kubelet" --cert-dir="$RUN/kubelet-pki"
  # a namespace's process may not set the limits of connection tracking
  part proxy "$BIN/kube-proxy" --kubeconfig="$RUN/kubeconfig" --proxy-mode=nftables --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 \
    --conntrack-tcp-timeout-close-wait=0 --cluster-cidr=10.244.0.0/24 --hostname-override=node1 --bind-address=$NODE_IP
  bare_images
  for ((i = 0; i < 150; i++)); do
    if bare_kubectl get node node1 >/dev/null 2>&1; then break; fi
    sleep 0.2
  done
  bare_kubectl wait --for=condition=Ready node/node1 --timeout=60s >&2
  say "the bare cluster's node is Ready ($((EPOCHSECONDS - t)) s)"
  bare_kubectl apply -f "$HERE/addons/coredns.yaml" -f "$HERE/addons/metrics-server.yaml" >/dev/null
  bare_kubectl rollout status -n kube-system deployment/coredns --timeout=60s >&2
  bare_kubectl wait --for=condition=Available --timeout=90s apiservice/v1beta1.metrics.k8s.io >&2
  {
    printf 'KUBECONFIG=%q\n' "$RUN/kubeconfig"
    printf 'SYP_K8S_KUBECTL=%q\n' "$BIN/kubectl"
    printf 'SYP_K8S_RUN=%q\n' "$RUN"
    echo "SYP_K8S_NODE=$NODE_IP"
  } >"$RUN/env"
  trap finish EXIT
  say "the bare cluster is ready ($((EPOCHSECONDS - t)) s)"
  cat "$RUN/env"
}

bare_failed() {
  local rc=$? p
  trap - EXIT
  for p in "${PARTS[@]}"; do
    [ -s "$RUN/$p.log" ] && ! bare_alive "$p" || continue
    say "$p is not alive:"
    tail -n 3 "$RUN/$p.log" >&2
  done
  bare_down
  finish "$rc"
}

# bare_files CNI: certificates and configuration
bare_files() {
  local pki=$RUN/pki
  openssl genrsa -out "$pki/sa.key" 2048 2>/dev/null
  openssl req -x509 -newkey rsa:2048 -nodes -keyout "$pki/ca.key" -out "$pki/ca.crt" -days 365 -subj /CN=syp-bare-ca 2>/dev/null
  certificate apiserver /CN=kube-apiserver "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:10.96.0.1,IP:$NODE_IP"
  certificate admin /O=system:masters/CN=admin DNS:admin
  certificate node /O=system:nodes/CN=system:node:node1 DNS:node1
  certificate front-proxy /CN=front-proxy DNS:front-proxy
  kubeconfig admin >"$RUN/kubeconfig"
  kubeconfig node >"$RUN/node.kubeconfig"
  chmod 600 "$RUN/kubeconfig" "$RUN/node.kubeconfig"
  cat >"$RUN/containerd.toml" <<T
version = 2
root = "$RUN/containerd"
state = "$STATE"
[grpc]
  address = "$SOCK"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.k8s.io/pause:3.10"
  # a machine without CAP_SYS_RESOURCE may not lower an OOM score
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$1"
    conf_dir = "$RUN/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
T
  cat >"$RUN/cni/10-bridge.conflist" <<'T'
{"cniVersion": "0.4.0", "name": "syp", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/syp-bare/ipam"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
T
  cat >"$RUN/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://$SOCK
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [10.96.0.10]
# an engine beside it fills the disk too: images that nobody can bring again must stay
imageGCHighThresholdPercent: 100
evictionHard: {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"}
resolvConf: $RUN/resolv.conf
podCIDR: 10.244.0.0/24
T
  echo '# none' >"$RUN/resolv.conf"
}
# certificate NAME SUBJECT NAMES
certificate() {
  local f=$RUN/pki/$1
  openssl req -newkey rsa:2048 -nodes -keyout "$f.key" -out "$f.csr" -subj "$2" 2>/dev/null
  openssl x509 -req -in "$f.csr" -CA "$RUN/pki/ca.crt" -CAkey "$RUN/pki/ca.key" -CAcreateserial -days 365 -out "$f.crt" -extfile <(echo "subjectAltName=$3") 2>/dev/null
}
kubeconfig() {
  cat <<T
apiVersion: v1
kind: Config
clusters: [{name: bare, cluster: {server: "https://$NODE_IP:6443", certificate-authority-data: $(base64 -w0 "$RUN/pki/ca.crt")}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$RUN/pki/$1.crt"), client-key-data: $(base64 -w0 "$RUN/pki/$1.key")}}]
contexts: [{name: bare, context: {cluster: bare, user: $1}}]
current-context: bare
T
}

bare_images() {
  local image=("$HERE/node/mkimage.py")
  mkdir -p "$DIR"
  WORK=$(mktemp -d "$K8S/work.XXXXXX")
  busybox_bin
  export GOARCH
  GOARCH=$(dpkg --print-architecture)
  python3 "${image[@]}" "$WORK/pause.tar" registry.k8s.io/pause:3.10 '["/bin/busybox","sleep","2147483647"]' '[]' "$BUSYBOX=/bin/busybox" >&2
  python3 "${image[@]}" "$WORK/coredns.tar" testbed.local/coredns:1 '["/coredns"]' '[]' "$BIN/coredns=/coredns" >&2
  python3 "${image[@]}" "$WORK/metrics-server.tar" testbed.local/metrics-server:1 '["/metrics-server"]' '[]' "$BIN/metrics-server=/metrics-server" >&2
  local f
  for f in "$WORK"/*.tar; do bare_ctr images import "$f" >/dev/null; done
  rm -rf "$WORK"
  WORK=
}

bare_load() {
  bare_alive containerd || die "there is no bare cluster"
  [ $# -gt 0 ] || die "usage: k8s.sh bare load IMAGE..."
  have_docker || die "no Docker engine answers"
  docker save "$@" | bare_ctr images import - >&2
}

bare_kill() { bare_stop "$1" KILL; }

bare_down() {
  local p c i d
  [ -d "$RUN" ] || return 0
  for p in kubelet proxy scheduler controller-manager apiserver; do bare_stop "$p" KILL; done
  if bare_alive containerd; then
    # it may be stopped by SIGSTOP
    kill -CONT "$(cat "$RUN/containerd.pid")"
    for c in $(timeout 10 ctr -a "$SOCK" -n k8s.io tasks ls -q 2>/dev/null); do bare_ctr tasks kill -s KILL "$c" >/dev/null 2>&1 || true; done
    for ((i = 0; i < 25; i++)); do
      [ -n "$(timeout 10 ctr -a "$SOCK" -n k8s.io tasks ls 2>/dev/null | grep RUNNING)" ] || break
      sleep 0.2
    done
    for c in $(timeout 10 ctr -a "$SOCK" -n k8s.io containers ls -q 2>/dev/null); do
      bare_ctr tasks rm -f "$c" >/dev/null 2>&1 || true
      bare_ctr containers rm "$c" >/dev/null 2>&1 || true
    done
  fi
  bare_stop etcd KILL
  bare_stop containerd
  for d in "$RUN" "$STATE"; do awk -v d="$d/" 'index($2, d) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l 2>/dev/null || true; done
  # the namespaces of its pods
  if [ -f "$RUN/netns.before" ]; then
    { ip netns list | grep -o '^cni-[0-9a-f-]*' || true; } | sort | comm -13 "$RUN/netns.before" - | while read -r c; do ip netns del "$c" || true; done
  fi
  if [ -f "$RUN/cgroups.before" ] && [ ! -s "$RUN/cgroups.before" ]; then
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null || true
  fi
  ip netns del "$NETNS" 2>/dev/null || true
  ip link del syp-bare0 2>/dev/null || true
  rm -rf "${RUN:?}" "${STATE:?}"
}
