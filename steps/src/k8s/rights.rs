//! What the engine's identity must be allowed to do on a cluster: the very list that the role files in `deploy/` hold.
use super::client::failed;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::{ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview};
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// One verb on one kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty: core.
    pub group: &'static str,
    /// Plural, perhaps with a subresource.
    pub resource: &'static str,
    /// `get`, `list`, ...
    pub verb: &'static str,
}

const fn right(group: &'static str, resource: &'static str, verb: &'static str) -> Right {
    Right { group, resource, verb }
}

// === impl Right ===

impl Right {
    /// `get pods/log`, `patch deployments.apps`.
    pub fn words(&self) -> String {
        words(std::slice::from_ref(self))
    }
}

/// For the instance's namespace of its own.
pub const NAMESPACES: &[Right] = &[
    right("", "namespaces", "get"),
    right("", "namespaces", "list"),
    right("", "namespaces", "create"),
    right("", "namespaces", "patch"),
    right("", "namespaces", "delete"),
];

/// In every instance's namespace.
pub const IN_NAMESPACE: &[Right] = &[
    right("", "serviceaccounts", "get"),
    right("", "serviceaccounts", "list"),
    right("", "serviceaccounts", "create"),
    right("", "serviceaccounts", "patch"),
    right("", "serviceaccounts", "delete"),
    right("", "secrets", "get"),
    right("", "secrets", "list"),
    right("", "secrets", "create"),
    right("", "secrets", "patch"),
    right("", "secrets", "delete"),
    right("", "services", "get"),
    right("", "services", "list"),
    right("", "services", "create"),
    right("", "services", "patch"),
    right("", "services", "delete"),
    right("", "pods", "get"),
    right("", "pods", "list"),
    right("", "pods", "watch"),
    right("", "pods", "create"),
    right("", "pods", "patch"),
    right("", "pods", "delete"),
    right("", "pods/log", "get"),
    // kube's websockets ask with GET, others with POST
    right("", "pods/portforward", "get"),
    right("", "pods/portforward", "create"),
    right("apps", "deployments", "get"),
    right("apps", "deployments", "list"),
    right("apps", "deployments", "create"),
    right("apps", "deployments", "patch"),
    right("apps", "deployments", "delete"),
    right("networking.k8s.io", "networkpolicies", "get"),
    right("networking.k8s.io", "networkpolicies", "list"),
    right("networking.k8s.io", "networkpolicies", "create"),
    right("networking.k8s.io", "networkpolicies", "patch"),
    right("networking.k8s.io", "networkpolicies", "delete"),
    right("autoscaling", "horizontalpodautoscalers", "get"),
    right("autoscaling", "horizontalpodautoscalers", "list"),
    right("autoscaling", "horizontalpodautoscalers", "create"),
    right("autoscaling", "horizontalpodautoscalers", "patch"),
    right("autoscaling", "horizontalpodautoscalers", "delete"),
    right("policy", "poddisruptionbudgets", "get"),
    right("policy", "poddisruptionbudgets", "list"),
    right("policy", "poddisruptionbudgets", "create"),
    right("policy", "poddisruptionbudgets", "patch"),
    right("policy", "poddisruptionbudgets", "delete"),
];

/// Made with `--domain`, looked for by every teardown.
pub const INGRESS: &[Right] = &[
    right("networking.k8s.io", "ingresses", "get"),
    right("networking.k8s.io", "ingresses", "list"),
    right("networking.k8s.io", "ingresses", "create"),
    right("networking.k8s.io", "ingresses", "patch"),
    right("networking.k8s.io", "ingresses", "delete"),
];

/// Where the Gateway of `--gateway` is.
pub const GATEWAYS: &[Right] = &[right("gateway.networking.k8s.io", "gateways", "get")];

/// Made with `--gateway`.
pub const ROUTES: &[Right] = &[
    right("gateway.networking.k8s.io", "httproutes", "get"),
    right("gateway.networking.k8s.io", "httproutes", "list"),
    right("gateway.networking.k8s.io", "httproutes", "create"),
    right("gateway.networking.k8s.io", "httproutes", "patch"),
    right("gateway.networking.k8s.io", "httproutes", "delete"),
];

/// Where nodes may be seen, an endpoint is a node's address; elsewhere it is a name of the cluster's own.
pub const NODES: &[Right] = &[right("", "nodes", "list")];

/// Whether an ingress class is there; without it a name that nobody takes is not refused.
pub const CLASSES: &[Right] = &[right("networking.k8s.io", "ingressclasses", "list")];

/// What quotas leave in a namespace that is given, and whether the gate must say its limits; without it an `up` finds out.
pub const ROOM: &[Right] = &[right("", "limitranges", "list"), right("", "resourcequotas", "list")];

/// What of ours is removed by hand is news; without them it is found at the next full look.
pub const WATCHES: &[Right] = &[
    right("", "serviceaccounts", "watch"),
    right("", "secrets", "watch"),
    right("", "services", "watch"),
    right("apps", "deployments", "watch"),
    right("networking.k8s.io", "networkpolicies", "watch"),
    right("networking.k8s.io", "ingresses", "watch"),
    right("autoscaling", "horizontalpodautoscalers", "watch"),
    right("policy", "poddisruptionbudgets", "watch"),
    right("gateway.networking.k8s.io", "httproutes", "watch"),
];

/// Why a pod does not begin; without it only that it does not.
pub const EVENTS: &[Right] = &[right("", "events", "list")];

/// CPU and memory, where the cluster has a metrics server; without it they are not shown.
pub const USAGE: &[Right] = &[right("metrics.k8s.io", "pods", "list")];

/// All that an engine needs that gives its instances namespaces of their own.
pub fn of_cluster() -> Vec<Right> {
    let mut all =
        [IN_NAMESPACE, NAMESPACES, INGRESS, GATEWAYS, ROUTES, NODES, CLASSES, ROOM, WATCHES, EVENTS, USAGE]
            .concat();
    all.sort();
    all
}

/// All that an engine needs in the one namespace that it is given.
pub fn of_namespace() -> Vec<Right> {
    let mut all = [IN_NAMESPACE, INGRESS, GATEWAYS, ROUTES, ROOM, WATCHES, EVENTS, USAGE].concat();
    all.sort();
    all
}

/// Reviews at once.
const AT_ONCE: usize = 8;

/// Kinds that are in no namespace.
const CLUSTER: [&str; 3] = ["namespaces", "nodes", "ingressclasses"];

/// Asks the cluster about each one; those that are missing are named, with the rule to add.
///
/// # Errors
/// `RIGHTS_MISSING`, or the API server's.
pub(super) async fn check(c: &Client, namespace: &str, wanted: &[Right]) -> Result<(), Failure> {
    complete(&missing(c, namespace, wanted).await?, namespace)
}

/// Are none missing? Pure.
///
/// # Errors
/// `RIGHTS_MISSING`.
pub(super) fn complete(missing: &[Right], namespace: &str) -> Result<(), Failure> {
    if missing.is_empty() {
        return Ok(());
    }
    let place = if namespace.is_empty() {
        "in the cluster".to_owned()
    } else {
        format!("in namespace '{namespace}'")
    };
    Err(failure(
        Class::Terminal,
        "RIGHTS_MISSING",
        format!("the engine's identity lacks rights {place}: {}", words(missing)),
        format!("add to its role:\n{}", rules(missing)),
    ))
}

/// Those that are not given. The cluster is asked once for all that it would allow there, and singly about what that did not hold:
/// whoever decides by asking somebody else (a cloud's own permissions) can't list what it allows.
///
/// # Errors
/// The API server's.
pub(super) async fn missing(c: &Client, namespace: &str, wanted: &[Right]) -> Result<Vec<Right>, Failure> {
    let given = rules_of(c, namespace).await;
    let unsure = wanted.iter().copied().filter(|r| !given.iter().any(|g| holds(g, *r)));
    let asked = stream::iter(unsure).map(|r| async move {
        let allowed = allowed(c, namespace, r).await?;
        Ok::<_, Failure>((!allowed).then_some(r))
    });
    let mut out: Vec<_> =
        asked.buffer_unordered(AT_ONCE).try_filter_map(|r| async move { Ok(r) }).try_collect().await?;
    out.sort();
    Ok(out)
}

/// A namespace in which nobody has given anything: what is allowed there is allowed everywhere. It need not exist.
const NOWHERE: &str = "syp-nowhere";

/// The rules that count for us; empty when they can't be had.
async fn rules_of(c: &Client, namespace: &str) -> Vec<ResourceRule> {
    let api: Api<SelfSubjectRulesReview> = Api::all(c.clone());
    let namespace = if namespace.is_empty() { NOWHERE } else { namespace };
    let ask = json!({ "spec": { "namespace": namespace } });
    let ask = serde_json::from_value(ask).unwrap_or_default();
    let said = api.create(&PostParams::default(), &ask).await;
    said.ok().and_then(|r| r.status).map(|s| s.resource_rules).unwrap_or_default()
}

/// Does a rule give this right, for objects of any name? As the API server reads rules. Pure.
fn holds(rule: &ResourceRule, r: Right) -> bool {
    let any = |all: &Option<Vec<String>>, is: &dyn Fn(&str) -> bool| {
        all.iter().flatten().any(|one| one == "*" || is(one))
    };
    let sub = r.resource.split_once('/').map(|(_, sub)| sub);
    let resource = |one: &str| {
        one == r.resource || sub.is_some_and(|sub| one.strip_prefix("*/").is_some_and(|of| of == sub))
    };
    rule.resource_names.as_ref().is_none_or(Vec::is_empty)
        && any(&rule.api_groups, &|g| g == r.group)
        && any(&rule.resources, &resource)
        && any(&Some(rule.verbs.clone()), &|v| v == r.verb)
}

async fn allowed(c: &Client, namespace: &str, r: Right) -> Result<bool, Failure> {
    let api: Api<SelfSubjectAccessReview> = Api::all(c.clone());
    let (resource, sub) = r.resource.split_once('/').unwrap_or((r.resource, ""));
    let ask = json!({ "spec": { "resourceAttributes": {
        "namespace": if CLUSTER.contains(&r.resource) { "" } else { namespace },
        "group": r.group, "resource": resource, "subresource": sub, "verb": r.verb,
    } } });
    let ask = serde_json::from_value(ask).unwrap_or_default();
    let said = api.create(&PostParams::default(), &ask).await.map_err(|e| failed(&e))?;
    Ok(said.status.is_some_and(|s| s.allowed))
}

fn grouped(all: &[Right]) -> BTreeMap<(&str, &str), Vec<&str>> {
    let mut out: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for r in all {
        out.entry((r.group, r.resource)).or_default().push(r.verb);
    }
    out
}

fn words(all: &[Right]) -> String {
    let one = |((group, resource), verbs): (&(&str, &str), &Vec<&str>)| {
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        format!("{} {resource}{group}", verbs.join("/"))
    };
    grouped(all).iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Rights as a role and its binding, to be applied as they stand; empty: none. `who`: the name that the cluster knows us by.
pub(super) fn manifest(all: &[Right], namespace: &str, who: &str) -> String {
    if all.is_empty() {
        return String::new();
    }
    let (kind, place) = if namespace.is_empty() {
        ("ClusterRole", String::new())
    } else {
        ("Role", format!("\n  namespace: {namespace}"))
    };
    let subject = match who.strip_prefix("system:serviceaccount:").and_then(|s| s.split_once(':')) {
        Some((at, name)) => format!("kind: ServiceAccount\n  namespace: {at}\n  name: {name}"),
        None => format!("kind: User\n  apiGroup: rbac.authorization.k8s.io\n  name: \"{who}\""),
    };
    let head = |kind: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: syp-engine-more{place}\n"
        )
    };
    format!(
        "{}rules:\n{}\n---\n{}roleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: {kind}\n  name: syp-engine-more\nsubjects:\n- {subject}\n",
        head(kind),
        rules(all),
        head(&format!("{kind}Binding")),
    )
}

/// As rules of a Role or ClusterRole.
pub fn rules(all: &[Right]) -> String {
    let one = |((group, resource), verbs): (&(&str, &str), &Vec<&str>)| {
        format!(
            "- apiGroups: [\"{group}\"]\n  resources: [\"{resource}\"]\n  verbs: [{}]",
            verbs.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", ")
        )
    };
    grouped(all).iter().map(one).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn missing_rights_are_named_and_can_be_added_as_they_stand() {
        let all =
            [right("", "pods", "get"), right("", "pods", "list"), right("apps", "deployments", "patch")];
        assert_eq!(words(&all), "get/list pods, patch deployments.apps");
        assert!(rules(&all).starts_with("- apiGroups: [\"\"]\n  resources: [\"pods\"]\n  verbs: [\"get\", \"list\"]\n- apiGroups: [\"apps\"]"));
    }

    fn deploy(file: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
    }

    #[test]
    fn what_is_missing_can_be_applied_as_it_stands() {
        let all = [right("", "pods", "get"), right("apps", "deployments", "patch")];
        assert_eq!(
            manifest(&all, "shop", "system:serviceaccount:syp-system:syp-engine"),
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata:\n  name: syp-engine-more\n  namespace: shop\nrules:\n- apiGroups: [\"\"]\n  resources: [\"pods\"]\n  verbs: [\"get\"]\n- apiGroups: [\"apps\"]\n  resources: [\"deployments\"]\n  verbs: [\"patch\"]\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata:\n  name: syp-engine-more\n  namespace: shop\nroleRef:\n  apiGroup: rbac.authorization.k8s.io\n  kind: Role\n  name: syp-engine-more\nsubjects:\n- kind: ServiceAccount\n  namespace: syp-system\n  name: syp-engine\n"
        );
        let cluster = manifest(&all, "", "alice");
        assert!(
            cluster.contains("kind: ClusterRoleBinding") && cluster.contains("name: \"alice\"\n"),
            "{cluster}"
        );
        assert!(!cluster.contains("namespace:"), "{cluster}");
        assert_eq!(manifest(&[], "", "alice"), "");
    }

    #[test]
    fn a_rule_gives_what_the_api_server_would_give_by_it() {
        let rule = |groups: &str, resources: &str, verbs: &str| {
            let all = |s: &str| s.split(' ').map(str::to_owned).collect::<Vec<_>>();
            ResourceRule {
                api_groups: Some(all(groups)),
                resources: Some(all(resources)),
                verbs: all(verbs),
                resource_names: None,
            }
        };
        let log = right("", "pods/log", "get");
        for (resources, given) in [
            ("*", true),
            ("pods/log", true),
            ("*/log", true),
            ("pods", false),
            ("pods/*", false),
            ("*/exec", false),
        ] {
            assert_eq!(holds(&rule("", resources, "get"), log), given, "{resources}");
        }
        let one = right("apps", "deployments", "patch");
        assert!(holds(&rule("* batch", "deployments", "*"), one));
        assert!(!holds(&rule("", "deployments", "*"), one), "another group");
        assert!(!holds(&rule("apps", "deployments", "get list"), one));
        let named =
            ResourceRule { resource_names: Some(vec!["a".into()]), ..rule("apps", "deployments", "*") };
        assert!(!holds(&named, one), "of one object alone");
    }

    #[test]
    fn the_role_files_hold_just_these_rights() {
        let file = |kind: &str, name: &str, says: &str, all: &[Right]| {
            let text = format!(
                "# {says}\napiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\nmetadata:\n  name: syp-engine\nrules:\n{}\n",
                rules(all)
            );
            expectorate::assert_contents(deploy(name), &text);
        };
        let says = "What an engine may do that gives each instance a namespace of its own.";
        file("ClusterRole", "kubernetes/cluster-role.yaml", says, &of_cluster());
        let says = "What an engine may do in the one namespace that its instances are given (--namespace).";
        file("Role", "kubernetes/namespace-role.yaml", says, &of_namespace());
    }

    #[test]
    fn the_chart_and_the_plain_manifest_give_just_these_rights() {
        for (scope, all) in [("cluster", of_cluster()), ("namespace", of_namespace())] {
            let rules = format!("{}\n", rules(&all));
            expectorate::assert_contents(deploy(&format!("helm/syp/files/{scope}-rules.yaml")), &rules);
        }
        // all else in it is the chart's (deploy/kubernetes/render.sh)
        let file = deploy("kubernetes/engine.yaml");
        let manifest = std::fs::read_to_string(&file).unwrap();
        let (before, rest) = manifest.split_once("\nrules:\n").unwrap();
        let (_, after) = rest.split_once("\n---\n").unwrap();
        assert!(
            before.rsplit("\n---\n").next().unwrap().contains("kind: ClusterRole\n")
                && !after.contains("\nrules:\n")
        );
        expectorate::assert_contents(
            file,
            &format!("{before}\nrules:\n{}\n---\n{after}", rules(&of_cluster())),
        );
    }
}
