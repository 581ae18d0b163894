//! `sypctl explain`: what a reason means.
use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
    reasons,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sypctl explain IMAGE_NOT_FOUND\n  sypctl explain            (lists every reason)"
)]
pub struct Args {
    /// The word behind 'reason:'
    #[arg(value_name = "REASON")]
    reason: Option<String>,
}

/// Runs it.
///
/// # Errors
/// 5 when there is no such reason.
pub fn run(ctx: &Ctx<'_>, a: &Args) -> Done {
    let Some(word) = &a.reason else {
        ctx.out.data(reasons::PAGES.iter().map(|(r, _)| *r).collect::<Vec<_>>().join("\n"));
        return Ok(exit::OK);
    };
    let word = word.to_uppercase().replace('-', "_");
    let Some(page) = reasons::page(&word) else {
        let near: Vec<_> = reasons::PAGES
            .iter()
            .map(|(r, _)| *r)
            .filter(|r| word.split('_').any(|w| w.len() > 2 && r.contains(w)))
            .collect();
        let hint = if near.is_empty() {
            "'sypctl explain' lists every reason".into()
        } else {
            format!("perhaps {}", near.join(", "))
        };
        return Err(Failure::new(exit::NOT_FOUND, "NOT_FOUND", format!("no reason '{word}'"), hint));
    };
    ctx.out.data(page);
    Ok(exit::OK)
}
