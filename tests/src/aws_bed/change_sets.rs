//! Change sets, and what differs from a template because somebody changed it by hand.
use super::{
    cloudformation::{field, known, shape, state},
    wire::{Form, Refused, element, escaped},
    world::{ChangeSet, Shared, Stack, now},
};
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};
use time::format_description::well_known::Rfc3339;

/// Answers a call about them; `None`: it is about something else.
pub fn call(shared: &Arc<Shared>, action: &str, form: &Form) -> Option<Result<String, Refused>> {
    let (stack, name) = (field(form, "StackName"), field(form, "ChangeSetName"));
    // by name, or by ARN
    let name =
        name.split(":changeSet/").last().and_then(|n| n.split('/').next()).unwrap_or_default().to_owned();
    Some(match action {
        "CreateChangeSet" => create(shared, &stack, &name, form),
        "DescribeChangeSet" => shared.with(|w| {
            let s = known(w, &stack)?;
            let set = s.sets.get(&name).ok_or_else(|| unknown(&name))?;
            if set.looked {
                return Ok(described(s, set));
            }
            let id = s.id.clone();
            if let Some(set) = w.stack_mut(&id).and_then(|s| s.sets.get_mut(&name)) {
                set.looked = true;
            }
            Ok(element("Status", "CREATE_IN_PROGRESS"))
        }),
        "DeleteChangeSet" => shared.with(|w| {
            let id = known(w, &stack)?.id.clone();
            w.stack_mut(&id).map(|s| s.sets.remove(&name));
            Ok(String::new())
        }),
        "DetectStackDrift" => {
            shared.see(|w| known(w, &stack).map(|s| element("StackDriftDetectionId", &s.id)))
        }
        "DescribeStackDriftDetectionStatus" => shared.see(|w| {
            let s = known(w, &field(form, "StackDriftDetectionId"))?;
            let drift = if s.tampered.is_empty() { "IN_SYNC" } else { "DRIFTED" };
            Ok([
                ("StackId", s.id.as_str()),
                ("StackDriftDetectionId", &s.id),
                ("StackDriftStatus", drift),
                ("DetectionStatus", "DETECTION_COMPLETE"),
                ("Timestamp", &moment()),
            ]
            .map(|(k, v)| element(k, v))
            .concat())
        }),
        "DescribeStackResourceDrifts" => shared.see(|w| known(w, &stack).map(drifts)),
        _ => return None,
    })
}

fn unknown(name: &str) -> Refused {
    Refused::new("ChangeSetNotFound", format!("ChangeSet [{name}] does not exist"))
}

fn moment() -> String {
    now().format(&Rfc3339).unwrap_or_default()
}

fn create(shared: &Arc<Shared>, stack: &str, name: &str, form: &Form) -> Result<String, Refused> {
    let wanted = shape(form)?;
    let arn = shared.arn("cloudformation", &format!("changeSet/{name}/{}", uuid::Uuid::new_v4()));
    shared.with(|w| {
        let s = known(w, stack)?;
        if s.sets.contains_key(name) {
            return Err(Refused::new("AlreadyExistsException", format!("ChangeSet {name} already exists")));
        }
        if !s.status.ends_with("_COMPLETE") || s.status == "ROLLBACK_COMPLETE" {
            return Err(state(s, "updated"));
        }
        let id = s.id.clone();
        if let Some(s) = w.stack_mut(&id) {
            s.sets.insert(name.to_owned(), ChangeSet { shape: wanted, looked: false });
        }
        Ok(element("Id", &arn) + &element("StackId", &id))
    })
}

fn described(s: &Stack, set: &ChangeSet) -> String {
    let none = serde_json::Map::new();
    let resources = |t: &Value| t["Resources"].as_object().cloned().unwrap_or_else(|| none.clone());
    let (old, new) = (resources(&s.shape.template), resources(&set.shape.template));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut all = String::new();
    for name in names {
        let (was, is) = (old.get(name), new.get(name));
        let action = match (was, is) {
            (Some(was), Some(is)) if was != is => "Modify",
            (Some(_), None) => "Remove",
            (None, _) => "Add",
            _ => continue,
        };
        let kind = is.or(was).and_then(|r| r["Type"].as_str()).unwrap_or_default();
        // a revision of a task definition is never changed
        let replaced = action == "Modify" && kind == "AWS::ECS::TaskDefinition";
        let _ = write!(
            all,
            "<member><Type>Resource</Type><ResourceChange>{}{}{}{}<Scope><member>Properties</member></Scope></ResourceChange></member>",
            element("Action", action),
            element("LogicalResourceId", name),
            element("ResourceType", kind),
            element("Replacement", if replaced { "True" } else { "False" }),
        );
    }
    if all.is_empty() {
        let why = "The submitted information didn't contain changes. Submit different information to create a change set.";
        return element("Status", "FAILED") + &element("StatusReason", why);
    }
    format!("{}<Changes>{all}</Changes>", element("Status", "CREATE_COMPLETE"))
}

fn drifts(s: &Stack) -> String {
    let mut out = String::from("<StackResourceDrifts>");
    for (name, (path, value)) in &s.tampered {
        let kind = s.shape.resources.get(name).map(|r| r.kind.clone()).unwrap_or_default();
        let was = s.shape.resources.get(name).and_then(|r| r.properties.pointer(path)).cloned();
        let was = was.map_or_else(String::new, |v| v.to_string());
        let _ = write!(
            out,
            "<member>{}{}{}<StackResourceDriftStatus>MODIFIED</StackResourceDriftStatus>{}<PropertyDifferences><member>{}{}\
             <ActualValue>{}</ActualValue><DifferenceType>NOT_EQUAL</DifferenceType></member></PropertyDifferences></member>",
            element("StackId", &s.id),
            element("LogicalResourceId", name),
            element("ResourceType", &kind),
            element("Timestamp", &moment()),
            element("PropertyPath", path),
            element("ExpectedValue", &was),
            escaped(value),
        );
    }
    out + "</StackResourceDrifts>"
}
