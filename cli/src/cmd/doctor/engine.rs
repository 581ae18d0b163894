//! The engine that answers, and what it says of its instances.
use super::{Check, Verdict, access, check, ok};
use crate::{
    client::{Client, Start, VERSION, versions_differ},
    cmd::{Ctx, server},
    local, paths,
    service::{NAME, Places},
};
use std::{path::Path, process::Command, time::Duration};
use syp_proto::v1::{Instance, ListInstancesRequest, condition, instances_client::InstancesClient};

const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn checks(ctx: &Ctx<'_>, dir: &Path) -> Vec<Check> {
    const NEXT: &str = "look into engine.log in the data directory";
    let mut all: Vec<_> = service().into_iter().collect();
    let here = ctx.global.server.as_deref().is_none_or(str::is_empty);
    if here && local::connect(&paths::socket_path(dir)).await.is_err() {
        all.push(match local::holder(dir) {
            Some(pid) => check(
                "engine",
                Verdict::Warn,
                format!("pid {pid} is starting or stopping: it takes no calls"),
                NEXT,
            ),
            None => ok("engine", "does not run; it is started when it is needed"),
        });
        return all;
    }
    let ask = async {
        let client = Client::open(ctx.global, Start::Never).await?;
        let info = server::info(&client).await?;
        let request =
            ListInstancesRequest { parent: "projects/-".into(), page_size: 1000, ..Default::default() };
        let call = |ch, r| async move { InstancesClient::new(ch).list_instances(r).await };
        Ok::<_, crate::failure::Failure>((info, client.call(request, call).await))
    };
    let (info, instances) = match tokio::time::timeout(LIMIT, ask).await {
        Err(_) => {
            all.push(check("engine", Verdict::Fail, format!("no answer within {} s", LIMIT.as_secs()), NEXT));
            return all;
        }
        Ok(Err(f)) => {
            let next = if here { NEXT.to_owned() } else { f.hint().to_owned() };
            let server =
                ctx.global.server.as_deref().filter(|_| !here).map_or_else(String::new, |s| format!("{s}: "));
            all.push(check("engine", Verdict::Fail, format!("{server}{}", f.message()), next));
            return all;
        }
        Ok(Ok(both)) => both,
    };
    let differ = versions_differ(VERSION, &info.version, here).is_some();
    all.push(check(
        "engine",
        if differ { Verdict::Warn } else { Verdict::Ok },
        format!(
            "version {}, pid {}, {} instances, targets {}",
            info.version,
            info.pid,
            info.instances,
            info.targets.join(", ")
        ),
        "sypctl and the engine are of different versions: 'sypctl server stop', then any command",
    ));
    for url in info.issuers.iter().filter(|i| **i != info.local_issuer) {
        all.push(access::issuer(url).await);
    }
    if let Ok(list) = instances {
        all.push(unwell(&list.instances));
    }
    all
}

/// Those that do not serve as they should, with their own reasons.
fn unwell(all: &[Instance]) -> Check {
    let of = |i: &Instance| {
        let c = i.conditions.iter().find(|c| {
            let bad = match c.r#type.as_str() {
                "Ready" => {
                    c.status() == condition::Status::False
                        && !["DRAINING", "DESTROYED"].contains(&c.reason.as_str())
                }
                "Blocked" | "Drifted" | "MetricsMissing" => c.status() == condition::Status::True,
                _ => false,
            };
            bad && !c.reason.is_empty()
        })?;
        Some(format!("{} ({})", i.display_name, c.reason))
    };
    let bad: Vec<_> = all.iter().filter_map(of).collect();
    if bad.is_empty() {
        return ok("instances", "none says that something is wrong");
    }
    check(
        "instances",
        Verdict::Warn,
        bad.join(", "),
        "'sypctl show NAME' has the whole message, 'sypctl explain REASON' what to do",
    )
}

/// The service of `server install`.
fn service() -> Option<Check> {
    let places = Places::below(Path::new("/"));
    if !places.unit.exists() {
        return None;
    }
    let state = Command::new("systemctl").args(["is-active", NAME]).output().ok()?;
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    Some(if state == "active" {
        ok("service", state)
    } else {
        check(
            "service",
            Verdict::Fail,
            format!("it is {state}"),
            format!("'journalctl -u {NAME} -n 50' says why"),
        )
    })
}
