//! `sypctl open`: the endpoint in a browser.
use super::{Ctx, get};
use crate::{
    exit,
    failure::{Done, Failure},
    parse,
};
use std::process::{Command, Stdio};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  sypctl open shop")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let client = ctx.client().await?;
    let i = get(&client, ctx.full(&a.name)).await?;
    if i.endpoint.is_empty() {
        let state = crate::render::state(i.state).to_lowercase();
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            "NOT_SERVING",
            format!("{} has no endpoint: it is {state}", a.name),
            format!("sypctl show {}", a.name),
        ));
    }
    ctx.out.document(&i, || i.endpoint.clone(), || i.endpoint.clone())?;
    if !browse(&i.endpoint) {
        ctx.out
            .note(format!("no display here: open it elsewhere, or call it with 'sypctl curl {} /'", a.name));
    }
    ctx.out.note(format!(
        "the gate asks for a token: 'sypctl token {}' prints one for the header 'Authorization: Bearer'",
        a.name
    ));
    Ok(exit::OK)
}

/// Shows an address in the browser; false when there is no display.
pub fn browse(url: &str) -> bool {
    let display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|v| std::env::var_os(v).is_some_and(|v| !v.is_empty()));
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    if !(display || cfg!(target_os = "macos")) {
        return false;
    }
    Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .is_ok()
}
