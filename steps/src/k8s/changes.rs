//! News of a cluster: pods that ended, and whatever of ours was changed or removed by hand. One watch a kind, however many instances there are.
use super::{
    Shared,
    client::{
        AUTOSCALER, DEPLOYMENT, DISRUPTION_BUDGET, HTTP_ROUTE, INGRESS, Kind, NETWORK_POLICY, SECRET,
        SERVICE, SERVICE_ACCOUNT, failed,
    },
    fields,
    pods::container,
};
use crate::labels::{INSTANCE, STORE};
use futures_util::{FutureExt, StreamExt, future::ready, stream, stream::BoxStream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Error, ResourceExt,
    api::{DynamicObject, PartialObjectMeta},
    runtime::watcher,
};
use std::collections::HashMap;
use syp_engine::id::{InstanceId, StoreId};
use syp_proto::journal::Failure;

/// Kinds of which the end is news, and what somebody else writes to them.
const KINDS: [Kind; 9] = [
    DEPLOYMENT,
    SERVICE,
    SECRET,
    SERVICE_ACCOUNT,
    NETWORK_POLICY,
    DISRUPTION_BUDGET,
    AUTOSCALER,
    INGRESS,
    HTTP_ROUTE,
];

/// Whose news it is (`None`: anybody's), or that the watch broke off.
type News = Result<Option<InstanceId>, ()>;

/// News of this store. It ends when a watch breaks off: the engine asks again, with its own pauses, and looks at everything.
///
/// # Errors
/// The API server's: a cluster that can't be asked has no news.
pub(crate) async fn changes(
    s: &Shared,
    store: &StoreId,
) -> Result<BoxStream<'static, Option<InstanceId>>, Failure> {
    let c = s.client().await?;
    c.apiserver_version().await.map_err(|e| failed(&e))?;
    let place = if s.everywhere(&c).await? { None } else { Some(s.namespace().await?) };
    let how = watcher::Config::default().labels(&format!("{STORE}={store}"));
    let mut all = vec![pods(&c, place.as_deref(), how.clone())];
    all.extend(KINDS.map(|kind| objects(kind, &c, place.as_deref(), how.clone())));
    Ok(stream::select_all(all).take_while(|n| ready(n.is_ok())).filter_map(|n| ready(n.ok())).boxed())
}

fn pods(c: &Client, place: Option<&str>, how: watcher::Config) -> BoxStream<'static, News> {
    let api: Api<Pod> = match place {
        None => Api::all(c.clone()),
        Some(namespace) => Api::namespaced(c.clone(), namespace),
    };
    let news = watcher(api, how).filter_map(|e| {
        ready(match e {
            Ok(watcher::Event::Delete(p)) => Some(Ok(of(&p))),
            Ok(watcher::Event::Apply(p)) if ended(&p) => Some(Ok(of(&p))),
            // after a break anything may have happened
            Ok(watcher::Event::InitDone) => Some(Ok(None)),
            Ok(_) => None,
            Err(_) => Some(Err(())),
        })
    });
    news.chain(stream::once(ready(Err(())))).boxed()
}

/// Objects that are no more, or not as we made them. One kind that can't be watched (a role of before, an API that the cluster does not have) is looked at now
/// and then all the same.
fn objects(kind: Kind, c: &Client, place: Option<&str>, how: watcher::Config) -> BoxStream<'static, News> {
    let r = kind.resource();
    let api: Api<PartialObjectMeta<DynamicObject>> = match place {
        None => Api::all_with(c.clone(), &r),
        Some(namespace) => Api::namespaced_with(c.clone(), namespace, &r),
    };
    let (mut begun, mut seen) = (false, HashMap::new());
    let news = watcher(api, how).take_while(|e| ready(!e.as_ref().err().is_some_and(denied)));
    let news = news.filter_map(move |e| {
        ready(match e {
            Ok(watcher::Event::Delete(o)) => {
                seen.remove(&o.uid());
                Some(Ok(of(&o)))
            }
            Ok(watcher::Event::Apply(o)) => is_news(&mut seen, &o).then(|| Ok(of(&o))),
            Ok(watcher::Event::Init) => {
                seen.clear();
                None
            }
            Ok(watcher::Event::InitApply(o)) => {
                is_news(&mut seen, &o);
                None
            }
            // what was there at the beginning is looked at for the pods' sake
            Ok(watcher::Event::InitDone) => std::mem::replace(&mut begun, true).then_some(Ok(None)),
            Err(_) => Some(Err(())),
        })
    });
    // the others go on
    news.chain(std::future::pending().into_stream()).boxed()
}

/// What was said of an object the last time, by its uid.
type Seen = HashMap<Option<String>, (String, usize)>;

/// Did somebody else write to it since the last time, or take something of ours away?
fn is_news(seen: &mut Seen, o: &impl ResourceExt) -> bool {
    let now = fields::stamp(o.meta());
    let before = seen.insert(o.uid(), now.clone()).unwrap_or_default();
    (!now.0.is_empty() && now.0 != before.0) || now.1 < before.1
}

fn denied(e: &watcher::Error) -> bool {
    let of = |e: &Error| matches!(super::client::code(e), Some(403..=405));
    match e {
        watcher::Error::InitialListFailed(e) | watcher::Error::WatchStartFailed(e) => of(e),
        watcher::Error::WatchError(s) => (403..=405).contains(&s.code),
        _ => false,
    }
}

fn of(o: &impl ResourceExt) -> Option<InstanceId> {
    InstanceId::parse(o.labels().get(INSTANCE)?)
}

fn ended(p: &Pod) -> bool {
    let gone = |which, sidecar| container(p, which, sidecar).is_some_and(|c| !c.running && c.ended.is_some());
    gone("app", false) || gone("gate", true)
}
