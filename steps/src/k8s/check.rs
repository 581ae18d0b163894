//! Proves that nobody gets in without a token: asked at each gate of the revision that serves.
use super::{Shared, pods, probe::node};
use crate::admin;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::{net::TcpStream, time::Instant};

pub(super) struct Check(pub Arc<Shared>);

/// A node that is told of a Service listens within this, also when the API server was away: kube-proxy comes back to it with pauses of
/// up to 60 s (client-go, the backoff of a reflector: 30 s and as much again by chance).
const TOLD: Duration = Duration::from_secs(75);

/// Nodes are told of a Service one after another. Where this host has a way to its port, whoever is told that it serves finds it so;
/// where it has none (a private cluster), nobody waits.
async fn told(s: &Shared, cx: &StepCx) {
    let Some(to) = cx.output("service", "endpoint").and_then(|e| e.strip_prefix("http://")) else { return };
    let Ok(to) = to.parse::<SocketAddr>() else { return };
    let end = Instant::now() + TOLD;
    while Instant::now() < end {
        match tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(to)).await {
            // nobody answers at all: there is no way from here
            Err(_) => return,
            Ok(Ok(way)) => {
                if admin::anonymous(way).await.is_ok() {
                    return;
                }
            }
            Ok(Err(_)) => {}
        }
        let what = format!("the nodes to open port {} of the Service", to.port());
        cx.waiting.on(&cx.node, "PROBING", what, "kube-proxy does that; it may be busy", s.clock.now());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Step for Check {
    fn kind(&self) -> &'static str {
        "k8s.check@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let all = pods::with_gates(&c, cx, Some(&node(cx))).await?;
        let Some(p) = all.iter().find(|p| pods::ready(p)) else {
            return Err(failure(
                Class::Transient,
                "PROBING",
                "no pod of it is ready any more",
                "the engine looks again",
            ));
        };
        let status = admin::anonymous(pods::traffic(&c, cx, p).await?).await?;
        told(&self.0, cx).await;
        crate::admin::enforced(status)
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
