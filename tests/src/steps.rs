//! What every step of every target must bear: `destroy` before anything was made, `apply` twice, `destroy` twice.
use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use syp_auth::{door::Mode, local::LocalIssuer};
use syp_engine::{
    door::Door,
    events::Recorder,
    graph::RunKind,
    id::{InstanceId, StoreId},
    step::{Done, DynStep, Have, Observed, Owner, StepCx, Target, Waiting},
    store::{Commit, MemKv, Store, open_inline},
    vault::{Secrets, Vault},
};
use syp_proto::{
    journal::{Failure, Instance, LedgerRow, PlanNode},
    v1,
};
use tokio_util::sync::CancellationToken;

struct Walk<'a> {
    target: &'a dyn Target,
    owner: Owner,
    spec: Arc<v1::InstanceSpec>,
    facts: Value,
    door: Door,
    outputs: BTreeMap<String, Value>,
    vault: Arc<Vault>,
    store: Arc<dyn Store>,
    routes: String,
    generation: u64,
    kinds: BTreeSet<String>,
}

/// Walks the plan of a spec forth and back, everything twice. The kinds that were met come back, for the coverage gate.
///
/// # Errors
/// What a step does not bear.
pub async fn twice(target: &dyn Target, spec: v1::InstanceSpec) -> Result<BTreeSet<String>> {
    let owner = Owner {
        store: StoreId::random(),
        uid: InstanceId::random(),
        name: "twice".into(),
        revision: "twice-1".into(),
    };
    let ready = target.preflight(&owner, &spec, None).await.map_err(said("preflight"))?;
    let dir = tempfile::tempdir()?;
    let issuer = LocalIssuer::open(dir.path().join("key"), owner.store.as_str())?;
    let door = Door::new(None);
    door.set_issuers(issuer.config(), vec![]);
    let (vault, store) = (Vault::new(&vec![7; 32].into()), open_inline(Arc::new(MemKv::default()))?);
    let mut spec = ready.spec;
    let kept = vault.take(owner.uid, 1, &mut spec.secrets, 0).map_err(said("seal"))?;
    let sealed = kept.into_iter().map(Into::into).collect();
    store.commit(Commit { sealed, ..Default::default() }).await?;
    let mut w = Walk {
        target,
        owner,
        spec: Arc::new(spec),
        facts: ready.facts,
        door,
        outputs: BTreeMap::new(),
        vault,
        store,
        routes: String::new(),
        generation: 1,
        kinds: BTreeSet::new(),
    };
    let nodes = target.plan(RunKind::Provision, &w.owner, &w.spec, &w.facts, &Have::nothing()).nodes;
    let made = match w.forth(RunKind::Provision).await {
        Ok(()) => w.fewer(&nodes).await,
        failed => failed,
    };
    // whatever happened, nothing of the test stays
    let drained = if made.is_ok() { w.forth(RunKind::Teardown).await.map(drop) } else { Ok(()) };
    let gone = w.back(&nodes).await;
    made?;
    drained?;
    gone?;
    let left = target.list(&w.owner.store, None).await.map_err(said("list"))?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(w.kinds)
}

fn said(what: &str) -> impl FnOnce(Failure) -> anyhow::Error {
    let what = what.to_owned();
    move |f| anyhow!("{what}: {} {}", f.reason, f.message)
}

impl Walk<'_> {
    fn step(&self, node: &PlanNode) -> Result<Arc<dyn DynStep>> {
        self.target.step(&node.kind).with_context(|| format!("no step {}", node.kind))
    }

    fn cx(&self, node: &PlanNode) -> StepCx {
        let projection = Instance {
            uid: self.owner.uid.to_string(),
            name: self.owner.name.clone(),
            spec: Some((*self.spec).clone()),
            gate_generation: self.generation,
            ..Default::default()
        };
        StepCx {
            owner: self.owner.clone(),
            spec: Arc::clone(&self.spec),
            run: 1,
            node: node.id.clone(),
            params: serde_json::from_str(&node.params).unwrap_or(Value::Null),
            facts: self.facts.clone(),
            outputs: Arc::new(self.outputs.clone()),
            gate: self.door.config(&projection, Mode::Serve, 1_000),
            cancel: CancellationToken::new(),
            waiting: Waiting::default(),
            events: Recorder::default(),
            routes: serde_json::from_str(&self.routes).unwrap_or(Value::Null),
            secrets: Secrets::new(
                Arc::clone(&self.vault),
                Arc::clone(&self.store),
                self.owner.uid,
                "default",
            ),
            live: Arc::new(self.outputs.keys().cloned().collect()),
            grace: Duration::from_secs(1),
        }
    }

    fn row(&self, node: &PlanNode, handle: &str) -> LedgerRow {
        LedgerRow {
            node: node.id.clone(),
            kind: node.kind.clone(),
            key: key(node).into(),
            params: node.params.clone(),
            handle: handle.into(),
            ..Default::default()
        }
    }

    async fn forth(&mut self, kind: RunKind) -> Result<()> {
        let nodes = self.target.plan(kind, &self.owner, &self.spec, &self.facts, &Have::nothing()).nodes;
        self.walk(nodes).await
    }

    /// To one replica: what only an update does, without what it makes.
    async fn fewer(&mut self, made: &[PlanNode]) -> Result<()> {
        let effects = made.iter().filter(|n| n.effect.is_some());
        let rows: Vec<_> = effects
            .enumerate()
            .map(|(at, n)| LedgerRow {
                ordinal: u32::try_from(at).unwrap_or(0),
                outputs: self.outputs.get(&n.id).map_or_else(String::new, Value::to_string),
                ..self.row(n, "")
            })
            .collect();
        let one = Some(v1::Scaling { min: 1, max: 1, ..Default::default() });
        let spec = v1::InstanceSpec { scaling: one, ..(*self.spec).clone() };
        let have = Have {
            ledger: &rows,
            revision: 2,
            routes: &self.routes.clone(),
            serving: Some(&self.spec.clone()),
        };
        let mut nodes = self.target.plan(RunKind::Update, &self.owner, &spec, &self.facts, &have).nodes;
        nodes.retain(|n| n.effect.is_none() && n.retires.is_none());
        self.walk(nodes).await
    }

    async fn walk(&mut self, nodes: Vec<PlanNode>) -> Result<()> {
        for node in nodes {
            if !node.routes.is_empty() {
                self.routes.clone_from(&node.routes);
                self.generation += 1;
            }
            self.node(&node).await.with_context(|| format!("{} ({})", node.id, node.kind))?;
            self.kinds.insert(node.kind.clone());
        }
        Ok(())
    }

    async fn node(&mut self, node: &PlanNode) -> Result<()> {
        let (step, cx) = (self.step(node)?, self.cx(node));
        let has_effect = node.effect.is_some();
        if has_effect {
            let was = step
                .destroy(&self.owner, &self.row(node, ""), &Recorder::default())
                .await
                .map_err(said("destroy before apply"))?;
            ensure!(!was, "destroy before apply found something");
        }
        let first = step.apply(&cx, key(node)).await.map_err(said("apply"))?;
        let second = step.apply(&cx, key(node)).await.map_err(said("second apply"))?;
        ensure!(second.handle == first.handle, "a second apply made another one");
        if has_effect {
            let seen = step.observe(&cx, key(node)).await.map_err(said("observe"))?;
            ensure!(
                matches!(&seen, Observed::Present { ours: true, healthy: true, .. }),
                "after apply: {seen:?}"
            );
        }
        let Done { outputs, .. } = second;
        self.outputs.insert(node.id.clone(), outputs);
        Ok(())
    }

    async fn back(&self, nodes: &[PlanNode]) -> Result<()> {
        for node in nodes.iter().rev().filter(|n| n.effect.is_some()) {
            let step = self.step(node)?;
            let row = self.row(node, "");
            let found = self.outputs.contains_key(&node.id);
            let first =
                step.destroy(&self.owner, &row, &Recorder::default()).await.map_err(said(&node.id))?;
            ensure!(first || !found, "destroy of {} did not find it", node.id);
            let again =
                step.destroy(&self.owner, &row, &Recorder::default()).await.map_err(said(&node.id))?;
            ensure!(!again, "a second destroy of {} found something", node.id);
            let seen = step.observe(&self.cx(node), key(node)).await.map_err(said(&node.id))?;
            ensure!(seen == Observed::Absent, "{} after destroy: {seen:?}", node.id);
        }
        Ok(())
    }
}

fn key(node: &PlanNode) -> &str {
    node.effect.as_ref().map_or("", |e| e.key.as_str())
}
