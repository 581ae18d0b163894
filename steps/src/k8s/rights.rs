//! What the engine's identity must be allowed to do on a cluster: the very list that the role files in `deploy/` hold.
use super::client::failed;
use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
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
];

/// Made with `--domain`, looked for by every teardown.
pub const INGRESS: &[Right] = &[
    right("networking.k8s.io", "ingresses", "get"),
    right("networking.k8s.io", "ingresses", "list"),
    right("networking.k8s.io", "ingresses", "create"),
    right("networking.k8s.io", "ingresses", "patch"),
    right("networking.k8s.io", "ingresses", "delete"),
];

/// Where nodes may be seen, an endpoint is a node's address; elsewhere it is a name of the cluster's own.
pub const NODES: &[Right] = &[right("", "nodes", "list")];

/// CPU and memory, where the cluster has a metrics server; without it they are not shown.
pub const USAGE: &[Right] = &[right("metrics.k8s.io", "pods", "list")];

/// All that an engine needs that gives its instances namespaces of their own.
pub fn of_cluster() -> Vec<Right> {
    let mut all = [IN_NAMESPACE, NAMESPACES, INGRESS, NODES, USAGE].concat();
    all.sort();
    all
}

/// All that an engine needs in the one namespace that it is given.
pub fn of_namespace() -> Vec<Right> {
    let mut all = [IN_NAMESPACE, INGRESS, USAGE].concat();
    all.sort();
    all
}

/// Reviews at once.
const AT_ONCE: usize = 8;

/// Asks the cluster about each one; those that are missing are named, with the rule to add.
///
/// # Errors
/// `RIGHTS_MISSING`, or the API server's.
pub(super) async fn check(c: &Client, namespace: &str, wanted: &[Right]) -> Result<(), Failure> {
    let missing = missing(c, namespace, wanted).await?;
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
        format!("the engine's identity lacks rights {place}: {}", words(&missing)),
        format!("add to its role:\n{}", rules(&missing)),
    ))
}

/// Those that are not given.
///
/// # Errors
/// The API server's.
pub(super) async fn missing(c: &Client, namespace: &str, wanted: &[Right]) -> Result<Vec<Right>, Failure> {
    let api: Api<SelfSubjectAccessReview> = Api::all(c.clone());
    let asked = stream::iter(wanted.to_vec()).map(|r| {
        let api = api.clone();
        async move {
            let (resource, sub) = r.resource.split_once('/').unwrap_or((r.resource, ""));
            let ask = json!({ "spec": { "resourceAttributes": {
                "namespace": if r.resource == "namespaces" { "" } else { namespace },
                "group": r.group, "resource": resource, "subresource": sub, "verb": r.verb,
            } } });
            let ask = serde_json::from_value(ask).unwrap_or_default();
            let said = api.create(&PostParams::default(), &ask).await.map_err(|e| failed(&e))?;
            Ok::<_, Failure>((!said.status.is_some_and(|s| s.allowed)).then_some(r))
        }
    });
    let mut out: Vec<_> =
        asked.buffer_unordered(AT_ONCE).try_filter_map(|r| async move { Ok(r) }).try_collect().await?;
    out.sort();
    Ok(out)
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
