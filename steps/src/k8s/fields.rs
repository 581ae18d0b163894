//! Who set which field of an object, as the API server keeps it (`managedFields`). A field of ours that somebody else sets, or
//! removes, is ours no more: so a change by hand is seen in what every look brings, without knowing what was asked for, and an engine
//! that would ask for something else today does not take that for one.
use super::client::MANAGER;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::api::ObjectMeta;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Fields that are named; more are counted.
const NAMED: usize = 4;

/// Fields that the steps set, but for those that have a manager of their own.
pub(super) fn ours(o: &ObjectMeta) -> BTreeSet<String> {
    of(o, |m| m == MANAGER)
}

/// Fields of one manager.
pub(super) fn of(o: &ObjectMeta, manager: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    for e in entries(o).filter(|e| e.manager.as_deref().is_some_and(&manager)) {
        if let Some(fields) = &e.fields_v1 {
            walk(&fields.0, "", &mut out);
        }
    }
    out
}

/// Short words for a set of fields.
pub(super) fn digest(fields: &BTreeSet<String>) -> String {
    let mut hash = Sha256::new();
    for f in fields {
        hash.update(f);
        hash.update([0]);
    }
    hex::encode(&hash.finalize()[..8])
}

/// Who else set something, and what: the best that can be said about who changed something of ours.
pub(super) fn others(o: &ObjectMeta) -> String {
    let mut all: Vec<_> = entries(o).filter(|e| e.manager.as_deref().is_some_and(|m| !mine(m))).collect();
    // whoever came last
    all.sort_by(|a, b| b.time.as_ref().map(|t| t.0).cmp(&a.time.as_ref().map(|t| t.0)));
    let Some(last) = all.first() else { return "fields of it were removed".into() };
    let mut fields = BTreeSet::new();
    if let Some(f) = &last.fields_v1 {
        walk(&f.0, "", &mut fields);
    }
    let fields: Vec<_> = fields.into_iter().filter(|f| !f.ends_with('.')).collect();
    let mut named = fields.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if fields.len() > NAMED {
        named.push_str(&format!(" and {} more", fields.len() - NAMED));
    }
    format!("{} set {named}", last.manager.as_deref().unwrap_or_default())
}

/// What of an object makes it worth a look: who else wrote to it and when, and how many fields are ours.
pub(super) fn stamp(o: &ObjectMeta) -> (String, usize) {
    let foreign = entries(o).filter(|e| e.manager.as_deref().is_some_and(|m| !mine(m)));
    let mut said: Vec<_> =
        foreign.map(|e| format!("{:?} {:?}", e.manager, e.time.as_ref().map(|t| t.0))).collect();
    said.sort();
    (said.join(";"), of(o, mine).len())
}

fn mine(manager: &str) -> bool {
    manager == MANAGER || manager.strip_prefix(MANAGER).is_some_and(|rest| rest.starts_with('-'))
}

/// But for a status, which is its controller's.
fn entries(o: &ObjectMeta) -> impl Iterator<Item = &ManagedFieldsEntry> {
    o.managed_fields.iter().flatten().filter(|e| e.subresource.as_deref() != Some("status"))
}

/// Each leaf as a path a person can read: `spec.template.spec.containers[app].image`.
fn walk(fields: &Value, at: &str, out: &mut BTreeSet<String>) {
    let Some(all) = fields.as_object() else { return };
    for (name, below) in all {
        let path = match name.split_once(':') {
            Some(("f", field)) if at.is_empty() => field.to_owned(),
            Some(("f", field)) => format!("{at}.{field}"),
            Some((_, item)) => format!("{at}[{}]", by(item)),
            None => format!("{at}."),
        };
        match below.as_object().is_some_and(|b| !b.is_empty()) {
            true => walk(below, &path, out),
            false => {
                out.insert(path);
            }
        }
    }
}

/// `{"name":"app"}` as `app`, `{"containerPort":80,"protocol":"TCP"}` as `80 TCP`.
fn by(item: &str) -> String {
    let Ok(Value::Object(keys)) = serde_json::from_str(item) else { return item.to_owned() };
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    keys.values().map(text).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(entries: Value) -> ObjectMeta {
        serde_json::from_value(json!({ "name": "x", "managedFields": entries })).unwrap()
    }

    fn made() -> Value {
        json!({ "manager": "syp", "operation": "Apply", "time": "2026-01-01T00:00:00Z", "fieldsV1": {
            "f:spec": { "f:replicas": {}, "f:template": { "f:spec": { "f:containers": {
                "k:{\"name\":\"app\"}": { ".": {}, "f:image": {}, "f:name": {} },
            } } } },
        } })
    }

    #[test]
    fn what_somebody_else_set_is_ours_no_more() {
        let before = object(json!([made()]));
        let fields = ours(&before);
        assert!(fields.contains("spec.template.spec.containers[app].image"), "{fields:?}");
        let mut left = made();
        left["fieldsV1"]["f:spec"].as_object_mut().unwrap().remove("f:replicas");
        let edit = json!({ "manager": "kubectl-edit", "operation": "Update", "time": "2026-01-01T00:01:00Z",
            "fieldsV1": { "f:spec": { "f:replicas": {} } } });
        let after = object(json!([left.clone(), edit]));
        assert_ne!(digest(&ours(&after)), digest(&fields));
        assert_eq!(others(&after), "kubectl-edit set spec.replicas");
        assert_ne!(stamp(&after), stamp(&before));
        // whoever removes a field leaves no entry of their own
        let removed = object(json!([left]));
        assert_ne!((digest(&ours(&removed)), stamp(&removed)), (digest(&fields), stamp(&before)));
        assert_eq!(others(&removed), "fields of it were removed");
    }

    #[test]
    fn a_status_and_our_own_other_managers_are_no_change() {
        let status = json!({ "manager": "kube-controller-manager", "operation": "Update", "subresource": "status",
            "time": "2026-01-01T00:01:00Z", "fieldsV1": { "f:status": { "f:replicas": {} } } });
        // scaled by us: another operation of the same manager
        let mut rest = made();
        rest["fieldsV1"]["f:spec"].as_object_mut().unwrap().remove("f:replicas");
        let scaled = json!({ "manager": "syp", "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {} } } });
        let switch = json!({ "manager": "syp-switch", "operation": "Apply", "fieldsV1": { "f:spec": { "f:selector": {} } } });
        let before = object(json!([made()]));
        let after = object(json!([rest, scaled, switch, status]));
        assert_eq!(digest(&ours(&after)), digest(&ours(&before)));
        assert_eq!(stamp(&after).0, stamp(&before).0);
    }
}
