//! Waits until the gate itself reaches every replica, then proves that nobody gets in without a token.
use super::{
    Shared, admin,
    client::{self, inspect, key, last_lines, running, state_words},
    config::admin_address,
    names::{HOLDER, TRAFFIC},
};
use crate::verdict::{self, LOG_LINES};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use syp_auth::door::{GateStatus, Listener, UpstreamStatus};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Probe(pub Arc<Shared>);

// === impl Probe ===

impl Probe {
    async fn crashed(&self, cx: &StepCx, slots: &[u32]) -> Result<Option<Failure>, Failure> {
        for n in slots {
            let name = key(&cx.owner, &format!("app-{n}"));
            let Some(c) = inspect(&self.0.docker, &name).await? else { continue };
            if running(&c) {
                continue;
            }
            let words = state_words(c.state.as_ref());
            let lines = last_lines(&self.0.docker, &name, LOG_LINES).await;
            // another attempt starts it again: some apps need a second try, none needs a tenth
            return Ok(Some(failure(
                Class::Transient,
                "CRASH_LOOP",
                format!("replica {n} {words}. Its last lines:\n{lines}"),
                verdict::hint(
                    cx,
                    &lines,
                    "run the image by hand to see why it ends: 'docker run --rm IMAGE'",
                ),
            )));
        }
        Ok(None)
    }

    async fn restart_ended(&self, cx: &StepCx, slots: &[u32]) -> Result<(), Failure> {
        for n in slots {
            let name = key(&cx.owner, &format!("app-{n}"));
            if inspect(&self.0.docker, &name).await?.is_some_and(|c| !running(&c)) {
                client::start(&self.0.docker, &name).await?;
            }
        }
        Ok(())
    }

    async fn ready(&self, cx: &StepCx, slots: &[u32]) -> Result<(), Failure> {
        let to = admin_address(cx)?;
        let token = self.0.admin_token(&cx.owner);
        let limit = verdict::limit(cx);
        let start = Instant::now();
        let mut wait = Duration::from_millis(5);
        let mut looked = Instant::now();
        loop {
            let status: GateStatus = admin::read(to, &token, "/status").await?;
            let mine = |u: &&UpstreamStatus| slots.iter().any(|n| n.to_string() == u.id);
            let (ready, waiting): (Vec<_>, Vec<_>) =
                status.upstreams.iter().filter(mine).partition(|u| u.ready);
            if ready.len() == slots.len() {
                return Ok(());
            }
            if cx.cancel.is_cancelled() {
                return Err(failure(Class::Transient, "CANCELLED", "cancelled", ""));
            }
            if looked.elapsed() >= Duration::from_millis(150) {
                looked = Instant::now();
                if let Some(f) = self.crashed(cx, slots).await? {
                    return Err(f);
                }
            }
            let first = waiting.first().copied();
            let message = first.map_or_else(
                || "the gate has no replica yet".to_owned(),
                |u| format!("replica {}: {}", u.id, u.detail),
            );
            cx.waiting.on(
                &cx.node,
                "PROBING",
                message,
                "'sypctl logs' shows what the app says",
                self.0.clock.now(),
            );
            if let Some(f) =
                first.and_then(|u| verdict::verdict(cx, u, &of_app(&u.listeners), start.elapsed(), limit))
            {
                let name = key(&cx.owner, &format!("app-{}", first.map_or("0", |u| u.id.as_str())));
                let lines = last_lines(&self.0.docker, &name, LOG_LINES).await;
                return Err(verdict::with_lines(f, &lines));
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 5 / 4).min(Duration::from_millis(100));
        }
    }
}

/// Which replicas; a plan of a former version says how many.
fn slots(params: &serde_json::Value) -> Vec<u32> {
    let number = |v: &serde_json::Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    match params["slots"].as_array() {
        Some(slots) => slots.iter().filter_map(number).collect(),
        None => (0..number(&params["replicas"]).unwrap_or(1)).collect(),
    }
}

/// Ports of the app: not the holder's, and not that of Docker's own name server, which is in every namespace.
fn of_app(listeners: &[Listener]) -> BTreeSet<u16> {
    const NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
    listeners.iter().filter(|l| l.address != NAME_SERVER && l.port != HOLDER).map(|l| l.port).collect()
}

impl Step for Probe {
    fn kind(&self) -> &'static str {
        "docker.probe@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let slots = slots(&cx.params);
        self.restart_ended(cx, &slots).await?;
        self.ready(cx, &slots).await?;
        let gate = SocketAddr::new(IpAddr::V4(super::gate::subnet(cx)?.address(2)), TRAFFIC);
        let status = admin::anonymous(gate, super::gate::has_tls(cx)).await?;
        crate::admin::enforced(status)
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_docker_and_the_holder_listen_on_is_not_the_apps() {
        let l = |address: &str, port| Listener { address: address.parse().unwrap(), port };
        let all = [l("127.0.0.11", 35_103), l("0.0.0.0", HOLDER), l("::", 9_999), l("127.0.0.1", 80)];
        assert_eq!(of_app(&all), BTreeSet::from([80, 9_999]));
        assert!(of_app(&all[..2]).is_empty(), "an app that is slow to start listens on nothing yet");
    }
}
