//! `sypctl secret`: values that several instances use. They go in, and never come out.
use super::{Ctx, get, request_id};
use crate::{
    args::Work,
    change, exit,
    failure::{Done, Failure},
    follow, output, parse, plan, render, secrets,
};
use prost_types::FieldMask;
use syp_proto::{
    google::longrunning::Operation,
    v1::{
        self, AccessPolicy, AddSecretVersionRequest, CreateSecretRequest, DeleteSecretRequest,
        GetSecretRequest, ListSecretsRequest, ListSecretsResponse, Secret, SecretVersion,
        UpdateSecretRequest, access_policy::Effect, plan_instance_request::Action,
        secrets_client::SecretsClient,
    },
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Make one with its first value
    #[command(after_help = "\
Examples:
  sypctl secret create db-password=@./pw
  pass show db | sypctl secret create db-password=-
  sypctl secret create tls-key=@./key.pem --operator user:alice@example.com --operator group:ml@example.com

Then: sypctl up shop --image my/shop --secret PASSWORD=secret:db-password

Its operators (by default only you) may give it to instances, add versions and delete it. Whoever may give it to an instance can
read it there; an operator of the engine who is not one of them can't.")]
    Create(Create),
    /// Add a version: instances that follow the secret get it, one replica after another, without a lost request
    #[command(after_help = "\
Examples:
  sypctl secret add db-password=@./new
  sypctl secret add db-password=- --no-wait
  sypctl secret add db-password=@./new --no-rollout

Only instances that use it are changed, and of those not the ones that stay at a version (secret:NAME@VERSION). The value of the
newest version again adds none.")]
    Add(Add),
    /// List the secrets
    #[command(after_help = "Examples:\n  sypctl secret ls\n  sypctl secret ls -o json")]
    Ls,
    /// Versions, who made them, which instances use it; never the value
    #[command(
        after_help = "Examples:\n  sypctl secret show db-password\n  sypctl secret show db-password -o json"
    )]
    Show {
        /// Name
        #[arg(value_parser = parse::name)]
        name: String,
    },
    /// Who may give it to instances, add versions and delete it
    #[command(
        after_help = "Examples:\n  sypctl secret set db-password --operator user:alice@example.com --operator group:ml@example.com"
    )]
    Set {
        /// Name
        #[arg(value_parser = parse::name)]
        name: String,
        /// All of them, in place of those that there are
        #[arg(long, value_parser = parse::member, value_name = "MEMBER", required = true)]
        operator: Vec<String>,
        /// Only show who would gain and who would lose it
        #[arg(long)]
        plan: bool,
    },
    /// Delete one that no instance uses
    #[command(after_help = "Examples:\n  sypctl secret rm db-password --yes")]
    Rm {
        /// Name
        #[arg(value_parser = parse::name)]
        name: String,
        /// Also when earlier revisions use it: one can't go back to them then
        #[arg(long)]
        force: bool,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
        /// Only show what would be lost
        #[arg(long)]
        plan: bool,
    },
}

/// A new secret.
#[derive(Debug, clap::Args)]
pub struct Create {
    /// Its name, and where the value is
    #[arg(value_parser = secrets::value, value_name = "NAME=@FILE|-")]
    value: secrets::Named,
    /// Who may use and change it [default: only you]
    #[arg(long, value_parser = parse::member, value_name = "MEMBER")]
    operator: Vec<String>,
    /// A label
    #[arg(short = 'l', long = "label", value_parser = parse::key_value, value_name = "NAME=VALUE")]
    labels: Vec<(String, String)>,
    /// Only check, and show who could use it
    #[arg(long)]
    plan: bool,
}

/// A new version.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The secret, and where the value is
    #[arg(value_parser = secrets::value, value_name = "NAME=@FILE|-")]
    value: secrets::Named,
    /// Leave the instances that use it as they are
    #[arg(long)]
    no_rollout: bool,
    /// Only when nothing has changed since this etag ('sypctl secret show -o json' has it)
    #[arg(long, default_value = "")]
    etag: String,
    /// Only show which instances would get it
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
}

fn full(ctx: &Ctx<'_>, name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { format!("{}/secrets/{name}", ctx.parent()) }
}

fn operators(members: &[String]) -> Option<AccessPolicy> {
    let rules = parse::rules(members, Effect::Allow, v1::Role::Operator, &[]);
    (!members.is_empty()).then(|| AccessPolicy { rules, etag: String::new() })
}

/// Runs it.
///
/// # Errors
/// What the engine said, or what an update failed with.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    match c {
        Command::Create(c) => create(ctx, c).await,
        Command::Add(a) => add(ctx, a).await,
        Command::Ls => ls(ctx).await,
        Command::Show { name } => show(ctx, &name).await,
        Command::Set { name, operator, plan } => set(ctx, &name, &operator, plan).await,
        Command::Rm { name, force, yes, plan } => rm(ctx, &name, force, yes, plan).await,
    }
}

async fn create(ctx: &Ctx<'_>, c: Create) -> Done {
    let ask = CreateSecretRequest {
        parent: ctx.parent(),
        secret_id: c.value.name.clone(),
        secret: Some(Secret {
            labels: c.labels.into_iter().collect(),
            operators: operators(&c.operator),
            ..Default::default()
        }),
        request_id: request_id(),
        payload: secrets::read(&c.value)?,
        ..Default::default()
    };
    let client = ctx.client().await?;
    if c.plan {
        return plan::show(ctx, &client, Action::CreateSecret(ask)).await;
    }
    let s = client.call(ask, |ch, r| async move { SecretsClient::new(ch).create_secret(r).await }).await?;
    let words = || format!("{} is at version {}", short(&s.name), s.latest_version);
    ctx.out.document(&s, words, || short(&s.name).to_owned())?;
    Ok(exit::OK)
}

async fn add(ctx: &Ctx<'_>, a: Add) -> Done {
    let ask = AddSecretVersionRequest {
        parent: full(ctx, &a.value.name),
        payload: secrets::read(&a.value)?,
        no_rollout: a.no_rollout,
        request_id: request_id(),
        etag: a.etag.clone(),
        ..Default::default()
    };
    let client = ctx.client().await?;
    if a.plan {
        return plan::show(ctx, &client, Action::AddSecretVersion(ask)).await;
    }
    if !a.work.yes && !a.no_rollout && ctx.out.may_ask() {
        let used = one(&client, full(ctx, &a.value.name)).await?;
        let names = following(&used);
        if !names.is_empty() && !ctx.out.ask(&format!("Roll it out to {}?", names.join(", ")), true) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
    }
    let v = client
        .call_provider(ask, |ch, r| async move { SecretsClient::new(ch).add_secret_version(r).await })
        .await?;
    let text = || {
        let mut lines = vec![format!("{} is at version {}", a.value.name, short(&v.name))];
        lines.extend(v.rollouts.iter().map(|r| match r.operation.as_str() {
            "" => format!("  {} waits for {}", parse::short_name(&r.instance), r.waiting_for),
            op => {
                format!("  {} gets it: sypctl op watch {}", parse::short_name(&r.instance), follow::short(op))
            }
        }));
        lines.join("\n")
    };
    ctx.out.document(&v, text, || v.name.clone())?;
    if a.work.no_wait { Ok(exit::OK) } else { finish(ctx, &client, &v).await }
}

/// Follows the updates that have begun; one that fails does not keep the others from being told.
async fn finish(ctx: &Ctx<'_>, client: &crate::client::Client, v: &SecretVersion) -> Done {
    let mut worst = None::<Failure>;
    for r in v.rollouts.iter().filter(|r| !r.operation.is_empty()) {
        let name = parse::short_name(&r.instance);
        let op = Operation { name: r.operation.clone(), ..Default::default() };
        match change::finish(ctx, client, op, &r.instance).await {
            Ok(i) if ctx.out.format == output::Format::Table => ctx.out.data(change::in_words(&i)),
            Ok(_) => {}
            Err(f) if f.exit() == exit::INTERRUPTED => return Err(f),
            Err(f) => {
                if let Some(earlier) = worst.replace(f.about(name)) {
                    ctx.out.failure(&earlier);
                }
            }
        }
    }
    let waiting: Vec<_> = v.rollouts.iter().filter(|r| r.operation.is_empty()).collect();
    for r in &waiting {
        // it may have begun meanwhile, and the engine goes on by itself
        let i = get(client, r.instance.clone()).await;
        let state = i.map_or_else(|_| String::new(), |i| format!(", which is {}", i.state().as_str_name()));
        ctx.out.note(format!("the engine goes on with {}{state}", parse::short_name(&r.instance)));
    }
    worst.map_or(Ok(exit::OK), Err)
}

async fn ls(ctx: &Ctx<'_>) -> Done {
    let client = ctx.client().await?;
    let mut all = ListSecretsResponse::default();
    let mut ask = ListSecretsRequest { parent: ctx.parent(), page_size: 1000, ..Default::default() };
    loop {
        let page = client
            .call(ask.clone(), |ch, r| async move { SecretsClient::new(ch).list_secrets(r).await })
            .await?;
        all.secrets.extend(page.secrets);
        if page.next_page_token.is_empty() {
            break;
        }
        ask.page_token = page.next_page_token;
    }
    let row = |s: &Secret| {
        let used = if s.bound_instances.is_empty() {
            "nobody".to_owned()
        } else {
            s.bound_instances.len().to_string()
        };
        [
            short(&s.name).to_owned(),
            s.latest_version.clone(),
            render::time(s.update_time.as_ref()),
            used,
            s.creator.clone(),
        ]
    };
    let head = ["NAME", "VERSION", "CHANGED", "USED BY", "MADE BY"];
    let table = || render::table(&head, all.secrets.iter().map(row), ctx.out.colours);
    let names = || all.secrets.iter().map(|s| short(&s.name)).collect::<Vec<_>>().join("\n");
    ctx.out.document(&all, table, names)?;
    Ok(exit::OK)
}

async fn show(ctx: &Ctx<'_>, name: &str) -> Done {
    let s = one(&ctx.client().await?, full(ctx, name)).await?;
    ctx.out.document(&s, || text(&s, ctx.out.colours), || short(&s.name).to_owned())?;
    Ok(exit::OK)
}

async fn set(ctx: &Ctx<'_>, name: &str, members: &[String], only_plan: bool) -> Done {
    let client = ctx.client().await?;
    let ask = UpdateSecretRequest {
        secret: Some(Secret { name: full(ctx, name), operators: operators(members), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["operators".into()] }),
        request_id: request_id(),
        ..Default::default()
    };
    if only_plan {
        return plan::show(ctx, &client, Action::UpdateSecret(ask)).await;
    }
    let s = client.call(ask, |ch, r| async move { SecretsClient::new(ch).update_secret(r).await }).await?;
    ctx.out.document(&s, || format!("operators of {name}: {}", who(&s)), || short(&s.name).to_owned())?;
    Ok(exit::OK)
}

async fn rm(ctx: &Ctx<'_>, name: &str, force: bool, yes: bool, only_plan: bool) -> Done {
    let client = ctx.client().await?;
    let ask =
        DeleteSecretRequest { name: full(ctx, name), force, request_id: request_id(), ..Default::default() };
    if only_plan {
        return plan::show(ctx, &client, Action::DeleteSecret(ask)).await;
    }
    if !yes && ctx.out.may_ask() && !ctx.out.ask(&format!("Delete the secret {name} for good?"), false) {
        return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
    }
    client.call(ask, |ch, r| async move { SecretsClient::new(ch).delete_secret(r).await }).await?;
    ctx.out.note(format!("{name} is deleted"));
    Ok(exit::OK)
}

async fn one(client: &crate::client::Client, name: String) -> Result<Secret, Failure> {
    let ask = GetSecretRequest { name };
    client.call(ask, |ch, r| async move { SecretsClient::new(ch).get_secret(r).await }).await
}

/// The last part of a name.
fn short(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or_default()
}

/// Instances that a new version comes to.
fn following(s: &Secret) -> Vec<&str> {
    let mut out: Vec<_> =
        s.uses.iter().filter(|u| u.serving && !u.pinned).map(|u| parse::short_name(&u.instance)).collect();
    out.dedup();
    out
}

fn who(s: &Secret) -> String {
    let rules = s.operators.iter().flat_map(|p| &p.rules);
    rules.flat_map(|r| &r.members).cloned().collect::<Vec<_>>().join(", ")
}

fn text(s: &Secret, colours: bool) -> String {
    let rolling = if s.rolling_out { ", not yet at all that follow" } else { "" };
    let mut out = format!(
        "{}: version {}{rolling}\nmade by {} at {}, operators: {}\n\n",
        short(&s.name),
        s.latest_version,
        s.creator,
        render::time(s.create_time.as_ref()),
        who(s)
    );
    let version = |v: &SecretVersion| {
        [short(&v.name).to_owned(), render::time(v.create_time.as_ref()), v.creator.clone()]
    };
    out.push_str(&render::table(&["VERSION", "SINCE", "BY"], s.versions.iter().map(version), colours));
    if s.uses.is_empty() {
        out.push_str("\nno instance uses it");
        return out;
    }
    let usage = |u: &v1::SecretUse| {
        let version = format!("{}{}", u.version, if u.pinned { ", pinned" } else { "" });
        let as_what = if u.env.is_empty() { &u.file } else { &u.env };
        let now = if u.serving { "serves" } else { "earlier" };
        [u.revision.clone(), now.to_owned(), as_what.clone(), version]
    };
    out.push('\n');
    out.push_str(&render::table(&["USED BY", "", "AS", "VERSION"], s.uses.iter().map(usage), colours));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_version_comes_to_is_named_once_and_what_is_pinned_or_past_is_not() {
        let u = |name: &str, env: &str, pinned, serving| v1::SecretUse {
            instance: format!("projects/default/instances/{name}"),
            env: env.into(),
            pinned,
            serving,
            ..Default::default()
        };
        let s = Secret {
            uses: vec![
                u("a", "X", false, true),
                u("a", "Y", false, true),
                u("b", "X", true, true),
                u("c", "X", false, false),
            ],
            ..Default::default()
        };
        assert_eq!(following(&s), ["a"]);
        assert!(text(&s, false).contains("pinned"));
    }
}
