use super::*;
use serde_json::json;

fn who(email: &str, verified: bool) -> Identity {
    let claims = json!({ "dept": "sales", "level": 3 });
    Identity {
        issuer: "https://a.example".into(),
        subject: "s".into(),
        email: Some(email.into()),
        email_verified: verified,
        groups: vec!["ops".into()],
        claims: claims.as_object().cloned().unwrap(),
        expires_at: u64::MAX,
        scope: vec![],
    }
}

fn rule(id: &str, change: impl FnOnce(&mut Rule)) -> Rule {
    let mut rule = Rule::allow(id, vec![]);
    change(&mut rule);
    rule
}

#[test]
fn each_rule_that_did_not_match_says_what_of_it_does_not_hold() {
    let policy = Policy {
        rules: vec![
            rule("issuer", |r| r.issuer = Some("https://b.example".into())),
            rule("absent", |r| drop(r.claims.insert("team".into(), "x".into()))),
            rule("other", |r| drop(r.claims.insert("dept".into(), "rd".into()))),
            rule("method", |r| r.methods = vec!["POST".into(), "PUT".into()]),
            rule("path", |r| r.path_prefixes = vec!["/admin".into()]),
            rule("members", |r| r.members = vec!["user:b@x.org".into(), "group:ml".into()]),
            rule("nobody", |_| {}),
            rule("unverified", |r| r.members = vec!["user:a@x.org".into()]),
            rule("group", |r| r.members = vec!["group:ops".into()]),
            rule("after", |r| r.members = vec!["group:ops".into()]),
        ],
    };
    let request = Request { path: "/shop", method: "GET" };
    let (decision, missed) = policy.explain(&who("a@x.org", false), Some(&request));
    assert_eq!(decision.rule_id.as_deref(), Some("group"));
    assert_eq!(decision, policy.decide(&who("a@x.org", false), Some(&request)));
    assert_eq!(
        missed,
        [
            "issuer: issuer: it is https://a.example, not https://b.example",
            "absent: claim team: absent, not 'x'",
            "other: claim dept: it is 'sales', not 'rd'",
            "method: method: it is GET, not POST or PUT",
            "path: path: /shop is not under /admin",
            "members: member: the caller is none of user:b@x.org, group:ml",
            "nobody: the rule names nobody",
            "unverified: member: the issuer does not say that it verified the address a@x.org",
        ]
    );
}

#[test]
fn an_ambiguous_path_and_no_request_at_all_are_said_to_be_that() {
    let policy = Policy {
        rules: vec![rule("r", |r| {
            r.path_prefixes = vec!["/".into()];
            r.members = vec!["user:a@x.org".into()];
        })],
    };
    let odd = Request { path: "/a/../b", method: "GET" };
    let (decision, missed) = policy.explain(&who("a@x.org", true), Some(&odd));
    assert!(!decision.allowed && missed[0].contains("two ways"), "{missed:?}");
    let (decision, missed) = policy.explain(&who("a@x.org", true), None);
    assert!(!decision.allowed && missed[0].contains("this is none"), "{missed:?}");
}

#[test]
fn a_long_claim_is_cut() {
    let policy = Policy { rules: vec![rule("r", |r| drop(r.claims.insert("dept".into(), "x".into())))] };
    let mut caller = who("a@x.org", true);
    caller.claims.insert("dept".into(), json!("y".repeat(5000)));
    let (_, missed) = policy.explain(&caller, None);
    assert!(missed[0].len() < 150 && missed[0].contains("..."), "{missed:?}");
}

#[test]
fn a_machine_token_is_nobody_else_and_no_rule_widens_its_paths() {
    let token = |paths: &[&str]| crate::MachineToken {
        id: "ci1".into(),
        sha256: String::new(),
        expires_at: u64::MAX,
        paths: paths.iter().map(|p| (*p).to_owned()).collect(),
    };
    let policy = Policy { rules: vec![rule("r", |r| r.members = vec!["token:ci1".into()])] };
    let at = |path: &'static str| Request { path, method: "GET" };
    assert!(policy.decide(&token(&[]).identity(), Some(&at("/x"))).allowed);
    assert!(policy.decide(&token(&[]).identity(), None).allowed);
    // somebody whose issuer calls them so
    let same_name = Identity { subject: "token:ci1".into(), ..who("a@x.org", true) };
    assert!(!policy.decide(&same_name, Some(&at("/x"))).allowed);
    let narrow = token(&["/x", "/z"]).identity();
    assert!(policy.decide(&narrow, Some(&at("/z/1"))).allowed);
    for outside in [Some(at("/y")), Some(at("/xy")), Some(at("/x/../y")), None] {
        let d = policy.decide(&narrow, outside.as_ref());
        assert!(!d.allowed && d.reason == "TOKEN_SCOPE", "{outside:?}");
    }
}
