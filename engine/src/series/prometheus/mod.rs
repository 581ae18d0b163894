//! What Prometheus scrapes: all instances at once, from memory, with a bounded number of series for each.
//!
//! The label of an instance is `name`: `instance` is Prometheus' own, of the process that it scrapes. `uid` is beside it, since names come
//! again and other engines have them too.
mod native;
mod text;

use super::{Counters, Point, Series};
use crate::clock::Millis;
use syp_auth::histogram::{Histogram, upper_bound};
use syp_proto::google::r#type::Money;

/// Bounds of the classic histogram: powers of two from 512 us to 16.8 s, where buckets of ours end, so that counts are exact.
const BOUNDS: std::ops::RangeInclusive<u32> = 9..=24;

/// One instance at one moment.
struct Sampled {
    uid: String,
    project: String,
    name: String,
    total: Counters,
    cpu_us: u64,
    restarts: u64,
    hourly: Option<Money>,
    /// The newest look, unless it was long ago: figures of the moment that nobody knows are left out.
    now: Option<Point>,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

enum Value<'a> {
    Number(f64),
    Histogram(&'a Histogram),
}

/// A label beside project and name.
type Label<'a> = Option<(&'static str, &'a str)>;
type Emit<'a> = dyn FnMut(Label<'_>, Value<'_>) + 'a;

struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    each: fn(&Sampled, &mut Emit<'_>),
}

const CLASSES: [&str; 6] = ["0xx", "1xx", "2xx", "3xx", "4xx", "5xx"];

const FAMILIES: [Family; 12] = [
    Family {
        name: "syp_up",
        help: "Whether the gate answered within the last 30 s.",
        kind: Kind::Gauge,
        each: |s, out| out(None, number(u64::from(s.now.as_ref().is_some_and(|p| p.gate_samples > 0)))),
    },
    Family {
        name: "syp_requests_total",
        help: "Requests by class of their status; 0xx got none.",
        kind: Kind::Counter,
        each: |s, out| {
            for (n, class) in CLASSES.iter().enumerate() {
                // a class that is rare is not there before its first request
                if n > 1 || s.total.classes[n] > 0 {
                    out(Some(("class", class)), number(s.total.classes[n]));
                }
            }
        },
    },
    Family {
        name: "syp_denied_total",
        help: "Requests without a valid token (401) and of strangers (403).",
        kind: Kind::Counter,
        each: |s, out| {
            out(Some(("status", "401")), number(s.total.denied_401));
            out(Some(("status", "403")), number(s.total.denied_403));
        },
    },
    Family {
        name: "syp_received_bytes_total",
        help: "Bytes of request bodies and from clients through tunnels.",
        kind: Kind::Counter,
        each: |s, out| out(None, number(s.total.bytes_in)),
    },
    Family {
        name: "syp_sent_bytes_total",
        help: "Bytes of response bodies and to clients through tunnels.",
        kind: Kind::Counter,
        each: |s, out| out(None, number(s.total.bytes_out)),
    },
    Family {
        name: "syp_request_duration_seconds",
        help: "From a request's head to the end of its response, for admitted requests.",
        kind: Kind::Histogram,
        each: |s, out| out(None, Value::Histogram(&s.total.latency)),
    },
    Family {
        name: "syp_in_flight_requests",
        help: "Requests under way.",
        kind: Kind::Gauge,
        each: |s, out| {
            if let Some(p) = s.now.as_ref().filter(|p| p.gate_samples > 0) {
                out(None, number(p.in_flight_max));
            }
        },
    },
    Family {
        name: "syp_ready_replicas",
        help: "Replicas that get requests.",
        kind: Kind::Gauge,
        each: |s, out| {
            if let Some(ready) = s.now.as_ref().and_then(|p| p.ready_min) {
                out(None, number(ready.into()));
            }
        },
    },
    Family {
        name: "syp_cpu_seconds_total",
        help: "Processor time of the replicas since the engine knows them.",
        kind: Kind::Counter,
        each: |s, out| out(None, Value::Number(seconds(s.cpu_us))),
    },
    Family {
        name: "syp_memory_bytes",
        help: "Memory of the replicas.",
        kind: Kind::Gauge,
        each: |s, out| {
            if let Some(p) = s.now.as_ref().filter(|p| p.replica_samples > 0) {
                out(None, number(p.memory_max));
            }
        },
    },
    Family {
        name: "syp_restarts_total",
        help: "Replicas that began anew.",
        kind: Kind::Counter,
        each: |s, out| out(None, number(s.restarts)),
    },
    Family {
        name: "syp_cost_per_hour",
        help: "What the instance costs while it exists, in its currency.",
        kind: Kind::Gauge,
        each: |s, out| {
            if let Some(m) = &s.hourly {
                #[allow(clippy::cast_precision_loss)]
                let amount = m.units as f64 + f64::from(m.nanos) / 1e9;
                out(Some(("currency", &m.currency_code)), Value::Number(amount));
            }
        },
    },
];

/// Type and body for a scraper: protobuf with native histograms for one that takes it, text otherwise.
pub fn expose(all: &Series, now: Millis, accept: &str) -> (&'static str, Vec<u8>) {
    let mut sampled: Vec<Sampled> = all
        .all()
        .into_iter()
        .map(|(id, live)| {
            let l = live.lock();
            Sampled {
                uid: id.to_string(),
                project: l.project.clone(),
                name: l.name.clone(),
                total: l.head.total(),
                cpu_us: l.head.cpu_us,
                restarts: l.head.restarts,
                hourly: l.hourly.clone(),
                now: l.fresh(now).map(|n| n.point.clone()),
            }
        })
        .collect();
    sampled.sort_by(|a, b| (&a.project, &a.name).cmp(&(&b.project, &b.name)));
    if native::wanted(accept) {
        (native::TYPE, native::write(&sampled))
    } else {
        (text::TYPE, text::write(&sampled).into_bytes())
    }
}

#[allow(clippy::cast_precision_loss)]
fn number(n: u64) -> Value<'static> {
    Value::Number(n as f64)
}

#[allow(clippy::cast_precision_loss)]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Upper bounds in microseconds, and how many values are below each.
fn cumulative(h: &Histogram) -> impl Iterator<Item = (u64, u64)> + '_ {
    BOUNDS.map(|power| {
        let bound = 1_u64 << power;
        (bound, h.buckets.iter().filter(|(b, _)| upper_bound(**b) < bound).map(|(_, n)| n).sum())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        id::InstanceId,
        series::{Head, Live, Newest},
    };
    use prost::Message;

    const UID: &str = "0123456789abcdef0123456789abcdef";

    fn one() -> Series {
        let mut head = Head { restarts: 1, cpu_us: 2_500_000, ..Default::default() };
        head.carried.classes[2] = 7;
        head.gate.classes[2] = 3;
        head.gate.classes[5] = 1;
        for us in [0, 511, 512, 1_000, 1_023, 1_024, 30_000_000] {
            head.gate.latency.record(us);
        }
        let point = Point { gate_samples: 1, ready_min: Some(2), in_flight_max: 4, ..Default::default() };
        let live = Live {
            project: "default".into(),
            name: "shop".into(),
            head,
            newest: Some(Newest { now: 1_000, point }),
            hourly: Some(Money { currency_code: "EUR".into(), units: 0, nanos: 2_500_000 }),
            ..Default::default()
        };
        let all = Series::default();
        all.put(InstanceId::parse(UID).unwrap(), live);
        all
    }

    #[test]
    fn the_text_has_each_family_once_exact_buckets_and_no_figure_that_nobody_knows() {
        let (kind, body) = expose(&one(), 1_000, "text/plain");
        let text = String::from_utf8(body).unwrap();
        assert!(kind.starts_with("text/plain; version=0.0.4"));
        let i = format!("project=\"default\",name=\"shop\",uid=\"{UID}\"");
        for line in [
            "# TYPE syp_requests_total counter",
            &format!("syp_requests_total{{{i},class=\"2xx\"}} 10"),
            &format!("syp_requests_total{{{i},class=\"5xx\"}} 1"),
            &format!("syp_request_duration_seconds_bucket{{{i},le=\"0.000512\"}} 2"),
            &format!("syp_request_duration_seconds_bucket{{{i},le=\"0.001024\"}} 5"),
            &format!("syp_request_duration_seconds_bucket{{{i},le=\"16.777216\"}} 6"),
            &format!("syp_request_duration_seconds_bucket{{{i},le=\"+Inf\"}} 7"),
            &format!("syp_request_duration_seconds_count{{{i}}} 7"),
            &format!("syp_request_duration_seconds_sum{{{i}}} 30.00407"),
            &format!("syp_cpu_seconds_total{{{i}}} 2.5"),
            &format!("syp_in_flight_requests{{{i}}} 4"),
            &format!("syp_cost_per_hour{{{i},currency=\"EUR\"}} 0.0025"),
            &format!("syp_up{{{i}}} 1"),
        ] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), 1, "{line}\n{text}");
        }
        assert!(!text.contains("syp_memory_bytes{") && !text.contains("\"0xx\""), "{text}");
        // long ago: counters stay, figures of the moment go
        let (_, body) = expose(&one(), 100_000, "");
        let text = String::from_utf8(body).unwrap();
        assert!(
            text.contains(&format!("syp_up{{{i}}} 0")) && !text.contains("syp_in_flight_requests{"),
            "{text}"
        );
        assert!(text.contains(&format!("syp_requests_total{{{i},class=\"2xx\"}} 10")), "{text}");
    }

    #[test]
    fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
        let files = [
            include_str!("../../../../examples/grafana/dashboard.json"),
            include_str!("../../../../examples/grafana/alerts.yaml"),
        ];
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let mut asked = 0;
        for name in files.iter().flat_map(|f| f.split(|c| !word(c))).filter(|w| w.starts_with("syp_")) {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(FAMILIES.iter().any(|f| f.name == name), "there is no {name}");
            asked += 1;
        }
        assert!(asked > 30, "{asked}");
    }

    #[test]
    fn who_takes_protobuf_gets_native_histograms() {
        let accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,*/*;q=0.1";
        let (kind, body) = expose(&one(), 1_000, accept);
        assert!(kind.starts_with("application/vnd.google.protobuf"));
        let mut rest = body.as_slice();
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(native::MetricFamily::decode_length_delimited(&mut rest).unwrap());
        }
        let f = families.iter().find(|f| f.name() == "syp_request_duration_seconds").unwrap();
        let h = f.metric[0].histogram.as_ref().unwrap();
        assert_eq!((h.sample_count, h.zero_count, h.schema), (Some(7), Some(1), Some(3)));
        // all values come out again, each within a bucket's width
        let (mut index, mut count, mut deltas) = (0_i32, 0_i64, h.positive_delta.iter());
        let mut found = Vec::new();
        for span in &h.positive_span {
            index += span.offset();
            for _ in 0..span.length() {
                count += deltas.next().unwrap();
                found.extend((0..count).map(|_| 2_f64.powf(f64::from(index) / 8.0)));
                index += 1;
            }
        }
        let real = [511.0, 512.0, 1_000.0, 1_023.0, 1_024.0, 30_000_000.0];
        assert_eq!(found.len(), real.len());
        for (upper, us) in found.iter().zip(real) {
            let ratio = upper / (us / 1e6);
            assert!((0.96..1.13).contains(&ratio), "{us} us in a bucket up to {upper} s");
        }
        assert_eq!(h.bucket.len(), 16, "the classic ones are there too");
    }
}
