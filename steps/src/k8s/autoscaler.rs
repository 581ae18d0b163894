//! How many pods of a revision there are, between the least and the most that were asked for, is the cluster's choice by how busy
//! the app's processor is. It belongs to the revision's Deployment, comes after its first pods are proven, and goes before it.
use super::{
    client::{AUTOSCALER, DEPLOYMENT, Kind},
    one::Manifest,
    probe,
};
use crate::labels::key;
use serde_json::{Value, json};
use syp_engine::{scaling, step::StepCx};

pub(super) struct Autoscaler;

impl Manifest for Autoscaler {
    const STEP: &'static str = "k8s.autoscaler@1";
    const KIND: Kind = AUTOSCALER;

    fn rest(cx: &StepCx) -> Value {
        let (least, most) = scaling::range(&cx.spec);
        json!({ "spec": {
            "scaleTargetRef": {
                "apiVersion": DEPLOYMENT.api_version(),
                "kind": DEPLOYMENT.kind,
                "name": key(&cx.owner, &probe::node(cx)),
            },
            "minReplicas": least,
            "maxReplicas": most,
            // of the app alone: a gate that is busy is no reason for more apps
            "metrics": [{ "type": "ContainerResource", "containerResource": {
                "name": "cpu",
                "container": "app",
                "target": { "type": "Utilization", "averageUtilization": scaling::target_cpu(&cx.spec) },
            } }],
        } })
    }
}
