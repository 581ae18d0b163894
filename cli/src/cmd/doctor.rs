//! `sypctl doctor`: what could be wrong on this machine. Looks only; starts and changes nothing.
mod access;
mod docker;
mod engine;
mod files;
mod machine;

use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
    output::Format,
    paths, render,
};

/// How a check came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    next: String,
}

/// `next` is what to do when it is not well.
fn check(what: &'static str, verdict: Verdict, found: impl Into<String>, next: impl Into<String>) -> Check {
    let next = if verdict == Verdict::Ok { String::new() } else { next.into() };
    Check { what, verdict, found: found.into(), next }
}

fn ok(what: &'static str, found: impl Into<String>) -> Check {
    check(what, Verdict::Ok, found, "")
}

/// Runs it.
///
/// # Errors
/// 1 when something would not work.
pub async fn run(ctx: &Ctx<'_>) -> Done {
    let dir = paths::data_dir(ctx.global.data_dir.as_deref())?;
    let mut all = docker::checks().await;
    all.extend(files::checks(&dir));
    all.extend(machine::checks(&dir));
    all.extend(access::checks(ctx, &dir).await);
    all.extend(engine::checks(ctx, &dir).await);
    let word = |v: Verdict| match v {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "fail",
    };
    match ctx.out.format {
        Format::Json | Format::Yaml => {
            let rows: Vec<_> = all.iter().map(|c| serde_json::json!({"check": c.what, "verdict": word(c.verdict), "found": c.found, "next": c.next})).collect();
            ctx.out.value(&serde_json::json!({"checks": rows}))?;
        }
        Format::Name => ctx.out.data(all.iter().map(|c| c.what).collect::<Vec<_>>().join("\n")),
        Format::Table => {
            let rows = all.iter().map(|c| {
                let next = if c.next.is_empty() { String::new() } else { format!(" -> {}", c.next) };
                [word(c.verdict).to_owned(), c.what.to_owned(), format!("{}{next}", c.found)]
            });
            ctx.out.data(render::table(&[], rows, ctx.out.colours));
        }
    }
    if all.iter().all(|c| c.verdict != Verdict::Fail) {
        return Ok(exit::OK);
    }
    Err(Failure::new(exit::FAILED, "", "not everything is in order", "do what the lines with 'fail' say"))
}
