//! What ECS tells of services, tasks and task definitions.
use super::{
    definition,
    template::listed_tags,
    wire::Refused,
    world::{Container, Definition, Deployment, Rollout, Service, Shared, Task, World},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

/// Answers a call.
pub fn call(shared: &Shared, action: &str, asked: &Value) -> Result<Value, Refused> {
    match action {
        "DescribeServices" => shared.see(|w| services(shared, w, asked)),
        "ListTasks" => shared.see(|w| list_tasks(shared, w, asked)),
        "DescribeTasks" => shared.see(|w| tasks(shared, w, asked)),
        "ListTaskDefinitions" => Ok(shared.see(|w| list_definitions(w, asked))),
        "DescribeTaskDefinition" => shared.see(|w| describe_definition(w, asked)),
        "DeleteTaskDefinitions" => Ok(shared.with(|w| delete_definitions(w, asked))),
        _ => Err(Refused::new("InvalidAction", format!("this bed has no ecs:{action}"))),
    }
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or_default()
}

fn words(v: &Value) -> Vec<&str> {
    v.as_array().into_iter().flatten().map(text).collect()
}

fn at(time: OffsetDateTime) -> f64 {
    #[allow(clippy::cast_precision_loss)]
    let ms = (time.unix_timestamp_nanos() / 1_000_000) as f64;
    ms / 1_000.0
}

/// Name of a cluster that is there.
fn cluster(shared: &Shared, w: &World, asked: &Value) -> Result<String, Refused> {
    let name = asked["cluster"].as_str().unwrap_or("default");
    let name = name.rsplit('/').next().unwrap_or_default();
    let arn = shared.arn("ecs", &format!("cluster/{name}"));
    let mut all = w.stacks.iter().flat_map(|s| s.shape.resources.values());
    let there = all.any(|r| r.attributes.get("Arn") == Some(&arn));
    if there {
        Ok(name.to_owned())
    } else {
        Err(Refused::new("ClusterNotFoundException", "Cluster not found."))
    }
}

fn service<'a>(w: &'a World, cluster: &str, name: &str) -> Option<&'a Service> {
    w.services.values().find(|s| s.cluster == cluster && (s.name == name || s.arn == name))
}

fn missing(shared: &Shared, what: &str, name: &str) -> Value {
    let arn =
        if name.starts_with("arn:") { name.to_owned() } else { shared.arn("ecs", &format!("{what}/{name}")) };
    json!({ "arn": arn, "reason": "MISSING" })
}

fn services(shared: &Shared, w: &World, asked: &Value) -> Result<Value, Refused> {
    let cluster = cluster(shared, w, asked)?;
    let (mut found, mut failures) = (vec![], vec![]);
    for name in words(&asked["services"]) {
        match service(w, &cluster, name) {
            Some(s) => found.push(described(w, s)),
            None => failures.push(missing(shared, "service", name)),
        }
    }
    Ok(json!({ "services": found, "failures": failures }))
}

fn counts(w: &World, s: &Service, definition: Option<&str>) -> (usize, usize) {
    let of = |last: &[&str]| {
        let here = |t: &&Task| last.contains(&t.last) && definition.is_none_or(|d| t.definition == d);
        w.tasks_of(&s.arn).filter(here).count()
    };
    (of(&["RUNNING"]), of(&["PROVISIONING", "PENDING"]))
}

fn described(w: &World, s: &Service) -> Value {
    let (running, pending) = counts(w, s, None);
    let newest = s.deployments.first();
    let events = s.events.iter().rev().take(100);
    json!({
        "serviceArn": s.arn,
        "serviceName": s.name,
        "clusterArn": s.cluster_arn,
        "status": if s.leaving { "DRAINING" } else { "ACTIVE" },
        "desiredCount": if s.leaving { 0 } else { newest.map_or(0, |d| d.desired) },
        "runningCount": running,
        "pendingCount": pending,
        "launchType": "FARGATE",
        "taskDefinition": newest.map(|d| d.definition.clone()),
        "deployments": s.deployments.iter().enumerate().map(|(n, d)| deployment(w, s, n, d)).collect::<Vec<_>>(),
        "events": events.map(|(id, t, m)| json!({ "id": id, "createdAt": at(*t), "message": m })).collect::<Vec<_>>(),
        "createdAt": at(s.created),
        "loadBalancers": [{ "targetGroupArn": s.health.group, "containerName": "gate", "containerPort": s.health.port }],
        "tags": listed_tags(&s.tags, "key", "value"),
    })
}

fn deployment(w: &World, s: &Service, nth: usize, d: &Deployment) -> Value {
    let (running, pending) = counts(w, s, Some(&d.definition));
    let (state, why) = match d.state {
        Rollout::Going => ("IN_PROGRESS", format!("ECS deployment {} in progress.", d.id)),
        Rollout::Done => ("COMPLETED", format!("ECS deployment {} completed.", d.id)),
        Rollout::Failed => ("FAILED", "ECS deployment circuit breaker: tasks failed to start.".to_owned()),
    };
    json!({
        "id": d.id,
        "status": if nth == 0 { "PRIMARY" } else { "ACTIVE" },
        "taskDefinition": d.definition,
        "desiredCount": d.desired,
        "runningCount": running,
        "pendingCount": pending,
        "failedTasks": d.failed,
        "rolloutState": state,
        "rolloutStateReason": why,
        "createdAt": at(d.created),
        "updatedAt": at(d.updated),
        "launchType": "FARGATE",
    })
}

fn list_tasks(shared: &Shared, w: &World, asked: &Value) -> Result<Value, Refused> {
    let cluster = cluster(shared, w, asked)?;
    let of = format!(":task/{cluster}/");
    let named = match asked["serviceName"].as_str() {
        Some(name) => {
            let there = service(w, &cluster, name);
            Some(
                there
                    .ok_or_else(|| Refused::new("ServiceNotFoundException", "Service not found."))?
                    .arn
                    .clone(),
            )
        }
        None => None,
    };
    let desired = asked["desiredStatus"].as_str().unwrap_or("RUNNING");
    let family = asked["family"].as_str();
    let here = |t: &&Task| {
        t.arn.contains(&of)
            && t.desired == desired
            && named.as_ref().is_none_or(|s| t.service == *s)
            && family.is_none_or(|f| t.definition.contains(&format!("task-definition/{f}:")))
    };
    Ok(json!({ "taskArns": w.tasks.values().filter(here).map(|t| t.arn.clone()).collect::<Vec<_>>() }))
}

fn tasks(shared: &Shared, w: &World, asked: &Value) -> Result<Value, Refused> {
    let cluster = cluster(shared, w, asked)?;
    let (mut found, mut failures) = (vec![], vec![]);
    let of = shared.arn("ecs", &format!("task/{cluster}/"));
    for name in words(&asked["tasks"]) {
        let id = name.rsplit('/').next().unwrap_or_default();
        match w.tasks.get(id).filter(|t| t.arn.starts_with(&of)) {
            Some(t) => found.push(task(w, t)),
            None => failures.push(missing(shared, "task", name)),
        }
    }
    Ok(json!({ "tasks": found, "failures": failures }))
}

fn task(w: &World, t: &Task) -> Value {
    let d = definition::find(w, &t.definition).map(|d| d.properties.clone()).unwrap_or_default();
    let service = w.services.get(&t.service);
    let mut out = json!({
        "taskArn": t.arn,
        "clusterArn": t.arn.replace(":task/", ":cluster/").rsplit_once('/').map(|(c, _)| c.to_owned()),
        "taskDefinitionArn": t.definition,
        "group": service.map(|s| format!("service:{}", s.name)),
        "lastStatus": t.last,
        "desiredStatus": t.desired,
        "launchType": "FARGATE",
        "cpu": d["Cpu"],
        "memory": d["Memory"],
        "createdAt": at(t.created),
        "containers": t.containers.iter().map(|c| container(t, c)).collect::<Vec<_>>(),
        "attachments": [attachment(t)],
        "tags": service.map(|s| listed_tags(&s.tags, "key", "value")),
    });
    for (key, time) in [("startedAt", t.started), ("stoppedAt", t.stopped)] {
        if let Some(time) = time {
            out[key] = at(time).into();
        }
    }
    if !t.code.is_empty() {
        (out["stopCode"], out["stoppedReason"]) = (t.code.into(), t.reason.clone().into());
    }
    out
}

fn attachment(t: &Task) -> Value {
    let mut details = vec![json!({ "name": "networkInterfaceId", "value": t.interface })];
    details.extend(t.address.map(|a| json!({ "name": "privateIPv4Address", "value": a.to_string() })));
    let status = if t.last == "STOPPED" { "DELETED" } else { "ATTACHED" };
    json!({ "id": t.interface, "type": "ElasticNetworkInterface", "status": status, "details": details })
}

fn container(t: &Task, c: &Container) -> Value {
    let last = if t.last == "STOPPED" || c.exit.is_some() {
        "STOPPED"
    } else if c.id.is_empty() {
        "PENDING"
    } else {
        "RUNNING"
    };
    let mut out = json!({
        "containerArn": t.arn.replace(":task/", ":container/"),
        "taskArn": t.arn,
        "name": c.name,
        "image": c.image,
        "lastStatus": last,
    });
    if !c.id.is_empty() {
        out["runtimeId"] = c.id.clone().into();
    }
    if let Some(exit) = c.exit {
        out["exitCode"] = exit.into();
    }
    if !c.reason.is_empty() {
        out["reason"] = c.reason.clone().into();
    }
    out
}

fn list_definitions(w: &World, asked: &Value) -> Value {
    let active = asked["status"].as_str().unwrap_or("ACTIVE") == "ACTIVE";
    let none = asked["status"] == "DELETE_IN_PROGRESS";
    let family = asked["familyPrefix"].as_str();
    let here = |d: &&Definition| !none && d.active == active && family.is_none_or(|f| d.family == f);
    json!({ "taskDefinitionArns": w.definitions.iter().filter(here).map(|d| d.arn.clone()).collect::<Vec<_>>() })
}

fn describe_definition(w: &World, asked: &Value) -> Result<Value, Refused> {
    let d = definition::find(w, text(&asked["taskDefinition"]));
    let d = d.ok_or_else(|| Refused::new("ClientException", "Unable to describe task definition."))?;
    let tags = listed_tags(&d.tags, "key", "value");
    Ok(json!({ "taskDefinition": definition(d), "tags": tags }))
}

/// As the API writes it, which begins each key with a small letter.
fn definition(d: &Definition) -> Value {
    let mut out = small(&d.properties);
    out["taskDefinitionArn"] = d.arn.clone().into();
    out["revision"] = d.revision.into();
    out["status"] = if d.active { "ACTIVE" } else { "INACTIVE" }.into();
    out["registeredAt"] = at(d.made).into();
    if let Some(ended) = d.ended {
        out["deregisteredAt"] = at(ended).into();
    }
    out
}

fn small(v: &Value) -> Value {
    match v {
        Value::Array(all) => all.iter().map(small).collect(),
        Value::Object(map) => map
            .iter()
            // names of options and variables are nobody's to change
            .map(|(k, v)| {
                let mut letters = k.chars();
                let first = letters.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
                (first + letters.as_str(), if k == "Options" { v.clone() } else { small(v) })
            })
            .collect(),
        other => other.clone(),
    }
}

fn delete_definitions(w: &mut World, asked: &Value) -> Value {
    let (mut deleted, mut failures) = (vec![], vec![]);
    for name in words(&asked["taskDefinitions"]) {
        match definition::find(w, name).cloned() {
            Some(d) if d.active => failures.push(json!({
                "arn": d.arn,
                "reason": "The specified task definition is still in ACTIVE status. Please deregister the target and try again.",
            })),
            Some(d) => {
                w.definitions.retain(|other| other.arn != d.arn);
                let mut told = definition(&d);
                told["status"] = "DELETE_IN_PROGRESS".into();
                deleted.push(told);
            }
            None => failures.push(json!({ "arn": name, "reason": "The specified task definition does not exist. Specify a valid account, family, revision and try again." })),
        }
    }
    json!({ "taskDefinitions": deleted, "failures": failures })
}
