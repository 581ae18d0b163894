//! The suites that take minutes and mostly wait, on Docker: `./test` runs them beside all others.
mod long {
    mod crash;
    mod update;
}
