//! What a cluster says about a pod that does not begin: volumes that can't be mounted, networks that can't be made. It is in no status,
//! only in events.
use super::pods::container;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Client, api::ListParams};
use std::time::Duration;
use tokio::time::Instant;

/// Asked no more often than this: an event of one kind is repeated, and not news.
const EVERY: Duration = Duration::from_secs(5);
/// A pod that begins within this has no troubles.
const PATIENCE: Duration = Duration::from_secs(3);

/// The newest warning about one pod.
pub(super) struct Troubles {
    asked: Instant,
    pod: String,
    said: Option<String>,
}

/// Is there nothing to see in its own status? Pure.
fn silent(p: &Pod) -> bool {
    let plain = |which, sidecar| {
        container(p, which, sidecar).is_none_or(|c| {
            c.waiting.is_some_and(|(reason, _)| {
                ["", "ContainerCreating", "PodInitializing"].contains(&reason.as_str())
            })
        })
    };
    plain("seal", true) && plain("gate", true) && plain("app", false)
}

fn at(e: &Event) -> i64 {
    let last = e.last_timestamp.as_ref().map(|t| t.0.as_millisecond());
    let series = e.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0.as_millisecond());
    let first = e.event_time.as_ref().map(|t| t.0.as_millisecond());
    last.max(series).max(first).unwrap_or_default()
}

// === impl Troubles ===

impl Troubles {
    pub fn none() -> Self {
        Self { asked: Instant::now() + PATIENCE - EVERY, pod: String::new(), said: None }
    }

    /// What is known about the pod. An identity that may not list events hears of none.
    pub async fn of(&mut self, c: &Client, namespace: &str, p: &Pod) -> Option<String> {
        let uid = p.metadata.uid.clone().unwrap_or_default();
        if !silent(p) {
            return None;
        }
        if self.pod != uid {
            *self = Self { pod: uid.clone(), ..Self::none() };
        }
        if self.asked.elapsed() >= EVERY {
            self.asked = Instant::now();
            let fields = format!("involvedObject.uid={uid},type=Warning");
            let api: Api<Event> = Api::namespaced(c.clone(), namespace);
            if let Ok(all) = api.list(&ListParams::default().fields(&fields)).await {
                let newest = all.items.iter().max_by_key(|e| at(e));
                self.said = newest.map(|e| {
                    let text = |s: &Option<String>| s.clone().unwrap_or_default();
                    format!("{}: {}", text(&e.reason), text(&e.message))
                });
            }
        }
        self.said.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(waiting: &str) -> Pod {
        serde_json::from_value(json!({ "status": { "containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": waiting } },
        }] } }))
        .unwrap()
    }

    #[test]
    fn only_a_pod_that_says_nothing_itself_is_asked_about() {
        assert!(silent(&Pod::default()) && silent(&pod("ContainerCreating")));
        assert!(!silent(&pod("ImagePullBackOff")), "it has its own words");
    }
}
