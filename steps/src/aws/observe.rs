//! Figures of instances, from their gates.
use super::{
    Shared,
    door::Front,
    tasks::{self, Of},
};
use crate::k8s::observe::joined;
use syp_auth::door::GateStatus;
use syp_engine::{
    clock::Millis,
    scaling,
    step::{ReplicaStats, Stats, StepCx},
};
use syp_proto::journal::Failure;

/// Counters of the gates as one. What does not answer is left out, not made up.
pub(super) async fn stats(s: &Shared, cx: &StepCx) -> Result<Stats, Failure> {
    let Some((front, of)) = Front::of(cx).zip(Of::stack(cx)) else { return Ok(Stats::default()) };
    let service = tasks::service(s, of).await?;
    let running = service.map_or(0, |s| s.running_count());
    let mut out = Stats::default();
    if scaling::is_elastic(&cx.spec) {
        out.running = u32::try_from(running).ok();
    }
    let token = s.admin_token(&cx.owner);
    let need = usize::try_from(running).unwrap_or(0);
    let told = Box::pin(front.look(&token, need.max(1))).await?;
    // a task that was starting while the policy changed may have begun with the one before
    if told.values().filter_map(|(_, s)| s.as_ref()).any(|s| s.generation < cx.gate.generation)
        && let Err(f) = super::config::push(s, cx).await
    {
        tracing::warn!(instance = cx.owner.name, reason = f.reason, "a gate is behind and can't be told");
    }
    let mut totals = s.totals.lock();
    let mine = totals.entry(cx.owner.uid).or_default();
    for (host, (metrics, _)) in &told {
        if let Some(m) = metrics {
            mine.gate(host, m, s.started_ms);
        }
    }
    if told.len() >= need {
        mine.only(&told.keys().cloned().collect());
    }
    out.gate = told.values().any(|(m, _)| m.is_some()).then(|| mine.merged());
    drop(totals);
    for (_, status) in told.values() {
        let Some(used) = status.as_ref().and_then(|s| s.upstreams.first()?.usage.as_ref()) else { continue };
        out.memory_bytes += used.memory_bytes;
        out.replicas.push(ReplicaStats {
            // as its lines are called
            id: tasks::short(&used.place).to_owned(),
            started_ms: Millis::try_from(used.started_ms).unwrap_or_default(),
            cpu_us: used.cpu_us,
            memory_bytes: used.memory_bytes,
        });
    }
    out.status = told.into_iter().filter_map(|(host, (_, s))| Some(named(&host, s?))).reduce(joined);
    Ok(out)
}

/// A gate knows its app as 'app'; the instance has one for each task, called as its lines are.
fn named(host: &str, mut s: GateStatus) -> GateStatus {
    for u in &mut s.upstreams {
        u.id = u.usage.as_ref().map_or(host, |used| tasks::short(&used.place)).to_owned();
    }
    s
}
