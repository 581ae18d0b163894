//! Machine tokens over the API: shown once, never kept, no more than their maker may, gone when revoked.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_engine::store::Kv;
use syp_proto::v1::{
    self, AccessPolicy, CreateTokenRequest, GetInstanceRequest, ListTokensRequest, RevokeTokenRequest, Role,
    TestAccessRequest, Token, WatchAuditEventsRequest,
    access_client::AccessClient,
    access_policy::{Effect, Rule},
    audit_client::AuditClient,
    instances_client::InstancesClient,
    test_access_request::Who,
};
use syp_tests::{
    api::{Conn, World, refusal},
    oidc::until,
    product::{Engine, binary, get},
};
use tonic::Code;

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";

async fn world() -> Result<(World, AccessClient<Conn>)> {
    let w = World::serving("shop").await?;
    let access = AccessClient::new(w.connect(ADMIN).await?);
    Ok((w, access))
}

fn ask(parent: &str, role: Role) -> CreateTokenRequest {
    CreateTokenRequest {
        parent: parent.into(),
        token: Some(Token { display_name: "ci".into(), role: role as i32, ..Default::default() }),
        ttl: Some(prost_types::Duration { seconds: 3600, nanos: 0 }),
        ..Default::default()
    }
}

async fn list(c: &mut AccessClient<Conn>, parent: &str) -> Result<Vec<Token>> {
    let ask = ListTokensRequest { parent: parent.into(), ..Default::default() };
    Ok(c.list_tokens(ask).await?.into_inner().tokens)
}

fn revoke(name: &str) -> RevokeTokenRequest {
    RevokeTokenRequest { name: name.into(), ..Default::default() }
}

fn uuid() -> String {
    "7b1f8a52-13cd-4c27-9d0e-5a7d4c0e1f11".into()
}

/// Whether the disk has these bytes anywhere.
fn on_disk(w: &World, what: &str) -> Result<bool> {
    let all = w.disk.scan(&[], &[0xff], usize::MAX, false)?;
    Ok(all.iter().any(|(_, v)| v.windows(what.len()).any(|x| x == what.as_bytes())))
}

#[tokio::test]
async fn a_token_of_an_instance_is_shown_once_and_kept_as_a_hash() -> Result<()> {
    let (mut w, mut c) = world().await?;
    let mut request = CreateTokenRequest { request_id: uuid(), ..ask(SHOP, Role::Unspecified) };
    request.token.get_or_insert_default().path_prefixes = vec!["/hooks".into()];
    let made = c.create_token(request.clone()).await?.into_inner();
    ensure!(made.value.starts_with("syp_") && made.value.len() == 47, "the value has another form");
    let again = c.create_token(request).await?.into_inner();
    ensure!(
        again.value.is_empty() && again.name == made.name,
        "one request, one token, shown once: {again:?}"
    );
    let all = list(&mut c, SHOP).await?;
    ensure!(all.len() == 1 && all[0].value.is_empty() && all[0].path_prefixes == ["/hooks"], "{all:?}");
    ensure!(all[0].creator == "user:admin@example.com" && all[0].resource == SHOP, "{all:?}");
    ensure!(list(&mut c, "projects/-").await? == all && list(&mut c, "").await?.is_empty());
    ensure!(!on_disk(&w, &made.value)?, "the value is in the store");
    ensure!(on_disk(&w, "ci")?, "we look where it would be");
    // it is asked about like everybody
    let test = |path: &str| TestAccessRequest {
        resource: SHOP.into(),
        who: Some(Who::Token(made.value.clone())),
        path: path.into(),
        ..Default::default()
    };
    let t = c.test_access(test("/hooks/1")).await?.into_inner();
    ensure!(t.allowed && t.rule_id.starts_with("token-"), "{t:?}");
    let t = c.test_access(test("/")).await?.into_inner();
    ensure!(!t.allowed && t.reason == "TOKEN_SCOPE" && t.missed[0].contains("/hooks"), "{t:?}");
    // of the instance alone: the API does not know it
    let mut with_it = InstancesClient::new(w.connect_with(Some(&made.value)).await?);
    let get = GetInstanceRequest { name: SHOP.into(), ..Default::default() };
    ensure!(refusal(with_it.get_instance(get).await) == (Code::Unauthenticated, "TOKEN_UNKNOWN".into()));
    // over a restart, and gone when revoked, by its id alone
    w.kill().await;
    w.start().await?;
    let mut c = AccessClient::new(w.connect(ADMIN).await?);
    ensure!(list(&mut c, SHOP).await?.len() == 1, "it is still there");
    let id = made.name.rsplit('/').next().context("an id")?;
    c.revoke_token(revoke(&format!("tokens/{id}"))).await?;
    ensure!(list(&mut c, SHOP).await?.is_empty());
    ensure!(c.test_access(test("/hooks/1")).await?.into_inner().reason == "TOKEN_UNKNOWN");
    ensure!(refusal(c.revoke_token(revoke(&made.name)).await).0 == Code::NotFound, "it is gone already");
    let mut server = v1::server_client::ServerClient::new(w.connect(ADMIN).await?);
    let fsck = server.check_store(v1::CheckStoreRequest {}).await?.into_inner();
    ensure!(fsck.problems.is_empty(), "{fsck:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_of_the_engine_has_its_role_until_it_is_revoked_and_what_it_watches_ends() -> Result<()> {
    let (mut w, mut c) = world().await?;
    let made = c.create_token(ask("", Role::Admin)).await?.into_inner();
    ensure!(!on_disk(&w, &made.value)?, "the value is in the store");
    w.kill().await;
    w.start().await?;
    let with_it = w.connect_with(Some(&made.value)).await?;
    let who = AccessClient::new(with_it.clone()).who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    let id = made.name.rsplit('/').next().context("an id")?.to_owned();
    ensure!(who.subject == format!("token:{id}") && who.role() == Role::Admin, "{who:?}");
    let mut audit = AuditClient::new(with_it.clone());
    let mut live = audit.watch_audit_events(WatchAuditEventsRequest::default()).await?.into_inner();
    // what it does is known as its doing
    let of_it = v1::ListAuditEventsRequest { filter: format!("actor=token:{id}"), ..Default::default() };
    // rows of calls that only read are written in batches
    let mut rows = Vec::new();
    for _ in 0..500 {
        rows = audit.list_audit_events(of_it.clone()).await?.into_inner().audit_events;
        if rows.iter().any(|r| r.method.ends_with("WhoAmI")) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ensure!(rows.iter().any(|r| r.method.ends_with("WhoAmI")), "{rows:?}");
    ensure!(
        refusal(AccessClient::new(with_it.clone()).create_token(ask("", Role::Viewer)).await).0
            == Code::PermissionDenied,
        "a token makes no tokens"
    );
    let mut c = AccessClient::new(w.connect(ADMIN).await?);
    let used = list(&mut c, "").await?;
    ensure!(used.len() == 1 && used[0].last_use_time.is_some(), "{used:?}");
    c.revoke_token(revoke(&made.name)).await?;
    let end = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            if let Err(e) = live.message().await {
                return e;
            }
        }
    });
    let end = refusal::<()>(Err(end.await.context("the stream goes on")?));
    ensure!(end == (Code::Unauthenticated, "TOKEN_UNKNOWN".into()), "{end:?}");
    let no = AccessClient::new(with_it).who_am_i(v1::WhoAmIRequest {}).await;
    ensure!(refusal(no) == (Code::Unauthenticated, "TOKEN_UNKNOWN".into()));
    Ok(())
}

#[tokio::test]
async fn nobody_makes_a_token_that_may_more_than_they() -> Result<()> {
    let (w, mut c) = world().await?;
    let rule = Rule {
        effect: Effect::Allow as i32,
        members: vec!["user:bob@example.com".into()],
        role: Role::Operator as i32,
        ..Default::default()
    };
    let set = v1::SetAccessPolicyRequest {
        resource: SHOP.into(),
        plane: v1::Plane::Control as i32,
        policy: Some(AccessPolicy { rules: vec![rule], etag: String::new() }),
        allow_self_lockout: true,
        ..Default::default()
    };
    c.set_access_policy(set).await?;
    let mut bob = AccessClient::new(w.connect(Some("bob@example.com")).await?);
    let his = bob.create_token(ask(SHOP, Role::Unspecified)).await?.into_inner();
    ensure!(
        refusal(bob.create_token(ask("", Role::Viewer)).await).0 == Code::PermissionDenied,
        "of the engine"
    );
    ensure!(refusal(bob.list_tokens(ListTokensRequest::default()).await).0 == Code::PermissionDenied);
    ensure!(list(&mut bob, "projects/-").await?.len() == 1, "those of his instance");
    let operator = c.create_token(ask("", Role::Operator)).await?.into_inner();
    let admin = c.create_token(ask("", Role::Admin)).await?.into_inner();
    ensure!(refusal(bob.revoke_token(revoke(&admin.name)).await).0 == Code::PermissionDenied);
    // an operator's token drives instances and is no administrator
    let with_it = w.connect_with(Some(&operator.value)).await?;
    let mut by_token = AccessClient::new(with_it);
    ensure!(refusal(by_token.revoke_token(revoke(&admin.name)).await).0 == Code::PermissionDenied);
    by_token.revoke_token(revoke(&his.name)).await?;
    let mut stranger = AccessClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(refusal(stranger.create_token(ask(SHOP, Role::Unspecified)).await).0 == Code::NotFound);
    ensure!(
        refusal(stranger.list_tokens(ListTokensRequest { parent: SHOP.into(), ..Default::default() }).await)
            .0
            == Code::NotFound
    );
    // what no token can be
    type Change = fn(&mut CreateTokenRequest);
    let bad: [(&str, &str, Change); 7] = [
        ("no end", SHOP, |r| r.ttl = None),
        ("too late an end", SHOP, |r| r.ttl.get_or_insert_default().seconds = 366 * 86_400),
        ("no name", SHOP, |r| r.token.get_or_insert_default().display_name.clear()),
        ("a role on the data plane", SHOP, |r| r.token.get_or_insert_default().role = Role::Admin as i32),
        ("an odd path", SHOP, |r| r.token.get_or_insert_default().path_prefixes = vec!["/a/../b".into()]),
        ("no role on the control plane", "", |r| r.token.get_or_insert_default().role = 0),
        ("a path on the control plane", "", |r| {
            r.token.get_or_insert_default().role = Role::Viewer as i32;
            r.token.get_or_insert_default().path_prefixes = vec!["/a".into()];
        }),
    ];
    for (what, parent, change) in bad {
        let mut r = ask(parent, Role::Unspecified);
        change(&mut r);
        ensure!(refusal(c.create_token(r).await).0 == Code::InvalidArgument, "{what}");
    }
    let dry = CreateTokenRequest { validate_only: true, ..ask(SHOP, Role::Unspecified) };
    ensure!(c.create_token(dry).await?.into_inner().value.is_empty());
    ensure!(list(&mut c, SHOP).await?.is_empty(), "a dry run makes nothing");
    Ok(())
}

/// Waits until `ask` gives what is wanted: two seconds are promised, and a busy machine may take longer.
fn soon(what: &str, wanted: u16, mut ask: impl FnMut() -> Result<u16>) -> Result<()> {
    until(what, Duration::from_secs(60), || Ok(ask()? == wanted))
}

/// The same with the real gate, and the commands as people use them.
fn on_docker(e: &Engine) -> Result<()> {
    e.up("shop", "syp-test/hello", &["--port", "8080", "--cors", "https://app.example.com"])?;
    let url = e.endpoint("shop")?;
    let made =
        e.json(&["token", "create", "shop", "--name", "ci", "--ttl", "1h", "--path", "/index.html"])?;
    let value = made["value"].as_str().context("no value")?.to_owned();
    let id = made["name"].as_str().and_then(|n| n.rsplit('/').next()).context("no id")?.to_owned();
    let at = |path: &str| Ok(get(&format!("{url}{path}"), Some(&value), &[])?.0);
    soon("a new token", 200, || at("/index.html"))?;
    ensure!(at("/")? == 403, "another path");
    ensure!(!e.ok(&["token", "ls"])?.contains(&value), "it is shown once");
    let file = e.dir().join("value");
    std::fs::write(&file, &value)?;
    let from = format!("@{}", file.display());
    let t = e.run(&["access", "test", "shop", "--token", &from, "--path", "/index.html"])?;
    ensure!(t.code == 0 && t.out.contains("allowed"), "{t:?}");
    let t = e.run(&["access", "test", "shop", "--token", &from, "--path", "/"])?;
    ensure!(t.code == 6 && t.out.contains("TOKEN_SCOPE"), "{t:?}");
    let t = e.run(&["access", "test", "shop", "--token", &value])?;
    ensure!(t.code == 2 && !t.err.contains(&value), "a secret in argv: {t:?}");
    // a person's token, as `sypctl token NAME` gives it
    std::fs::write(&file, e.token("shop", None)?)?;
    let t = e.run(&["access", "test", "shop", "--token", &from])?;
    ensure!(t.code == 0, "{t:?}");
    let t = e.run(&["access", "test", "shop", "--as", "user:nobody@example.com,group:x"])?;
    ensure!(t.code == 6 && t.out.contains("did not match"), "{t:?}");
    // a browser app of another site
    let preflight = |origin: &str| {
        let origin = format!("Origin: {origin}");
        let more = ["-X", "OPTIONS", "-H", &origin, "-H", "Access-Control-Request-Method: PUT"];
        Ok(get(&url, None, &more)?.0)
    };
    ensure!(preflight("https://app.example.com")? == 204 && preflight("https://evil.example")? == 401);
    e.ok(&["set", "shop", "--cors", "https://new.example", "--yes"])?;
    soon("a new origin", 204, || preflight("https://new.example"))?;
    ensure!(preflight("https://app.example.com")? == 401, "and not the former one");
    e.ok(&["token", "revoke", &id])?;
    soon("a revoked token", 401, || at("/index.html"))?;
    let history = e.ok(&["access", "history", "shop"])?;
    for words in
        [format!("- token:{id}"), format!("+ token:{id} for ci"), "+ cors: https://new.example".into()]
    {
        ensure!(history.contains(&words), "'{words}' in {history}");
    }
    // the engine itself
    let made = e.json(&["token", "create", "--control", "viewer", "--name", "look", "--ttl", "1h"])?;
    let id = made["name"].as_str().and_then(|n| n.rsplit('/').next()).context("no id")?.to_owned();
    let look = made["value"].as_str().context("no value")?;
    let by = |args: &[&str]| {
        let out = std::process::Command::new(e.sypctl())
            .args(args)
            .env("SYP_DATA_DIR", e.dir())
            .env("SYPCTL_TOKEN", look)
            .output()?;
        anyhow::Ok((out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned()))
    };
    let (code, who) = by(&["whoami", "-o", "json"])?;
    ensure!(code == Some(0) && who.contains(&format!("token:{id}")), "{code:?} {who}");
    ensure!(by(&["down", "shop", "--yes"])?.0 == Some(6), "a viewer");
    e.ok(&["token", "revoke", &id])?;
    ensure!(by(&["whoami"])?.0 == Some(4), "revoked");
    let trail = e.ok(&["audit", "--actor", &format!("token:{id}")])?;
    ensure!(trail.contains("PermissionDenied") && !trail.contains(look), "{trail}");
    let export = e.ok(&["audit", "--export"])?;
    let lines: Vec<serde_json::Value> = export.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let first = lines.first().context("no rows")?;
    let known = format!(
        "{}:{}",
        first["seq"].as_str().unwrap_or_default(),
        first["hash"].as_str().unwrap_or_default()
    );
    ensure!(e.run(&["audit", "--verify", &known])?.code == 0, "{known}");
    let other = format!("{}:{}", first["seq"].as_str().unwrap_or_default(), "0".repeat(64));
    ensure!(e.run(&["audit", "--verify", &other])?.code == 1, "{other}");
    ensure!(!export.contains(&value) && !export.contains(look), "a token in the trail");
    e.down("shop")
}

#[test]
fn tokens_origins_and_the_trail_with_the_real_gate() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let done = on_docker(&e);
    if done.is_err() {
        e.run(&["down", "--all", "--yes", "--force", "--timeout", "60s"])?;
    }
    done
}
