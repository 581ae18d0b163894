//! The gate's container: the only published port of an instance.
use super::{
    Shared,
    client::{self, failed, labels, running},
    container,
    gate_image::PROGRAM,
    names::{ADMIN, Subnet, TRAFFIC},
    network::removed_twin,
    port, tls,
};
use bollard::{
    models::{
        ContainerCreateBody, ContainerInspectResponse, EndpointIpamConfig, EndpointSettings, HostConfig,
        NetworkingConfig, PortBinding,
    },
    query_parameters::UploadToContainerOptions,
};
use secrecy::ExposeSecret;
use serde_json::json;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Gate(pub Arc<Shared>);

/// Nobody in particular: the gate needs no rights at all.
const USER: u32 = 65_534;
const MEMORY: i64 = 256 << 20;
/// The step's place in every plan.
const NODE: &str = "gate";
/// What a gate that is replaced may take to finish what it has.
const GRACE_S: i32 = 10;

// === impl Gate ===

impl Gate {
    async fn body(&self, cx: &StepCx, address: IpAddr, port: u16) -> Result<ContainerCreateBody, Failure> {
        let subnet = subnet(cx)?;
        let image = self.0.gate_image.ensure(&self.0.docker).await?;
        let mut cmd: Vec<String> = [
            "serve",
            "--listen",
            "0.0.0.0:8080",
            "--admin",
            "0.0.0.0:9901",
            "--admin-token-file",
            "/etc/syp/admin.token",
        ]
        .map(str::to_owned)
        .to_vec();
        if has_tls(cx) {
            cmd.extend(
                ["--tls-cert", "/etc/syp/tls.crt", "--tls-key", "/etc/syp/tls.key"].map(str::to_owned),
            );
        }
        let binding = PortBinding { host_ip: Some(address.to_string()), host_port: Some(port.to_string()) };
        let traffic = format!("{TRAFFIC}/tcp");
        let network = network(cx);
        Ok(ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(vec![PROGRAM.into()]),
            cmd: Some(cmd),
            user: Some(format!("{USER}:{USER}")),
            labels: Some(labels(&cx.owner, NODE)),
            exposed_ports: Some(vec![traffic.clone()]),
            host_config: Some(HostConfig {
                network_mode: Some(network.clone()),
                port_bindings: Some(HashMap::from([(traffic, Some(vec![binding]))])),
                cap_drop: Some(vec!["ALL".into()]),
                security_opt: Some(vec!["no-new-privileges".into()]),
                memory: Some(MEMORY),
                pids_limit: Some(256),
                ..Default::default()
            }),
            networking_config: Some(endpoint(&network, &subnet.address(2).to_string())),
            ..Default::default()
        })
    }

    /// The container as it runs, and the port of this host that leads to it.
    async fn started(&self, cx: &StepCx, key: &str) -> Result<(ContainerInspectResponse, u16), Failure> {
        let address = port::address(&cx.spec)?;
        let fixed = port::fixed(cx);
        let mut free = port::free(address, cx.owner.uid);
        for _ in 0..port::TRIES {
            let body = async || match fixed.or_else(|| free.next()) {
                Some(port) => self.body(cx, address, port).await,
                None => Err(no_port(address)),
            };
            let (c, _) = container::ensure(&self.0, cx, key, body).await?;
            let port = port::of(&c).or(fixed).unwrap_or(0);
            if running(&c) {
                return Ok((c, port));
            }
            // before each start: a crash may have come between creation and upload
            self.upload(cx, key).await?;
            match client::start(&self.0.docker, key).await {
                Ok(()) => return Ok((c, port)),
                // nobody was told this port yet
                Err(f) if f.reason == "PORT_TAKEN" && fixed.is_none() => {
                    tracing::info!(instance = %cx.owner.name, port, "somebody took the port meanwhile: the next one");
                    client::remove(&self.0.docker, key, Some(0)).await?;
                }
                Err(f) => return Err(f),
            }
        }
        Err(no_port(address))
    }

    /// The token by which the engine talks to the gate, and the TLS files: as files, since `docker inspect` shows argv and environment.
    async fn upload(&self, cx: &StepCx, key: &str) -> Result<(), Failure> {
        let token = self.0.admin_token(&cx.owner);
        let mut files = vec![("etc/syp/admin.token", token.expose_secret().as_bytes().to_vec())];
        if let Some(tls) = tls::files(cx.spec.publish.as_ref()).await? {
            files.extend([("etc/syp/tls.crt", tls.cert), ("etc/syp/tls.key", tls.key)]);
        }
        let tar = archive(&files).map_err(|e| {
            failure(Class::Terminal, "INTERNAL", e.to_string(), "this is a bug: please report it")
        })?;
        let to = UploadToContainerOptions { path: "/".into(), ..Default::default() };
        self.0
            .docker
            .upload_to_container(key, Some(to), bollard::body_full(tar.into()))
            .await
            .map_err(|e| failed(&e))
    }
}

/// Replaces a gate that was started by a former version, under its name and at its port; false for one of this version. Its
/// ledger row stays the same. Killed in between, the next repair makes it like any gate that is missing.
///
/// # Errors
/// The daemon's.
pub(super) async fn replaced_former(s: &Arc<Shared>, cx: &StepCx) -> Result<bool, Failure> {
    let key = client::key(&cx.owner, NODE);
    let Some(c) = client::inspect(&s.docker, &key).await? else { return Ok(false) };
    let image = s.gate_image.ensure(&s.docker).await?;
    if !client::is_ours(&cx.owner, client::labels_of(&c)) || c.config.and_then(|c| c.image) == Some(image) {
        return Ok(false);
    }
    let what = "replacing the gate of a former version: new connections are refused for a moment";
    cx.waiting.on(&cx.node, "GATE_REPLACED", what, "", s.clock.now());
    tracing::info!(instance = %cx.owner.name, "{what}");
    client::remove(&s.docker, &key, Some(GRACE_S)).await?;
    Gate(Arc::clone(s)).started(cx, &key).await?;
    Ok(true)
}

fn archive(files: &[(&str, Vec<u8>)]) -> std::io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut head = tar::Header::new_gnu();
        head.set_size(bytes.len() as u64);
        head.set_mode(0o400);
        head.set_uid(u64::from(USER));
        head.set_gid(u64::from(USER));
        tar.append_data(&mut head, name, bytes.as_slice())?;
    }
    tar.into_inner()
}

pub(super) fn endpoint(network: &str, address: &str) -> NetworkingConfig {
    let settings = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig { ipv4_address: Some(address.into()), ..Default::default() }),
        ..Default::default()
    };
    NetworkingConfig { endpoints_config: Some(HashMap::from([(network.to_owned(), settings)])) }
}

/// The instance's network by its id, from the network step: a name may stand for two.
pub(super) fn network(cx: &StepCx) -> String {
    cx.output("network", "id").map_or_else(|| client::key(&cx.owner, "network"), str::to_owned)
}

/// The instance's subnet, from the network step.
pub(super) fn subnet(cx: &StepCx) -> Result<Subnet, Failure> {
    cx.output("network", "subnet").and_then(Subnet::parse).ok_or_else(|| {
        failure(
            Class::Terminal,
            "INTERNAL",
            "the network step left no subnet",
            "this is a bug: please report it",
        )
    })
}

fn no_port(address: IpAddr) -> Failure {
    failure(
        Class::Terminal,
        "PORT_TAKEN",
        format!("{} ports of {address} were tried, and somebody has each of them", port::TRIES),
        "say one that is free with --publish ADDRESS:PORT",
    )
}

pub(super) fn has_tls(cx: &StepCx) -> bool {
    cx.spec.publish.as_ref().is_some_and(|p| !p.tls_cert_file.is_empty())
}

impl Step for Gate {
    fn kind(&self) -> &'static str {
        "docker.gate@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        container::observe(&self.0, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let mut c = self.started(cx, key).await;
        if removed_twin(&self.0, cx, &c).await? {
            c = self.started(cx, key).await;
        }
        let (c, port) = c?;
        let scheme = if has_tls(cx) { "https" } else { "http" };
        let host = match port::address(&cx.spec)? {
            a if a.is_unspecified() && a.is_ipv4() => Ipv4Addr::LOCALHOST.into(),
            a => a,
        };
        let endpoint = format!("{scheme}://{}", SocketAddr::new(host, port));
        let admin = format!("{}:{ADMIN}", subnet(cx)?.address(2));
        let outputs = json!({ "endpoint": endpoint, "admin": admin });
        Ok(Done { handle: c.id.unwrap_or_default(), outputs })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        container::destroy(&self.0, owner, row, None).await
    }
}
