//! Creates an instance, watches it come up, calls it, takes it down: the API of sypctl from Rust.
//!
//! ./run [NAME] [--image IMAGE] [--port PORT] [--ca-file PEM]

use anyhow::{Context, Result, bail};
use hyper_util::rt::TokioIo;
use prost::Message;
use std::{env, fs, time::Duration};
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri},
};
use tonic_types::StatusExt;

/// Made by build.rs.
#[allow(clippy::all, dead_code)]
mod api {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}
use api::{
    google::longrunning::{Operation, operation},
    syp::v1::{
        CreateInstanceRequest, GetInstanceRequest, GetTeardownReceiptRequest, Instance, InstanceSpec,
        IssueLocalTokenRequest, TransitionInstanceRequest, WatchOperationRequest,
        access_client::AccessClient, instance::State, instances_client::InstancesClient,
        operation_event::Event, operation_events_client::OperationEventsClient, operation_metadata::Step,
    },
};

/// A watch that breaks off is opened again, a second apart.
const WATCH_TRIES: u32 = 10;

/// The local engine's socket, unless SYPCTL_SERVER names another server.
fn server() -> String {
    let set = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
    set("SYPCTL_SERVER").unwrap_or_else(|| {
        let home = || set("HOME").map(|h| format!("{h}/.local/share"));
        let share = || set("XDG_DATA_HOME").or_else(home).map(|s| format!("{s}/syp"));
        format!("unix:{}/engine.sock", set("SYP_DATA_DIR").or_else(share).unwrap_or_default())
    })
}

/// Without TLS only over a Unix socket: a token never crosses a network in clear.
fn connect(address: &str, ca_file: Option<&str>) -> Result<Channel> {
    if let Some(path) = address.strip_prefix("unix:") {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        return Ok(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector));
    }
    if !address.starts_with("https://") {
        bail!("{address} is neither unix:/PATH nor https://HOST:PORT");
    }
    let tls = match ca_file {
        Some(f) => {
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(fs::read(f).context(f.to_owned())?))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    Ok(Endpoint::from_shared(address.to_owned())?.tls_config(tls)?.connect_lazy())
}

/// Calls with a token. Over the local socket the engine knows us by our user id and gives us one.
struct Client {
    channel: Channel,
    token: String,
    local: bool,
}

impl Client {
    async fn new(address: &str, ca_file: Option<&str>) -> Result<Self> {
        let channel = connect(address, ca_file)?;
        let mut c = Self { channel, token: String::new(), local: address.starts_with("unix:") };
        c.token = match env::var("SYPCTL_TOKEN") {
            Ok(given) if !given.is_empty() => given,
            _ => c.local_token("").await?,
        };
        Ok(c)
    }

    /// A request with our token, and with a limit unless it opens a stream.
    fn signed<M>(&self, message: M, seconds: Option<u64>) -> Result<Request<M>> {
        let mut request = Request::new(message);
        let bearer: AsciiMetadataValue = format!("Bearer {}", self.token).parse()?;
        request.metadata_mut().insert("authorization", bearer);
        if let Some(s) = seconds {
            request.set_timeout(Duration::from_secs(s));
        }
        Ok(request)
    }

    fn instances(&self) -> InstancesClient<Channel> {
        InstancesClient::new(self.channel.clone())
    }

    /// Without an audience: for the API itself.
    async fn local_token(&self, audience: &str) -> Result<String> {
        let ask = IssueLocalTokenRequest { audience: audience.to_owned(), ..Default::default() };
        Ok(AccessClient::new(self.channel.clone()).issue_local_token(ask).await?.into_inner().token)
    }

    /// A token for calling an instance: another one than the API's, neither stands in for the other.
    async fn app_token(&self, instance: &str) -> Result<String> {
        match env::var("SYPCTL_APP_TOKEN") {
            Ok(given) if !given.is_empty() => Ok(given),
            _ if self.local => self.local_token(instance).await,
            _ => Ok(self.token.clone()),
        }
    }

    /// Sent again with the same request id it would be the same operation, not a second one.
    async fn create(&self, parent: &str, name: &str, spec: InstanceSpec) -> Result<Operation> {
        let request = CreateInstanceRequest {
            parent: parent.to_owned(),
            instance_id: name.to_owned(),
            instance: Some(Instance { spec: Some(spec), ..Default::default() }),
            request_id: uuid::Uuid::new_v4().to_string(),
            validate_only: false,
        };
        Ok(self.instances().create_instance(self.signed(request, Some(150))?).await?.into_inner())
    }

    async fn get(&self, name: &str) -> Result<Instance> {
        let ask = GetInstanceRequest { name: name.to_owned(), read_mask: None };
        Ok(self.instances().get_instance(self.signed(ask, Some(30))?).await?.into_inner())
    }

    async fn destroy(&self, name: &str) -> Result<()> {
        println!("destroying {name}");
        let request = TransitionInstanceRequest {
            name: name.to_owned(),
            to: State::Destroyed.into(),
            request_id: uuid::Uuid::new_v4().to_string(),
            ..Default::default()
        };
        let op = self.instances().transition_instance(self.signed(request, Some(30))?).await?.into_inner();
        self.watch(&op).await
    }

    /// Prints each step as it changes, to the end. A watch that breaks off goes on where it was.
    async fn watch(&self, op: &Operation) -> Result<()> {
        let (mut resume, mut tries) = (String::new(), 0);
        loop {
            match self.watch_from(&op.name, &mut resume, &mut tries).await {
                Ok(Some(done)) => return outcome(done),
                Ok(None) if tries < WATCH_TRIES => {}
                Err(e) if tries < WATCH_TRIES && is_broken(&e) => {}
                Ok(None) => bail!("the watch ended {WATCH_TRIES} times"),
                Err(e) => return Err(e),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    async fn watch_from(
        &self,
        name: &str,
        resume: &mut String,
        tries: &mut u32,
    ) -> Result<Option<Operation>> {
        let ask = WatchOperationRequest { name: name.to_owned(), resume_token: resume.clone() };
        let mut client = OperationEventsClient::new(self.channel.clone());
        let mut events = client.watch_operation(self.signed(ask, None)?).await?.into_inner();
        while let Some(event) = events.message().await? {
            *resume = event.resume_token;
            *tries = 0;
            match event.event {
                Some(Event::Snapshot(all)) => all.steps.iter().for_each(show),
                Some(Event::Step(step)) => show(&step),
                Some(Event::Done(op)) => return Ok(Some(op)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Shows an instance while it serves.
    async fn use_it(&self, op: &Operation, target: &str, plain: &str) -> Result<()> {
        self.watch(op).await?;
        let got = self.get(target).await?;
        println!("{} at {}", got.state().as_str_name().to_lowercase(), got.endpoint);
        println!("without a token: {}", call(&got.endpoint, None)?);
        println!("with a token: {}", call(&got.endpoint, Some(&self.app_token(plain).await?))?);
        Ok(())
    }
}

fn outcome(op: Operation) -> Result<()> {
    match op.result {
        // as if the call itself had failed: one way of telling both
        Some(operation::Result::Error(e)) => {
            Err(Status::with_details(Code::from(e.code), e.message.clone(), e.encode_to_vec().into()).into())
        }
        _ => Ok(()),
    }
}

fn show(step: &Step) {
    let state = step.state().as_str_name();
    let why = step.waiting_on.as_ref().map_or("", |w| w.reason.as_str());
    let why = if why.is_empty() || why == state { String::new() } else { format!(" ({why})") };
    println!("  step {:<24} {}{why}", step.id, state.to_lowercase());
}

/// The connection is at fault, not the request: tonic has a code of its own for a stream that was cut, and its cause.
fn is_broken(e: &anyhow::Error) -> bool {
    let cut = |s: &Status| s.details().is_empty() && std::error::Error::source(s).is_some();
    e.downcast_ref::<Status>().is_some_and(|s| s.code() == Code::Unavailable || cut(s))
}

/// With the stable reason, which `sypctl explain` knows.
fn explain(e: &anyhow::Error) -> String {
    let Some(status) = e.downcast_ref::<Status>() else { return format!("{e:#}") };
    let reason = status.get_details_error_info().map_or_else(|| "none".to_owned(), |i| i.reason);
    format!("{} (reason: {reason})", status.message())
}

fn call(url: &str, token: Option<&str>) -> Result<u16> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)));
    let mut request = ureq::Agent::from(config.build()).get(url);
    if let Some(t) = token {
        request = request.header("authorization", format!("Bearer {t}"));
    }
    Ok(request.call()?.status().as_u16())
}

struct Args {
    name: String,
    image: String,
    port: i32,
    ca_file: Option<String>,
}

fn args() -> Result<Args> {
    let mut a = Args {
        name: "from-rust".to_owned(),
        image: "syp-example/hello:latest".to_owned(),
        port: 8080,
        ca_file: None,
    };
    let mut given = env::args().skip(1);
    while let Some(arg) = given.next() {
        let mut value = || given.next().with_context(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--image" => a.image = value()?,
            "--port" => a.port = value()?.parse().context("--port")?,
            "--ca-file" => a.ca_file = Some(value()?),
            name if !name.starts_with('-') => a.name = name.to_owned(),
            other => bail!("{other} is no option: --image, --port, --ca-file"),
        }
    }
    Ok(a)
}

async fn run() -> Result<()> {
    let a = args()?;
    let client = Client::new(&server(), a.ca_file.as_deref()).await?;
    let spec =
        InstanceSpec { image: a.image, port: a.port, target: "docker".to_owned(), ..Default::default() };
    let op = client.create("projects/default", &a.name, spec).await?;
    // with its uid a name means this incarnation and no later one
    let plain = format!("projects/default/instances/{}", a.name);
    let target = format!("{plain}@{}", client.get(&plain).await?.uid);
    println!("creating {target}");
    // whatever happens to it, it does not stay
    let used = client.use_it(&op, &target, &plain).await;
    used.and(client.destroy(&target).await)?;
    let ask = GetTeardownReceiptRequest { name: target, verify_now: false };
    let r = client.instances().get_teardown_receipt(client.signed(ask, Some(30))?).await?.into_inner();
    println!(
        "receipt: {} created, {} verified gone, {} left",
        r.created_count,
        r.verified_gone_count,
        r.residuals.len()
    );
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(e) = run().await {
        eprintln!("error: {}", explain(&e));
        std::process::exit(1);
    }
}
