//! How many replicas there are where the target chooses: written down when it is news, with what they cost from then on; and whether
//! it can choose at all.
use crate::{
    cell::Cell,
    engine::{Caller, Engine},
    error::Error,
    failure::{Class, failure},
    graph::State,
    scaling,
    scheduler::{cleared, condition},
};
use serde_json::Value;
use std::sync::Arc;
use syp_proto::{
    journal::{Instance, record::Body},
    v1::condition::Status,
};

/// The condition that the target can't tell how many there should be.
pub(crate) const BLIND: &str = "MetricsMissing";

// === impl Engine ===

impl Engine {
    /// So many were seen to run (`None`: nobody chooses); `blind`: why the target can't choose.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn counted(
        &self,
        cell: &Arc<Cell>,
        running: Option<u32>,
        blind: Option<&str>,
    ) -> Result<(), Error> {
        let i = cell.get();
        if news(&i, running).is_none() && told(&i, blind).is_none() {
            return Ok(());
        }
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        let price = news(&i, running).and_then(|facts| self.inner.repriced_as(&i, &facts));
        let all: Vec<Body> = price.into_iter().chain(told(&i, blind)).collect();
        if all.is_empty() {
            return Ok(());
        }
        let who = Caller { actor: "engine".into(), ..Default::default() };
        self.append_locked(cell, all, &who, None).await?;
        self.kick(cell);
        Ok(())
    }
}

/// The facts with the number in them, where it is another one. While a run is open pods of two revisions are there, and rows have the
/// price of its plan. Pure.
fn news(i: &Instance, running: Option<u32>) -> Option<Value> {
    let spec = i.spec.as_ref().filter(|s| scaling::is_elastic(s))?;
    if i.state() != State::Serving || i.run.is_some() {
        return None;
    }
    let mut facts: Value = serde_json::from_str(&i.facts).unwrap_or_default();
    let held = scaling::now(spec, &facts);
    facts[scaling::REPLICAS] = running?.into();
    (scaling::now(spec, &facts) != held).then_some(facts)
}

/// That it can't choose, or can again, where that is news. What it says of why may differ each time and is no news. Pure.
fn told(i: &Instance, blind: Option<&str>) -> Option<Body> {
    let held = i.conditions.iter().any(|c| c.r#type == BLIND && c.status() == Status::True);
    // two revisions are there, or it is about to leave: what comes of it is looked at then
    if i.run.is_some() {
        return None;
    }
    let serves = i.state() == State::Serving;
    match blind.filter(|_| serves && i.spec.as_ref().is_some_and(scaling::is_elastic)) {
        Some(why) if !held => {
            let why = failure(Class::Transient, "METRICS_MISSING", why, "");
            Some(condition(BLIND, Status::True, &why))
        }
        None if held => Some(cleared(BLIND)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::{Condition, InstanceSpec, Scaling};

    #[test]
    fn a_number_is_news_where_the_target_chooses_it_and_nothing_is_under_way() {
        let spec = |min, max| InstanceSpec {
            scaling: Some(Scaling { min, max, ..Default::default() }),
            ..Default::default()
        };
        let mut i =
            Instance { spec: Some(spec(1, 4)), facts: "{\"replicas\":2}".into(), ..Default::default() };
        i.set_state(State::Serving);
        assert_eq!((news(&i, Some(2)), news(&i, None)), (None, None));
        assert_eq!(news(&i, Some(3)).unwrap()["replicas"], 3);
        i.run = Some(Default::default());
        assert_eq!(news(&i, Some(3)), None, "two revisions' pods");
        i.run = None;
        i.spec = Some(spec(2, 2));
        assert_eq!(news(&i, Some(3)), None, "drift, not a choice");
    }

    #[test]
    fn that_a_target_can_not_choose_is_told_once_and_over_when_it_can_or_need_not() {
        let spec = |max| InstanceSpec {
            scaling: Some(Scaling { min: 1, max, ..Default::default() }),
            ..Default::default()
        };
        let mut i = Instance { spec: Some(spec(4)), ..Default::default() };
        i.set_state(State::Serving);
        let Some(Body::ConditionSet(set)) = told(&i, Some("no figures")) else { panic!() };
        let c = set.condition.unwrap();
        assert_eq!(
            (c.status(), c.reason.as_str(), c.message.as_str()),
            (Status::True, "METRICS_MISSING", "no figures")
        );
        assert_eq!(told(&i, None), None);
        i.conditions = vec![c];
        assert_eq!(told(&i, Some("other words")), None);
        let over = Body::ConditionSet(syp_proto::journal::ConditionSet {
            condition: Some(Condition { r#type: BLIND.into(), ..Default::default() }),
        });
        assert_eq!(told(&i, None), Some(over.clone()));
        i.run = Some(Default::default());
        assert_eq!(told(&i, None), None, "not in the middle of a run");
        i.run = None;
        i.spec = Some(spec(1));
        assert_eq!(told(&i, Some("no figures")), Some(over), "a number was said");
    }
}
