# The same commands that ./test runs, by name. `just` alone lists them.

export CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", env("XDG_CACHE_HOME", env("HOME") / ".cache") / "syp" / "target")

_list:
    @just --list --unsorted

# formatting, as it must be
fmt:
    cargo fmt --all --check

# clippy without a warning, and the shell scripts
lint:
    cargo clippy --workspace --all-targets --locked -- -D warnings
    shellcheck -x -S warning quickstart test .ci/run tests/examples.sh tests/upgrade.sh tests/testbed/*.sh examples/*/*.sh examples/clients/*/run

# licences, advisories, sources (cargo install cargo-deny)
deny:
    cargo deny --locked check

# all tests with all they need; `just test --fast` leaves Docker out
test *ARGS:
    ./test {{ARGS}}

# the examples alone: the wrapper's own tests, the clients, the instance files (after ./quickstart)
examples:
    tests/examples.sh

# the API documentation, without a warning
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

# the gate beside nginx, the engine beside Restate, 'up' beside the same calls without an engine (after ./quickstart)
bench:
    benches/gate_vs_nginx.sh
    benches/engine/run.sh
    tests/testbed/images.sh hello
    cargo run --release --locked -p syp-tests --bin bench_up

# what a change must pass before it lands
verify: fmt lint doc test

# a real image behind JWT on this machine; `just quickstart --down` takes it down
quickstart *ARGS:
    ./quickstart {{ARGS}}
