//! The way in from outside by name, where the cluster has the Gateway API: a route of the instance's own at a Gateway that somebody
//! else keeps, with its listeners, addresses and certificates.
use super::{
    Shared,
    client::{GATEWAY, HTTP_ROUTE, failed, optional},
    names::{PORT, namespace, namespace_of},
    object, rehearse, service,
};
use crate::labels::key;
use kube::Client;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1,
};
use tokio::time::Instant;

pub(super) struct Route(pub Arc<Shared>);

/// Kind of the step.
pub(super) const KIND: &str = "k8s.route@1";
/// A controller has judged a route within this.
const JUDGED: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(250);

/// Where a Gateway is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub namespace: String,
    pub name: String,
}

/// `NAMESPACE/NAME`, or a name in the instance's own namespace; `None`: no Gateway was asked for. Pure.
pub(super) fn asked(spec: &v1::InstanceSpec, own: &str) -> Option<At> {
    let said = spec.kubernetes.as_ref().map(|k| k.gateway.as_str()).filter(|g| !g.is_empty())?;
    let (namespace, name) = said.split_once('/').unwrap_or((own, said));
    Some(At { namespace: namespace.into(), name: name.into() })
}

/// Does a listener's name cover another? Pure.
fn covers(listener: &str, domain: &str) -> bool {
    match listener.strip_prefix("*.") {
        _ if listener.is_empty() => true,
        Some(of) => domain.strip_suffix(of).is_some_and(|d| d.len() > 1 && d.ends_with('.')),
        None => listener == domain,
    }
}

/// The listener at which a name comes in, one with TLS before one without. Pure.
fn listener<'a>(gateway: &'a Value, domain: &str, from_same: bool) -> Option<&'a Value> {
    let all = gateway["spec"]["listeners"].as_array()?;
    let fits = |l: &&Value, protocol: &str| {
        let from = l["allowedRoutes"]["namespaces"]["from"].as_str().unwrap_or("Same");
        l["protocol"] == protocol
            && covers(l["hostname"].as_str().unwrap_or_default(), domain)
            && (from_same || from != "Same")
    };
    all.iter().find(|l| fits(l, "HTTPS")).or_else(|| all.iter().find(|l| fits(l, "HTTP")))
}

fn refused(at: &At, what: impl std::fmt::Display, next: &str) -> Failure {
    let message = format!("Gateway {}/{}: {what}", at.namespace, at.name);
    failure(Class::Terminal, "ROUTE_REFUSED", message, next)
}

/// Is the Gateway there, and does it let names of this namespace in?
///
/// # Errors
/// `GATEWAY_NOT_FOUND`, `ROUTE_REFUSED`, the API server's.
pub(super) async fn check(c: &Client, at: &At, own: &str, domains: &[String]) -> Result<Value, Failure> {
    let Some(found) = optional(GATEWAY.api(c, &at.namespace).get(&at.name).await)? else {
        return Err(failure(
            Class::Terminal,
            "GATEWAY_NOT_FOUND",
            format!("there is no Gateway '{}' in namespace '{}'", at.name, at.namespace),
            "'kubectl get gateways -A' shows what there is; --gateway takes NAMESPACE/NAME",
        ));
    };
    lets_in(&json!({ "spec": found.data["spec"] }), at, own, domains)
}

/// The Gateway itself, when it lets all of them in. Pure.
fn lets_in(gateway: &Value, at: &At, own: &str, domains: &[String]) -> Result<Value, Failure> {
    for domain in domains {
        if listener(gateway, domain, at.namespace == own).is_some() {
            continue;
        }
        if listener(gateway, domain, true).is_some() {
            return Err(refused(
                at,
                format!("its listener for '{domain}' takes routes of its own namespace alone"),
                "set allowedRoutes.namespaces.from of that listener to All or Selector, or use --namespace",
            ));
        }
        return Err(refused(
            at,
            format!("no HTTP or HTTPS listener of it takes '{domain}'"),
            "use a name that one of its listeners covers, or give it such a listener",
        ));
    }
    Ok(gateway.clone())
}

/// What a caller writes. Pure.
fn endpoint(gateway: &Value, domain: &str) -> String {
    let l = listener(gateway, domain, true).cloned().unwrap_or_default();
    let (scheme, usual) = if l["protocol"] == "HTTPS" { ("https", 443) } else { ("http", 80) };
    match l["port"].as_u64() {
        Some(port) if port != usual => format!("{scheme}://{domain}:{port}"),
        _ => format!("{scheme}://{domain}"),
    }
}

fn manifest(cx: &StepCx, name: &str, at: &At) -> Value {
    let parent = json!({ "name": at.name, "namespace": at.namespace });
    let backend = json!({ "name": key(&cx.owner, service::NODE), "port": PORT });
    let rest = json!({ "spec": {
        "parentRefs": [parent],
        "hostnames": cx.spec.domains,
        "rules": [{ "backendRefs": [backend] }],
    } });
    object::object(HTTP_ROUTE, &cx.owner, &cx.node, name, namespace(cx), rest)
}

/// What controllers say about a route as it is now: taken, or what is in the way; `None`: nobody has said anything. Pure.
fn judged(route: &Value) -> Option<Result<(), String>> {
    let generation = route["metadata"]["generation"].as_i64().unwrap_or_default();
    let parents = route["status"]["parents"].as_array().into_iter().flatten();
    let current = |c: &&Value| c["observedGeneration"].as_i64().is_none_or(|g| g == generation);
    let said: Vec<&Value> =
        parents.filter_map(|p| p["conditions"].as_array()).flatten().filter(current).collect();
    let of = |kind: &str| said.iter().find(|c| c["type"] == kind);
    for kind in ["Accepted", "ResolvedRefs"] {
        if let Some(no) = of(kind).filter(|c| c["status"] == "False") {
            let text = |name: &str| no[name].as_str().unwrap_or_default().to_owned();
            return Some(Err(format!("{kind}=False, {}: {}", text("reason"), text("message"))));
        }
    }
    of("Accepted").is_some_and(|c| c["status"] == "True").then_some(Ok(()))
}

/// Waits until the Gateway's controller has taken the route.
async fn taken(c: &Client, cx: &StepCx, s: &Shared, name: &str, at: &At) -> Result<(), Failure> {
    let api = HTTP_ROUTE.api(c, namespace(cx));
    let end = Instant::now() + JUDGED;
    loop {
        let now = api.get(name).await.map_err(|e| failed(&e))?;
        let route =
            json!({ "metadata": { "generation": now.metadata.generation }, "status": now.data["status"] });
        let said = judged(&route);
        match said {
            Some(Ok(())) => return Ok(()),
            _ if Instant::now() < end => {}
            // the Service was made a moment ago: a controller that is behind has not seen it yet
            Some(Err(why)) if why.contains("BackendNotFound") => {
                return Err(failure(
                    Class::Transient,
                    "INGRESS_NOT_READY",
                    format!("Gateway {}/{}: {why}", at.namespace, at.name),
                    "its controller has not seen the instance's Service yet; the engine tries again by itself",
                ));
            }
            Some(Err(why)) => {
                return Err(refused(
                    at,
                    why,
                    "the words are its controller's: change what they name, then try again",
                ));
            }
            None => {
                return Err(failure(
                    Class::Transient,
                    "INGRESS_NOT_READY",
                    format!("no controller has judged the route at Gateway {}/{}", at.namespace, at.name),
                    "see that the controller of its GatewayClass runs; the engine tries again by itself",
                ));
            }
        }
        let what = format!("Gateway {}/{} to take the route", at.namespace, at.name);
        cx.waiting.on(&cx.node, "INGRESS_NOT_READY", what, "", s.clock.now());
        tokio::time::sleep(LOOK).await;
    }
}

impl Step for Route {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        object::observe(&self.0.client().await?, HTTP_ROUTE, cx, key).await
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let c = self.0.client().await?;
        let Some(at) = asked(&cx.spec, namespace(cx)) else { return Ok(Done::default()) };
        let gateway = check(&c, &at, namespace(cx), &cx.spec.domains).await?;
        let o = manifest(cx, key, &at);
        let made = object::ensure(&c, HTTP_ROUTE, &cx.owner, namespace(cx), &o).await?;
        taken(&c, cx, &self.0, key, &at).await?;
        let domain = cx.spec.domains.first().cloned().unwrap_or_default();
        Ok(object::done_with(&made, json!({ "endpoint": endpoint(&gateway, &domain) })))
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        let Some(at) = asked(&cx.spec, namespace(cx)) else { return Ok(None) };
        rehearse::rehearse(&self.0, HTTP_ROUTE, cx, &manifest(cx, key, &at)).await
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        object::remove(&self.0.client().await?, HTTP_ROUTE, owner, &namespace_of(row), &row.key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(listeners: &Value) -> Value {
        json!({ "spec": { "listeners": listeners } })
    }

    fn at() -> At {
        At { namespace: "infra".into(), name: "web".into() }
    }

    #[test]
    fn names_come_in_at_the_listener_that_covers_them_with_tls_first() {
        let from_all = json!({ "namespaces": { "from": "All" } });
        let g = gateway(&json!([
            { "protocol": "HTTP", "port": 8000, "allowedRoutes": from_all },
            { "protocol": "HTTPS", "port": 443, "hostname": "*.example.com", "allowedRoutes": from_all },
            { "protocol": "HTTPS", "port": 8443, "hostname": "own.example.org" },
            { "protocol": "TCP", "port": 22, "hostname": "ssh.example.org" },
        ]));
        assert_eq!(endpoint(&g, "shop.example.com"), "https://shop.example.com");
        assert_eq!(
            endpoint(&g, "example.com"),
            "http://example.com:8000",
            "a wildcard does not cover itself"
        );
        assert_eq!(endpoint(&g, "own.example.org"), "https://own.example.org:8443");
        let of =
            |d: &str, own: &str| lets_in(&g, &at(), own, &[d.to_owned()]).map(drop).map_err(|f| f.message);
        assert!(of("shop.example.com", "shop").is_ok());
        assert!(of("own.example.org", "shop").is_ok(), "over plain HTTP, from everywhere");
        let strict = gateway(&json!([{ "protocol": "HTTPS", "port": 443, "hostname": "a.b" }]));
        let of = |d: &str, own: &str| {
            lets_in(&strict, &at(), own, &[d.to_owned()]).map(drop).map_err(|f| f.message)
        };
        assert!(of("a.b", "infra").is_ok());
        assert!(of("a.b", "shop").unwrap_err().contains("its own namespace alone"));
        assert!(of("c.d", "infra").unwrap_err().contains("takes 'c.d'"));
    }

    #[test]
    fn a_route_is_judged_by_what_is_said_of_it_as_it_is_now() {
        let of = |conditions: Value| {
            judged(
                &json!({ "metadata": { "generation": 2 }, "status": { "parents": [{ "conditions": conditions }] } }),
            )
        };
        let c = |kind: &str, status: &str, generation: i64| json!({ "type": kind, "status": status, "observedGeneration": generation, "reason": "R", "message": "m" });
        assert_eq!(judged(&json!({})), None);
        assert_eq!(of(json!([c("Accepted", "True", 1)])), None, "of what it was before");
        assert_eq!(of(json!([c("Accepted", "True", 2)])), Some(Ok(())));
        let no = of(json!([c("Accepted", "True", 2), c("ResolvedRefs", "False", 2)]));
        assert_eq!(no, Some(Err("ResolvedRefs=False, R: m".into())));
    }

    #[test]
    fn a_gateway_is_in_the_instances_namespace_unless_it_is_said() {
        let of = |said: &str| {
            let kubernetes = Some(v1::Kubernetes { gateway: said.into(), ..Default::default() });
            asked(&v1::InstanceSpec { kubernetes, ..Default::default() }, "own")
        };
        assert_eq!(of(""), None);
        assert_eq!(of("infra/web"), Some(at()));
        assert_eq!(of("web").unwrap().namespace, "own");
    }
}
