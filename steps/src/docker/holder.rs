//! A replica's network namespace: made, sealed by routing rules, and held for the app that joins it.
use super::{
    Shared,
    client::{self, labels, last_lines, running, started_at},
    container,
    gate::{endpoint, network, subnet},
    gate_image::PROGRAM,
    names::HOLDER,
    network::removed_twin,
};
use bollard::{
    container::LogOutput,
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig},
    query_parameters::LogsOptions,
};
use futures_util::StreamExt;
use serde_json::json;
use std::{collections::HashMap, sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::instance_spec::{Egress, Isolation},
};

pub(super) struct Holder(pub Arc<Shared>);

// === impl Holder ===

impl Holder {
    async fn body(&self, cx: &StepCx) -> Result<ContainerCreateBody, Failure> {
        let subnet = subnet(cx)?;
        let place = u32::try_from(cx.params["place"].as_u64().unwrap_or(3)).unwrap_or(3);
        let image = self.0.gate_image.ensure(&self.0.docker).await?;
        let gate = subnet.address(2).to_string();
        let mut cmd = vec!["hold".into(), "--gate".into(), gate, "--port".into(), cx.spec.port.to_string()];
        cmd.extend(["--status".into(), HOLDER.to_string()]);
        if cx.spec.egress() == Egress::Off {
            cmd.extend(["--egress".into(), "none".into()]);
        }
        if cx.spec.isolation() == Isolation::NotEnforced {
            cmd.push("--open".into());
        }
        let network = network(cx);
        Ok(ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(vec![PROGRAM.into()]),
            cmd: Some(cmd),
            labels: Some(labels(&cx.owner, &cx.node)),
            hostname: Some(cx.owner.name.clone()),
            host_config: Some(HostConfig {
                network_mode: Some(network.clone()),
                // answers to what the app asks for itself come back above the sealed ports, and never on its own
                sysctls: Some(HashMap::from([
                    ("net.ipv4.ip_local_port_range".into(), "49152 65534".into()),
                    ("net.ipv4.ip_local_reserved_ports".into(), cx.spec.port.to_string()),
                ])),
                cap_drop: Some(vec!["ALL".into()]),
                cap_add: Some(vec!["NET_ADMIN".into()]),
                security_opt: Some(vec!["no-new-privileges".into()]),
                memory: Some(64 << 20),
                pids_limit: Some(64),
                ..Default::default()
            }),
            networking_config: Some(endpoint(&network, &subnet.address(place).to_string())),
            ..Default::default()
        })
    }

    async fn started(&self, cx: &StepCx, name: &str) -> Result<ContainerInspectResponse, Failure> {
        let (mut c, _) = container::ensure(&self.0, cx, name, async || self.body(cx).await).await?;
        if !running(&c) {
            // a new start is a new namespace: what an earlier start said about it is worth nothing
            if !started_at(&c).starts_with("0001") {
                client::remove(&self.0.docker, name, None).await?;
                (c, _) = container::ensure(&self.0, cx, name, async || self.body(cx).await).await?;
            }
            client::start(&self.0.docker, name).await?;
        }
        Ok(c)
    }

    /// Waits until this start of the holder says that the namespace is sealed, or held open as was asked for.
    async fn sealed(&self, name: &str) -> Result<(), Failure> {
        let how = LogsOptions {
            follow: true,
            stdout: true,
            stderr: true,
            tail: "all".into(),
            ..Default::default()
        };
        let mut lines = self.0.docker.logs(name, Some(how));
        let said = async {
            while let Some(line) = lines.next().await {
                let line = line.as_ref().map(LogOutput::to_string).unwrap_or_default();
                if line.contains("\"sealed\"") || line.contains("\"held\"") {
                    return true;
                }
            }
            false
        };
        if tokio::time::timeout(Duration::from_secs(10), said).await == Ok(true) {
            return Ok(());
        }
        let words = last_lines(&self.0.docker, name, 5).await;
        Err(failure(
            Class::Transient,
            "ISOLATION_NOT_ENFORCED",
            format!("the network of the app could not be sealed: {words}"),
            "the kernel must allow routing rules in a container (Linux 4.17 or later); nothing was served",
        ))
    }
}

impl Step for Holder {
    fn kind(&self) -> &'static str {
        "docker.holder@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        container::observe(&self.0, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, name: &str) -> Result<Done, Failure> {
        let mut c = self.started(cx, name).await;
        if removed_twin(&self.0, cx, &c).await? {
            c = self.started(cx, name).await;
        }
        let c = c?;
        cx.waiting.on(&cx.node, "SEALING", "waiting for the network to be sealed", "", self.0.clock.now());
        self.sealed(name).await?;
        let place = u32::try_from(cx.params["place"].as_u64().unwrap_or(3)).unwrap_or(3);
        let address = subnet(cx)?.address(place).to_string();
        Ok(Done { handle: c.id.clone().unwrap_or_default(), outputs: json!({ "address": address }) })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        container::destroy(&self.0, owner, row, None).await
    }
}
