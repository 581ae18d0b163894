//! What an `up` would meet on a cluster, before anybody needs it: the preflight's own judgement, and what it does not ask each time.
use super::{
    Shared,
    census::{Census, enforcer, kind, usable},
    client::{code, failed},
    preflight::{self, all},
    price, rights,
};
use crate::prices::nodes::Kind;
use k8s_openapi::api::{authentication::v1::SelfSubjectReview, core::v1::Node};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::json;
use std::collections::BTreeSet;
use syp_engine::{
    cost::Pricing,
    examined::Examined,
    failure::{Class, failure},
};
use syp_proto::{journal::Failure, v1};

/// Looks at everything.
pub(super) async fn examine(s: &Shared, spec: &v1::InstanceSpec) -> Examined {
    let mut out = Examined::default();
    if let Err(f) = look(s, spec, &mut out).await {
        out.fail("reachable", f);
    }
    out
}

/// Ends early when the cluster can't be asked any more.
async fn look(s: &Shared, spec: &v1::InstanceSpec, out: &mut Examined) -> Result<(), Failure> {
    let c = s.client().await?;
    let version = preflight::version(&c).await?;
    out.ok("reachable", format!("the API server of context '{}' answers", s.context));
    out.judge("version", preflight::supported(&version), format!("Kubernetes {}", version.git_version));
    let asked = spec.kubernetes.clone().unwrap_or_default().namespace;
    let own = asked.is_empty();
    // independent of each other, and each may wait for its whole time-out
    let needed = preflight::wanted(own, false);
    let both = [&needed, rights::USAGE].concat();
    let (who, missing, groups, nodes) = tokio::join!(
        identity(&c),
        rights::missing(&c, &asked, &both),
        c.list_api_groups(),
        all::<Node>(Api::all(c.clone())),
    );
    out.identity = match who? {
        Some(who) => {
            out.ok("identity", &who);
            who
        }
        None => {
            out.note("identity", "the cluster does not say who the engine is to it");
            String::new()
        }
    };
    // without the others it serves as well
    let (missing, optional): (Vec<_>, Vec<_>) = missing?.into_iter().partition(|r| needed.contains(r));
    let (place, at) = if own { ("in the whole cluster", "") } else { ("in its namespace", asked.as_str()) };
    out.judge("rights", rights::complete(&missing, at), format!("all that an instance needs, {place}"));
    out.missing = missing.iter().map(rights::Right::words).collect();
    out.role = rights::manifest(&missing, at, &out.identity);
    match preflight::gate_image(s) {
        Ok(image) => out.ok("gate's image", image),
        Err(f) => out.fail("gate's image", f),
    }
    if own {
        out.note("namespace", "each instance gets one of its own; '--namespace' looks at one that is there");
    } else {
        namespace(&c, &asked, spec, out).await?;
    }
    let groups: Vec<String> = groups.map_err(|e| failed(&e))?.groups.into_iter().map(|g| g.name).collect();
    let has = |name: &str| groups.iter().any(|g| g == name);
    let nodes = nodes?;
    let kinds = nodes.iter().flatten().filter(|n| usable(n)).map(kind).collect();
    count(nodes, out);
    match enforcer(&groups) {
        Some(name) => out.ok("network", format!("{name} is there, which enforces NetworkPolicy")),
        None => out.note(
            "network",
            "nobody says whether it enforces NetworkPolicy: each 'up' tries it before it serves; '--isolation rules' does without",
        ),
    }
    classes(&c, "networking.k8s.io", "IngressClass", "ingressclasses", "ingress classes", out).await?;
    if has("gateway.networking.k8s.io") {
        classes(&c, "gateway.networking.k8s.io", "GatewayClass", "gatewayclasses", "gateway classes", out)
            .await?;
    } else {
        out.note("gateway classes", "this cluster has no Gateway API: --domain goes through an ingress");
    }
    if !has("metrics.k8s.io") {
        out.warn(
            "metrics server",
            "none: CPU and memory of replicas are not shown",
            "install metrics-server",
        );
    } else if !optional.is_empty() {
        out.warn(
            "metrics server",
            "there, and the engine may not ask it: CPU and memory of replicas are not shown",
            format!("add to the engine's role:\n{}", rights::rules(&optional)),
        );
    } else {
        out.ok("metrics server", "there");
    }
    price(s, spec, &kinds, out);
    Ok(())
}

/// Who we are to the API server: as its own words, so that a binding can be made of them.
async fn identity(c: &Client) -> Result<Option<String>, Failure> {
    let api: Api<SelfSubjectReview> = Api::all(c.clone());
    match api.create(&PostParams::default(), &SelfSubjectReview::default()).await {
        Ok(r) => Ok(r.status.and_then(|s| s.user_info).and_then(|u| u.username)),
        Err(e) if matches!(code(&e), Some(403 | 404)) => Ok(None),
        Err(e) => Err(failed(&e)),
    }
}

/// One that is there: what it allows, and what is left in it.
async fn namespace(
    c: &Client,
    name: &str,
    spec: &v1::InstanceSpec,
    out: &mut Examined,
) -> Result<(), Failure> {
    let level = match preflight::level(c, name).await {
        Ok(level) => level,
        Err(f) if f.reason == "NAMESPACE_NOT_FOUND" => {
            out.fail("namespace", f);
            return Ok(());
        }
        Err(f) => return Err(f),
    };
    out.ok("namespace", name);
    let words = if level.is_empty() {
        "none is enforced, or the namespace may not be looked at".to_owned()
    } else if level == "privileged" {
        level.clone()
    } else {
        format!("{level}: '--isolation rules' is refused there")
    };
    out.judge("Pod Security", preflight::allows(&level, name, spec), words);
    let Some(room) = preflight::room(c, name).await? else {
        out.note(
            "quota",
            "the engine may not look at quotas and limits ('list' on both, as the role files have it): where a quota wants limits of cores, its pods are refused",
        );
        return Ok(());
    };
    out.judge("quota", preflight::enough(&room.problems(spec), name), room.words());
    Ok(())
}

fn count(nodes: Option<Vec<Node>>, out: &mut Examined) {
    let Some(nodes) = nodes else {
        out.note("nodes", "the engine may not look at them");
        return;
    };
    let census = Census::of(&nodes);
    if census.usable == 0 {
        let next = "'kubectl get nodes' shows what is wrong with them";
        out.fail("nodes", failure(Class::Terminal, "UNSCHEDULABLE", census.words(), next));
    } else {
        out.ok("nodes", census.words());
    }
}

async fn classes(
    c: &Client,
    group: &str,
    kind: &str,
    plural: &str,
    what: &str,
    out: &mut Examined,
) -> Result<(), Failure> {
    let r = ApiResource {
        group: group.into(),
        version: "v1".into(),
        api_version: format!("{group}/v1"),
        kind: kind.into(),
        plural: plural.into(),
    };
    match all::<DynamicObject>(Api::all_with(c.clone(), &r)).await? {
        None => out.note(what, format!("the engine may not look at them (list {plural}.{group})")),
        Some(held) if held.is_empty() => out.note(what, "none: '--domain' would lead nowhere"),
        Some(held) => out.ok(what, held.iter().map(ResourceExt::name_any).collect::<Vec<_>>().join(", ")),
    }
    Ok(())
}

/// What one replica would cost.
fn price(s: &Shared, spec: &v1::InstanceSpec, nodes: &BTreeSet<Kind>, out: &mut Examined) {
    let one = v1::InstanceSpec { scaling: None, ..spec.clone() };
    let (hourly, lines, facts) = price::price(s, None, &one, &json!({ "nodes": nodes }));
    let pricing = Pricing::of_facts(&facts);
    let currency = facts["currency"].as_str().unwrap_or_default();
    match &pricing.unpriced {
        Some(why) => {
            let next =
                format!("'sypctl tariff set {} --per-vcpu-hour PRICE --per-gib-hour PRICE' says it", s.name);
            out.warn("a replica costs", why, next);
        }
        None => {
            let of: Vec<_> = lines.iter().map(|l| l.description.as_str()).collect();
            let words = format!("{} {currency} an hour: {}", hourly.normalize(), of.join(", "));
            out.ok("a replica costs", words);
        }
    }
}
