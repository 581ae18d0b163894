//! Figures and news of instances.
use super::{
    Shared, admin,
    client::{INSTANCE, REVISION, STORE, failed, inspect, key, labels_of, running, started_at},
    config::admin_address,
    routes::slot,
};
use bollard::query_parameters::{EventsOptions, StatsOptions};
use futures_util::{StreamExt, stream::BoxStream};
use std::collections::HashMap;
use syp_engine::{
    clock::millis,
    energy::Power,
    id::{InstanceId, StoreId},
    step::{ReplicaStats, Stats, StepCx},
};
use syp_proto::journal::Failure;

/// Slots of the replicas that may be there, those of two revisions during an update.
pub(super) fn replicas(cx: &StepCx) -> Vec<u32> {
    let mut slots: Vec<_> = cx.live.iter().filter_map(|n| slot(n, "app")).collect();
    slots.sort_unstable();
    slots
}

/// CPU and memory of the replicas, counters of the gate. What does not answer is left out, not made up.
pub(super) async fn stats(s: &Shared, cx: &StepCx) -> Result<Stats, Failure> {
    let mut out = Stats::default();
    let (to, token) = (admin_address(cx)?, s.admin_token(&cx.owner));
    // it first: it may be about to go
    out.gate = admin::read(to, &token, "/metrics.json").await.ok();
    for n in replicas(cx) {
        let how = StatsOptions { stream: false, one_shot: true };
        let name = key(&cx.owner, &format!("app-{n}"));
        // of one that does not run Docker says zeros
        let Some(c) = inspect(&s.docker, &name).await.ok().flatten().filter(running) else { continue };
        if let Some(Ok(x)) = s.docker.stats(&name, Some(how)).next().await {
            let ns = x.cpu_stats.and_then(|c| c.cpu_usage).and_then(|u| u.total_usage).unwrap_or(0);
            let memory_bytes = x.memory_stats.and_then(|m| m.usage).unwrap_or(0);
            out.memory_bytes += memory_bytes;
            let started_ms = started_at(&c).parse::<prost_types::Timestamp>().map_or(0, |t| millis(&t));
            // a replica of another revision is another one, also where it has the place of an earlier one
            let revision = labels_of(&c).and_then(|l| l.get(REVISION)).map_or("", String::as_str);
            let id = format!("app-{n} {revision}");
            out.replicas.push(ReplicaStats { id, started_ms, cpu_us: ns / 1_000, memory_bytes });
        }
    }
    out.status = admin::read(to, &token, "/status").await.ok();
    let models = s.tariffs.read().models(&cx.spec);
    out.power = s.power.read().map(|reading| Power { reading, models });
    Ok(out)
}

/// Ends of containers of this store, as the daemon tells them.
pub(super) async fn changes(
    s: &Shared,
    store: &StoreId,
) -> Result<BoxStream<'static, Option<InstanceId>>, Failure> {
    s.docker.ping().await.map_err(|e| failed(&e))?;
    let filters = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("event".to_owned(), ["die", "destroy", "oom"].map(str::to_owned).to_vec()),
        ("label".to_owned(), vec![format!("{STORE}={store}")]),
    ]);
    let news = s.docker.events(Some(EventsOptions { filters: Some(filters), ..Default::default() }));
    Ok(news
        .take_while(|e| std::future::ready(e.is_ok()))
        .map(|e| {
            let labels = e.ok()?.actor?.attributes?;
            InstanceId::parse(labels.get(INSTANCE)?)
        })
        .boxed())
}
