//! The values that a revision's app gets, straight from the engine's secret source, one secret for all of them.
use super::{Shared, kept};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Values(pub Arc<Shared>);

impl Step for Values {
    fn kind(&self) -> &'static str {
        "aws.secret@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        kept::observe(&self.0.clients().await?.secrets, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let mut all = Map::new();
        for r in &cx.spec.secrets {
            let value = cx.secrets.get(r).await?;
            // text, as was made sure when it came in
            let value = String::from_utf8_lossy(value.expose_secret()).into_owned();
            all.insert(r.env.clone(), Value::String(value));
        }
        let value = SecretString::from(Value::Object(all).to_string());
        let wanted = kept::Wanted { owner: &cx.owner, node: &cx.node, name: key, value: &value };
        let arn = kept::bring(&self.0.clients().await?.secrets, &self.0.key, &wanted).await?;
        Ok(Done { outputs: json!({ "arn": arn }), handle: arn })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        kept::remove(&self.0.clients().await?.secrets, owner, &row.key).await
    }
}
