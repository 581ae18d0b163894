//! `sypctl explain`: what a reason means.
use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
    output::Format,
    reasons, render,
};
use serde_json::{Value, json};

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
        match ctx.out.format {
            Format::Json | Format::Yaml => {
                let all: Vec<_> = reasons::PAGES
                    .iter()
                    .map(|(r, p)| json!({"reason": r, "summary": reasons::summary(r, p)}))
                    .collect();
                ctx.out.value(&json!({ "reasons": all }))?;
            }
            Format::Table => {
                let rows = reasons::PAGES.iter().map(|(r, p)| [(*r).to_owned(), reasons::summary(r, p)]);
                ctx.out.data(render::table(&["REASON", "MEANS"], rows, ctx.out.colours));
            }
            Format::Name => {
                ctx.out.data(reasons::PAGES.iter().map(|(r, _)| *r).collect::<Vec<_>>().join("\n"))
            }
        }
        return Ok(exit::OK);
    };
    let word = word.to_uppercase().replace('-', "_");
    let Some(page) = reasons::page(&word) else {
        let near = reasons::near(&word);
        let hint = if near.is_empty() {
            "'sypctl explain' lists every reason".into()
        } else {
            format!("perhaps {}; 'sypctl explain' lists every reason", near.join(", "))
        };
        return Err(Failure::new(exit::NOT_FOUND, "NOT_FOUND", format!("no reason '{word}'"), hint));
    };
    match ctx.out.format {
        Format::Json | Format::Yaml => ctx.out.value(&parts(&word, page))?,
        Format::Name => ctx.out.data(&word),
        Format::Table => ctx.out.data(page),
    }
    Ok(exit::OK)
}

/// A page for programs.
fn parts(reason: &str, page: &str) -> Value {
    let (above, below) = page.split_once("\nWhat to do:\n").unwrap_or((page, ""));
    let why = above.lines().skip(1).map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    let steps: Vec<_> = below.lines().filter_map(|l| l.strip_prefix("- ")).collect();
    json!({
        "reason": reason,
        "summary": reasons::summary(reason, page),
        "why": why.trim_start_matches("Why: "),
        "whatToDo": steps,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_its_parts() {
        for (reason, page) in reasons::PAGES {
            let p = parts(reason, page);
            let filled = |k: &str| p[k].as_str().is_some_and(|s| !s.is_empty());
            assert!(filled("summary"), "{reason}: {p}");
            assert!(p["whatToDo"].as_array().is_some_and(|a| !a.is_empty()), "{reason}: {p}");
        }
    }
}
