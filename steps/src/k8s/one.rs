//! A step that makes one object and knows all of it beforehand: looked for, applied, rehearsed, removed, always the same way.
use super::{
    Shared,
    client::Kind,
    names::{namespace, namespace_of},
    object, rehearse,
};
use serde_json::Value;
use std::{marker::PhantomData, sync::Arc};
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

/// What such a step is made of.
pub(super) trait Manifest: Send + Sync {
    /// `name@version`, forever.
    const STEP: &'static str;
    /// Of what kind the object is.
    const KIND: Kind;
    /// What it has besides name and labels. Pure.
    fn rest(cx: &StepCx) -> Value;
}

/// The step of a manifest.
pub(super) struct One<M>(Arc<Shared>, PhantomData<M>);

// === impl One ===

impl<M: Manifest> One<M> {
    pub fn new(s: Arc<Shared>) -> Self {
        Self(s, PhantomData)
    }
}

/// The whole object.
pub(super) fn manifest<M: Manifest>(cx: &StepCx, key: &str) -> Value {
    object::object(M::KIND, &cx.owner, &cx.node, key, namespace(cx), M::rest(cx))
}

impl<M: Manifest> Step for One<M> {
    fn kind(&self) -> &'static str {
        M::STEP
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, M::KIND, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = manifest::<M>(cx, key);
        let made = object::ensure(&self.0.client().await?, M::KIND, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        rehearse::rehearse(&self.0, M::KIND, cx, &manifest::<M>(cx, key)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, M::KIND, owner, &namespace_of(row), &row.key).await
    }
}
