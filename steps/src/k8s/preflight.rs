//! Everything that can be refused before anything is made.
use super::{
    Shared,
    autoscaler::EXTERNAL,
    census::Room,
    client::{code, failed},
    ingress, object, own, price, pull,
    rights::{self, Right},
    route, service,
};
use crate::{
    labels::key,
    registry::{self, Pinned},
};
use k8s_openapi::{
    api::core::v1::{LimitRange, Node, ResourceQuota, Secret},
    apimachinery::pkg::version::Info,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use syp_engine::{
    failure::{Class, failure},
    revision, scaling,
    step::{Held, Owner, Preflight},
};
use syp_proto::{
    journal::Failure,
    v1::{self, instance_spec::Isolation},
};

/// From this version on a sidecar ends after its app, and an app can be kept for a while when its pod goes.
const OLDEST: u32 = 30;

fn refuse(reason: &str, what: impl Into<String>, next: impl Into<String>) -> Failure {
    failure(Class::Terminal, reason, what, next)
}

/// Looks at the cluster, the rights, the namespace and the spec.
pub(super) async fn check(
    s: &Shared,
    owner: &Owner,
    spec: &v1::InstanceSpec,
    held: Option<&Held<'_>>,
) -> Result<Preflight, Failure> {
    let mut spec = spec.clone();
    spec.target.clone_from(&s.name);
    fits(&spec)?;
    let c = s.client().await?;
    supported(&version(&c).await?)?;
    measured(s, &c, &spec).await?;
    // a registry may be slow to answer
    let (place, pinned) = tokio::join!(place(s, &c, owner, &spec, held), pinned(&spec, held));
    let mut facts = place?;
    object::merge(&mut facts, image(&c, &spec.image, pinned).await?);
    facts["user"] = user(&facts, held).await.into();
    if let Some(n) = held.and_then(|h| h.facts[scaling::REPLICAS].as_u64()) {
        facts[scaling::REPLICAS] = n.into();
    }
    if let Some(until) = held.and_then(|h| h.facts["unpriced_until"].as_i64()) {
        facts["unpriced_until"] = until.into();
    }
    let (hourly, lines, facts) = price::price(s, None, &spec, &facts);
    Ok(Preflight { facts, spec, hourly, lines })
}

/// Where it is to be, and whether it may and can be there.
async fn place(
    s: &Shared,
    c: &Client,
    owner: &Owner,
    spec: &v1::InstanceSpec,
    held: Option<&Held<'_>>,
) -> Result<Value, Failure> {
    let asked = spec.kubernetes.clone().unwrap_or_default();
    let own = asked.namespace.is_empty();
    let namespace = match held {
        // an instance stays where it is
        Some(h) => h.facts["namespace"].as_str().unwrap_or_default().to_owned(),
        None if own => key(owner, "namespace"),
        None => asked.namespace.clone(),
    };
    let gateway = route::asked(spec, &namespace);
    rights::check(c, if own { "" } else { &namespace }, &wanted(own, gateway.is_some())).await?;
    if let Some(at) = &gateway {
        rights::check(c, &at.namespace, rights::GATEWAYS).await?;
        route::check(c, at, &namespace, &spec.domains).await?;
    } else if way_in_changes(spec, held) {
        ingress::check(c, &asked).await?;
        certificate(c, &asked, &namespace).await?;
    }
    let level = if own { String::new() } else { level(c, &namespace).await? };
    allows(&level, &namespace, spec)?;
    let room = if own { None } else { room(c, &namespace).await? };
    if let Some(room) = &room {
        // what an instance has by now is among what is used: how much it would need more is not known
        let problems = if held.is_some() { room.unsaid(spec) } else { room.problems(spec) };
        enough(&problems, &namespace)?;
    }
    let gate_image = gate_image(s)?;
    pull::check(spec).await?;
    let mut facts = json!({
        "namespace": namespace,
        "own_namespace": own,
        "gate_image": gate_image,
        "restricted": level == "restricted",
    });
    facts["node_address"] = match held {
        Some(h) => h.facts["node_address"].clone(),
        // tokens go over plain HTTP there: only where the node is this very host's
        None if s.is_kind() => service::node_address(c).await?.map_or(Value::Null, Value::String),
        None => Value::Null,
    };
    if let Some(cores) = room.and_then(|r| r.cores()) {
        facts[own::CORES] = cores.into();
    }
    facts["nodes"] = json!(price::nodes(c).await?);
    Ok(facts)
}

/// Is there a way in by an Ingress, another one than what serves has? What is in use is not refused. Pure.
fn way_in_changes(spec: &v1::InstanceSpec, held: Option<&Held<'_>>) -> bool {
    let serving = held.and_then(|h| h.have.serving);
    let same = |s: &v1::InstanceSpec| s.domains == spec.domains && s.kubernetes == spec.kubernetes;
    !spec.domains.is_empty() && !serving.is_some_and(same)
}

/// Is the Secret there that the Ingress takes its certificate from? One that cert-manager makes comes later.
async fn certificate(c: &Client, k: &v1::Kubernetes, namespace: &str) -> Result<(), Failure> {
    if k.tls_secret.is_empty() || ingress::gets_certificate(k) {
        return Ok(());
    }
    if k.namespace.is_empty() {
        return Err(refuse(
            "INVALID_ARGUMENT",
            format!(
                "a namespace of its own has no Secret '{}': name the --namespace that has it, or let cert-manager make it \
                 (--ingress-annotation)",
                k.tls_secret
            ),
            "",
        ));
    }
    match Api::<Secret>::namespaced(c.clone(), namespace).get_metadata(&k.tls_secret).await {
        Ok(_) => Ok(()),
        Err(e) if code(&e) == Some(404) => Err(refuse(
            "CERTIFICATE_UNSUITABLE",
            format!("namespace '{namespace}' has no Secret '{}' with a certificate", k.tls_secret),
            format!(
                "'kubectl create secret tls {} -n {namespace} --cert CHAIN --key KEY' makes it, cert-manager with --ingress-annotation",
                k.tls_secret
            ),
        )),
        Err(e) => Err(failed(&e)),
    }
}

/// What the registry says about the image. What only says how many there should be stays what it is; everything else asks what the
/// tag is now.
async fn pinned(spec: &v1::InstanceSpec, held: Option<&Held<'_>>) -> Pinned {
    let kept = held.filter(|h| only_scales(h, spec)).and_then(|h| {
        let fact = |name: &str| h.facts[name].as_str().map(str::to_owned);
        Some((fact("image")?, fact("digest").unwrap_or_default()))
    });
    match kept {
        Some((image, digest)) => Pinned::To(image, digest),
        None => registry::pin(&spec.image).await,
    }
}

/// Which image it is.
async fn image(c: &Client, name: &str, pinned: Pinned) -> Result<Value, Failure> {
    match pinned {
        Pinned::To(image, digest) => Ok(json!({ "image": image, "digest": digest })),
        // one that was loaded into the nodes is in no registry
        Pinned::Missing(why) if !loaded(c, name).await => Err(refuse(
            "IMAGE_NOT_FOUND",
            format!("there is no image '{name}': {why}"),
            "check its name and tag, or push it: the nodes pull it from there",
        )),
        Pinned::Missing(why) | Pinned::Unknown(why) => {
            tracing::info!(image = name, "not pinned to a digest: {why}");
            Ok(json!({ "image": name }))
        }
    }
}

/// As whom the image runs, if its registry says so. What a revision's image is does not change.
async fn user(facts: &Value, held: Option<&Held<'_>>) -> Option<String> {
    let image = facts["image"].as_str().filter(|_| facts["digest"].is_string())?;
    match held.filter(|h| h.facts["image"] == image && h.facts["user"].is_string()) {
        Some(h) => h.facts["user"].as_str().map(str::to_owned),
        None => registry::user(image).await,
    }
}

/// Do the two differ in nothing but how many there should be? Pure.
pub(crate) fn only_scales(held: &Held<'_>, spec: &v1::InstanceSpec) -> bool {
    held.have.serving.is_some_and(|serving| {
        serving.scaling != spec.scaling
            && revision::template(serving, held.facts) == revision::template(spec, held.facts)
    })
}

/// Can the cluster tell how busy the app is, where it is to choose how many there are?
async fn measured(s: &Shared, c: &Client, spec: &v1::InstanceSpec) -> Result<(), Failure> {
    if !scaling::is_elastic(spec) {
        return Ok(());
    }
    if scaling::by_cpu(spec) && !served(c, "metrics.k8s.io/v1beta1").await? {
        let what =
            "no metrics API (metrics.k8s.io): it can't tell how busy a replica is, and would never scale";
        let next = "install metrics-server, or say one number with --replicas";
        return Err(refuse("METRICS_MISSING", format!("{} has {what}", s.name), next));
    }
    // The metric itself is not looked for: it may not be listed before a first instance has it. One that never comes becomes
    // condition MetricsMissing.
    if scaling::target_millirps(spec).is_some() && !served(c, EXTERNAL).await? {
        let what = "no external metrics API (external.metrics.k8s.io): it can't tell how many requests there are, and would never scale";
        let next = "install prometheus-adapter with the rule of examples/scaling, or say --target-cpu instead of --target-rps";
        return Err(refuse("METRICS_MISSING", format!("{} has {what}", s.name), next));
    }
    Ok(())
}

/// Does somebody answer for an API group that may be another server's?
async fn served(c: &Client, group_version: &str) -> Result<bool, Failure> {
    match c.list_api_group_resources(group_version).await {
        Ok(_) => Ok(true),
        Err(e) if matches!(code(&e), Some(404 | 503)) => Ok(false),
        Err(e) => Err(failed(&e)),
    }
}

/// Does a node say that it has the image? Nodes name the largest fifty. Where they can't be looked at, it may be.
async fn loaded(c: &Client, image: &str) -> bool {
    let Ok(Some(nodes)) = all::<Node>(Api::all(c.clone())).await else { return true };
    let has = |name: &String| name == image || name.ends_with(&format!("/{image}"));
    let images = nodes.iter().filter_map(|n| n.status.as_ref()?.images.as_ref()).flatten();
    images.filter_map(|i| i.names.as_ref()).flatten().any(has)
}

/// What no cluster can do for us. Pure.
pub(crate) fn fits(spec: &v1::InstanceSpec) -> Result<(), Failure> {
    if spec.port == 0 {
        return Err(refuse(
            "PORT_UNKNOWN",
            "the image is not here to be asked on which port it listens",
            "add --port N",
        ));
    }
    if spec.port >= i32::from(super::names::ADMIN) {
        let last = super::names::ADMIN - 1;
        return Err(refuse(
            "INVALID_ARGUMENT",
            format!("port {} is the gate's or above its", spec.port),
            format!("use a port of 1 to {last}"),
        ));
    }
    if scaling::is_elastic(spec)
        && scaling::by_cpu(spec)
        && spec.resources.as_ref().is_none_or(|r| r.cpu.is_empty())
    {
        return Err(refuse(
            "INVALID_ARGUMENT",
            "a range of replicas is scaled by how busy the app is, in percent of its --cpu",
            "add --cpu, choose by requests with --target-rps, or say one number with --replicas",
        ));
    }
    let k = spec.kubernetes.clone().unwrap_or_default();
    if !k.gateway.is_empty() {
        let ingress =
            !k.ingress_class.is_empty() || !k.tls_secret.is_empty() || !k.ingress_annotations.is_empty();
        if spec.domains.is_empty() || ingress {
            return Err(refuse(
                "INVALID_ARGUMENT",
                "a Gateway lets names in, by listeners and certificates of its own: --gateway goes with --domain, and without --ingress-class, --ingress-annotation and --tls-secret",
                "",
            ));
        }
        if k.namespace.is_empty() && !k.gateway.contains('/') {
            return Err(refuse(
                "INVALID_ARGUMENT",
                format!(
                    "a namespace of its own has no Gateway '{0}': --gateway NAMESPACE/{0} says where it is",
                    k.gateway
                ),
                "",
            ));
        }
    }
    if !k.namespace.is_empty() && k.tls_secret.is_empty() && ingress::gets_certificate(&k) {
        return Err(refuse(
            "INVALID_ARGUMENT",
            format!(
                "cert-manager puts the certificate into a Secret of '{}', where it stays after the instance: say its name with \
                 --tls-secret, or leave --namespace away",
                k.namespace
            ),
            "",
        ));
    }
    if k.namespace.is_empty() && !k.pull_secret.is_empty() {
        return Err(refuse(
            "INVALID_ARGUMENT",
            format!(
                "a namespace of its own has no Secret '{}': name the --namespace that has it, or use --pull-login",
                k.pull_secret
            ),
            "",
        ));
    }
    let publish = spec.publish.clone().unwrap_or_default();
    if publish.port != 0 || !publish.tls_cert_file.is_empty() {
        return Err(refuse(
            "NOT_SUPPORTED",
            "an address of this host can't be published by a cluster",
            "leave --publish away: the endpoint is the Service, or with --domain an ingress",
        ));
    }
    Ok(())
}

/// Where the nodes get the gate's image from.
pub(super) fn gate_image(s: &Shared) -> Result<String, Failure> {
    s.gate_image.clone().ok_or_else(|| {
        refuse(
            "GATE_IMAGE",
            "nobody has said where this cluster gets the gate's image from",
            "put it where the nodes can pull it and set SYP_GATE_IMAGE to its name for the engine",
        )
    })
}

/// What the API server says it is.
pub(super) async fn version(c: &Client) -> Result<Info, Failure> {
    c.apiserver_version().await.map_err(|e| failed(&e))
}

/// Is it new enough? Pure.
pub(super) fn supported(v: &Info) -> Result<(), Failure> {
    let digits: String = v.minor.chars().take_while(char::is_ascii_digit).collect();
    let minor: u32 = digits.parse().unwrap_or(0);
    if v.major == "1" && minor < OLDEST {
        return Err(refuse(
            "CLUSTER_TOO_OLD",
            format!(
                "the cluster is Kubernetes {}: the gate as a sidecar needs 1.{OLDEST} or later",
                v.git_version
            ),
            "update the cluster",
        ));
    }
    Ok(())
}

/// The Pod Security level that a namespace enforces; empty: none, or it may not be looked at.
pub(super) async fn level(c: &Client, namespace: &str) -> Result<String, Failure> {
    let api: Api<DynamicObject> = super::client::NAMESPACE.api(c, "");
    match api.get(namespace).await {
        Ok(n) => Ok(n.labels().get("pod-security.kubernetes.io/enforce").cloned().unwrap_or_default()),
        Err(e) if code(&e) == Some(404) => Err(refuse(
            "NAMESPACE_NOT_FOUND",
            format!("there is no namespace '{namespace}'"),
            format!("'kubectl create namespace {namespace}', or leave --namespace away for one of its own"),
        )),
        // with rights in one namespace alone it can't be looked at
        Err(e) if code(&e) == Some(403) => Ok(String::new()),
        Err(e) => Err(failed(&e)),
    }
}

/// `--isolation rules` needs what a level may forbid. Pure.
pub(super) fn allows(level: &str, namespace: &str, spec: &v1::InstanceSpec) -> Result<(), Failure> {
    if spec.isolation() != Isolation::Rules || !["baseline", "restricted"].contains(&level) {
        return Ok(());
    }
    Err(refuse(
        "POD_SECURITY",
        format!(
            "namespace '{namespace}' enforces Pod Security '{level}', which forbids NET_ADMIN: --isolation rules needs it"
        ),
        "use another namespace, leave --namespace away for one of its own, or use a CNI that enforces NetworkPolicy",
    ))
}

/// All of a kind; `None` where they may not be looked at, or the cluster has no such kind.
pub(super) async fn all<T>(api: Api<T>) -> Result<Option<Vec<T>>, Failure>
where
    T: Clone + DeserializeOwned + std::fmt::Debug,
{
    match api.list(&ListParams::default()).await {
        Ok(l) => Ok(Some(l.items)),
        Err(e) if matches!(code(&e), Some(403 | 404)) => Ok(None),
        Err(e) => Err(failed(&e)),
    }
}

/// What quotas and limits leave in a namespace; `None`: they may not be looked at.
pub(super) async fn room(c: &Client, namespace: &str) -> Result<Option<Room>, Failure> {
    let (quotas, limits) = tokio::join!(
        all::<ResourceQuota>(Api::namespaced(c.clone(), namespace)),
        all::<LimitRange>(Api::namespaced(c.clone(), namespace)),
    );
    Ok(quotas?.zip(limits?).map(|(quotas, limits)| Room::new(&quotas, &limits)))
}

/// Is nothing of a quota in the way? Pure.
pub(super) fn enough(problems: &[String], namespace: &str) -> Result<(), Failure> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(refuse(
        "QUOTA_EXCEEDED",
        format!("namespace '{namespace}': {}", problems.join("; ")),
        super::client::QUOTA,
    ))
}

/// The rights that a plan uses.
pub(super) fn wanted(own: bool, route: bool) -> Vec<Right> {
    let mut out = rights::IN_NAMESPACE.to_vec();
    if own {
        out.extend_from_slice(rights::NAMESPACES);
    }
    // also without a domain: a teardown lists whatever a step could have made
    out.extend_from_slice(rights::INGRESS);
    if route {
        out.extend_from_slice(rights::ROUTES);
    }
    out
}
