#!/usr/bin/env bash
# Makes the image syp-example/hello:latest from hello.c, with a C compiler and `docker import`: no registry is asked.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../../tests/testbed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tests/testbed/lib.sh"

IMAGE=syp-example/hello:latest
LABEL=syp.example/content
cd "$SYP_ROOT/examples/hello"

have_docker || die "no Docker engine answers"
ensure_docker_cli || die "the docker command is needed"
want=$(cat hello.c build.sh | sha256sum | cut -c1-20)
if [ "$(docker image inspect -f "{{index .Config.Labels \"$LABEL\"}}" "$IMAGE" 2>/dev/null)" = "$want" ]; then
  say "$IMAGE is there"
  exit 0
fi
ensure_cc || die "a C compiler is needed (or, with a registry at hand: docker build -t $IMAGE examples/hello)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cc -static -O2 -s -Wall -Wextra -o "$work/hello" hello.c
tar -C "$work" --mtime=@0 --owner=0 --group=0 --numeric-owner -c hello |
  docker import -c 'ENTRYPOINT ["/hello"]' -c 'EXPOSE 8080' -c 'USER 65534:65534' -c "LABEL $LABEL=$want" - "$IMAGE" >/dev/null
say "made $IMAGE"
