//! `sypctl completion`.
use super::Ctx;
use crate::{complete, exit, failure::Done};
use clap_complete::Shell;

/// Runs it.
///
/// # Errors
/// For a shell that is not known (never: the command line refuses it).
pub fn run(ctx: &Ctx<'_>, shell: Shell) -> Done {
    ctx.out.data(complete::script(&shell.to_string())?);
    Ok(exit::OK)
}
