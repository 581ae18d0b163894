//! An AWS for tests: one URL that an engine's clients are pointed to. Its CloudFormation keeps the rules of the real one, but what it makes
//! is real: tasks are containers of the local Docker that share a network namespace, and nginx is the load balancer before them. What
//! only holds data (secrets, certificates, roles, networks) is handed on to an emulator behind it.
//!
//! It shows what a program sees of AWS and what callers see of an instance. It does not show who may do what: roles are
//! only remembered, of security groups just that nobody but the load balancer finds an open port of a task but the gate's, and a call's signature is not looked at.
mod agent;
mod authority;
mod behind;
mod billing;
mod change_sets;
mod cloudformation;
mod definition;
mod docker;
mod ecs;
mod front;
mod http;
mod life;
mod logs;
mod network;
mod operation;
mod prices;
mod quotas;
mod relay;
mod scheduler;
mod tags;
mod task;
mod template;
mod wire;
mod world;

pub use behind::Program;
pub use world::Fault;

use crate::product::{pause, sh};
use anyhow::{Context, Result, bail};
use authority::Authority;
use behind::{Behind, Emulator};
use docker::Docker;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;
use world::Shared;

/// Whose containers and networks they are.
const LABEL: &str = "syp.test/bed";
/// Of which store's instance; never one of the product's own labels, which its sweeps would find.
const STORE_LABEL: &str = "syp.test/store";
/// The product's own, which tags of stacks have.
const STORE_TAG: &str = "syp.dev/store";
/// What is busy when the bed ends has so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bed. Dropping it takes everything down.
pub struct Bed {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    url: String,
    certificate: String,
    _emulator: Emulator,
    dir: tempfile::TempDir,
}

// === impl Bed ===

impl Bed {
    /// One region's; `None`: something is missing on this machine, it was said what.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(region: &str) -> Result<Option<Self>> {
        Self::of(region, Program::Ministack, false)
    }

    /// As [`Self::start`], but this emulator's CloudFormation has the stacks: it is asked for them, and it tells of them. The bed makes what
    /// is real of each.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn kept_by(region: &str, program: Program) -> Result<Option<Self>> {
        Self::of(region, program, true)
    }

    fn of(region: &str, program: Program, keeps: bool) -> Result<Option<Self>> {
        if std::env::var("SYP_TEST_DOCKER").as_deref() != Ok("1") {
            println!("SKIPPED: no Docker engine (SYP_TEST_DOCKER is not 1)");
            return Ok(None);
        }
        if std::env::var("SYP_TEST_AWS").as_deref() != Ok("1") {
            println!("SKIPPED: SYP_TEST_AWS is not 1 (tests/testbed/aws_suites.sh says it)");
            return Ok(None);
        }
        let Some(ministack) = std::env::var_os("SYP_TEST_MINISTACK").map(PathBuf::from) else {
            println!("SKIPPED: no emulator of AWS (SYP_TEST_MINISTACK does not say where one is)");
            return Ok(None);
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let emulator = Emulator::start(program, &ministack)?;
        let (dir, id) = (tempfile::tempdir()?, uuid::Uuid::new_v4().simple().to_string());
        let behind = Behind { at: emulator.at, region: region.to_owned(), keeps };
        let authority = Authority::new(&id)?;
        std::fs::write(dir.path().join("ca.pem"), authority.pem())?;
        let (account, certificate) = runtime.block_on(behind.furnish())?;
        let docker = Docker::new(&id);
        let shared = Arc::new(Shared::new(id, region, account, docker, behind, authority, dir.path().into()));
        // from here on there is something to take down
        let mut bed = Self {
            runtime: Some(runtime),
            shared,
            url: String::new(),
            certificate,
            _emulator: emulator,
            dir,
        };
        sh("docker", &["network", "create", "--label", &bed.label(), &bed.shared.docker.network()])?;
        bed.url = format!("http://{}", bed.wait(wire::serve(Arc::clone(&bed.shared)))??);
        let agent = bed.wait(agent::serve(Arc::clone(&bed.shared)))??;
        let _ = bed.shared.agent.set(agent);
        let shared = Arc::clone(&bed.shared);
        bed.runtime()?.spawn(task::listen(shared));
        Ok(Some(bed))
    }

    /// What the label `syp.test/bed` of its containers and networks says.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// Where all services answer.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What an engine needs in its environment.
    pub fn env(&self) -> Vec<(String, String)> {
        let ca = self.dir.path().join("ca.pem").display().to_string();
        [
            ("AWS_ENDPOINT_URL", self.url.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("AWS_REGION", &self.shared.region),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("SSL_CERT_FILE", &ca),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// The authority that signs what the load balancers show.
    pub fn ca_pem(&self) -> &str {
        self.shared.authority.pem()
    }

    /// ARN of a certificate for `*.example.com`.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The account that everything is in.
    pub fn account(&self) -> &str {
        &self.shared.account
    }

    /// What the emulator's CloudFormation tells of the newest stack of this store when it is asked by others: of each event the
    /// status and the resource's logical id.
    ///
    /// # Errors
    /// It does not answer.
    pub fn kept(&self, store: &str) -> Result<Vec<String>> {
        let mine = self.shared.see(|w| {
            let of = |s: &&world::Stack| s.shape.tags.get(STORE_TAG).is_some_and(|v| v == store);
            w.stacks.iter().rev().find(of).map(|s| s.id.clone())
        });
        let (behind, id) = (self.shared.behind.clone(), mine.context("no stack")?);
        self.wait(async move { relay::events(&behind, &id).await })?
    }

    /// `SERVICE:ACTION` of every call so far, with the words of IAM's actions (`tag:GetResources`).
    pub fn calls(&self) -> Vec<String> {
        self.shared.see(|w| w.calls.clone())
    }

    /// To one of the calls of this name that are to come: 0 is the next.
    pub fn fault(&self, call: &str, nth: usize, fault: Fault) {
        self.shared.with(|w| w.faults.push((call.to_owned(), nth, fault)));
    }

    /// From now on to the first calls of each name; `None`: no more. How many calls of each name the one before has met.
    pub fn plague(&self, fault: Option<Fault>) -> BTreeMap<String, usize> {
        self.shared.with(|w| {
            w.plague = fault;
            std::mem::take(&mut w.met)
        })
    }

    /// Somebody changes a property of the one living stack's resource by hand; without a path, back.
    pub fn tamper(&self, logical: &str, path: &str, value: &str) {
        self.shared.with(|w| {
            let living = w.stacks.iter_mut().find(|s| s.status != "DELETE_COMPLETE");
            let Some(s) = living else { return };
            s.tampered.remove(logical);
            if !path.is_empty() {
                s.tampered.insert(logical.to_owned(), (path.to_owned(), value.to_owned()));
            }
        });
    }

    /// What CloudWatch has of a load balancer's requests, of the one living stack, and of its service's processors.
    ///
    /// # Errors
    /// The emulator does not answer.
    pub fn measured(&self, requests: f64, cpu_percent: f64) -> Result<()> {
        let (behind, of) = (
            self.shared.behind.clone(),
            self.shared.see(|w| {
                let stack = w.stacks.iter().find(|s| s.status != "DELETE_COMPLETE")?;
                let of = |key: &str| stack.shape.outputs.get(key).cloned().unwrap_or_default();
                Some((of("LoadBalancerArn"), of("ClusterName"), of("ServiceName")))
            }),
        );
        let (balancer, cluster, service) = of.context("no stack")?;
        self.wait(async move {
            let balancer = balancer.split_once("loadbalancer/").map(|(_, tail)| tail).unwrap_or_default();
            let of = [("LoadBalancer", balancer)];
            behind.measured("AWS/ApplicationELB", "RequestCount", &of, requests).await?;
            let of = [("ClusterName", cluster.as_str()), ("ServiceName", service.as_str())];
            behind.measured("AWS/ECS", "CPUUtilization", &of, cpu_percent).await
        })?
    }

    /// Of a minute and a half ago: so many bytes through the load balancer, and so many of log lines.
    ///
    /// # Errors
    /// The emulator does not answer.
    pub fn used(&self, bytes: f64, log_bytes: f64) -> Result<()> {
        let (behind, of) = (
            self.shared.behind.clone(),
            self.shared.see(|w| {
                let stack = w.stacks.iter().find(|s| s.status != "DELETE_COMPLETE")?;
                Some((stack.shape.outputs.get("LoadBalancerArn").cloned()?, stack.name.clone()))
            }),
        );
        let (balancer, stack) = of.context("no stack")?;
        self.wait(async move {
            let balancer = balancer.split_once("loadbalancer/").map(|(_, tail)| tail).unwrap_or_default();
            let of = [("LoadBalancer", balancer)];
            behind.measured("AWS/ApplicationELB", "ProcessedBytes", &of, bytes).await?;
            let group = stack.replacen("sypctl-", "/sypctl/", 1);
            behind.measured("AWS/Logs", "IncomingBytes", &[("LogGroupName", &group)], log_bytes).await
        })?
    }

    /// So many vCPU the account's tasks may have, and so many others have.
    ///
    /// # Errors
    /// The emulator does not answer.
    pub fn room(&self, limit: f64, others: f64) -> Result<()> {
        self.shared.with(|w| w.room = quotas::Room { limit, others });
        let behind = self.shared.behind.clone();
        self.wait(async move { behind.measured("AWS/Usage", "ResourceCount", &quotas::USAGE, others).await })?
    }

    /// From now on each status that passes stays at least so long.
    pub fn slow(&self, pause: Duration) {
        self.shared.with(|w| w.slow = pause);
    }

    /// What still carries the tag of a store, and containers that belong to it.
    ///
    /// # Errors
    /// Docker or the emulator do not answer.
    pub fn left(&self, store: &str) -> Result<Vec<String>> {
        let shared = Arc::clone(&self.shared);
        let wanted = vec![(STORE_TAG.to_owned(), vec![store.to_owned()])];
        let tagged = self.wait(async move { tags::tagged(&shared, &wanted).await })?;
        let mut out: Vec<String> =
            tagged.map_err(anyhow::Error::msg)?.into_iter().map(|(arn, _)| arn).collect();
        let (bed, store) = (self.filter(), format!("label={STORE_LABEL}={store}"));
        let args = ["ps", "-a", "--filter", &bed, "--filter", &store, "--format", "container {{.Names}}"];
        out.extend(sh("docker", &args)?.lines().map(str::to_owned));
        Ok(out)
    }

    /// Every load balancer: its domain, and where it is.
    pub fn fronts(&self) -> BTreeSet<(String, Ipv4Addr)> {
        self.shared.see(|w| w.fronts.values().map(|f| (f.domain.clone(), f.address)).collect())
    }

    /// Where a domain's load balancer answers, on ports 443 and 80.
    pub fn front(&self, domain: &str) -> Option<Ipv4Addr> {
        self.shared.see(|w| w.fronts.values().find(|f| f.domain == domain).map(|f| f.address))
    }

    /// Arguments with which `curl` takes a domain's load balancer for the domain, and believes it.
    ///
    /// # Errors
    /// It has none.
    pub fn curl(&self, domain: &str) -> Result<Vec<String>> {
        let at = self.front(domain).with_context(|| format!("{domain} has no load balancer"))?;
        let ca = self.dir.path().join("ca.pem").display().to_string();
        Ok(vec!["--cacert".into(), ca, "--resolve".into(), format!("{domain}:443:{at}")])
    }

    /// Addresses that a domain's load balancer sends requests to.
    pub fn task_addresses(&self, domain: &str) -> Vec<Ipv4Addr> {
        self.shared.see(|w| {
            w.fronts.values().find(|f| f.domain == domain).map(|f| f.applied.clone()).unwrap_or_default()
        })
    }

    fn label(&self) -> String {
        format!("{LABEL}={}", self.shared.id)
    }

    fn filter(&self) -> String {
        format!("label={}", self.label())
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.runtime.as_ref().context("the bed has ended")
    }

    /// Runs it in the bed's own runtime: the caller may have one too.
    fn wait<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::channel();
        self.runtime()?.spawn(async move {
            let _ = done.send(work.await);
        });
        result.recv().context("the bed's work ended early")
    }

    /// All containers, until there are none: a command that was under way may have made one more.
    fn sweep(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ids = sh("docker", &["ps", "-aq", "--filter", &self.filter()])?;
            let ids: Vec<&str> = ids.split_whitespace().collect();
            if ids.is_empty() && self.shared.docker.busy() == 0 {
                break;
            }
            if Instant::now() > end {
                bail!("containers of the bed do not go: {ids:?}");
            }
            if !ids.is_empty() {
                let _ = sh("docker", &[&["rm", "-f", "-v"][..], &ids].concat());
            }
            pause(50);
        }
        let networks = sh("docker", &["network", "ls", "-q", "--filter", &self.filter()])?;
        for id in networks.split_whitespace() {
            sh("docker", &["network", "rm", id])?;
        }
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.shared.docker.close();
        self.shared.with(|w| w.closing = true);
        if let Err(e) = self.sweep() {
            println!("the bed left something behind: {e:#}");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

type Tags = BTreeMap<String, String>;
