//! What CloudFormation is asked: in which status what may be asked for, and what is told of a stack.
use super::{
    change_sets, life,
    template::{self, tags},
    wire::{Form, Refused, element, escaped},
    world::{Event, Shape, Shared, Stack, World, now, random},
};
use serde_json::Value;
use std::{collections::BTreeSet, fmt::Write as _, sync::Arc};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Events that are told at once.
const PAGE: usize = 100;

/// Answers a call.
pub fn call(shared: &Arc<Shared>, action: &str, form: &Form) -> Result<String, Refused> {
    if let Some(said) = change_sets::call(shared, action, form) {
        return said;
    }
    let name = field(form, "StackName");
    match action {
        "CreateStack" => create(shared, form),
        "UpdateStack" => update(shared, &name, form),
        "DeleteStack" => delete(shared, &name, form),
        "CancelUpdateStack" => cancel(shared, &name, form),
        "ContinueUpdateRollback" => go_on(shared, &name, form),
        "RollbackStack" => roll_back(shared, &name, form),
        "DescribeStacks" => shared.see(|w| describe(w, &name)),
        "ListStacks" => Ok(shared.see(|w| list(w, &members(form, "StackStatusFilter")))),
        "DescribeStackEvents" => shared.see(|w| events(known(w, &name)?, &field(form, "NextToken"))),
        "DescribeStackResources" => shared.see(|w| Ok(resources(known(w, &name)?))),
        "GetTemplate" => shared.see(|w| Ok(element("TemplateBody", &known(w, &name)?.shape.text))),
        _ => Err(Refused::new("InvalidAction", format!("Could not find operation {action}"))),
    }
}

pub(super) fn field(form: &Form, key: &str) -> String {
    form.get(key).cloned().unwrap_or_default()
}

fn members(form: &Form, list: &str) -> BTreeSet<String> {
    (1..).map_while(|n| form.get(&format!("{list}.member.{n}")).cloned()).collect()
}

pub(super) fn known<'a>(w: &'a World, name: &str) -> Result<&'a Stack, Refused> {
    w.stack(name).ok_or_else(|| Refused::invalid(format!("Stack with id {name} does not exist")))
}

pub(super) fn state(s: &Stack, what: &str) -> Refused {
    Refused::invalid(format!("Stack:{} is in {} state and can not be {what}.", s.id, s.status))
}

/// What a request asks for.
pub(super) fn shape(form: &Form) -> Result<Shape, Refused> {
    let text = field(form, "TemplateBody");
    if text.len() > syp_steps::aws::template::LIMIT {
        return Err(Refused::invalid(
            "at 'templateBody' failed to satisfy constraint: Member must have length less than or equal to 51200",
        ));
    }
    let template: Value =
        serde_json::from_str(&text).map_err(|e| Refused::invalid(format!("Template format error: {e}")))?;
    if template["Resources"].as_object().is_none_or(serde_json::Map::is_empty) {
        return Err(Refused::invalid(
            "Template format error: At least one Resources member must be defined.",
        ));
    }
    let order = template::order(&template).map_err(Refused::invalid)?;
    let kinds = order.iter().map(|n| template["Resources"][n]["Type"].as_str().unwrap_or_default());
    if kinds.into_iter().any(|k| k.starts_with("AWS::IAM::")) && members(form, "Capabilities").is_empty() {
        return Err(Refused::new(
            "InsufficientCapabilitiesException",
            "Requires capabilities : [CAPABILITY_IAM]",
        ));
    }
    let tag = |n: usize| {
        let of = |what: &str| form.get(&format!("Tags.member.{n}.{what}")).cloned();
        Some((of("Key")?, of("Value")?))
    };
    Ok(Shape { text, template, tags: (1..).map_while(tag).collect(), ..Shape::default() })
}

/// Of all that are or were, those in one of these statuses.
fn list(w: &World, statuses: &BTreeSet<String>) -> String {
    let mut out = String::from("<StackSummaries>");
    for s in w.stacks.iter().filter(|s| statuses.is_empty() || statuses.contains(&s.status)) {
        let created = s.created.and_then(|t| t.format(&Rfc3339).ok()).unwrap_or_default();
        let parts = [
            ("StackId", &s.id),
            ("StackName", &s.name),
            ("StackStatus", &s.status),
            ("CreationTime", &created),
        ];
        let _ = write!(out, "<member>{}</member>", parts.map(|(name, text)| element(name, text)).concat());
    }
    out + "</StackSummaries>"
}

fn create(shared: &Arc<Shared>, form: &Form) -> Result<String, Refused> {
    let (name, shape) = (field(form, "StackName"), shape(form)?);
    let mine = || shared.arn("cloudformation", &format!("stack/{name}/{}", uuid::Uuid::new_v4()));
    // nobody asks for an ARN: it is the one under which an emulator has the stack
    let id = form.get("StackId").cloned().unwrap_or_else(mine);
    shared.with(|w| {
        if w.stack(&name).is_some() {
            return Err(Refused::new("AlreadyExistsException", format!("Stack [{name}] already exists")));
        }
        let role = field(form, "RoleARN");
        w.stacks.push(Stack { id: id.clone(), name, role, shape, created: Some(now()), ..Stack::default() });
        Ok(())
    })?;
    let keep = field(form, "OnFailure") == "DO_NOTHING" || field(form, "DisableRollback") == "true";
    life::create(shared, &id, &field(form, "ClientRequestToken"), keep);
    Ok(element("StackId", &id))
}

fn update(shared: &Arc<Shared>, name: &str, form: &Form) -> Result<String, Refused> {
    let wanted = shape(form)?;
    let id = shared.with(|w| {
        let s = known(w, name)?;
        let rests = ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"];
        if !rests.contains(&s.status.as_str()) {
            return Err(state(s, "updated"));
        }
        if s.shape.template == wanted.template && s.shape.tags == wanted.tags {
            return Err(Refused::invalid("No updates are to be performed."));
        }
        let id = s.id.clone();
        if let Some(s) = w.stack_mut(&id) {
            let resources = s.shape.resources.clone();
            let outputs = s.shape.outputs.clone();
            s.before = Some(std::mem::replace(&mut s.shape, Shape { resources, outputs, ..wanted }));
            (s.cancelled, s.updated) = (false, Some(now()));
        }
        Ok(id)
    })?;
    life::update(shared, &id, &field(form, "ClientRequestToken"));
    Ok(element("StackId", &id))
}

fn delete(shared: &Arc<Shared>, name: &str, form: &Form) -> Result<String, Refused> {
    let without = members(form, "RetainResources");
    let id = shared.with(|w| {
        // AWS has nothing against a stack that is not there
        let Some(s) = w.stack(name) else { return Ok(None) };
        if s.status.starts_with("UPDATE_") && s.status.ends_with("_IN_PROGRESS") {
            return Err(state(s, "deleted"));
        }
        if !without.is_empty() && s.status != "DELETE_FAILED" {
            let words =
                "Invalid operation on stack. RetainResources can be given for a stack in DELETE_FAILED only";
            return Err(Refused::invalid(words));
        }
        if s.status.starts_with("DELETE_") && s.status != "DELETE_FAILED" {
            return Ok(None);
        }
        let id = s.id.clone();
        if let Some(s) = w.stack_mut(&id) {
            s.retained.extend(without);
        }
        Ok(Some(id))
    })?;
    if let Some(id) = id {
        life::delete(shared, &id, &field(form, "ClientRequestToken"));
    }
    Ok(String::new())
}

fn cancel(shared: &Arc<Shared>, name: &str, form: &Form) -> Result<String, Refused> {
    shared.with(|w| {
        let s = known(w, name)?;
        if s.status != "UPDATE_IN_PROGRESS" {
            let words = "CancelUpdateStack cannot be called from current stack status";
            return Err(Refused::invalid(words));
        }
        let id = s.id.clone();
        if let Some(s) = w.stack_mut(&id) {
            s.cancelled = true;
            s.token = field(form, "ClientRequestToken");
        }
        Ok(String::new())
    })
}

fn go_on(shared: &Arc<Shared>, name: &str, form: &Form) -> Result<String, Refused> {
    let id = shared.see(|w| {
        let s = known(w, name)?;
        if s.status == "UPDATE_ROLLBACK_FAILED" { Ok(s.id.clone()) } else { Err(state(s, "continued")) }
    })?;
    life::roll_back(shared, &id, &field(form, "ClientRequestToken"), members(form, "ResourcesToSkip"));
    Ok(String::new())
}

fn roll_back(shared: &Arc<Shared>, name: &str, form: &Form) -> Result<String, Refused> {
    let (id, status) = shared.see(|w| {
        let s = known(w, name)?;
        if ["CREATE_FAILED", "UPDATE_FAILED"].contains(&s.status.as_str()) {
            Ok((s.id.clone(), s.status.clone()))
        } else {
            Err(state(s, "rolled back"))
        }
    })?;
    let token = field(form, "ClientRequestToken");
    if status == "CREATE_FAILED" {
        life::take_back(shared, &id, &token);
    } else {
        life::roll_back(shared, &id, &token, BTreeSet::new());
    }
    Ok(element("StackId", &id))
}

fn describe(w: &World, name: &str) -> Result<String, Refused> {
    let living = w.stacks.iter().filter(|s| s.status != "DELETE_COMPLETE");
    let all: String =
        if name.is_empty() { living.map(described).collect() } else { described(known(w, name)?) };
    Ok(format!("<Stacks>{all}</Stacks>"))
}

/// A stack as `DescribeStacks` has it.
pub(super) fn described(s: &Stack) -> String {
    let mut out = String::from("<member>");
    for (key, value) in [
        ("StackId", &s.id),
        ("StackName", &s.name),
        ("StackStatus", &s.status),
        ("StackStatusReason", &s.reason),
        ("RoleARN", &s.role),
        ("CreationTime", &time(s.created)),
        ("LastUpdatedTime", &time(s.updated)),
        ("DeletionTime", &time(s.deleted)),
    ] {
        out += &element(key, value);
    }
    out.push_str("<DisableRollback>false</DisableRollback><Tags>");
    for (k, v) in &s.shape.tags {
        let _ = write!(out, "<member>{}<Value>{}</Value></member>", element("Key", k), escaped(v));
    }
    out.push_str("</Tags><Outputs>");
    for (k, v) in &s.shape.outputs {
        let _ = write!(out, "<member>{}{}</member>", element("OutputKey", k), element("OutputValue", v));
    }
    out.push_str("</Outputs></member>");
    out
}

/// Empty for none.
fn time(at: Option<OffsetDateTime>) -> String {
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

/// Newest first, a page of them.
fn events(s: &Stack, token: &str) -> Result<String, Refused> {
    let from: usize = if token.is_empty() {
        0
    } else {
        token.parse().map_err(|_| Refused::invalid("the token is none of this bed"))?
    };
    // by their number from the oldest: new ones do not move it
    let end = if from == 0 { s.events.len() } else { from.min(s.events.len()) };
    let begin = end.saturating_sub(PAGE);
    let told: String =
        s.events.get(begin..end).unwrap_or_default().iter().rev().map(|e| event(s, e)).collect();
    let next = if begin == 0 { String::new() } else { element("NextToken", &begin.to_string()) };
    Ok(format!("<StackEvents>{told}</StackEvents>{next}"))
}

fn event(s: &Stack, e: &Event) -> String {
    let mut out = String::from("<member>");
    for (key, value) in [
        ("EventId", &e.id),
        ("StackId", &s.id),
        ("StackName", &s.name),
        ("LogicalResourceId", &e.logical),
        ("PhysicalResourceId", &e.physical),
        ("ResourceType", &e.kind),
        ("Timestamp", &time(Some(e.at))),
        ("ResourceStatus", &e.status),
        ("ResourceStatusReason", &e.reason),
        ("ClientRequestToken", &e.token),
    ] {
        out += &element(key, value);
    }
    out + "</member>"
}

fn resources(s: &Stack) -> String {
    let mut out = String::from("<StackResources>");
    for (name, r) in &s.shape.resources {
        let newest = s.events.iter().rev().find(|e| e.logical == *name);
        let _ = write!(
            out,
            "<member>{}{}{}{}{}{}</member>",
            element("StackName", &s.name),
            element("LogicalResourceId", name),
            element("PhysicalResourceId", &r.physical),
            element("ResourceType", &r.kind),
            element("Timestamp", &time(newest.map(|e| e.at))),
            element("ResourceStatus", newest.map_or("CREATE_COMPLETE", |e| &e.status)),
        );
    }
    out + "</StackResources>"
}

/// The tags of a resource: its own, the stack's, and those that CloudFormation adds.
pub fn tags_of(s: &Stack, logical: &str, properties: &Value) -> super::Tags {
    let mut out = s.shape.tags.clone();
    out.extend(tags(&properties["Tags"]));
    for (key, value) in [("stack-name", s.name.as_str()), ("stack-id", &s.id), ("logical-id", logical)] {
        out.insert(format!("aws:cloudformation:{key}"), value.to_owned());
    }
    out
}

/// A new event.
pub fn happened(s: &mut Stack, of: (&str, &str, &str), status: &str, reason: &str) {
    let (logical, physical, kind) = of;
    let owned = str::to_owned;
    s.events.push(Event {
        id: random(32),
        logical: owned(logical),
        physical: owned(physical),
        kind: owned(kind),
        status: owned(status),
        reason: owned(reason),
        token: s.token.clone(),
        at: now(),
    });
}
