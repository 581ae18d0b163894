//! What the steps that make one object have in common: looked for, applied, removed.
use super::{
    client::{Kind, apply, failed, optional},
    fields,
    names::namespace,
};
use crate::labels::{is_ours, labels};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, DynamicObject, Preconditions, PropagationPolicy},
};
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};
use syp_engine::{
    failure::{Class, failure},
    name_conflict,
    step::{Done, Observed, Owner, StepCx},
};
use syp_proto::journal::Failure;
use tokio::time::Instant;

/// Output that says which fields of an object are ours.
const FIELDS: &str = "fields";
/// How long a removal is waited for before the engine shows what holds it.
const GONE: Duration = Duration::from_secs(20);

/// An object of ours: kind, name and labels; the rest is the step's.
pub fn object(kind: Kind, owner: &Owner, node: &str, key: &str, namespace: &str, rest: Value) -> Value {
    let mut o = json!({
        "apiVersion": kind.api_version(),
        "kind": kind.kind,
        "metadata": { "name": key, "labels": labels(owner, node) },
    });
    if kind.namespaced {
        o["metadata"]["namespace"] = namespace.into();
    }
    merge(&mut o, rest);
    o
}

/// Objects are merged, all else is replaced.
pub fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in b {
                merge(a.entry(k).or_insert(Value::Null), v);
            }
        }
        (a, b) => *a = b,
    }
}

/// Made by this engine for this instance?
pub fn ours(owner: &Owner, o: &DynamicObject) -> bool {
    let labels: HashMap<String, String> = o.labels().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    is_ours(owner, Some(&labels))
}

/// Looks for it, and whether it is as it was made.
///
/// # Errors
/// The API server's.
pub async fn observe(c: &Client, kind: Kind, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
    let held = optional(kind.api(c, namespace(cx)).get(key).await)?;
    Ok(held.map_or(Observed::Absent, |o| judged(cx, &o)))
}

/// Pure.
pub fn judged(cx: &StepCx, o: &DynamicObject) -> Observed {
    if o.metadata.deletion_timestamp.is_some() {
        return Observed::Busy;
    }
    let handle = o.uid().unwrap_or_default();
    let ours = ours(&cx.owner, o);
    // rows of an engine before this one say nothing of it
    let made = cx.output(&cx.node, FIELDS);
    if ours && made.is_some_and(|made| made != fields::digest(&fields::ours(&o.metadata))) {
        return Observed::Changed { handle, by: fields::others(&o.metadata) };
    }
    Observed::Present { handle, ours, healthy: true }
}

/// Makes it so, unless the name is somebody else's; its uid.
///
/// # Errors
/// `NAME_CONFLICT`, or the API server's.
pub async fn ensure(
    c: &Client,
    kind: Kind,
    owner: &Owner,
    namespace: &str,
    object: &Value,
) -> Result<DynamicObject, Failure> {
    let key = object["metadata"]["name"].as_str().unwrap_or_default();
    match optional(kind.api(c, namespace).get(key).await)? {
        Some(held) if !ours(owner, &held) => return Err(name_conflict(key)),
        Some(held) if held.metadata.deletion_timestamp.is_some() => return Err(going(kind.kind, &held)),
        _ => {}
    }
    apply(c, kind, namespace, object).await
}

/// Removes it with all that it made, and waits until it is gone; false if it was not there. Somebody else's is left alone.
///
/// # Errors
/// `DELETING` with what holds it, or the API server's.
pub async fn remove(
    c: &Client,
    kind: Kind,
    owner: &Owner,
    namespace: &str,
    key: &str,
) -> Result<bool, Failure> {
    let api = kind.api(c, namespace);
    let Some(held) = optional(api.get(key).await)? else { return Ok(false) };
    if !ours(owner, &held) {
        return Ok(false);
    }
    if held.metadata.deletion_timestamp.is_none() {
        let how = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            // what has our name by now may be another one
            preconditions: held.uid().map(|uid| Preconditions { uid: Some(uid), resource_version: None }),
            ..Default::default()
        };
        match api.delete(key, &how).await {
            Ok(_) => {}
            Err(e) if super::client::code(&e) == Some(404) => return Ok(true),
            Err(e) => return Err(failed(&e)),
        }
    }
    let end = Instant::now() + GONE;
    let mut wait = Duration::from_millis(20);
    loop {
        match optional(api.get(key).await)? {
            None => return Ok(true),
            Some(o) if o.uid() != held.uid() => return Ok(true),
            Some(o) if Instant::now() >= end => return Err(going(kind.kind, &o)),
            Some(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 3 / 2).min(Duration::from_millis(500));
    }
}

/// It is being removed, and this holds it.
pub fn going(kind: &str, o: &DynamicObject) -> Failure {
    let finalizers = o.finalizers().join(", ");
    let conditions = o.data["status"]["conditions"].as_array().into_iter().flatten();
    let said: Vec<&str> = conditions
        .filter(|c| c["status"] == "True" && c["type"].as_str().is_some_and(|t| t.starts_with("Namespace")))
        .filter_map(|c| c["message"].as_str())
        .collect();
    let mut words = format!("{kind} {} is being removed", o.name_any());
    if !finalizers.is_empty() {
        words.push_str(&format!("; finalizers: {finalizers}"));
    }
    if !said.is_empty() {
        words.push_str(&format!("; {}", said.join("; ")));
    }
    failure(
        Class::Conflict,
        "DELETING",
        words,
        "the engine waits and looks again; 'kubectl describe' shows who owns a finalizer that stays",
    )
}

/// What a step hands on about an object that it made: which fields are ours from now on.
pub fn done(o: &DynamicObject) -> Done {
    let fields = fields::digest(&fields::ours(&o.metadata));
    Done { handle: o.uid().unwrap_or_default(), outputs: json!({ FIELDS: fields }) }
}

/// The same, and something more.
pub fn done_with(o: &DynamicObject, more: Value) -> Done {
    let mut done = done(o);
    merge(&mut done.outputs, more);
    done
}
