//! Figures over time: asked for page by page, drawn as lines of small bars.
use crate::{client::Client, failure::Failure, parse, render, spark};
use std::{collections::BTreeMap, time::Duration};
use syp_proto::v1::{
    MetricsPoint, QueryMetricsRequest, QueryMetricsResponse, metrics_client::MetricsClient,
    provider_figures::Figure,
};

/// Every point of the last `since`, in one answer; the engine chooses the step when none is given.
///
/// # Errors
/// What the engine said.
pub async fn ask(
    c: &Client,
    name: String,
    since: Duration,
    step: Option<Duration>,
) -> Result<QueryMetricsResponse, Failure> {
    let now = render::now_ms();
    let from = now.saturating_sub(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)).max(0);
    let start_time = Some(prost_types::Timestamp {
        seconds: from.div_euclid(1000),
        nanos: i32::try_from(from.rem_euclid(1000)).unwrap_or(0) * 1_000_000,
    });
    let step = step.map(parse::proto_duration);
    let mut ask = QueryMetricsRequest {
        name,
        start_time,
        step,
        page_size: 1000,
        with_provider: true,
        ..Default::default()
    };
    let mut all = QueryMetricsResponse::default();
    loop {
        let page = c
            .call_provider(ask.clone(), |ch, r| async move { MetricsClient::new(ch).query_metrics(r).await })
            .await?;
        all.points.extend(page.points);
        all.provider = all.provider.or(page.provider);
        (all.start_time, all.step) = (page.start_time, page.step);
        if page.next_page_token.is_empty() {
            return Ok(all);
        }
        ask.page_token = page.next_page_token;
    }
}

/// What the provider says of the same time; empty where it says nothing.
pub fn of_provider(r: &QueryMetricsResponse) -> String {
    let Some(p) = &r.provider else { return String::new() };
    let value = |f: &Figure| match f.unit.as_str() {
        #[allow(clippy::cast_possible_truncation)]
        "bytes" => render::bytes(f.value as i64),
        "" => format!("{:.0}", f.value),
        unit => format!("{:.1} {unit}", f.value),
    };
    let rows = p.figures.iter().map(|f| vec![f.name.clone(), value(f)]);
    let table = render::table(&[p.source.as_str(), ""], rows, false);
    format!("{table}\n{}", p.note).trim_start_matches('\n').to_owned()
}

/// One line for each figure; empty without points.
pub fn text(r: &QueryMetricsResponse, now: i64, width: usize, blocks: bool) -> String {
    let (Some(start), Some(step)) = (r.start_time.as_ref().map(render::millis), step_ms(r)) else {
        return String::new();
    };
    let Some(last) = r.points.last().and_then(|p| p.time.as_ref()).map(render::millis) else {
        return String::new();
    };
    let by_time: BTreeMap<i64, &MetricsPoint> =
        r.points.iter().filter_map(|p| Some((render::millis(p.time.as_ref()?), p))).collect();
    let end = now.max(last + step);
    let slots: Vec<Option<&MetricsPoint>> = (0..)
        .map(|n| start + n * step)
        .take_while(|at| *at < end)
        .map(|at| by_time.get(&at).copied())
        .collect();
    let draw = |f: &dyn Fn(&MetricsPoint) -> Option<f64>, end: &dyn Fn(f64) -> String| {
        let figures: Vec<_> = slots.iter().map(|p| p.and_then(f)).collect();
        let most = figures.iter().flatten().copied().reduce(f64::max)?;
        Some(format!("{}  {}", spark::line(&figures, width, blocks), end(most)))
    };
    let counted = |p: &MetricsPoint| p.window.is_some();
    let sum = |f: &dyn Fn(&MetricsPoint) -> i64| r.points.iter().map(f).sum::<i64>();
    let class = |name: &'static str| move |p: &MetricsPoint| p.status_class.get(name).copied().unwrap_or(0);
    let micros = |d: Option<&prost_types::Duration>| {
        #[allow(clippy::cast_precision_loss)]
        d.map(|d| d.seconds as f64 * 1e6 + f64::from(d.nanos) / 1e3)
    };
    let at = |q: fn(&syp_proto::v1::metrics_point::Latency) -> Option<&prost_types::Duration>| {
        move |p: &MetricsPoint| p.latency.as_ref().and_then(q).and_then(|d| micros(Some(d)))
    };
    let (p50, p99) = (at(|l| l.p50.as_ref()), at(|l| l.p99.as_ref()));
    let errors = sum(&class("4xx")) + sum(&class("5xx"));
    #[allow(clippy::cast_precision_loss)]
    let rows = [
        (
            "Requests",
            draw(&|p| counted(p).then_some(p.rps), &|most| {
                format!("at most {most:.2}/s, {} in all", sum(&|p| p.requests))
            }),
        ),
        (
            "Errors",
            draw(&|p| counted(p).then(|| (class("4xx")(p) + class("5xx")(p)) as f64), &|_| {
                format!("4xx {}, 5xx {}", sum(&class("4xx")), sum(&class("5xx")))
            })
            .filter(|_| errors > 0),
        ),
        ("p50", draw(&p50, &|most| format!("at most {}", micros_in_words(most)))),
        ("p99", draw(&p99, &|most| format!("at most {}", micros_in_words(most)))),
        (
            "Open",
            draw(&|p| counted(p).then_some(f64::from(p.open_streams_max)), &|most| {
                format!("at most {most:.0}")
            }),
        ),
        (
            "CPU",
            draw(&|p| p.cpu_window.is_some().then_some(p.cpu_cores), &|most| {
                format!("at most {most:.3} cores")
            }),
        ),
        (
            "Memory",
            draw(&|p| (p.memory_bytes_max > 0).then_some(p.memory_bytes_max as f64), &|most| {
                #[allow(clippy::cast_possible_truncation)]
                let most = most as i64;
                format!("at most {}", render::bytes(most))
            }),
        ),
    ];
    let restarts: i32 = r.points.iter().map(|p| p.restarts).sum();
    let spanning = r.points.iter().filter(|p| p.spanning).count();
    let words = |ms: i64| {
        humantime::format_duration(Duration::from_millis(u64::try_from(ms).unwrap_or(0))).to_string()
    };
    let tail = [
        ("Restarts", (restarts > 0).then(|| restarts.to_string())),
        (
            "Note",
            (spanning > 0).then(|| {
                format!(
                    "{spanning} of {} points hold what was counted before them, while nobody looked",
                    r.points.len()
                )
            }),
        ),
    ];
    let rows = rows.into_iter().chain(tail).map(|(k, v)| (k, v.unwrap_or_default()));
    format!(
        "Since {} in steps of {}\n{}",
        render::time(r.start_time.as_ref()),
        words(step),
        render::fields(rows)
    )
}

fn step_ms(r: &QueryMetricsResponse) -> Option<i64> {
    let d = r.step.as_ref()?;
    Some(d.seconds.saturating_mul(1000) + i64::from(d.nanos) / 1_000_000).filter(|ms| *ms > 0)
}

fn micros_in_words(us: f64) -> String {
    #[allow(clippy::cast_possible_truncation)]
    let us = us as i64;
    let nanos = i32::try_from(us.rem_euclid(1_000_000) * 1000).unwrap_or(0);
    render::latency(Some(&prost_types::Duration { seconds: us.div_euclid(1_000_000), nanos }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::{Duration as Proto, Timestamp};
    use syp_proto::v1::metrics_point::Latency;

    #[test]
    fn a_gap_is_seen_and_the_sums_are_told() {
        let point = |minute: i64, requests: i64| MetricsPoint {
            time: Some(Timestamp { seconds: minute * 60, nanos: 0 }),
            window: Some(Proto { seconds: 60, nanos: 0 }),
            requests,
            rps: requests as f64 / 60.0,
            status_class: [("2xx".to_owned(), requests)].into(),
            latency: Some(Latency {
                p99: Some(Proto { seconds: 0, nanos: 1_500_000 }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut r = QueryMetricsResponse {
            points: vec![point(10, 60), point(11, 0), point(13, 120)],
            start_time: Some(Timestamp { seconds: 600, nanos: 0 }),
            step: Some(Proto { seconds: 60, nanos: 0 }),
            ..Default::default()
        };
        let t = text(&r, 14 * 60_000, 60, true);
        assert_eq!(
            t,
            "Since 1970-01-01T00:10:00Z in steps of 1m\nRequests  ▅▁ █  at most 2.00/s, 180 in all\np99       ██ █  at most 1.5ms\nOpen      ▁▁ ▁  at most 0"
        );
        r.points[1].spanning = true;
        r.points[2].status_class.insert("5xx".into(), 3);
        let t = text(&r, 14 * 60_000, 60, false);
        assert!(
            t.contains("Errors    __ #  4xx 0, 5xx 3") && t.contains("Note      1 of 3 points hold"),
            "{t}"
        );
        assert_eq!(text(&QueryMetricsResponse::default(), 0, 60, true), "");
    }
}
