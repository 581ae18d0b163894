#!/usr/bin/env bash
# Makes the test images on this machine, with no registry: tests/testbed/images.sh [--rebuild] NAME...|all|list
# An image that is there with the same content is left alone. Root file systems are kept in the cache folder; --rebuild
# forgets all of them first (for newer packages).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

HERE=$SYP_ROOT/tests/testbed/images
DIR=$SYP_CACHE/images
ALL=(systemd hello stubborn crash silent volume wrongarch nginx flask grpc ws loopback wrongport)
LABEL=syp.test/content
REBUILD=
WORK=

# === root file systems ===
# Each function sets TAR to a tar in the cache and KEY to the hash of what it was made from.

nginx_tar() {
  # shellcheck disable=SC2016  # $1 is the hook's
  debian_tar nginx nginx-light 'ln -sf /dev/stdout "$1/var/log/nginx/access.log"; ln -sf /dev/stderr "$1/var/log/nginx/error.log"; echo "hello from nginx" >"$1/var/www/html/index.html"; rm -f "$1"/var/www/html/index.nginx-debian.html'
}

py_tar() {
  local base
  debian_tar py-base python3,python3-flask,python3-grpcio,python3-websockets
  base=$TAR
  KEY=$( (echo "$KEY"; cat "$HERE"/py/*.py) | hash_of)
  TAR=$DIR/py-$KEY.tar
  [ "$TAR" -nt "$base" ] && [ -s "$TAR" ] && return 0
  cp "$base" "$TAR.part"
  tar -rf "$TAR.part" --owner=0 --group=0 --mtime=@0 --mode=a+rX --transform='s,^py,app,' -C "$HERE" py
  mv "$TAR.part" "$TAR"
}

# busybox_root FOLDER: what a program finds in /
busybox_root() {
  local applet
  mkdir -p "$1"/{bin,etc,www,tmp,data}
  chmod 1777 "$1/tmp"
  cp "$BUSYBOX" "$1/bin/busybox"
  local applets
  applets=$("$BUSYBOX" --list)
  for applet in $applets; do [ "$applet" = busybox ] || ln -s busybox "$1/bin/$applet"; done
  printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n' >"$1/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$1/etc/group"
  echo 'hello from syp' >"$1/www/index.html"
}
pack() { tar -C "$1" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$2" .; }

busybox_tar() {
  busybox_bin
  KEY=$( (echo v1; cat "$BUSYBOX") | hash_of)
  TAR=$DIR/busybox-$KEY.tar
  [ -s "$TAR" ] && return 0
  busybox_root "$WORK/root"
  pack "$WORK/root" "$TAR.part"
  mv "$TAR.part" "$TAR"
}

# === images ===

there() { [ -z "$REBUILD" ] && [ "$(docker image inspect -f "{{index .Config.Labels \"$LABEL\"}}" "$1" 2>/dev/null)" = "$2" ]; }

# image NAME CHANGE...: syp-test/NAME from TAR. A folder system that another image already brought is not unpacked twice:
# the engine's first import of it is kept as syp-test/base:KEY and the others are its configuration only.
image() {
  local name=syp-test/$1:latest changes=() c want base id old
  shift
  want=$(printf '%s\n' "$KEY" "$@" | hash_of)
  if there "$name" "$want"; then
    say "$name is there"
    return 0
  fi
  for c in "$@" "LABEL $LABEL=$want"; do changes+=(-c "$c"); done
  base=syp-test/base:$KEY
  docker image inspect "$base" >/dev/null 2>&1 || docker import -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$base" <"$TAR" >/dev/null
  old=$(docker image inspect -f '{{.Id}}' "$name" 2>/dev/null) || old=
  id=$(docker create "$base" /none)
  docker commit "${changes[@]}" "$id" "$name" >/dev/null || { docker rm "$id" >/dev/null; return 1; }
  docker rm "$id" >/dev/null
  # what had the name before goes, unless a container still uses it
  [ -z "$old" ] || docker rmi "$old" >/dev/null 2>&1 || true
  say "made $name"
}

# Ends at SIGTERM: a process 1 has no default action for it.
polite() { printf 'CMD ["/bin/sh","-c","trap \\"exit 0\\" TERM INT; %s & wait"]' "$1"; }

make_hello() { busybox_tar; image hello "$(polite 'httpd -f -p 8080 -h /www')" 'EXPOSE 8080'; }
make_stubborn() { busybox_tar; image stubborn "CMD [\"/bin/sh\",\"-c\",\"trap '' TERM; exec httpd -f -p 8080 -h /www\"]" 'EXPOSE 8080'; }
make_crash() { busybox_tar; image crash 'CMD ["/bin/sh","-c","echo starting up; echo fatal: no database configured >&2; exit 3"]' 'EXPOSE 8080'; }
make_silent() { busybox_tar; image silent "$(polite 'echo waiting for nothing; sleep 2147483647')" 'EXPOSE 8080'; }
make_volume() { busybox_tar; image volume "$(polite 'cp -n /www/index.html /data; date >>/data/starts; sleep ${WAIT:-0}; httpd -f -p 8080 -h /data')" 'EXPOSE 8080' 'VOLUME /data'; }
# a machine of its own: systemd as process 1, and a Docker engine
make_systemd() { debian_tar systemd systemd,systemd-sysv,dbus,docker.io,iptables,curl,procps; image systemd 'CMD ["/sbin/init"]' 'ENV container=docker'; }
make_nginx() { nginx_tar; image nginx 'CMD ["nginx","-g","daemon off;"]' 'EXPOSE 80'; }
make_flask() { py_tar; image flask 'CMD ["python3","-u","/app/flask_app.py"]' 'EXPOSE 5000' 'WORKDIR /app'; }
make_grpc() { py_tar; image grpc 'CMD ["python3","-u","/app/grpc_app.py"]' 'EXPOSE 50051' 'WORKDIR /app'; }
# the one that does not run as root
make_ws() { py_tar; image ws 'CMD ["python3","-u","/app/ws_app.py"]' 'EXPOSE 8765' 'WORKDIR /app' 'USER 65534:65534'; }
make_loopback() { py_tar; image loopback 'CMD ["python3","-u","/app/flask_app.py"]' 'EXPOSE 5000' 'WORKDIR /app' 'ENV LISTEN_HOST=127.0.0.1'; }
make_wrongport() { py_tar; image wrongport 'CMD ["python3","-u","/app/flask_app.py"]' 'EXPOSE 8080' 'WORKDIR /app' 'ENV PORT=8080' 'ENV LISTEN_PORT=9999'; }

# An image of another architecture, with a program of that architecture: no import can say that, so a docker-archive by hand.
make_wrongarch() {
  local arch=arm64 machine='\267\0' d=$WORK/wrongarch name=syp-test/wrongarch:latest want layer config
  if [ "$(dpkg --print-architecture)" = arm64 ]; then arch=amd64 machine='\076\0'; fi
  busybox_bin
  want=$( (echo "v1 $arch"; cat "$BUSYBOX") | hash_of)
  if there "$name" "$want"; then
    say "$name is there"
    return 0
  fi
  mkdir -p "$d/root/bin"
  cp "$BUSYBOX" "$d/root/bin/server"
  # e_machine of the ELF header
  # shellcheck disable=SC2059  # the format is the two bytes
  printf "$machine" | dd of="$d/root/bin/server" bs=1 seek=18 conv=notrunc status=none
  pack "$d/root" "$d/layer.tar"
  rm -r "$d/root"
  layer=$(sha256sum "$d/layer.tar" | cut -d' ' -f1)
  printf '{"architecture":"%s","os":"linux","created":"2026-01-01T00:00:00Z","config":{"Cmd":["/bin/server","httpd","-f","-p","8080"],"ExposedPorts":{"8080/tcp":{}},"Labels":{"%s":"%s"}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"2026-01-01T00:00:00Z","created_by":"syp test image"}]}' \
    "$arch" "$LABEL" "$want" "$layer" >"$d/config"
  config=$(sha256sum "$d/config" | cut -d' ' -f1)
  mv "$d/config" "$d/$config.json"
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$config" "$name" >"$d/manifest.json"
  tar -C "$d" -cf - manifest.json "$config.json" layer.tar | docker load -q >/dev/null
  say "made $name ($arch)"
}

# === main ===

main() {
  local names=() n
  for n in "$@"; do
    case $n in
      --rebuild) REBUILD=1 ;;
      list) printf 'syp-test/%s\n' "${ALL[@]}"; exit 0 ;;
      all) names+=("${ALL[@]}") ;;
      *) declare -F "make_${n#syp-test/}" >/dev/null || die "no image '$n' (there are: ${ALL[*]})"; names+=("${n#syp-test/}") ;;
    esac
  done
  [ ${#names[@]} -gt 0 ] || die "usage: images.sh [--rebuild] NAME...|all|list   (${ALL[*]})"
  have_docker || die "no Docker engine answers"
  ensure_docker_cli || die "the docker command is needed"
  mkdir -p "$DIR"
  WORK=$(mktemp -d "$DIR/work.XXXXXX")
  trap 'rm -rf "$WORK"' EXIT
  exec 9>"$DIR/lock"
  flock 9
  if [ -n "$REBUILD" ]; then
    rm -f "$DIR"/*.tar "$DIR"/busybox-*
    docker images --format '{{.Repository}}:{{.Tag}}' syp-test/base | xargs -r docker rmi -f >/dev/null
  fi
  for n in "${names[@]}"; do "make_$n"; done
}
main "$@"
