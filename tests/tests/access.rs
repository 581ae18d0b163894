//! Questions about a policy, asked of the server: who would be let in, by which rule, and what the others missed.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_proto::v1::{
    self, AccessPolicy, GetInstanceRequest, Plane, Principal, SetAccessPolicyRequest, TestAccessRequest,
    TestAccessResponse,
    access_client::AccessClient,
    access_policy::{Effect, Rule},
    audit_client::AuditClient,
    instances_client::InstancesClient,
    plan_instance_request::Action,
    test_access_request::Who,
};
use syp_tests::api::{Conn, World, create, refusal};
use tonic::Code;

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";

async fn world() -> Result<(World, AccessClient<Conn>)> {
    let w = World::serving("shop").await?;
    let access = AccessClient::new(w.connect(ADMIN).await?);
    Ok((w, access))
}

fn policy() -> AccessPolicy {
    let rule = |effect: Effect, members: &[&str], path: &str| Rule {
        effect: effect as i32,
        members: members.iter().map(|m| (*m).to_owned()).collect(),
        path_prefixes: if path.is_empty() { vec![] } else { vec![path.into()] },
        ..Default::default()
    };
    AccessPolicy {
        rules: vec![
            rule(Effect::Deny, &["user:mallory@example.com"], ""),
            rule(Effect::Allow, &["user:bob@example.com"], "/public"),
            rule(Effect::Allow, &["group:ml"], ""),
        ],
        etag: String::new(),
    }
}

fn bob() -> Principal {
    Principal { email: "bob@example.com".into(), ..Default::default() }
}

fn ask(who: Who) -> TestAccessRequest {
    TestAccessRequest { resource: SHOP.into(), who: Some(who), ..Default::default() }
}

async fn test(c: &mut AccessClient<Conn>, r: TestAccessRequest) -> Result<TestAccessResponse> {
    Ok(c.test_access(r).await?.into_inner())
}

#[tokio::test]
async fn the_rule_that_decides_is_named_and_the_others_say_what_missed() -> Result<()> {
    let (_w, mut c) = world().await?;
    let set = SetAccessPolicyRequest { resource: SHOP.into(), policy: Some(policy()), ..Default::default() };
    c.set_access_policy(set).await?;
    let no = test(&mut c, ask(Who::Principal(bob()))).await?;
    ensure!(!no.allowed && no.reason == "POLICY_NO_MATCH" && no.rule_id.is_empty(), "{no:?}");
    let says = no.missed.join("\n");
    for words in ["rule-1: member", "rule-2: path: / is not under /public", "none of group:ml"] {
        ensure!(says.contains(words), "'{words}' in {says}");
    }
    let yes =
        test(&mut c, TestAccessRequest { path: "/public/x".into(), ..ask(Who::Principal(bob())) }).await?;
    ensure!(yes.allowed && yes.rule_id == "rule-2" && yes.rule.contains("under /public"), "{yes:?}");
    let group = Principal { groups: vec!["ml".into()], ..Default::default() };
    ensure!(test(&mut c, ask(Who::Principal(group))).await?.rule_id == "rule-3");
    // claims are read as those of a token: an address that is not verified lets nobody in
    let claims_json = r#"{"email":"bob@example.com","email_verified":false,"sub":"1"}"#.to_owned();
    let path = "/public".to_owned();
    let r = TestAccessRequest { claims_json, path, ..ask(Who::Principal(Principal::default())) };
    ensure!(test(&mut c, r).await?.reason == "EMAIL_UNVERIFIED");
    // another policy, which nobody has set
    let mut other = policy();
    other.rules.push(Rule { members: vec!["user:bob@example.com".into()], ..policy().rules[1].clone() });
    other.rules[3].path_prefixes.clear();
    let r = TestAccessRequest { candidate_policy: Some(other), ..ask(Who::Principal(bob())) };
    ensure!(test(&mut c, r).await?.rule_id == "rule-4");
    ensure!(!test(&mut c, ask(Who::Principal(bob()))).await?.allowed, "it was not set");
    let bad = AccessPolicy { rules: vec![Rule::default()], etag: String::new() };
    let r = TestAccessRequest { candidate_policy: Some(bad), ..ask(Who::Principal(bob())) };
    ensure!(refusal(c.test_access(r).await).0 == Code::InvalidArgument, "a policy that nobody could set");
    Ok(())
}

#[tokio::test]
async fn a_token_is_verified_and_says_what_of_it_fails() -> Result<()> {
    let (w, mut c) = world().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let uid = i
        .get_instance(GetInstanceRequest { name: SHOP.into(), ..Default::default() })
        .await?
        .into_inner()
        .uid;
    let own = format!("syp:{uid}");
    let candidate_policy = Some(policy());
    let with = |token: String| TestAccessRequest {
        candidate_policy: candidate_policy.clone(),
        path: "/public".into(),
        ..ask(Who::Token(token))
    };
    let good = w.token("bob@example.com", &own, Duration::ZERO)?;
    let t = test(&mut c, with(good.clone())).await?;
    ensure!(t.allowed && t.rule_id == "rule-2", "{t:?}");
    ensure!(t.principal.is_some_and(|p| p.email == "bob@example.com"), "who it is");
    let mut broken = good.clone().into_bytes();
    let last = broken.len() - 5;
    broken[last] = if broken[last] == b'A' { b'B' } else { b'A' };
    let elsewhere = w.token("bob@example.com", "syp:another", Duration::ZERO)?;
    for (token, reason) in [
        (String::from_utf8(broken)?, "TOKEN_SIGNATURE"),
        (elsewhere, "TOKEN_AUDIENCE"),
        ("x".into(), "TOKEN_MALFORMED"),
    ] {
        let t = test(&mut c, with(token)).await?;
        ensure!(!t.allowed && t.reason == reason && t.missed[0].starts_with("token: "), "{t:?}");
        ensure!(t.audiences == [own.clone()], "what it would have to be for: {t:?}");
    }
    // it went nowhere: neither into the trail nor into the answer
    let mut trail = v1::audit_client::AuditClient::new(w.connect(ADMIN).await?);
    let signature = good.rsplit('.').next().context("a token")?;
    // rows of calls that only read are written in batches
    for _ in 0..6_000 {
        let list = v1::ListAuditEventsRequest { page_size: 1000, ..Default::default() };
        let rows = format!("{:?}", trail.list_audit_events(list).await?.into_inner());
        ensure!(!rows.contains(signature), "{rows}");
        if rows.contains("TestAccess") {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("no row of it")
}

#[tokio::test]
async fn the_control_plane_is_asked_the_same_way() -> Result<()> {
    let (w, mut c) = world().await?;
    let control = |p: Principal| TestAccessRequest { plane: Plane::Control as i32, ..ask(Who::Principal(p)) };
    let admin = Principal { email: "admin@example.com".into(), ..Default::default() };
    let t = test(&mut c, control(admin)).await?;
    ensure!(t.allowed && t.role() == v1::Role::Admin && t.policy == "engine", "{t:?}");
    ensure!(!test(&mut c, control(bob())).await?.allowed);
    let operators = AccessPolicy {
        rules: vec![Rule {
            effect: Effect::Allow as i32,
            members: vec!["user:bob@example.com".into()],
            role: v1::Role::Operator as i32,
            ..Default::default()
        }],
        etag: String::new(),
    };
    let set = SetAccessPolicyRequest {
        resource: SHOP.into(),
        plane: Plane::Control as i32,
        policy: Some(operators),
        allow_self_lockout: true,
        ..Default::default()
    };
    c.set_access_policy(set).await?;
    let t = test(&mut c, control(bob())).await?;
    ensure!(t.allowed && t.role() == v1::Role::Operator && t.policy == "instance", "{t:?}");
    let engine = TestAccessRequest { resource: String::new(), ..control(bob()) };
    ensure!(!test(&mut c, engine.clone()).await?.allowed, "of the engine itself he is nobody");
    // who may ask: operators
    let mut hers = AccessClient::new(w.connect(Some("bob@example.com")).await?);
    ensure!(test(&mut hers, ask(Who::Principal(bob()))).await.is_ok(), "of his instance");
    ensure!(refusal(hers.test_access(engine).await).0 == Code::PermissionDenied, "not of the engine");
    // and plan what they may do
    let plan = |action| v1::PlanInstanceRequest { action: Some(action) };
    let scale = plan(Action::Transition(v1::TransitionInstanceRequest {
        name: SHOP.into(),
        to: v1::instance::State::Destroyed as i32,
        ..Default::default()
    }));
    let mut his = InstancesClient::new(w.connect(Some("bob@example.com")).await?);
    ensure!(his.plan_instance(scale.clone()).await.is_ok(), "an operator of this instance alone");
    let dear = v1::Tariff { per_kwh: "3".into(), ..Default::default() };
    let dear = v1::SetTariffRequest { tariff: Some(dear), ..Default::default() };
    let dear = plan(Action::SetTariff(dear));
    ensure!(refusal(his.plan_instance(dear).await).0 == Code::PermissionDenied, "as the call itself");
    let mut nobody = InstancesClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(refusal(nobody.plan_instance(scale).await).0 == Code::NotFound);
    let mut stranger = AccessClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(refusal(stranger.test_access(ask(Who::Principal(bob()))).await).0 == Code::NotFound);
    Ok(())
}

/// Everything the trail has for a question, in pages of two.
async fn trail(c: &mut AuditClient<Conn>, filter: &str) -> Result<Vec<v1::AuditEvent>> {
    let mut ask = v1::ListAuditEventsRequest { page_size: 2, filter: filter.into(), ..Default::default() };
    let mut out = Vec::new();
    loop {
        let page = c.list_audit_events(ask.clone()).await?.into_inner();
        out.extend(page.audit_events);
        if page.next_page_token.is_empty() {
            return Ok(out);
        }
        ask.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn the_trail_is_asked_by_who_what_and_when_and_its_chain_is_checked() -> Result<()> {
    let (w, mut c) = world().await?;
    let mut audit = AuditClient::new(w.connect(ADMIN).await?);
    let watch = v1::WatchAuditEventsRequest { filter: "method=SetAccessPolicy".into(), ..Default::default() };
    let mut live = audit.watch_audit_events(watch.clone()).await?.into_inner();
    let set = SetAccessPolicyRequest { resource: SHOP.into(), policy: Some(policy()), ..Default::default() };
    for _ in 0..5 {
        c.set_access_policy(set.clone()).await?;
    }
    let mut stranger = AccessClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(stranger.set_access_policy(set.clone()).await.is_err());
    let sets = trail(&mut audit, "method=SetAccessPolicy").await?;
    ensure!(sets.len() == 6, "{sets:?}");
    ensure!(sets.windows(2).all(|w| w[0].seq > w[1].seq), "newest first, in pages without gap or double");
    let his = trail(&mut audit, "actor=user:stranger@example.com").await?;
    ensure!(his.len() == 1 && his[0].outcome == "NotFound" && his[0].targets == [SHOP], "{his:?}");
    let of_shop =
        trail(&mut audit, &format!("target={SHOP} AND outcome=Ok AND method=SetAccessPolicy")).await?;
    ensure!(of_shop.len() == 5, "{of_shop:?}");
    ensure!(trail(&mut audit, "time>=2999-01-01T00:00:00Z").await?.is_empty());
    let bad = v1::ListAuditEventsRequest { filter: "colour=red".into(), ..Default::default() };
    ensure!(refusal(audit.list_audit_events(bad).await).0 == Code::InvalidArgument);
    // the stream has each of them once, and goes on from where it was cut
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(next(&mut live).await?);
    }
    drop(live);
    let resume = v1::WatchAuditEventsRequest { resume_token: seen[2].resume_token.clone(), ..watch };
    let mut live = audit.watch_audit_events(resume).await?.into_inner();
    while seen.len() < 6 {
        seen.push(next(&mut live).await?);
    }
    let mut all = sets.clone();
    all.reverse();
    ensure!(seen.iter().map(|e| (e.seq, &e.hash)).eq(all.iter().map(|e| (e.seq, &e.hash))), "{seen:?}");
    // the chain, and an event that somebody kept
    let one = &sets[3];
    let known = v1::CheckAuditTrailRequest { seq: one.seq, hash: one.hash.clone() };
    let sound = audit.check_audit_trail(known.clone()).await?.into_inner();
    ensure!(sound.problem.is_empty() && sound.head_seq >= sets[0].seq && sound.events > 6, "{sound:?}");
    let other = v1::CheckAuditTrailRequest { hash: sets[2].hash.clone(), ..known.clone() };
    ensure!(!audit.check_audit_trail(other).await?.into_inner().problem.is_empty(), "another hash");
    // only for administrators
    let mut his = AuditClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(refusal(his.check_audit_trail(known).await).0 == Code::PermissionDenied);
    let ask = v1::WatchAuditEventsRequest::default();
    ensure!(refusal(his.watch_audit_events(ask).await).0 == Code::PermissionDenied);
    Ok(())
}

async fn next(live: &mut tonic::Streaming<v1::AuditEvent>) -> Result<v1::AuditEvent> {
    let e = tokio::time::timeout(Duration::from_secs(10), live.message()).await;
    e.context("nothing comes")??.context("the stream ended")
}

#[tokio::test]
async fn a_damaged_trail_is_told_and_the_engine_goes_on() -> Result<()> {
    let (mut w, _) = world().await?;
    w.kill().await;
    ensure!(w.disk.damage(b"c|")? > 0, "there are rows");
    w.start().await?;
    let mut audit = AuditClient::new(w.connect(ADMIN).await?);
    let c = audit.check_audit_trail(v1::CheckAuditTrailRequest::default()).await?.into_inner();
    ensure!(c.broken_seq == 1 && !c.problem.is_empty(), "{c:?}");
    let mut server = v1::server_client::ServerClient::new(w.connect(ADMIN).await?);
    let fsck = server.check_store(v1::CheckStoreRequest {}).await?.into_inner();
    ensure!(fsck.problems.iter().any(|p| p.contains("audit row 1")), "{fsck:?}");
    // rows of calls that only read are written in batches
    for _ in 0..500 {
        if !trail(&mut audit, "").await?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    anyhow::bail!("new rows are not readable")
}

#[tokio::test]
async fn the_history_says_who_changed_which_rules() -> Result<()> {
    let (w, mut c) = world().await?;
    let set = |p: AccessPolicy| SetAccessPolicyRequest {
        resource: SHOP.into(),
        policy: Some(p),
        ..Default::default()
    };
    c.set_access_policy(set(policy())).await?;
    let mut next = policy();
    next.rules.remove(0);
    next.rules.reverse();
    c.set_access_policy(set(next.clone())).await?;
    next.rules.reverse();
    c.set_access_policy(set(next)).await?;
    cors(&w, &["https://app.example.com"]).await?;
    let ask = |page_token: &str| v1::ListPolicyChangesRequest {
        resource: SHOP.into(),
        page_size: 2,
        page_token: page_token.into(),
    };
    let first = c.list_policy_changes(ask("")).await?.into_inner();
    let second = c.list_policy_changes(ask(&first.next_page_token)).await?.into_inner();
    let all: Vec<_> = first.changes.into_iter().chain(second.changes).collect();
    ensure!(all.iter().all(|c| c.actor == "user:admin@example.com" && c.time.is_some()), "{all:?}");
    ensure!(all[0].changes == ["+ cors: https://app.example.com"], "{all:?}");
    ensure!(all[1].changes == ["the same rules in another order, or under other ids"], "{all:?}");
    ensure!(all[2].changes == ["- use: deny user:mallory@example.com"], "{all:?}");
    ensure!(all[3].changes.iter().any(|c| c == "+ use: allow user:bob@example.com under /public"), "{all:?}");
    let mut stranger = AccessClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(refusal(stranger.list_policy_changes(ask("")).await).0 == Code::NotFound);
    ensure!(
        refusal(c.list_policy_changes(v1::ListPolicyChangesRequest::default()).await).0
            == Code::InvalidArgument
    );
    Ok(())
}

async fn cors(w: &World, origins: &[&str]) -> Result<v1::Instance> {
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    let spec = v1::InstanceSpec {
        cors_origins: origins.iter().map(|o| (*o).to_owned()).collect(),
        ..Default::default()
    };
    let update = v1::UpdateInstanceRequest {
        instance: Some(v1::Instance { name: SHOP.into(), spec: Some(spec), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["spec.cors_origins".into()] }),
        ..Default::default()
    };
    i.update_instance(update).await?;
    Ok(i.get_instance(GetInstanceRequest { name: SHOP.into(), ..Default::default() }).await?.into_inner())
}

#[tokio::test]
async fn origins_live_beside_revisions_and_only_origins_are_taken() -> Result<()> {
    let (w, _) = world().await?;
    let i = cors(&w, &["https://app.example.com"]).await?;
    ensure!(i.spec.as_ref().is_some_and(|s| s.cors_origins == ["https://app.example.com"]), "{i:?}");
    ensure!(i.active_revision == "shop-1", "no revision came of it: {i:?}");
    for bad in ["*", "https://app.example.com/x", "null", "https://*.example.com"] {
        let e = cors(&w, &[bad]).await.err().with_context(|| format!("{bad} was taken"))?;
        ensure!(e.to_string().contains("origin"), "{e}");
    }
    let mut at_once = create("other");
    at_once.instance.get_or_insert_default().spec.get_or_insert_default().cors_origins = vec!["*".into()];
    let mut c = InstancesClient::new(w.connect(ADMIN).await?);
    ensure!(refusal(c.create_instance(at_once).await).0 == Code::InvalidArgument);
    let i = cors(&w, &[]).await?;
    ensure!(i.spec.is_some_and(|s| s.cors_origins.is_empty()));
    Ok(())
}
