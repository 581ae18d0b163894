//! What is there of this store in its cluster, the cluster itself when nobody is in it, and news of both.
use super::{Cluster, load::REGISTRY, nodes::Look, program};
use crate::{
    k8s::{Shared, changes as watched, client::NAMESPACE, client::failed, listing},
    labels::{INSTANCE, STORE},
};
use futures_util::{StreamExt, stream, stream::BoxStream};
use kube::{ResourceExt, api::ListParams};
use std::{collections::BTreeMap, time::Duration};
use syp_engine::{
    id::{InstanceId, StoreId},
    step::Of,
};
use syp_proto::journal::{Failure, Found};

const CLUSTER: &str = "kind.cluster@1";
const IMAGE: &str = "kind.image@1";

/// Docker has removed a node within these.
const LOOKS: u32 = 20;
const LOOK: Duration = Duration::from_secs(3);

/// Lists.
///
/// # Errors
/// The daemon's, the API server's: a cluster that can't be asked is never "clean".
pub(crate) async fn list(
    s: &Shared,
    cluster: &Cluster,
    store: &StoreId,
    of: Option<Of<'_>>,
) -> Result<Vec<Found>, Failure> {
    // an instance that has just made the cluster has entered it before anybody else looks
    let _held = cluster.hold().await;
    let itself = || Found {
        kind: CLUSTER.into(),
        key: cluster.name.clone(),
        handle: cluster.name.clone(),
        node: if of.is_some() { "cluster".into() } else { "/cluster".into() },
    };
    match cluster.look().await? {
        Look::Absent => return Ok(vec![]),
        Look::Half => return Ok(vec![itself()]),
        Look::Stopped => cluster.start().await?,
        Look::Running => {}
    }
    let c = s.client().await?;
    cluster.answers(&c).await?;
    let mut out = listing::list(s, store, of).await?;
    let inside = NAMESPACE.api(&c, "");
    let inside = inside.list(&ListParams::default().labels(&format!("{STORE}={store}"))).await;
    let inside = inside.map_err(|e| failed(&e))?.items;
    let uids: BTreeMap<String, String> = inside
        .iter()
        .filter_map(|n| n.labels().get(INSTANCE))
        .filter_map(|uid| Some((InstanceId::parse(uid)?.short(), uid.clone())))
        .collect();
    let prefix = match of {
        Some(of) => format!("syp-{store}-{}-", of.uid.short()),
        None => format!("syp-{store}-"),
    };
    for name in cluster.loaded(&prefix).await? {
        out.extend(image(&name, &prefix, of.is_some(), &uids));
    }
    if inside.is_empty() {
        out.push(itself());
    }
    Ok(out)
}

/// An image of ours in the nodes: `syp.local/syp-STORE-UID-image-N:1`.
fn image(name: &str, prefix: &str, one: bool, uids: &BTreeMap<String, String>) -> Option<Found> {
    let key = name.strip_prefix(REGISTRY)?.strip_prefix('/')?.split([':', '@']).next()?;
    let rest = key.strip_prefix(prefix)?;
    let node = if one {
        rest.to_owned()
    } else {
        let (short, node) = rest.split_once('-')?;
        format!("{}/{node}", uids.get(short).map_or("", String::as_str))
    };
    Some(Found { kind: IMAGE.into(), key: key.to_owned(), handle: name.to_owned(), node })
}

/// Removes one find.
///
/// # Errors
/// The daemon's, the API server's.
pub(crate) async fn remove(s: &Shared, cluster: &Cluster, store: &StoreId, f: &Found) -> Result<(), Failure> {
    let _held = cluster.hold().await;
    let look = cluster.look().await?;
    match f.kind.as_str() {
        _ if look == Look::Absent => Ok(()),
        CLUSTER if look == Look::Half => cluster.delete().await,
        CLUSTER => {
            let c = s.client().await?;
            if cluster.inside(&c, store.as_str()).await?.is_empty() { cluster.delete().await } else { Ok(()) }
        }
        IMAGE => cluster.unload(&f.handle).await.map(drop),
        _ => listing::remove(s, f).await,
    }
}

/// News. A cluster that is not there has none until it is made.
///
/// # Errors
/// The daemon's, the API server's.
pub(crate) async fn changes(
    s: &std::sync::Arc<Shared>,
    cluster: &std::sync::Arc<Cluster>,
    store: &StoreId,
) -> Result<BoxStream<'static, Option<InstanceId>>, Failure> {
    // before the look: one that is made in this moment is heard of
    let mut made = cluster.made.subscribe();
    if cluster.look().await? == Look::Running {
        return watched::changes(s, store).await;
    }
    // what was in it is looked at more than once, since what is being removed can't be judged before it is gone; the stream ends when
    // there is a cluster again
    let looks = stream::iter(0..LOOKS).then(|n| async move {
        if n > 0 {
            tokio::time::sleep(LOOK).await;
        }
        None
    });
    let until = async move { made.changed().await };
    Ok(looks.chain(stream::pending()).take_until(until).boxed())
}

// === impl Cluster ===

impl Cluster {
    /// In words: kind, the node image, how the cluster is.
    ///
    /// # Errors
    /// `KIND_MISSING`, the daemon's.
    pub(crate) async fn about(&self) -> Result<String, Failure> {
        let version = program::version().await?;
        let state = match self.look().await? {
            Look::Absent => "made when it is needed",
            Look::Half => "half made",
            Look::Stopped => "its nodes don't run",
            Look::Running => "running",
        };
        Ok(format!("{version}; cluster {}: {state}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_its_instances_and_of_nobody_when_that_is_gone() {
        let uids = BTreeMap::from([("u1".to_owned(), "U-1".to_owned())]);
        let f = image("syp.local/syp-s-u1-image-3:1", "syp-s-u1-", true, &uids).unwrap();
        assert_eq!((f.key.as_str(), f.node.as_str()), ("syp-s-u1-image-3", "image-3"));
        let f = image("syp.local/syp-s-u1-image-3:1", "syp-s-", false, &uids).unwrap();
        assert_eq!(f.node, "U-1/image-3");
        let f = image("syp.local/syp-s-u2-image-1@sha256:0", "syp-s-", false, &uids).unwrap();
        assert_eq!(f.node, "/image-1");
        assert!(image("syp.local/syp-gate:0", "syp-s-", false, &uids).is_none());
    }
}
