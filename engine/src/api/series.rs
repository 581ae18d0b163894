//! `syp.v1.Metrics` over time: queries by range and step, the newest figures of all, and what Prometheus scrapes.
use super::{
    Api,
    authz::Authz,
    metrics::{classes, latency},
    page,
    status::invalid,
    validate, watch,
};
use crate::{
    clock::{Millis, duration, duration_millis, millis, timestamp},
    error::Error,
    id::InstanceId,
    series::{Live, Point, Range, prometheus},
    view,
};
use bytes::Bytes;
use syp_auth::policy::Role;
use syp_proto::v1;
use tonic::{Request, Response, Status};

/// Bytes of one message of a scrape.
const PIECE: usize = 1 << 20;

// === impl Api ===

impl Api {
    pub(super) async fn query(
        &self,
        request: Request<v1::QueryMetricsRequest>,
    ) -> Result<Response<v1::QueryMetricsResponse>, Status> {
        let a = Authz::of(&request)?;
        let r = request.into_inner();
        let i = self.any(&a, &r.name, Role::Viewer).await?;
        let (start, end) = (r.start_time.as_ref().map(millis), r.end_time.as_ref().map(millis));
        let step = r.step.as_ref().map(duration_millis);
        let range = Range::new(start, end, step, self.engine.clock().now())
            .map_err(|(field, words)| invalid(field, &words))?;
        // a name that can be found has an id that can be read
        let id = InstanceId::parse(&i.uid).ok_or_else(|| Error::NotFound(r.name.clone()))?;
        let points =
            range.read(&**self.engine.store(), self.engine.series(), id).await.map_err(Error::from)?;
        let bound = format!("{}|{start:?}|{end:?}|{step:?}", r.name);
        let (points, next_page_token) =
            page::cut(points, r.page_size, &r.page_token, &bound, |p| format!("{:020}", p.at))?;
        let points = points.iter().map(figures).collect();
        let provider = if r.with_provider && r.page_token.is_empty() {
            self.of_provider(id, &range, end).await
        } else {
            None
        };
        let (start_time, step) = (timestamp(range.start), Some(duration(range.step)));
        let all = v1::QueryMetricsResponse { points, next_page_token, start_time, step, provider };
        Ok(Response::new(all))
    }

    /// What the provider of a living instance measured; what it can't say is a note, beside what we know ourselves.
    async fn of_provider(
        &self,
        id: InstanceId,
        range: &Range,
        end: Option<Millis>,
    ) -> Option<v1::ProviderFigures> {
        let cell = self.engine.cell(id)?;
        let target = self.engine.target(&cell.get().spec.as_ref()?.target).ok()?;
        let until = end.unwrap_or_else(|| self.engine.clock().now());
        let cx = self.engine.context(&cell);
        match target.figures(&cx, range.start, until).await {
            Ok(figures) => figures,
            Err(f) => Some(v1::ProviderFigures {
                source: target.name().to_owned(),
                note: format!("{}: {}; {}", f.reason, f.message, f.hint),
                ..Default::default()
            }),
        }
    }

    /// The newest figures of every instance that the caller may see; from memory.
    pub(super) fn newest(
        &self,
        request: &Request<v1::ListMetricsRequest>,
    ) -> Result<Response<v1::ListMetricsResponse>, Status> {
        let a = Authz::of(request)?;
        let r = request.get_ref();
        let project = validate::parent(&r.parent)?;
        let now = self.engine.clock().now();
        let point = |live: &Live| {
            let n = live.fresh(now)?;
            Some(v1::MetricsPoint { time: timestamp(n.now), ..figures(&n.point) })
        };
        let mut all = Vec::new();
        for (id, live) in self.engine.series().all() {
            let Some(cell) = self.engine.cell(id) else { continue };
            let i = cell.get();
            if (project == "-" || i.project == project) && a.role_on(&i).is_some_and(|r| r >= Role::Viewer) {
                all.push(v1::InstanceMetrics { name: view::full_name(&i), point: point(&live.lock()) });
            }
        }
        all.sort_by(|x, y| x.name.cmp(&y.name));
        let (instances, next_page_token) =
            page::cut(all, r.page_size, &r.page_token, &r.parent, |m| m.name.clone())?;
        Ok(Response::new(v1::ListMetricsResponse { instances, next_page_token }))
    }

    /// All instances for Prometheus, in pieces that a client takes.
    pub(super) fn exposition(&self, accept: &str) -> watch::Stream<v1::ScrapeResponse> {
        let (content_type, body) = self.scraped(accept);
        let mut body = Bytes::from(body);
        let mut pieces = Vec::new();
        while !body.is_empty() {
            let piece = body.split_to(PIECE.min(body.len()));
            pieces.push(Ok(v1::ScrapeResponse { content_type: content_type.into(), body: piece.to_vec() }));
        }
        Box::pin(futures_util::stream::iter(pieces))
    }

    /// All instances for Prometheus: type and body.
    pub(super) fn scraped(&self, accept: &str) -> (&'static str, Vec<u8>) {
        prometheus::expose(self.engine.series(), self.engine.clock().now(), accept)
    }
}

/// A point as the API shows it.
pub(super) fn figures(p: &Point) -> v1::MetricsPoint {
    let big = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let small = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
    let c = &p.counters;
    let counted = p.counted_ms > 0;
    v1::MetricsPoint {
        time: timestamp(p.at),
        window: counted.then(|| duration(Millis::try_from(p.counted_ms).unwrap_or(Millis::MAX))),
        rps: per_second(c.requests(), p.counted_ms, 1),
        latency: counted.then(|| latency(&c.latency)),
        status_class: classes(&c.classes),
        auth_denied: big(c.denied_401 + c.denied_403),
        cpu_cores: per_second(p.cpu_us, p.cpu_ms, 1_000_000),
        memory_bytes: big(mean(p.memory_sum, p.replica_samples)),
        replicas_ready: small(p.ready_min.unwrap_or(0).into()),
        cold_starts: 0,
        bytes_in: big(c.bytes_in),
        bytes_out: big(c.bytes_out),
        open_streams: small(mean(p.in_flight_sum, p.gate_samples)),
        requests: big(c.requests()),
        open_streams_max: small(p.in_flight_max),
        memory_bytes_max: big(p.memory_max),
        restarts: i32::try_from(p.restarts).unwrap_or(i32::MAX),
        spanning: p.is_spanning(),
        cpu_window: (p.cpu_ms > 0).then(|| duration(Millis::try_from(p.cpu_ms).unwrap_or(Millis::MAX))),
    }
}

fn mean(sum: u64, of: u32) -> u64 {
    sum / u64::from(of.max(1))
}

#[allow(clippy::cast_precision_loss)]
fn per_second(n: u64, ms: u64, unit: u64) -> f64 {
    if ms == 0 { 0.0 } else { n as f64 * 1000.0 / ms as f64 / unit as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_requests_and_what_nobody_knows_is_absent() {
        let mut p = Point { at: 60_000, counted_ms: 60_000, gate_samples: 6, ..Default::default() };
        (0..99).for_each(|_| p.counters.latency.record(1_000));
        p.counters.latency.record(5_000_000);
        p.counters.classes = [0, 0, 90, 0, 30, 0];
        let m = figures(&p);
        assert_eq!((m.requests, m.status_class["4xx"], m.window.unwrap().seconds), (120, 30, 60));
        assert!((m.rps - 2.0).abs() < 1e-9);
        let l = m.latency.unwrap();
        assert_eq!((l.p99.unwrap().seconds, l.max.unwrap().seconds), (0, 5));
        assert!(m.cpu_window.is_none());
        let gap = figures(&Point { cpu_ms: 2_000, cpu_us: 1_000_000, ..Default::default() });
        assert!(gap.window.is_none() && gap.latency.is_none(), "the gate did not answer");
        assert!((gap.cpu_cores - 0.5).abs() < 1e-9);
    }
}
