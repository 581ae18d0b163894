//! What energy costs, now and before. A new price is for later: each instance's rows are settled at the old one first.
use crate::{
    calls,
    cell::Cell,
    clock::timestamp,
    cost,
    engine::{Caller, Engine},
    error::Error,
    fold::over,
    graph::{RunKind, State},
    inner::Inner,
    revision,
    step::Have,
    store::Commit,
};
use prost::Message;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use syp_proto::{
    journal::{self, Tariffs, record::Body},
    v1::Tariff,
};

/// Setting under which all of them are.
pub const TARIFFS: &str = "tariffs";
/// Instances with an open update are looked at again after this.
const AGAIN: Duration = Duration::from_secs(2);

/// Those that were ever set, oldest first.
///
/// # Errors
/// The store's.
pub async fn all(store: &dyn crate::store::Store) -> Result<Vec<Tariff>, Error> {
    let bytes = store.setting(TARIFFS).await?.unwrap_or_default();
    let read = Tariffs::decode(bytes.as_slice()).map_err(|e| Error::Corrupt(format!("{TARIFFS}: {e}")))?;
    Ok(read.tariffs)
}

/// Is it the price of energy on the engine's own host?
pub fn is_energy(t: &Tariff) -> bool {
    t.target.is_empty()
}

/// The newest of the same nodes of the same target.
pub fn held(all: &[Tariff], of: &Tariff) -> Option<Tariff> {
    let kind = |t: &Tariff| [&t.target, &t.instance_type, &t.region, &t.zone].map(String::clone);
    all.iter().rev().find(|t| kind(t) == kind(of)).cloned()
}

// === impl Engine ===

impl Engine {
    /// Sets another tariff. It is on disk before the first instance is priced by it; a start after a crash goes on with the rest.
    ///
    /// # Errors
    /// What a target does not take, or the store's.
    pub async fn set_tariff(&self, new: Tariff, who: &Caller) -> Result<Tariff, Error> {
        let _guard = self.inner.pricing.lock().await;
        let held = self.targets().find_map(|t| t.tariff());
        let mut tariffs = all(&**self.store()).await?;
        if !tariffs.iter().any(is_energy) {
            // what counted until now belongs to the history too
            tariffs.extend(held.clone());
        }
        let new = Tariff { from_time: timestamp(self.clock().now()), creator: who.actor.clone(), ..new };
        let energy = is_energy(&new);
        for t in self.targets().filter(|_| energy) {
            t.set_tariff(&new).map_err(Error::Refused)?;
        }
        tariffs.push(new.clone());
        let commit = Commit {
            settings: vec![(TARIFFS.into(), Tariffs { tariffs }.encode_to_vec())],
            answer: self.answer(who, String::new(), String::new()),
            ..Default::default()
        };
        if let Err(e) = self.store().commit(commit).await {
            // what is not on disk does not count
            if let Some(held) = held.filter(|_| energy) {
                self.targets().try_for_each(|t| t.set_tariff(&held)).map_err(Error::Refused)?;
            }
            return Err(e.into());
        }
        // from here on, also for who comes to be known in this moment or later
        self.inner.targets.set_tariff(&new).map_err(Error::Refused)?;
        self.price_anew();
        Ok(new)
    }

    /// Brings every instance to today's prices; begun at each start, for what a crash has left.
    pub fn price_anew(&self) {
        let e = self.clone();
        self.spawn(async move {
            loop {
                let mut open = false;
                for cell in e.cells() {
                    match e.price(&cell).await {
                        Ok(done) => open |= !done,
                        Err(error) => tracing::warn!(instance = %cell.id, %error, "not priced anew"),
                    }
                }
                if !open {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// One instance; false when it must be looked at again.
    async fn price(&self, cell: &Arc<Cell>) -> Result<bool, Error> {
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        if cell.blocked().is_some() || i.state() == State::Destroyed {
            return Ok(true);
        }
        match i.run.as_ref().map(journal::Run::kind) {
            // what it makes has the price of its plan: all of it is priced when it is there
            Some(RunKind::Provision | RunKind::Update) => return Ok(self.inner.repriced(&i).is_none()),
            Some(RunKind::Teardown) => return Ok(true),
            _ => {}
        }
        let Some(body) = self.inner.repriced(&i) else { return Ok(true) };
        let who = Caller { actor: "engine".into(), ..Default::default() };
        self.append_locked(cell, vec![body], &who, None).await?;
        self.kick(cell);
        Ok(true)
    }
}

// === impl Inner ===

impl Inner {
    /// The record that brings an instance to today's prices: of another tariff, or of more or fewer replicas in what stays.
    pub fn repriced(&self, i: &journal::Instance) -> Option<Body> {
        self.repriced_as(i, &serde_json::from_str(&i.facts).unwrap_or_default())
    }

    /// The same with other facts than the instance has.
    pub fn repriced_as(&self, i: &journal::Instance, facts: &Value) -> Option<Body> {
        let target = self.target(i).ok()?;
        let spec = i.spec.clone().unwrap_or_default();
        let (hourly, new) = target.reprice(None, &spec, facts)?;
        let number = revision::number(i);
        let owner = calls::owner(self, i, number);
        let plan = target.plan(RunKind::Repair, &owner, &spec, &new, &Have::of(i, number));
        let price = |r: &journal::LedgerRow| {
            let node = plan.nodes.iter().find(|n| n.id == r.node)?;
            let hourly = node.effect.as_ref()?.hourly.clone()?;
            // rows of former versions have no price of their own
            let held = r.hourly.as_ref()?;
            (*held != hourly).then_some(journal::Price { entry: r.ordinal, hourly: Some(hourly) })
        };
        let prices: Vec<_> = i.ledger.iter().filter(|r| r.billed && !over(r)).filter_map(price).collect();
        let same = || serde_json::from_str::<Value>(&i.facts).is_ok_and(|held| held == new);
        if prices.is_empty() && same() {
            return None;
        }
        let currency = i.hourly_rate.as_ref().map_or("", |m| m.currency_code.as_str());
        Some(Body::Repriced(journal::Repriced {
            prices,
            hourly_rate: Some(cost::money(hourly, currency)),
            facts: new.to_string(),
        }))
    }
}
