//! Figures of instances.
use super::{
    Shared, autoscaler,
    client::AUTOSCALER,
    config,
    logs::short,
    names::namespace,
    pods::{self, container, selector},
    total::Totals,
};
use crate::{admin, kind};
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams},
};
use std::collections::BTreeMap;
use syp_auth::door::{GateMetrics, GateStatus};
use syp_engine::{
    api::validate,
    scaling,
    step::{ReplicaStats, Stats, StepCx},
};
use syp_proto::journal::Failure;

/// CPU and memory of the replicas, counters of their gates as one. What does not answer is left out, not made up.
pub(super) async fn stats(s: &Shared, cx: &StepCx) -> Result<Stats, Failure> {
    let c = s.client().await?;
    let all = pods::with_gates(&c, cx, None).await?;
    let token = s.admin_token(&cx.owner);
    let asked = all.iter().map(async |p| {
        let told = async { admin::look(pods::admin(&c, cx, p).await?, &token).await };
        let (metrics, status): (Option<GateMetrics>, Option<GateStatus>) = told.await.ok().unzip();
        (p, metrics, status)
    });
    let usage = async {
        match &s.kind {
            Some(_) => kind::usage(&c, namespace(cx)).await.unwrap_or_default(),
            None => usage(&c, cx).await,
        }
    };
    let (told, usage) = tokio::join!(join_all(asked), usage);
    // a pod that was starting while the policy changed may have begun with the one before
    let behind =
        told.iter().filter(|(_, _, s)| s.as_ref().is_some_and(|s| s.generation < cx.gate.generation));
    for (p, _, _) in behind {
        if let Err(f) = config::tell_one(s, &c, cx, p).await {
            tracing::warn!(pod = p.name_any(), reason = f.reason, "its gate is behind and can't be told");
        }
    }
    let mut out = Stats::default();
    if scaling::is_elastic(&cx.spec) {
        let runs =
            all.iter().filter(|p| !pods::leaving(p) && container(p, "app", false).is_some_and(|c| c.running));
        out.running = u32::try_from(runs.count()).ok();
        out.blind = blind(&c, cx, s.clock.now()).await;
    }
    let mut totals = s.totals.lock();
    let mine: &mut Totals = totals.entry(cx.owner.uid).or_default();
    for (p, metrics, _) in &told {
        let name = p.name_any();
        if let Some(m) = metrics {
            mine.gate(&name, m, s.started_ms);
        }
        let Some(state) = container(p, "app", false).filter(|c| c.running) else { continue };
        if let Some((micros, memory_bytes)) = usage.get(&name).copied() {
            let cpu_us = mine.cpu(&name, micros, s.clock.now());
            out.memory_bytes += memory_bytes;
            let id = short(&name);
            out.replicas.push(ReplicaStats { id, started_ms: state.started_ms, cpu_us, memory_bytes });
        }
    }
    mine.only(&told.iter().map(|(p, _, _)| p.name_any()).collect());
    let answered = told.iter().any(|(_, m, _)| m.is_some());
    out.gate = answered.then(|| mine.merged());
    drop(totals);
    out.status = told.into_iter().filter_map(|(p, _, s)| Some((p, s?))).map(named).reduce(joined);
    Ok(out)
}

/// Why the autoscaler of the revision that serves can't choose. One that can't be looked at says nothing.
async fn blind(c: &Client, cx: &StepCx, now_ms: i64) -> Option<String> {
    let all = AUTOSCALER
        .api(c, namespace(cx))
        .list(&ListParams::default().labels(&selector(cx, None)))
        .await
        .ok()?;
    all.items.iter().find_map(|o| autoscaler::blind(o, now_ms))
}

/// A gate knows its app as 'app'; the instance has one for each pod.
fn named((p, mut s): (&Pod, GateStatus)) -> GateStatus {
    let name = short(&p.name_any());
    let leaving = pods::leaving(p);
    for u in &mut s.upstreams {
        u.id.clone_from(&name);
        u.ready &= !leaving;
    }
    s
}

/// What all gates of an instance say, as one: it is as far as the last of them.
pub(crate) fn joined(mut a: GateStatus, b: GateStatus) -> GateStatus {
    a.generation = a.generation.min(b.generation);
    a.in_flight += b.in_flight;
    a.tunnels += b.tunnels;
    a.upstreams.extend(b.upstreams);
    for (id, at) in b.token_uses {
        let held = a.token_uses.entry(id).or_default();
        *held = at.max(*held);
    }
    a
}

/// Microcores and bytes of each pod's app, where the cluster has a metrics server.
async fn usage(c: &Client, cx: &StepCx) -> BTreeMap<String, (u64, u64)> {
    let r = ApiResource {
        group: "metrics.k8s.io".into(),
        version: "v1beta1".into(),
        api_version: "metrics.k8s.io/v1beta1".into(),
        kind: "PodMetrics".into(),
        plural: "pods".into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(c.clone(), namespace(cx), &r);
    let Ok(all) = api.list(&ListParams::default().labels(&selector(cx, None))).await else {
        return BTreeMap::new();
    };
    let of = |p: &DynamicObject| {
        let app = p.data["containers"].as_array()?.iter().find(|c| c["name"] == "app")?;
        let cpu = micros(app["usage"]["cpu"].as_str()?)?;
        let memory = validate::memory_bytes(app["usage"]["memory"].as_str()?)?;
        Some((p.name_any(), (cpu, memory)))
    };
    all.items.iter().filter_map(of).collect()
}

/// A quantity of processor time in millionths of a core: `12345678n`, `250m`, `1`.
fn micros(quantity: &str) -> Option<u64> {
    for (unit, times, by) in [("n", 1, 1_000), ("u", 1, 1), ("m", 1_000, 1)] {
        if let Some(n) = quantity.strip_suffix(unit) {
            return Some(n.parse::<u64>().ok()?.saturating_mul(times) / by);
        }
    }
    validate::cpu_millis(quantity).map(|m| m.saturating_mul(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_processor_time() {
        assert_eq!(micros("12345678n"), Some(12_345));
        assert_eq!((micros("250m"), micros("1"), micros("3u")), (Some(250_000), Some(1_000_000), Some(3)));
        assert_eq!(micros("much"), None);
    }
}
