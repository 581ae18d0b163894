//! A small network per instance, from a pool of our own: an engine's default pools run out at about thirty.
//!
//! Docker keeps names of networks apart only as well as it can: a create whose caller died may land beside that of the next
//! one, and no container of that name's can be started while there are two. So a network is known by its id once it is made,
//! a twin is removed where it is met, and all of the name go with the instance.
use super::{
    Shared,
    client::{self, failed, is_ours, labels, optional},
    names::{Subnet, local_routes},
};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use bollard::query_parameters::ListNetworksOptions;
use serde_json::json;
use std::{collections::HashMap, sync::Arc};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct Network(pub Arc<Shared>);

/// Subnets tried before giving up: each refusal means that somebody else took it meanwhile.
const TRIES: u32 = 32;

// === impl Network ===

impl Network {
    /// The one that this instance lives in: what an earlier run said, else the oldest.
    async fn get(&self, cx: &StepCx, key: &str) -> Result<Option<Found>, Failure> {
        let mut all = ours(&self.0, &cx.owner, key).await?;
        if all.is_empty() {
            return match optional(self.0.docker.inspect_network(key, None).await)? {
                Some(n) if !is_ours(&cx.owner, n.labels.as_ref()) => Err(syp_engine::name_conflict(key)),
                // it came this very moment
                Some(n) => {
                    Ok(Some(Found { subnet: subnet_of(n.ipam.as_ref()), id: n.id.unwrap_or_default() }))
                }
                None => Ok(None),
            };
        }
        let known = cx.output(&cx.node, "id");
        let at = all.iter().position(|n| known == Some(n.id.as_str())).unwrap_or(0);
        Ok(Some(all.swap_remove(at)))
    }

    async fn taken(&self) -> Result<Vec<Subnet>, Failure> {
        let all = self.0.docker.list_networks(None::<ListNetworksOptions>).await.map_err(|e| failed(&e))?;
        let configs = all.into_iter().filter_map(|n| n.ipam).filter_map(|i| i.config).flatten();
        let mut out: Vec<_> = configs.filter_map(|c| Subnet::parse(&c.subnet?)).collect();
        out.extend(local_routes(&tokio::fs::read_to_string("/proc/net/route").await.unwrap_or_default()));
        Ok(out)
    }

    async fn create(&self, cx: &StepCx, key: &str) -> Result<Found, Failure> {
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
                Ok(made) => return Ok(Found { subnet: Some(subnet), id: made.id }),
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

/// All of ours by that name, the oldest first.
async fn ours(s: &Shared, owner: &Owner, key: &str) -> Result<Vec<Found>, Failure> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{}={}", client::INSTANCE, owner.uid)])]);
    let all = s.docker.list_networks(Some(ListNetworksOptions { filters: Some(filters) })).await;
    let mut out: Vec<_> = all.map_err(|e| failed(&e))?;
    out.retain(|n| n.name.as_deref() == Some(key) && is_ours(owner, n.labels.as_ref()));
    out.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
    let found = |n: bollard::models::Network| Found {
        subnet: subnet_of(n.ipam.as_ref()),
        id: n.id.unwrap_or_default(),
    };
    Ok(out.into_iter().map(found).collect())
}

/// Removes every network of the instance's name but the one it lives in.
async fn drop_twins(s: &Shared, owner: &Owner, key: &str, keep: &str) -> Result<(), Failure> {
    for n in ours(s, owner, key).await?.iter().filter(|n| n.id != keep) {
        tracing::warn!(network = key, id = n.id, "a second network of this name landed late and is removed");
        optional(s.docker.remove_network(&n.id).await)?;
    }
    Ok(())
}

/// Was a twin of the network in the way of a container? Then it is gone now, and the same can be tried again.
pub(super) async fn removed_twin<T>(
    s: &Shared,
    cx: &StepCx,
    made: &Result<T, Failure>,
) -> Result<bool, Failure> {
    match (made, cx.output("network", "id")) {
        (Err(f), Some(keep)) if f.message.contains("is ambiguous") => {
            drop_twins(s, &cx.owner, &client::key(&cx.owner, "network"), keep).await?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// A network that is there.
struct Found {
    id: String,
    subnet: Option<Subnet>,
}

fn subnet_of(ipam: Option<&Ipam>) -> Option<Subnet> {
    ipam?.config.as_ref()?.iter().find_map(|c| Subnet::parse(c.subnet.as_ref()?))
}

impl Step for Network {
    fn kind(&self) -> &'static str {
        "docker.network@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        Ok(match self.get(cx, key).await {
            Ok(None) => Observed::Absent,
            Ok(Some(n)) => Observed::Present { ours: true, handle: n.id, healthy: true },
            Err(f) if f.reason == "NAME_CONFLICT" => {
                Observed::Present { ours: false, handle: key.to_owned(), healthy: true }
            }
            Err(f) => return Err(f),
        })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let found = match self.get(cx, key).await? {
            Some(n) => n,
            None => self.create(cx, key).await?,
        };
        let subnet = found.subnet.ok_or_else(|| {
            failure(
                Class::Terminal,
                "PROVIDER_ERROR",
                format!("network {key} has no subnet"),
                "remove it and try again",
            )
        })?;
        drop_twins(&self.0, &cx.owner, key, &found.id).await?;
        let outputs = json!({
            "id": found.id,
            "subnet": subnet.to_string(),
            "gate": subnet.address(2).to_string(),
        });
        Ok(Done { handle: found.id, outputs })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        let mut was = false;
        for n in ours(&self.0, owner, &row.key).await? {
            was |= optional(self.0.docker.remove_network(&n.id).await)?.is_some();
        }
        Ok(was)
    }
}
