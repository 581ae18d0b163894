//! A plan is a DAG of steps, built by a pure function of the target, checked here, then frozen in the journal.
use petgraph::{algo::toposort, graphmap::DiGraphMap};
use std::collections::BTreeSet;
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
    fn dependencies_are_seen_through_nodes_without_effect() {
        let p = plan(vec![node("a", &[], true), node("b", &["a"], false), node("c", &["b"], true)]);
        assert_eq!(effect_deps(&p, "c").into_iter().collect::<Vec<_>>(), ["a"]);
    }
}
