//! The text format 0.0.4.
use super::{FAMILIES, Kind, Label, Sampled, Value, cumulative, seconds};
use std::fmt::Write as _;

/// For `Content-Type`.
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All families; each is there once, with its instances below it.
pub(super) fn write(all: &[Sampled]) -> String {
    // writing to a string does not fail
    let mut out = String::with_capacity(4096 + all.len() * 4096);
    for f in &FAMILIES {
        let kind = match f.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(out, "# HELP {} {}\n# TYPE {} {kind}", f.name, f.help, f.name);
        for s in all {
            (f.each)(s, &mut |label, value| match value {
                Value::Number(n) => line(&mut out, f.name, "", s, label, n),
                Value::Histogram(h) => {
                    #[allow(clippy::cast_precision_loss)]
                    let count = |n: u64| n as f64;
                    for (bound, n) in cumulative(h) {
                        let le = seconds(bound).to_string();
                        line(&mut out, f.name, "_bucket", s, Some(("le", &le)), count(n));
                    }
                    line(&mut out, f.name, "_bucket", s, Some(("le", "+Inf")), count(h.count));
                    line(&mut out, f.name, "_sum", s, label, seconds(h.sum_us));
                    line(&mut out, f.name, "_count", s, label, count(h.count));
                }
            });
        }
    }
    out
}

/// Names and projects are lower-case letters, digits and hyphens, and so need no escaping.
fn line(out: &mut String, name: &str, suffix: &str, s: &Sampled, label: Label<'_>, value: f64) {
    let _ = write!(out, "{name}{suffix}{{project=\"{}\",name=\"{}\",uid=\"{}\"", s.project, s.name, s.uid);
    if let Some((k, v)) = label {
        let _ = write!(out, ",{k}=\"{v}\"");
    }
    let _ = writeln!(out, "}} {value}");
}
