//! The certificate of an instance's names, signed by the local authority, in a Secret where the ingress controller reads it.
use super::Authority;
use crate::k8s::{
    Shared,
    client::{SECRET, optional},
    names::{namespace, namespace_of},
    object,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use secrecy::ExposeSecret;
use serde_json::json;
use std::sync::Arc;
use syp_engine::{
    clock::Clock,
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(crate) struct Tls(pub Arc<Shared>, pub Arc<Authority>);

/// Node of the Secret.
pub(crate) const NODE: &str = "tls";
/// Until when the certificate holds, Unix seconds.
const UNTIL: &str = "syp.dev/not-after";
/// Another one is made when it holds no longer than this.
const RENEW_S: i64 = 90 * 86_400;

impl Step for Tls {
    fn kind(&self) -> &'static str {
        "kind.tls@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, SECRET, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let held = optional(SECRET.api(&c, namespace(cx)).get(key).await)?;
        let until =
            held.as_ref().and_then(|h| h.metadata.annotations.as_ref()?.get(UNTIL)?.parse::<i64>().ok());
        let ca = self.1.certificate().await?;
        let done = |o| object::done_with(o, json!({ "endpoint_ca": ca }));
        match held {
            Some(o)
                if matches!(object::judged(cx, &o), Observed::Present { ours: true, .. })
                    && until.is_some_and(|u| u > now(&self.0.clock) + RENEW_S) =>
            {
                return Ok(done(&o));
            }
            _ => {}
        }
        let (pair, until) = self.1.sign(&cx.spec.domains).await?;
        let rest = json!({
            "type": "kubernetes.io/tls",
            "metadata": { "annotations": { UNTIL: until.to_string() } },
            "data": {
                "tls.crt": BASE64_STANDARD.encode(pair.cert),
                "tls.key": BASE64_STANDARD.encode(pair.key.expose_secret()),
            },
        });
        let o = object::object(SECRET, &cx.owner, NODE, key, namespace(cx), rest);
        let made = object::ensure(&c, SECRET, &cx.owner, namespace(cx), &o).await?;
        Ok(done(&made))
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, SECRET, owner, &namespace_of(row), &row.key).await
    }
}

fn now(clock: &Clock) -> i64 {
    clock.now() / 1_000
}
