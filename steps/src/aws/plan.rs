//! What has to be done at AWS, in which order. Pure. One stack for the life of the instance, one secret with values for each revision.
//!
//! ```text
//! up, repair, update:  config, (values-N), (pull-R) ─> stack ─> probe ─> isolation ─> check ─> domain ─> (retire-values-M), (retire-pull-Q)
//! drain, down:         drain
//! ```
use super::{config, names, stack_step};
use crate::registry;
use serde_json::{Value, json};
use syp_engine::{
    cost,
    graph::RunKind,
    plan::{Effect, InDoubt, Plan, PlanNode, Policy},
    step::{Have, Owner},
};
use syp_proto::{google::r#type::Money, journal::LedgerRow, v1};

/// Calls that were accepted land within this.
const SETTLE_MS: i64 = 30_000;
/// A stack that takes longer to come up is rolled back by AWS, which takes as long again.
const STACK_MS: i64 = 3_600_000;
/// As long as the longest grace, and a little.
const DRAIN_MS: i64 = 3_700_000;
/// A load balancer's name comes to be known within minutes.
const FOUND_MS: i64 = 900_000;
const ATTEMPTS: u32 = 12;
/// Before the values of a revision.
const VALUES: &str = "values";

fn policy(attempt_timeout_ms: i64) -> Policy {
    Policy {
        in_doubt: InDoubt::Ensure as i32,
        attempt_timeout_ms,
        max_attempts: ATTEMPTS,
        settle_ms: SETTLE_MS,
        total_timeout_ms: 0,
    }
}

fn node(id: &str, kind: &str, after: &[&str], params: &Value, timeout_ms: i64) -> PlanNode {
    PlanNode {
        id: id.into(),
        kind: kind.into(),
        after: after.iter().map(|s| (*s).to_owned()).collect(),
        params: params.to_string(),
        policy: Some(policy(timeout_ms)),
        ..Default::default()
    }
}

fn effect(mut n: PlanNode, key: String, hourly: Option<Money>) -> PlanNode {
    n.effect = Some(Effect { provider: "aws".into(), key, billed: hourly.is_some(), hourly });
    n
}

/// The plan of a run.
pub fn plan(
    target: &str,
    kind: RunKind,
    owner: &Owner,
    spec: &v1::InstanceSpec,
    facts: &Value,
    have: &Have<'_>,
) -> Plan {
    let nodes = match kind {
        RunKind::Drain | RunKind::Teardown => {
            vec![node("drain", "aws.drain@1", &[], &Value::Null, DRAIN_MS)]
        }
        _ => everything(kind, owner, spec, facts, have),
    };
    Plan { target: target.to_owned(), version: 1, nodes }
}

fn everything(
    kind: RunKind,
    owner: &Owner,
    spec: &v1::InstanceSpec,
    facts: &Value,
    have: &Have<'_>,
) -> Vec<PlanNode> {
    let n = have.revision;
    // what a revision's tasks begin with stays as long as AWS may bring that revision back
    let login = facts["login"].as_bool().unwrap_or(false);
    let pull = names::pull(registry::server(&spec.image));
    let own = [
        (format!("{VALUES}-{n}"), format!("app-{n}"), "secret", "aws.secret@1", !spec.secrets.is_empty()),
        (pull.clone(), pull, "pull", "aws.pull@1", login),
    ];
    let mut nodes =
        vec![effect(node(config::NODE, "aws.config@1", &[], &Value::Null, 60_000), config::key(owner), None)];
    let (mut before, mut params) = (vec![config::NODE], json!({ "revision": n }));
    for (id, name, param, kind, _) in own.iter().filter(|(.., has)| *has) {
        let key = names::secret(owner, name);
        nodes.push(effect(node(id, kind, &[], &json!({ "revision": n }), 60_000), key, None));
        before.push(id);
        params[*param] = id.as_str().into();
    }
    let hourly = facts["hourly"].as_str().and_then(|h| h.parse().ok()).unwrap_or_default();
    let currency = facts["currency"].as_str().unwrap_or_default();
    let stack = node(stack_step::NODE, "aws.stack@1", &before, &params, STACK_MS);
    nodes.push(effect(stack, names::stack(owner), Some(cost::money(hourly, currency))));
    for (id, kind, after, ms) in [
        ("probe", "aws.probe@1", stack_step::NODE, FOUND_MS),
        ("isolation", "aws.isolation@1", "probe", 120_000),
        ("check", "aws.check@1", "isolation", 60_000),
        ("domain", "aws.domain@1", "check", 300_000),
    ] {
        nodes.push(node(id, kind, &[after], &params, ms));
    }
    if kind == RunKind::Update
        && let Some(last) = nodes.iter_mut().find(|n| n.id == "check")
    {
        last.activates = true;
    }
    // what the tasks of other revisions began with
    let is_old = |row: &&LedgerRow| {
        own.iter().any(|(id, _, _, kind, has)| row.kind == *kind && !(*has && row.node == *id))
    };
    for row in have.live().filter(is_old) {
        let mut n = node(&format!("retire-{}", row.node), &row.kind, &["domain"], &Value::Null, 60_000);
        n.retires = Some(row.ordinal);
        nodes.push(n);
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::variants;
    use syp_engine::plan::{effect_deps, retires_in_order, validate};
    use syp_proto::journal::ledger_row;

    fn with_secret() -> v1::InstanceSpec {
        let secret = v1::SecretRef { env: "PW".into(), secret: "own".into(), ..Default::default() };
        v1::InstanceSpec { secrets: vec![secret], ..variants::spec() }
    }

    fn of(kind: RunKind, spec: &v1::InstanceSpec, have: &Have<'_>) -> Plan {
        let facts = json!({ "hourly": "0.05", "currency": "USD" });
        let p = plan("aws:us-east-1", kind, &variants::owner(), spec, &facts, have);
        validate(&p).unwrap();
        retires_in_order(&p, have.ledger).unwrap();
        p
    }

    fn rows(p: &Plan) -> Vec<LedgerRow> {
        let made = p.nodes.iter().filter_map(|n| Some((n, n.effect.as_ref()?)));
        let mut out: Vec<LedgerRow> = Vec::new();
        for (n, e) in made {
            let deps = effect_deps(p, &n.id);
            let deps = out.iter().filter(|r| deps.contains(&r.node)).map(|r| r.ordinal).collect();
            out.push(LedgerRow {
                ordinal: u32::try_from(out.len()).unwrap(),
                node: n.id.clone(),
                kind: n.kind.clone(),
                key: e.key.clone(),
                state: ledger_row::State::Exists as i32,
                deps,
                ..Default::default()
            });
        }
        out
    }

    #[test]
    fn the_stack_rests_on_its_secrets_and_they_go_after_it() {
        let p = of(RunKind::Provision, &with_secret(), &Have::nothing());
        let ids: Vec<_> = p.nodes.iter().map(|n| n.id.as_str()).collect();
        assert_eq!(ids, ["config", "values-1", "stack", "probe", "isolation", "check", "domain"]);
        let deps: Vec<_> = effect_deps(&p, "stack").into_iter().collect();
        assert_eq!(deps, ["config", "values-1"]);
        let billed: Vec<_> = p
            .nodes
            .iter()
            .filter(|n| n.effect.as_ref().is_some_and(|e| e.billed))
            .map(|n| n.id.as_str())
            .collect();
        assert_eq!(billed, ["stack"]);
    }

    #[test]
    fn values_of_a_former_revision_go_when_the_stack_rests_on_them_no_more() {
        let first = of(RunKind::Provision, &with_secret(), &Have::nothing());
        let ledger = rows(&first);
        let have = |revision| Have { ledger: &ledger, revision, ..Have::nothing() };
        let p = of(RunKind::Update, &with_secret(), &have(2));
        let last = p.nodes.last().unwrap();
        assert_eq!((last.id.as_str(), last.retires), ("retire-values-1", Some(1)));
        assert_eq!(
            p.nodes.iter().filter(|n| n.activates).map(|n| n.id.as_str()).collect::<Vec<_>>(),
            ["check"]
        );
        // a login stays while its registry is the image's, and goes with the last image of it
        let facts = json!({ "hourly": "0.05", "currency": "USD", "login": true });
        let of_image = |kind, image: &str, have: &Have<'_>| {
            let spec = v1::InstanceSpec { image: image.into(), ..variants::spec() };
            let p = plan("aws:us-east-1", kind, &variants::owner(), &spec, &facts, have);
            validate(&p).unwrap();
            retires_in_order(&p, have.ledger).unwrap();
            p
        };
        let one = of_image(RunKind::Provision, "one.example.com/shop:1", &Have::nothing());
        let (node, key) = (one.nodes[1].id.clone(), one.nodes[1].effect.clone().unwrap().key);
        assert!(node.starts_with("pull-") && key.ends_with(&format!("/{node}")), "{node} {key}");
        let ledger = rows(&one);
        let have = Have { ledger: &ledger, revision: 2, ..Have::nothing() };
        let same = of_image(RunKind::Update, "one.example.com/other:2", &have);
        assert!(same.nodes[1].id == node && same.nodes.iter().all(|n| n.retires.is_none()));
        let other = of_image(RunKind::Update, "two.example.com/shop:1", &have);
        assert_ne!(other.nodes[1].id, node);
        assert_eq!(other.nodes.last().unwrap().id, format!("retire-{node}"));
        let ledger = rows(&first);
        let have = |revision| Have { ledger: &ledger, revision, ..Have::nothing() };
        // without secrets they go as well, and a repair of the same keeps them
        let p = of(RunKind::Update, &variants::spec(), &have(2));
        assert_eq!(p.nodes.last().unwrap().retires, Some(1));
        let p = of(RunKind::Repair, &with_secret(), &have(1));
        assert!(p.nodes.iter().all(|n| n.retires.is_none()));
    }
}
