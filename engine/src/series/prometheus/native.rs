//! The protobuf format, which alone can carry native histograms: messages `io.prometheus.client`, each with its length before it.
//!
//! Only the fields that are used are declared; their numbers are those of Prometheus' `metrics.proto`.
use super::{FAMILIES, Kind, Sampled, Value, cumulative, seconds};
use prost::Message;
use std::collections::BTreeMap;
use syp_auth::histogram::{Histogram as Ours, upper_bound};

/// For `Content-Type`.
pub(super) const TYPE: &str =
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
/// Eight buckets for each power of two: twice as wide as the error of ours is small.
const SCHEMA: i32 = 3;
/// Below a microsecond is zero.
const ZERO: f64 = 1e-6;

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub help: Option<String>,
    /// Counter 0, gauge 1, histogram 4.
    #[prost(int32, optional, tag = "3")]
    pub kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub metric: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub value: Option<String>,
}

/// `Gauge` and `Counter`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(double, optional, tag = "1")]
    pub value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    pub positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    pub offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub length: Option<u32>,
}

/// Does a scraper take this format? Prometheus asks for it when native histograms are to be scraped.
pub(super) fn wanted(accept: &str) -> bool {
    accept.split(',').any(|one| {
        one.trim_start().starts_with("application/vnd.google.protobuf")
            && one.contains("io.prometheus.client.MetricFamily")
    })
}

/// All families.
pub(super) fn write(all: &[Sampled]) -> Vec<u8> {
    let mut out = Vec::new();
    for f in &FAMILIES {
        let mut metric = Vec::new();
        for s in all {
            (f.each)(s, &mut |label, value| {
                let own =
                    [("project", s.project.as_str()), ("name", s.name.as_str()), ("uid", s.uid.as_str())];
                let pair = |(k, v): (&str, &str)| LabelPair { name: Some(k.into()), value: Some(v.into()) };
                let mut m =
                    Metric { label: own.into_iter().chain(label).map(pair).collect(), ..Default::default() };
                match (f.kind, value) {
                    (_, Value::Histogram(h)) => m.histogram = Some(histogram(h)),
                    (Kind::Counter, Value::Number(n)) => m.counter = Some(Number { value: Some(n) }),
                    (_, Value::Number(n)) => m.gauge = Some(Number { value: Some(n) }),
                }
                metric.push(m);
            });
        }
        let kind = match f.kind {
            Kind::Counter => 0,
            Kind::Gauge => 1,
            Kind::Histogram => 4,
        };
        let family =
            MetricFamily { name: Some(f.name.into()), help: Some(f.help.into()), kind: Some(kind), metric };
        // a vector has room for whatever comes
        let _ = family.encode_length_delimited(&mut out);
    }
    out
}

/// The native form: each of our buckets goes where its middle lies, which is at most half of its 3 percent off.
fn histogram(h: &Ours) -> Histogram {
    let (mut zero, mut at) = (0, BTreeMap::<i32, u64>::new());
    for (bucket, n) in &h.buckets {
        if *bucket == 0 {
            zero += n;
            continue;
        }
        // values are whole microseconds, cut off: the next one begins where this one ends
        let middle = seconds(upper_bound(bucket - 1) + 1 + upper_bound(*bucket) + 1) / 2.0;
        #[allow(clippy::cast_possible_truncation)]
        let index = (middle.log2() * f64::from(1 << SCHEMA)).ceil() as i32;
        *at.entry(index).or_default() += n;
    }
    let (mut positive_span, mut positive_delta) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut next, mut last) = (None, 0_i64);
    for (index, n) in &at {
        match (next, positive_span.last_mut()) {
            (Some(next), Some(span)) if next == *index => span.length = span.length.map(|l| l + 1),
            _ => positive_span.push(BucketSpan { offset: Some(index - next.unwrap_or(0)), length: Some(1) }),
        }
        let n = i64::try_from(*n).unwrap_or(i64::MAX);
        positive_delta.push(n - last);
        (next, last) = (Some(index + 1), n);
    }
    let classic = |(bound, n)| Bucket { cumulative_count: Some(n), upper_bound: Some(seconds(bound)) };
    Histogram {
        sample_count: Some(h.count),
        sample_sum: Some(seconds(h.sum_us)),
        bucket: cumulative(h).map(classic).collect(),
        schema: Some(SCHEMA),
        zero_threshold: Some(ZERO),
        zero_count: Some(zero),
        positive_span,
        positive_delta,
    }
}
