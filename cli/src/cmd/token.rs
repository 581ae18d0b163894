//! `sypctl token`: a token for an instance's data plane, for people; `machine.rs` has those of machines.
use super::Ctx;
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    parse, render,
};
use std::time::Duration;
use syp_proto::v1::{IssueLocalTokenRequest, IssueLocalTokenResponse};

mod machine;

/// Who the token is for.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct As {
    /// For somebody else: user:ADDRESS or sub:SUBJECT (the local engine's own issuer only)
    #[arg(long = "as", value_parser = somebody, value_name = "MEMBER")]
    who: Option<String>,
    /// With this group
    #[arg(long, value_name = "GROUP")]
    group: Vec<String>,
}

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  curl -H \"Authorization: Bearer $(sypctl token shop)\" http://127.0.0.1:PORT/
  sypctl token shop --as user:bob@example.com --group ml --ttl 1h
  sypctl token create shop --name ci --ttl 30d
  sypctl token ls
  sypctl token revoke ID

An instance that is called create, ls or revoke needs its full name: projects/default/instances/ls"
)]
pub struct Args {
    /// Tokens for machines
    #[command(subcommand)]
    machine: Option<machine::Command>,
    /// Name of the instance, or 'syp-api' for the engine itself
    #[arg(required = true)]
    name: Option<String>,
    /// Who it is for
    #[command(flatten)]
    who: As,
    /// How long it holds
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    ttl: Option<Duration>,
}

/// A member that a token can be made for.
fn somebody(text: &str) -> Result<String, String> {
    let m = parse::member(text)?;
    if m.starts_with("user:") || m.starts_with("sub:") {
        Ok(m)
    } else {
        Err("a token is for user:ADDRESS or sub:SUBJECT; groups go with --group".into())
    }
}

/// A token for an instance.
///
/// # Errors
/// When there is none to be had.
pub async fn issue(
    ctx: &Ctx<'_>,
    c: &Client,
    name: &str,
    who: &As,
    ttl: Option<Duration>,
) -> Result<IssueLocalTokenResponse, Failure> {
    let (email, subject) = match who.who.as_deref().and_then(|w| w.split_once(':')) {
        Some(("user", email)) => (email.to_owned(), String::new()),
        Some((_, subject)) => (String::new(), subject.to_owned()),
        None => Default::default(),
    };
    c.data_token(IssueLocalTokenRequest {
        audience: if name == "syp-api" { String::new() } else { ctx.full(name) },
        email,
        subject,
        groups: who.group.iter().map(|g| g.trim_start_matches("group:").to_owned()).collect(),
        ttl: ttl.map(parse::proto_duration),
    })
    .await
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    if let Some(c) = a.machine {
        return machine::run(ctx, c).await;
    }
    let name = a.name.unwrap_or_default();
    parse::name(&name).map_err(Failure::usage)?;
    let client = ctx.client().await?;
    let t = issue(ctx, &client, &name, &a.who, a.ttl).await?;
    if ctx.out.live && t.expire_time.is_some() {
        ctx.out.note(format!("valid until {}", render::time(t.expire_time.as_ref())));
    }
    ctx.out.document(&t, || t.token.clone(), || t.token.clone())?;
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_for_people_and_subjects() {
        assert_eq!(somebody("bob@example.com").unwrap(), "user:bob@example.com");
        assert!(somebody("sub:1").is_ok() && somebody("group:x").is_err() && somebody("bob").is_err());
    }
}
