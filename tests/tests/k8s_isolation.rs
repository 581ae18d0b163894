//! Nothing reaches the app past its gate, or nothing serves: each way to isolate on a real cluster, whose network enforces nothing
//! until this test makes it.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, Said, binary, get, sh},
};

const ALICE: &str = "user:alice@example.com";
const PLACE: &str = "syp-test-levels";
/// The app's port, which nothing else on the node has.
const PORT: &str = "8137";

struct World {
    cluster: Cluster,
    engine: Engine,
    node: String,
}

// === impl World ===

impl World {
    fn start() -> Result<Option<Self>> {
        let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(None) };
        let engine = cluster.engine(&sypctl)?;
        let node = cluster.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
        Ok(Some(Self { cluster, engine, node: node.trim().to_owned() }))
    }

    /// An app of busybox that listens on all addresses of its pod.
    fn up(&self, more: &[&str]) -> Result<Said> {
        let image =
            ["up", "shop", "--image", "syp-test/hello:latest", "--on", "k8s", "--port", PORT, "--yes"];
        let run = ["--allow", ALICE, "--entrypoint", "/bin/busybox"];
        let args = ["--", "httpd", "-f", "-p", PORT, "-h", "/www"];
        self.engine.run(&[&image[..], &run, more, &args].concat())
    }

    fn left(&self) -> Result<Vec<String>> {
        self.cluster.left(&self.engine.store_id()?)
    }

    fn nothing_is_left(&self) -> Result<()> {
        let left = self.left()?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    }

    /// Status and reason of the condition.
    fn isolated(&self) -> Result<(String, String)> {
        let i = self.engine.json(&["show", "shop"])?;
        let all = i["conditions"].as_array().context("conditions")?;
        let c = all.iter().find(|c| c["type"] == "Isolated").with_context(|| format!("no Isolated: {i}"))?;
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        Ok((text(&c["status"]), text(&c["reason"])))
    }

    fn serves(&self) -> Result<()> {
        let (url, token) = (self.engine.endpoint("shop")?, self.engine.token("shop", Some(ALICE))?);
        let codes = (get(&url, None, &[])?.0, get(&url, Some(&token), &[])?.0);
        ensure!(codes == (401, 200), "{codes:?}");
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.cluster.kubectl(&["delete", "namespace", PLACE, "--ignore-not-found", "--wait=false"]);
        let _ = enforces(&self.node, false);
    }
}

/// What a network that enforces policies does to the app's port: on the node, each packet for it that comes from another pod is dropped.
fn enforces(node: &str, on: bool) -> Result<()> {
    let of = if on { "-I" } else { "-D" };
    for table in ["iptables", "ip6tables"] {
        let rule = ["exec", node, table, "-w", of, "FORWARD", "-p", "tcp", "--dport", PORT, "-j", "DROP"];
        match sh("docker", &rule) {
            // a node without IPv6 has no such table
            Err(e) if table == "iptables" => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn where_nothing_is_enforced_nothing_serves_unless_it_is_accepted_or_sealed() -> Result<()> {
    let Some(w) = World::start()? else { return Ok(()) };
    let said = w.up(&[])?;
    ensure!(said.code != 0 && said.err.contains("ISOLATION_NOT_ENFORCED"), "{said:?}");
    for way_out in ["--isolation rules", "--isolation none", "CNI"] {
        ensure!(said.err.contains(way_out), "no {way_out}: {said:?}");
    }
    w.nothing_is_left()?;

    let said = w.up(&["--isolation", "none"])?;
    ensure!(said.code == 0, "{said:?}");
    ensure!(w.isolated()? == ("FALSE".into(), "ISOLATION_NOT_ENFORCED".into()), "{:?}", w.isolated()?);
    ensure!(w.engine.ok(&["show", "shop"])?.contains("Isolated"), "it stays visible");
    w.serves()?;
    w.engine.down("shop")?;

    let said = w.up(&["--isolation", "rules"])?;
    ensure!(said.code == 0, "{said:?}");
    ensure!(w.isolated()? == ("TRUE".into(), "TRIED".into()), "{:?}", w.isolated()?);
    w.serves()?;
    w.engine.down("shop")?;

    // a network that does
    enforces(&w.node, true)?;
    let said = w.up(&[])?;
    ensure!(said.code == 0, "{said:?}");
    ensure!(w.isolated()? == ("TRUE".into(), "TRIED".into()), "{:?}", w.isolated()?);
    w.serves()?;
    enforces(&w.node, false)?;
    // the next revision is tried again, on what the network does by then
    let said = w.engine.run(&["set", "shop", "--env", "A=1", "--yes"])?;
    ensure!(said.code != 0 && said.err.contains("ISOLATION_NOT_ENFORCED"), "{said:?}");
    w.serves()?;
    w.engine.down("shop")?;
    w.nothing_is_left()
}

#[test]
fn what_a_namespace_forbids_is_refused_before_anything_is_made() -> Result<()> {
    let Some(w) = World::start()? else { return Ok(()) };
    w.cluster.kubectl(&["create", "namespace", PLACE])?;
    let level = |level: &str| {
        let label = format!("pod-security.kubernetes.io/enforce={level}");
        w.cluster.kubectl(&["label", "--overwrite", "namespace", PLACE, &label])
    };
    for forbids in ["baseline", "restricted"] {
        level(forbids)?;
        let said = w.up(&["--namespace", PLACE, "--isolation", "rules"])?;
        ensure!(said.code != 0 && said.err.contains("POD_SECURITY"), "{forbids}: {said:?}");
        w.nothing_is_left()?;
    }
    level("baseline")?;
    let said = w.up(&["--namespace", PLACE, "--isolation", "none"])?;
    ensure!(said.code == 0, "{said:?}");
    w.serves()?;
    w.engine.down("shop")?;
    w.nothing_is_left()
}
