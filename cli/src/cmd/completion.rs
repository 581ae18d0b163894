//! `sypctl completion`.
use super::Ctx;
use crate::{args::Cli, exit, failure::Done};
use clap::CommandFactory;
use clap_complete::Shell;

/// Runs it.
///
/// # Errors
/// When it is no text (never).
pub fn run(ctx: &Ctx<'_>, shell: Shell) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sypctl", &mut script);
    ctx.out.data(String::from_utf8(script).map_err(anyhow::Error::from)?);
    Ok(exit::OK)
}
