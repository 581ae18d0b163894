//! One revision: a Deployment of pods with the gate as a native sidecar and the app beside it.
use super::{
    Shared,
    client::{DEPLOYMENT, code, failed, optional},
    fields,
    names::{ADMIN, GATE_FILES, GATE_USER, KEPT, PROGRAM, TRAFFIC, namespace, namespace_of, revision_of},
    object, own, pods, pull, rehearse, scale,
    secret::{entry, values},
};
use crate::kind;
use crate::labels::{INSTANCE, REVISION, STEP, STORE, TEMPLATE, TMP, key, labels};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use syp_engine::{
    api::validate,
    door,
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::instance_spec::{Egress, Isolation},
};
use tokio::time::Instant;

pub(super) struct App(pub Arc<Shared>);

/// For so long an app still gets requests when its pod is told to go: load balancers are told at the same time, and late.
const LEAVE_S: u64 = 5;
/// What it then has for its own end.
const STOP_S: u64 = 30;
/// Pods that nobody owns any more are waited for so long at a time.
const PODS_GONE: Duration = Duration::from_secs(20);

/// The gate beside the app. A sidecar that restarts is started before the app and ended after it.
fn gate(s: &Shared, cx: &StepCx) -> Value {
    let mut args = vec![
        "serve".to_owned(),
        "--listen".into(),
        format!("0.0.0.0:{TRAFFIC}"),
        "--admin".into(),
        format!("127.0.0.1:{ADMIN}"),
        "--admin-token-file".into(),
        format!("{GATE_FILES}/admin.token"),
        "--config".into(),
        format!("{GATE_FILES}/gate.json"),
        "--keep".into(),
        format!("{KEPT}/gate.json"),
        "--app".into(),
        format!("127.0.0.1:{}", cx.spec.port),
    ];
    let protocol = match door::protocol(&cx.spec) {
        syp_auth::door::Protocol::Auto => "auto",
        syp_auth::door::Protocol::Http1 => "http1",
        syp_auth::door::Protocol::H2c => "h2c",
    };
    args.extend(["--app-protocol".into(), protocol.into()]);
    let probe = door::probe(&cx.spec);
    if let Some(path) = &probe.path {
        args.extend(["--app-probe".into(), path.clone()]);
    }
    args.extend(["--app-probe-period-ms".into(), probe.period_ms.to_string()]);
    args.extend(["--app-probe-timeout-ms".into(), probe.timeout_ms.to_string()]);
    let leave = [
        PROGRAM.to_owned(),
        "leave".into(),
        "--admin".into(),
        format!("127.0.0.1:{ADMIN}"),
        "--admin-token-file".into(),
        format!("{GATE_FILES}/admin.token"),
    ];
    json!({
        "name": "gate",
        "image": s.gate_image(&cx.facts),
        "imagePullPolicy": "IfNotPresent",
        "restartPolicy": "Always",
        "command": [PROGRAM],
        "args": args,
        "ports": [{ "name": "traffic", "containerPort": TRAFFIC }],
        // the app starts only when the gate has its ports
        "startupProbe": { "tcpSocket": { "port": TRAFFIC }, "periodSeconds": 1, "failureThreshold": 60 },
        "readinessProbe": { "httpGet": { "path": "/_syp/health", "port": TRAFFIC }, "periodSeconds": 1, "failureThreshold": 2 },
        "lifecycle": { "preStop": { "exec": { "command": leave } } },
        "resources": own::GATE.resources(&cx.facts),
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": GATE_USER, "runAsGroup": GATE_USER, "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
        },
        "volumeMounts": [
            { "name": "gate", "mountPath": GATE_FILES, "readOnly": true },
            { "name": "kept", "mountPath": KEPT },
        ],
    })
}

/// Closes every port of the pod but the gate's, by routing rules, before anything else runs in it.
fn seal(s: &Shared, cx: &StepCx) -> Value {
    let mut args = vec![
        "seal".to_owned(),
        "--port".into(),
        TRAFFIC.to_string(),
        "--app-port".into(),
        cx.spec.port.to_string(),
    ];
    if cx.spec.egress() == Egress::Off {
        args.extend(["--egress".into(), "none".into()]);
    }
    json!({
        "name": "seal",
        "image": s.gate_image(&cx.facts),
        "imagePullPolicy": "IfNotPresent",
        "command": [PROGRAM],
        "args": args,
        "resources": own::SHORT.resources(&cx.facts),
        "securityContext": {
            "runAsUser": 0, "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"], "add": ["NET_ADMIN"] },
        },
    })
}

/// The user's image.
fn app(cx: &StepCx, secret: &str) -> Value {
    let r = cx.spec.resources.clone().unwrap_or_default();
    let mut env: Vec<Value> =
        cx.spec.env.iter().map(|(k, v)| json!({ "name": k, "value": as_it_stands(v) })).collect();
    env.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    let mut mounts = Vec::new();
    if cx.spec.read_only_root {
        mounts.push(json!({ "name": "tmp", "mountPath": TMP }));
    }
    for (n, v) in values(&cx.spec) {
        if v.file.is_empty() {
            let from = json!({ "secretKeyRef": { "name": secret, "key": entry(n) } });
            env.push(json!({ "name": v.env, "valueFrom": from }));
        } else {
            mounts.push(
                json!({ "name": "secrets", "mountPath": v.file, "subPath": entry(n), "readOnly": true }),
            );
        }
    }
    let mut limits = BTreeMap::new();
    if let Some(m) = validate::cpu_millis(&r.cpu).filter(|_| !r.cpu.is_empty()) {
        limits.insert("cpu", format!("{m}m"));
    }
    if let Some(b) = validate::memory_bytes(&r.memory).filter(|_| !r.memory.is_empty()) {
        limits.insert("memory", b.to_string());
    }
    let loaded = kind::reference(&cx.owner, cx.params["revision"].as_u64().unwrap_or(1), &cx.facts);
    let image = loaded.as_deref().or_else(|| cx.facts["image"].as_str()).unwrap_or(&cx.spec.image);
    let mut out = json!({
        "name": "app",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": env,
        "volumeMounts": mounts,
        "resources": { "requests": limits, "limits": limits },
        "lifecycle": { "preStop": { "sleep": { "seconds": LEAVE_S } } },
        "securityContext": { "allowPrivilegeEscalation": false },
    });
    if cx.spec.read_only_root {
        out["securityContext"]["readOnlyRootFilesystem"] = json!(true);
    }
    // A namespace that asks for it gets it; an image that runs as root is then refused by name. One that doesn't loses only what its
    // files may grant beyond NET_BIND_SERVICE.
    if cx.facts["restricted"] == true || is_not_root(cx.facts["user"].as_str().unwrap_or_default()) {
        let capabilities = json!({ "drop": ["ALL"], "add": ["NET_BIND_SERVICE"] });
        object::merge(
            &mut out["securityContext"],
            json!({ "runAsNonRoot": true, "capabilities": capabilities }),
        );
    }
    // an empty list would stand for an empty command
    if !cx.spec.entrypoint.is_empty() {
        out["command"] = cx.spec.entrypoint.iter().map(|w| as_it_stands(w)).collect();
    }
    if !cx.spec.args.is_empty() {
        out["args"] = cx.spec.args.iter().map(|w| as_it_stands(w)).collect();
    }
    out
}

/// A user's word, for a cluster that puts a variable's value in place of `$(NAME)`, a secret's too, and one `$` in place of two
/// (<https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>). Pure.
fn as_it_stands(word: &str) -> String {
    word.replace('$', "$$")
}

/// A user of an image (`UID`, `UID:GID`) that a kubelet can tell from root: it does not look names up. Pure.
fn is_not_root(user: &str) -> bool {
    user.split(':').next().and_then(|uid| uid.parse::<u32>().ok()).is_some_and(|uid| uid != 0)
}

/// Labels by which a revision's pods are found; they never change.
pub(super) fn selector(owner: &Owner, node: &str) -> Value {
    json!({ STORE: owner.store.to_string(), INSTANCE: owner.uid.to_string(), STEP: node })
}

fn deployment(s: &Shared, cx: &StepCx, name: &str) -> Value {
    let n = cx.params["revision"].as_u64().unwrap_or(1);
    let secret = key(&cx.owner, &format!("secret-{n}"));
    let mut pod = json!({
        "serviceAccountName": key(&cx.owner, "account"),
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": LEAVE_S + STOP_S,
        "securityContext": { "seccompProfile": { "type": "RuntimeDefault" } },
        "imagePullSecrets": pull::secrets(cx),
        "initContainers": [gate(s, cx)],
        "containers": [app(cx, &secret)],
        "volumes": [
            { "name": "gate", "secret": { "secretName": key(&cx.owner, super::config::NODE), "defaultMode": 0o444 } },
            { "name": "kept", "emptyDir": { "medium": "Memory", "sizeLimit": "8Mi" } },
        ],
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": { "matchLabels": selector(&cx.owner, &cx.node) },
        }],
    });
    let mut more = Vec::new();
    if values(&cx.spec).any(|(_, v)| !v.file.is_empty()) {
        more.push(json!({ "name": "secrets", "secret": { "secretName": secret, "defaultMode": 0o444 } }));
    }
    if cx.spec.read_only_root {
        more.push(json!({ "name": "tmp", "emptyDir": {} }));
    }
    if let Some(all) = pod["volumes"].as_array_mut() {
        all.extend(more);
    }
    if cx.spec.isolation() == Isolation::Rules {
        if let Some(all) = pod["initContainers"].as_array_mut() {
            all.insert(0, seal(s, cx));
        }
        pod["securityContext"]["sysctls"] = json!([
            { "name": "net.ipv4.ip_local_port_range", "value": "49152 65534" },
        ]);
    }
    let mut labels = labels(&cx.owner, &cx.node);
    // its number changes with every scale; another pod template would replace all pods
    labels.remove(REVISION);
    let rest = json!({
        "metadata": { "annotations": { TEMPLATE: cx.params["template"] } },
        "spec": {
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": 600,
            "selector": { "matchLabels": selector(&cx.owner, &cx.node) },
            "template": { "metadata": { "labels": labels }, "spec": pod },
        },
    });
    object::object(DEPLOYMENT, &cx.owner, &cx.node, name, namespace(cx), rest)
}

impl Step for App {
    fn kind(&self) -> &'static str {
        "k8s.app@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        let held = optional(DEPLOYMENT.api(&self.0.client().await?, namespace(cx)).get(key).await)?;
        let Some(o) = held else { return Ok(Observed::Absent) };
        Ok(match (object::judged(cx, &o), scale::wrong(&cx.spec, &o)) {
            (Observed::Present { handle, ours: true, .. }, Some(words)) => {
                Observed::Changed { handle, by: format!("{words}; {}", fields::others(&o.metadata)) }
            }
            (seen, _) => seen,
        })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let o = deployment(&self.0, cx, key);
        let c = self.0.client().await?;
        scale::take_over(&c, cx, key).await?;
        let made = object::ensure(&c, DEPLOYMENT, &cx.owner, namespace(cx), &o).await?;
        Ok(object::done(&made))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        let former = cx.live.iter().filter(|n| **n != cx.node && revision_of(n, "app").is_some());
        let former = former.max_by_key(|n| revision_of(n, "app")).map(|n| crate::labels::key(&cx.owner, n));
        rehearse::after(&self.0, DEPLOYMENT, cx, &deployment(&self.0, cx, key), former).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        let c = self.0.client().await?;
        let namespace = namespace_of(row);
        let was = object::remove(&c, DEPLOYMENT, owner, &namespace, &row.key).await?;
        // pods of ours that nobody owns any more (an orphaning deletion by somebody else)
        let api: Api<Pod> = Api::namespaced(c, &namespace);
        let of = format!("{STORE}={},{INSTANCE}={},{STEP}={}", owner.store, owner.uid, row.node);
        let how = ListParams::default().labels(&of);
        let end = Instant::now() + PODS_GONE;
        loop {
            let left = api.list(&how).await.map_err(|e| failed(&e))?.items;
            let Some(first) = left.first() else { return Ok(was) };
            if Instant::now() >= end {
                return Err(failure(
                    Class::Conflict,
                    "DELETING",
                    format!("pod {} is being removed", first.name_any()),
                    "the engine waits and looks again; a pod of a node that is gone waits for the node",
                ));
            }
            for p in left.iter().filter(|p| !pods::leaving(p)) {
                match api.delete(&p.name_any(), &DeleteParams::default()).await {
                    Ok(_) => {}
                    Err(e) if code(&e) == Some(404) => {}
                    Err(e) => return Err(failed(&e)),
                }
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_not_root;

    #[test]
    fn only_a_number_above_none_is_told_from_root() {
        for user in ["1", "65534:65534", "1000:0"] {
            assert!(is_not_root(user), "{user}");
        }
        for user in ["", "0", "0:0", "root", "nginx", "nginx:nginx", ":1", "-1"] {
            assert!(!is_not_root(user), "{user}");
        }
    }
}
