//! One step type for all kinds: the kind decides how its create behaves.
use super::cloud::{FakeCloud, Fault};
use serde_json::json;
use syp_engine::{
    events::{Event, Recorder},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct FakeStep {
    pub kind: &'static str,
    pub cloud: FakeCloud,
}

/// All that the cloud has said of a key, as a provider lists it: each time from the beginning. Who hears of it has its handle.
fn listen(cloud: &FakeCloud, key: &str, events: &Recorder) {
    for e in cloud.said().iter().filter(|e| e.key == key) {
        events.handle(key);
        events.record(Event { at_ms: e.at, id: &e.text, reason: "", message: &e.text });
    }
}

fn mine(a: &Owner, b: &Owner) -> bool {
    a.store == b.store && a.uid == b.uid
}

impl Step for FakeStep {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        self.cloud.call(&format!("observe {}", cx.node)).await?;
        // a lookup goes through the listing, which lags
        let all = self.cloud.of_key(key, self.kind == "fake.lookup@1");
        Ok(all.first().map_or(Observed::Absent, |(id, healthy, owner)| Observed::Present {
            handle: id.to_string(),
            ours: mine(owner, &cx.owner),
            healthy: *healthy,
        }))
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let name = format!("apply {}", cx.node);
        let fault = self.cloud.begin(&name);
        if matches!(self.kind, "fake.note@1" | "fake.drain@1") {
            self.cloud.end(fault).await?;
            let tried = |holds| Done::condition(super::MENDS, holds, "TRIED", "as it was told");
            return Ok(self.cloud.holding().map_or_else(Done::default, tried));
        }
        let foreign = self.cloud.of_key(key, false).iter().any(|(_, _, o)| !mine(o, &cx.owner));
        if foreign {
            return Err(syp_engine::name_conflict(key));
        }
        // what is there is taken, not made again
        let there = self.kind == "fake.lookup@1" && !self.cloud.of_key(key, true).is_empty();
        if !there && matches!(fault, None | Some(Fault::ExecutedTimeout | Fault::HalfDone | Fault::Panic)) {
            self.cloud.create(&cx.owner, key, self.kind, &cx.node);
        }
        listen(&self.cloud, key, &cx.events);
        self.cloud.end(fault).await?;
        // success is said when the effect is there, as every step must
        self.cloud.landed(key).await;
        let outputs = if cx.node == "d" { json!({ "endpoint": "http://fake" }) } else { json!({}) };
        Ok(Done { handle: key.into(), outputs })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, events: &Recorder) -> Result<bool, Failure> {
        let fault = self.cloud.begin(&format!("destroy {}", row.node));
        let mut was = false;
        if matches!(fault, None | Some(Fault::ExecutedTimeout | Fault::HalfDone | Fault::Panic)) {
            for (id, _, o) in self.cloud.of_key(&row.key, false) {
                if mine(&o, owner) {
                    self.cloud.kill(&id.to_string());
                    was = true;
                }
            }
        }
        listen(&self.cloud, &row.key, events);
        self.cloud.end(fault).await?;
        Ok(was)
    }
}
