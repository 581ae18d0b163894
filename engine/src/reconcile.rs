//! What serves is looked at when the provider has news, after every start, and now and then all the same.
use crate::{
    calls,
    cell::Cell,
    engine::Engine,
    failure::{Class, backoff_ms},
    fold::over,
    graph::State,
    id::InstanceId,
    step::{Observed, Target},
    targets::key,
};
use futures_util::StreamExt;
use rand::Rng;
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use syp_proto::journal::{Failure, ledger_row};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Full look without news.
const EVERY: Duration = Duration::from_secs(300);
/// The next look at what was in the middle of something.
const AGAIN: Duration = Duration::from_secs(15);
/// News of one moment (a daemon that stops kills everything at once) are looked at together.
const GATHER: Duration = Duration::from_millis(200);

// === impl Engine ===

impl Engine {
    /// Starts one task per target that listens to its news.
    pub fn watch_targets(&self) {
        let e = self.clone();
        self.spawn(async move {
            let (mut more, mut watched) = (e.inner.targets.follow(), BTreeSet::new());
            loop {
                for target in e.targets().filter(|t| watched.insert(t.name().to_owned())) {
                    let of = e.clone();
                    e.spawn(async move { of.watch_target(target).await });
                }
                if more.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    async fn watch_target(&self, target: Arc<dyn Target>) {
        let mut attempt = 0;
        loop {
            match target.changes(self.store().store_id()).await {
                Ok(mut news) => {
                    attempt = 0;
                    // whatever happened while nobody listened
                    let mut again = self.look_at(&*target, None).await;
                    let mut full = Instant::now() + EVERY;
                    loop {
                        let soon = Instant::now() + AGAIN;
                        let next = if again.is_empty() { full } else { full.min(soon) };
                        match tokio::time::timeout_at(next, news.next()).await {
                            Err(_) if next == full => {
                                again = self.look_at(&*target, None).await;
                                full = Instant::now() + EVERY;
                            }
                            Err(_) => again = self.look_at(&*target, Some(again)).await,
                            Ok(None) => break,
                            Ok(Some(first)) => {
                                tokio::time::sleep(GATHER).await;
                                let mut ids = BTreeSet::from([first]);
                                while let Some(Some(more)) =
                                    futures_util::FutureExt::now_or_never(news.next())
                                {
                                    ids.insert(more);
                                }
                                let all = ids.contains(&None);
                                again.extend(ids.into_iter().flatten());
                                again = self.look_at(&*target, (!all).then_some(again)).await;
                            }
                        }
                    }
                    tracing::warn!(target = target.name(), "no more news from the provider; asking again");
                }
                Err(f) => tracing::warn!(target = target.name(), reason = f.reason, "{}", f.message),
            }
            attempt += 1;
            let wait = backoff_ms(attempt, Class::Transient, rand::rng().random::<f64>()).min(5_000);
            tokio::time::sleep(Duration::from_millis(u64::try_from(wait).unwrap_or(500))).await;
        }
    }

    /// Repairs what differs; those that can't be judged before their run has ended: what broke meanwhile may have been behind it, and
    /// a repair may fail.
    async fn look_at(&self, target: &dyn Target, ids: Option<BTreeSet<InstanceId>>) -> BTreeSet<InstanceId> {
        let mut again = BTreeSet::new();
        for cell in self.cells() {
            if ids.as_ref().is_some_and(|ids| !ids.contains(&cell.id)) {
                continue;
            }
            let i = cell.get();
            let mine = i.spec.as_ref().is_some_and(|s| key(&s.target) == target.name());
            if !mine || i.state() != State::Serving {
                continue;
            }
            if i.run.is_some() {
                again.insert(cell.id);
                continue;
            }
            match self.findings(&cell).await {
                Ok(findings) if findings.is_empty() => {}
                Ok(findings) => {
                    again.insert(cell.id);
                    tracing::info!(instance = %cell.id, ?findings, "drift: repairing");
                    if let Err(e) = self.drift(&cell, findings).await {
                        tracing::warn!(instance = %cell.id, error = %e, "repair not started");
                    }
                }
                // can't be seen is not the same as gone
                Err(f) => tracing::warn!(instance = %cell.id, reason = f.reason, "{}", f.message),
            }
        }
        again
    }

    /// What differs from the ledger.
    ///
    /// # Errors
    /// When the provider can't be asked.
    pub async fn findings(&self, cell: &Cell) -> Result<Vec<String>, Failure> {
        let i = cell.get();
        let mut out = Vec::new();
        for row in i.ledger.iter().filter(|r| !over(r) && r.state() == ledger_row::State::Exists) {
            let step = self.inner.step(&i, &row.kind)?;
            let params = serde_json::from_str(&row.params).unwrap_or(Value::Null);
            let cx = calls::context(&self.inner, cell, &i, &row.node, params, CancellationToken::new());
            match step.observe(&cx, &row.key).await? {
                Observed::Present { ours: true, healthy: true, .. } | Observed::Busy => {}
                Observed::Present { ours: false, .. } => out.push(format!("{} is no longer ours", row.key)),
                Observed::Present { .. } => out.push(format!("{} does not run", row.key)),
                Observed::Absent => out.push(format!("{} is gone", row.key)),
            }
        }
        Ok(out)
    }
}
