use super::*;
use syp_engine::id::{InstanceId, StoreId};
use syp_proto::journal::{LedgerRow, ledger_row};

fn owner(number: u32) -> Owner {
    let revision = format!("x-{number}");
    Owner { store: StoreId::random(), uid: InstanceId::random(), name: "x".into(), revision }
}

fn spec(replicas: i32, image: &str) -> v1::InstanceSpec {
    let scaling = Some(v1::Scaling { min: replicas, ..Default::default() });
    v1::InstanceSpec { scaling, image: image.into(), port: 80, ..Default::default() }
}

/// The ledger after a plan has run.
fn ledger(p: &Plan) -> Vec<LedgerRow> {
    let rows = p.nodes.iter().filter_map(|n| Some((n, n.effect.as_ref()?)));
    rows.enumerate()
        .map(|(at, (n, e))| LedgerRow {
            ordinal: u32::try_from(at).unwrap(),
            node: n.id.clone(),
            kind: n.kind.clone(),
            key: e.key.clone(),
            params: n.params.clone(),
            outputs: if n.id == "network" {
                json!({ "subnet": "10.0.0.0/28" }).to_string()
            } else {
                String::new()
            },
            state: ledger_row::State::Exists as i32,
            ..Default::default()
        })
        .collect()
}

fn after<'a>(p: &'a Plan, id: &str) -> &'a [String] {
    &p.nodes.iter().find(|n| n.id == id).unwrap_or_else(|| panic!("no {id}: {:?}", ids(p))).after
}

fn ids(p: &Plan) -> Vec<&str> {
    p.nodes.iter().map(|n| n.id.as_str()).collect()
}

fn open(p: &Plan, id: &str) -> Vec<(u32, bool)> {
    let n = p.nodes.iter().find(|n| n.id == id).unwrap();
    let r: Routes = serde_json::from_str(&n.routes).unwrap();
    r.replicas.iter().map(|r| (r.slot, r.closed)).collect()
}

#[test]
fn every_plan_is_sound_and_an_apps_volumes_come_before_it() {
    let (o, s, facts) = (owner(1), spec(3, "a"), json!({ "volumes": ["/data"] }));
    for kind in [RunKind::Provision, RunKind::Repair, RunKind::Update, RunKind::Drain, RunKind::Teardown] {
        let p = plan(kind, &o, &s, &facts, &Have::nothing());
        syp_engine::plan::validate(&p).unwrap();
    }
    let p = plan(RunKind::Provision, &o, &s, &facts, &Have::nothing());
    assert_eq!(after(&p, "app-2"), ["holder-2", "image", "volume-2-0"]);
    assert_eq!(p.nodes.iter().filter(|n| n.effect.as_ref().is_some_and(|e| e.billed)).count(), 3);
    assert_eq!(open(&p, "config"), [(0, false), (1, false), (2, false)]);
    // a repair of what is all there plans the same
    let rows = ledger(&p);
    let have = Have { ledger: &rows, revision: 1, ..Default::default() };
    assert_eq!(ids(&plan(RunKind::Repair, &o, &s, &facts, &have)), ids(&p));
}

#[test]
fn an_update_proves_the_new_before_it_touches_the_old() {
    let facts = json!({ "volumes": [] });
    let (old, new) = (spec(2, "a"), spec(2, "b"));
    let first = plan(RunKind::Provision, &owner(1), &old, &facts, &Have::nothing());
    let rows = ledger(&first);
    let routes = first.nodes.iter().find(|n| n.id == "config").unwrap().routes.clone();
    let have = Have { ledger: &rows, revision: 2, routes: &routes, serving: Some(&old) };
    let p = plan(RunKind::Update, &owner(2), &new, &facts, &have);
    syp_engine::plan::validate(&p).unwrap();
    assert_eq!(open(&p, "standby"), [(0, false), (1, false), (2, true), (3, true)]);
    assert_eq!(open(&p, "switch"), [(0, true), (1, true), (2, false), (3, false)]);
    assert_eq!(open(&p, "final"), [(2, false), (3, false)]);
    assert_eq!(after(&p, "switch"), ["probe"]);
    assert_eq!(
        (after(&p, "retire-app-0"), after(&p, "retire-holder-0")),
        (&["final".into()][..], &["retire-app-0".into()][..])
    );
    let activates: Vec<_> = p.nodes.iter().filter(|n| n.activates).map(|n| n.id.as_str()).collect();
    assert_eq!(activates, ["switch"]);
    // the volumes of an image are written by one at a time
    let volumes = json!({ "volumes": ["/data"] });
    let first = plan(RunKind::Provision, &owner(1), &old, &volumes, &Have::nothing());
    let rows = ledger(&first);
    let have = Have { ledger: &rows, revision: 2, routes: &routes, serving: Some(&old) };
    let p = plan(RunKind::Update, &owner(2), &new, &volumes, &have);
    syp_engine::plan::validate(&p).unwrap();
    // the gate knows nothing of the place while nobody is in it
    assert_eq!(
        (open(&p, "forget-0"), after(&p, "retire-app-0")),
        (vec![(1, false)], &["forget-0".into()][..])
    );
    assert_eq!(after(&p, "holder-0"), ["retire-holder-0"]);
    assert_eq!(after(&p, "close-1"), ["probe-0"]);
    assert_eq!(open(&p, "close-1"), [(0, false), (1, true)]);
    assert_eq!(open(&p, "switch"), [(0, false), (1, false)]);
    assert!(!ids(&p).contains(&"settle"), "nothing is left to retire");
}

#[test]
fn fewer_replicas_retire_and_a_repair_removes_what_an_update_left() {
    let facts = json!({ "volumes": [] });
    let two = spec(2, "a");
    let first = plan(RunKind::Provision, &owner(1), &two, &facts, &Have::nothing());
    let mut rows = ledger(&first);
    let have = Have { ledger: &rows, revision: 2, routes: "", serving: Some(&two) };
    let p = plan(RunKind::Update, &owner(2), &spec(1, "a"), &facts, &have);
    assert_eq!(ids(&p), ["image", "switch", "settle", "final", "retire-app-1", "retire-holder-1"]);
    assert_eq!(open(&p, "switch"), [(0, false), (1, true)]);
    // half of a new revision is there, and the old one is to serve
    rows.push(LedgerRow {
        ordinal: u32::try_from(rows.len()).unwrap(),
        node: "holder-2".into(),
        kind: "docker.holder@1".into(),
        params: json!({ "template": "other" }).to_string(),
        ..Default::default()
    });
    let have = Have { ledger: &rows, revision: 1, routes: "", serving: Some(&two) };
    let p = plan(RunKind::Repair, &owner(1), &two, &facts, &have);
    syp_engine::plan::validate(&p).unwrap();
    assert_eq!(after(&p, "retire-holder-2"), ["final"]);
    assert!(!ids(&p).contains(&"retire-holder-0"));
}
