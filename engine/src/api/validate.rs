//! What can be refused by reading the request alone.
use super::status::invalid;
use crate::door;
use std::collections::HashMap;
use syp_proto::v1::{self, InstanceSpec, instance_spec};
use tonic::Status;

/// Highest port that the seal of the app's network can protect: a routing rule can't name 65535.
pub const MAX_PORT: i32 = 65_534;
/// Where the holder tells the gate how it is: not for an app.
const HOLDER_PORT: i32 = 49_150;
const MAX_REPLICAS: i32 = 64;

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
    text.strip_prefix("projects/")
        .filter(|p| !p.is_empty() && !p.contains('/'))
        .ok_or_else(|| invalid("parent", "expected projects/{project}, or projects/- for all"))
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

/// Labels of the user.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn labels(labels: &HashMap<String, String>) -> Result<(), Status> {
    for (k, v) in labels {
        if k.is_empty() || k.len() > 63 || v.len() > 255 || k.starts_with("syp.dev") {
            return Err(invalid(
                "labels",
                &format!("'{k}': keys have 1 to 63 characters, values at most 255, and syp.dev is ours"),
            ));
        }
    }
    Ok(())
}

/// A spec.
///
/// # Errors
/// `INVALID_ARGUMENT` naming the field.
pub fn spec(s: &InstanceSpec) -> Result<(), Status> {
    if s.image.trim().is_empty() || s.image.contains(char::is_whitespace) {
        return Err(invalid("spec.image", "the name of an image, such as nginx:1.27"));
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
    if let Some(r) = &s.resources {
        resources(r)?;
    }
    for k in s.env.keys() {
        if k.is_empty() || k.contains(['=', '\0']) {
            return Err(invalid("spec.env", &format!("'{k}' can't be the name of a variable")));
        }
    }
    if let Some(p) = s.probe.as_ref().filter(|p| !p.path.is_empty())
        && (!p.path.starts_with('/') || p.path.contains(char::is_whitespace))
    {
        return Err(invalid("spec.probe.path", "a path that begins with /"));
    }
    if !s.secrets.is_empty() {
        return Err(invalid("spec.secrets", "this version can't hand secrets to an instance yet; pass none"));
    }
    if s.budget.is_some() {
        return Err(invalid("spec.budget", "this version can't enforce budgets yet; use a ttl"));
    }
    if let Some(ttl) = &s.ttl
        && crate::clock::duration_millis(ttl) < 1_000
    {
        return Err(invalid("spec.ttl", "at least 1s"));
    }
    if let Some(g) = &s.drain_grace
        && !(0..=3_600_000).contains(&crate::clock::duration_millis(g))
    {
        return Err(invalid("spec.drain_grace", "0s to 1h"));
    }
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

/// A policy.
///
/// # Errors
/// `INVALID_ARGUMENT` with the policy's own words.
pub fn access(field: &str, p: &v1::AccessPolicy) -> Result<(), Status> {
    door::policy(p).validate().map_err(|e| invalid_policy(field, &e))
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
    if !r.cpu.is_empty() && cpu_millis(&r.cpu).is_none_or(|m| m == 0) {
        return Err(invalid("spec.resources.cpu", "cores, such as 0.5 or 500m"));
    }
    if !r.memory.is_empty() && memory_bytes(&r.memory).is_none_or(|b| b < 6 * 1024 * 1024) {
        return Err(invalid("spec.resources.memory", "bytes with Ki, Mi, Gi, such as 256Mi; at least 6Mi"));
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
    rust_decimal::prelude::ToPrimitive::to_u64(&(cores * rust_decimal::Decimal::from(1000)))
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
    }

    #[test]
    fn names() {
        assert_eq!(name("projects/p/instances/i@7").unwrap(), ("p", "i", Some("7")));
        for bad in ["", "projects//instances/i", "projects/p", "projects/p/instances/a/b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
        for bad in ["", "A", "1a", "a_b", "a-", "a.b", &"a".repeat(41)] {
            assert!(id("x", bad).is_err(), "{bad}");
        }
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
        assert!(bad(|s| s.budget = Some(v1::Budget::default())).starts_with("spec.budget"));
    }
}
