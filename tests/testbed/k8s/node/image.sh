#!/usr/bin/env bash
# kind's node image as a tar of its root file system, on stdout: Debian's or Ubuntu's packages, kind's own node files and the
# programs that k8s.sh built. As root and in a mount namespace of its own (unshare -m), so that no mount is left behind.
# From k8s.sh: BIN (programs), ROOTFS (a tar), WORK (an empty folder), GOARCH, KUBE, ETCD_TAG, COREDNS_TAG
set -euo pipefail
: "${BIN:?}" "${ROOTFS:?}" "${WORK:?}" "${GOARCH:?}" "${KUBE:?}" "${ETCD_TAG:?}" "${COREDNS_TAG:?}"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
R=$WORK/root
# what kind's containerd configuration names
PAUSE=registry.k8s.io/pause:3.10
exec 3>&1 1>&2

# === the machine ===

mkdir "$R"
tar -C "$R" --exclude='./dev/*' -xf "$ROOTFS"
mount -t proc proc "$R/proc"
mount --rbind /dev "$R/dev"
inside() { chroot "$R" /usr/bin/env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"; }

# as kind's own Dockerfile does
install -d "$R"/kind/{bin,manifests} "$R/etc/kubernetes/manifests" "$R/etc/cni/net.d" "$R/opt/cni"
cp -r "$BIN/node-files/etc/." "$R/etc/"
cp "$BIN/node-files/kind/README.txt" "$R/kind/"
install -m 755 "$BIN"/node-files/kind/bin/* "$R/kind/bin/"
install -m 755 "$BIN/node-files/usr/local/bin/entrypoint" "$R/usr/local/bin/"
find "$R/lib/systemd/system/sysinit.target.wants/" -name systemd-tmpfiles-setup.service -delete
rm -f "$R"/lib/systemd/system/{multi-user,local-fs,basic}.target.wants/* "$R"/etc/systemd/system/*.wants/* \
  "$R"/lib/systemd/system/sockets.target.wants/*{udev,initctl}*
echo ReadKMsg=no >>"$R/etc/systemd/journald.conf"
ln -sf /usr/lib/systemd/systemd "$R/sbin/init"

# Until kube-proxy has written its rules, a pod's packet to a service address goes out of the default route and is lost, and
# CoreDNS hangs for 30 s in its first dial: refuse it. 10.96.0.0/16 is kind's default for services.
cat >"$R/etc/systemd/system/early-service-reject.service" <<'U'
[Unit]
Description=Refuse forwarded packets to service addresses that no proxy rule has translated
Before=containerd.service kubelet.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/iptables -I FORWARD -d 10.96.0.0/16 -j REJECT
[Install]
WantedBy=multi-user.target
U
inside systemctl -q enable early-service-reject.service kubelet.service containerd.service undo-mount-hacks.service
inside systemctl -q mask systemd-binfmt.service
: >"$R/etc/machine-id"
rm -f "$R/etc/hostname" "$R/etc/resolv.conf"

# the packages' folders are others than those that kind's units name
ln -sf /usr/bin/containerd "$R/usr/local/bin/containerd"
ln -sfn /usr/lib/cni "$R/opt/cni/bin"
# kubelet stops on cgroup v1 unless told otherwise
sed -i 's/^KUBELET_EXTRA_ARGS=/&--fail-cgroupv1=false /' "$R/etc/default/kubelet"
grep -- --fail-cgroupv1 "$R/etc/default/kubelet" >/dev/null
# a machine without CAP_SYS_RESOURCE may not lower an OOM score
sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$R/etc/containerd/config.toml"
grep 'restrict_oom_score_adj = true' "$R/etc/containerd/config.toml" >/dev/null
inside ctr oci spec | inside jq '.hooks.createContainer[.hooks.createContainer | length] |= . + {"path": "/kind/bin/mount-product-files.sh"} | del(.process.rlimits)' >"$WORK/cri-base.json"
cp "$WORK/cri-base.json" "$R/etc/containerd/cri-base.json"

# === Kubernetes ===

install -m 755 "$BIN"/{kubeadm,kubelet,kubectl} "$R/usr/bin/"
install -m 755 "$BIN/crictl" "$R/usr/local/bin/"
printf %s "v$KUBE" >"$R/kind/version"
cp "$HERE/default-cni.yaml" "$R/kind/manifests/"
cat >"$R/kind/manifests/default-storage.yaml" <<'Y'
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations: {storageclass.kubernetes.io/is-default-class: "true"}
provisioner: kubernetes.io/host-path
Y

BUSYBOX=$R/bin/busybox
IMAGES=$R/images
mkdir "$IMAGES"
# image NAME REF ENTRYPOINT CMD FILE=PLACE...
image() { python3 "$HERE/mkimage.py" "$IMAGES/$1.tar" "${@:2}"; }
for c in kube-apiserver kube-controller-manager kube-scheduler; do
  image "$c" "registry.k8s.io/$c:v$KUBE" '[]' "[\"$c\"]" "$BIN/$c=/usr/local/bin/$c"
done
image etcd "registry.k8s.io/etcd:$ETCD_TAG" '[]' '["etcd"]' "$BIN/etcd=/usr/local/bin/etcd"
image coredns "registry.k8s.io/coredns/coredns:$COREDNS_TAG" '["/coredns"]' '[]' "$BIN/coredns=/coredns" "$R/etc/ssl/certs/ca-certificates.crt=/etc/ssl/certs/ca-certificates.crt"
image metrics-server testbed.local/metrics-server:1 '["/metrics-server"]' '[]' "$BIN/metrics-server=/metrics-server"
image traefik testbed.local/traefik:1 '["/traefik"]' '[]' "$BIN/traefik=/traefik"
image pause "$PAUSE" '["/bin/busybox","sleep","2147483647"]' '[]' "$BUSYBOX=/bin/busybox"
links=()
for n in sh ip sed grep mv cat sleep; do links+=("->busybox=/bin/$n"); done
image cni-lite testbed.local/cni-lite:1 '["/bin/busybox","sh","/cni-lite"]' '[]' "$BUSYBOX=/bin/busybox" "$HERE/cni-lite=/cni-lite" "$HERE/conflist.tmpl=/conflist.tmpl" \
  "$BIN/kubectl=/usr/local/bin/kubectl" "${links[@]}"

# kube-proxy calls iptables, nft and conntrack: these, their plugins, and the libraries of both (a plugin may want one that no
# program does, and without it a Service of two endpoints has no rules)
proxy=("$BIN/kube-proxy=/usr/local/bin/kube-proxy")
parts=()
for p in /usr/sbin/{xtables-nft-multi,xtables-legacy-multi,nft,conntrack} "$R"/usr/lib/*-linux-gnu/xtables/*.so; do
  p=${p#"$R"}
  if [ -e "$R$p" ]; then parts+=("$p"); fi
done
for p in "${parts[@]}"; do proxy+=("$R$p=$p"); done
libraries=$(inside ldd "${parts[@]}" | grep -o '/lib[^ ]*' | sed 's/:$//' | grep -v '/xtables/' | sort -u)
for p in $libraries; do proxy+=("$R$(inside readlink -f "$p")=$p"); done
for p in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do proxy+=("->xtables-nft-multi=/usr/sbin/$p"); done
image kube-proxy "registry.k8s.io/kube-proxy:v$KUBE" '[]' '["kube-proxy"]' "${proxy[@]}"

# into containerd's store, by the node's own containerd: another one's store may be of a newer make
mkdir "$R/run/import"
cat >"$R/run/import/config.toml" <<'T'
version = 2
root = "/var/lib/containerd"
state = "/run/import/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "/run/import/c.sock"
[ttrpc]
  address = "/run/import/c.sock.ttrpc"
T
chroot "$R" /usr/bin/containerd -c /run/import/config.toml >"$WORK/containerd.log" 2>&1 &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || true' EXIT
for ((i = 0; i < 100; i++)); do
  if inside ctr -a /run/import/c.sock version >/dev/null 2>&1; then break; fi
  sleep 0.1
done
for f in "$IMAGES"/*.tar; do
  inside ctr -a /run/import/c.sock -n k8s.io images import --digests=false --snapshotter overlayfs "${f#"$R"}" >"$WORK/import.log" 2>&1 ||
    { tail -n 5 "$WORK/import.log" "$WORK/containerd.log"; exit 1; }
done
kill "$daemon"
wait "$daemon" || true
trap - EXIT
rm -rf "$R/var/lib/containerd/tmpmounts" "$R/run/import" "$IMAGES"

umount -R "$R/dev" "$R/proc"
tar -C "$R" -cf - . >&3
