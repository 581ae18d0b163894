//! What each target was seen to do, for the table that `./test` prints at its end.
use anyhow::{Context, Result};
use std::{fs::OpenOptions, io::Write, time::Instant};

/// Runs one case of a target, and writes down how it ended: a line in the file that `SYP_TEST_TABLE` names, TARGET, CASE, outcome and
/// seconds, with tabs between. `SYP_TEST_COLUMN` names the target where it is one of several of a kind.
///
/// # Errors
/// What the target does not do.
pub(super) fn case(on: &str, name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    let outcome = run();
    if let Some(file) = std::env::var_os("SYP_TEST_TABLE") {
        let on = std::env::var("SYP_TEST_COLUMN").unwrap_or_else(|_| on.to_owned());
        let how = if outcome.is_ok() { "ok" } else { "FAILED" };
        let line = format!("{on}\t{name}\t{how}\t{}\n", began.elapsed().as_secs());
        // in one piece: targets are tried side by side
        OpenOptions::new().append(true).create(true).open(file)?.write_all(line.as_bytes())?;
    }
    outcome.with_context(|| format!("{on}: {name}"))
}
