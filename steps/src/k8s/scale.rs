//! More or fewer pods of a revision that is there. It says what the Deployment's row owns, so it has no row of its own, and says it
//! under a field manager of its own, so that the Deployment can be made again without changing how many there are.
use super::{
    Shared,
    client::{DEPLOYMENT, failed, optional},
    fields,
    names::namespace,
    object,
    probe::node,
};
use crate::labels::key;
use kube::{
    Client,
    api::{DynamicObject, Patch, PatchParams},
};
use serde_json::json;
use std::sync::Arc;
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    scaling,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::InstanceSpec,
};

pub(super) struct Scale(pub Arc<Shared>);

/// Owns the number of replicas alone.
const MANAGER: &str = "syp-scale";
const FIELD: &str = "spec.replicas";

fn replicas(o: &DynamicObject) -> u32 {
    o.data["spec"]["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1)
}

/// Is it a number, and another one? Where the cluster chooses, none is wrong. Pure.
pub(super) fn wrong(spec: &InstanceSpec, o: &DynamicObject) -> Option<String> {
    let (least, most) = scaling::range(spec);
    let is = replicas(o);
    (least == most && is != least).then(|| format!("{FIELD} is {is}, not {least}"))
}

/// How many there shall be; `None`: as many as there are. `begin`: of a Deployment of which nobody has said so yet. Pure.
fn next(o: &DynamicObject, least: u32, most: u32, begin: u32) -> Option<u32> {
    let said = fields::of(&o.metadata, |_| true).contains(FIELD);
    let is = replicas(o);
    match said {
        true if least < most && (least..=most).contains(&is) => None,
        true => Some(is.clamp(least, most)),
        false => Some(begin.clamp(least, most)),
    }
}

async fn say(c: &Client, cx: &StepCx, name: &str, n: u32) -> Result<(), Failure> {
    let to = json!({
        "apiVersion": DEPLOYMENT.api_version(),
        "kind": DEPLOYMENT.kind,
        "metadata": { "name": name, "namespace": namespace(cx) },
        "spec": { "replicas": n },
    });
    let how = PatchParams::apply(MANAGER).force();
    let api = DEPLOYMENT.api(c, namespace(cx));
    api.patch(name, &how, &Patch::Apply(&to)).await.map(drop).map_err(|e| failed(&e))
}

/// An engine before this one said the number as part of the Deployment. What nobody says any more falls back to one, so it is said
/// here before it is left out there.
pub(super) async fn take_over(c: &Client, cx: &StepCx, name: &str) -> Result<(), Failure> {
    match optional(DEPLOYMENT.api(c, namespace(cx)).get(name).await)? {
        Some(o) if object::ours(&cx.owner, &o) && fields::ours(&o.metadata).contains(FIELD) => {
            say(c, cx, name, replicas(&o)).await
        }
        _ => Ok(()),
    }
}

impl Step for Scale {
    fn kind(&self) -> &'static str {
        "k8s.scale@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let (c, name) = (self.0.client().await?, key(&cx.owner, &node(cx)));
        let Some(o) = optional(DEPLOYMENT.api(&c, namespace(cx)).get(&name).await)? else {
            return Err(failure(
                Class::Terminal,
                "DRIFT",
                format!("deployment {name} is gone"),
                "it is made again by itself",
            ));
        };
        let number = |of: &str| cx.params[of].as_u64().and_then(|n| u32::try_from(n).ok());
        // plans of an engine before this one say a number
        let (least, most) = scaling::range(&cx.spec);
        let (least, most) = (number("least").unwrap_or(least), number("most").unwrap_or(most));
        if let Some(n) = next(&o, least, most, number("begin").unwrap_or(least)) {
            say(&c, cx, &name, n).await?;
        }
        Ok(Done::default())
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn deployment(n: u32, manager: Option<&str>) -> DynamicObject {
        let entry = |m: &str| json!({ "manager": m, "operation": "Update", "fieldsV1": { "f:spec": { "f:replicas": {} } } });
        let managed: Vec<Value> = manager.map(entry).into_iter().collect();
        serde_json::from_value(json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "x", "managedFields": managed }, "spec": { "replicas": n },
        }))
        .unwrap()
    }

    #[test]
    fn a_number_is_said_and_in_a_range_what_is_there_stays() {
        let (new, ours, chosen) = (
            deployment(1, None),
            deployment(3, Some("syp-scale")),
            deployment(4, Some("kube-controller-manager")),
        );
        assert_eq!((next(&new, 3, 3, 3), next(&ours, 5, 5, 5)), (Some(3), Some(5)));
        // a new one begins with as many as the one before it has, though the API server says one for it
        assert_eq!(next(&new, 1, 5, 4), Some(4));
        assert_eq!((next(&chosen, 1, 5, 1), next(&ours, 1, 5, 1)), (None, None));
        assert_eq!((next(&chosen, 1, 2, 1), next(&ours, 4, 9, 4)), (Some(2), Some(4)), "another range");
    }

    #[test]
    fn another_number_than_the_one_asked_for_is_wrong_and_none_is_in_a_range() {
        let spec = |min, max| InstanceSpec {
            scaling: Some(syp_proto::v1::Scaling { min, max, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(wrong(&spec(1, 1), &deployment(3, None)).as_deref(), Some("spec.replicas is 3, not 1"));
        assert_eq!(wrong(&spec(3, 3), &deployment(3, None)), None);
        assert_eq!(wrong(&spec(1, 5), &deployment(3, None)), None);
    }
}
