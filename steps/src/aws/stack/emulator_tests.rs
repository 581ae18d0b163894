//! The same on emulators of AWS that others wrote: their protocol, their events and their refusals are not ours. What each can't prove is in
//! ARCHITECTURE.md.
use super::{
    tests::{Template, bring, client, stacks_at, template},
    *,
};
use crate::aws::{
    change_set,
    clients::Clients,
    template::{Site, render},
    variants,
};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use serde_json::json;
use std::{
    ffi::OsStr,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};
use syp_engine::id::InstanceId;
use syp_proto::v1::InstanceSpec;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A process that is ended with it.
pub(in crate::aws) struct Emulator {
    pub url: String,
    process: Child,
}

// === impl Emulator ===

impl Emulator {
    /// One whose stacks are made of resources with events; `judges`: it evaluates policies. `None` where there is none.
    pub(in crate::aws) async fn ministack(judges: bool) -> Option<Self> {
        let port = free();
        let (port_text, judges) = (port.to_string(), judges.to_string());
        // it would listen everywhere, and take Docker's containers for its own
        let env = [
            ("BIND_HOST", "127.0.0.1"),
            ("DOCKER_HOST", "unix:///nonexistent.sock"),
            ("IOT_MTLS_ENABLED", "0"),
            ("GATEWAY_PORT", &port_text),
            ("AUTH", &judges),
        ];
        Self::start("ministack", port, &[], &env).await
    }

    /// One that makes a stack at once, and knows neither events of resources nor tokens.
    async fn moto() -> Option<Self> {
        let port = free();
        let port_text = port.to_string();
        Self::start("moto_server", port, &["-H", "127.0.0.1", "-p", &port_text], &[]).await
    }

    /// A proxy that does this to what comes by.
    async fn microburst(upstream: &str, rules: &serde_json::Value) -> Option<Self> {
        let (port, folder) = (free(), tempfile::tempdir().unwrap());
        let file = folder.path().join("rules.json");
        std::fs::write(&file, json!({ "rules": rules }).to_string()).unwrap();
        let (port_text, file) = (port.to_string(), file.display().to_string());
        let args = ["--upstream", upstream, "--port", &port_text, "--config", &file];
        Self::start("microburst", port, &args, &[]).await
    }

    /// Of a region, with these credentials.
    pub(in crate::aws) fn clients(&self, credentials: &Credentials) -> Clients {
        let config = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .endpoint_url(&self.url)
            .credentials_provider(SharedCredentialsProvider::new(credentials.clone()))
            .build();
        Clients::of(&config, "us-east-1").unwrap()
    }

    /// What it tells of itself.
    async fn asked(&self, path: &str) -> String {
        let host = self.url.trim_start_matches("http://");
        let mut to = tokio::net::TcpStream::connect(host).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        to.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        to.read_to_string(&mut said).await.unwrap();
        said
    }

    async fn start(name: &str, port: u16, args: &[&str], env: &[(&str, &str)]) -> Option<Self> {
        let Some(one) = std::env::var_os("SYP_TEST_MINISTACK").map(PathBuf::from) else {
            println!("SKIPPED: no emulators of AWS (SYP_TEST_MINISTACK does not say where they are)");
            return None;
        };
        let mut command = Command::new(one.with_file_name(name));
        command.args(args.iter().map(OsStr::new)).envs(env.iter().copied());
        let process =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let it = Self { url: format!("http://127.0.0.1:{port}"), process };
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Some(it);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{name} does not listen");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Below those that the system gives to outgoing connections and to whoever asks for any: an emulator takes a second to listen.
fn free() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() * 61;
    for _ in 0..1_000 {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 21_000 + u16::try_from((first + u32::from(n)) % 8_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

#[tokio::test]
async fn an_emulator_makes_changes_refuses_and_removes_what_is_rendered() {
    let Some(emulator) = Emulator::ministack(false).await else { return };
    let url = &emulator.url;
    let s = Stacks::new(client(url, 3), "", Duration::from_millis(200));
    let owner = Owner { uid: InstanceId::random(), ..variants::owner() };
    let site = variants::site();
    let rendered = |revision: &str| {
        let env = [("REVISION".to_owned(), revision.to_owned())].into();
        render(&owner, &InstanceSpec { env, ..variants::spec() }, &site)
    };
    let heard = parking_lot::Mutex::new(Vec::<Event>::new());
    let hear = |s: &Stack| heard.lock().extend(s.story.events.iter().cloned());
    let bring = async |(text, digest): (String, String), token: &str| {
        s.bring(&Wanted { owner: &owner, template: &text, digest: &digest, token }, &hear).await
    };
    let mut made = bring(rendered("one"), "one").await.unwrap();
    for _ in 0..50 {
        if !made.outputs.is_empty() {
            break;
        }
        // on a busy machine this emulator says that it is complete a moment before it has its outputs
        tokio::time::sleep(Duration::from_millis(100)).await;
        made = bring(rendered("one"), "one").await.unwrap();
    }
    assert_eq!((made.held.status.as_str(), made.held.token.as_str()), ("CREATE_COMPLETE", "one"));
    assert_eq!(made.outputs["Endpoint"], "https://shop.example.com");
    assert!(made.outputs["LoadBalancerArn"].contains(&names::stack(&owner)), "{:?}", made.outputs);
    let (text, digest) = rendered("two");
    let w = Wanted { owner: &owner, template: &text, digest: &digest, token: "two" };
    let told = change_set::told(s.preview(&made.id, "plan", &w).await.unwrap());
    assert!(told.contains("TaskDefinition (AWS::ECS::TaskDefinition)"), "{told}");
    assert_eq!(s.drift(&made.id).await.unwrap(), Vec::<String>::new());
    let changed = bring(rendered("two"), "two").await.unwrap();
    assert_eq!((changed.id, changed.held.status.as_str()), (made.id.clone(), "UPDATE_COMPLETE"));
    // nothing to do for the same one, whatever operation asks
    assert_eq!(bring(rendered("two"), "again").await.unwrap().held.token, "two");
    assert_eq!(s.remove(&owner, Some(&made.id), &hear).await.unwrap(), (true, BTreeSet::new()));
    assert_eq!(s.look(&owner, None).await.unwrap(), None);
    // each event of the three operations, with what the journal needs of it
    let all = heard.into_inner();
    assert!(all.iter().all(|e| !e.id.is_empty() && e.at_ms > 1_700_000_000_000), "{all:?}");
    for status in ["CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"] {
        let of = |e: &&Event| e.status == status;
        assert!(all.iter().filter(of).any(|e| e.of_stack), "{status}: {all:?}");
        let service = |e: &Event| e.logical == "Service" && e.kind == "AWS::ECS::Service";
        assert!(status == "UPDATE_COMPLETE" || all.iter().filter(of).any(service), "{status}: {all:?}");
    }
    assert_eq!(s.look(&owner, Some(&made.id)).await.unwrap().unwrap().held.status, "DELETE_COMPLETE");
}

/// An emulator's own network, and a certificate there: it knows no others.
fn site(url: &str) -> Site {
    let script = "import sys, boto3
account = dict(endpoint_url=sys.argv[1], region_name='us-east-1', aws_access_key_id='t', aws_secret_access_key='t')
subnets = boto3.client('ec2', **account).describe_subnets()['Subnets'][:2]
certificate = boto3.client('acm', **account).request_certificate(DomainName='shop.example.com')['CertificateArn']
print(certificate, subnets[0]['VpcId'], *[s['SubnetId'] for s in subnets])";
    let one = PathBuf::from(std::env::var_os("SYP_TEST_MINISTACK").unwrap());
    let said = Command::new(one.with_file_name("python")).args(["-c", script, url]).output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    let [certificate, vpc, subnets @ ..] = &words[..] else {
        panic!("{}", String::from_utf8_lossy(&said.stderr))
    };
    Site { vpc: vpc.clone(), subnets: subnets.to_vec(), certificate: certificate.clone(), ..variants::site() }
}

#[tokio::test]
async fn an_emulator_that_makes_stacks_at_once_has_them_made_changed_and_removed() {
    let Some(emulator) = Emulator::moto().await else { return };
    let url = emulator.url.clone();
    let (owner, site) = (variants::owner(), tokio::task::spawn_blocking(move || site(&url)).await.unwrap());
    let rendered = |revision: &'static str| {
        let env = [("REVISION".to_owned(), revision.to_owned())].into();
        let (text, digest) = render(&owner, &InstanceSpec { env, ..variants::spec() }, &site);
        Template { text, digest, token: revision }
    };
    let s = Stacks::new(client(&emulator.url, 3), "", Duration::from_millis(100));
    let (one, two) = (rendered("one"), rendered("two"));
    let made = bring(&s, &one).await.unwrap();
    let (status, digest) = (made.held.status.as_str(), made.held.digest.as_str());
    assert_eq!((status, digest), ("CREATE_COMPLETE", one.digest.as_str()));
    assert!(made.outputs["LoadBalancerArn"].contains(":loadbalancer/app/"), "{:?}", made.outputs);
    let changed = bring(&s, &two).await.unwrap();
    assert_eq!((changed.id.as_str(), changed.held.digest.as_str()), (made.id.as_str(), two.digest.as_str()));
    assert_eq!(s.remove(&owner, Some(&made.id), &|_| {}).await.unwrap(), (true, BTreeSet::new()));
    assert_eq!(s.look(&owner, None).await.unwrap(), None);
}

/// Between the real client and an emulator, a proxy loses what was done, refuses and cuts. No SDK asks again here.
#[tokio::test]
async fn what_a_proxy_loses_throttles_and_cuts_makes_one_stack_and_leaves_none() {
    let Some(emulator) = Emulator::ministack(false).await else { return };
    let rule = |operation: &str, times: u32, effect: (&str, serde_json::Value)| {
        let mut rule = json!({ "service": "cloudformation", "operation": operation, "times": times });
        rule[effect.0] = effect.1;
        rule
    };
    let lost = || ("response", json!({ "abort_bytes": 1 }));
    let rules = json!([
        rule("CreateStack", 1, lost()),
        rule("DescribeStacks", 3, ("error", json!({ "code": "Throttling", "status": 400 }))),
        rule("DescribeStackEvents", 1, ("error", json!({ "code": "ServiceUnavailable", "status": 503 }))),
        rule("GetTemplate", 1, ("reset", true.into())),
        rule("UpdateStack", 1, lost()),
        rule("DeleteStack", 1, ("reset", true.into())),
    ]);
    let Some(proxy) = Emulator::microburst(&emulator.url, &rules).await else { return };
    let (s, direct) = (stacks_at(&proxy.url), stacks_at(&emulator.url));
    let made = bring(&s, &template("one")).await.unwrap();
    let changed = bring(&s, &template("two")).await.unwrap();
    assert_eq!((&changed.id, changed.held.digest.as_str()), (&made.id, template("two").digest.as_str()));
    let mut gone = s.remove(&variants::owner(), Some(&made.id), &|_| {}).await;
    for _ in 0..20 {
        if gone.is_ok() {
            break;
        }
        gone = s.remove(&variants::owner(), Some(&made.id), &|_| {}).await;
    }
    assert!(gone.unwrap().1.is_empty());
    assert_eq!(direct.look(&variants::owner(), None).await.unwrap(), None, "nothing is left");
    assert_eq!(
        proxy.asked("/_microburst/fired").await.matches("\"operation\"").count(),
        8,
        "every rule was met"
    );
}
