//! What a target implements: [`Step`], one idempotent effect, and [`Target`], everything the engine asks of a provider.
mod cx;
mod target;
mod told;

pub use cx::{Owner, Said, StepCx, Waiting};
pub use target::{Have, Held, Of, Preflight, Target};
pub use told::{Billed, Biller, LogLine, LogLines, LogQuery, News, ReplicaStats, Stats, Use, Uses};

use crate::events::Recorder;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};

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

// === impl Done ===

impl Done {
    /// A step that changed nothing and found something out, which the instance shows once the run has succeeded.
    pub fn condition(kind: &str, holds: bool, reason: &str, message: &str) -> Self {
        let condition = json!({ "type": kind, "holds": holds, "reason": reason, "message": message });
        Self { handle: String::new(), outputs: json!({ "condition": condition }) }
    }
}

// === impl DynStep ===

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
