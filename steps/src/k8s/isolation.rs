//! Tries to get to the app past its gate, from a pod of its own in the same namespace: what a NetworkPolicy says and what a cluster
//! does are two things. Nothing serves before.
//!
//! The pod belongs to the revision's Deployment (an owner reference), so whatever becomes of the engine, it goes with that.
use super::{
    Shared,
    client::{DEPLOYMENT, POD, apply, code, failed, optional},
    names::{GATE_USER, PROGRAM, TRAFFIC, namespace},
    object, own,
    pods::{self, leaving, ready, selector},
    probe::{NODES, cant_start, node, unschedulable},
    pull,
};
use crate::labels::key;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
    runtime::wait::{await_condition, conditions::Condition},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::instance_spec::Isolation as Wanted,
};
use tokio::time::Instant;

pub(super) struct Isolation(pub Arc<Shared>);

/// A pod that only opens a connection is done by then, from when it runs.
const DONE: Duration = Duration::from_secs(45);
/// A full or busy cluster lets a new pod wait; another one in its place would wait as long.
const STARTS: Duration = Duration::from_secs(600);
/// Until then nothing is said of what keeps it.
const LOOK: Duration = Duration::from_secs(10);

/// What it found.
#[derive(Debug, Deserialize)]
struct Reached {
    reached: bool,
    detail: String,
}

/// The two tries: the gate's port, which must answer, and the app's, which must not.
const CONTROL: &str = "control";
const TRY: &str = "try";

/// What a container of the pod found.
fn message(p: &Pod, name: &str) -> Option<Reached> {
    let all = p.status.as_ref()?.container_statuses.as_ref()?;
    let ended = all.iter().find(|s| s.name == name)?.state.as_ref()?.terminated.as_ref()?;
    serde_json::from_str(ended.message.as_ref()?.trim()).ok()
}

fn unsure(what: String) -> Failure {
    failure(
        Class::Transient,
        "PROBING",
        what,
        "the engine tries again; a network policy of the namespace may keep new pods from all others",
    )
}

impl Reached {
    /// A port that refuses was reached: nothing between kept the packet, and whatever listens there next is open.
    fn open(&self) -> bool {
        self.reached || self.detail == "refused"
    }
}

fn phase(p: &Pod) -> Option<&str> {
    p.status.as_ref()?.phase.as_deref()
}

fn ended() -> impl Condition<Pod> {
    |p: Option<&Pod>| p.is_none_or(|p| matches!(phase(p), Some("Succeeded" | "Failed")))
}

fn begun() -> impl Condition<Pod> {
    |p: Option<&Pod>| p.is_none_or(|p| matches!(phase(p), Some("Running" | "Succeeded" | "Failed")))
}

/// Address of a pod to try. One that is not ready right now will do: a gate that is not there shows in the control.
fn address(pods: &[Pod]) -> Option<String> {
    let there = |p: &&Pod| phase(p) == Some("Running") && !leaving(p);
    let best = pods.iter().find(|p| ready(p)).or_else(|| pods.iter().find(there))?;
    best.status.as_ref()?.pod_ip.clone()
}

/// Why a pod does not run yet.
///
/// # Errors
/// It never will.
fn pending(p: &Pod) -> Result<String, Failure> {
    let waits = [CONTROL, TRY].into_iter().find_map(|name| pods::container(p, name, false)?.waiting);
    match (unschedulable(p), waits) {
        (Some(why), _) => Ok(why),
        (None, Some((reason, message))) => {
            cant_start("try", &p.name_any(), &reason, &message).map_or(Ok(reason), Err)
        }
        (None, None) => Ok("its node has not taken it up".to_owned()),
    }
}

impl Isolation {
    async fn tried(&self, c: &Client, cx: &StepCx) -> Result<Reached, Failure> {
        let of = node(cx);
        let api: Api<Pod> = Api::namespaced(c.clone(), namespace(cx));
        let pods = api
            .list(&ListParams::default().labels(&selector(cx, Some(&of))))
            .await
            .map_err(|e| failed(&e))?;
        let Some(address) = address(&pods.items) else {
            return Err(failure(
                Class::Transient,
                "PROBING",
                "no pod of it runs any more",
                "the engine looks again",
            ));
        };
        let app = optional(DEPLOYMENT.api(c, namespace(cx)).get(&key(&cx.owner, &of)).await)?;
        let Some(uid) = app.and_then(|a| a.uid()) else {
            return Err(failure(
                Class::Transient,
                "NOT_FOUND",
                "the Deployment is gone",
                "the engine makes it again",
            ));
        };
        let name = format!("{}-try", key(&cx.owner, &of));
        removed(&api, &name).await?;
        let host = if address.contains(':') { format!("[{address}]") } else { address };
        let owner = json!([{ "apiVersion": "apps/v1", "kind": "Deployment", "name": key(&cx.owner, &of), "uid": uid }]);
        let rest = json!({
            "metadata": { "ownerReferences": owner },
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": STARTS.as_secs(),
                "serviceAccountName": key(&cx.owner, "account"),
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 0,
                "imagePullSecrets": pull::secrets(cx),
                "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [
                    self.container(cx, CONTROL, &host, i32::from(TRAFFIC)),
                    self.container(cx, TRY, &host, cx.spec.port),
                ],
            },
        });
        let o = object::object(POD, &cx.owner, "isolation", &name, namespace(cx), rest);
        apply(c, POD, namespace(cx), &o).await?;
        let waited = cx.cancel.run_until_cancelled(Box::pin(self.waited(&api, cx, &name))).await.transpose();
        let pod = optional(api.get(&name).await)?;
        // whoever makes the next one waits until it is gone, this revision need not
        leave(&api, &name).await?;
        let said = |name| pod.as_ref().and_then(|p| message(p, name));
        let (Some(control), Some(tried)) = (said(CONTROL), said(TRY)) else {
            let how = match waited? {
                None => "nobody waits for it any longer",
                Some(false) => "it did not end in time",
                Some(true) => "it ended without a word",
            };
            return Err(unsure(format!("the pod {name} that tries the app's port said nothing: {how}")));
        };
        // who can't even reach the gate has not shown that the app can't be reached
        if !control.reached {
            return Err(unsure(format!(
                "the pod {name} reached not even the gate beside the app ({}), so that nothing is shown",
                control.detail
            )));
        }
        Ok(tried)
    }

    /// Waits for the end of the pod that tries; false: it did not come.
    async fn waited(&self, api: &Api<Pod>, cx: &StepCx, name: &str) -> Result<bool, Failure> {
        let end = Instant::now() + STARTS;
        while tokio::time::timeout(LOOK, await_condition(api.clone(), name, begun())).await.is_err() {
            let Some(pod) = optional(api.get(name).await)? else { return Ok(false) };
            let why = pending(&pod)?;
            let words = format!("the pod {name} that tries the app's port waits to be started: {why}");
            if Instant::now() >= end {
                return Err(failure(Class::Terminal, "UNSCHEDULABLE", words, NODES));
            }
            cx.waiting.on(&cx.node, "UNSCHEDULABLE", words, NODES, self.0.clock.now());
        }
        self.says(cx);
        Ok(tokio::time::timeout(DONE, await_condition(api.clone(), name, ended())).await.is_ok())
    }

    fn says(&self, cx: &StepCx) {
        let words = "a pod tries to reach the app past its gate";
        cx.waiting.on(&cx.node, "PROBING", words, "", self.0.clock.now());
    }

    fn container(&self, cx: &StepCx, name: &str, host: &str, port: i32) -> Value {
        json!({
            "name": name,
            "image": self.0.gate_image(&cx.facts),
            "imagePullPolicy": "IfNotPresent",
            "command": [PROGRAM, "reach", format!("{host}:{port}"), "--out", "/dev/termination-log"],
            "resources": own::SHORT.resources(&cx.facts),
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": GATE_USER, "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
            },
        })
    }
}

/// Tells it to go; false if it was not there.
async fn leave(api: &Api<Pod>, name: &str) -> Result<bool, Failure> {
    match api.delete(name, &DeleteParams::default().grace_period(0)).await {
        Ok(_) => Ok(true),
        Err(e) if code(&e) == Some(404) => Ok(false),
        Err(e) => Err(failed(&e)),
    }
}

async fn removed(api: &Api<Pod>, name: &str) -> Result<(), Failure> {
    if leave(api, name).await? {
        let gone = await_condition(api.clone(), name, |p: Option<&Pod>| p.is_none());
        // one that stays is met, with words, when the next is made
        let _ = tokio::time::timeout(Duration::from_secs(10), gone).await;
    }
    Ok(())
}

impl Step for Isolation {
    fn kind(&self) -> &'static str {
        "k8s.isolation@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        self.says(cx);
        let said = self.tried(&self.0.client().await?, cx).await?;
        let port = cx.spec.port;
        match (said.open(), cx.spec.isolation()) {
            (false, _) => Ok(Done::condition(
                "Isolated",
                true,
                "TRIED",
                &format!("the app's own port {port} does not answer another pod ({})", said.detail),
            )),
            (true, Wanted::NotEnforced) => Ok(Done::condition(
                "Isolated",
                false,
                "ISOLATION_NOT_ENFORCED",
                &format!(
                    "the app's own port {port} answers other pods, past the gate, as '--isolation none' accepts"
                ),
            )),
            (true, _) => Err(failure(
                Class::Terminal,
                "ISOLATION_NOT_ENFORCED",
                format!(
                    "another pod reached the app's port {port} past its gate: this cluster does not enforce NetworkPolicy"
                ),
                "use a CNI that enforces it (Calico, Cilium), or '--isolation rules' (needs NET_ADMIN in the pod), or accept it with '--isolation none'",
            )),
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "p" }, "status": status })).unwrap()
    }

    #[test]
    fn a_pod_that_does_not_run_says_why_and_one_that_never_will_ends_the_wait() {
        let full = json!({ "phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: too many pods",
        }] });
        assert_eq!(pending(&pod(full)).unwrap(), "0/1 nodes: too many pods");
        let waits = |reason: &str| {
            let state = json!({ "waiting": { "reason": reason, "message": "denied" } });
            let one = json!({ "name": TRY, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state });
            pod(json!({ "phase": "Pending", "containerStatuses": [one] }))
        };
        assert_eq!(pending(&waits("ContainerCreating")).unwrap(), "ContainerCreating");
        assert_eq!(pending(&waits("ImagePullBackOff")).unwrap_err().reason, "GATE_IMAGE");
        assert!(pending(&pod(json!({ "phase": "Pending" }))).is_ok());
    }

    #[test]
    fn a_ready_pod_is_tried_before_one_that_only_runs_and_none_that_leaves() {
        let one = |ip: &str, ready: &str| {
            pod(
                json!({ "phase": "Running", "podIP": ip, "conditions": [{ "type": "Ready", "status": ready }] }),
            )
        };
        let mut gone = one("10.0.0.3", "True");
        gone.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Default::default()));
        assert_eq!(address(&[gone.clone()]), None);
        assert_eq!(address(&[gone, one("10.0.0.1", "False")]).as_deref(), Some("10.0.0.1"));
        assert_eq!(
            address(&[one("10.0.0.1", "False"), one("10.0.0.2", "True")]).as_deref(),
            Some("10.0.0.2")
        );
    }
}
