//! How many replicas there are where the target chooses: written down when it is news, with what they cost from then on.
use crate::{
    cell::Cell,
    engine::{Caller, Engine},
    error::Error,
    graph::State,
    scaling,
};
use serde_json::Value;
use std::sync::Arc;
use syp_proto::journal::Instance;

// === impl Engine ===

impl Engine {
    /// So many were seen to run.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn counted(&self, cell: &Arc<Cell>, running: u32) -> Result<(), Error> {
        if news(&cell.get(), running).is_none() {
            return Ok(());
        }
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        let Some(facts) = news(&i, running) else { return Ok(()) };
        let Some(body) = self.inner.repriced_as(&i, &facts) else { return Ok(()) };
        let who = Caller { actor: "engine".into(), ..Default::default() };
        self.append_locked(cell, vec![body], &who, None).await?;
        self.kick(cell);
        Ok(())
    }
}

/// The facts with the number in them, where it is another one. While a run is open pods of two revisions are there, and rows have the
/// price of its plan. Pure.
fn news(i: &Instance, running: u32) -> Option<Value> {
    let spec = i.spec.as_ref().filter(|s| scaling::is_elastic(s))?;
    if i.state() != State::Serving || i.run.is_some() {
        return None;
    }
    let mut facts: Value = serde_json::from_str(&i.facts).unwrap_or_default();
    let held = scaling::now(spec, &facts);
    facts[scaling::REPLICAS] = running.into();
    (scaling::now(spec, &facts) != held).then_some(facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::{InstanceSpec, Scaling};

    #[test]
    fn a_number_is_news_where_the_target_chooses_it_and_nothing_is_under_way() {
        let spec = |min, max| InstanceSpec {
            scaling: Some(Scaling { min, max, ..Default::default() }),
            ..Default::default()
        };
        let mut i =
            Instance { spec: Some(spec(1, 4)), facts: "{\"replicas\":2}".into(), ..Default::default() };
        i.set_state(State::Serving);
        assert_eq!(news(&i, 2), None);
        assert_eq!(news(&i, 3).unwrap()["replicas"], 3);
        i.run = Some(Default::default());
        assert_eq!(news(&i, 3), None, "two revisions' pods");
        i.run = None;
        i.spec = Some(spec(2, 2));
        assert_eq!(news(&i, 3), None, "drift, not a choice");
    }
}
