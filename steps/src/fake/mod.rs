//! A cloud for exhaustive fault injection: late landings, listings that lag, calls that work and answer a timeout.
//!
//! It stands beside the real Docker in the tests, never instead of it. Time is tokio's (paused) time.
mod cloud;
mod steps;

pub use cloud::{Behaviour, FakeCloud, Fault, Object};

use futures_util::future::BoxFuture;
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::sync::Arc;
use syp_engine::{
    clock::Millis,
    failure::{Class, failure},
    graph::RunKind,
    id::StoreId,
    meter::{self, HOUR_MS},
    plan::{Effect, InDoubt, Plan, PlanNode, Policy},
    step::{
        Billed, Biller, DynStep, Have, Held, LogLines, LogQuery, News, Of, Owner, Preflight, Stats, StepCx,
        Target, Use, Uses,
    },
};
use syp_proto::{
    journal::{Failure, Found, LedgerRow},
    v1,
};

/// Kinds of the fake steps, one for each way to resolve a doubt, and two without an effect.
pub const KINDS: [&str; 5] =
    ["fake.ensure@1", "fake.token@1", "fake.lookup@1", "fake.note@1", "fake.drain@1"];

/// A condition that may hold by itself when it did not before.
pub const MENDS: &str = "Mends";

/// Name of the effect of a node.
pub fn key(owner: &Owner, node: &str) -> String {
    format!("{}-{}-{node}", owner.store, owner.uid.short())
}

impl Target for FakeCloud {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn step(&self, kind: &str) -> Option<Arc<dyn DynStep>> {
        let kind = KINDS.into_iter().find(|k| *k == kind)?;
        Some(Arc::new(steps::FakeStep { kind, cloud: self.clone() }))
    }

    fn kinds(&self) -> Vec<&'static str> {
        KINDS.to_vec()
    }

    /// a (ensure) -> b (token), c (lookup) -> n (note) -> d (ensure). A later revision has another d (d2, d3, ...): it is made,
    /// tried (p), it serves (switch), and what was before it is retired.
    fn plan(&self, kind: RunKind, owner: &Owner, _: &v1::InstanceSpec, _: &Value, have: &Have<'_>) -> Plan {
        let settle = self.settle_ms();
        let node = |id: &str, kind: &str, after: &[&str], doubt: InDoubt| PlanNode {
            id: id.into(),
            kind: kind.into(),
            after: after.iter().map(|s| (*s).to_owned()).collect(),
            params: "null".into(),
            effect: matches!(kind, "fake.ensure@1" | "fake.token@1" | "fake.lookup@1").then(|| Effect {
                provider: "fake".into(),
                key: key(owner, id),
                billed: id.starts_with('d'),
                hourly: id.starts_with('d').then(|| syp_engine::cost::money(Decimal::ONE, "EUR")),
            }),
            policy: Some(Policy {
                in_doubt: doubt as i32,
                attempt_timeout_ms: 5_000,
                max_attempts: 4,
                settle_ms: settle,
                total_timeout_ms: 0,
            }),
            ..Default::default()
        };
        let d = if have.revision < 2 { "d".to_owned() } else { format!("d{}", have.revision) };
        let retired = |after: &str| {
            let others = have.live().filter(|r| r.node.starts_with('d') && r.node != d);
            let retire = |r: &LedgerRow| PlanNode {
                retires: Some(r.ordinal),
                effect: None,
                ..node(&format!("retire {}", r.node), &r.kind, &[after], InDoubt::Ensure)
            };
            others.map(retire).collect::<Vec<_>>()
        };
        let nodes = match kind {
            RunKind::Drain | RunKind::Teardown => vec![node("drain", "fake.drain@1", &[], InDoubt::Ensure)],
            RunKind::Update => {
                let mut nodes = vec![
                    node(&d, "fake.ensure@1", &[], InDoubt::Ensure),
                    node("p", "fake.note@1", &[&d], InDoubt::Ensure),
                    PlanNode {
                        activates: true,
                        routes: format!("\"{d}\""),
                        ..node("switch", "fake.note@1", &["p"], InDoubt::Ensure)
                    },
                ];
                nodes.extend(retired("switch"));
                nodes
            }
            _ => [
                vec![
                    node("a", "fake.ensure@1", &[], InDoubt::Ensure),
                    node("b", "fake.token@1", &["a"], InDoubt::Token),
                    node("c", "fake.lookup@1", &["a"], InDoubt::Lookup),
                    node("n", "fake.note@1", &["b", "c"], InDoubt::Ensure),
                    node(&d, "fake.ensure@1", &["n"], InDoubt::Ensure),
                ],
                retired(&d),
            ]
            .concat(),
        };
        Plan { target: "fake".into(), version: 1, nodes }
    }

    fn preflight<'a>(
        &'a self,
        _: &'a Owner,
        spec: &'a v1::InstanceSpec,
        _: Option<&'a Held<'a>>,
    ) -> BoxFuture<'a, Result<Preflight, Failure>> {
        Box::pin(async move {
            if spec.image == "missing" {
                return Err(failure(
                    Class::Terminal,
                    "IMAGE_NOT_FOUND",
                    "there is no image 'missing'",
                    "check its name",
                ));
            }
            Ok(Preflight { facts: json!({}), spec: spec.clone(), hourly: Decimal::ONE, lines: vec![] })
        })
    }

    fn used<'a>(&'a self, cx: &'a StepCx, from: Millis, until: Millis) -> Option<Uses<'a>> {
        self.is_paid_by_use().then(|| -> Uses<'a> {
            Box::pin(async move {
                self.call("used").await?;
                // as a provider would: only of what was there
                if !cx.outputs.contains_key("a") {
                    return Ok(vec![]);
                }
                let quantity = Decimal::from(until - from) / Decimal::from(HOUR_MS);
                let day = meter::day(from);
                Ok(vec![Use { kind: "hours", unit: "h", day, quantity, amount: quantity * Decimal::TWO }])
            })
        })
    }

    fn holds_now<'a>(
        &'a self,
        _: &'a StepCx,
        condition: &str,
    ) -> Option<BoxFuture<'a, Result<Option<String>, Failure>>> {
        (condition == MENDS).then(|| -> BoxFuture<'a, _> {
            Box::pin(async {
                self.call("holds now").await?;
                Ok((self.holding() == Some(true)).then(|| "it does".to_owned()))
            })
        })
    }

    fn biller(&self) -> Option<Biller> {
        self.bill_of().map(|_| Biller {
            key: "fake",
            name: "Fake Bills",
            price: "1 EUR a question",
            unknown: "wait",
        })
    }

    fn billed<'a>(&'a self, _: &'a StoreId, _: Millis) -> BoxFuture<'a, Result<Billed, Failure>> {
        Box::pin(async {
            self.call("bill").await?;
            Ok(self.bill_of().unwrap_or_default())
        })
    }

    fn list<'a>(
        &'a self,
        store: &'a StoreId,
        of: Option<Of<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(async move {
            self.call("list").await?;
            Ok(self.visible(store, of.map(|o| o.uid)).iter().map(found).collect())
        })
    }

    fn remove<'a>(&'a self, _: &'a StoreId, f: &'a Found) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move {
            self.kill(&f.handle);
            Ok(())
        })
    }

    fn push_gate<'a>(&'a self, _: &'a StepCx) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.call("push"))
    }

    fn stats<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Stats, Failure>> {
        Box::pin(async move { self.figures_of(&cx.owner.name) })
    }

    fn logs<'a>(&'a self, _: &'a StepCx, q: LogQuery) -> BoxFuture<'a, Result<LogLines, Failure>> {
        Box::pin(async move {
            // an app that says nothing
            let lines: LogLines = if q.follow {
                Box::pin(futures_util::stream::pending())
            } else {
                Box::pin(futures_util::stream::empty())
            };
            Ok(lines)
        })
    }

    fn check(&self) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async move { self.call("check").await.map(|()| "fake".into()) })
    }

    fn changes<'a>(&'a self, _: &'a StoreId) -> BoxFuture<'a, Result<News, Failure>> {
        Box::pin(async move { Ok(self.news()) })
    }
}

fn found(o: &Object) -> Found {
    Found { kind: o.kind.into(), key: o.key.clone(), handle: o.id.to_string(), node: o.node.clone() }
}
