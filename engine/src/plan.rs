//! A plan is a DAG of steps, built by a pure function of the target, checked here, then frozen in the journal.
use petgraph::{algo::toposort, graphmap::DiGraphMap};
use std::collections::BTreeSet;
use syp_proto::journal::LedgerRow;
pub use syp_proto::journal::{Effect, InDoubt, Plan, PlanNode, Policy};

/// Why a plan is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Two nodes share an id.
    #[error("node {0} is there twice")]
    Twice(String),
    /// A dependency that is not in the plan.
    #[error("node {0} comes after {1}, which is not in the plan")]
    Unknown(String, String),
    /// A circle.
    #[error("the plan has a circle through {0}")]
    Circle(String),
    /// An effect whose doubt can't be resolved.
    #[error("node {0} has an effect but no way to resolve a doubt about it")]
    NoDoubtClass(String),
    /// It makes and removes, or lets serve what it removes.
    #[error("node {0} retires a row and does something else too")]
    NotOnlyRetires(String),
    /// It removes what something else still rests on by then.
    #[error("node {0} retires what {1} rests on")]
    RestsOn(String, String),
    /// Two nodes claim one effect.
    #[error("nodes share the effect key {0}")]
    SharedKey(String),
}

/// Checks a plan before it is frozen.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn validate(plan: &Plan) -> Result<(), Error> {
    let mut ids = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for n in &plan.nodes {
        if !ids.insert(n.id.as_str()) {
            return Err(Error::Twice(n.id.clone()));
        }
        if n.retires.is_some() && (n.effect.is_some() || n.activates || !n.routes.is_empty()) {
            return Err(Error::NotOnlyRetires(n.id.clone()));
        }
        if let Some(e) = &n.effect {
            if !keys.insert((&e.provider, &e.key, n.kind.split('@').next())) {
                return Err(Error::SharedKey(e.key.clone()));
            }
            if n.policy.as_ref().is_none_or(|p| p.in_doubt() == InDoubt::Unspecified) {
                return Err(Error::NoDoubtClass(n.id.clone()));
            }
        }
    }
    let mut graph: DiGraphMap<&str, ()> = DiGraphMap::new();
    for n in &plan.nodes {
        graph.add_node(n.id.as_str());
        for a in &n.after {
            if !ids.contains(a.as_str()) {
                return Err(Error::Unknown(n.id.clone(), a.clone()));
            }
            graph.add_edge(a.as_str(), n.id.as_str(), ());
        }
    }
    toposort(&graph, None).map_err(|c| Error::Circle(c.node_id().to_owned()))?;
    Ok(())
}

/// Checks that what a plan retires has nothing resting on it by then: neither what is there already, unless it is retired before or
/// made anew without it, nor what the plan makes.
///
/// # Errors
/// [`Error::RestsOn`].
pub fn retires_in_order(plan: &Plan, ledger: &[LedgerRow]) -> Result<(), Error> {
    let retired = |row: u32| plan.nodes.iter().find(|n| n.retires == Some(row));
    for n in &plan.nodes {
        let Some(row) = n.retires else { continue };
        for above in ledger.iter().filter(|x| x.deps.contains(&row) && !crate::fold::over(x)) {
            let anew = plan.nodes.iter().any(|m| {
                let same = m.effect.as_ref().is_some_and(|e| e.key == above.key) && m.kind == above.kind;
                same && comes_before(plan, &m.id, &n.id)
            });
            if !anew && retired(above.ordinal).is_none_or(|b| !comes_before(plan, &b.id, &n.id)) {
                return Err(Error::RestsOn(n.id.clone(), above.key.clone()));
            }
        }
        let node = ledger.iter().find(|x| x.ordinal == row).map_or("", |x| x.node.as_str());
        let makes =
            plan.nodes.iter().filter(|m| m.effect.is_some() && effect_deps(plan, &m.id).contains(node));
        if let Some(above) = makes.into_iter().find(|m| !comes_before(plan, &n.id, &m.id)) {
            return Err(Error::RestsOn(n.id.clone(), above.id.clone()));
        }
    }
    Ok(())
}

/// Is `first` done before `then` begins, by the order of the plan?
fn comes_before(plan: &Plan, first: &str, then: &str) -> bool {
    let (mut todo, mut seen) = (vec![then], BTreeSet::new());
    while let Some(id) = todo.pop() {
        if id == first {
            return true;
        }
        if seen.insert(id) {
            todo.extend(
                plan.nodes.iter().filter(|n| n.id == id).flat_map(|n| n.after.iter().map(String::as_str)),
            );
        }
    }
    false
}

/// The ids of nodes with an effect on which `node` rests, seen through nodes without one.
pub fn effect_deps(plan: &Plan, node: &str) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut todo: Vec<&str> =
        plan.nodes.iter().filter(|n| n.id == node).flat_map(|n| n.after.iter().map(String::as_str)).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Some(n) = plan.nodes.iter().find(|n| n.id == id) else { continue };
        if n.effect.is_some() {
            out.insert(id.to_owned());
        } else if n.retires.is_none() && n.routes.is_empty() {
            // what was retired or routed before is an order of time: nothing rests on it
            todo.extend(n.after.iter().map(String::as_str));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: &str, after: &[&str], effect: bool) -> PlanNode {
        PlanNode {
            id: id.into(),
            kind: format!("t.{id}@1"),
            after: after.iter().map(|s| (*s).into()).collect(),
            effect: effect.then(|| Effect { provider: "t".into(), key: id.into(), ..Default::default() }),
            policy: Some(Policy { in_doubt: InDoubt::Ensure as i32, ..Default::default() }),
            ..Default::default()
        }
    }

    fn plan(nodes: Vec<PlanNode>) -> Plan {
        Plan { target: "t".into(), version: 1, nodes }
    }

    #[test]
    fn circles_unknown_and_double_nodes_are_refused() {
        assert_eq!(validate(&plan(vec![node("a", &[], true), node("b", &["a"], true)])), Ok(()));
        assert!(matches!(
            validate(&plan(vec![node("a", &["b"], true), node("b", &["a"], true)])),
            Err(Error::Circle(_))
        ));
        assert!(matches!(validate(&plan(vec![node("a", &["z"], true)])), Err(Error::Unknown(..))));
        assert!(matches!(
            validate(&plan(vec![node("a", &[], true), node("a", &[], true)])),
            Err(Error::Twice(_))
        ));
        let mut n = node("a", &[], true);
        n.policy = None;
        assert!(matches!(validate(&plan(vec![n])), Err(Error::NoDoubtClass(_))));
    }

    #[test]
    fn what_something_rests_on_is_not_retired_before_it() {
        let row = |ordinal, node: &str, deps: &[u32]| LedgerRow {
            ordinal,
            node: node.into(),
            key: node.into(),
            deps: deps.to_vec(),
            ..Default::default()
        };
        let ledger = [row(0, "app-1", &[]), row(1, "service", &[0])];
        let retire =
            |id: &str, row, after: &[&str]| PlanNode { retires: Some(row), ..node(id, after, false) };
        let wrong = plan(vec![retire("r0", 0, &[])]);
        assert_eq!(retires_in_order(&wrong, &ledger), Err(Error::RestsOn("r0".into(), "service".into())));
        let both = plan(vec![retire("r1", 1, &[]), retire("r0", 0, &["r1"])]);
        assert_eq!(retires_in_order(&both, &ledger), Ok(()));
        // made anew without it, what rested on it rests on it no more
        let anew = plan(vec![node("service", &[], true), retire("r0", 0, &["service"])]);
        assert_eq!(
            retires_in_order(
                &anew,
                &[row(0, "app-1", &[]), LedgerRow { kind: "t.service@1".into(), ..row(1, "service", &[0]) }]
            ),
            Ok(())
        );
        let late = plan(vec![node("service", &[], true), retire("r0", 0, &[])]);
        assert!(
            retires_in_order(
                &late,
                &[row(0, "app-1", &[]), LedgerRow { kind: "t.service@1".into(), ..row(1, "service", &[0]) }]
            )
            .is_err()
        );
        let made = plan(vec![node("app-1", &[], true), node("x", &["app-1"], true), retire("r0", 0, &[])]);
        assert!(retires_in_order(&made, &ledger[..1]).is_err());
    }

    #[test]
    fn dependencies_are_seen_through_nodes_without_effect() {
        let p = plan(vec![node("a", &[], true), node("b", &["a"], false), node("c", &["b"], true)]);
        assert_eq!(effect_deps(&p, "c").into_iter().collect::<Vec<_>>(), ["a"]);
    }
}
