//! `syp.v1.Metrics`: figures of the gate and of the replicas, right now; those of earlier are in `series.rs`.
use super::{Api, authz::Authz, status::of_failure, watch};
use crate::{
    clock::{Millis, duration, duration_millis, timestamp},
    step::{ReplicaStats, Stats},
};
use rust_decimal::Decimal;
use std::{collections::BTreeMap, time::Duration};
use syp_auth::{door::GateMetrics, histogram::Histogram, policy::Role};
use syp_proto::v1::{self, metrics_server::Metrics};
use tonic::{Request, Response, Status, async_trait};

/// Long enough for a figure that means something, short enough for somebody who waits.
const DEFAULT_CPU_WINDOW_MS: Millis = 500;

impl Api {
    async fn point(&self, a: &Authz, name: &str, cpu_window: Duration) -> Result<v1::MetricsPoint, Status> {
        let cell = self.live(a, name, Role::Viewer).await?;
        let i = cell.get();
        let target = self
            .engine
            .target(i.spec.as_ref().map_or("", |s| s.target.as_str()))
            .map_err(|f| of_failure(&f))?;
        // twice: what the processor does now is the difference, not what it did since it was made
        let first = target.stats(&self.engine.context(&cell)).await.map_err(|f| of_failure(&f))?;
        let begun = self.engine.clock().now();
        tokio::time::sleep(cpu_window).await;
        let s = target.stats(&self.engine.context(&cell)).await.map_err(|f| of_failure(&f))?;
        let now = self.engine.clock().now();
        let cpu_cores = cores(used(&first, &s), now - begun);
        // the counters are of this gate: a replaced one began anew
        let window_ms = s.gate.as_ref().map(|g| counted_ms(g, i.serving_ms, now));
        let gate = s.gate.unwrap_or_default();
        let seconds = Decimal::from(window_ms.unwrap_or(1)) / Decimal::from(1000);
        let ready = s.status.map_or(0, |s| s.upstreams.iter().filter(|u| u.ready).count());
        Ok(v1::MetricsPoint {
            time: timestamp(now),
            window: window_ms.map(duration),
            rps: rate(total(&gate), seconds),
            latency: window_ms.map(|_| latency(&gate.latency)),
            status_class: classes(&gate.requests_by_class),
            auth_denied: i64::try_from(gate.denied_401 + gate.denied_403).unwrap_or(i64::MAX),
            cpu_cores,
            memory_bytes: i64::try_from(s.memory_bytes).unwrap_or(i64::MAX),
            replicas_ready: i32::try_from(ready).unwrap_or(0),
            cold_starts: 0,
            bytes_in: i64::try_from(gate.bytes_in).unwrap_or(i64::MAX),
            bytes_out: i64::try_from(gate.bytes_out).unwrap_or(i64::MAX),
            open_streams: i32::try_from(gate.in_flight).unwrap_or(i32::MAX),
            requests: i64::try_from(total(&gate)).unwrap_or(i64::MAX),
            cpu_window: (!s.replicas.is_empty()).then(|| duration(now - begun)),
            ..Default::default()
        })
    }
}

/// How long the gate has counted; one that does not say when it began, since the instance serves.
fn counted_ms(g: &GateMetrics, serving_ms: Millis, now: Millis) -> Millis {
    let began = Millis::try_from(g.started_at_ms).ok().filter(|ms| *ms > 0).unwrap_or(serving_ms);
    (now - began).max(1)
}

/// Processor time in seconds between two looks, of the replicas that answered both: what one has used since its start is no use of
/// the moment in which it is seen first.
fn used(first: &Stats, then: &Stats) -> f64 {
    let by_id: BTreeMap<_, _> =
        first.replicas.iter().map(|r| ((r.id.as_str(), r.started_ms), r.cpu_us)).collect();
    let of = |r: &ReplicaStats| {
        by_id.get(&(r.id.as_str(), r.started_ms)).map_or(0, |before| r.cpu_us.saturating_sub(*before))
    };
    #[allow(clippy::cast_precision_loss)]
    let us = then.replicas.iter().map(of).sum::<u64>() as f64;
    us / 1e6
}

/// Cores in use over a while. A replica that began anew in it has used less than before: then nothing is known.
fn cores(seconds: f64, over_ms: Millis) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let over = over_ms.max(1) as f64 / 1000.0;
    (seconds / over).max(0.0)
}

/// The time over which the processor is looked at.
fn cpu_window(asked: Option<&prost_types::Duration>) -> Duration {
    let ms = asked.map_or(DEFAULT_CPU_WINDOW_MS, duration_millis).clamp(100, 10_000);
    Duration::from_millis(u64::try_from(ms).unwrap_or(1_000))
}

fn total(g: &GateMetrics) -> u64 {
    g.requests_by_class.iter().sum()
}

fn rate(count: u64, seconds: Decimal) -> f64 {
    rust_decimal::prelude::ToPrimitive::to_f64(&(Decimal::from(count) / seconds)).unwrap_or(0.0)
}

/// Requests by status class, those that there were.
pub(super) fn classes(all: &[u64; 6]) -> BTreeMap<String, i64> {
    let some = all.iter().enumerate().filter(|(_, c)| **c > 0);
    some.map(|(n, c)| (format!("{n}xx"), i64::try_from(*c).unwrap_or(i64::MAX))).collect()
}

/// Percentiles of a histogram.
pub(super) fn latency(h: &Histogram) -> v1::metrics_point::Latency {
    let at = |p: f64| {
        let us = h.percentile(p)?;
        Some(prost_types::Duration {
            seconds: i64::try_from(us / 1_000_000).unwrap_or(0),
            nanos: i32::try_from(us % 1_000_000).unwrap_or(0) * 1000,
        })
    };
    v1::metrics_point::Latency {
        p50: at(50.0),
        p90: at(90.0),
        p99: at(99.0),
        max: at(100.0),
        gateway_overhead_p99: None,
    }
}

#[async_trait]
impl Metrics for Api {
    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::MetricsPoint>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.point(&a, &r.name, cpu_window(r.window.as_ref())).await.map(Response::new)
    }

    async fn query_metrics(
        &self,
        request: Request<v1::QueryMetricsRequest>,
    ) -> Result<Response<v1::QueryMetricsResponse>, Status> {
        self.query(request).await
    }

    async fn list_metrics(
        &self,
        request: Request<v1::ListMetricsRequest>,
    ) -> Result<Response<v1::ListMetricsResponse>, Status> {
        self.newest(&request)
    }

    type ScrapeStream = watch::Stream<v1::ScrapeResponse>;

    async fn scrape(
        &self,
        request: Request<v1::ScrapeRequest>,
    ) -> Result<Response<Self::ScrapeStream>, Status> {
        Ok(Response::new(self.exposition(&request.into_inner().accept)))
    }

    type WatchMetricsStream = watch::Stream<v1::MetricsPoint>;

    async fn watch_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<Self::WatchMetricsStream>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        self.live(&a, &r.name, Role::Viewer).await?;
        let api = self.clone();
        Ok(Response::new(Box::pin(async_stream::try_stream! {
            loop {
                yield api.point(&a, &r.name, Duration::from_secs(1)).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_gate_counts_from_its_own_beginning() {
        let g = GateMetrics {
            started_at_ms: 90_000,
            requests_by_class: [0, 0, 20, 0, 0, 0],
            ..Default::default()
        };
        let window = counted_ms(&g, 1_000, 100_000);
        assert_eq!(window, 10_000);
        assert!((rate(total(&g), Decimal::from(window) / Decimal::from(1000)) - 2.0).abs() < 1e-9);
        assert_eq!(counted_ms(&GateMetrics::default(), 1_000, 3_000), 2_000, "one that does not say");
        assert_eq!(counted_ms(&g, 0, 80_000), 1, "a clock that went back");
    }

    #[test]
    fn a_replica_that_is_seen_first_or_began_anew_has_used_nothing_in_between() {
        let of = |all: &[(&str, Millis, u64)]| Stats {
            replicas: all
                .iter()
                .map(|(id, started_ms, cpu_us)| ReplicaStats {
                    id: (*id).into(),
                    started_ms: *started_ms,
                    cpu_us: *cpu_us,
                    memory_bytes: 0,
                })
                .collect(),
            ..Default::default()
        };
        let first = of(&[("a", 1, 1_000_000), ("b", 1, 9_000_000), ("gone", 1, 5)]);
        let then = of(&[("a", 1, 1_500_000), ("b", 7, 10), ("late", 1, 3_600_000_000)]);
        assert!((used(&first, &then) - 0.5).abs() < 1e-9);
    }

    #[test]
    fn the_processor_is_looked_at_over_a_window() {
        assert!((cores(0.25, 500) - 0.5).abs() < 1e-9);
        assert!(cores(-3.0, 500).abs() < 1e-9, "a replica that began anew");
        assert_eq!(cpu_window(None), Duration::from_millis(500));
        let far = prost_types::Duration { seconds: i64::MAX, nanos: 0 };
        assert_eq!(cpu_window(Some(&far)), Duration::from_secs(10));
    }
}
