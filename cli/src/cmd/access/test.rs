//! `sypctl access test`: would this caller be let in, and which rule says so?
use super::{Which, plane, resource};
use crate::{
    client::Client,
    cmd::Ctx,
    exit,
    failure::{Done, Failure},
    input, parse, render,
};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use syp_proto::{
    from_json,
    v1::{
        AccessPolicy, Principal, Role, TestAccessRequest, TestAccessResponse, access_client::AccessClient,
        test_access_request::Who,
    },
};

/// Who is asked about.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl access test shop --as user:bob@example.com,group:ml
  sypctl access test shop --as claim:dept=rd --path /admin --method POST
  sypctl access test shop --claims claims.json
  sypctl token shop | sypctl access test shop --token -
  sypctl access test shop --as user:bob@example.com --policy new-policy.yaml    (before it is set)
  sypctl access test shop --as user:bob@example.com --plane control

Exit code 0: let in, 6: not let in.")]
pub struct Args {
    /// Which policy
    #[command(flatten)]
    which: Which,
    /// Somebody: user: sub: group: claim:NAME=VALUE, several with commas
    #[arg(long = "as", value_name = "MEMBERS", value_delimiter = ',', value_parser = parse::member)]
    who: Vec<String>,
    /// Somebody with these claims: a JSON object in a file, '-' is standard input
    #[arg(long, value_name = "FILE")]
    claims: Option<String>,
    /// Whoever has this token; it is verified: @FILE, or '-' for standard input
    #[arg(long, value_name = "@FILE", required_unless_present_any = ["who", "claims"], conflicts_with_all = ["who", "claims", "issuer"])]
    token: Option<String>,
    /// The issuer of --as and --claims
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// Path of the request [default: /]
    #[arg(long, value_parser = parse::path, value_name = "/PATH")]
    path: Option<String>,
    /// Method of the request [default: GET]
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Ask about this policy (JSON or YAML, as 'access show -o json' prints it) instead of the one in force
    #[arg(long, value_name = "FILE")]
    policy: Option<String>,
}

/// Runs it.
///
/// # Errors
/// What the engine said.
pub async fn run(ctx: &Ctx<'_>, client: &Client, a: Args) -> Done {
    let candidate_policy = match &a.policy {
        None => None,
        Some(from) => Some(
            from_json::<AccessPolicy>(input::document("--policy", from)?)
                .map_err(|e| Failure::usage(format!("--policy: {e}")))?,
        ),
    };
    let claims = match &a.claims {
        None => Map::new(),
        Some(from) => match input::document("--claims", from)? {
            Value::Object(claims) => claims,
            _ => return Err(Failure::usage("--claims: a JSON object")),
        },
    };
    let (principal, claims) = somebody(&a, claims)?;
    let who = match &a.token {
        Some(from) => Who::Token(input::secret("--token", from)?.expose_secret().to_owned()),
        None => Who::Principal(principal),
    };
    let ask = TestAccessRequest {
        resource: resource(ctx, &a.which)?,
        plane: plane(&a.which) as i32,
        who: Some(who),
        path: a.path.clone().unwrap_or_default(),
        method: a.method.as_deref().unwrap_or_default().to_uppercase(),
        candidate_policy,
        claims_json: if claims.is_empty() { String::new() } else { Value::Object(claims).to_string() },
    };
    let said = client.call(ask, |ch, r| async move { AccessClient::new(ch).test_access(r).await }).await?;
    ctx.out.document(&said, || text(&said), || said.rule_id.clone())?;
    Ok(if said.allowed { exit::OK } else { exit::NOT_ALLOWED })
}

/// The members as a caller; claims are added to the given ones.
fn somebody(a: &Args, mut claims: Map<String, Value>) -> Result<(Principal, Map<String, Value>), Failure> {
    let mut p = Principal { issuer: a.issuer.clone().unwrap_or_default(), ..Default::default() };
    for m in &a.who {
        match m.split_once(':') {
            Some(("user", email)) => email.clone_into(&mut p.email),
            Some(("sub", subject)) => subject.clone_into(&mut p.subject),
            Some(("group", group)) => p.groups.push(group.to_owned()),
            Some(("claim", claim)) => {
                let (name, value) = claim.split_once('=').unwrap_or((claim, ""));
                claims.insert(name.to_owned(), Value::String(value.to_owned()));
            }
            _ => return Err(Failure::usage("--as takes user: sub: group: and claim:")),
        }
    }
    Ok((p, claims))
}

fn text(t: &TestAccessResponse) -> String {
    let mut out = Vec::new();
    let role = match t.role() {
        Role::Unspecified | Role::User => String::new(),
        role => format!(" as {}", role.as_str_name().to_lowercase()),
    };
    out.push(format!("{}{role}: {}", if t.allowed { "allowed" } else { "denied" }, t.reason));
    if !t.rule_id.is_empty() {
        let whose = if t.policy == "engine" { " of the engine's own policy" } else { "" };
        out.push(format!("by {}{whose}: {}", t.rule_id, t.rule));
    }
    if let Some(p) = &t.principal {
        let who = render::fields([
            ("  E-mail", p.email.clone()),
            ("  Subject", p.subject.clone()),
            ("  Issuer", p.issuer.clone()),
            ("  Groups", p.groups.join(", ")),
        ]);
        out.push(format!("the caller:\n{who}"));
    }
    if !t.missed.is_empty() {
        out.push("did not match:".into());
        out.extend(t.missed.iter().map(|m| format!("  {m}")));
    }
    if t.reason == "TOKEN_AUDIENCE" {
        out.push(format!("its audience must be {}", t.audiences.join(" or ")));
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_decided_is_said_first_and_then_why() {
        let t = TestAccessResponse {
            reason: "POLICY_NO_MATCH".into(),
            missed: vec!["rule-1: member: the caller is none of user:a@x.org".into()],
            ..Default::default()
        };
        assert_eq!(
            text(&t),
            "denied: POLICY_NO_MATCH\ndid not match:\n  rule-1: member: the caller is none of user:a@x.org"
        );
        let t = TestAccessResponse {
            allowed: true,
            reason: "POLICY_ALLOWED".into(),
            rule_id: "local".into(),
            rule: "allow sub:uid:0".into(),
            policy: "engine".into(),
            role: Role::Admin as i32,
            ..Default::default()
        };
        assert_eq!(
            text(&t),
            "allowed as admin: POLICY_ALLOWED\nby local of the engine's own policy: allow sub:uid:0"
        );
    }
}
