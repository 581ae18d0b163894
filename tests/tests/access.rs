//! Questions about a policy, asked of the server: who would be let in, by which rule, and what the others missed.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_engine::graph::State;
use syp_proto::v1::{
    self, AccessPolicy, GetInstanceRequest, Plane, Principal, SetAccessPolicyRequest, TestAccessRequest,
    TestAccessResponse,
    access_client::AccessClient,
    access_policy::{Effect, Rule},
    instances_client::InstancesClient,
    test_access_request::Who,
};
use syp_tests::api::{Conn, World, create, refusal};
use tonic::Code;

const ADMIN: Option<&str> = Some("admin@example.com");
const SHOP: &str = "projects/default/instances/shop";

async fn world() -> Result<(World, AccessClient<Conn>)> {
    let w = World::new().await?;
    let mut i = InstancesClient::new(w.connect(ADMIN).await?);
    i.create_instance(create("shop")).await?;
    for _ in 0..500 {
        let now = i.get_instance(GetInstanceRequest { name: SHOP.into(), ..Default::default() }).await;
        if now.is_ok_and(|i| i.get_ref().state() == State::Serving) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
    let list = v1::ListAuditEventsRequest { page_size: 1000, ..Default::default() };
    let rows = format!("{:?}", trail.list_audit_events(list).await?.into_inner());
    let signature = good.rsplit('.').next().context("a token")?;
    ensure!(rows.contains("TestAccess") && !rows.contains(signature), "{rows}");
    Ok(())
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
    let mut stranger = AccessClient::new(w.connect(Some("stranger@example.com")).await?);
    ensure!(refusal(stranger.test_access(ask(Who::Principal(bob()))).await).0 == Code::NotFound);
    Ok(())
}
