//! `up` to the first 200, beside a bare program that makes the same calls to Docker without an engine, and beside `docker run`.
//!
//! `cargo run --release -p syp-tests --bin bench_up [ROUNDS]` after `./quickstart` and `tests/testbed/images.sh hello`.
use anyhow::{Context, Result, bail, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use syp_auth::{
    door::Mode,
    local::{LocalIssuer, MintRequest},
};
use syp_engine::{
    clock::Clock,
    door::{Door, instance_audience},
    events::Recorder,
    graph::RunKind,
    id::{InstanceId, StoreId},
    step::{Have, Owner, StepCx, Target, Waiting},
    store::{MemKv, open_inline},
    vault::{Secrets, Vault},
};
use syp_proto::{
    journal::{Failure, Instance, LedgerRow, PlanNode},
    v1,
};
use syp_steps::{
    docker::{DEFAULT_POOL, DockerTarget, Options},
    prices::local::Tariffs,
};
use syp_tests::product::{Engine, sh};
use tokio_util::sync::CancellationToken;

const IMAGE: &str = "syp-test/hello";

fn said(f: Failure) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", f.reason, f.message)
}

fn binary(name: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"))).context("HOME")?;
    let path = cache.join("syp/bin").join(name);
    ensure!(path.exists(), "{} is not there: run ./quickstart first", path.display());
    Ok(path)
}

/// Asks until the answer is 200.
fn first_200(url: &str, token: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    let host = url.trim_start_matches("http://");
    loop {
        if ask(host, token)
            .is_ok_and(|line| line.starts_with("HTTP/1.1 200") || line.starts_with("HTTP/1.0 200"))
        {
            return Ok(());
        }
        ensure!(Instant::now() < end, "no 200 from {url}");
        syp_tests::product::pause(1);
    }
}

fn ask(host: &str, token: &str) -> Result<String> {
    use std::io::{Read, Write};
    let mut s = std::net::TcpStream::connect(host)?;
    s.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        s,
        "GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )?;
    let mut head = [0; 64];
    let n = s.read(&mut head)?;
    Ok(String::from_utf8_lossy(&head[..n]).into_owned())
}

/// The calls of a plan, in parallel where the plan allows it, and nothing else.
struct Bare {
    target: DockerTarget,
    issuer: LocalIssuer,
    door: Door,
    store: StoreId,
    _dir: tempfile::TempDir,
}

impl Bare {
    fn new() -> Result<Self> {
        let (dir, store) = (tempfile::tempdir()?, StoreId::random());
        let issuer = LocalIssuer::open(dir.path().join("key"), store.as_str())?;
        let door = Door::new(None);
        door.set_issuers(issuer.config(), vec![]);
        let target = DockerTarget::new(Options {
            host: std::env::var("DOCKER_HOST").unwrap_or_default(),
            gate_binary: binary("syp-gate")?,
            key: vec![7; 32].into(),
            pool: DEFAULT_POOL.into(),
            tariffs: Tariffs::default(),
            power: syp_steps::power::Host::default(),
            clock: Clock::System,
        })
        .map_err(said)?;
        Ok(Self { target, issuer, door, store, _dir: dir })
    }

    async fn round(&self) -> Result<(f64, f64)> {
        let uid = InstanceId::random();
        let owner = Owner { store: self.store.clone(), uid, name: "bare".into(), revision: "bare-1".into() };
        let spec = v1::InstanceSpec {
            target: "docker".into(),
            image: IMAGE.into(),
            port: 8080,
            access: Some(v1::AccessPolicy {
                rules: vec![v1::access_policy::Rule {
                    effect: v1::access_policy::Effect::Allow as i32,
                    members: vec!["user:alice@example.com".into()],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            ..Default::default()
        };
        let token = self.issuer.mint(&MintRequest {
            audience: instance_audience(&uid.to_string()),
            subject: "alice".into(),
            email: Some("alice@example.com".into()),
            groups: vec![],
            ttl: Duration::ZERO,
            claims: serde_json::Map::new(),
        })?;
        let begin = Instant::now();
        let ready = self.target.preflight(&owner, &spec, None).await.map_err(said)?;
        let (kind, have) = (RunKind::Provision, Have::nothing());
        let nodes = self.target.plan(kind, &owner, &ready.spec, &ready.facts, &have).nodes;
        let made = self.make(&owner, &ready.spec, &ready.facts, &nodes).await;
        let served = match &made {
            Ok(url) => first_200(url, secrecy::ExposeSecret::expose_secret(&token)),
            Err(_) => Ok(()),
        };
        let up = begin.elapsed();
        let begin = Instant::now();
        for n in nodes.iter().rev().filter(|n| n.effect.is_some()) {
            let step = self.target.step(&n.kind).context("step")?;
            let row = LedgerRow {
                node: n.id.clone(),
                kind: n.kind.clone(),
                key: key(n).into(),
                ..Default::default()
            };
            step.destroy(&owner, &row, &Recorder::default()).await.map_err(said)?;
        }
        let down = begin.elapsed();
        made?;
        served?;
        Ok((ms(up), ms(down)))
    }

    async fn make(
        &self,
        owner: &Owner,
        spec: &v1::InstanceSpec,
        facts: &Value,
        nodes: &[PlanNode],
    ) -> Result<String> {
        let (mut outputs, mut open) = (BTreeMap::<String, Value>::new(), FuturesUnordered::new());
        let mut begun: Vec<&str> = Vec::new();
        let (vault, store) = (Vault::new(&vec![7; 32].into()), open_inline(Arc::new(MemKv::default()))?);
        let i = Instance {
            uid: owner.uid.to_string(),
            name: owner.name.clone(),
            spec: Some(spec.clone()),
            gate_generation: 1,
            ..Default::default()
        };
        loop {
            for n in nodes {
                if begun.contains(&n.id.as_str()) || !n.after.iter().all(|a| outputs.contains_key(a)) {
                    continue;
                }
                begun.push(&n.id);
                let step = self.target.step(&n.kind).context("step")?;
                let cx = StepCx {
                    owner: owner.clone(),
                    spec: Arc::new(spec.clone()),
                    run: 1,
                    node: n.id.clone(),
                    params: serde_json::from_str(&n.params)?,
                    facts: facts.clone(),
                    outputs: Arc::new(outputs.clone()),
                    gate: self.door.config(&i, Mode::Serve, 1_000),
                    cancel: CancellationToken::new(),
                    waiting: Waiting::default(),
                    events: Recorder::default(),
                    routes: serde_json::from_str(&n.routes).unwrap_or(Value::Null),
                    secrets: Secrets::new(Arc::clone(&vault), Arc::clone(&store), owner.uid, "default"),
                    live: Arc::default(),
                    grace: Duration::from_secs(1),
                };
                open.push(async move { (n.id.clone(), step.apply(&cx, key(n)).await) });
            }
            let Some((id, done)) = open.next().await else { break };
            outputs.insert(id, done.map_err(said)?.outputs);
        }
        let endpoint = outputs.values().find_map(|o| o.get("endpoint")?.as_str());
        Ok(endpoint.context("no endpoint")?.to_owned())
    }
}

fn key(n: &PlanNode) -> &str {
    n.effect.as_ref().map_or("", |e| e.key.as_str())
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1000.0
}

fn product(e: &Engine, round: usize) -> Result<(f64, f64)> {
    let name = format!("bench{round}");
    let begin = Instant::now();
    e.up(&name, IMAGE, &["--port", "8080", "--allow", "user:alice@example.com"])?;
    let mut up = begin.elapsed();
    // asking for a token is not part of up
    let (url, token) = (e.endpoint(&name)?, e.token(&name, Some("user:alice@example.com"))?);
    let begin = Instant::now();
    first_200(&url, &token)?;
    up += begin.elapsed();
    let begin = Instant::now();
    e.ok(&["down", &name, "--yes"])?;
    Ok((ms(up), ms(begin.elapsed())))
}

fn docker_run() -> Result<(f64, f64)> {
    let begin = Instant::now();
    let id = sh("docker", &["run", "-d", "-p", "127.0.0.1:0:8080", IMAGE])?;
    let id = id.trim();
    let port = sh("docker", &["port", id, "8080"])?;
    let served = first_200(port.lines().next().context("port")?.trim(), "none");
    let up = begin.elapsed();
    let begin = Instant::now();
    sh("docker", &["rm", "-f", id])?;
    served?;
    Ok((ms(up), ms(begin.elapsed())))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

#[tokio::main]
async fn main() -> Result<()> {
    syp_auth::install_crypto();
    let rounds: usize = std::env::args().nth(1).map_or(Ok(15), |n| n.parse())?;
    if rounds == 0 {
        bail!("at least one round");
    }
    let (bare, e) = (Bare::new()?, Engine::new(&binary("sypctl")?)?);
    // each once, so that images and caches are warm
    bare.round().await?;
    product(&e, 0)?;
    docker_run()?;
    let mut all: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for n in 1..=rounds {
        all.entry("docker run").or_default().push(docker_run()?);
        all.entry("bare calls").or_default().push(bare.round().await?);
        all.entry("sypctl up").or_default().push(product(&e, n)?);
    }
    println!("{rounds} rounds, medians in ms           to first 200    removed");
    let mut up = BTreeMap::new();
    for (what, figures) in &all {
        let first = median(figures.iter().map(|f| f.0).collect());
        up.insert(*what, first);
        println!("{what:<36} {first:>12.1} {:>10.1}", median(figures.iter().map(|f| f.1).collect()));
    }
    println!(
        "sypctl up over the bare calls: {:+.1} ms (goal: at most +30)",
        up["sypctl up"] - up["bare calls"]
    );
    Ok(())
}
