use super::*;
use syp_engine::{
    id::{InstanceId, StoreId},
    plan::{retires_in_order, validate},
};
use syp_proto::journal::ledger_row;

fn owner(number: u32) -> Owner {
    let revision = format!("x-{number}");
    Owner { store: StoreId::random(), uid: InstanceId::random(), name: "x".into(), revision }
}

fn spec(replicas: i32, image: &str) -> v1::InstanceSpec {
    let scaling = Some(v1::Scaling { min: replicas, ..Default::default() });
    v1::InstanceSpec { scaling, image: image.into(), port: 80, ..Default::default() }
}

fn facts() -> Value {
    json!({ "namespace": "n", "own_namespace": true, "image": "i", "replica_hourly": "0.5", "currency": "EUR" })
}

/// The ledger after a plan has run, with what each row rests on.
fn ledger(p: &Plan) -> Vec<LedgerRow> {
    let nodes: Vec<_> = p.nodes.iter().filter(|n| n.effect.is_some()).collect();
    let number = |id: &str| nodes.iter().position(|n| n.id == id).and_then(|n| u32::try_from(n).ok());
    let row = |n: &&PlanNode| LedgerRow {
        ordinal: number(&n.id).unwrap(),
        node: n.id.clone(),
        kind: n.kind.clone(),
        key: n.effect.as_ref().unwrap().key.clone(),
        params: n.params.clone(),
        deps: syp_engine::plan::effect_deps(p, &n.id).iter().filter_map(|d| number(d)).collect(),
        state: ledger_row::State::Exists as i32,
        ..Default::default()
    };
    nodes.iter().map(row).collect()
}

fn go(kind: RunKind, number: u32, s: &v1::InstanceSpec, ledger: &[LedgerRow]) -> Plan {
    let have = Have { ledger, revision: number, ..Default::default() };
    let p = plan("k8s:x", kind, &owner(number), s, &facts(), &have);
    validate(&p).unwrap();
    retires_in_order(&p, ledger).unwrap();
    p
}

fn ids(p: &Plan) -> Vec<&str> {
    p.nodes.iter().map(|n| n.id.as_str()).collect()
}

fn after<'a>(p: &'a Plan, id: &str) -> &'a [String] {
    &p.nodes.iter().find(|n| n.id == id).unwrap_or_else(|| panic!("no {id}: {:?}", ids(p))).after
}

#[test]
fn nothing_serves_before_it_is_proven_and_what_stays_rests_on_no_revision() {
    let p = go(RunKind::Provision, 1, &spec(2, "a"), &[]);
    assert_eq!(after(&p, "app-1"), ["account", "config", "policy", "disruption"]);
    assert_eq!((after(&p, "scale"), after(&p, "probe")), (&["app-1".into()][..], &["scale".into()][..]));
    assert_eq!(after(&p, "isolation"), ["probe"]);
    assert_eq!(after(&p, "switch"), ["isolation"]);
    let rows = ledger(&p);
    let app = rows.iter().find(|r| r.node == "app-1").unwrap().ordinal;
    assert!(rows.iter().all(|r| !r.deps.contains(&app)), "{rows:?}");
    let priced = p.nodes.iter().find(|n| n.id == "app-1").unwrap().effect.clone().unwrap();
    assert_eq!(priced.hourly.unwrap().units, 1, "two replicas of half a euro");
}

#[test]
fn another_revision_comes_beside_and_the_old_one_goes_when_it_has_finished() {
    let first = ledger(&go(RunKind::Provision, 1, &spec(1, "a"), &[]));
    let p = go(RunKind::Update, 2, &spec(1, "b"), &first);
    let base = ["namespace", "account", "config", "policy", "disruption"];
    let rest = ["app-2", "scale", "probe", "isolation", "switch", "settle", "retire-app-1"];
    assert_eq!(ids(&p), [&base[..], &rest[..]].concat());
    assert_eq!(after(&p, "app-2"), BASE, "its port stays closed for as long as it runs");
    assert!(p.nodes.iter().find(|n| n.id == "switch").unwrap().activates);
}

#[test]
fn more_of_the_same_touch_no_other_and_are_not_tried_again() {
    let first = ledger(&go(RunKind::Provision, 1, &spec(1, "a"), &[]));
    let p = go(RunKind::Update, 2, &spec(3, "a"), &first);
    assert_eq!(ids(&p), ["scale", "probe", "switch"]);
    // a repair after that converges on the Deployment that is there
    let p = go(RunKind::Repair, 2, &spec(3, "a"), &first);
    assert!(ids(&p).contains(&"app-1") && !ids(&p).contains(&"app-2"));
}

#[test]
fn in_a_range_the_cluster_chooses_from_when_it_is_proven_and_the_next_revision_begins_with_as_many() {
    let range = |image: &str, max| {
        let mut s = spec(1, image);
        s.scaling = Some(v1::Scaling { min: 1, max, ..Default::default() });
        s
    };
    let p = go(RunKind::Provision, 1, &range("a", 5), &[]);
    assert_eq!(after(&p, "autoscaler-1"), ["isolation", "app-1"]);
    assert_eq!(after(&p, "switch"), ["autoscaler-1"]);
    let first = ledger(&p);
    let have = Have { ledger: &first, revision: 2, ..Default::default() };
    let mut four = facts();
    four["replicas"] = json!(4);
    let p = plan("k8s:x", RunKind::Update, &owner(2), &range("b", 5), &four, &have);
    retires_in_order(&p, &first).unwrap();
    let of = |id: &str, what: &str| {
        let n = p.nodes.iter().find(|n| n.id == id).unwrap();
        serde_json::from_str::<Value>(&n.params).unwrap()[what].clone()
    };
    assert_eq!(
        (of("scale", "begin"), of("scale", "least"), of("probe", "need")),
        (json!(4), json!(1), json!(4))
    );
    assert_eq!(after(&p, "retire-app-1"), ["retire-autoscaler-1"]);
    let hourly = p.nodes.iter().find(|n| n.id == "app-2").unwrap().effect.clone().unwrap().hourly.unwrap();
    assert_eq!(hourly.units, 2, "four of half a euro");
    // a wider range, a number, and a repair of each
    let p = go(RunKind::Update, 2, &range("a", 9), &first);
    assert_eq!(ids(&p), ["scale", "probe", "autoscaler-1", "switch"]);
    let p = go(RunKind::Update, 2, &spec(2, "a"), &first);
    assert_eq!(ids(&p), ["retire-autoscaler-1", "scale", "probe", "switch"]);
    assert_eq!(after(&p, "scale"), ["retire-autoscaler-1"], "nobody else says how many");
    let p = go(RunKind::Repair, 1, &spec(2, "a"), &first);
    assert!(after(&p, "scale").contains(&"retire-autoscaler-1".into()));
    let p = go(RunKind::Repair, 1, &range("a", 5), &first);
    assert!(ids(&p).contains(&"autoscaler-1") && !ids(&p).iter().any(|n| n.starts_with("retire")));
}

#[test]
fn values_come_before_the_app_that_has_them_and_go_after_it() {
    let mut s = spec(1, "a");
    s.secrets = vec![v1::SecretRef { env: "A".into(), ..Default::default() }];
    let first = ledger(&go(RunKind::Provision, 1, &s, &[]));
    let p = go(RunKind::Update, 2, &spec(1, "b"), &first);
    assert_eq!(after(&p, "retire-secret-1"), ["retire-app-1"]);
    // a repair in the middle of an update takes away what does not belong to it
    let both = [first.clone(), {
        let mut more = ledger(&go(RunKind::Update, 2, &spec(1, "b"), &first));
        more.iter_mut().for_each(|r| r.ordinal += 100);
        more.iter_mut().for_each(|r| r.deps.clear());
        more
    }]
    .concat();
    let p = go(RunKind::Repair, 1, &s, &both);
    assert!(ids(&p).contains(&"retire-app-2") && !ids(&p).contains(&"retire-app-1"));
}

#[test]
fn a_login_is_with_the_nodes_before_any_app_and_a_gateway_stands_in_for_an_ingress() {
    let mut s = spec(1, "a");
    s.domains = vec!["shop.example.com".into()];
    s.kubernetes =
        Some(v1::Kubernetes { pull_login: true, gateway: "infra/web".into(), ..Default::default() });
    let p = go(RunKind::Provision, 1, &s, &[]);
    assert!(after(&p, "app-1").contains(&"pull".into()) && after(&p, "pull") == ["namespace"]);
    assert_eq!((after(&p, "route"), ids(&p).contains(&"ingress")), (&["service".into()][..], false));
    assert!(after(&p, "check").contains(&"route".into()));
    let first = ledger(&p);
    s.image = "b".into();
    let p = go(RunKind::Update, 2, &s, &first);
    assert!(after(&p, "app-2").contains(&"pull".into()), "the newest login for every revision");
}
