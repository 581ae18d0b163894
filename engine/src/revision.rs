//! What a revision is: the part of the spec that a roll-back brings back. Access, operators, time to live, budget and labels live
//! beside revisions, so that going back never lets anybody in again.
use prost::Message;
use serde_json::Value;
use sha2::{Digest, Sha256};
use syp_proto::{
    journal::{Instance, Revision},
    v1::InstanceSpec,
};

/// Revisions kept besides the one that serves.
pub const HISTORY: usize = 20;

/// Number of the revision that serves.
pub fn number(i: &Instance) -> u32 {
    i.revision_no.max(1)
}

/// Number of the next one.
pub fn next_number(i: &Instance) -> u32 {
    u32::try_from(i.generation).unwrap_or(u32::MAX).max(number(i)).saturating_add(1)
}

/// Name of a revision: `shop-3`.
pub fn name(instance: &str, number: u32) -> String {
    format!("{instance}-{number}")
}

/// The fields that make a revision, and no others.
pub fn part(s: &InstanceSpec) -> InstanceSpec {
    merged(&InstanceSpec::default(), s)
}

/// `beside` with the revision of `part`.
pub fn merged(beside: &InstanceSpec, part: &InstanceSpec) -> InstanceSpec {
    InstanceSpec {
        image: part.image.clone(),
        port: part.port,
        resources: part.resources.clone(),
        scaling: part.scaling,
        probe: part.probe.clone(),
        env: part.env.clone(),
        secrets: part.secrets.clone(),
        entrypoint: part.entrypoint.clone(),
        args: part.args.clone(),
        protocol: part.protocol,
        egress: part.egress,
        isolation: part.isolation,
        read_only_root: part.read_only_root,
        ..beside.clone()
    }
}

/// Two revisions with the same template run the same replicas: only how many there are may differ.
pub fn template(spec: &InstanceSpec, facts: &Value) -> String {
    let mut of_one = part(spec);
    of_one.scaling = None;
    // whether it stays at its version says nothing of the value
    of_one.secrets.iter_mut().for_each(|r| r.pinned = false);
    let mut hash = Sha256::new();
    hash.update(of_one.encode_to_vec());
    hash.update([0]);
    hash.update(facts["image"].to_string());
    hash.update(facts["volumes"].to_string());
    hex::encode(&hash.finalize()[..6])
}

/// The revision that serves, as it goes into the history.
pub fn serving(i: &Instance) -> Revision {
    let number = number(i);
    let began = i.history.iter().find(|r| r.no == number).cloned().unwrap_or_default();
    Revision {
        no: number,
        spec: i.spec.as_ref().map(part),
        facts: i.facts.clone(),
        hourly_rate: i.hourly_rate.clone(),
        create_ms: if number == 1 { i.create_ms } else { began.create_ms },
        creator: if number == 1 { i.creator.clone() } else { began.creator },
        note: began.note,
        failure: None,
        serving_ms: if number == 1 { i.serving_ms } else { began.serving_ms },
    }
}

/// All that are known, oldest first; the one that serves and the one that is being made among them.
pub fn all(i: &Instance) -> Vec<Revision> {
    let mut out: Vec<_> = i.history.iter().filter(|r| r.no != number(i)).cloned().collect();
    out.push(serving(i));
    out.extend(i.wanted.clone());
    out.sort_by_key(|r| r.no);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use syp_proto::v1::{AccessPolicy, Scaling};

    #[test]
    fn a_revision_has_neither_access_nor_ttl_and_merging_keeps_them() {
        let spec = InstanceSpec {
            image: "a".into(),
            protect: true,
            access: Some(AccessPolicy::default()),
            ttl: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
            ..Default::default()
        };
        let part = part(&spec);
        assert_eq!((part.access.is_some(), part.ttl.is_some(), part.protect), (false, false, false));
        let next = InstanceSpec { image: "b".into(), ..Default::default() };
        let both = merged(&spec, &next);
        assert_eq!((both.image.as_str(), both.access.is_some(), both.protect), ("b", true, true));
    }

    #[test]
    fn a_template_changes_with_the_version_of_a_secret_but_not_with_pinning_it() {
        let spec = |version: &str, pinned| {
            let r = syp_proto::v1::SecretRef {
                secret: "pw".into(),
                env: "DB".into(),
                version: version.into(),
                pinned,
                ..Default::default()
            };
            template(&InstanceSpec { secrets: vec![r], ..Default::default() }, &json!({}))
        };
        assert_eq!(spec("1", false), spec("1", true));
        assert_ne!(spec("1", false), spec("2", false));
    }

    #[test]
    fn a_template_changes_with_the_image_behind_a_tag_but_not_with_the_number_of_replicas() {
        let spec = |n| InstanceSpec {
            image: "a".into(),
            scaling: Some(Scaling { min: n, ..Default::default() }),
            ..Default::default()
        };
        let one = template(&spec(1), &json!({ "image": "sha256:1", "volumes": [] }));
        assert_eq!(one, template(&spec(5), &json!({ "image": "sha256:1", "volumes": [] })));
        assert_ne!(one, template(&spec(1), &json!({ "image": "sha256:2", "volumes": [] })));
    }
}
