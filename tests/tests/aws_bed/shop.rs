//! One instance of the product's template on the bed, with the calls that the target makes for it.
use anyhow::{Context, Result, bail, ensure};
use aws_credential_types::Credentials;
use aws_sdk_cloudformation::config::{BehaviorVersion, Region};
use aws_sdk_ecs::types::Task;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};
use syp_auth::{Rule, door::GateStatus, machine, remote};
use syp_engine::{
    id::{InstanceId, StoreId},
    step::Owner,
};
use syp_proto::v1::{InstanceSpec, Scaling};
use syp_steps::aws::{
    names,
    stack::{Stack, Stacks, Wanted},
    template::{Site, render},
    variants,
};
use syp_tests::{aws_bed::Bed, product::get};
use tokio::runtime::Runtime;

pub const REGION: &str = "us-east-1";
const TOKEN: &str = "the-admin-token-of-the-tests";
/// Longer than any stack takes here.
const LIMIT: Duration = Duration::from_secs(300);

/// The instance, and whom it is asked of.
pub struct Shop {
    pub runtime: Runtime,
    pub stacks: Stacks,
    pub ecs: aws_sdk_ecs::Client,
    url: String,
    pub tags: aws_sdk_resourcegroupstagging::Client,
    secrets: aws_sdk_secretsmanager::Client,
    pub owner: Owner,
    pub site: Site,
    /// What callers get in with.
    token: String,
}

macro_rules! client {
    ($sdk:ident, $url:expr) => {
        $sdk::Client::from_conf(
            $sdk::Config::builder()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(REGION))
                .endpoint_url($url)
                .credentials_provider(Credentials::new("test", "test", None, None, "test"))
                .build(),
        )
    };
}

/// A bed and the gate's image; `None`: something is missing, it was said what.
pub fn bed() -> Result<Option<(Bed, String)>> {
    let Ok(gate) = std::env::var("SYP_GATE_IMAGE") else {
        println!("SKIPPED: SYP_GATE_IMAGE does not say which image the gate is");
        return Ok(None);
    };
    Ok(Bed::start(REGION)?.map(|bed| (bed, gate)))
}

/// One that listens on a port, with so many tasks.
pub fn spec(env: &str, port: i32, tasks: i32) -> InstanceSpec {
    InstanceSpec {
        port,
        env: [("REVISION".to_owned(), env.to_owned())].into(),
        scaling: Some(Scaling { min: tasks, max: tasks, ..Default::default() }),
        ..variants::spec()
    }
}

/// Of an application's container.
pub fn exit_code(t: &Task) -> Option<i32> {
    t.containers().iter().find(|c| c.name() == Some("app"))?.exit_code()
}

// === impl Shop ===

impl Shop {
    /// Its secret is there, and nothing else.
    pub fn new(bed: &Bed, gate_image: &str, domain: &str) -> Result<Self> {
        let url = bed.url();
        let uid = InstanceId::random();
        let owner = Owner { store: StoreId::random(), uid, ..variants::owner() };
        let role = format!("arn:aws:iam::{}:role/sypctl/sypctl-cloudformation", bed.account());
        let (token, digest) = machine::generate().map_err(anyhow::Error::msg)?;
        let mut it = Self {
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()?,
            stacks: Stacks::new(client!(aws_sdk_cloudformation, url), &role, Duration::from_millis(200)),
            ecs: client!(aws_sdk_ecs, url),
            url: url.to_owned(),
            tags: client!(aws_sdk_resourcegroupstagging, url),
            secrets: client!(aws_sdk_secretsmanager, url),
            owner,
            site: Site {
                domain: domain.into(),
                certificate: bed.certificate().into(),
                gate_image: gate_image.into(),
                ..variants::site()
            },
            token: token.expose_secret().to_owned(),
        };
        it.site.gate_secret = it.secret(&digest)?;
        Ok(it)
    }

    /// What the gate begins with: one machine token gets in, and nobody else.
    fn secret(&self, digest: &[u8]) -> Result<String> {
        let sha256: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        let config = json!({
            "generation": 1, "instance_uid": self.owner.uid.to_string(), "instance_name": self.owner.name,
            "audiences": ["shop"], "issuers": [], "upstreams": [],
            "policy": { "rules": [Rule::allow("callers", vec!["token:caller".into()])] },
            "tokens": [{ "id": "caller", "sha256": sha256, "expires_at": syp_auth::unix_now() + 3_600 }],
        });
        let value = json!({ "token": TOKEN, "config": config.to_string() }).to_string();
        let tag = |k: &str, v: &str| aws_sdk_secretsmanager::types::Tag::builder().key(k).value(v).build();
        let ask = self.secrets.create_secret().name(names::secret(&self.owner, "gate")).secret_string(value);
        let ask = ask.tags(tag("syp.dev/store", self.owner.store.as_str()));
        Ok(self.runtime.block_on(ask.send())?.arn().context("an ARN")?.to_owned())
    }

    /// Runs what has an end here.
    pub fn soon<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, work).await }).context("it takes too long")
    }

    /// Brings its stack there.
    pub fn bring(&self, spec: &InstanceSpec, image: &str, token: &str) -> Result<Stack> {
        self.bring_for(LIMIT, spec, image, token)
    }

    /// Brings its stack there, and gives up after some time.
    pub fn bring_for(&self, limit: Duration, spec: &InstanceSpec, image: &str, token: &str) -> Result<Stack> {
        let site = Site { image: image.into(), ..self.site.clone() };
        let (template, digest) = render(&self.owner, spec, &site);
        let wanted = Wanted { owner: &self.owner, template: &template, digest: &digest, token };
        let work = self.stacks.bring(&wanted, &|_| {});
        let done = self.runtime.block_on(async { tokio::time::timeout(limit, work).await });
        done.context("it takes too long")?.map_err(|f| anyhow::anyhow!("{}: {}", f.reason, f.message))
    }

    /// A change that fails and is taken back; why.
    pub fn fails(&self, spec: &InstanceSpec, image: &str, token: &str) -> Result<String> {
        match self.bring(spec, image, token) {
            Ok(stack) => bail!("{image} was expected to fail: {stack:?}"),
            Err(e) => Ok(format!("{e:#}")),
        }
    }

    /// Takes its stack away, then what no stack owns, as the target's sweep does.
    pub fn remove(&self) -> Result<()> {
        let done = self.soon(self.stacks.remove(&self.owner, None, &|_| {}))?;
        let (_, kept) = done.map_err(|f| anyhow::anyhow!("{}: {}", f.reason, f.message))?;
        ensure!(kept.is_empty(), "{kept:?}");
        self.runtime.block_on(async {
            let secret = self.secrets.delete_secret().secret_id(&self.site.gate_secret);
            secret.force_delete_without_recovery(true).send().await?;
            let list = self.ecs.list_task_definitions().family_prefix(names::stack(&self.owner));
            let arns = list.status("INACTIVE".into()).send().await?.task_definition_arns().to_vec();
            let gone = self.ecs.delete_task_definitions().set_task_definitions(Some(arns)).send().await?;
            ensure!(gone.failures().is_empty(), "{gone:?}");
            Ok(())
        })
    }

    /// Arguments of curl for a caller who may come in.
    pub fn caller(&self, bed: &Bed) -> Result<Vec<String>> {
        let mut args = bed.curl(&self.site.domain)?;
        args.extend(["-H".into(), format!("Authorization: Bearer {}", self.token)]);
        Ok(args)
    }

    /// As somebody who may come in.
    pub fn ask(&self, bed: &Bed, path: &str, more: &[&str]) -> Result<(u16, String)> {
        self.asked(path, &self.caller(bed)?, more)
    }

    /// As anybody.
    pub fn ask_as_stranger(&self, bed: &Bed, path: &str, more: &[&str]) -> Result<(u16, String)> {
        self.asked(path, &bed.curl(&self.site.domain)?, more)
    }

    fn asked(&self, path: &str, args: &[String], more: &[&str]) -> Result<(u16, String)> {
        let args: Vec<&str> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
        get(&format!("https://{}{path}", self.site.domain), None, &args)
    }

    /// What the gate says to its engine.
    pub fn status(&self, bed: &Bed) -> Result<GateStatus> {
        let signature = remote::sign(TOKEN, "GET", "/status", syp_auth::unix_now(), b"");
        let header = format!("Authorization: {signature}");
        let (code, body) = self.ask_as_stranger(bed, "/_syp/admin/status", &["-H", &header])?;
        ensure!(code == 200, "{code}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Its tasks that shall run, or shall not.
    pub fn tasks(&self, stack: &Stack, desired: &str) -> Result<Vec<Task>> {
        let (cluster, service) = (&stack.outputs["ClusterName"], &stack.outputs["ServiceName"]);
        self.runtime.block_on(async {
            let list = self.ecs.list_tasks().cluster(cluster).service_name(service);
            let arns = list.desired_status(desired.into()).send().await?.task_arns().to_vec();
            if arns.is_empty() {
                return Ok(vec![]);
            }
            let told = self.ecs.describe_tasks().cluster(cluster).set_tasks(Some(arns)).send().await?;
            Ok(told.tasks().to_vec())
        })
    }

    /// Lines of streams that begin so.
    pub fn lines(&self, prefix: &str) -> Result<Vec<String>> {
        let ask =
            json!({ "logGroupName": names::logs(&self.owner), "logStreamNamePrefix": prefix }).to_string();
        let target = "X-Amz-Target: Logs_20140328.FilterLogEvents";
        let (code, said) = get(&self.url, None, &["-H", target, "-d", &ask])?;
        ensure!(code == 200, "{code}: {said}");
        let said: Value = serde_json::from_str(&said)?;
        let all = said["events"].as_array().into_iter().flatten();
        Ok(all.filter_map(|e| e["message"].as_str().map(str::to_owned)).collect())
    }
}

/// Callers who never stop; what they saw besides 200.
pub struct Callers {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<(usize, Vec<String>)>>,
}

// === impl Callers ===

impl Callers {
    /// One with a new connection for each request, and one with several requests on each.
    pub fn start(shop: &Shop, bed: &Bed) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (args, url) = (shop.caller(bed)?, format!("https://{}/", shop.site.domain));
        let again: Vec<String> = args.iter().cloned().chain(vec![url.clone(); 19]).collect();
        let threads = [(args, 1), (again, 20)]
            .map(|(args, each)| {
                thread::spawn({
                    let (url, stop) = (url.clone(), Arc::clone(&stop));
                    move || call(&url, &args, each, &stop)
                })
            })
            .into();
        Ok(Self { stop, threads })
    }

    /// Nobody has seen anything but answers of the app.
    pub fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for t in self.threads {
            let Ok((sent, lost)) = t.join() else { bail!("the callers broke down") };
            ensure!(lost.is_empty() && sent > 20, "{} of {sent} lost: {lost:?}", lost.len());
        }
        Ok(())
    }
}

fn call(url: &str, args: &[String], each: usize, stop: &AtomicBool) -> (usize, Vec<String>) {
    let (mut sent, mut lost) = (0, vec![]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    while !stop.load(Ordering::Relaxed) {
        sent += each;
        match get(url, None, &args) {
            Ok((200, said)) if said.matches("hello from syp").count() == each => {}
            other => lost.push(format!("{other:?}")),
        }
    }
    (sent, lost)
}
