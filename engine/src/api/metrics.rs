//! `syp.v1.Metrics`: figures of the gate and of the replicas, right now.
use super::{Api, authz::Authz, later::later, status::of_failure, watch};
use crate::clock::{duration, timestamp};
use rust_decimal::Decimal;
use std::time::Duration;
use syp_auth::{door::GateMetrics, policy::Role};
use syp_proto::v1::{self, metrics_server::Metrics};
use tonic::{Request, Response, Status, async_trait};

impl Api {
    async fn point(&self, a: &Authz, name: &str) -> Result<v1::MetricsPoint, Status> {
        let cell = self.live(a, name, Role::Viewer).await?;
        let i = cell.get();
        let target = self
            .engine
            .target(i.spec.as_ref().map_or("", |s| s.target.as_str()))
            .map_err(|f| of_failure(&f))?;
        let s = target.stats(&self.engine.context(&cell)).await.map_err(|f| of_failure(&f))?;
        let now = self.engine.clock().now();
        let gate = s.gate.unwrap_or_default();
        let up_ms = (now - i.serving_ms).max(1);
        let seconds = Decimal::from(up_ms) / Decimal::from(1000);
        let ready = s.status.map_or(0, |s| s.upstreams.iter().filter(|u| u.ready).count());
        Ok(v1::MetricsPoint {
            time: timestamp(now),
            window: Some(duration(up_ms)),
            rps: rate(total(&gate), seconds),
            latency: Some(latency(&gate)),
            status_class: gate
                .requests_by_class
                .iter()
                .enumerate()
                .map(|(n, c)| (format!("{n}xx"), i64::try_from(*c).unwrap_or(i64::MAX)))
                .filter(|(_, c)| *c > 0)
                .collect(),
            auth_denied: i64::try_from(gate.denied_401 + gate.denied_403).unwrap_or(i64::MAX),
            cpu_cores: s.cpu_seconds / (up_ms as f64 / 1000.0),
            memory_bytes: i64::try_from(s.memory_bytes).unwrap_or(i64::MAX),
            replicas_ready: i32::try_from(ready).unwrap_or(0),
            cold_starts: 0,
            bytes_in: i64::try_from(gate.bytes_in).unwrap_or(i64::MAX),
            bytes_out: i64::try_from(gate.bytes_out).unwrap_or(i64::MAX),
            open_streams: i32::try_from(gate.in_flight).unwrap_or(i32::MAX),
        })
    }
}

fn total(g: &GateMetrics) -> u64 {
    g.requests_by_class.iter().sum()
}

fn rate(count: u64, seconds: Decimal) -> f64 {
    rust_decimal::prelude::ToPrimitive::to_f64(&(Decimal::from(count) / seconds)).unwrap_or(0.0)
}

fn latency(g: &GateMetrics) -> v1::metrics_point::Latency {
    let at = |p: f64| {
        let us = g.latency.percentile(p)?;
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
        self.point(&a, &request.into_inner().name).await.map(Response::new)
    }

    async fn query_metrics(
        &self,
        _: Request<v1::QueryMetricsRequest>,
    ) -> Result<Response<v1::QueryMetricsResponse>, Status> {
        Err(later("the history of metrics"))
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
                yield api.point(&a, &r.name).await?;
                tokio::time::sleep(Duration::from_secs(2)).await;
            }
        })))
    }
}
