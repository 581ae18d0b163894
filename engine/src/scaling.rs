//! How many replicas: a fixed number, or a range in which the target chooses. What a target chose is a fact of the instance, since it
//! is what costs.
use serde_json::Value;
use syp_proto::v1::{InstanceSpec, Scaling};

/// How busy a replica's processor should be, in percent of what it was given, where nobody has said.
pub const TARGET_CPU: i32 = 70;

/// Fact that says how many there are now.
pub const REPLICAS: &str = "replicas";

/// At least and at most.
pub fn range(spec: &InstanceSpec) -> (u32, u32) {
    let s = spec.scaling.unwrap_or_default();
    let min = u32::try_from(s.min).unwrap_or(1).max(1);
    (min, u32::try_from(s.max).unwrap_or(0).max(min))
}

/// Is the number the target's to choose?
pub fn is_elastic(spec: &InstanceSpec) -> bool {
    let (min, max) = range(spec);
    min < max
}

/// How busy, in percent.
pub fn target_cpu(spec: &InstanceSpec) -> i32 {
    spec.scaling.map(|s| s.target_cpu).filter(|c| *c > 0).unwrap_or(TARGET_CPU)
}

/// Do replicas follow how busy their processor is? Where nothing is said they do.
pub fn by_cpu(spec: &InstanceSpec) -> bool {
    spec.scaling.is_none_or(|s| s.target_cpu > 0 || s.target_rps <= 0.0)
}

/// How many admitted requests a second a replica should get, in thousandths; `None`: they do not follow it.
pub fn target_millirps(spec: &InstanceSpec) -> Option<u64> {
    let rps = spec.scaling.map(|s| s.target_rps).filter(|r| *r > 0.0)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Some((rps * 1e3).round() as u64)
}

/// How many there are, as far as is known: what costs, and what another revision begins with.
pub fn now(spec: &InstanceSpec, facts: &Value) -> u32 {
    let (min, max) = range(spec);
    let said = facts[REPLICAS].as_u64().and_then(|n| u32::try_from(n).ok());
    said.unwrap_or(min).clamp(min, max)
}

/// The same spec with just so many: what is priced.
pub fn counted(spec: &InstanceSpec, facts: &Value) -> InstanceSpec {
    let n = i32::try_from(now(spec, facts)).unwrap_or(1);
    let scaling = Scaling { min: n, max: n, ..spec.scaling.unwrap_or_default() };
    InstanceSpec { scaling: Some(scaling), ..spec.clone() }
}

/// `3`, or `1-5`.
pub fn words(spec: &InstanceSpec) -> String {
    match range(spec) {
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min}-{max}"),
    }
}

/// What the target aims at where it chooses and somebody has said so: `60 % CPU, 50 requests/s each`.
pub fn aim(spec: &InstanceSpec) -> Option<String> {
    let s = spec.scaling.filter(|_| is_elastic(spec))?;
    let cpu = (s.target_cpu > 0).then(|| format!("{} % CPU", s.target_cpu));
    let rps = (s.target_rps > 0.0).then(|| format!("{} requests/s each", s.target_rps));
    let said: Vec<_> = [cpu, rps].into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(min: i32, max: i32) -> InstanceSpec {
        InstanceSpec { scaling: Some(Scaling { min, max, ..Default::default() }), ..Default::default() }
    }

    #[test]
    fn what_a_target_chose_counts_within_what_was_asked_for() {
        let s = spec(2, 5);
        assert_eq!((range(&s), words(&s).as_str()), ((2, 5), "2-5"));
        let with = |n| now(&s, &json!({ "replicas": n }));
        assert_eq!((with(4), with(9), with(1), now(&s, &json!({}))), (4, 5, 2, 2));
        assert_eq!(range(&counted(&s, &json!({ "replicas": 4 }))), (4, 4));
        // a fixed number is what it is, whatever was chosen before
        let fixed = spec(3, 3);
        assert_eq!((now(&fixed, &json!({ "replicas": 5 })), words(&fixed).as_str()), (3, "3"));
        assert!(is_elastic(&s) && !is_elastic(&fixed) && !is_elastic(&InstanceSpec::default()));
        assert_eq!(range(&InstanceSpec::default()), (1, 1));
        assert_eq!(range(&spec(2, 0)), (2, 2), "written before there was a most");
    }

    #[test]
    fn what_is_aimed_at_is_the_processor_unless_only_requests_are_said() {
        let of = |target_cpu, target_rps| {
            let scaling = Scaling { min: 1, max: 5, target_cpu, target_rps, ..Default::default() };
            let s = InstanceSpec { scaling: Some(scaling), ..Default::default() };
            (by_cpu(&s), target_millirps(&s), aim(&s))
        };
        assert_eq!(of(0, 0.0), (true, None, None));
        assert_eq!(of(60, 0.0), (true, None, Some("60 % CPU".into())));
        assert_eq!(of(0, 12.5), (false, Some(12_500), Some("12.5 requests/s each".into())));
        assert_eq!(of(60, 50.0), (true, Some(50_000), Some("60 % CPU, 50 requests/s each".into())));
        assert!(by_cpu(&InstanceSpec::default()));
    }
}
