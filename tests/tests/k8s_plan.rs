//! `--plan` on a cluster: every object as the API server would make it, judged by it, and nothing made.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary},
};

const NAMESPACE: &str = "syp-test-plans";
const POLICY: &str = "syp-test-plans";

struct World {
    cluster: Cluster,
    engine: Engine,
}

impl Drop for World {
    fn drop(&mut self) {
        for what in ["validatingadmissionpolicybinding", "validatingadmissionpolicy", "namespace"] {
            let _ = self.cluster.kubectl(&["delete", what, NAMESPACE, "--ignore-not-found", "--wait=false"]);
        }
    }
}

/// Nobody may have a Deployment there whose app has a variable FORBIDDEN.
fn judge() -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        { "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": POLICY },
            "spec": {
                "matchConstraints": { "resourceRules": [{
                    "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["deployments"],
                }] },
                "validations": [{
                    "expression": "object.spec.template.spec.containers.all(c, !has(c.env) || c.env.all(e, e.name != 'FORBIDDEN'))",
                    "message": "no FORBIDDEN here",
                }],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": POLICY },
            "spec": {
                "policyName": POLICY, "validationActions": ["Deny"],
                "matchResources": { "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": NAMESPACE } } },
            },
        },
    ] })
}

fn resource<'a>(plan: &'a Value, kind: &str) -> Result<&'a Value> {
    let all = plan["resources"].as_array().context("resources")?;
    all.iter().find(|r| r["kind"] == kind).with_context(|| format!("no {kind}: {plan}"))
}

#[test]
fn a_plan_shows_each_object_as_the_api_server_would_make_it() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let engine = cluster.engine(&sypctl)?;
    let w = World { cluster, engine };
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), judge().to_string())?;
    w.cluster.kubectl(&["apply", "-f", &file.path().display().to_string()])?;
    let e = &w.engine;
    let up = [
        "up",
        "shop",
        "--image",
        "syp-test/hello:latest",
        "--port",
        "8080",
        "--on",
        "k8s",
        "--isolation",
        "rules",
    ];
    let up = [&up[..], &["--env", "PASSWORD=hunter2", "--yes"]].concat();
    let there = [&up[..], &["--namespace", NAMESPACE]].concat();
    let left = || -> Result<Vec<String>> { w.cluster.left(&e.store_id()?) };

    // in a namespace of its own all but that is judged when it is made
    let p = e.json(&[&up[..], &["--plan"]].concat())?;
    let diff = |p: &Value, kind: &str| {
        Ok::<_, anyhow::Error>(resource(p, kind)?["diff"].as_str().unwrap_or_default().to_owned())
    };
    ensure!(
        diff(&p, "k8s.namespace")?.contains("+  phase")
            || diff(&p, "k8s.namespace")?.contains("kubernetes.io/metadata.name"),
        "the API server's own: {p}"
    );
    ensure!(diff(&p, "k8s.app")?.contains("+kind: Deployment"), "{p}");
    let p = e.json(&[&there[..], &["--plan"]].concat())?;
    ensure!(resource(&p, "k8s.app")?["change"] == "CREATE", "{p}");
    ensure!(
        diff(&p, "k8s.app")?.contains("+    strategy:") || diff(&p, "k8s.app")?.contains("+  strategy:"),
        "with its defaults: {p}"
    );
    ensure!(!p.to_string().contains("hunter2"), "a value is shown");
    ensure!(left()?.is_empty(), "a plan made something: {:?}", left()?);

    // the judge is fast to be asked and slow to begin
    let forbidden = [&there[..], &["--env", "FORBIDDEN=1", "--plan"]].concat();
    let mut said = e.run(&forbidden)?;
    for _ in 0..50 {
        if said.code != 0 {
            break;
        }
        syp_tests::product::pause(200);
        said = e.run(&forbidden)?;
    }
    ensure!(said.code != 0 && said.err.contains("no FORBIDDEN here"), "{said:?}");
    ensure!(left()?.is_empty(), "{:?}", left()?);

    e.ok(&there)?;
    let p = e.json(&["set", "shop", "--env", "LEVEL=debug", "--plan"])?;
    ensure!(resource(&p, "k8s.account")?["change"] == "KEEP", "{p}");
    let app = diff(&p, "k8s.app")?;
    ensure!(
        app.contains("+        - name: LEVEL") && !app.contains("kind: Deployment"),
        "what is new: {app}"
    );
    let text = e.ok(&["set", "shop", "--env", "LEVEL=debug", "--plan", "-o", "table"])?;
    ensure!(text.contains("name: LEVEL") && text.contains("env LEVEL: added"), "{text}");
    e.down("shop")?;
    ensure!(left()?.is_empty(), "{:?}", left()?);
    Ok(())
}
