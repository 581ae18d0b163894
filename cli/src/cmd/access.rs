//! `sypctl access`: who may call, who may control.
use super::{Ctx, request_id};
use crate::{
    client::Client,
    exit,
    failure::{Done, Failure},
    parse, plan, render,
};
use syp_proto::v1::{
    self, AccessPolicy, GetAccessPolicyRequest, SetAccessPolicyRequest,
    access_client::AccessClient,
    access_policy::{Effect, Rule},
    plan_instance_request::Action,
};

mod history;
mod test;

/// How often a change is made anew when the instance changed under it.
const TRIES: u32 = 10;

/// Whose policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plane {
    /// Who may call the instance
    Data,
    /// Who may control it
    Control,
}

/// A role on the control plane.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Role {
    /// May look
    Viewer,
    /// May change instances
    Operator,
    /// May everything
    Admin,
}

/// Which policy.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// Name of the instance; '-' with --plane control is the engine's own policy
    #[arg(value_parser = name_or_engine)]
    name: String,
    /// Whose policy
    #[arg(long, value_enum, default_value = "data")]
    plane: Plane,
}

/// A change of a policy.
#[derive(Clone, Debug, clap::Args)]
pub struct Change {
    /// Which policy
    #[command(flatten)]
    which: Which,
    /// user: group: domain: sub: claim:
    #[arg(required = true, value_parser = parse::member, value_name = "MEMBER")]
    members: Vec<String>,
    /// Only for paths that begin so
    #[arg(long, value_parser = parse::path, value_name = "/PATH")]
    path: Vec<String>,
    /// Only tokens of this issuer; a subject means nothing without one
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The role that is given (control plane)
    #[arg(long, value_enum, default_value = "operator")]
    role: Role,
    /// Even when you lock yourself out
    #[arg(long)]
    force: bool,
    /// Only show who would gain and who would lose access
    #[arg(long)]
    plan: bool,
}

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show the rules, in the order they are tried; the first that fits decides, none denies
    #[command(
        after_help = "Examples:\n  sypctl access show shop\n  sypctl access show shop --plane control -o json"
    )]
    Show(Which),
    /// Let members in
    #[command(
        after_help = "Examples:\n  sypctl access allow shop user:bob@example.com group:ml@example.com\n  sypctl access allow shop domain:example.com --path /public"
    )]
    Allow(Change),
    /// Keep members out: a rule in front of all others
    #[command(
        after_help = "Examples:\n  sypctl access deny shop user:bob@example.com\n  sypctl access deny shop user:bob@example.com --remove    (only takes the permission back)"
    )]
    Deny {
        /// The change
        #[command(flatten)]
        change: Change,
        /// Remove them from the rules that let them in, instead of a rule that keeps them out
        #[arg(long)]
        remove: bool,
    },
    /// Who changed the rules, when and how; newest first
    History(history::Args),
    /// Would somebody be let in, by which rule, and if not, why not (exit code 6)
    Test(Box<test::Args>),
}

fn name_or_engine(text: &str) -> Result<String, String> {
    if text == "-" { Ok(text.into()) } else { parse::name(text) }
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, c: Command) -> Done {
    let client = ctx.client().await?;
    let (change, edit): (Change, fn(&mut AccessPolicy, &Change)) = match c {
        Command::Show(w) => {
            let p = get(ctx, &client, &w).await?;
            return shown(ctx, &p);
        }
        Command::Allow(c) => (c, allow),
        Command::Deny { change, remove: false } => (change, deny),
        Command::Deny { change, remove: true } => (change, remove),
        Command::History(h) => return history::run(ctx, &client, h).await,
        Command::Test(t) => return test::run(ctx, &client, *t).await,
    };
    let mut tries = 1;
    loop {
        let mut policy = get(ctx, &client, &change.which).await?;
        let before = policy.rules.clone();
        edit(&mut policy, &change);
        if policy.rules == before && !change.plan {
            ctx.out.note("nothing changes");
            return shown(ctx, &policy);
        }
        let ask = SetAccessPolicyRequest {
            resource: resource(ctx, &change.which)?,
            plane: plane(&change.which) as i32,
            policy: Some(policy),
            request_id: request_id(),
            validate_only: false,
            allow_self_lockout: change.force,
        };
        if change.plan {
            return plan::show(ctx, &client, Action::SetAccessPolicy(ask)).await;
        }
        match client.call(ask, |ch, r| async move { AccessClient::new(ch).set_access_policy(r).await }).await
        {
            // what changed may be nothing but a step of the engine: the change is made to what is there now
            Err(f) if f.reason() == "ETAG_MISMATCH" && tries < TRIES => tries += 1,
            done => return shown(ctx, &done?),
        }
    }
}

fn plane(w: &Which) -> v1::Plane {
    if w.plane == Plane::Control { v1::Plane::Control } else { v1::Plane::Data }
}

fn resource(ctx: &Ctx<'_>, w: &Which) -> Result<String, Failure> {
    match (w.name.as_str(), w.plane) {
        ("-", Plane::Data) => {
            Err(Failure::usage("the engine itself has only a control plane: --plane control"))
        }
        ("-", Plane::Control) => Ok(String::new()),
        (name, _) => Ok(ctx.full(name)),
    }
}

async fn get(ctx: &Ctx<'_>, c: &Client, w: &Which) -> Result<AccessPolicy, Failure> {
    let ask = GetAccessPolicyRequest { resource: resource(ctx, w)?, plane: plane(w) as i32 };
    c.call(ask, |ch, r| async move { AccessClient::new(ch).get_access_policy(r).await }).await
}

fn made(c: &Change, effect: Effect) -> Vec<Rule> {
    let role = match (c.which.plane, c.role) {
        (Plane::Data, _) => v1::Role::User,
        (Plane::Control, Role::Viewer) => v1::Role::Viewer,
        (Plane::Control, Role::Operator) => v1::Role::Operator,
        (Plane::Control, Role::Admin) => v1::Role::Admin,
    };
    let mut rules = parse::rules(&c.members, effect, role, &c.path);
    if let Some(issuer) = &c.issuer {
        rules.iter_mut().for_each(|r| r.issuer.clone_from(issuer));
    }
    rules
}

/// Adds rules at the end, without what is there already.
fn allow(p: &mut AccessPolicy, c: &Change) {
    for rule in made(c, Effect::Allow) {
        if !p.rules.iter().any(|r| Rule { id: String::new(), ..r.clone() } == rule) {
            p.rules.push(rule);
        }
    }
}

/// Puts rules in front.
fn deny(p: &mut AccessPolicy, c: &Change) {
    for rule in made(c, Effect::Deny).into_iter().rev() {
        if p.rules.first().is_none_or(|r| Rule { id: String::new(), ..r.clone() } != rule) {
            p.rules.insert(0, rule);
        }
    }
}

/// Takes members out of the rules that admit them; a rule that named only them goes.
fn remove(p: &mut AccessPolicy, c: &Change) {
    let claims: Vec<_> = c.members.iter().filter_map(|m| m.strip_prefix("claim:")?.split_once('=')).collect();
    p.rules.retain_mut(|r| {
        if r.effect() != Effect::Allow || !(c.path.is_empty() || r.path_prefixes == c.path) {
            return true;
        }
        let named = !r.members.is_empty();
        r.members.retain(|m| !c.members.contains(m));
        let claim = r.members.is_empty()
            && r.claims.len() == 1
            && claims.iter().any(|(k, v)| r.claims.get(*k).is_some_and(|x| x == v));
        !((named && r.members.is_empty()) || (claim && !named))
    });
}

fn shown(ctx: &Ctx<'_>, p: &AccessPolicy) -> Done {
    ctx.out.document(
        p,
        || text(p),
        || p.rules.iter().flat_map(|r| r.members.clone()).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(exit::OK)
}

fn text(p: &AccessPolicy) -> String {
    let line = |(n, r): (usize, &Rule)| {
        let effect = if r.effect() == Effect::Deny { "deny " } else { "allow" };
        let role = if r.role() == v1::Role::User || r.role == 0 {
            String::new()
        } else {
            format!(" as {}", r.role().as_str_name().to_lowercase())
        };
        let issuer = if r.issuer.is_empty() { String::new() } else { format!(" (issuer {})", r.issuer) };
        format!("{}. {effect} {}{role}{issuer}", n + 1, render::rule(r).trim_start_matches("not "))
    };
    let rules = p.rules.iter().enumerate().map(line).collect::<Vec<_>>().join("\n");
    if rules.is_empty() { "no rule: nobody".into() } else { format!("{rules}\neverybody else: deny") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(members: &[&str]) -> Change {
        Change {
            which: Which { name: "shop".into(), plane: Plane::Data },
            members: members.iter().map(|m| (*m).to_owned()).collect(),
            path: vec![],
            issuer: None,
            role: Role::Operator,
            force: false,
            plan: false,
        }
    }

    #[test]
    fn allow_adds_once_deny_goes_first_remove_takes_back() {
        let mut p = AccessPolicy::default();
        allow(&mut p, &change(&["user:a@x", "user:b@x"]));
        allow(&mut p, &change(&["user:a@x", "user:b@x"]));
        assert_eq!(p.rules.len(), 1);
        deny(&mut p, &change(&["user:b@x"]));
        deny(&mut p, &change(&["user:b@x"]));
        assert_eq!((p.rules.len(), p.rules[0].effect()), (2, Effect::Deny));
        assert_eq!(text(&p), "1. deny  user:b@x\n2. allow user:a@x, user:b@x\neverybody else: deny");
        remove(&mut p, &change(&["user:a@x"]));
        assert_eq!(p.rules[1].members, ["user:b@x"]);
        remove(&mut p, &change(&["user:b@x"]));
        assert_eq!(p.rules.len(), 1, "the deny rule stays");
        allow(&mut p, &change(&["claim:dept=rd"]));
        remove(&mut p, &change(&["claim:dept=rd"]));
        assert_eq!(p.rules.len(), 1);
    }
}
