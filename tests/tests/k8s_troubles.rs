//! A pod that does not begin says why, while it is waited for, with what to do: long before a cluster's own patience ends.
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause, sh},
};
use tempfile::NamedTempFile;

/// Far less than the ten minutes in which a cluster gives up a roll-out by itself.
const SOON: Duration = Duration::from_secs(150);
const PLACE: &str = "syp-test-full";
/// What an engine that may not look at them meets when its pods are made.
const UNSEEN: [&str; 2] = ["resourcequotas", "limitranges"];

/// What makes the network of every pod of a kind node.
const PLUGIN: &str = "/opt/cni/bin/bridge";

struct Broken(String);

impl Broken {
    fn new(node: &str) -> Result<Self> {
        sh("docker", &["exec", node, "mv", PLUGIN, &format!("{PLUGIN}.away")])?;
        Ok(Self(node.to_owned()))
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        let _ = sh("docker", &["exec", &self.0, "mv", &format!("{PLUGIN}.away"), PLUGIN]);
    }
}

#[test]
fn a_pod_that_has_no_network_says_so_and_serves_when_it_has_one() -> Result<()> {
    // the audit log of the testbed has what it asks for
    const ALONE: &str = "syp-test-alone";
    let (Some(sypctl), Some(c)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    // the words are in events, which an engine of one namespace may list there
    let place = Place::new(&c, ALONE)?;
    let (e, _config) = place.engine(&sypctl, &[])?;
    let broken = Broken::new(node.trim())?;
    let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    e.ok(&[&up[..], &["--namespace", ALONE, "--isolation", "rules", "--yes", "--no-wait"]].concat())?;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let said = e.ok(&["show", "shop"])?;
        if said.contains("FailedCreatePodSandBox") && said.contains("bridge") {
            break;
        }
        ensure!(Instant::now() < end, "no word of it: {said}");
        pause(500);
    }
    drop(broken);
    e.ok(&["wait", "shop", "--for", "state=serving", "--timeout", "120s"])?;
    e.down("shop")?;
    ensure!(c.left(&e.store_id()?)?.is_empty(), "{:?}", c.left(&e.store_id()?)?);
    Ok(())
}

/// What it is, who is asked, for which image, with what else, and which words are wanted.
type Row<'a> = (&'a str, &'a Engine, &'a str, &'a [&'a str], &'a [&'a str]);

/// A namespace, and what goes with it.
struct Place<'a>(&'a Cluster, &'a str, Vec<String>);

impl<'a> Place<'a> {
    fn new(c: &'a Cluster, name: &'a str) -> Result<Self> {
        c.kubectl(&["create", "namespace", name])?;
        Ok(Self(c, name, vec![format!("namespace/{name}")]))
    }

    /// With an object in it, or about it.
    fn with(mut self, mut object: Value) -> Result<Self> {
        let kind = object["kind"].as_str().unwrap_or_default();
        self.2.insert(0, format!("{kind}/{}", object["metadata"]["name"].as_str().unwrap_or_default()));
        if ["ResourceQuota", "LimitRange"].contains(&kind) {
            object["metadata"]["namespace"] = self.1.into();
            self.2.remove(0);
        }
        self.0.apply(&object)?;
        Ok(self)
    }

    /// An engine that may work in it alone, and may not look at some resources.
    fn engine(&self, sypctl: &Path, unseen: &[&str]) -> Result<(Engine, NamedTempFile)> {
        let config = self.0.confined_without(self.1, unseen)?;
        Ok((Engine::new(sypctl)?.with("KUBECONFIG", &config.path().display().to_string()), config))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        for what in &self.2 {
            let _ = self.0.kubectl(&["delete", what, "--ignore-not-found", "--wait=false"]);
        }
    }
}

/// Only for pods of one namespace.
fn selects(namespace: &str) -> Value {
    json!({ "matchLabels": { "kubernetes.io/metadata.name": namespace } })
}

fn policy(namespace: &str) -> [Value; 2] {
    let pods =
        json!({ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] });
    let of = |kind: &str, spec: Value| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": { "name": "syp-test-signed" },
            "spec": spec,
        })
    };
    let validations = json!([{ "expression": "false", "message": "only signed images, says the house" }]);
    [
        of(
            "ValidatingAdmissionPolicy",
            json!({ "matchConstraints": { "resourceRules": [pods] }, "validations": validations }),
        ),
        of(
            "ValidatingAdmissionPolicyBinding",
            json!({
                "policyName": "syp-test-signed",
                "validationActions": ["Deny"],
                "matchResources": { "namespaceSelector": selects(namespace) },
            }),
        ),
    ]
}

/// One that nobody answers for.
fn webhook(namespace: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": "syp-test-nobody" },
        "webhooks": [{
            "name": "nobody.syp-test.example",
            "clientConfig": { "url": "https://127.0.0.1:9/" },
            "failurePolicy": "Fail",
            "timeoutSeconds": 2,
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "namespaceSelector": selects(namespace),
            "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"] }],
        }],
    })
}

#[test]
fn what_the_cluster_goes_on_to_try_is_shown_and_serves_when_it_may() -> Result<()> {
    const HERE: &str = "syp-test-webhook";
    let (Some(sypctl), Some(c)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let place = Place::new(&c, HERE)?.with(webhook(HERE))?;
    let e = c.engine(&sypctl)?;
    let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    e.ok(&[&up[..], &["--namespace", HERE, "--isolation", "rules", "--yes", "--no-wait"]].concat())?;
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let said = e.ok(&["show", "shop"])?;
        if said.contains("failed calling webhook") && said.contains("nobody.syp-test.example") {
            break;
        }
        ensure!(Instant::now() < end, "no word of it: {said}");
        pause(500);
    }
    c.kubectl(&["delete", "ValidatingWebhookConfiguration/syp-test-nobody"])?;
    e.ok(&["wait", "shop", "--for", "state=serving", "--timeout", "180s"])?;
    e.down("shop")?;
    ensure!(c.left(&e.store_id()?)?.is_empty(), "{:?}", c.left(&e.store_id()?)?);
    drop(place);
    Ok(())
}

#[test]
fn what_can_not_begin_ends_an_up_with_its_reason_and_leaves_nothing() -> Result<()> {
    let (Some(sypctl), Some(c)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    // with rights in one namespace alone nobody can look at its level: the roll-out meets it
    let place = Place::new(&c, PLACE)?;
    c.kubectl(&["label", "namespace", PLACE, "pod-security.kubernetes.io/enforce=baseline"])?;
    let (given, _config) = place.engine(&sypctl, &[])?;
    let v1 = |kind: &str, spec: Value| json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "little" }, "spec": spec });
    let quota =
        Place::new(&c, "syp-test-quota")?.with(v1("ResourceQuota", json!({ "hard": { "pods": "0" } })))?;
    let (few, _config) = quota.engine(&sypctl, &UNSEEN)?;
    let most = json!({ "limits": [{ "type": "Pod", "max": { "memory": "64Mi" } }] });
    let limits = Place::new(&c, "syp-test-limits")?.with(v1("LimitRange", most))?;
    let (little, _config) = limits.engine(&sypctl, &UNSEEN)?;
    let [first, second] = policy("syp-test-policy");
    let judged = Place::new(&c, "syp-test-policy")?.with(first)?.with(second)?;
    let (unsigned, _config) = judged.engine(&sypctl, &[])?;
    let (good, nobody) = (c.engine(&sypctl)?, "127.0.0.1:9/nobody:1");
    let no_gate = c.engine(&sypctl)?.with("SYP_GATE_IMAGE", nobody);
    let hello = "syp-test/hello:latest";
    let table: [Row<'_>; 8] = [
        (
            "an app that ends",
            &good,
            "syp-test/crash:latest",
            &[],
            &["CRASH_LOOP", "fatal: no database configured"],
        ),
        ("an image of nobody", &good, nobody, &[], &["IMAGE_NOT_FOUND", "check its name and tag"]),
        ("a gate of nobody", &no_gate, "syp-test/hello:latest", &[], &["GATE_IMAGE", "SYP_GATE_IMAGE"]),
        (
            "what a level forbids",
            &given,
            "syp-test/hello:latest",
            &["--namespace", PLACE],
            &["POD_SECURITY", "NET_ADMIN"],
        ),
        (
            "a quota that nobody let it see",
            &few,
            hello,
            &["--namespace", "syp-test-quota"],
            &["QUOTA_EXCEEDED", "exceeded quota: little", "--cpu"],
        ),
        (
            "a limit that nobody let it see",
            &little,
            hello,
            &["--namespace", "syp-test-limits", "--cpu", "100m", "--memory", "128Mi"],
            &["QUOTA_EXCEEDED", "usage per Pod", "LimitRange"],
        ),
        (
            "a policy of the cluster",
            &unsigned,
            hello,
            &["--namespace", "syp-test-policy"],
            &["ADMISSION_DENIED", "only signed images, says the house"],
        ),
        (
            "more than any node has",
            &good,
            hello,
            &["--cpu", "900", "--memory", "64Mi"],
            &["UNSCHEDULABLE", "no node takes", "--cpu"],
        ),
    ];
    for (what, e, image, more, words) in table {
        let up = [
            "up",
            "shop",
            "--image",
            image,
            "--port",
            "8080",
            "--on",
            "k8s",
            "--isolation",
            "rules",
            "--yes",
        ];
        let begun = Instant::now();
        let said = e.run(&[&up[..], more].concat())?;
        let took = begun.elapsed();
        ensure!(
            said.code != 0 && words.iter().all(|w| said.err.contains(w)),
            "{what}: {words:?} in {said:?}"
        );
        ensure!(took < SOON, "{what}: known after {took:?}");
        println!("{what}: told after {} s", took.as_secs());
        ensure!(c.left(&e.store_id()?)?.is_empty(), "{what}: {:?}", c.left(&e.store_id()?)?);
    }
    drop((place, quota, limits, judged));
    Ok(())
}
