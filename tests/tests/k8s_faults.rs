//! A cluster that fails in parts while the engine works on it: each component is a process that is stopped, killed or hung
//! (`tests/testbed/k8s.sh bare`). What was asked for comes to its end when the part is back, callers lose nothing that the part does
//! not carry, and meanwhile the instance says what it waits for.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use syp_tests::{
    load::Load,
    product::{Engine, binary, get, pause, sh},
    relay::Relay,
};

const ALICE: &str = "user:alice@example.com";
const IMAGE: &str = "syp-test/hello:latest";
/// A part that is back is found again within this.
const BACK: Duration = Duration::from_secs(180);

/// The cluster, and a kubeconfig for the engine that a test can spoil.
struct Bare {
    script: String,
    run: PathBuf,
    kubectl: String,
    config: tempfile::NamedTempFile,
    good: String,
    /// The API server is to stay down.
    down: AtomicBool,
}

/// What ends when it has no API server for longer than its lease; elsewhere a kubelet starts it again.
const LEASED: [&str; 2] = ["controller-manager", "scheduler"];

impl Bare {
    fn from_env() -> Result<Option<Self>> {
        let Ok(run) = std::env::var("SYP_K8S_RUN") else { return Ok(None) };
        let kubectl = std::env::var("SYP_K8S_KUBECTL").context("SYP_K8S_KUBECTL")?;
        let text = sh(&kubectl, &["config", "view", "--raw", "--minify", "--flatten", "-o", "json"])?;
        let mut config: Value = serde_json::from_str(&text)?;
        // its nodes are this machine's, as kind's are: the endpoint is a node's port
        config["contexts"][0]["name"] = "kind-bare".into();
        config["current-context"] = "kind-bare".into();
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), config.to_string())?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/testbed/k8s.sh").to_owned();
        Ok(Some(Self {
            script,
            run: run.into(),
            kubectl,
            config: file,
            good: config.to_string(),
            down: AtomicBool::new(false),
        }))
    }

    fn engine(&self) -> Result<Option<Engine>> {
        let Some(sypctl) = binary() else { return Ok(None) };
        Ok(Some(Engine::new(&sypctl)?.with("KUBECONFIG", &self.config.path().display().to_string())))
    }

    fn part(&self, what: &str, part: &str) -> Result<()> {
        sh(&self.script, &["bare", what, part]).map(drop)
    }

    /// The API server ends and stays down.
    fn api_server_dies(&self) -> Result<()> {
        self.down.store(true, Ordering::Relaxed);
        self.part("kill", "apiserver")
    }

    /// It is there again.
    fn api_server_starts(&self) -> Result<()> {
        self.part("start", "apiserver")?;
        self.down.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Starts what has ended, until told to stop.
    fn supervise(&self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            if !self.down.load(Ordering::Relaxed) {
                for part in LEASED {
                    let _ = self.part("start", part);
                }
            }
            pause(2_000);
        }
    }

    fn signal(&self, signal: &str, part: &str) -> Result<()> {
        let pid = std::fs::read_to_string(self.run.join(format!("{part}.pid")))?;
        sh("kill", &[signal, pid.trim()]).map(drop)
    }

    fn kubectl(&self, args: &[&str]) -> Result<String> {
        sh(&self.kubectl, args)
    }

    /// Until the API answers and the node is ready.
    fn whole(&self) -> Result<()> {
        until("the cluster is whole", BACK, || {
            let said = self.kubectl(&["get", "nodes", "--request-timeout", "5s", "--no-headers"]);
            Ok(said.is_ok_and(|s| s.contains(" Ready ")))
        })
    }

    /// What a user would look at.
    fn told(&self, e: &Engine, name: &str) -> String {
        let mut all = String::new();
        for what in [&["show", name][..], &["events", name, "-o", "table"]] {
            all += &e.run(what).map_or_else(|e| e.to_string(), |said| said.out + &said.err);
        }
        for what in [
            &["nodes", "-o", "wide"][..],
            &["pods", "-A", "-o", "wide"],
            &["endpointslices", "-A"],
            &["events", "-A"],
        ] {
            all += &self.kubectl(&[&["get"], what].concat()).unwrap_or_else(|e| e.to_string());
        }
        all
    }

    /// Nothing of a store is left.
    fn left(&self, e: &Engine) -> Result<()> {
        let kinds = "namespaces,deployments,services,secrets,pods,networkpolicies,poddisruptionbudgets,serviceaccounts";
        let label = format!("syp.dev/store={}", e.store_id()?);
        let found = self.kubectl(&["get", kinds, "-A", "-l", &label, "-o", "name"])?;
        ensure!(found.trim().is_empty(), "left behind: {found}");
        Ok(())
    }
}

impl Drop for Bare {
    /// As it was, whatever a case left behind.
    fn drop(&mut self) {
        for part in ["etcd", "kubelet"] {
            let _ = self.signal("-CONT", part);
        }
        let _ = self.api_server_starts();
    }
}

fn until(what: &str, limit: Duration, mut seen: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + limit;
    while !seen()? {
        ensure!(Instant::now() < end, "{what}: not within {} s", limit.as_secs());
        pause(200);
    }
    Ok(())
}

fn up<'a>(name: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["up", name, "--image", IMAGE, "--port", "8080", "--on", "k8s", "--isolation", "rules"];
    all.extend(["--allow", ALICE, "--yes"]);
    all.extend(more);
    all
}

fn serves(e: &Engine, name: &str) -> Result<()> {
    let (url, token) = (e.endpoint(name)?, e.token(name, Some(ALICE))?);
    ensure!(get(&url, None, &[])?.0 == 401, "{name} without a token");
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "{name} with one");
    Ok(())
}

/// What an instance says that it waits for.
fn says(e: &Engine, name: &str, word: &str) -> Result<()> {
    let mut last = String::new();
    until(&format!("'{word}' is shown"), Duration::from_secs(75), || {
        let i = e.json(&["show", name])?;
        last = format!("{} {}", i["waitingOn"], i["conditions"]);
        Ok(last.contains(word))
    })
    .with_context(|| last.clone())
}

fn comes_to_rest(e: &Engine, name: &str, state: &str) -> Result<()> {
    until(&format!("{name} is {state}"), BACK, || {
        let i = e.json(&["show", name])?;
        Ok(i["state"] == state && i["reconciling"] != true)
    })
    .with_context(|| e.run(&["show", name]).map(|s| s.out).unwrap_or_default())
}

/// The engine's way to the API server is cut, again and again, and then loses everything without a word; callers come another way.
fn way(b: &Bare) -> Result<()> {
    let Some(e) = b.engine()? else { return Ok(()) };
    let mut config: Value = serde_json::from_str(&b.good)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str().context("server")?;
    let at: SocketAddr = server.trim_start_matches("https://").parse()?;
    let relay = Relay::to(at)?;
    config["clusters"][0]["cluster"]["server"] = format!("https://{}", relay.at()).into();
    config["clusters"][0]["cluster"]["tls-server-name"] = at.ip().to_string().into();
    std::fs::write(b.config.path(), config.to_string())?;
    // in the middle of a roll-out
    e.ok(&up("shop", &["--no-wait"]))?;
    let mut cuts = 0;
    until("it serves in spite of cuts", BACK, || {
        cuts += relay.cut();
        pause(700);
        let i = e.json(&["show", "shop"])?;
        Ok(i["state"] == "SERVING" && i["reconciling"] != true)
    })
    .with_context(|| e.run(&["events", "shop"]).map(|s| s.out).unwrap_or_default())?;
    println!("{cuts} connections were cut in the up");
    ensure!(cuts > 2, "{cuts} connections were cut: that proves nothing");
    serves(&e, "shop")?;
    // at rest: what happens while nobody watches is seen after the watch is back
    let namespace = e.json(&["show", "shop"])?["uid"].as_str().unwrap_or_default()[..12].to_owned();
    let namespace = format!("syp-{}-{namespace}-namespace", e.store_id()?);
    for round in 0..3 {
        pause(5_000);
        ensure!(relay.cut() > 0, "somebody watches");
        b.kubectl(&["delete", "deployment", "--all", "-n", &namespace])?;
        let begun = Instant::now();
        until("it is gone", BACK, || Ok(serves(&e, "shop").is_err()))?;
        until("what was removed by hand is made again", BACK, || Ok(serves(&e, "shop").is_ok()))?;
        println!("cut {round}: it serves again after {:.1} s", begun.elapsed().as_secs_f64());
        comes_to_rest(&e, "shop", "SERVING")?;
    }
    // nobody is told that the connections are of no use
    let alice = e.token("shop", Some(ALICE))?;
    let load = Load::start(&e.endpoint("shop")?, "/", &alice, 2)?;
    e.ok(&["set", "shop", "--env", "A=1", "--yes", "--no-wait"])?;
    pause(1_500);
    relay.loses(true);
    says(&e, "shop", "PROVIDER_UNREACHABLE")?;
    relay.loses(false);
    until("it goes on", BACK, || {
        let i = e.json(&["show", "shop"])?;
        Ok(i["activeRevision"] == "shop-2" && i["reconciling"] != true)
    })?;
    load.end()?.nothing_lost()?;
    e.down("shop")?;
    b.left(&e)
}

/// The API server dies in the middle of an `up`, and again in the middle of an update under load, for half a minute each.
fn api_server(b: &Bare) -> Result<()> {
    let Some(e) = b.engine()? else { return Ok(()) };
    e.ok(&up("shop", &["--no-wait"]))?;
    pause(1_500);
    b.api_server_dies()?;
    says(&e, "shop", "PROVIDER_UNREACHABLE")?;
    pause(30_000);
    b.api_server_starts()?;
    comes_to_rest(&e, "shop", "SERVING")?;
    serves(&e, "shop").with_context(|| b.told(&e, "shop"))?;
    let alice = e.token("shop", Some(ALICE))?;
    let load = Load::start(&e.endpoint("shop")?, "/", &alice, 2)?;
    e.ok(&["set", "shop", "--env", "A=1", "--yes", "--no-wait"])?;
    pause(1_500);
    b.api_server_dies()?;
    pause(30_000);
    b.api_server_starts()?;
    until("the update ends", BACK, || {
        let i = e.json(&["show", "shop"])?;
        Ok(i["activeRevision"] == "shop-2" && i["reconciling"] != true)
    })?;
    load.end()?.nothing_lost()?;
    // nobody has told the watch anything since it began again
    let namespace = e.json(&["show", "shop"])?["uid"].as_str().unwrap_or_default()[..12].to_owned();
    let namespace = format!("syp-{}-{namespace}-namespace", e.store_id()?);
    b.kubectl(&["delete", "deployment", "--all", "-n", &namespace])?;
    until("what was removed by hand is made again", BACK, || Ok(serves(&e, "shop").is_ok()))?;
    e.down("shop")?;
    b.left(&e)
}

/// A store of the cluster that hangs, and somebody else who writes what is ours.
fn etcd_and_others(b: &Bare) -> Result<()> {
    let Some(e) = b.engine()? else { return Ok(()) };
    e.ok(&up("shop", &[]))?;
    e.ok(&["scale", "shop", "--replicas", "2", "--yes", "--no-wait"])?;
    b.signal("-STOP", "etcd")?;
    pause(12_000);
    b.signal("-CONT", "etcd")?;
    b.whole()?;
    until("two replicas", BACK, || {
        let i = e.json(&["show", "shop"])?;
        Ok(i["replicasReady"] == 2 && i["reconciling"] != true)
    })
    .with_context(|| e.run(&["show", "shop"]).map(|s| s.out).unwrap_or_default())?;
    let label = format!("syp.dev/store={}", e.store_id()?);
    let name = b.kubectl(&[
        "get",
        "deployments",
        "-A",
        "-l",
        &label,
        "-o",
        "jsonpath={.items[0].metadata.namespace}/{.items[0].metadata.name}",
    ])?;
    let (namespace, name) = name.trim().split_once('/').context("its Deployment")?;
    b.kubectl(&["scale", "deployment", name, "-n", namespace, "--replicas", "4"])?;
    e.ok(&["scale", "shop", "--replicas", "1", "--yes"])?;
    let wanted =
        b.kubectl(&["get", "deployment", name, "-n", namespace, "-o", "jsonpath={.spec.replicas}"])?;
    ensure!(wanted.trim() == "1", "what we say is ours: {wanted}");
    serves(&e, "shop")?;
    e.down("shop")?;
    b.left(&e)
}

/// A node that says nothing: what is to come waits with words, what is to go waits with words, both go on.
fn kubelet(b: &Bare) -> Result<()> {
    let Some(e) = b.engine()? else { return Ok(()) };
    e.ok(&up("shop", &[]))?;
    b.signal("-STOP", "kubelet")?;
    e.ok(&["down", "shop", "--yes", "--no-wait"])?;
    says(&e, "shop", "is being removed")?;
    until("the node is not ready", BACK, || {
        Ok(!b.kubectl(&["get", "nodes", "--no-headers"])?.contains(" Ready "))
    })?;
    e.ok(&up("late", &["--no-wait"]))?;
    says(&e, "late", "UNSCHEDULABLE")?;
    b.signal("-CONT", "kubelet")?;
    b.whole()?;
    comes_to_rest(&e, "shop", "DESTROYED")?;
    comes_to_rest(&e, "late", "SERVING")?;
    serves(&e, "late")?;
    e.down("late")?;
    b.left(&e)
}

/// Credentials that are good no more: callers notice nothing, the engine says what it needs and goes on when it has it.
fn credentials(b: &Bare) -> Result<()> {
    let Some(e) = b.engine()? else { return Ok(()) };
    e.ok(&up("shop", &[]))?;
    let mut bad: Value = serde_json::from_str(&b.good)?;
    bad["users"][0]["user"] = serde_json::json!({ "token": "expired" });
    std::fs::write(b.config.path(), bad.to_string())?;
    serves(&e, "shop")?;
    let refused = e.run(&up("other", &[]))?;
    ensure!(refused.code != 0 && refused.err.contains("CREDENTIALS"), "{}", refused.err);
    e.ok(&["down", "shop", "--yes", "--no-wait"])?;
    says(&e, "shop", "CREDENTIALS")?;
    std::fs::write(b.config.path(), &b.good)?;
    comes_to_rest(&e, "shop", "DESTROYED")?;
    b.left(&e)
}

#[test]
fn parts_of_a_cluster_fail_and_come_back() -> Result<()> {
    let Some(b) = Bare::from_env()? else { return Ok(()) };
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| b.supervise(&stop));
        let outcome = one_by_one(&b);
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// There is one cluster.
fn one_by_one(b: &Bare) -> Result<()> {
    for (name, case) in [
        ("the way to it", way as fn(&Bare) -> Result<()>),
        ("API server", api_server),
        ("etcd, and another field manager", etcd_and_others),
        ("kubelet", kubelet),
        ("credentials", credentials),
    ] {
        if std::env::var("SYP_TEST_CASE").is_ok_and(|only| only != name) {
            continue;
        }
        println!("{name}");
        case(b).with_context(|| name.to_owned())?;
        std::fs::write(b.config.path(), &b.good)?;
        b.whole()?;
    }
    Ok(())
}
