# shellcheck shell=bash
# Root file systems from this machine's own Debian or Ubuntu mirror, for images that are made with no registry. Source it after
# lib.sh; DIR is where they are kept, WORK a temporary folder.

hash_of() { sha256sum | cut -c1-20; }

# This machine's own release and mirror: "SUITE MIRROR COMPONENTS".
own_release() {
  local suite id mirror components=main
  # shellcheck source=/dev/null
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}") id=$(. /etc/os-release && echo "${ID:-}")
  case $id in debian) ;; ubuntu) components=main,universe ;; *) die "the test images are made from Debian's or Ubuntu's packages; this is '$id'" ;; esac
  # shellcheck disable=SC2016  # apt's own variables
  mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
    awk -v s="$suite" '$1 == s && $2 ~ /^(http|https|file|copy):/ { print $2; exit }')
  [ -n "$mirror" ] || die "no source of $suite in this machine's apt configuration"
  echo "$suite $mirror $components"
}

# debian_tar NAME PKG,PKG [HOOK]
debian_tar() {
  local suite mirror components proxy opts=() own
  own=$(own_release)
  read -r suite mirror components <<<"$own"
  KEY=$(echo "v1 $suite $(dpkg --print-architecture) $2 ${3:-}" | hash_of)
  TAR=$DIR/$1-$KEY.tar
  [ -s "$TAR" ] && return 0
  command -v mmdebstrap >/dev/null || apt_install mmdebstrap || die "mmdebstrap is needed to make $1"
  need_root_or_sudo "to make a root file system" || say "trying without root"
  proxy=$(apt-config shell P Acquire::http::Proxy | sed -n "s/^P='\(.*\)'/\1/p")
  [ -z "$proxy" ] || opts+=(--aptopt="Acquire::http::Proxy \"$proxy\"")
  [ -z "${3:-}" ] || opts+=(--customize-hook="$3")
  say "making the root file system $1 ($suite: $2)"
  "${SUDO[@]}" mmdebstrap --quiet --variant=minbase --components="$components" --include="$2" --format=tar \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
    --aptopt='Acquire::Languages "none"' "${opts[@]}" "$suite" - "$mirror" >"$TAR.part" 2>"$DIR/$1.log" ||
    { tail -n 10 "$DIR/$1.log" >&2; rm -f "$TAR.part"; die "mmdebstrap failed for $1 (log: $DIR/$1.log)"; }
  mv "$TAR.part" "$TAR"
}

# BUSYBOX: Debian's static busybox, taken out of its package; nothing is installed.
busybox_bin() {
  BUSYBOX=$DIR/busybox-$(dpkg --print-architecture)
  [ -s "$BUSYBOX" ] && return 0
  local d=$WORK/deb
  mkdir -p "$d"
  apt_lists || true
  if ! (cd "$d" && apt-get download -qq busybox-static >>"$DIR/busybox.log" 2>&1); then
    need_root_or_sudo "to read the package lists" && apt_update_once
    (cd "$d" && apt-get download -qq busybox-static >>"$DIR/busybox.log" 2>&1) ||
      { tail -n 5 "$DIR/busybox.log" >&2; die "can't get the package busybox-static"; }
  fi
  dpkg-deb -x "$d"/busybox-static_*.deb "$d/x"
  # /bin or /usr/bin, by release
  cp "$(find "$d/x" -type f -path '*/bin/busybox')" "$BUSYBOX.part"
  chmod 755 "$BUSYBOX.part"
  "$BUSYBOX.part" true || die "the busybox of the package does not run"
  mv "$BUSYBOX.part" "$BUSYBOX"
}

# unpacked PACKAGE PROGRAM: on stdout where PROGRAM is; if there is none, that of Debian's or Ubuntu's package, which is unpacked and not
# installed, for it would start a service.
unpacked() {
  local dir=$SYP_CACHE/unpacked/$1
  type -P "$2" && return
  if [ ! -x "$dir/usr/bin/$2" ]; then
    command -v apt-get >/dev/null && apt_lists || return 1
    rm -rf "$dir.new"
    mkdir -p "$dir.new"
    say "unpacking $1 into $dir"
    (cd "$dir.new" && apt-get download -qq "$1" && dpkg -x "$1"_*.deb . && rm -f "$1"_*.deb) >&2 || return 1
    rm -rf "$dir"
    mv "$dir.new" "$dir"
  fi
  echo "$dir/usr/bin/$2"
}
