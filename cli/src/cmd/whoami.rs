//! `sypctl whoami`: who we are to the engine.
use super::Ctx;
use crate::{exit, failure::Done, render};
use syp_proto::v1::{Principal, WhoAmIRequest, access_client::AccessClient};

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>) -> Done {
    let client = ctx.client().await?;
    let p =
        client.call(WhoAmIRequest {}, |ch, r| async move { AccessClient::new(ch).who_am_i(r).await }).await?;
    let name = || if p.email.is_empty() { format!("sub:{}", p.subject) } else { format!("user:{}", p.email) };
    ctx.out.document(&p, || text(&p), name)?;
    Ok(exit::OK)
}

fn text(p: &Principal) -> String {
    render::fields([
        ("E-mail", p.email.clone()),
        ("Subject", p.subject.clone()),
        ("Issuer", p.issuer.clone()),
        ("Groups", p.groups.join(", ")),
        ("Role", if p.role == 0 { "none".into() } else { p.role().as_str_name().to_lowercase() }),
        ("Token until", p.expire_time.as_ref().map_or_else(String::new, |t| render::time(Some(t)))),
    ])
}
