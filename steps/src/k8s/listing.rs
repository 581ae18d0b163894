//! An independent listing: every kind of object that this cluster lists, by label, wherever it may be seen; and removal of finds.
use super::{
    Shared,
    client::{code, failed, optional},
    other, route,
};
use crate::labels::{INSTANCE, STEP, STORE};
use futures_util::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, Discovery, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, ObjectList},
    discovery::{Scope, verbs},
};
use std::collections::BTreeSet;
use syp_engine::{
    failure::{Class, failure},
    id::StoreId,
    step::Of,
};
use syp_proto::journal::{Failure, Found};

/// Calls at once.
const AT_ONCE: usize = 8;

/// What the cluster derives from our objects by itself and shows with their labels; it goes with them.
const DERIVED: [&str; 3] = ["metrics.k8s.io", "events.k8s.io", "discovery.k8s.io"];

/// What is asked for.
#[derive(Clone)]
struct Asked {
    how: ListParams,
    /// Of one instance.
    one: bool,
    /// There may be routes of it.
    routes: bool,
    /// Where to look when it is not allowed to look everywhere.
    namespaces: BTreeSet<String>,
}

/// Lists.
///
/// # Errors
/// The API server's: a cluster that can't be asked is never "clean".
pub(crate) async fn list(s: &Shared, store: &StoreId, of: Option<Of<'_>>) -> Result<Vec<Found>, Failure> {
    let c = s.client().await?;
    let mut labels = format!("{STORE}={store}");
    if let Some(of) = of {
        labels.push_str(&format!(",{INSTANCE}={}", of.uid));
    }
    let mut namespaces: BTreeSet<String> =
        of.iter().flat_map(|o| o.ledger).map(super::names::namespace_of).collect();
    if namespaces.is_empty() {
        namespaces.insert(s.namespace().await?);
    }
    let routes = of.iter().flat_map(|o| o.ledger).any(|r| r.kind == route::KIND);
    let asked = Asked { routes, how: ListParams::default().labels(&labels), one: of.is_some(), namespaces };
    let found: Vec<Vec<Found>> = stream::iter(kinds(&c).await?)
        .map(|(r, namespaced)| {
            let (c, asked) = (c.clone(), asked.clone());
            async move { of_kind(&c, &r, namespaced, &asked).await }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(found.into_iter().flatten().collect())
}

async fn kinds(c: &Client) -> Result<Vec<(ApiResource, bool)>, Failure> {
    let d = Discovery::new(c.clone()).exclude(&DERIVED).run_aggregated().await.map_err(|e| failed(&e))?;
    let mut out = Vec::new();
    for g in d.groups() {
        for (r, caps) in g.recommended_resources() {
            let derived = r.group.is_empty()
                && ["endpoints", "events", "componentstatuses"].contains(&r.plural.as_str());
            if caps.supports_operation(verbs::LIST) && !derived {
                out.push((r, caps.scope == Scope::Namespaced));
            }
        }
    }
    Ok(out)
}

async fn of_kind(
    c: &Client,
    r: &ApiResource,
    namespaced: bool,
    asked: &Asked,
) -> Result<Vec<Found>, Failure> {
    let to_found =
        |l: ObjectList<DynamicObject>| l.items.iter().map(|o| found(r, o, asked.one)).collect::<Vec<_>>();
    // what we may not list we may not have made, but for what we do make
    let ours = match kind_of(&r.kind) {
        other::KIND => false,
        // a role of an engine that made none yet has nothing of them
        route::KIND => asked.routes,
        _ => true,
    };
    match Api::<DynamicObject>::all_with(c.clone(), r).list(&asked.how).await {
        Ok(l) => return Ok(to_found(l)),
        // kinds that this version no longer serves, and those that can't be listed after all
        Err(e) if matches!(code(&e), Some(404 | 405)) => return Ok(vec![]),
        // an extension of the cluster that is broken holds nothing that a step of ours makes
        Err(e) if !ours && code(&e).is_some_and(|c| c >= 500) => {
            tracing::warn!(kind = r.kind, error = %e, "can't be listed; no step makes it");
            return Ok(vec![]);
        }
        Err(e) if code(&e) == Some(403) && (namespaced || !ours || r.kind == "Namespace") => {}
        Err(e) => return Err(failed(&e)),
    }
    let mut out = Vec::new();
    if !namespaced {
        return Ok(out);
    }
    for namespace in &asked.namespaces {
        match Api::<DynamicObject>::namespaced_with(c.clone(), namespace, r).list(&asked.how).await {
            Ok(l) => out.extend(to_found(l)),
            Err(e) if matches!(code(&e), Some(404 | 405)) => {}
            Err(e) if code(&e) == Some(403) && !ours => {}
            Err(e) => return Err(failed(&e)),
        }
    }
    Ok(out)
}

fn found(r: &ApiResource, o: &DynamicObject, one: bool) -> Found {
    let get = |k: &str| o.labels().get(k).cloned().unwrap_or_default();
    let node = if one { get(STEP) } else { format!("{}/{}", get(INSTANCE), get(STEP)) };
    let handle =
        format!("{}|{}|{}|{}|{}", r.group, r.version, r.kind, r.plural, o.namespace().unwrap_or_default());
    Found { kind: kind_of(&r.kind).into(), key: o.name_any(), handle, node }
}

/// The step that makes objects of a kind; a pod or a replica set is made by the cluster for one of ours.
fn kind_of(kind: &str) -> &'static str {
    match kind {
        "Namespace" => "k8s.namespace@1",
        "ServiceAccount" => "k8s.account@1",
        "Secret" => "k8s.secret@1",
        "NetworkPolicy" => "k8s.policy@1",
        "PodDisruptionBudget" => "k8s.disruption@1",
        "HorizontalPodAutoscaler" => "k8s.autoscaler@1",
        "Deployment" => "k8s.app@1",
        "Service" => "k8s.service@1",
        "Ingress" => "k8s.ingress@1",
        "HTTPRoute" => route::KIND,
        _ => other::KIND,
    }
}

/// The kind and the namespace of a find, from its handle.
pub(super) fn resource_of(handle: &str) -> Option<(ApiResource, String)> {
    let parts: Vec<&str> = handle.split('|').collect();
    let [group, version, kind, plural, namespace] = parts[..] else { return None };
    let api_version = if group.is_empty() { version.into() } else { format!("{group}/{version}") };
    let (group, version, kind, plural) = (group.into(), version.into(), kind.into(), plural.into());
    Some((ApiResource { group, version, api_version, kind, plural }, namespace.to_owned()))
}

/// Removes one find of a listing of this store.
///
/// # Errors
/// The API server's.
pub(crate) async fn remove(s: &Shared, f: &Found) -> Result<(), Failure> {
    let Some((r, namespace)) = resource_of(&f.handle) else {
        return Err(failure(
            Class::Terminal,
            "INTERNAL",
            format!("{}: no handle", f.key),
            "please report this bug",
        ));
    };
    let c = s.client().await?;
    let api: Api<DynamicObject> =
        if namespace.is_empty() { Api::all_with(c, &r) } else { Api::namespaced_with(c, &namespace, &r) };
    optional(api.delete(&f.key, &DeleteParams::foreground()).await).map(drop)
}
