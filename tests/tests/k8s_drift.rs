//! Objects of an instance that somebody changes by hand: seen by watch and put back, or told and left.
use anyhow::{Context, Result, ensure};
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause},
};

const ALICE: &str = "user:alice@example.com";

struct World {
    cluster: Cluster,
    engine: Engine,
    namespace: String,
}

impl World {
    fn start() -> Result<Option<Self>> {
        let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(None) };
        let engine = cluster.engine(&sypctl)?;
        let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
        let up = [&up[..], &["--isolation", "rules", "--allow", ALICE, "--yes"]].concat();
        engine.ok(&up)?;
        let store = engine.store_id()?;
        let of = format!("syp.dev/store={store}");
        let form = "jsonpath={.items[0].metadata.name}";
        let namespace = cluster.kubectl(&["get", "namespaces", "-l", &of, "-o", form])?;
        Ok(Some(Self { cluster, engine, namespace: namespace.trim().to_owned() }))
    }

    fn k(&self, args: &[&str]) -> Result<String> {
        let all = [&["-n", &self.namespace], args].concat();
        self.cluster.kubectl(&all).map(|s| s.trim().to_owned())
    }

    /// The only object of a kind whose name has this in it.
    fn one(&self, kind: &str, part: &str) -> Result<String> {
        let all = self.k(&["get", kind, "-o", "name"])?;
        all.lines().find(|n| n.contains(part)).map(str::to_owned).context(format!("{kind} {part}: {all}"))
    }

    fn field(&self, object: &str, path: &str) -> Result<String> {
        self.k(&["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Within a minute and a half: a full look would take five.
    fn until(&self, what: &str, seen: impl Fn() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(90);
        while !seen()? {
            ensure!(Instant::now() < end, "{what}: {:?}", self.engine.run(&["events", "shop"])?);
            pause(300);
        }
        Ok(())
    }

    /// It has found nothing to do for a while: the next change meets an engine at rest.
    fn rests(&self) -> Result<()> {
        self.engine.ok(&["wait", "shop", "--for", "state=serving", "--timeout", "90s"])?;
        self.until("no operation is open", || {
            Ok(self.engine.json(&["show", "shop"])?["currentOperation"].is_null())
        })
    }

    fn condition(&self) -> Result<Option<String>> {
        let shown = self.engine.json(&["show", "shop"])?;
        let all = shown["conditions"].as_array().cloned().unwrap_or_default();
        let drifted = all.into_iter().find(|c| c["type"] == "Drifted" && c["status"] == "TRUE");
        Ok(drifted.and_then(|c| c["message"].as_str().map(str::to_owned)))
    }
}

#[test]
fn what_somebody_changes_by_hand_is_put_back_or_told() -> Result<()> {
    let Some(w) = World::start()? else { return Ok(()) };
    let app = w.one("deployments", "app-1")?;
    let service = w.one("services", "service")?;
    let policy = w.one("networkpolicies", "policy")?;
    let config = w.one("secrets", "config")?;
    let changes: [(&str, &str, &str, &str); 4] = [
        (
            &app,
            ".spec.template.spec.containers[0].image",
            "image",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"app","image":"syp-test/crash:latest"}]}}}}"#,
        ),
        (&service, ".spec.selector", "selector", r#"{"spec":{"selector":{"app":"other"}}}"#),
        (&policy, ".spec.ingress", "ingress", r#"{"spec":{"ingress":[{}]}}"#),
        (&config, ".data.gate\\.json", "gate.json", r#"{"stringData":{"gate.json":"{}"}}"#),
    ];
    for (object, path, word, patch) in changes {
        w.rests()?;
        let before = w.field(object, path)?;
        ensure!(!before.is_empty(), "{object} {path}");
        w.k(&[
            "patch",
            object,
            "--type",
            if word == "selector" { "merge" } else { "strategic" },
            "-p",
            patch,
        ])?;
        w.until(&format!("{object} {path} is put back"), || Ok(w.field(object, path)? == before))?;
        let said = w.engine.ok(&["events", "shop"])?;
        ensure!(said.contains("kubectl-patch set") && said.contains(word), "{word}: {said}");
    }
    w.rests()?;
    w.k(&["scale", &app, "--replicas", "3"])?;
    w.until("one replica again", || Ok(w.field(&app, ".spec.replicas")? == "1"))?;

    w.rests()?;
    w.engine.ok(&["set", "shop", "--on-drift", "report", "--yes"])?;
    w.k(&["scale", &app, "--replicas", "2"])?;
    w.until("it is told", || Ok(w.condition()?.is_some_and(|m| m.contains("replicas"))))?;
    pause(20_000);
    ensure!(w.field(&app, ".spec.replicas")? == "2", "it is left");
    // whoever puts it back, puts it back
    w.engine.ok(&["set", "shop", "--on-drift", "repair", "--yes"])?;
    w.until("and put back", || Ok(w.field(&app, ".spec.replicas")? == "1" && w.condition()?.is_none()))?;
    w.rests()?;
    w.engine.down("shop")?;
    let left = w.cluster.left(&w.engine.store_id()?)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
