//! A small network per instance, from a pool of our own: an engine's default pools run out at about thirty.
use super::{
    Shared,
    client::{self, failed, is_ours, labels, optional},
    names::{Subnet, local_routes},
};
use async_trait::async_trait;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::ListNetworksOptions;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};
use syp_engine::{
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Network(pub Arc<Shared>);

/// Subnets tried before giving up: each refusal means that somebody else took it meanwhile.
const TRIES: u32 = 32;

// === impl Network ===

impl Network {
    async fn get(&self, key: &str) -> Result<Option<NetworkInspect>, Failure> {
        optional(self.0.docker.inspect_network(key, None).await)
    }

    async fn taken(&self) -> Result<Vec<Subnet>, Failure> {
        let all = self.0.docker.list_networks(None::<ListNetworksOptions>).await.map_err(|e| failed(&e))?;
        let configs = all.into_iter().filter_map(|n| n.ipam).filter_map(|i| i.config).flatten();
        let mut out: Vec<_> = configs.filter_map(|c| Subnet::parse(&c.subnet?)).collect();
        out.extend(local_routes(&tokio::fs::read_to_string("/proc/net/route").await.unwrap_or_default()));
        Ok(out)
    }

    async fn create(&self, cx: &StepCx, key: &str) -> Result<Subnet, Failure> {
        let replicas = u32::try_from(cx.params["replicas"].as_i64().unwrap_or(1)).unwrap_or(1);
        let prefix = Subnet::prefix_for(replicas);
        let count = self.0.pool.count(prefix);
        let taken = self.taken().await?;
        // start somewhere of our own, so that two engines seldom want the same one
        let bytes = cx.owner.uid.as_bytes();
        let start = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let free = (0..count)
            .filter_map(|n| self.0.pool.nth(prefix, (start.wrapping_add(n)) % count))
            .filter(|s| !taken.iter().any(|t| t.overlaps(*s)));
        for subnet in free.take(TRIES as usize) {
            let config = IpamConfig {
                subnet: Some(subnet.to_string()),
                gateway: Some(subnet.address(1).to_string()),
                ..Default::default()
            };
            let request = NetworkCreateRequest {
                name: key.to_owned(),
                driver: Some("bridge".into()),
                ipam: Some(Ipam { config: Some(vec![config]), ..Default::default() }),
                labels: Some(labels(&cx.owner, &cx.node)),
                ..Default::default()
            };
            match self.0.docker.create_network(request).await {
                Ok(_) => return Ok(subnet),
                Err(e) => {
                    let f = failed(&e);
                    if f.reason != "SUBNET_TAKEN" {
                        return Err(f);
                    }
                }
            }
        }
        Err(failure(
            Class::Terminal,
            "SUBNET_POOL_EXHAUSTED",
            format!("no free /{prefix} is left in {}", self.0.pool),
            "take instances down, or start the engine with SYP_DOCKER_POOL set to a larger free network",
        ))
    }
}

fn subnet_of(n: &NetworkInspect) -> Option<Subnet> {
    n.ipam.as_ref()?.config.as_ref()?.iter().find_map(|c| Subnet::parse(c.subnet.as_ref()?))
}

#[async_trait]
impl Step for Network {
    fn kind(&self) -> &'static str {
        "docker.network@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        Ok(match self.get(key).await? {
            None => Observed::Absent,
            Some(n) => Observed::Present {
                ours: is_ours(&cx.owner, n.labels.as_ref()),
                handle: n.id.unwrap_or_default(),
                healthy: true,
            },
        })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let subnet = match self.get(key).await? {
            Some(n) if !is_ours(&cx.owner, n.labels.as_ref()) => return Err(syp_engine::name_conflict(key)),
            Some(n) => subnet_of(&n).ok_or_else(|| {
                failure(
                    Class::Terminal,
                    "PROVIDER_ERROR",
                    format!("network {key} has no subnet"),
                    "remove it and try again",
                )
            })?,
            None => self.create(cx, key).await?,
        };
        let outputs = json!({ "subnet": subnet.to_string(), "gate": subnet.address(2).to_string() });
        Ok(Done { handle: key.to_owned(), outputs })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow) -> Result<bool, Failure> {
        // old engines allow two networks of one name: all of ours go
        let filters =
            HashMap::from([("label".to_owned(), vec![format!("{}={}", client::INSTANCE, owner.uid)])]);
        let all = self.0.docker.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
        let mut was = false;
        for n in all.map_err(|e| failed(&e))?.into_iter().filter(|n| is_ours(owner, n.labels.as_ref())) {
            if n.name.as_deref() == Some(row.key.as_str()) {
                was |= optional(self.0.docker.remove_network(&n.id.unwrap_or_default()).await)?.is_some();
            }
        }
        Ok(was)
    }
}
