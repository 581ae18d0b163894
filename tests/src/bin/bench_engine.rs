//! The engine as the side-by-side benchmark drives it: the real store, scheduler and worker with steps that do nothing.
//!
//! `bench_engine STORE_DIR idle | seq N | conc C SECONDS | rec PREFIX FROM TO | park PREFIX FROM TO`, with the environment
//! variables SIDE (file that steps append to) and GATE (file that a step waits for). Prints READY, then one JSON line where a figure is asked for.
use anyhow::{Context, Result, bail};
use futures_util::{StreamExt, future::BoxFuture, stream};
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use syp_engine::{
    clock::Clock,
    door::Door,
    engine::{Caller, Engine, NewInstance, Options},
    events::Recorder,
    fault::NoFaults,
    fold::GATE_GENERATION,
    graph::{RunKind, State},
    id::{InstanceId, StoreId},
    plan::{Plan, PlanNode, Policy},
    step::{
        Done, DynStep, Have, Held, LogLines, LogQuery, News, Observed, Of, Owner, Preflight, Stats, Step,
        StepCx, Target,
    },
    store::{SledKv, open},
    vault::Vault,
};
use syp_proto::{
    journal::{Failure, Found, LedgerRow},
    v1,
};

const STEPS: usize = 10;
const WARM_UP: usize = 20;

/// What the steps of one process do.
struct Bench {
    side: Option<File>,
    gate: PathBuf,
    durations: parking_lot::Mutex<Vec<f64>>,
    steps: AtomicU64,
    /// When the last step of an instance ended, for the time of the next one.
    last: parking_lot::Mutex<BTreeMap<InstanceId, Instant>>,
    measure: bool,
}

impl Bench {
    fn say(&self, line: &str) {
        if let Some(mut f) = self.side.as_ref() {
            // one write per line: readers count lines
            let _ = f.write_all(format!("{line}\n").as_bytes());
        }
    }
}

struct BenchTarget(Arc<Bench>);
struct BenchStep(Arc<Bench>);

impl Step for BenchStep {
    fn kind(&self) -> &'static str {
        "bench.step@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let b = &self.0;
        if b.measure {
            let now = Instant::now();
            let before = b.last.lock().insert(cx.owner.uid, now);
            if let Some(before) = before {
                b.durations.lock().push((now - before).as_secs_f64() * 1e3);
            }
        }
        b.steps.fetch_add(1, Ordering::Relaxed);
        let (mode, n) = (cx.spec.image.as_str(), cx.node.trim_start_matches('s'));
        let name = &cx.owner.name;
        match mode {
            "conc" => b.say("c"),
            "park" => b.say(&format!("{name} parked")),
            "rec" if n == "5" => {
                b.say(&format!("{name} 5 enter"));
                while !b.gate.exists() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                b.say(&format!("{name} 5 done"));
            }
            "rec" => {
                b.say(&format!("{name} {n}"));
                if n == "9" {
                    b.say(&format!("{name} fin"));
                }
            }
            _ => {}
        }
        let last = n == (STEPS - 1).to_string() || mode == "park";
        let outputs = if last {
            serde_json::json!({ GATE_GENERATION: cx.gate.generation })
        } else {
            serde_json::Value::Null
        };
        Ok(Done { outputs, ..Default::default() })
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}

impl Target for BenchTarget {
    fn name(&self) -> &'static str {
        "bench"
    }

    fn step(&self, _: &str) -> Option<Arc<dyn DynStep>> {
        Some(Arc::new(BenchStep(Arc::clone(&self.0))))
    }

    fn kinds(&self) -> Vec<&'static str> {
        vec!["bench.step@1"]
    }

    fn plan(
        &self,
        _: RunKind,
        _: &Owner,
        spec: &v1::InstanceSpec,
        _: &serde_json::Value,
        _: &Have<'_>,
    ) -> Plan {
        let steps = if spec.image == "park" { 1 } else { STEPS };
        let nodes = (0..steps).map(|n| PlanNode {
            id: format!("s{n}"),
            kind: "bench.step@1".into(),
            after: if n == 0 { vec![] } else { vec![format!("s{}", n - 1)] },
            policy: Some(Policy { attempt_timeout_ms: 86_400_000, max_attempts: 3, ..Default::default() }),
            ..Default::default()
        });
        Plan { target: "bench".into(), version: 1, nodes: nodes.collect() }
    }

    fn preflight<'a>(
        &'a self,
        _: &'a Owner,
        spec: &'a v1::InstanceSpec,
        _: Option<&'a Held<'a>>,
    ) -> BoxFuture<'a, Result<Preflight, Failure>> {
        Box::pin(async move { Ok(Preflight { spec: spec.clone(), ..Default::default() }) })
    }

    fn list<'a>(&'a self, _: &'a StoreId, _: Option<Of<'a>>) -> BoxFuture<'a, Result<Vec<Found>, Failure>> {
        Box::pin(async move { Ok(vec![]) })
    }

    fn remove<'a>(&'a self, _: &'a StoreId, _: &'a Found) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn push_gate<'a>(&'a self, _: &'a StepCx) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }

    fn stats<'a>(&'a self, _: &'a StepCx) -> BoxFuture<'a, Result<Stats, Failure>> {
        Box::pin(async { Ok(Stats::default()) })
    }

    fn logs<'a>(&'a self, _: &'a StepCx, _: LogQuery) -> BoxFuture<'a, Result<LogLines, Failure>> {
        Box::pin(async { Ok(stream::empty().boxed()) })
    }

    fn check(&self) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async move { Ok("bench".into()) })
    }

    fn changes<'a>(&'a self, _: &'a StoreId) -> BoxFuture<'a, Result<News, Failure>> {
        Box::pin(async { Ok(stream::pending().boxed()) })
    }
}

async fn start(e: &Engine, mode: &str, name: &str) -> Result<InstanceId> {
    let uid = InstanceId::random();
    let new = NewInstance {
        project: "b".into(),
        name: name.into(),
        uid,
        labels: BTreeMap::new(),
        spec: v1::InstanceSpec { target: "bench".into(), image: mode.into(), port: 1, ..Default::default() },
        facts: serde_json::Value::Null,
        hourly: Default::default(),
        expire_ms: 0,
        deadline_ms: 86_400_000,
        bound: Default::default(),
    };
    e.create(&Caller { actor: "bench".into(), ..Default::default() }, new).await?;
    Ok(uid)
}

async fn until_serving(e: &Engine, id: InstanceId) -> Result<()> {
    let Some(cell) = e.cell(id) else { bail!("instance") };
    loop {
        let changed = cell.changed();
        if cell.get().state() == State::Serving {
            return Ok(());
        }
        changed.await;
    }
}

async fn seq(e: &Engine, b: &Bench, n: usize) -> Result<()> {
    let mut wf = Vec::new();
    for i in 0..WARM_UP + n {
        if i == WARM_UP {
            b.durations.lock().clear();
            b.last.lock().clear();
        }
        let t = Instant::now();
        let id = start(e, "seq", &format!("w{i}")).await?;
        until_serving(e, id).await?;
        if i >= WARM_UP {
            wf.push(t.elapsed().as_secs_f64() * 1e3);
        }
    }
    println!("{}", serde_json::json!({ "wf": wf, "steps": *b.durations.lock() }));
    Ok(())
}

async fn conc(e: &Engine, b: &Arc<Bench>, c: usize, seconds: f64) -> Result<()> {
    let end = Instant::now() + Duration::from_secs_f64(1.5 + seconds);
    let warm = Instant::now() + Duration::from_millis(1_500);
    let wf = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..c)
        .map(|k| {
            let (e, wf) = (e.clone(), Arc::clone(&wf));
            tokio::spawn(async move {
                let mut i = 0;
                while Instant::now() < end {
                    let t = Instant::now();
                    let id = start(&e, "conc", &format!("c{k}-{i}")).await?;
                    until_serving(&e, id).await?;
                    if t > warm {
                        wf.lock().push(t.elapsed().as_secs_f64() * 1e3);
                    }
                    i += 1;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    b.durations.lock().clear();
    let (from, t) = (b.steps.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let rate = (b.steps.load(Ordering::Relaxed) - from) as f64 / t.elapsed().as_secs_f64();
    for t in tasks {
        t.await??;
    }
    println!(
        "{}",
        serde_json::json!({ "wf": *wf.lock(), "steps": *b.durations.lock(), "steps_per_s": rate })
    );
    Ok(())
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, cmd, rest @ ..] = &args[..] else { bail!("bench_engine STORE_DIR CMD ARGS") };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(run(Path::new(dir), cmd, rest))
}

async fn run(dir: &Path, cmd: &str, rest: &[String]) -> Result<()> {
    let side =
        std::env::var_os("SIDE").map(|p| OpenOptions::new().create(true).append(true).open(p)).transpose()?;
    let b = Arc::new(Bench {
        side,
        gate: std::env::var_os("GATE").map(PathBuf::from).unwrap_or_default(),
        durations: Default::default(),
        steps: AtomicU64::new(0),
        last: Default::default(),
        measure: matches!(cmd, "seq" | "conc"),
    });
    let store = open(Arc::new(SledKv::open(dir)?))?;
    let e = Engine::start(Options {
        store,
        targets: vec![Arc::new(BenchTarget(Arc::clone(&b)))],
        resolve: None,
        clock: Clock::System,
        faults: Arc::new(NoFaults),
        door: Arc::new(Door::new(None)),
        vault: Vault::new(&vec![7; 32].into()),
    })
    .await?;
    println!("READY");
    std::io::stdout().flush()?;
    let number = |n: usize| rest.get(n).context("argument")?.parse::<f64>().context("number");
    match cmd {
        "idle" => {}
        "seq" => return seq(&e, &b, number(0)? as usize).await,
        "conc" => return conc(&e, &b, number(0)? as usize, number(1)?).await,
        "rec" | "park" => {
            let prefix = rest.first().context("prefix")?;
            for chunk in ((number(1)? as u64)..(number(2)? as u64)).collect::<Vec<_>>().chunks(256) {
                let all = chunk.iter().map(|i| {
                    let (e, name) = (e.clone(), format!("{prefix}{i}"));
                    let mode = cmd.to_owned();
                    async move { start(&e, &mode, &name).await.map(drop) }
                });
                futures_util::future::try_join_all(all).await?;
            }
        }
        other => bail!("unknown command {other}"),
    }
    std::future::pending().await
}
