//! Who reaches a pod: everybody the gate's traffic port, nobody anything else. Whether the cluster enforces it is tried, not assumed.
use super::{
    client::{Kind, NETWORK_POLICY},
    names::TRAFFIC,
    one::Manifest,
};
use crate::labels::{INSTANCE, STEP, STORE};
use serde_json::{Value, json};
use syp_engine::step::StepCx;
use syp_proto::v1::instance_spec::Egress;

pub(super) struct Policy;

impl Manifest for Policy {
    const STEP: &'static str = "k8s.policy@1";
    const KIND: Kind = NETWORK_POLICY;

    fn rest(cx: &StepCx) -> Value {
        let mut types = vec!["Ingress"];
        if cx.spec.egress() == Egress::Off {
            // no rule: nothing goes out but answers
            types.push("Egress");
        }
        json!({ "spec": {
            "podSelector": {
                "matchLabels": { STORE: cx.owner.store.to_string(), INSTANCE: cx.owner.uid.to_string() },
                // what tries the app's port must not be kept from trying
                "matchExpressions": [{ "key": STEP, "operator": "NotIn", "values": ["isolation"] }],
            },
            "policyTypes": types,
            "ingress": [{ "ports": [{ "port": TRAFFIC, "protocol": "TCP" }] }],
        } })
    }
}
