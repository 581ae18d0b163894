//! The scheduler of services: it starts and stops tasks until there are as many of the right revision as there shall be, moves from one
//! revision to the next, and gives one up whose tasks end again and again.
use super::{
    Tags, definition, quotas, task,
    world::{Deployment, Health, Resource, Rollout, Service, Shared, Task, World, now, random},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// AWS gives up after so many, and more for a service of more than six tasks.
const FAILURES: usize = 3;
/// Nobody in a test waits for a load balancer's usual half minute.
const DEREGISTER: Duration = Duration::from_secs(2);
/// Until a task that could not be placed is tried again; minutes at AWS.
const UNPLACED: Duration = Duration::from_secs(15);
const INTERVAL: Duration = Duration::from_secs(1);
/// An app of a machine that is busy takes a while to listen; the template gives it a minute.
const GRACE: Duration = Duration::from_secs(30);

/// What comes next for a service.
#[derive(Debug, PartialEq, Eq)]
enum Act {
    /// So many more of the newest revision.
    Start(usize),
    /// These shall go.
    Stop(Vec<String>, String),
    /// All is as it should be.
    Steady,
    /// It is gone.
    End,
}

/// A new service.
pub fn open(shared: &Arc<Shared>, stack: &str, r: &Resource, tags: Tags) {
    let text = |key: &str| r.properties[key].as_str().unwrap_or_default().to_owned();
    let cluster = text("Cluster");
    shared.with(|w| {
        let health = health(w, stack, &r.properties);
        let service = Service {
            arn: r.physical.clone(),
            name: r.attributes.get("Name").cloned().unwrap_or_default(),
            cluster_arn: shared.arn("ecs", &format!("cluster/{cluster}")),
            cluster,
            stack: stack.to_owned(),
            deployments: vec![deployment(&r.properties)],
            events: vec![],
            leaving: false,
            tags,
            health,
            created: now(),
        };
        w.services.insert(service.arn.clone(), service);
    });
    tokio::spawn(keep(Arc::clone(shared), r.physical.clone()));
}

fn deployment(properties: &Value) -> Deployment {
    let desired = properties["DesiredCount"].as_u64().unwrap_or(1);
    Deployment {
        id: format!("ecs-svc/{}", random(19)),
        definition: properties["TaskDefinition"].as_str().unwrap_or_default().to_owned(),
        desired: usize::try_from(desired).unwrap_or(usize::MAX),
        failed: 0,
        state: Rollout::Going,
        created: now(),
        updated: now(),
    }
}

/// From the target group that the service names, faster than the real one.
fn health(w: &World, stack: &str, properties: &Value) -> Health {
    let group = properties["LoadBalancers"][0]["TargetGroupArn"].as_str().unwrap_or_default().to_owned();
    let resources = w.stack(stack).map(|s| &s.shape.resources);
    let of =
        resources.into_iter().flatten().find(|(_, r)| r.physical == group).map(|(_, r)| r.properties.clone());
    let of = of.unwrap_or_default();
    let number = |v: &Value, other: u64| v.as_u64().or_else(|| v.as_str()?.parse().ok()).unwrap_or(other);
    let small = |v: &Value, other: u64| u32::try_from(number(v, other)).unwrap_or(u32::MAX);
    let seconds = |v: &Value, other: u64| Duration::from_secs(number(v, other));
    let attributes = of["TargetGroupAttributes"].as_array();
    let delay = attributes
        .and_then(|a| a.iter().find(|a| a["Key"] == "deregistration_delay.timeout_seconds"))
        .map_or(Value::Null, |a| a["Value"].clone());
    Health {
        port: u16::try_from(number(&of["Port"], 80)).unwrap_or(80),
        path: of["HealthCheckPath"].as_str().unwrap_or("/").to_owned(),
        status: u16::try_from(number(&of["Matcher"]["HttpCode"], 200)).unwrap_or(200),
        healthy: small(&of["HealthyThresholdCount"], 5),
        unhealthy: small(&of["UnhealthyThresholdCount"], 2),
        interval: seconds(&of["HealthCheckIntervalSeconds"], 30).min(INTERVAL),
        timeout: seconds(&of["HealthCheckTimeoutSeconds"], 5),
        grace: seconds(&properties["HealthCheckGracePeriodSeconds"], 0).min(GRACE),
        deregister: seconds(&delay, 300).min(DEREGISTER),
        group,
    }
}

/// What a service shall be from now on.
pub fn change(w: &mut World, r: &Resource) {
    let Some(s) = w.services.get_mut(&r.physical) else { return };
    let mut new = deployment(&r.properties);
    if let (true, Some(now)) = (r.properties["DesiredCount"].is_null(), s.deployments.first()) {
        // who says no number leaves it as it is
        new.desired = now.desired;
    }
    match s.deployments.first_mut() {
        Some(d) if d.definition == new.definition && d.state != Rollout::Failed => {
            (d.desired, d.state, d.failed, d.updated) = (new.desired, Rollout::Going, 0, now());
        }
        _ => {
            // tasks that still run of it are the new deployment's
            s.deployments.retain(|d| d.definition != new.definition);
            s.deployments.insert(0, new);
        }
    }
}

/// Whether it has become what it shall be; `None`: not decided yet.
pub fn outcome(w: &World, arn: &str) -> Option<bool> {
    match w.services.get(arn)?.deployments.first()?.state {
        Rollout::Going => None,
        Rollout::Done => Some(true),
        Rollout::Failed => Some(false),
    }
}

/// Stops all of its tasks and forgets it.
pub async fn close(shared: &Shared, arn: &str) {
    shared.with(|w| w.services.get_mut(arn).map(|s| s.leaving = true));
    let gone = |w: &World| (w.closing || w.tasks_of(arn).all(|t| t.last == "STOPPED")).then_some(());
    shared.until(gone).await;
    shared.with(|w| w.services.remove(arn));
}

/// What is told of the tasks of a cluster goes with it.
pub fn forget(w: &mut World, cluster: &str) {
    let of = format!(":task/{cluster}/");
    w.tasks.retain(|_, t| !t.arn.contains(&of));
}

/// A task has ended by itself.
pub fn failed(w: &mut World, service: &str, definition: &str) {
    let Some(s) = w.services.get_mut(service).filter(|s| !s.leaving) else { return };
    let name = s.name.clone();
    let Some(d) = s.deployments.iter_mut().find(|d| d.definition == definition) else { return };
    d.failed += 1;
    d.updated = now();
    let limit = FAILURES.max(d.desired.div_ceil(2)).min(200);
    if d.state == Rollout::Going && d.failed >= limit {
        d.state = Rollout::Failed;
        let id = d.id.clone();
        say(s, format!("(service {name}) (deployment {id}) deployment failed: tasks failed to start."));
    }
}

/// An event of a service.
pub fn say(s: &mut Service, words: String) {
    s.events.push((uuid::Uuid::new_v4().to_string(), now(), words));
}

async fn keep(shared: Arc<Shared>, arn: String) {
    loop {
        let act = shared.until(|w| plan(w, &arn)).await;
        match act {
            Act::Start(n) => {
                if !start(&shared, &arn, n) {
                    tokio::time::sleep(UNPLACED).await;
                }
            }
            Act::Stop(ids, why) => shared.with(|w| stop(w, &arn, &ids, &why)),
            Act::Steady => shared.with(|w| steady(w, &arn)),
            Act::End => return,
        }
    }
}

/// `None`: nothing, for now.
fn plan(w: &World, arn: &str) -> Option<Act> {
    let Some(s) = w.services.get(arn).filter(|_| !w.closing) else { return Some(Act::End) };
    let (mut mine, mut others) = (vec![], vec![]);
    let newest = s.deployments.first()?;
    for t in w.tasks_of(arn).filter(|t| t.counts()) {
        if t.definition == newest.definition && !s.leaving { mine.push(t) } else { others.push(t) }
    }
    let by = format!("Scaling activity initiated by (deployment {})", newest.id);
    let ids = |tasks: &[&Task]| tasks.iter().map(|t| t.id.clone()).collect::<Vec<_>>();
    if s.leaving {
        return (!others.is_empty()).then(|| Act::Stop(ids(&others), by));
    }
    if newest.state == Rollout::Failed {
        return (!mine.is_empty()).then(|| Act::Stop(ids(&mine), by));
    }
    if mine.len() < newest.desired {
        return Some(Act::Start(newest.desired - mine.len()));
    }
    if mine.len() > newest.desired {
        // those that serve stay, the oldest first
        mine.sort_by_key(|t| (!t.healthy, t.created));
        return Some(Act::Stop(ids(&mine[newest.desired..]), by));
    }
    let serving = w.fronts.get(&s.stack).map(|f| f.applied.as_slice()).unwrap_or_default();
    if !mine.iter().all(|t| t.healthy && t.address.is_some_and(|a| serving.contains(&a))) {
        return None;
    }
    if !others.is_empty() {
        return Some(Act::Stop(ids(&others), by));
    }
    let all_gone = w.tasks_of(arn).all(|t| t.counts() || t.last == "STOPPED");
    (all_gone && newest.state == Rollout::Going).then_some(Act::Steady)
}

/// False: there was no room for one of them.
fn start(shared: &Arc<Shared>, arn: &str, n: usize) -> bool {
    for _ in 0..n {
        if !shared.with(|w| has_room(w, arn)) {
            return false;
        }
        let begun = shared.with(|w| {
            let s = w.services.get_mut(arn)?;
            let (d, cluster) = (s.deployments.first()?.clone(), s.cluster.clone());
            let id = random(32);
            say(s, format!("(service {}) has started 1 tasks: (task {id}).", s.name));
            let containers = definition::find(w, &d.definition).map(task::containers).unwrap_or_default();
            let task = Task {
                arn: shared.arn("ecs", &format!("task/{cluster}/{id}")),
                id: id.clone(),
                service: arn.to_owned(),
                definition: d.definition,
                last: "PROVISIONING",
                desired: "RUNNING",
                reason: String::new(),
                code: "",
                address: None,
                interface: format!("eni-{}", random(17)),
                containers,
                created: now(),
                started: None,
                stopped: None,
                healthy: false,
                told: None,
                died: false,
            };
            w.tasks.insert(id.clone(), task);
            // what ends again and again is started again ever later
            let wait = 1_u64 << d.failed.min(5);
            Some((id, Duration::from_millis(if d.failed == 0 { 0 } else { 100 * wait })))
        });
        if let Some((id, wait)) = begun {
            tokio::spawn(task::live(Arc::clone(shared), id, wait));
        }
    }
    true
}

/// Says so where the account may run no more, which counts as one that did not start.
fn has_room(w: &mut World, arn: &str) -> bool {
    let Some(definition) =
        w.services.get(arn).and_then(|s| s.deployments.first()).map(|d| d.definition.clone())
    else {
        return true;
    };
    if !quotas::is_full(w, &definition) {
        return true;
    }
    if let Some(s) = w.services.get_mut(arn) {
        say(
            s,
            format!(
                "(service {}) was unable to place a task. Reason: You've reached the limit on the number of vCPUs you can run concurrently. For more information, see the Troubleshooting section of the Amazon ECS Developer Guide.",
                s.name
            ),
        );
    }
    failed(w, arn, &definition);
    false
}

fn stop(w: &mut World, arn: &str, ids: &[String], why: &str) {
    if let Some(s) = w.services.get_mut(arn) {
        let tasks = ids.iter().map(|id| format!("(task {id})")).collect::<Vec<_>>().join(" ");
        say(s, format!("(service {}) has stopped {} running tasks: {tasks}.", s.name, ids.len()));
    }
    for (_, t) in w.tasks.iter_mut().filter(|(id, _)| ids.contains(id)) {
        t.told = Some(why.to_owned());
    }
}

fn steady(w: &mut World, arn: &str) {
    let Some(s) = w.services.get_mut(arn) else { return };
    s.deployments.truncate(1);
    let name = s.name.clone();
    if let Some(d) = s.deployments.first_mut() {
        (d.state, d.failed, d.updated) = (Rollout::Done, 0, now());
        let id = d.id.clone();
        say(s, format!("(service {name}) (deployment {id}) deployment completed."));
    }
    say(s, format!("(service {name}) has reached a steady state."));
}
