//! The state machine as data: one table, turned into a petgraph graph and checked when it is loaded.
//!
//! The executor never names a state it came from: it asks [`Graph::next`] for the edge of a trigger. Failure is a
//! condition with a reason, never a state.
use petgraph::{
    algo::has_path_connecting,
    graph::{DiGraph, NodeIndex},
    visit::EdgeRef,
};
use std::{collections::BTreeMap, sync::OnceLock};
pub use syp_proto::{journal::RunKind, v1::instance::State};

/// What makes an instance change its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Trigger {
    /// The scheduler gives it a place.
    Start,
    /// Every step of the run succeeded.
    RunSucceeded,
    /// The run failed for good, or ran out of time.
    RunFailed,
    /// Somebody cancelled the first `up`.
    Cancel,
    /// `drain`: stop admitting, keep everything.
    Drain,
    /// `down`.
    Delete,
    /// Its time to live is over.
    Expired,
    /// Its budget is spent.
    BudgetExceeded,
    /// `transition --to serving` while it drains and nothing is gone yet.
    Resume,
    /// Something differs from what the ledger says.
    Drift,
    /// A new revision.
    Update,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Edge {
    /// From.
    pub from: State,
    /// On.
    pub on: Trigger,
    /// To.
    pub to: State,
    /// The run that starts with it.
    pub run: Option<RunKind>,
}

/// Version of [`TABLE`], frozen into each instance.
pub const VERSION: u32 = 1;

const fn edge(from: State, on: Trigger, to: State, run: Option<RunKind>) -> Edge {
    Edge { from, on, to, run }
}

/// The table. A new version gets a new table; rows of a released one are never changed.
pub const TABLE: &[Edge] = &[
    edge(State::Pending, Trigger::Start, State::Provisioning, None),
    edge(State::Pending, Trigger::Cancel, State::Draining, Some(RunKind::Teardown)),
    edge(State::Pending, Trigger::Delete, State::Draining, Some(RunKind::Teardown)),
    edge(State::Pending, Trigger::Expired, State::Draining, Some(RunKind::Teardown)),
    edge(State::Provisioning, Trigger::RunSucceeded, State::Serving, None),
    edge(State::Provisioning, Trigger::RunFailed, State::Draining, Some(RunKind::Teardown)),
    edge(State::Provisioning, Trigger::Cancel, State::Draining, Some(RunKind::Teardown)),
    edge(State::Provisioning, Trigger::Delete, State::Draining, Some(RunKind::Teardown)),
    edge(State::Provisioning, Trigger::Expired, State::Draining, Some(RunKind::Teardown)),
    edge(State::Serving, Trigger::Update, State::Serving, Some(RunKind::Update)),
    edge(State::Serving, Trigger::Drift, State::Serving, Some(RunKind::Repair)),
    edge(State::Serving, Trigger::Drain, State::Draining, Some(RunKind::Drain)),
    edge(State::Serving, Trigger::Delete, State::Draining, Some(RunKind::Teardown)),
    edge(State::Serving, Trigger::Expired, State::Draining, Some(RunKind::Teardown)),
    edge(State::Serving, Trigger::BudgetExceeded, State::Draining, Some(RunKind::Teardown)),
    edge(State::Draining, Trigger::Resume, State::Serving, Some(RunKind::Repair)),
    edge(State::Draining, Trigger::Delete, State::Draining, Some(RunKind::Teardown)),
    edge(State::Draining, Trigger::Expired, State::Draining, Some(RunKind::Teardown)),
    edge(State::Draining, Trigger::RunSucceeded, State::Destroyed, None),
];

/// The loaded and checked table.
#[derive(Debug)]
pub struct Graph {
    graph: DiGraph<State, Edge>,
    index: BTreeMap<i32, NodeIndex>,
}

/// Why a table is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// Two rows have the same state and trigger.
    #[error("two edges leave {0:?} on {1:?}")]
    Ambiguous(State, Trigger),
    /// There must be exactly one state that nothing leaves.
    #[error("sinks are {0:?}, expected exactly one")]
    Sinks(Vec<State>),
    /// A state from which the end can't be reached.
    #[error("{0:?} never reaches {1:?}")]
    NoWayOut(State, State),
}

// === impl Graph ===

impl Graph {
    /// Builds the graph and checks it: one sink, every state reaches it, no ambiguous edge.
    ///
    /// # Errors
    /// The first rule that the table breaks.
    pub fn load(table: &[Edge]) -> Result<Self, Error> {
        let mut graph: DiGraph<State, Edge> = DiGraph::new();
        let mut index = BTreeMap::new();
        for e in table {
            for s in [e.from, e.to] {
                index.entry(s as i32).or_insert_with(|| graph.add_node(s));
            }
            let (from, to) = (index[&(e.from as i32)], index[&(e.to as i32)]);
            if graph.edges(from).any(|x| x.weight().on == e.on) {
                return Err(Error::Ambiguous(e.from, e.on));
            }
            graph.add_edge(from, to, *e);
        }
        let sinks: Vec<_> = graph.node_indices().filter(|n| graph.edges(*n).next().is_none()).collect();
        let [sink] = sinks[..] else {
            return Err(Error::Sinks(sinks.iter().map(|n| graph[*n]).collect()));
        };
        for n in graph.node_indices() {
            if !has_path_connecting(&graph, n, sink, None) {
                return Err(Error::NoWayOut(graph[n], graph[sink]));
            }
        }
        Ok(Self { graph, index })
    }

    /// The graph of [`TABLE`]; `None` only if the table itself is wrong, which a test and the start of the engine refuse.
    pub fn current() -> Option<&'static Self> {
        static GRAPH: OnceLock<Option<Graph>> = OnceLock::new();
        GRAPH.get_or_init(|| Self::load(TABLE).ok()).as_ref()
    }

    /// The edge that `trigger` takes out of `state`.
    pub fn next(&self, state: State, trigger: Trigger) -> Option<Edge> {
        let from = *self.index.get(&(state as i32))?;
        self.graph.edges(from).map(|e| *e.weight()).find(|e| e.on == trigger)
    }

    /// The states that can be reached in one step.
    pub fn targets(&self, state: State) -> Vec<State> {
        let mut out: Vec<State> = self.index.get(&(state as i32)).map_or_else(Vec::new, |n| {
            self.graph.edges(*n).map(|e| self.graph[e.target()]).filter(|t| *t != state).collect()
        });
        out.sort();
        out.dedup();
        out
    }
}

/// The edge of the current table.
pub fn next(state: State, trigger: Trigger) -> Option<Edge> {
    Graph::current()?.next(state, trigger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        assert!(Graph::load(TABLE).is_ok());
    }

    #[test]
    fn every_live_state_can_be_deleted() {
        for s in [State::Pending, State::Provisioning, State::Serving, State::Draining] {
            assert_eq!(next(s, Trigger::Delete).unwrap().run, Some(RunKind::Teardown), "{s:?}");
        }
        assert!(next(State::Destroyed, Trigger::Delete).is_none());
    }

    #[test]
    fn bad_tables_are_refused() {
        let a = edge(State::Pending, Trigger::Start, State::Serving, None);
        let b = edge(State::Pending, Trigger::Start, State::Draining, None);
        assert!(matches!(Graph::load(&[a, b]), Err(Error::Ambiguous(..))));
        let back = edge(State::Serving, Trigger::Drain, State::Pending, None);
        assert!(matches!(Graph::load(&[a, back]), Err(Error::Sinks(_))));
    }
}
