//! An independent listing by label, across containers, networks and volumes; and removal of what it found.
use super::{
    Shared,
    client::{self, INSTANCE, STEP, STORE, failed, optional},
    podman::understood,
};
use bollard::query_parameters::{
    ListContainersOptions, ListNetworksOptions, ListVolumesOptions, RemoveVolumeOptions,
};
use std::collections::HashMap;
use syp_engine::id::{InstanceId, StoreId};
use syp_proto::journal::{Failure, Found};

type Labels = HashMap<String, String>;

/// Lists.
///
/// # Errors
/// The daemon's: a provider that can't be asked is never "clean".
pub(super) async fn list(
    s: &Shared,
    store: &StoreId,
    uid: Option<InstanceId>,
) -> Result<Vec<Found>, Failure> {
    let mut wanted = vec![format!("{STORE}={store}")];
    wanted.extend(uid.map(|u| format!("{INSTANCE}={u}")));
    let filters = HashMap::from([("label".to_owned(), wanted)]);
    let all = ListContainersOptions { all: true, filters: Some(filters.clone()), ..Default::default() };
    let containers = understood(s.docker.list_containers(Some(all)).await).map_err(|e| failed(&e))?;
    let networks = s
        .docker
        .list_networks(Some(ListNetworksOptions { filters: Some(filters.clone()) }))
        .await
        .map_err(|e| failed(&e))?;
    let volumes = s
        .docker
        .list_volumes(Some(ListVolumesOptions { filters: Some(filters) }))
        .await
        .map_err(|e| failed(&e))?;
    let mut out = Vec::new();
    for c in containers {
        let name = c
            .names
            .unwrap_or_default()
            .first()
            .map(|n| n.trim_start_matches('/').to_owned())
            .unwrap_or_default();
        let labels = c.labels.unwrap_or_default();
        let kind = match labels.get(STEP).map(|s| s.split('-').next().unwrap_or_default()) {
            Some("gate") => "docker.gate@1",
            Some("holder") => "docker.holder@1",
            _ => "docker.app@1",
        };
        out.push(found(kind, name, c.id.unwrap_or_default(), &labels, uid));
    }
    for n in networks {
        let labels = n.labels.unwrap_or_default();
        out.push(found(
            "docker.network@1",
            n.name.unwrap_or_default(),
            n.id.unwrap_or_default(),
            &labels,
            uid,
        ));
    }
    for v in volumes.volumes.unwrap_or_default() {
        out.push(found("docker.volume@1", v.name.clone(), v.name, &v.labels, uid));
    }
    out.extend(super::files::list(store, uid)?);
    Ok(out)
}

fn found(kind: &str, key: String, handle: String, labels: &Labels, uid: Option<InstanceId>) -> Found {
    let get = |k: &str| labels.get(k).cloned().unwrap_or_default();
    let node = if uid.is_some() { get(STEP) } else { format!("{}/{}", get(INSTANCE), get(STEP)) };
    Found { kind: kind.into(), key, handle, node }
}

/// Removes one find of a listing of this store.
///
/// # Errors
/// The daemon's.
pub(super) async fn remove(s: &Shared, f: &Found) -> Result<(), Failure> {
    match f.kind.as_str() {
        "docker.network@1" => optional(s.docker.remove_network(&f.handle).await).map(drop),
        "docker.volume@1" => {
            optional(s.docker.remove_volume(&f.handle, None::<RemoveVolumeOptions>).await).map(drop)
        }
        super::files::KIND => super::files::remove_found(f),
        _ => client::remove(&s.docker, &f.handle, None).await.map(drop),
    }
}
