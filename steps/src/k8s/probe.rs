//! Waits until a revision's pods are ready, told by a watch, and says within seconds when they never will be.
use super::{
    Shared,
    client::{DEPLOYMENT, failed, refused_pod},
    names::{ADMIN, TRAFFIC, namespace},
    pods::{self, container, ready, selector},
    troubles::Troubles,
};
use crate::{
    admin,
    labels::key,
    verdict::{self, LOG_LINES},
};
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams},
    runtime::{WatchStreamExt, watcher},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use syp_auth::door::GateStatus;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::time::Instant;

pub(super) struct Probe(pub Arc<Shared>);

/// A watch that is silent for so long is not believed: the pods are listed, which may take as long again.
const SILENCE: Duration = Duration::from_secs(10);
/// How often it is looked without news: at the gates' words, the Deployment's, and the clock.
const LOOK: Duration = Duration::from_millis(1_000);
/// A cluster that adds nodes by itself has so long.
const UNSCHEDULABLE: Duration = Duration::from_secs(120);
/// A node has so long to begin with an image: pulls that fail are told sooner.
const PENDING: Duration = Duration::from_secs(600);

pub(super) const NODES: &str = "ask for less with --cpu and --memory, or add nodes";
const CLUSTER: &str =
    "that is the cluster's own trouble: its words say what to mend, and the pod then goes on by itself";
const ENDED: &str = "'sypctl logs --previous' shows more; run the image by hand to see why it ends";
const LOGS: &str = "'sypctl logs' shows what the app says";

/// The node of the revision that is proven.
pub(super) fn node(cx: &StepCx) -> String {
    format!("app-{}", cx.params["revision"].as_u64().unwrap_or(1))
}

impl Probe {
    async fn ready(&self, cx: &StepCx) -> Result<(), Failure> {
        let c = self.0.client().await?;
        let node = node(cx);
        let api: Api<Pod> = Api::namespaced(c.clone(), namespace(cx));
        let of = selector(cx, Some(&node));
        let watch = || watcher(api.clone(), watcher::Config::default().labels(&of)).default_backoff().boxed();
        let (mut news, mut heard) = (watch(), Instant::now());
        let (mut held, mut listing) = (BTreeMap::new(), BTreeMap::new());
        // why there is no news: what was seen last may be long over
        let mut deaf: Option<Failure> = None;
        let (start, limit) = (Instant::now(), verdict::limit(cx));
        let mut began: Option<Instant> = None;
        // restarts of before this look (a node that came back) say nothing of this revision
        let mut restarted: BTreeMap<String, i32> = BTreeMap::new();
        let mut troubles = Troubles::none();
        // why there are fewer pods than wanted, where the cluster goes on trying
        let mut refused: Option<Failure> = None;
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ticked = tokio::select! {
                n = news.next() => {
                    // that it begins says nothing yet
                    if !matches!(n, Some(Ok(watcher::Event::Init))) {
                        deaf = n.as_ref().and_then(|n| n.as_ref().err()).map(unheard);
                        heard = Instant::now();
                    }
                    follow(&mut held, &mut listing, n);
                    false
                }
                _ = look.tick() => true,
            };
            if cx.cancel.is_cancelled() {
                return Err(failure(Class::Transient, "CANCELLED", "cancelled", ""));
            }
            // a connection that was lost without a word says nothing for ever, and so does one that has nothing to say
            if ticked && heard.elapsed() > SILENCE {
                match listed(&api, &of).await {
                    Ok(all) => (held, deaf) = (all, None),
                    Err(f) => {
                        deaf = Some(f);
                        (news, listing) = (watch(), BTreeMap::new());
                    }
                }
                heard = Instant::now();
            }
            let live: Vec<&Pod> = held.values().filter(|p| !pods::leaving(p)).collect();
            let there = live.iter().filter(|p| ready(p)).count();
            let need = cx.params["need"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
            if there >= need {
                return Ok(());
            }
            for p in &live {
                if let Some(f) = self.hopeless(&c, cx, p, &mut restarted, start.elapsed()).await {
                    return Err(f);
                }
            }
            let late = live.iter().find(|p| !ready(p));
            let trouble = match late {
                Some(p) => troubles.of(&c, namespace(cx), p).await,
                None => None,
            };
            let (reason, message, hint) = match (&deaf, late, late.and_then(|p| unschedulable(p))) {
                (Some(f), ..) => (f.reason.as_str(), f.message.clone(), f.hint.as_str()),
                (None, Some(p), Some(why)) => {
                    ("UNSCHEDULABLE", format!("pod {}: {why}", p.name_any()), NODES)
                }
                (None, Some(p), None) => match &trouble {
                    Some(said) => ("PROBING", format!("pod {}: {said}", p.name_any()), CLUSTER),
                    None => ("PROBING", words(p), LOGS),
                },
                (None, None, _) => match &refused {
                    Some(f) => (f.reason.as_str(), f.message.clone(), f.hint.as_str()),
                    None => ("PROBING", format!("{there} of {need} pods are there"), LOGS),
                },
            };
            cx.waiting.on(&cx.node, reason, message, hint, self.0.clock.now());
            if !ticked {
                continue;
            }
            refused = None;
            if live.len() < need {
                match unmade(&c, cx, &node).await {
                    Ok(Some(f)) if f.class == Class::Terminal.as_str() => return Err(f),
                    Ok(f) => refused = f,
                    Err(f) if f.reason == "NOT_FOUND" => return Err(f),
                    // an API server that restarts is waited for, as the watch does
                    Err(f) => {
                        deaf = Some(f);
                        continue;
                    }
                }
            }
            if start.elapsed() > PENDING && began.is_none() {
                return Err(failure(
                    Class::Terminal,
                    "PROBE_FAILED",
                    match trouble.or_else(|| refused.map(|f| f.message)) {
                        Some(said) => format!("no pod of it runs after 10 minutes: {said}"),
                        None => "no pod of it runs after 10 minutes".to_owned(),
                    },
                    "'kubectl describe pod' shows what it waits for",
                ));
            }
            // from the moment that one runs its app has a time to listen
            let running =
                live.iter().find(|p| !ready(p) && container(p, "app", false).is_some_and(|c| c.running));
            let Some(p) = running else { continue };
            let since = *began.get_or_insert_with(Instant::now);
            let asked = async {
                admin::read::<GateStatus>(
                    pods::admin(&c, cx, p).await?,
                    &self.0.admin_token(&cx.owner),
                    "/status",
                )
                .await
            };
            let Ok(status) = asked.await else { continue };
            let Some(u) = status.upstreams.first().filter(|u| !u.ready) else { continue };
            let others: BTreeSet<u16> =
                u.listeners.iter().map(|l| l.port).filter(|p| ![ADMIN, TRAFFIC].contains(p)).collect();
            cx.waiting.on(
                &cx.node,
                "PROBING",
                format!("{}: {}", p.name_any(), u.detail),
                "'sypctl logs' shows what the app says",
                self.0.clock.now(),
            );
            if let Some(f) = verdict::verdict(cx, u, &others, since.elapsed(), limit) {
                let lines = last_lines(&c, cx, p, false).await;
                return Err(verdict::with_lines(f, &lines));
            }
        }
    }

    /// What no more waiting helps against.
    async fn hopeless(
        &self,
        c: &Client,
        cx: &StepCx,
        p: &Pod,
        restarted: &mut BTreeMap<String, i32>,
        waited: Duration,
    ) -> Option<Failure> {
        let name = p.name_any();
        for (which, sidecar) in [("seal", true), ("gate", true), ("app", false)] {
            let Some(s) = container(p, which, sidecar) else { continue };
            let waits =
                s.waiting.as_ref().and_then(|(reason, words)| cant_start(which, &name, reason, words));
            if waits.is_some() {
                return waits;
            }
            let before = *restarted.entry(format!("{name}/{which}")).or_insert(s.restarts);
            let looping = s.waiting.as_ref().is_some_and(|(reason, _)| reason == "CrashLoopBackOff");
            // some apps need a second try, none needs a tenth; the kubelet makes it by itself
            if !looping && s.restarts < before + 2 {
                continue;
            }
            if let Some((code, reason)) = s.ended.clone() {
                let lines = last_lines_of(c, cx, p, which, s.running || s.waiting.is_some()).await;
                let (reason, why) = match which {
                    "app" if reason == "OOMKilled" => {
                        ("CRASH_LOOP", "was killed because it used more memory than its limit".to_owned())
                    }
                    "app" => ("CRASH_LOOP", format!("exited with code {code}")),
                    "seal" => (
                        "ISOLATION_NOT_ENFORCED",
                        format!("could not close the pod's ports (exit code {code})"),
                    ),
                    _ => ("GATE_UNREACHABLE", format!("its gate exited with code {code}")),
                };
                return Some(failure(
                    Class::Terminal,
                    reason,
                    format!("pod {name} {why}. Its last lines:\n{lines}"),
                    verdict::hint(cx, &lines, ENDED),
                ));
            }
        }
        let words = unschedulable(p)?;
        (waited > UNSCHEDULABLE).then(|| {
            failure(Class::Terminal, "UNSCHEDULABLE", format!("no node takes pod {name}: {words}"), NODES)
        })
    }
}

/// Why no node takes a pod, as the scheduler says it.
pub(super) fn unschedulable(p: &Pod) -> Option<String> {
    let all = p.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let said = all.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    said.filter(|c| c.reason.as_deref() == Some("Unschedulable")).find_map(|c| c.message.clone())
}

/// A watch that broke off, in our words.
fn unheard(e: &watcher::Error) -> Failure {
    match e {
        watcher::Error::InitialListFailed(e)
        | watcher::Error::WatchStartFailed(e)
        | watcher::Error::WatchFailed(e) => failed(e),
        e => failure(
            Class::Transient,
            "PROVIDER_ERROR",
            format!("no news of its pods: {e}"),
            "the engine tries again by itself",
        ),
    }
}

/// What a watch that says nothing may have missed.
async fn listed(api: &Api<Pod>, labels: &str) -> Result<BTreeMap<String, Pod>, Failure> {
    let how = ListParams::default().labels(labels);
    match tokio::time::timeout(SILENCE, api.list(&how)).await {
        Ok(Ok(all)) => Ok(all.items.into_iter().map(|p| (p.name_any(), p)).collect()),
        Ok(Err(e)) => Err(failed(&e)),
        Err(_) => Err(failure(
            Class::Transient,
            "PROVIDER_UNREACHABLE",
            format!("the API server did not answer within {} s", SILENCE.as_secs()),
            "'kubectl cluster-info' must work; the engine tries again by itself",
        )),
    }
}

/// One piece of news about pods.
fn follow(
    held: &mut BTreeMap<String, Pod>,
    listing: &mut BTreeMap<String, Pod>,
    n: Option<Result<watcher::Event<Pod>, watcher::Error>>,
) {
    match n {
        Some(Ok(watcher::Event::Init)) => listing.clear(),
        Some(Ok(watcher::Event::InitApply(p))) => drop(listing.insert(p.name_any(), p)),
        Some(Ok(watcher::Event::InitDone)) => *held = std::mem::take(listing),
        Some(Ok(watcher::Event::Apply(p))) => drop(held.insert(p.name_any(), p)),
        Some(Ok(watcher::Event::Delete(p))) => drop(held.remove(&p.name_any())),
        // the watcher tries again by itself, with its own pauses
        Some(Err(_)) | None => {}
    }
}

/// Where a pod is on its way.
fn words(p: &Pod) -> String {
    let name = p.name_any();
    for (which, sidecar) in [("seal", true), ("gate", true), ("app", false)] {
        if let Some((reason, message)) = container(p, which, sidecar).and_then(|c| c.waiting) {
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            return format!("pod {name}: {which} waits, {reason}{message}");
        }
    }
    let phase = p.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    format!("pod {name} is {phase}, not ready")
}

/// A container that the kubelet can't start. Pure.
pub(super) fn cant_start(which: &str, pod: &str, reason: &str, message: &str) -> Option<Failure> {
    let denied = ["unauthorized", "denied", "authentication", "authorization failed", "403"];
    let missing = ["not found", "does not exist", "manifest unknown", "no such host", "connection refused"];
    let text = message.to_lowercase();
    // a registry that is busy, a cache that is not filled yet: the kubelet tries again
    let (reason, hint) = match reason {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" if which != "app" => (
            "GATE_IMAGE",
            "the cluster's nodes must be able to pull the gate's image: SYP_GATE_IMAGE names where it is",
        ),
        "ErrImagePull" | "ImagePullBackOff" if denied.iter().any(|w| text.contains(w)) => (
            "IMAGE_AUTH_FAILED",
            "the nodes may not pull it: with --pull-login they get what 'docker login' left with the engine, with --pull-secret what the namespace has",
        ),
        "InvalidImageName" | "ErrImageNeverPull" => {
            ("IMAGE_NOT_FOUND", "check its name and tag; the nodes of the cluster must be able to pull it")
        }
        "ErrImagePull" | "ImagePullBackOff" if missing.iter().any(|w| text.contains(w)) => {
            ("IMAGE_NOT_FOUND", "check its name and tag; the nodes of the cluster must be able to pull it")
        }
        "CreateContainerConfigError" if text.contains("failed to sync") => return None,
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            ("PROVIDER_REFUSED", "the message is the kubelet's own: change what it names, then try again")
        }
        _ => return None,
    };
    Some(failure(Class::Terminal, reason, format!("pod {pod} can't start its {which}: {message}"), hint))
}

/// Why no pod is made: a quota, a Pod Security level, an admission webhook.
async fn unmade(c: &Client, cx: &StepCx, node: &str) -> Result<Option<Failure>, Failure> {
    let api = DEPLOYMENT.api(c, namespace(cx));
    let Some(d) = super::client::optional(api.get(&key(&cx.owner, node)).await)? else {
        return Err(failure(
            Class::Transient,
            "NOT_FOUND",
            "the Deployment is gone",
            "the engine makes it again",
        ));
    };
    let conditions = d.data["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let said = conditions.iter().find(|c| c["type"] == "ReplicaFailure" && c["status"] == "True");
    Ok(said.map(|s| refused_pod(s["message"].as_str().unwrap_or_default())))
}

async fn last_lines(c: &Client, cx: &StepCx, p: &Pod, previous: bool) -> String {
    last_lines_of(c, cx, p, "app", previous).await
}

async fn last_lines_of(c: &Client, cx: &StepCx, p: &Pod, container: &str, previous: bool) -> String {
    let api: Api<Pod> = Api::namespaced(c.clone(), namespace(cx));
    let how = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(i64::from(LOG_LINES)),
        previous,
        limit_bytes: Some(4_000),
        ..Default::default()
    };
    match api.logs(&p.name_any(), &how).await {
        Ok(text) => text.trim_end().to_owned(),
        // it has not been restarted yet: the run that ended is the one that is
        Err(_) if previous => api
            .logs(&p.name_any(), &LogParams { previous: false, ..how })
            .await
            .map_err(|e| failed(&e))
            .unwrap_or_default()
            .trim_end()
            .to_owned(),
        Err(_) => String::new(),
    }
}

impl Step for Probe {
    fn kind(&self) -> &'static str {
        "k8s.probe@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        self.ready(cx).await?;
        Ok(Done::default())
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
