//! What the pods use, as their kubelet counts it: a cluster of our own has no metrics server, and its kubelet may be asked.
use crate::k8s::client::failed;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde::Deserialize;
use std::collections::BTreeMap;
use syp_proto::journal::Failure;

#[derive(Deserialize)]
struct Summary {
    #[serde(default)]
    pods: Vec<Pod>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    pod_ref: PodRef,
    #[serde(default)]
    containers: Vec<Container>,
}

#[derive(Deserialize)]
struct PodRef {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    cpu: Option<Cpu>,
    memory: Option<Memory>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    usage_nano_cores: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

/// Microcores and bytes of each pod's app in a namespace.
///
/// # Errors
/// The API server's.
pub(crate) async fn usage(c: &Client, namespace: &str) -> Result<BTreeMap<String, (u64, u64)>, Failure> {
    let nodes = Api::<Node>::all(c.clone()).list(&ListParams::default()).await.map_err(|e| failed(&e))?;
    let mut out = BTreeMap::new();
    for node in nodes {
        let path = format!("/api/v1/nodes/{}/proxy/stats/summary", node.name_any());
        let Ok(request) = hyper::Request::get(path).body(Vec::new()) else { continue };
        let summary: Summary = c.request(request).await.map_err(|e| failed(&e))?;
        out.extend(summary.pods.into_iter().filter(|p| p.pod_ref.namespace == namespace).filter_map(of));
    }
    Ok(out)
}

fn of(p: Pod) -> Option<(String, (u64, u64))> {
    let app = p.containers.into_iter().find(|c| c.name == "app")?;
    let micros = app.cpu?.usage_nano_cores? / 1_000;
    Some((p.pod_ref.name, (micros, app.memory?.working_set_bytes?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_a_kubelet() {
        let text = r#"{"node":{},"pods":[{"podRef":{"name":"a","namespace":"n","uid":"u"},"containers":[
            {"name":"gate","cpu":{"usageNanoCores":1},"memory":{"workingSetBytes":2}},
            {"name":"app","startTime":"x","cpu":{"time":"x","usageNanoCores":1500000,"usageCoreNanoSeconds":9},"memory":{"usageBytes":7,"workingSetBytes":4096}}]},
            {"podRef":{"name":"b","namespace":"n"},"containers":[{"name":"app","cpu":{},"memory":{}}]}]}"#;
        let all: Summary = serde_json::from_str(text).unwrap();
        let out: Vec<_> = all.pods.into_iter().filter_map(of).collect();
        assert_eq!(out, [("a".to_owned(), (1_500, 4_096))]);
    }
}
