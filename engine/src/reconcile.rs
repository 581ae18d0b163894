//! What serves is looked at when the provider has news, after every start, and now and then all the same.
use crate::{
    calls,
    cell::Cell,
    engine::{Caller, Engine},
    failure::{Class, backoff_ms},
    fold::over,
    graph::State,
    id::{InstanceId, OperationId},
    step::{Observed, Target},
    targets::key,
};
use futures_util::StreamExt;
use rand::Rng;
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use syp_proto::journal::{Failure, Instance, ledger_row};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Full look without news.
const EVERY: Duration = Duration::from_secs(300);
/// The next look at what was in the middle of something.
const AGAIN: Duration = Duration::from_secs(15);
/// One thing that is not at the provider as it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What and how.
    pub words: String,
    /// In which way.
    pub how: How,
}

/// In which way something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is not there, or somebody else's.
    Gone,
    /// It is there and does not run.
    Stopped,
    /// It is there and somebody changed it.
    Changed,
    /// The same, in a way that only a closer look finds, and no repair brings back.
    Inspected,
}

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
            if let Some(run) = &i.run {
                again.insert(cell.id);
                if run.paused_ms != 0 {
                    self.look_at_paused(&cell, run.no).await;
                }
                continue;
            }
            match self.findings(&cell).await {
                Ok(findings) => {
                    // as it is by now: the look took its time, and somebody may have said meanwhile what shall be done
                    let begun = match policy(&cell.get(), &findings) {
                        Policy::Repair => {
                            again.insert(cell.id);
                            tracing::info!(instance = %cell.id, ?findings, "drift: repairing");
                            let repairs = |now: &Instance| {
                                now.runs == i.runs && policy(now, &findings) == Policy::Repair
                            };
                            self.drift(&cell, words(findings.clone()), repairs).await.map(drop)
                        }
                        Policy::Tell => self.tell_drift(&cell, &words(findings)).await,
                    };
                    if let Err(e) = begun {
                        tracing::warn!(instance = %cell.id, error = %e, "drift could not be written down");
                    }
                }
                // can't be seen is not the same as gone
                Err(f) => tracing::warn!(instance = %cell.id, reason = f.reason, "{}", f.message),
            }
        }
        again
    }

    /// What serves comes before what shall: an update that somebody paused is taken back when something of it is gone or has stopped,
    /// and the repair after that brings back what serves.
    async fn look_at_paused(&self, cell: &Arc<Cell>, run: u32) {
        let Ok(found) = self.findings(cell).await else { return };
        let broken: Vec<_> = found.into_iter().filter(|d| d.how != How::Changed).collect();
        if broken.is_empty() {
            return;
        }
        let op = OperationId { instance: cell.id, run };
        let who = Caller { actor: "engine".into(), ..Default::default() };
        tracing::info!(instance = %cell.id, ?broken, "what serves has to be repaired: the paused update is taken back");
        if let Err(e) = self.cancel(op, &who).await {
            tracing::warn!(instance = %cell.id, error = %e, "the paused update is not taken back");
        }
    }

    /// What differs from the ledger.
    ///
    /// # Errors
    /// When the provider can't be asked.
    pub async fn findings(&self, cell: &Cell) -> Result<Vec<Difference>, Failure> {
        self.differences(cell, false).await
    }

    /// The same, and what only a look that takes its time finds ([`crate::step::Step::inspect`]).
    ///
    /// # Errors
    /// When the provider can't be asked, or needs more time.
    pub async fn close_findings(&self, cell: &Cell) -> Result<Vec<Difference>, Failure> {
        self.differences(cell, true).await
    }

    async fn differences(&self, cell: &Cell, closely: bool) -> Result<Vec<Difference>, Failure> {
        let i = cell.get();
        let (mut out, mut unseen) = (Vec::new(), None);
        for row in i.ledger.iter().filter(|r| !over(r) && r.state() == ledger_row::State::Exists) {
            let step = self.inner.step(&i, &row.kind)?;
            let params = serde_json::from_str(&row.params).unwrap_or(Value::Null);
            let cx = calls::context(&self.inner, cell, &i, &row.node, params, CancellationToken::new());
            match step.observe(&cx, &row.key).await? {
                Observed::Present { ours: true, healthy: true, .. } if closely => {
                    match step.inspect(&cx, &row.key).await {
                        Ok(found) => {
                            let said = found.into_iter().map(|by| format!("{} was changed: {by}", row.key));
                            out.extend(said.map(|words| differs(How::Inspected, words)));
                        }
                        // the rest may tell all the same
                        Err(f) => unseen = Some(f),
                    }
                }
                Observed::Present { ours: true, healthy: true, .. } | Observed::Busy => {}
                Observed::Present { ours: false, .. } => {
                    out.push(differs(How::Gone, format!("{} is no longer ours", row.key)));
                }
                Observed::Present { .. } => {
                    out.push(differs(How::Stopped, format!("{} does not run", row.key)));
                }
                Observed::Changed { by, .. } => {
                    out.push(differs(How::Changed, format!("{} was changed: {by}", row.key)));
                }
                Observed::Absent => out.push(differs(How::Gone, format!("{} is gone", row.key))),
            }
        }
        match unseen {
            Some(f) if out.is_empty() => Err(f),
            _ => Ok(out),
        }
    }
}

/// What is done about differences.
#[derive(Debug, PartialEq, Eq)]
enum Policy {
    Repair,
    /// Also that there are none any more.
    Tell,
}

/// What does not run is nobody's choice of how it should be. Pure.
fn policy(i: &Instance, found: &[Difference]) -> Policy {
    let tell = i.spec.as_ref().is_some_and(|s| s.report_drift);
    if found.is_empty() || (tell && !found.iter().any(|d| d.how == How::Stopped)) {
        Policy::Tell
    } else {
        Policy::Repair
    }
}

fn differs(how: How, words: String) -> Difference {
    Difference { words, how }
}

/// As people read it.
pub fn words(all: Vec<Difference>) -> Vec<String> {
    all.into_iter().map(|d| d.words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use syp_proto::v1::InstanceSpec;

    #[test]
    fn what_was_changed_is_told_where_that_is_asked_for_and_what_does_not_run_is_started_all_the_same() {
        let with = |report_drift| Instance {
            spec: Some(InstanceSpec { report_drift, ..Default::default() }),
            ..Default::default()
        };
        let (gone, stopped) = (differs(How::Gone, "a is gone".into()), differs(How::Stopped, String::new()));
        let both = [gone, stopped];
        assert_eq!(policy(&with(false), &[]), Policy::Tell);
        assert_eq!(policy(&with(false), &both[..1]), Policy::Repair);
        assert_eq!(policy(&with(true), &both[..1]), Policy::Tell);
        assert_eq!(policy(&with(true), &both), Policy::Repair);
    }
}
