#!/usr/bin/env bash
# Makes an image of the wrapper and a program on this machine, from Debian's packages, with no registry and no package index:
#   examples/python-wrapper/build.sh [--with PKG,PKG] [FOLDER [IMAGE]]
# FOLDER has wrapper.toml and the program (this one's own: app.py); --with are Debian packages that it imports (python3-numpy).
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../tests/testbed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tests/testbed/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../../tests/testbed/debian.sh
. "$SYP_ROOT/tests/testbed/debian.sh"

LABEL=syp.example/content
DIR=$SYP_CACHE/images
HERE=$SYP_ROOT/examples/python-wrapper
PACKAGES=python3,python3-uvicorn

if [ "${1:-}" = --with ]; then
  PACKAGES+=,${2:?--with needs packages}
  shift 2
fi
folder=$(cd "${1:-$HERE}" && pwd)
image=${2:-syp-example/python-wrapper:latest}

have_docker || die "no Docker engine answers"
ensure_docker_cli || die "the docker command is needed"
[ -f "$folder/wrapper.toml" ] || die "$folder has no wrapper.toml"
mkdir -p "$DIR"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# what is in /app: the wrapper, and of FOLDER what is the program
mkdir "$work/app"
cp -R "$HERE/syp_wrapper" "$work/app/"
if [ "$folder" = "$HERE" ]; then cp "$HERE/app.py" "$HERE/wrapper.toml" "$work/app/"; else cp -R "$folder/." "$work/app/"; fi
find "$work/app" -name __pycache__ -prune -exec rm -rf {} +

exec 9>"$DIR/lock"
flock 9
debian_tar py-uvicorn "$PACKAGES"
want=$( (echo "$KEY"; cat "${BASH_SOURCE[0]}"; cd "$work" && find app -type f | LC_ALL=C sort | xargs sha256sum) | hash_of)
if [ "$(docker image inspect -f "{{index .Config.Labels \"$LABEL\"}}" "$image" 2>/dev/null)" = "$want" ]; then
  say "$image is there"
  exit 0
fi
# Debian's part is a layer of its own: a change of the program takes a second
base=syp-example/python-base:$KEY
docker image inspect "$base" >/dev/null 2>&1 ||
  docker import -c 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$base" <"$TAR" >/dev/null
old=$(docker image inspect -f '{{.Id}}' "$image" 2>/dev/null) || old=
id=$(docker create "$base" /none)
trap 'docker rm "$id" >/dev/null; rm -rf "$work"' EXIT
tar -c --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 --mode=a+rX,go-w -C "$work" app | docker cp - "$id:/"
docker commit -c 'CMD ["python3","-m","syp_wrapper"]' -c 'WORKDIR /app' -c 'USER 65534:65534' -c 'EXPOSE 8080' \
  -c 'ENV PYTHONDONTWRITEBYTECODE=1' -c "LABEL $LABEL=$want" "$id" "$image" >/dev/null
# what had the name before goes, unless a container still uses it
[ -z "$old" ] || docker rmi "$old" >/dev/null 2>&1 || true
say "made $image"
