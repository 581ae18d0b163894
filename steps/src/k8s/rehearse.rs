//! What applying an object would change, as the API server says it: a dry run goes through its validation and its admission, and
//! nothing is kept.
use super::{
    Shared,
    client::{Kind, MANAGER, code, failed, optional},
    object,
};
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use similar::TextDiff;
use syp_engine::{
    failure::{Class, failure},
    name_conflict,
    step::{Rehearsed, StepCx},
};
use syp_proto::{journal::Failure, v1::plan::Change};

/// What the API server keeps for itself.
const ITS_OWN: [&str; 6] =
    ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"];
/// Lines around a change.
const AROUND: usize = 2;

/// Rehearses one object.
///
/// # Errors
/// `NAME_CONFLICT`, what the API server refuses.
pub(super) async fn rehearse(
    s: &Shared,
    kind: Kind,
    cx: &StepCx,
    o: &Value,
) -> Result<Option<Rehearsed>, Failure> {
    after(s, kind, cx, o, None).await
}

/// The same of one that comes after another, by its name: a new one is shown by what it has other than that.
///
/// # Errors
/// `NAME_CONFLICT`, what the API server refuses.
pub(super) async fn after(
    s: &Shared,
    kind: Kind,
    cx: &StepCx,
    o: &Value,
    former: Option<String>,
) -> Result<Option<Rehearsed>, Failure> {
    let api = kind.api(&s.client().await?, super::names::namespace(cx));
    let name = o["metadata"]["name"].as_str().unwrap_or_default();
    let held = optional(api.get(name).await)?;
    if held.as_ref().is_some_and(|h| !object::ours(&cx.owner, h)) {
        return Err(name_conflict(name));
    }
    let how = PatchParams { dry_run: true, ..PatchParams::apply(MANAGER).force() };
    let would = match api.patch(name, &how, &Patch::Apply(o)).await {
        Ok(would) => lines(&plain(&would)?),
        // what comes with a namespace that is not there yet can't be judged before
        Err(e) if code(&e) == Some(404) && held.is_none() && kind.namespaced => lines(o),
        Err(e) => return Err(failed(&e)),
    };
    let is = match (&held, former) {
        (None, Some(former)) => optional(api.get(&former).await)?,
        _ => held.clone(),
    };
    let is = is.as_ref().map(plain).transpose()?.as_ref().map(lines);
    Ok(Some(compared(held.is_some(), &is.unwrap_or_default(), &would)))
}

fn plain(o: &DynamicObject) -> Result<Value, Failure> {
    serde_json::to_value(o)
        .map_err(|e| failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it"))
}

/// As a person reads it. Values of variables are left out: people put passwords there all the same. Pure.
fn lines(o: &Value) -> String {
    let mut o = o.clone();
    if let Some(meta) = o["metadata"].as_object_mut() {
        meta.retain(|k, _| !ITS_OWN.contains(&k.as_str()));
    }
    if let Some(all) = o.as_object_mut() {
        all.remove("status");
    }
    for of in ["initContainers", "containers"] {
        let all = o.pointer_mut(&format!("/spec/template/spec/{of}")).and_then(Value::as_array_mut);
        for v in all.into_iter().flatten().filter_map(|c| c["env"].as_array_mut()).flatten() {
            if v.get("value").is_some() {
                v["value"] = json!("(not shown)");
            }
        }
    }
    serde_yaml_ng::to_string(&o).unwrap_or_default()
}

/// Pure.
fn compared(there: bool, is: &str, would: &str) -> Rehearsed {
    let diff = TextDiff::from_lines(is, would);
    let change = match there {
        false => Change::Create,
        true if is == would => Change::Keep,
        true => Change::Update,
    };
    Rehearsed { change, diff: diff.unified_diff().context_radius(AROUND).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(image: &str, value: &str) -> String {
        lines(&json!({
            "kind": "Deployment",
            "metadata": { "name": "a", "uid": "u", "managedFields": [{ "manager": "syp" }] },
            "spec": { "template": { "spec": { "containers": [
                { "name": "app", "image": image, "env": [{ "name": "PASSWORD", "value": value }] },
            ] } } },
            "status": { "replicas": 1 },
        }))
    }

    #[test]
    fn what_is_new_is_shown_whole_and_what_is_there_by_what_changes() {
        let new = compared(false, "", &deployment("a:1", "hunter2"));
        assert_eq!(new.change, Change::Create);
        assert!(new.diff.contains("+kind: Deployment") && new.diff.contains("image: a:1"), "{}", new.diff);
        for not in ["hunter2", "managedFields", "uid", "status"] {
            assert!(!new.diff.contains(not), "{not}: {}", new.diff);
        }
        let is = deployment("a:1", "x");
        let changed = compared(true, &is, &deployment("a:2", "x"));
        assert_eq!(changed.change, Change::Update);
        assert!(
            changed.diff.contains("image: a:2") && !changed.diff.contains("kind: Deployment"),
            "{}",
            changed.diff
        );
        assert_eq!(compared(true, &is, &is), Rehearsed { change: Change::Keep, diff: String::new() });
    }
}
