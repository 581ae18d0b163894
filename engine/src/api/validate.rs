//! What can be refused by reading the request alone.
mod budget;
mod secrets;
use super::status::invalid;
use crate::door;
pub use budget::check as budget;
pub(super) use secrets::MAX_SECRET;
use syp_proto::v1::{self, InstanceSpec, instance_spec};
use tonic::Status;

/// Highest port that the seal of the app's network can protect: a routing rule can't name 65535.
pub const MAX_PORT: i32 = 65_534;
/// Where the holder tells the gate how it is: not for an app.
const HOLDER_PORT: i32 = 49_150;
const MAX_REPLICAS: i32 = 64;
/// Requests a second.
const MIN_RPS: f64 = 0.001;
const MAX_RPS: f64 = 1e6;
const MAX_LABELS: usize = 64;
/// What a replica may be given: more than any machine has; what the target's host really has is the preflight's business.
const MAX_CPU_MILLIS: u64 = 4_096_000;
/// Docker Engine's least share of a core.
const MIN_CPU_MILLIS: u64 = 10;
const MAX_MEMORY: u64 = 64 << 40;
/// The longest time to live: ten years. Whoever wants more wants none.
const MAX_TTL_MS: i64 = 10 * 365 * 86_400_000;

/// `projects/{project}/instances/{name}[@{uid}]` -> (project, name, uid).
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn name(full: &str) -> Result<(&str, &str, Option<&str>), Status> {
    let wrong = || invalid("name", "expected projects/{project}/instances/{name}");
    let (project, rest) =
        full.strip_prefix("projects/").and_then(|r| r.split_once("/instances/")).ok_or_else(wrong)?;
    let (name, uid) = rest.split_once('@').map_or((rest, None), |(n, u)| (n, Some(u)));
    if project.is_empty() || name.is_empty() || name.contains('/') {
        return Err(wrong());
    }
    Ok((project, name, uid))
}

/// `projects/{project}`; `-` stands for all.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn parent(text: &str) -> Result<&str, Status> {
    let project = text
        .strip_prefix("projects/")
        .ok_or_else(|| invalid("parent", "expected projects/{project}, or projects/- for all"))?;
    if project != "-" {
        id("parent", project)?;
    }
    Ok(project)
}

/// `projects/{project}` of something new: it belongs to one project.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn one_project(text: &str) -> Result<&str, Status> {
    match parent(text)? {
        "-" => Err(invalid("parent", "'-' stands for all projects in lists; name one for something new")),
        project => Ok(project),
    }
}

/// An id that fits DNS labels and the names of every provider.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn id(field: &str, id: &str) -> Result<(), Status> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let first = id.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if first && id.len() <= 40 && id.chars().all(ok) && !id.ends_with('-') {
        return Ok(());
    }
    Err(invalid(field, "1 to 40 lower-case letters, digits and hyphens, beginning with a letter"))
}

/// Labels of the user, by the rules of Kubernetes labels: every target can hold them, and a filter can name them.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Result<(), Status> {
    for (n, (k, v)) in labels.into_iter().enumerate() {
        if n >= MAX_LABELS {
            return Err(invalid("labels", &format!("at most {MAX_LABELS}")));
        }
        if !is_label_key(k) {
            return Err(invalid(
                "labels",
                &format!(
                    "'{k}' can't be a key: 1 to 63 letters, digits, '-', '_' and '.', a letter or digit at both ends, \
                     perhaps behind a DNS name and '/'; syp.dev is ours"
                ),
            ));
        }
        if !(v.is_empty() || is_label_word(v)) {
            return Err(invalid(
                "labels",
                &format!(
                    "'{v}' can't be the value of '{k}': up to 63 letters, digits, '-', '_' and '.', \
                     a letter or digit at both ends"
                ),
            ));
        }
    }
    Ok(())
}

fn is_label_key(key: &str) -> bool {
    let Some((domain, word)) = key.split_once('/') else {
        return is_label_word(key) && !key.starts_with("syp.dev");
    };
    let part = |p: &str| {
        is_label_word(p) && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    let ours = domain == "syp.dev" || domain.ends_with(".syp.dev");
    domain.len() <= 253 && domain.split('.').all(part) && is_label_word(word) && !ours
}

fn is_label_word(w: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    w.len() <= 63
        && ends(w.chars().next())
        && ends(w.chars().next_back())
        && w.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// A spec.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn spec(s: &InstanceSpec) -> Result<(), Status> {
    if s.image.trim().is_empty() || s.image.contains(char::is_whitespace) {
        return Err(invalid(
            "spec.image",
            &format!("'{}' can't be an image; a name such as nginx:1.27", s.image),
        ));
    }
    if s.port < 0 || s.port > MAX_PORT || s.port == HOLDER_PORT {
        return Err(invalid(
            "spec.port",
            &format!(
                "1 to {MAX_PORT} without {HOLDER_PORT}: that one is the product's own inside an instance"
            ),
        ));
    }
    let scaling = s.scaling.unwrap_or_default();
    if !(0..=MAX_REPLICAS).contains(&scaling.min) {
        return Err(invalid("spec.scaling.min", &format!("1 to {MAX_REPLICAS} replicas")));
    }
    if !(0..=MAX_REPLICAS).contains(&scaling.max) {
        return Err(invalid("spec.scaling.max", &format!("up to {MAX_REPLICAS} replicas")));
    }
    if !(0..=100).contains(&scaling.target_cpu) {
        return Err(invalid(
            "spec.scaling.target_cpu",
            "1 to 100: percent of the processor that a replica is given",
        ));
    }
    if scaling.target_rps != 0.0 && !(MIN_RPS..=MAX_RPS).contains(&scaling.target_rps) {
        return Err(invalid(
            "spec.scaling.target_rps",
            &format!("{MIN_RPS} to {MAX_RPS}: requests a second that a replica should get"),
        ));
    }
    if scaling.target_rps != 0.0 && scaling.max <= scaling.min.max(1) {
        return Err(invalid("spec.scaling.target_rps", "it needs a range of replicas: max above min"));
    }
    if scaling.target_concurrency != 0 || scaling.scale_down_delay.is_some() {
        return Err(invalid(
            "spec.scaling",
            "replicas are scaled by target_cpu, target_rps or both; by nothing else",
        ));
    }
    if let Some(r) = &s.resources {
        resources(r)?;
    }
    cors("spec.cors_origins", &s.cors_origins)?;
    if let Some(k) =
        s.kubernetes.as_ref().and_then(|k| k.ingress_annotations.keys().find(|k| !is_label_key(k)))
    {
        return Err(invalid(
            "spec.kubernetes.ingress_annotations",
            &format!(
                "'{k}' can't be an annotation: a name, perhaps behind a DNS name and '/'; syp.dev is ours"
            ),
        ));
    }
    for k in s.env.keys() {
        if k.is_empty() || k.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            let why = "'=', spaces and control characters are not for names";
            return Err(invalid("spec.env", &format!("'{k}' can't be the name of a variable: {why}")));
        }
    }
    if let Some(p) = s.probe.as_ref().filter(|p| !p.path.is_empty())
        && (!p.path.starts_with('/') || p.path.contains(char::is_whitespace))
    {
        return Err(invalid("spec.probe.path", "a path that begins with /"));
    }
    secrets::check(s)?;
    ttl(s.ttl.as_ref())?;
    grace("spec.drain_grace", s.drain_grace.as_ref())?;
    if s.egress() == instance_spec::Egress::Off && s.isolation() == instance_spec::Isolation::NotEnforced {
        return Err(invalid(
            "spec.egress",
            "'none' is done by the rules that isolation 'none' leaves out; choose one",
        ));
    }
    publish(s)?;
    for (field, policy) in [("spec.access", &s.access), ("spec.operators", &s.operators)] {
        if let Some(p) = policy {
            access(field, p)?;
        }
    }
    Ok(())
}

/// The time to live in milliseconds; nothing said: `None`.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn ttl(d: Option<&prost_types::Duration>) -> Result<Option<i64>, Status> {
    let ms = d.map(crate::clock::duration_millis);
    if ms.is_some_and(|ms| !(1_000..=MAX_TTL_MS).contains(&ms)) {
        return Err(invalid("spec.ttl", "1s to 10 years (3650 days); without one it lives until 'down'"));
    }
    Ok(ms)
}

/// How long what is in flight may take to end, in milliseconds; nothing said: `None`.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn grace(field: &str, d: Option<&prost_types::Duration>) -> Result<Option<i64>, Status> {
    let ms = d.map(crate::clock::duration_millis);
    if ms.is_some_and(|ms| !(0..=3_600_000).contains(&ms)) {
        return Err(invalid(field, "0s to 1h"));
    }
    Ok(ms)
}

/// A policy.
///
/// # Errors
/// `INVALID_ARGUMENT` with the policy's own words.
pub fn access(field: &str, p: &v1::AccessPolicy) -> Result<(), Status> {
    door::policy(p).validate().map_err(|e| invalid_policy(field, &e))
}

/// Origins of browser apps.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn cors(field: &str, origins: &[String]) -> Result<(), Status> {
    const MOST: usize = 50;
    if origins.len() > MOST {
        return Err(invalid(field, &format!("at most {MOST} origins")));
    }
    origins.iter().try_for_each(|o| syp_auth::cors::origin(o).map(drop).map_err(|e| invalid(field, &e)))
}

/// In the policy's own words.
pub fn invalid_policy(field: &str, e: &syp_auth::policy::Error) -> Status {
    invalid(field, &e.to_string())
}

fn publish(s: &InstanceSpec) -> Result<(), Status> {
    let Some(p) = &s.publish else { return Ok(()) };
    if !p.address.is_empty() {
        let address: std::net::IpAddr =
            p.address.parse().map_err(|_| invalid("spec.publish.address", "an IP address of this host"))?;
        if !address.is_loopback() && (p.tls_cert_file.is_empty() || p.tls_key_file.is_empty()) {
            return Err(invalid(
                "spec.publish",
                "off loopback a certificate and a key are required (tokens would cross the network in clear)",
            ));
        }
    }
    if p.tls_cert_file.is_empty() != p.tls_key_file.is_empty() {
        return Err(invalid("spec.publish", "certificate and key go together"));
    }
    if !(0..=65_535).contains(&p.port) {
        return Err(invalid("spec.publish.port", "0 to 65535"));
    }
    Ok(())
}

fn resources(r: &v1::Resources) -> Result<(), Status> {
    let cpu = MIN_CPU_MILLIS..=MAX_CPU_MILLIS;
    if !r.cpu.is_empty() && cpu_millis(&r.cpu).is_none_or(|m| !cpu.contains(&m)) {
        return Err(invalid("spec.resources.cpu", "cores, such as 0.5 or 500m; at least 10m, at most 4096"));
    }
    let memory = (6 << 20)..=MAX_MEMORY;
    if !r.memory.is_empty() && memory_bytes(&r.memory).is_none_or(|b| !memory.contains(&b)) {
        return Err(invalid(
            "spec.resources.memory",
            "bytes with Ki, Mi, Gi, such as 256Mi; at least 6Mi, at most 65536Gi",
        ));
    }
    Ok(())
}

/// `0.5`, `2`, `500m` in thousandths of a core.
pub fn cpu_millis(text: &str) -> Option<u64> {
    if let Some(m) = text.strip_suffix('m') {
        return m.parse().ok();
    }
    let cores: rust_decimal::Decimal =
        if text.starts_with('.') { format!("0{text}").parse().ok()? } else { text.parse().ok()? };
    rust_decimal::prelude::ToPrimitive::to_u64(&cores.checked_mul(rust_decimal::Decimal::from(1000))?)
}

/// `256Mi`, `1Gi`, `512M`, plain bytes.
pub fn memory_bytes(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("K", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
    ];
    let (number, unit) =
        UNITS.iter().find_map(|(s, m)| Some((text.strip_suffix(s)?, *m))).unwrap_or((text, 1));
    number.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        assert_eq!(cpu_millis(".5"), Some(500));
        assert_eq!(cpu_millis("250m"), Some(250));
        assert_eq!(cpu_millis("2"), Some(2000));
        assert_eq!(cpu_millis("x"), None);
        assert_eq!(cpu_millis("-1"), None);
        assert_eq!(memory_bytes("256Mi"), Some(268_435_456));
        assert_eq!(memory_bytes("5X"), None);
        assert_eq!(cpu_millis("79228162514264337593543950335"), None, "no overflow");
        assert_eq!(cpu_millis("99999999999999"), Some(99_999_999_999_999_000));
        assert_eq!(memory_bytes("99999999999999999999Gi"), None);
    }

    #[test]
    fn limits_and_times_that_no_machine_and_no_calendar_has_are_refused() {
        let good = InstanceSpec { image: "x".into(), port: 80, ..Default::default() };
        let with = |cpu: &str, memory: &str| {
            let resources = v1::Resources { cpu: cpu.into(), memory: memory.into(), ..Default::default() };
            spec(&InstanceSpec { resources: Some(resources), ..good.clone() })
        };
        for (cpu, memory) in [("10m", ""), ("4096", ""), ("", "6Mi"), ("", "65536Gi"), (".5", "256Mi")] {
            assert!(with(cpu, memory).is_ok(), "{cpu} {memory}");
        }
        for (cpu, memory) in
            [("9m", ""), ("4097", ""), ("99999999999999", ""), ("", "1000000Gi"), ("", "5Mi")]
        {
            assert!(with(cpu, memory).is_err(), "{cpu} {memory}");
        }
        let ttl = |seconds| {
            let ttl = Some(prost_types::Duration { seconds, nanos: 0 });
            spec(&InstanceSpec { ttl, ..good.clone() })
        };
        assert!(ttl(1).is_ok() && ttl(3650 * 86_400).is_ok());
        assert!(ttl(0).is_err() && ttl(3650 * 86_400 + 1).is_err() && ttl(i64::MAX).is_err());
    }

    #[test]
    fn labels_are_those_that_every_target_can_hold() {
        let one = |k: &str, v: &str| labels(&std::collections::BTreeMap::from([(k.into(), v.into())]));
        for (k, v) in [("team", "ml"), ("a", ""), ("example.com/Team_1", "x.y-z"), (&"k".repeat(63), "1")] {
            assert!(one(k, v).is_ok(), "{k}={v}");
        }
        for (k, v) in [
            ("", "x"),
            ("a b", "x"),
            ("-a", "x"),
            ("a/", "x"),
            ("/a", "x"),
            ("Ex.com/a", "x"),
            ("a/b/c", "x"),
            ("syp.dev/store", "x"),
            ("syp.dev", "x"),
            ("x.syp.dev/a", "x"),
            ("k", "a b"),
            ("k", "a\nb"),
            ("k", "a AND b"),
            ("k", "-"),
            ("k", "é"),
            (&"k".repeat(64), "1"),
            ("k", &"v".repeat(64)),
        ] {
            assert!(one(k, v).is_err(), "{k}={v}");
        }
        let many: std::collections::BTreeMap<_, _> =
            (0..65).map(|n| (format!("k{n}"), String::new())).collect();
        assert!(labels(&many).is_err());
    }

    #[test]
    fn names() {
        assert_eq!(name("projects/p/instances/i@7").unwrap(), ("p", "i", Some("7")));
        for bad in ["", "projects//instances/i", "projects/p", "projects/p/instances/a/b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for bad in ["", "A", "1a", "a_b", "a-", "a.b", &"a".repeat(41)] {
            assert!(id("x", bad).is_err(), "{bad}");
            assert!(parent(&format!("projects/{bad}")).is_err(), "{bad}");
        }
        assert_eq!((parent("projects/p1").unwrap(), parent("projects/-").unwrap()), ("p1", "-"));
        assert!(parent("p1").is_err() && parent("projects/X y").is_err() && parent("projects/a/b").is_err());
        assert!(one_project("projects/-").is_err() && one_project("projects/p1").is_ok());
    }

    #[test]
    fn specs_that_cannot_be_right_are_refused_with_the_field() {
        let good =
            InstanceSpec { image: "x".into(), port: 80, target: "docker".into(), ..Default::default() };
        assert!(spec(&good).is_ok());
        let bad = |f: fn(&mut InstanceSpec)| {
            let mut s = good.clone();
            f(&mut s);
            spec(&s).unwrap_err().message().to_owned()
        };
        assert!(bad(|s| s.image = "a b".into()).starts_with("spec.image"));
        assert!(bad(|s| s.port = 65_535).starts_with("spec.port"));
        assert!(bad(|s| s.port = 49_150).starts_with("spec.port"));
        let open = |s: &mut InstanceSpec| {
            s.publish = Some(v1::Publish { address: "0.0.0.0".into(), ..Default::default() });
        };
        assert!(bad(open).contains("certificate"));
    }
}
