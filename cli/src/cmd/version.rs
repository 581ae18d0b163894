//! `sypctl version`: ours, and the engine's if one answers.
use super::{Ctx, server};
use crate::{
    client::{Client, Start, VERSION},
    exit,
    failure::Done,
    output::Format,
};
use std::time::Duration;

/// Runs it.
///
/// # Errors
/// When it can't be printed.
pub async fn run(ctx: &Ctx<'_>) -> Done {
    let ask = async {
        let client = Client::open(ctx.global, Start::Never).await.ok()?;
        server::info(&client).await.ok()
    };
    let engine = tokio::time::timeout(Duration::from_secs(3), ask).await.ok().flatten().map(|i| i.version);
    match ctx.out.format {
        Format::Json | Format::Yaml => {
            ctx.out.value(&serde_json::json!({"sypctl": VERSION, "engine": engine}))?
        }
        Format::Name => ctx.out.data(VERSION),
        Format::Table => ctx.out.data(match engine {
            Some(e) => format!("sypctl {VERSION}\nengine {e}"),
            None => format!("sypctl {VERSION}"),
        }),
    }
    Ok(exit::OK)
}
