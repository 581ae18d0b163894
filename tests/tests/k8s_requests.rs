//! A range of replicas that follows requests, on a real cluster with a real Prometheus and its adapter: who is let in counts, who is
//! refused does not, and figures that stay away are said.
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::{Bed, Cluster},
    load::Load,
    oidc::{end, free_port, until},
    product::{Engine, binary, get, pause, sh},
};

/// The window of the rule, a scrape, the adapter's look, the autoscaler's.
const PATIENCE: Duration = Duration::from_secs(240);
const RATE: &str = "syp_admitted_requests_per_second";

fn program(name: &str) -> Option<PathBuf> {
    let there = std::env::var_os(name).map(PathBuf::from);
    if there.is_none() {
        println!("SKIPPED: no program ({name} does not say where one is)");
    }
    there
}

fn example(name: &str) -> Result<String> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    std::fs::read_to_string(&at).with_context(|| at.display().to_string())
}

/// What serves the metric: both run beside the cluster, and its API server is told where the second one is.
struct Source<'a> {
    cluster: &'a Cluster,
    dir: tempfile::TempDir,
    prometheus: Child,
    adapter: Child,
}

fn start(dir: &Path, program: &Path, args: &[&str]) -> Result<Child> {
    let name = program.file_name().context("a program")?.to_string_lossy().into_owned();
    let log = std::fs::File::create(dir.join(name + ".log"))?;
    let quiet =
        Command::new(program).args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    quiet.with_context(|| program.display().to_string())
}

impl<'a> Source<'a> {
    fn start(cluster: &'a Cluster, programs: &[PathBuf; 2], scraped: &str, token: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        for name in ["alerts.yaml", "alerts_test.yaml"] {
            std::fs::write(file(name), example(&format!("grafana/{name}"))?)?;
        }
        let config = example("grafana/prometheus.yaml")?;
        let config =
            config.replace("127.0.0.1:9464", scraped).replace("scrape_interval: 15s", "scrape_interval: 5s");
        std::fs::write(file("prometheus.yaml"), config)?;
        std::fs::write(file("syp.token"), token)?;
        std::fs::write(file("rules.yaml"), example("scaling/prometheus-adapter.yaml")?)?;

        let beside = programs[0].with_file_name("promtool");
        sh(&beside.to_string_lossy(), &["test", "rules", &file("alerts_test.yaml")])?;
        let at = format!("127.0.0.1:{}", free_port()?);
        let mut prometheus = start(
            dir.path(),
            &programs[0],
            &[
                &format!("--config.file={}", file("prometheus.yaml")),
                &format!("--storage.tsdb.path={}", file("data")),
                &format!("--web.listen-address={at}"),
            ],
        )?;
        // where containers of kind find this machine
        let all = sh(
            "docker",
            &["network", "inspect", "kind", "-f", "{{range .IPAM.Config}}{{.Gateway}} {{end}}"],
        )?;
        let host = all.split_whitespace().find(|a| a.contains('.')).context("kind's network")?.to_owned();
        let port = free_port()?;
        let kubeconfig = std::env::var("KUBECONFIG")?;
        let adapter = start(
            dir.path(),
            &programs[1],
            &[
                &format!("--prometheus-url=http://{at}/"),
                &format!("--config={}", file("rules.yaml")),
                &format!("--bind-address={host}"),
                &format!("--secure-port={port}"),
                &format!("--cert-dir={}", file("certificates")),
                "--metrics-relist-interval=10s",
                &format!("--lister-kubeconfig={kubeconfig}"),
                &format!("--authentication-kubeconfig={kubeconfig}"),
                &format!("--authorization-kubeconfig={kubeconfig}"),
            ],
        );
        let adapter = match adapter {
            Ok(a) => a,
            Err(e) => {
                end(&mut prometheus)?;
                return Err(e);
            }
        };
        let s = Self { cluster, dir, prometheus, adapter };
        // an API that nobody answers for is in the way of all others
        until("the adapter listens", Duration::from_secs(60), || {
            Ok(std::net::TcpStream::connect((host.as_str(), port)).is_ok())
        })
        .with_context(|| s.log("adapter"))?;
        s.tell(&host, port)?;
        Ok(s)
    }

    /// The API server asks the adapter for the group.
    fn tell(&self, host: &str, port: u16) -> Result<()> {
        let (namespace, name) = ("kube-system", "prometheus-adapter");
        let labels = json!({ "kubernetes.io/service-name": name });
        let all = json!({ "apiVersion": "v1", "kind": "List", "items": [
            { "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
              "spec": { "ports": [{ "name": "https", "port": 443, "targetPort": port }] } },
            { "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
              "metadata": { "name": name, "namespace": namespace, "labels": labels },
              "addressType": "IPv4", "endpoints": [{ "addresses": [host] }], "ports": [{ "name": "https", "port": port }] },
            { "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
              "metadata": { "name": "v1beta1.external.metrics.k8s.io" },
              "spec": { "service": { "name": name, "namespace": namespace }, "group": "external.metrics.k8s.io",
                        "version": "v1beta1", "insecureSkipTLSVerify": true,
                        "groupPriorityMinimum": 100, "versionPriority": 100 } },
        ] });
        let at = self.dir.path().join("api.json");
        std::fs::write(&at, all.to_string())?;
        self.cluster.kubectl(&["apply", "-f", &at.to_string_lossy()])?;
        let wait = [
            "wait",
            "--for=condition=Available",
            "--timeout=60s",
            "apiservice/v1beta1.external.metrics.k8s.io",
        ];
        self.cluster.kubectl(&wait).map(drop).with_context(|| self.log("adapter"))
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Thousandths of a request a second, as the cluster is told.
    fn told(&self, uid: &str) -> Result<Option<u64>> {
        let at = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/default/{RATE}?labelSelector=uid%3D{uid}"
        );
        let Ok(said) = self.cluster.kubectl(&["get", "--raw", &at]) else { return Ok(None) };
        let said: Value = serde_json::from_str(&said)?;
        let Some(value) = said["items"][0]["value"].as_str() else { return Ok(None) };
        Ok(match value.strip_suffix('m') {
            Some(milli) => milli.parse().ok(),
            None => value.parse::<u64>().ok().map(|n| n * 1000),
        })
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        // first: while a group that nobody answers for is registered, no namespace can go
        let group = ["delete", "--ignore-not-found", "apiservice", "v1beta1.external.metrics.k8s.io"];
        let _ = self.cluster.kubectl(&group);
        let rest = ["delete", "--ignore-not-found", "-n", "kube-system", "service/prometheus-adapter"];
        let _ = self.cluster.kubectl(&rest);
        let _ = end(&mut self.adapter);
        let _ = end(&mut self.prometheus);
    }
}

struct World<'a> {
    cluster: &'a Cluster,
    engine: &'a Engine,
}

impl World<'_> {
    fn replicas(&self) -> Result<u64> {
        let of = format!("syp.dev/store={}", self.engine.store_id()?);
        let all = self.cluster.kubectl(&["get", "deployments", "-A", "-l", &of, "-o", "json"])?;
        let all: Value = serde_json::from_str(&all)?;
        all["items"][0]["spec"]["replicas"].as_u64().context("one Deployment")
    }

    fn until(&self, what: &str, so: impl Fn() -> Result<bool>) -> Result<()> {
        let limit = Instant::now() + PATIENCE;
        while !so()? {
            ensure!(
                Instant::now() < limit,
                "{what}: {} replicas\n{}\n{}",
                self.replicas()?,
                self.engine.ok(&["show", "shop"])?,
                self.cluster.kubectl(&["describe", "horizontalpodautoscalers", "-A"])?
            );
            pause(1000);
        }
        Ok(())
    }
}

#[test]
fn replicas_follow_the_requests_that_are_let_in_and_no_others() -> Result<()> {
    let (Some(sypctl), Some(cluster)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let (Some(p), Some(a)) = (program("SYP_TEST_PROMETHEUS"), program("SYP_TEST_PROMETHEUS_ADAPTER")) else {
        return Ok(());
    };
    let scraped = format!("127.0.0.1:{}", free_port()?);
    let engine = cluster.engine(&sypctl)?.with("SYP_METRICS_LISTEN", &scraped);
    let (e, w) = (&engine, World { cluster: &cluster, engine: &engine });
    let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
    let up = [&up[..], &["--isolation", "rules", "--allow", "user:alice@example.com", "--yes"]].concat();
    let range = ["--replicas", "1-3", "--target-rps", "5"];

    let no = e.run(&[&up[..], &["--replicas", "2", "--target-rps", "5"]].concat())?;
    ensure!(no.code == 2 && no.err.contains("range"), "{no:?}");
    let no = e.run(&[&up[..], &range].concat())?;
    ensure!(no.err.contains("METRICS_MISSING") && no.err.contains("prometheus-adapter"), "{no:?}");
    ensure!(cluster.left(&e.store_id()?)?.is_empty(), "refused before anything is made");

    let viewer = "user:prometheus@example.com";
    e.ok(&["access", "allow", "-", viewer, "--plane", "control", "--role", "viewer"])?;
    let token = e.ok(&["token", "syp-api", "--as", viewer, "--ttl", "1h"])?;
    let mut source = Source::start(&cluster, &[p, a], &scraped, token.trim())?;
    e.ok(&[&up[..], &range].concat())?;
    let shown = e.ok(&["show", "shop"])?;
    ensure!(shown.contains("1-3 (now 1), 5 requests/s each"), "{shown}");
    let uid = e.json(&["show", "shop"])?["uid"].as_str().context("uid")?.to_owned();
    w.until("the figure is there", || Ok(source.told(&uid)? == Some(0)))?;

    // More than what one replica should get, and nobody of them is let in.
    let endpoint = e.endpoint("shop")?;
    let limit = Instant::now() + Duration::from_secs(25);
    while Instant::now() < limit {
        ensure!(get(&endpoint, None, &[])?.0 == 401);
        pause(10);
    }
    // an API server that is busy may tell nothing at all
    w.until("the figure is told again", || {
        let told = source.told(&uid)?;
        ensure!(told.unwrap_or(0) == 0, "strangers are counted: {told:?}");
        Ok(told.is_some())
    })?;
    ensure!(w.replicas()? == 1, "strangers bought {} replicas", w.replicas()?);

    let load = Load::start(&endpoint, "/", &e.token("shop", Some("user:alice@example.com"))?, 6)?;
    w.until("all of the range", || Ok(w.replicas()? == 3))?;
    w.until("three are seen", || Ok(e.ok(&["show", "shop"])?.contains("1-3 (now 3)")))?;
    load.end()?.nothing_lost()?;

    // Nobody tells a figure any more: the number stays, and it is said.
    end(&mut source.prometheus)?;
    let missing = || {
        let i = e.json(&["show", "shop"])?;
        let all = i["conditions"].as_array().cloned().unwrap_or_default();
        let c = all.into_iter().find(|c| c["type"] == "MetricsMissing").unwrap_or_default();
        Ok::<_, anyhow::Error>((c["status"] == "TRUE", c["message"].as_str().unwrap_or_default().to_owned()))
    };
    w.until("it is said", || Ok(missing()?.0))?;
    ensure!(missing()?.1.contains(RATE), "{}", missing()?.1);
    ensure!(w.replicas()? == 3, "{}", w.replicas()?);
    // by hand now: nothing is missing for that
    e.ok(&["scale", "shop", "--replicas", "1", "--yes"])?;
    w.until("it is over", || Ok(!missing()?.0))?;
    ensure!(w.replicas()? == 1, "{}", w.replicas()?);
    e.down("shop")?;
    e.ok(&["receipt", "shop", "--verify"])?;
    let left = cluster.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
