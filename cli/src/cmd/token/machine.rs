//! `sypctl token create`, `ls`, `revoke`: tokens for machines.
use crate::{
    cmd::{Ctx, request_id},
    exit,
    failure::{Done, Failure},
    parse, plan, render,
};
use std::time::Duration;
use syp_proto::v1::{
    CreateTokenRequest, ListTokensRequest, ListTokensResponse, RevokeTokenRequest, Role, Token,
    access_client::AccessClient, plan_instance_request::Action,
};

/// A role on the control plane.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Control {
    /// May look
    Viewer,
    /// May change instances
    Operator,
    /// May everything
    Admin,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make a token: for an instance, or for the engine with --control; it is printed this once
    #[command(after_help = "\
Examples:
  sypctl token create shop --name ci --ttl 30d > token
  sypctl token create shop --name probe --ttl 365d --path /healthz
  SYPCTL_TOKEN=$(sypctl token create --control operator --name deploy --ttl 1h) sypctl ls

Policies can name it: sypctl access deny shop token:ID")]
    Create(Create),
    /// List the tokens of an instance, or all that you may see
    #[command(after_help = "Examples:\n  sypctl token ls\n  sypctl token ls shop -o json")]
    Ls {
        /// Name of the instance
        #[arg(value_parser = parse::name)]
        instance: Option<String>,
    },
    /// Revoke tokens: refused within 2 seconds, and what they have under way is cut
    #[command(after_help = "Examples:\n  sypctl token revoke 3fa9c4d1e2b7")]
    Revoke {
        /// Ids, as 'token ls' shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Only show who would lose access
        #[arg(long)]
        plan: bool,
    },
}

/// A new token.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Name of the instance
    #[arg(value_parser = parse::name, required_unless_present = "control")]
    instance: Option<String>,
    /// For the engine itself, with this role (at most your own)
    #[arg(long, value_enum, value_name = "ROLE", conflicts_with_all = ["instance", "path"])]
    control: Option<Control>,
    /// What it is for, to tell it from the others
    #[arg(long = "name", value_name = "NAME")]
    display_name: String,
    /// How long it holds, at most 365d
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    ttl: Duration,
    /// Only for paths that begin so
    #[arg(long, value_parser = parse::path, value_name = "/PATH")]
    path: Vec<String>,
    /// Only show who would gain access, to what
    #[arg(long)]
    plan: bool,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    match c {
        Command::Create(c) => create(ctx, c).await,
        Command::Ls { instance } => ls(ctx, instance.as_deref()).await,
        Command::Revoke { ids, plan } => revoke(ctx, &ids, plan).await,
    }
}

async fn create(ctx: &Ctx<'_>, c: Create) -> Done {
    let role = match c.control {
        None => Role::Unspecified,
        Some(Control::Viewer) => Role::Viewer,
        Some(Control::Operator) => Role::Operator,
        Some(Control::Admin) => Role::Admin,
    };
    let ask = CreateTokenRequest {
        parent: c.instance.as_deref().map_or_else(String::new, |n| ctx.full(n)),
        token: Some(Token {
            display_name: c.display_name,
            role: role as i32,
            path_prefixes: c.path,
            ..Default::default()
        }),
        ttl: Some(parse::proto_duration(c.ttl)),
        request_id: request_id(),
        validate_only: false,
    };
    let client = ctx.client().await?;
    if c.plan {
        return plan::show(ctx, &client, Action::CreateToken(ask)).await;
    }
    let t = client.call(ask, |ch, r| async move { AccessClient::new(ch).create_token(r).await }).await?;
    let id = id(&t);
    if t.value.is_empty() {
        let what = format!("token {id} was made, and the answer with its value was lost on the way");
        let hint = format!("sypctl token revoke {id}, then make another");
        return Err(Failure::new(exit::FAILED, "", what, hint));
    }
    let until = render::time(t.expire_time.as_ref());
    ctx.out.note(format!("token {id}, good until {until}; it is shown this once"));
    ctx.out.document(&t, || t.value.clone(), || t.value.clone())?;
    Ok(exit::OK)
}

async fn ls(ctx: &Ctx<'_>, instance: Option<&str>) -> Done {
    let client = ctx.client().await?;
    let mut all = ListTokensResponse::default();
    let parents = match instance {
        Some(name) => vec![ctx.full(name)],
        None => vec![String::new(), ctx.parent()],
    };
    for parent in parents {
        let mut ask = ListTokensRequest { parent, page_size: 1000, ..Default::default() };
        loop {
            let page = client
                .call_provider(ask.clone(), |ch, r| async move { AccessClient::new(ch).list_tokens(r).await })
                .await;
            let page = match page {
                // operators of an instance see its tokens, not those of the engine
                Err(f) if ask.parent.is_empty() && f.reason() == "PERMISSION_DENIED" => break,
                page => page?,
            };
            all.tokens.extend(page.tokens);
            if page.next_page_token.is_empty() {
                break;
            }
            ask.page_token = page.next_page_token;
        }
    }
    let names = || all.tokens.iter().map(id).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, || text(&all, ctx.out.colours), names)?;
    Ok(exit::OK)
}

fn text(all: &ListTokensResponse, colours: bool) -> String {
    let now = render::now_ms();
    let row = |t: &Token| {
        let what = match t.role() {
            Role::Unspecified | Role::User => parse::short_name(&t.resource).to_owned(),
            role => format!("engine, {}", role.as_str_name().to_lowercase()),
        };
        let end = match t.expire_time.as_ref() {
            Some(e) if render::millis(e) <= now => "ended".to_owned(),
            end => render::time(end),
        };
        let paths = if t.path_prefixes.is_empty() { "all".to_owned() } else { t.path_prefixes.join(" ") };
        [
            id(t),
            t.display_name.clone(),
            what,
            paths,
            end,
            render::time(t.last_use_time.as_ref()),
            t.creator.clone(),
        ]
    };
    let head = ["ID", "NAME", "FOR", "PATHS", "UNTIL", "LAST USE", "MADE BY"];
    render::table(&head, all.tokens.iter().map(row), colours)
}

fn id(t: &Token) -> String {
    t.name.rsplit('/').next().unwrap_or_default().to_owned()
}

async fn revoke(ctx: &Ctx<'_>, ids: &[String], only_plan: bool) -> Done {
    let client = ctx.client().await?;
    for id in ids {
        let name = if id.contains('/') { id.clone() } else { format!("tokens/{id}") };
        let ask = RevokeTokenRequest { name, request_id: request_id(), validate_only: false };
        if only_plan {
            plan::show(ctx, &client, Action::RevokeToken(ask)).await?;
            continue;
        }
        client.call(ask, |ch, r| async move { AccessClient::new(ch).revoke_token(r).await }).await?;
        ctx.out.note(format!("{id} is revoked"));
    }
    Ok(exit::OK)
}
