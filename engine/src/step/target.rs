//! [`Target`]: everything the engine asks of a provider.
use super::{Billed, Biller, DynStep, LogLines, LogQuery, News, Owner, Stats, StepCx, Uses};
use crate::{
    clock::Millis,
    examined::Examined,
    id::{InstanceId, StoreId},
};
use futures_util::future::BoxFuture;
use rust_decimal::Decimal;
use serde_json::Value;
use std::sync::Arc;
use syp_auth::jwks::Wanted;
use syp_proto::{
    journal::{Failure, Found, LedgerRow, Plan, RunKind},
    v1,
};

/// What is there already when a plan is made: the ledger rows that are not over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Have<'a> {
    /// All rows of the instance's ledger.
    pub ledger: &'a [LedgerRow],
    /// Number of the revision that is planned; 1 is the first.
    pub revision: u32,
    /// Where the gate sends requests now (`PlanNode.routes`); empty: nobody has said.
    pub routes: &'a str,
    /// What serves now.
    pub serving: Option<&'a v1::InstanceSpec>,
}

/// The revision that serves, for the preflight of the next.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// What preflight found out about it.
    pub facts: &'a Value,
    /// What exists.
    pub have: Have<'a>,
}

/// The instance that a listing is about. Its ledger says where something was made, for targets that may not look everywhere; what
/// is there is the listing's to find.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// Which.
    pub uid: InstanceId,
    /// All rows of its ledger.
    pub ledger: &'a [LedgerRow],
}

/// What preflight answers: frozen with the instance.
#[derive(Clone, Debug, Default)]
pub struct Preflight {
    /// JSON object for the plan and the steps.
    pub facts: Value,
    /// The spec with defaults filled in.
    pub spec: v1::InstanceSpec,
    /// Cost while it serves, per hour.
    pub hourly: Decimal,
    /// What each figure is made of.
    pub lines: Vec<v1::offer::Line>,
}

/// A provider: it plans, checks, lists and tells; its steps do.
pub trait Target: Send + Sync {
    /// `docker`, `k8s:CONTEXT`, ...: what `spec.target` holds.
    fn name(&self) -> &str;
    /// The step of a kind, `None` when this build does not know it.
    fn step(&self, kind: &str) -> Option<Arc<dyn DynStep>>;
    /// Every kind this target can plan (the fault matrix walks them).
    fn kinds(&self) -> Vec<&'static str>;
    /// Pure: what has to be done, in which order. A teardown's plan is only what comes before the destruction (drain).
    /// An update makes what the new revision needs, proves it, lets it serve (`activates`), then retires what it replaced; a
    /// repair brings everything to the given revision, whatever an update left behind.
    fn plan(
        &self,
        kind: RunKind,
        owner: &Owner,
        spec: &v1::InstanceSpec,
        facts: &Value,
        have: &Have<'_>,
    ) -> Plan;
    /// Everything that can be refused before anything is made. `held`: of an instance that serves, whose new revision it is.
    fn preflight<'a>(
        &'a self,
        owner: &'a Owner,
        spec: &'a v1::InstanceSpec,
        held: Option<&'a Held<'a>>,
    ) -> BoxFuture<'a, Result<Preflight, Failure>>;
    /// In which currency it is paid, where that is not the engine's own.
    fn currency(&self) -> Option<&str> {
        None
    }
    /// List prices by which it counts, where its provider has some; none in it: nobody has read them yet.
    fn prices(&self) -> Option<v1::PriceList> {
        None
    }
    /// Those of today. Nothing changes by that.
    fn read_prices(&self) -> BoxFuture<'_, Result<v1::PriceList, Failure>> {
        Box::pin(async {
            let why = format!("'{}' has no list prices that could be read", self.name());
            let next = "'sypctl tariff set' says what energy and the nodes of clusters cost";
            Err(crate::failure::failure(crate::failure::Class::Terminal, "NOT_SUPPORTED", why, next))
        })
    }
    /// Others from now on. Called with what [`Target::read_prices`] gave, now or before.
    ///
    /// # Errors
    /// They can't be read.
    fn set_prices(&self, _: &v1::PriceList) -> Result<(), Failure> {
        Ok(())
    }
    /// Who can be asked what was billed; `None`: nobody.
    fn biller(&self) -> Option<Biller> {
        None
    }
    /// What all instances of a store were billed until now, in the last year. A question costs: the engine asks seldom
    /// (`bill.rs`).
    fn billed<'a>(&'a self, _: &'a StoreId, _: Millis) -> BoxFuture<'a, Result<Billed, Failure>> {
        Box::pin(async { Ok(Billed::default()) })
    }
    /// What of an instance was used from one time until another and is paid by that; `None`: nothing here is. Also of one that is
    /// gone: `cx` has the outputs of all that there was.
    fn used<'a>(&'a self, _: &'a StepCx, _: Millis, _: Millis) -> Option<Uses<'a>> {
        None
    }
    /// What energy costs, where that is what it costs.
    fn tariff(&self) -> Option<v1::Tariff> {
        None
    }
    /// Another price from now on. Called with what [`Target::tariff`] gave, changed; nothing is kept when it can't be.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`.
    fn set_tariff(&self, _: &v1::Tariff) -> Result<(), Failure> {
        Ok(())
    }
    /// The price of a revision by a tariff (`None`: today's), per hour, and its facts with that price in them; `None`: prices do
    /// not change here.
    fn reprice(&self, _: Option<&v1::Tariff>, _: &v1::InstanceSpec, _: &Value) -> Option<(Decimal, Value)> {
        None
    }
    /// An independent listing at the provider: everything with the labels of this store, and of one instance if given.
    fn list<'a>(
        &'a self,
        store: &'a StoreId,
        of: Option<Of<'a>>,
    ) -> BoxFuture<'a, Result<Vec<Found>, Failure>>;
    /// Removes what a listing found (sweep).
    fn remove<'a>(&'a self, store: &'a StoreId, found: &'a Found) -> BoxFuture<'a, Result<(), Failure>>;
    /// Brings the gate to `cx.gate`.
    fn push_gate<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<(), Failure>>;
    /// A key that the gate lacks, as soon as a token names one; `None` after a while without.
    fn wanted_key<'a>(&'a self, _: &'a StepCx) -> BoxFuture<'a, Result<Option<Wanted>, Failure>> {
        Box::pin(std::future::pending())
    }
    /// Figures right now.
    fn stats<'a>(&'a self, cx: &'a StepCx) -> BoxFuture<'a, Result<Stats, Failure>>;
    /// Does a condition hold by now that did not when a run tried it, and in which words? `None`: only a run can tell.
    fn holds_now<'a>(
        &'a self,
        _: &'a StepCx,
        _: &str,
    ) -> Option<BoxFuture<'a, Result<Option<String>, Failure>>> {
        None
    }
    /// What the provider itself measured in a time, where it does; asked only by somebody who looks: it may cost.
    fn figures<'a>(
        &'a self,
        _: &'a StepCx,
        _: Millis,
        _: Millis,
    ) -> BoxFuture<'a, Result<Option<v1::ProviderFigures>, Failure>> {
        Box::pin(async { Ok(None) })
    }
    /// Log lines.
    fn logs<'a>(&'a self, cx: &'a StepCx, query: LogQuery) -> BoxFuture<'a, Result<LogLines, Failure>>;
    /// Can it be used at all, and as whom?
    fn check(&self) -> BoxFuture<'_, Result<String, Failure>>;
    /// What an `up` of this spec would meet, one by one. Nothing is made; of a spec without an image only the rest is looked at.
    fn examine<'a>(&'a self, _: &'a v1::InstanceSpec) -> BoxFuture<'a, Examined> {
        Box::pin(async {
            let mut out = Examined::default();
            match self.check().await {
                Ok(identity) => {
                    out.ok("reachable", &identity);
                    out.identity = identity;
                }
                Err(f) => out.fail("reachable", f),
            }
            out
        })
    }
    /// Ids of instances of this store about which the provider had news; `None` in it: look at all of them.
    /// Ends when the provider can't be heard any more.
    fn changes<'a>(&'a self, store: &'a StoreId) -> BoxFuture<'a, Result<News, Failure>>;
}

// === impl Have ===

impl<'a> Have<'a> {
    /// Of an instance, for a plan of its revision `number`.
    pub fn of(i: &'a syp_proto::journal::Instance, number: u32) -> Self {
        Self { ledger: &i.ledger, revision: number, routes: &i.routes, serving: i.spec.as_ref() }
    }

    /// Nothing is there yet.
    pub fn nothing() -> Self {
        Self { revision: 1, ..Self::default() }
    }

    /// Rows of which something may be there.
    pub fn live(&self) -> impl Iterator<Item = &'a LedgerRow> + use<'a> {
        self.ledger.iter().filter(|r| !crate::fold::over(r))
    }
}
