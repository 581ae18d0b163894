//! A task: a network namespace, and the containers in it, from the first pull to the last line of their logs.
mod run;

use super::{
    LABEL, http, scheduler,
    world::{Container, Definition, Health, Line, Shared, World, now},
};
use run::begin;
use std::{
    net::SocketAddr,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

/// Before a task is healthy it is looked at so often.
const SOON: Duration = Duration::from_millis(200);

/// Why a task has ended.
pub struct End {
    /// One of `stopCode`'s.
    code: &'static str,
    reason: String,
    /// The service did not want it.
    failed: bool,
}

// === impl End ===

impl End {
    fn not_started(reason: impl Into<String>) -> Self {
        Self { code: "TaskFailedToStart", reason: reason.into(), failed: true }
    }

    fn told(reason: String) -> Self {
        Self { code: "ServiceSchedulerInitiated", reason, failed: false }
    }
}

/// What a new task has, in the order in which its containers are started.
pub fn containers(d: &Definition) -> Vec<Container> {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
    run::ordered(&d.properties)
        .into_iter()
        .map(|c| Container {
            name: text(&c["Name"]),
            image: text(&c["Image"]),
            stop_seconds: c["StopTimeout"].as_u64().unwrap_or(30),
            ..Container::default()
        })
        .collect()
}

/// Its life.
pub async fn live(shared: Arc<Shared>, id: String, wait: Duration) {
    tokio::time::sleep(wait).await;
    let end = match begin(&shared, &id).await {
        Ok(()) => serve(&shared, &id).await,
        Err(end) => end,
    };
    stop(&shared, &id, end).await;
}

/// Until it shall go or has ended.
async fn serve(shared: &Shared, id: &str) -> End {
    let over = shared.until(|w| {
        let Some(t) = w.tasks.get(id).filter(|_| !w.closing) else {
            return Some(End::told("the bed ends".into()));
        };
        if t.died {
            let reason = "Essential container in task exited".to_owned();
            return Some(End { code: "EssentialContainerExited", reason, failed: t.told.is_none() });
        }
        t.told.clone().map(End::told)
    });
    tokio::select! {
        end = over => end,
        end = watch(shared, id) => end,
    }
}

/// Looks whether it is healthy, until it is no longer.
async fn watch(shared: &Shared, id: &str) -> End {
    let found = shared.see(|w| {
        let t = w.tasks.get(id)?;
        Some((t.address?, w.services.get(&t.service)?.health.clone()))
    });
    let Some((address, h)) = found else { return std::future::pending().await };
    let (to, begun) = (SocketAddr::from((address, h.port)), Instant::now());
    let (mut good, mut bad) = (0, 0);
    loop {
        if matches!(http::get(to, &h.path, h.timeout).await, Ok((status, _)) if status == h.status) {
            (good, bad) = (good + 1, 0);
        } else {
            (good, bad) = (0, bad + 1);
        }
        if good == h.healthy {
            registered(shared, id, &h);
        }
        if bad >= h.unhealthy && begun.elapsed() > h.grace {
            let reason = format!("Task failed ELB health checks in (target-group {})", h.group);
            return End { code: "ServiceSchedulerInitiated", reason, failed: true };
        }
        tokio::time::sleep(if good >= h.healthy { h.interval } else { SOON }).await;
    }
}

fn registered(shared: &Shared, id: &str, h: &Health) {
    shared.with(|w| {
        let Some(t) = w.tasks.get_mut(id) else { return };
        t.healthy = true;
        let service = t.service.clone();
        if let Some(s) = w.services.get_mut(&service) {
            let words = format!("(service {}) registered 1 targets in (target-group {})", s.name, h.group);
            scheduler::say(s, words);
        }
    });
}

/// Takes it out of the load balancer, stops it, and keeps what it said.
async fn stop(shared: &Shared, id: &str, end: End) {
    let leaving = shared.with(|w| {
        let t = w.tasks.get_mut(id)?;
        (t.desired, t.last) = ("STOPPED", "DEACTIVATING");
        (t.code, t.reason) = (end.code, end.reason.clone());
        let served = std::mem::take(&mut t.healthy) && !t.died;
        let (service, definition, address) = (t.service.clone(), t.definition.clone(), t.address);
        if end.failed {
            scheduler::failed(w, &service, &definition);
        }
        let s = w.services.get(&service)?;
        served.then(|| (s.stack.clone(), address, s.health.deregister))
    });
    if let Some((stack, Some(address), delay)) = leaving {
        let out = |w: &World| {
            let there = w.fronts.get(&stack).is_some_and(|f| f.applied.contains(&address));
            (w.closing || !there).then_some(())
        };
        shared.until(out).await;
        tokio::time::sleep(delay).await;
    }
    let all = shared.with(|w| {
        w.tasks.get_mut(id).map(|t| {
            t.last = "STOPPING";
            t.containers.clone()
        })
    });
    let mut all = all.unwrap_or_default();
    // whoever needs the others is told first
    for c in all.iter_mut().rev().filter(|c| !c.id.is_empty()) {
        let _ = shared.docker.run(&["stop", "-t", &c.stop_seconds.to_string(), &c.id]).await;
        let form = "{{.State.ExitCode}} {{.State.OOMKilled}}";
        let said = shared.docker.run(&["inspect", "-f", form, &c.id]).await.unwrap_or_default();
        c.exit = said.split(' ').next().and_then(|n| n.parse().ok());
        if said.ends_with("true") {
            c.reason = "OutOfMemoryError: Container killed due to memory usage".into();
        }
    }
    for c in all.iter().filter(|c| !c.id.is_empty()) {
        keep_log(shared, &c.id).await;
        let _ = shared.docker.run(&["rm", "-f", "-v", &c.id]).await;
    }
    let _ = shared.docker.run(&["rm", "-f", "-v", &run::holder(shared, id)]).await;
    shared.with(|w| {
        let Some(t) = w.tasks.get_mut(id) else { return };
        t.containers = all;
        (t.last, t.stopped) = ("STOPPED", Some(now()));
    });
}

/// Its lines, while Docker still has them.
async fn keep_log(shared: &Shared, container: &str) {
    let lines = lines(shared, container, None).await.unwrap_or_default();
    shared.with(|w| {
        let mut streams = w.groups.values_mut().flat_map(|g| g.streams.values_mut());
        if let Some(s) = streams.find(|s| s.container == container) {
            s.kept = Some(lines);
        }
    });
}

/// Lines of a container that Docker has, since a time in milliseconds, in their order.
pub async fn lines(shared: &Shared, container: &str, since_ms: Option<i64>) -> Result<Vec<Line>, String> {
    let since = since_ms.map(|ms| format!("--since={}.{:03}", ms / 1_000, ms % 1_000));
    let mut args = vec!["logs", "--timestamps"];
    args.extend(since.as_deref());
    args.push(container);
    let (out, err) = shared.docker.told(&args, &[]).await?;
    let parse = |line: &str| {
        let (at, text) = line.split_once(' ').unwrap_or((line, ""));
        let at = time::OffsetDateTime::parse(at, &time::format_description::well_known::Rfc3339).ok()?;
        Some(Line { at_ns: at.unix_timestamp_nanos(), text: text.to_owned() })
    };
    let mut all: Vec<Line> = out.lines().chain(err.lines()).filter_map(parse).collect();
    all.sort_by_key(|l| l.at_ns);
    Ok(all)
}

/// Hears of containers that end, for as long as the bed is there.
pub async fn listen(shared: Arc<Shared>) {
    let filter = format!("label={LABEL}={}", shared.id);
    let since = now().unix_timestamp().to_string();
    let form = "{{index .Actor.Attributes \"syp.test/task\"}}";
    let args = ["events", "--since", &since, "--filter", &filter, "--filter", "event=die", "--format", form];
    while !shared.see(|w| w.closing) {
        // from the beginning each time: to hear of an end twice does no harm
        let mut command = Command::new("docker");
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        if let Ok(mut child) = command.spawn()
            && let Some(out) = child.stdout.take()
        {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(id)) = lines.next_line().await {
                shared.with(|w| w.tasks.get_mut(id.trim()).map(|t| t.died = true));
            }
        }
        tokio::time::sleep(SOON).await;
    }
}
