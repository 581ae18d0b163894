//! What a target implements: [`Step`], one idempotent effect, and [`Target`], everything the engine asks of a provider.
use crate::{
    clock::Millis,
    events::Recorder,
    examined::Examined,
    id::{InstanceId, StoreId},
    vault::Secrets,
};
use futures_util::{future::BoxFuture, stream::BoxStream};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use syp_auth::{
    door::{GateConfig, GateMetrics, GateStatus},
    jwks::Wanted,
};
use syp_proto::{
    journal::{Failure, Found, LedgerRow, Plan, RunKind},
    v1,
};
use tokio_util::sync::CancellationToken;

/// Whose effects they are: what every label and name is made of.
#[derive(Clone, Debug)]
pub struct Owner {
    /// The engine's store.
    pub store: StoreId,
    /// The incarnation.
    pub uid: InstanceId,
    /// The user's name for it.
    pub name: String,
    /// The revision that is being made.
    pub revision: String,
}

/// What a step says it waits for; shown as `waiting_on`, not stored.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<parking_lot::Mutex<BTreeMap<String, Said>>>);

/// What one node says.
#[derive(Clone, Debug)]
pub struct Said {
    /// UPPER_SNAKE.
    pub reason: String,
    /// What it waits for.
    pub message: String,
    /// What a person could do.
    pub hint: String,
    /// Since when it says so.
    pub since: Millis,
}

/// Everything a step may use. Built anew for each attempt from the journal alone.
#[derive(Clone, Debug)]
pub struct StepCx {
    /// Whose.
    pub owner: Owner,
    /// What the user asked for.
    pub spec: Arc<v1::InstanceSpec>,
    /// Number of the run: the same for each attempt of it, another for the next.
    pub run: u32,
    /// The node's id in its plan.
    pub node: String,
    /// The node's own parameters, frozen in the plan.
    pub params: Value,
    /// What preflight found out, frozen when the instance was created.
    pub facts: Value,
    /// Outputs of the nodes that are done, by node id.
    pub outputs: Arc<BTreeMap<String, Value>>,
    /// What the gate shall enforce; the step adds the upstreams.
    pub gate: GateConfig,
    /// Cancelled when the attempt should end at its next safe point.
    pub cancel: CancellationToken,
    /// Where the step says what it waits for.
    pub waiting: Waiting,
    /// Takes what the provider says of the effect into the journal.
    pub events: Recorder,
    /// Time the run has for draining.
    pub grace: Duration,
    /// Where the gate shall send requests from now on, in the target's own words (`PlanNode.routes`).
    pub routes: Value,
    /// Values of the spec's secrets.
    pub secrets: Secrets,
    /// Nodes whose effects may exist now: replicas of more than one revision while an update is under way.
    pub live: Arc<Vec<String>>,
}

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

/// The instance that a listing is about. Its ledger says where something was made, for targets that may not look everywhere; what
/// is there is the listing's to find.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    /// Which.
    pub uid: InstanceId,
    /// All rows of its ledger.
    pub ledger: &'a [LedgerRow],
}

/// What an effect looks like at the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Not there.
    Absent,
    /// There.
    Present {
        /// The provider's id of it.
        handle: String,
        /// It carries our store and instance labels.
        ours: bool,
        /// It works as it should (a stopped container is present and not healthy).
        healthy: bool,
    },
    /// There, ours, and somebody else changed what a step had made of it.
    Changed {
        /// The provider's id of it.
        handle: String,
        /// Who changed what, as far as the provider tells.
        by: String,
    },
    /// Being made or removed right now: look again.
    Busy,
}

/// What a finished step hands on.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The provider's id.
    pub handle: String,
    /// JSON object for later nodes; never a secret. `endpoint` in it becomes the instance's, `endpoint_ca` who vouches for it, `condition` one of its conditions.
    pub outputs: Value,
}

/// What applying would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsed {
    /// Made, changed, or as it is.
    pub change: v1::plan::Change,
    /// Line by line, as `diff -u` writes it; never a secret.
    pub diff: String,
}

/// A step: one effect that converges.
///
/// # Expected Flow
/// Intent is durable -> (`observe` when in doubt) -> `apply` -> outcome is written. Later `destroy` until `observe` says Absent.
/// # Guarantees (of the engine)
/// `apply` is never called before its intent is on disk. If `apply` was ever started, `destroy` must succeed before the instance is Destroyed.
/// # Assumptions (of the step)
/// `apply` may run any number of times, also while an older call of it still lands. `destroy` tolerates: never ran, half ran, gone.
/// Every await is a point where the process may die.
///
/// An implementation writes `async fn`; [`DynStep`] is what the engine holds.
pub trait Step: Send + Sync {
    /// `name@version`, forever.
    fn kind(&self) -> &'static str;
    /// Looks for the effect by its key.
    fn observe(&self, cx: &StepCx, key: &str) -> impl Future<Output = Result<Observed, Failure>> + Send;
    /// Makes it so.
    fn apply(&self, cx: &StepCx, key: &str) -> impl Future<Output = Result<Done, Failure>> + Send;
    /// What [`Step::apply`] would change, in the provider's own words and judged by it where it can; `None`: this step does not say.
    /// Nothing is made.
    fn rehearse(
        &self,
        _: &StepCx,
        _: &str,
    ) -> impl Future<Output = Result<Option<Rehearsed>, Failure>> + Send {
        async { Ok(None) }
    }
    /// What of an effect that [`Step::observe`] finds healthy is not as it was made, a line each. It may take minutes, so only
    /// somebody who asks for it has it done; what only this finds, [`Step::apply`] does not bring back.
    fn inspect(&self, _: &StepCx, _: &str) -> impl Future<Output = Result<Vec<String>, Failure>> + Send {
        async { Ok(vec![]) }
    }
    /// Removes it; `Ok(true)` when it was there.
    fn destroy(
        &self,
        owner: &Owner,
        row: &LedgerRow,
        events: &Recorder,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
}

/// A [`Step`] behind a pointer: the same, with its futures boxed. Here and not in each step: what is boxed with bounds of its own
/// is proven anew for each (that made up half of the time in which the steps compiled).
pub trait DynStep: Send + Sync {
    /// [`Step::kind`].
    fn kind(&self) -> &'static str;
    /// [`Step::observe`].
    fn observe<'a>(&'a self, cx: &'a StepCx, key: &'a str) -> BoxFuture<'a, Result<Observed, Failure>>;
    /// [`Step::apply`].
    fn apply<'a>(&'a self, cx: &'a StepCx, key: &'a str) -> BoxFuture<'a, Result<Done, Failure>>;
    /// [`Step::rehearse`].
    fn rehearse<'a>(
        &'a self,
        cx: &'a StepCx,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Rehearsed>, Failure>>;
    /// [`Step::inspect`].
    fn inspect<'a>(&'a self, cx: &'a StepCx, key: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>>;
    /// [`Step::destroy`].
    fn destroy<'a>(
        &'a self,
        owner: &'a Owner,
        row: &'a LedgerRow,
        events: &'a Recorder,
    ) -> BoxFuture<'a, Result<bool, Failure>>;
}

impl<T: Step> DynStep for T {
    fn kind(&self) -> &'static str {
        Step::kind(self)
    }
    fn observe<'a>(&'a self, cx: &'a StepCx, key: &'a str) -> BoxFuture<'a, Result<Observed, Failure>> {
        Box::pin(Step::observe(self, cx, key))
    }
    fn apply<'a>(&'a self, cx: &'a StepCx, key: &'a str) -> BoxFuture<'a, Result<Done, Failure>> {
        Box::pin(Step::apply(self, cx, key))
    }
    fn rehearse<'a>(
        &'a self,
        cx: &'a StepCx,
        key: &'a str,
    ) -> BoxFuture<'a, Result<Option<Rehearsed>, Failure>> {
        Box::pin(Step::rehearse(self, cx, key))
    }
    fn inspect<'a>(&'a self, cx: &'a StepCx, key: &'a str) -> BoxFuture<'a, Result<Vec<String>, Failure>> {
        Box::pin(Step::inspect(self, cx, key))
    }
    fn destroy<'a>(
        &'a self,
        owner: &'a Owner,
        row: &'a LedgerRow,
        events: &'a Recorder,
    ) -> BoxFuture<'a, Result<bool, Failure>> {
        Box::pin(Step::destroy(self, owner, row, events))
    }
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

/// One replica that answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaStats {
    /// Its name.
    pub id: String,
    /// When it began; another time means that its counters began anew.
    pub started_ms: Millis,
    /// Processor time since then, microseconds.
    pub cpu_us: u64,
    /// Resident bytes.
    pub memory_bytes: u64,
}

/// CPU, memory and the gate's counters of one instance.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Resident bytes of the replicas.
    pub memory_bytes: u64,
    /// Each replica that answered.
    pub replicas: Vec<ReplicaStats>,
    /// How many run, where the target chooses how many and says so.
    pub running: Option<u32>,
    /// Why the target can't choose, where it is to choose and has not been able to for a while.
    pub blind: Option<String>,
    /// The gate's counters, if it answered.
    pub gate: Option<GateMetrics>,
    /// The gate's view of the replicas.
    pub status: Option<GateStatus>,
    /// What the host draws, where its owner pays for it.
    pub power: Option<crate::energy::Power>,
}

/// One line of a log.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// Unix time.
    pub at_ms: Millis,
    /// Replica, or `gate`.
    pub replica: String,
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// Text without the line break.
    pub line: String,
}

/// Which lines are wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// Keep going.
    pub follow: bool,
    /// Only the last so many (0: all).
    pub tail: u32,
    /// Not before.
    pub since_ms: Millis,
    /// One replica only.
    pub replica: String,
    /// Of runs that have ended, not of the one that is.
    pub previous: bool,
}

/// Who bills what a target makes.
#[derive(Clone, Copy, Debug)]
pub struct Biller {
    /// The same for all targets that it bills together.
    pub key: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// What a question costs, in words.
    pub price: &'static str,
    /// What a person could look after where it knows nothing of an instance.
    pub unknown: &'static str,
}

/// What a provider has billed so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Billed {
    /// By the instances' uids.
    pub amounts: BTreeMap<String, Decimal>,
    /// Of all of them.
    pub currency: String,
}

/// What was used of something that is paid by use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Of what.
    pub kind: &'static str,
    /// In what it is counted.
    pub unit: &'static str,
    /// Days since 1970, in UTC.
    pub day: i64,
    /// So much.
    pub quantity: Decimal,
    /// What it costs, in the currency of the target.
    pub amount: Decimal,
}

/// What was used in a time.
pub type Uses<'a> = BoxFuture<'a, Result<Vec<Use>, Failure>>;

/// Instances about which a provider had news, as they come; `None`: any of them.
pub type News = BoxStream<'static, Option<InstanceId>>;

/// Lines of a log as they come.
pub type LogLines = BoxStream<'static, Result<LogLine, Failure>>;

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

// === impl Waiting ===

impl Waiting {
    /// Says what `node` waits for, and what a person could do about it.
    pub fn on(
        &self,
        node: &str,
        reason: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
        now: Millis,
    ) {
        let mut all = self.0.lock();
        let since = all.get(node).filter(|w| w.reason == reason).map_or(now, |w| w.since);
        let said = Said { reason: reason.to_owned(), message: message.into(), hint: hint.into(), since };
        all.insert(node.to_owned(), said);
    }

    /// `node` waits no more.
    pub fn clear(&self, node: &str) {
        self.0.lock().remove(node);
    }

    /// What every node says.
    pub fn all(&self) -> BTreeMap<String, Said> {
        self.0.lock().clone()
    }
}

// === impl Done ===

impl Done {
    /// A step that changed nothing and found something out, which the instance shows once the run has succeeded.
    pub fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> Self {
        let condition = json!({ "type": kind, "holds": holds, "reason": reason, "message": message });
        Self { handle: String::new(), outputs: json!({ "condition": condition }) }
    }
}

// === impl StepCx ===

impl StepCx {
    /// A text output of a node that is done.
    pub fn output(&self, node: &str, field: &str) -> Option<&str> {
        self.outputs.get(node)?.get(field)?.as_str()
    }
}
