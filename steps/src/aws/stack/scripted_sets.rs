//! Change sets and drift of the scripted CloudFormation.
use super::scripted::{Form, Made, Refused, escaped};
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _};

/// A change set that was made.
#[derive(Clone, Debug, Default)]
pub struct Set {
    pub template: String,
    /// Looks until it is made.
    pub ahead: usize,
}

fn resources(template: &str) -> serde_json::Map<String, Value> {
    let t: Value = serde_json::from_str(template).unwrap_or_default();
    t["Resources"].as_object().cloned().unwrap_or_default()
}

/// Logical id, type, action, and whether it is replaced.
fn changes(s: &Made, set: &Set) -> Vec<(String, String, &'static str, bool)> {
    let (old, new) = (resources(&s.template), resources(&set.template));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let all = names.into_iter().filter(|n| old.get(*n) != new.get(*n));
    let one = |name: &String| {
        let kind =
            new.get(name).or_else(|| old.get(name)).and_then(|r| r["Type"].as_str()).unwrap_or_default();
        let how = match (old.contains_key(name), new.contains_key(name)) {
            (true, true) => "Modify",
            (true, false) => "Remove",
            _ => "Add",
        };
        (name.clone(), kind.to_owned(), how, how == "Modify" && kind == "AWS::ECS::TaskDefinition")
    };
    all.map(one).collect()
}

/// What is asked about change sets and drift; `None`: something else is.
pub fn call(s: &mut Made, action: &str, form: &Form) -> Option<Result<String, Refused>> {
    let text = |key: &str| form.get(key).cloned().unwrap_or_default();
    let name = text("ChangeSetName").trim_start_matches("arn:set/").to_owned();
    let unknown = || ("ChangeSetNotFound", format!("ChangeSet [{name}] does not exist"));
    Some(match action {
        "CreateChangeSet" if s.sets.contains_key(&name) => {
            Err(("AlreadyExistsException", format!("ChangeSet {name} already exists")))
        }
        "CreateChangeSet" if !s.status.ends_with("_COMPLETE") => {
            let words = format!("Stack:{} is in {} state and can not be updated.", s.id, s.status);
            Err(("ValidationError", words))
        }
        "CreateChangeSet" => {
            s.sets.insert(name.clone(), Set { template: text("TemplateBody"), ahead: 2 });
            Ok(format!("<Id>arn:set/{name}</Id>"))
        }
        "DescribeChangeSet" => match s.sets.get_mut(&name) {
            None => Err(unknown()),
            Some(set) if set.ahead > 0 => {
                set.ahead -= 1;
                Ok("<Status>CREATE_IN_PROGRESS</Status>".into())
            }
            Some(set) => {
                let set = set.clone();
                Ok(described(&changes(s, &set)))
            }
        },
        "DeleteChangeSet" => {
            s.sets.remove(&name);
            Ok(String::new())
        }
        "DetectStackDrift" => Ok("<StackDriftDetectionId>d</StackDriftDetectionId>".into()),
        "DescribeStackResourceDrifts" => {
            let one = |name: &String| {
                format!(
                    "<member><StackId>{}</StackId><LogicalResourceId>{name}</LogicalResourceId><ResourceType>AWS::X</ResourceType>\
                     <StackResourceDriftStatus>MODIFIED</StackResourceDriftStatus><Timestamp>2026-11-27T00:00:00Z</Timestamp>\
                     <PropertyDifferences><member><PropertyPath>/Port</PropertyPath><ExpectedValue>8080</ExpectedValue>\
                     <ActualValue>1</ActualValue><DifferenceType>NOT_EQUAL</DifferenceType></member></PropertyDifferences></member>",
                    s.id
                )
            };
            let all: String = s.drifted.iter().map(one).collect();
            Ok(format!("<StackResourceDrifts>{all}</StackResourceDrifts>"))
        }
        _ => return None,
    })
}

/// Of the newest stack: a detection's id does not name its stack.
pub fn detection(s: &Made) -> String {
    let drift = if s.drifted.is_empty() { "IN_SYNC" } else { "DRIFTED" };
    let (drift, status, why) = match s.unseen {
        None => (drift, "DETECTION_COMPLETE", ""),
        Some("") => ("UNKNOWN", "DETECTION_COMPLETE", ""),
        Some(why) => (drift, "DETECTION_FAILED", why),
    };
    format!(
        "<StackId>{}</StackId><StackDriftDetectionId>d</StackDriftDetectionId><StackDriftStatus>{drift}</StackDriftStatus>\
         <DetectionStatus>{status}</DetectionStatus><DetectionStatusReason>{why}</DetectionStatusReason>\
         <Timestamp>2026-11-27T00:00:00Z</Timestamp>",
        s.id
    )
}

fn described(all: &[(String, String, &'static str, bool)]) -> String {
    if all.is_empty() {
        let why = "The submitted information didn't contain changes. Submit different information to create a change set.";
        return format!("<Status>FAILED</Status><StatusReason>{}</StatusReason>", escaped(why));
    }
    let mut out = String::from("<Status>CREATE_COMPLETE</Status><Changes>");
    for (name, kind, how, replaced) in all {
        let replaced = if *replaced { "True" } else { "False" };
        let _ = write!(
            out,
            "<member><Type>Resource</Type><ResourceChange><Action>{how}</Action><LogicalResourceId>{name}</LogicalResourceId>\
             <ResourceType>{kind}</ResourceType><Replacement>{replaced}</Replacement><Scope><member>Properties</member></Scope>\
             </ResourceChange></member>"
        );
    }
    out + "</Changes>"
}
