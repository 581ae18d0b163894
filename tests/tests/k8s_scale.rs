//! A range of replicas on a real cluster with a metrics server: the cluster chooses, and what it chose is what costs.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause},
};

/// It uses all the processor it is given, and answers all the same.
const BUSY: &str = "while :; do :; done & exec httpd -f -p 8080 -h /www";
/// Metrics are a minute behind, and the autoscaler looks every 15 s.
const PATIENCE: Duration = Duration::from_secs(240);

struct World {
    cluster: Cluster,
    engine: Engine,
}

impl World {
    fn objects(&self, kind: &str) -> Result<Vec<Value>> {
        let of = format!("syp.dev/store={}", self.engine.store_id()?);
        let all = self.cluster.kubectl(&["get", kind, "-A", "-l", &of, "-o", "json"])?;
        Ok(serde_json::from_str::<Value>(&all)?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Names and numbers of the Deployments.
    fn replicas(&self) -> Result<Vec<(String, u64)>> {
        let one = |d: &Value| {
            let name = d["metadata"]["labels"]["syp.dev/step"].as_str().unwrap_or_default().to_owned();
            (name, d["spec"]["replicas"].as_u64().unwrap_or(0))
        };
        Ok(self.objects("deployments")?.iter().map(one).collect())
    }

    fn scalers(&self) -> Result<Vec<String>> {
        let of = |h: &Value| h["metadata"]["labels"]["syp.dev/step"].as_str().unwrap_or_default().to_owned();
        Ok(self.objects("horizontalpodautoscalers")?.iter().map(of).collect())
    }

    /// Units of the price per hour.
    fn rate(&self) -> Result<i64> {
        let cost = self.engine.json(&["cost", "shop"])?;
        Ok(cost["ratePerHour"]["units"].as_str().and_then(|u| u.parse().ok()).unwrap_or(0))
    }

    fn until(&self, what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while !so()? {
            ensure!(
                Instant::now() < end,
                "{what}: {:?} {:?} rate {}\n{}",
                self.replicas()?,
                self.scalers()?,
                self.rate()?,
                self.cluster.kubectl(&["describe", "horizontalpodautoscalers", "-A"])?
            );
            pause(500);
        }
        Ok(())
    }
}

#[test]
fn the_cluster_chooses_within_the_range_and_what_it_chose_is_what_costs() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let engine = cluster.engine(&sypctl)?;
    let w = World { cluster, engine };
    let e = &w.engine;
    let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    let up = [&up[..], &["--isolation", "rules", "--allow", "user:alice@example.com", "--yes"]].concat();
    let range = ["--replicas", "1-3", "--target-cpu", "50"];
    let no = e.run(&[&up[..], &range].concat())?;
    ensure!(no.code == 2 && no.err.contains("--cpu"), "busy in percent of what? {no:?}");
    let busy = ["--cpu", "100m", "--entrypoint", "sh", "--", "-c", BUSY];
    e.ok(&[&up[..], &range, &busy].concat())?;
    let target = e.json(&["show", "shop"])?["spec"]["target"].as_str().context("target")?.to_owned();
    // a tenth of a core, and a hundredth for the gate, at 100 an hour
    e.ok(&["tariff", "set", &target, "--per-vcpu-hour", "100", "--per-gib-hour", "0"])?;
    w.until("one is priced, or more by now", || Ok([11, 22, 33].contains(&w.rate()?)))?;
    ensure!(w.scalers()? == ["autoscaler-1"], "{:?}", w.scalers()?);

    w.until("all of the range", || Ok(w.replicas()? == [("app-1".to_owned(), 3)]))?;
    w.until("three cost three times as much", || Ok(w.rate()? == 33))?;
    let shown = e.ok(&["show", "shop"])?;
    ensure!(shown.contains("1-3 (now 3)"), "{shown}");
    let plan = e.ok(&["scale", "shop", "--replicas", "1-6", "--plan"])?;
    ensure!(plan.contains("At most") && plan.contains("66.00 EUR an hour"), "{plan}");
    pause(20_000);
    let runs = e.json(&["op", "ls", "shop"])?;
    ensure!(!runs.to_string().contains("\"repair\""), "a choice of the cluster is no drift: {runs}");

    // the next revision begins with as many as there are
    e.ok(&["set", "shop", "--env", "A=1", "--yes"])?;
    ensure!(w.replicas()? == [("app-2".to_owned(), 3)], "{:?}", w.replicas()?);
    ensure!(w.scalers()? == ["autoscaler-2"], "{:?}", w.scalers()?);
    ensure!(w.rate()? == 33, "{}", w.rate()?);
    // a number again: nobody else chooses, and nothing else is touched
    e.ok(&["scale", "shop", "--replicas", "2", "--yes"])?;
    ensure!(w.scalers()?.is_empty(), "{:?}", w.scalers()?);
    ensure!(w.replicas()? == [("app-2".to_owned(), 2)], "{:?}", w.replicas()?);
    w.until("two", || Ok(w.rate()? == 22))?;
    e.ok(&["scale", "shop", "--replicas", "2-4", "--yes"])?;
    ensure!(w.scalers()? == ["autoscaler-2"], "{:?}", w.scalers()?);
    e.down("shop")?;
    e.ok(&["receipt", "shop", "--verify"])?;
    let left = w.cluster.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
