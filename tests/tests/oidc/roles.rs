//! Who may do what on the control plane, and what is written of it.
use crate::{API, connected, outcome, says, world};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;
use syp_auth::policy::Role;
use syp_engine::api::roles::{Need, need};
use syp_proto::v1::{AuditEvent, ListAuditEventsRequest, audit_client::AuditClient};
use syp_tests::oidc::{ALICE, BOB, CAROL, MALLORY, Person, Server, until};
use tonic::Code;

#[test]
fn roles_are_given_by_the_control_policy_and_operators_by_the_instance() -> Result<()> {
    world(|p, s| {
        let token = |who: &Person| p.token(who, API);
        let (alice, bob, carol, mallory) = (token(&ALICE)?, token(&BOB)?, token(&CAROL)?, token(&MALLORY)?);
        let up = |name: &'static str| {
            [
                "up",
                name,
                "--image",
                "syp-test/hello",
                "--port",
                "8080",
                "--yes",
                "--allow",
                "group:serving-users",
            ]
        };
        let control = ["--plane", "control", "--role"];
        s.ends_with(
            0,
            &alice,
            &[&["access", "allow", "-", "domain:example.com"], &control[..], &["viewer"]].concat(),
        )?;
        // first match decides: bob is a viewer until a rule before that one says more
        says(&s.ends_with(6, &bob, &up("bobs"))?, "PERMISSION_DENIED")?;
        s.ends_with(0, &bob, &["ls"])?;
        says(&s.ends_with(6, &mallory, &up("theirs"))?, "PERMISSION_DENIED")?;
        for (who, role) in [(&alice, "admin"), (&bob, "viewer"), (&carol, "viewer"), (&mallory, "none")] {
            let me = s.ends_with(0, who, &["whoami"])?;
            ensure!(me.out.contains(role), "not {role}: {}", me.out);
        }
        s.ends_with(0, &alice, &up("shop"))?;
        for args in [&["down", "shop", "--yes"][..], &["access", "allow", "shop", "user:carol@example.com"]] {
            says(&s.ends_with(6, &carol, args)?, "PERMISSION_DENIED")?;
        }
        // who may not look does not learn that it is there
        let hidden = s.ends_with(5, &mallory, &["show", "shop"])?;
        let absent = s.ends_with(5, &mallory, &["show", "nope"])?;
        ensure!(hidden.err.replace("shop", "nope") == absent.err, "{} {}", hidden.err, absent.err);
        ensure!(!s.ends_with(0, &mallory, &["ls"])?.out.contains("shop"), "a stranger sees it in the list");
        // an operator of that instance only
        s.ends_with(
            0,
            &alice,
            &["access", "allow", "shop", "user:mallory@example.net", "--plane", "control"],
        )?;
        ensure!(s.ends_with(0, &mallory, &["ls"])?.out.contains("shop"), "its operator does not see it");
        s.ends_with(0, &mallory, &["access", "allow", "shop", "user:mallory@example.net"])?;
        says(&s.ends_with(6, &mallory, &up("theirs"))?, "PERMISSION_DENIED")?;
        s.ends_with(0, &alice, &up("second"))?;
        s.ends_with(5, &mallory, &["down", "second", "--yes"])?;
        for args in [&["server", "stop"][..], &["fsck"], &["sweep"]] {
            ensure!(s.with_token(&bob, args)?.code != 0, "a viewer did {args:?}");
        }
        s.ends_with(0, &mallory, &["down", "shop", "--yes"])?;
        s.ends_with(0, &alice, &["down", "second", "--yes"])?;
        // an operator everywhere may make instances, and not policy
        let rest = ["--role", "operator", "--plane", "control"];
        s.ends_with(
            0,
            &alice,
            &[&["access", "deny", "-", "domain:example.com", "--remove"], &rest[2..]].concat(),
        )?;
        s.ends_with(0, &alice, &[&["access", "allow", "-", "user:carol@example.com"], &rest[..]].concat())?;
        s.ends_with(0, &carol, &up("carols"))?;
        says(
            &s.ends_with(
                6,
                &carol,
                &[&["access", "allow", "-", "user:bob@example.com"], &rest[..]].concat(),
            )?,
            "PERMISSION_DENIED",
        )?;
        s.ends_with(0, &carol, &["down", "carols", "--yes"])?;
        s.engine.ok(&["receipt", "carols", "--verify"]).map(drop)
    })
}

#[test]
fn a_change_that_locks_its_maker_out_is_refused_unless_forced() -> Result<()> {
    world(|p, s| {
        let alice = p.token(&ALICE, API)?;
        let deny = ["access", "deny", "-", "user:alice@example.com", "--plane", "control"];
        let remove = ["access", "deny", "-", "user:alice@example.com", "--remove", "--plane", "control"];
        for change in [&deny[..], &remove[..]] {
            says(&s.ends_with(6, &alice, change)?, "SELF_LOCKOUT")?;
        }
        let demoted = ["access", "deny", "-", "group:admins", "--plane", "control"];
        says(&s.ends_with(6, &alice, &demoted)?, "SELF_LOCKOUT")?;
        s.ends_with(0, &alice, &["ls"])?;
        // a change that keeps its maker is none of that
        let more = ["access", "allow", "-", "user:bob@example.com", "--plane", "control", "--role", "admin"];
        s.ends_with(0, &alice, &more)?;
        s.ends_with(0, &alice, &[&deny[..], &["--force"]].concat())?;
        says(&s.ends_with(6, &alice, &more)?, "PERMISSION_DENIED")?;
        // bob can still do it, and so the engine's own user can be locked out of the policy too
        let bob = p.token(&BOB, API)?;
        let own: Value = s.engine.json(&["whoami"])?;
        let own = format!("sub:{}", own["subject"].as_str().context("subject")?);
        let local =
            s.engine.json(&["server", "status"])?["localIssuer"].as_str().context("issuer")?.to_owned();
        let mut more = vec!["access", "deny", "-", &own, "--plane", "control", "--issuer", &local];
        s.ends_with(0, &bob, &more)?;
        let token = s.engine.ok(&["token", "syp-api"])?;
        says(&s.ends_with(6, token.trim(), &["sweep"])?, "PERMISSION_DENIED")?;
        // over its own socket it is an administrator all the same: the way back
        more.truncate(4);
        let back =
            ["access", "allow", "-", "user:carol@example.com", "--plane", "control", "--role", "admin"];
        s.engine.ok(&[&back[..], &["--force"]].concat())?;
        s.ends_with(0, &p.token(&CAROL, API)?, &["sweep"]).map(drop)
    })
}

#[test]
fn every_method_asks_for_a_token_and_for_its_role_on_the_wire() -> Result<()> {
    world(|p, s| {
        let (alice, bob, mallory) = (p.token(&ALICE, API)?, p.token(&BOB, API)?, p.token(&MALLORY, API)?);
        let viewer =
            ["access", "allow", "-", "user:bob@example.com", "--plane", "control", "--role", "viewer"];
        s.ends_with(0, &alice, &viewer)?;
        let pool = syp_proto::pool().context("descriptors")?;
        let ours = |name: &str| name.starts_with("syp.") || name.contains("longrunning");
        let paths: Vec<String> = pool
            .services()
            .filter(|x| ours(x.full_name()))
            .flat_map(|x| x.methods().map(|m| format!("/{}/{}", x.full_name(), m.name())).collect::<Vec<_>>())
            .chain(["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned()])
            .collect();
        ensure!(paths.len() > 40, "the descriptor set was not walked");
        connected(s, async |channel| {
            for path in &paths {
                let anonymous = outcome(&channel, path, None).await?;
                let local_only = path.ends_with("/IssueLocalToken");
                let expected = if local_only { Code::PermissionDenied } else { Code::Unauthenticated };
                ensure!(anonymous == expected, "{path} without a token: {anonymous:?}");
                let garbage = outcome(&channel, path, Some("e30.e30.e30")).await?;
                ensure!(garbage == expected, "{path} with a made-up token: {garbage:?}");
                let stranger = outcome(&channel, path, Some(&mallory)).await?;
                let open = ["WhoAmI", "GetServerInfo", "ListInstances", "WatchInstances", "ListOperations"];
                let open = open.iter().any(|m| path.ends_with(m));
                ensure!(open || stranger != Code::Ok, "{path} lets a stranger in");
                if let Some(Need::Global(role)) = need(path) {
                    ensure!(stranger == Code::PermissionDenied, "{path} as a stranger: {stranger:?}");
                    let seen = outcome(&channel, path, Some(&bob)).await?;
                    let refused = seen == Code::PermissionDenied;
                    ensure!(refused == (role > Role::Viewer), "{path} needs {role:?}, as a viewer: {seen:?}");
                }
            }
            let made_up = outcome(&channel, "/syp.v1.Instances/Nope", Some(&alice)).await?;
            ensure!(made_up == Code::Unimplemented, "a method that nobody knows: {made_up:?}");
            Ok(())
        })
    })
}

/// All audit rows, as an administrator reads them.
fn audit(s: &Server, token: &str) -> Result<Vec<AuditEvent>> {
    connected(s, async |channel| {
        let mut client = AuditClient::new(channel);
        let mut request =
            tonic::Request::new(ListAuditEventsRequest { page_size: 1000, ..Default::default() });
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
        Ok(client.list_audit_events(request).await?.into_inner().audit_events)
    })
}

#[test]
fn every_call_is_in_the_audit_trail_with_who_what_and_outcome_and_without_its_token() -> Result<()> {
    world(|p, s| {
        let (alice, mallory) = (p.token(&ALICE, API)?, p.token(&MALLORY, API)?);
        let stale = p.mint(&ALICE, API, &json!({ "exp": 1_700_000_000 }), &json!({}), "ES256")?;
        s.ends_with(
            0,
            &alice,
            &[
                "up",
                "shop",
                "--image",
                "syp-test/hello",
                "--port",
                "8080",
                "--yes",
                "--allow",
                "user:alice@example.com",
            ],
        )?;
        s.ends_with(5, &mallory, &["down", "shop", "--yes"])?;
        s.ends_with(6, &mallory, &["sweep"])?;
        s.ends_with(4, &stale, &["show", "shop"])?;
        s.ends_with(0, &alice, &["access", "allow", "shop", "user:bob@example.com"])?;
        s.ends_with(0, &alice, &["down", "shop", "--yes"])?;
        let wanted: [(&str, &str, &str, &str); 6] = [
            ("u-alice", "syp.v1.Instances/CreateInstance", "instances/shop", "Ok"),
            ("u-mallory", "syp.v1.Instances/", "instances/shop", "NotFound"),
            ("u-mallory", "syp.v1.Providers/SweepOrphans", "", "PermissionDenied"),
            ("127.0.0.1:", "syp.v1.Instances/GetInstance", "", "Unauthenticated"),
            ("u-alice", "syp.v1.Access/SetAccessPolicy", "instances/shop", "Ok"),
            ("u-alice", "syp.v1.Instances/", "instances/shop", "Ok"),
        ];
        for (who, what, target, outcome) in wanted {
            let mut all = Vec::new();
            until("the audit row is there", Duration::from_secs(60), || {
                all = audit(s, &alice)?;
                Ok(all.iter().any(|e| {
                    e.actor.as_ref().is_some_and(|a| a.subject.starts_with(who))
                        && e.method.starts_with(what)
                        && (target.is_empty() || e.targets.iter().any(|t| t.contains(target)))
                        && e.outcome == outcome
                }))
            })
            .with_context(|| format!("{who} {what} {target} {outcome}: {all:#?}"))?;
        }
        // also of those who have no token yet, and of the engine's own user
        s.engine.ok(&["ls"])?;
        let all = audit(s, &alice)?;
        ensure!(
            all.iter().any(|e| e.method.ends_with("IssueLocalToken")
                && e.actor.as_ref().is_some_and(|a| a.subject.starts_with("uid:"))),
            "the first token is not in the trail"
        );
        ensure!(all.iter().all(|e| e.time.is_some()), "a row without a time");
        // no token, neither there nor anywhere in the data directory but where its owner keeps it
        let text = format!("{all:?}");
        for token in [&alice, &mallory, &stale] {
            let signature = token.rsplit('.').next().context("signature")?;
            ensure!(!text.contains(signature), "a token in the audit trail");
            let found =
                std::process::Command::new("grep").args(["-rlaF", signature]).arg(s.engine.dir()).output()?;
            ensure!(found.stdout.is_empty(), "a token in {}", String::from_utf8_lossy(&found.stdout));
        }
        ensure!(audit(s, &mallory).is_err(), "a stranger reads the trail");
        Ok(())
    })
}
