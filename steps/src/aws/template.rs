//! The stack of an instance, rendered for it alone: no parameters, no conditions. Template parameters can't loop over secrets and are
//! cut at 4,096 bytes, and a template with nothing left to decide is what `--plan` shows and what its digest stands for.
//! It began as a template that was linted and deployed on two emulators; why each resource is as it is, says the comment beside it.
mod front;
mod service;
mod task;

use super::size::Size;
use crate::labels::{INSTANCE, NAME, STORE, TEMPLATE};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use syp_engine::step::Owner;
use syp_proto::v1::InstanceSpec;

/// What `CreateStack` takes in one request.
pub const LIMIT: usize = 51_200;

/// Where an instance lives, and with what.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its network.
    pub vpc: String,
    /// Two or more of its subnets, each in another zone.
    pub subnets: Vec<String>,
    /// Whether tasks need an address of their own to pull images: subnets without a NAT.
    pub public_ip: bool,
    /// Of the certificate that the domain is served with.
    pub certificate: String,
    /// The name that callers use.
    pub domain: String,
    /// Zone in which that name gets a record; empty: its owner makes one.
    pub zone: String,
    /// The most that the role of a task may do.
    pub boundary: String,
    /// The user's image, by digest.
    pub image: String,
    /// The gate's, by digest.
    pub gate_image: String,
    /// What both are made for.
    pub arm: bool,
    /// Of a task.
    pub size: Size,
    /// Of the secret with the gate's token and what it begins with.
    pub gate_secret: String,
    /// Of the secret with the app's values, by variable; empty without any.
    pub app_secret: String,
    /// Of the secret with the login of a private registry; empty without one.
    pub pull_secret: String,
    /// Of the images' repositories, where those are the account's own.
    pub repositories: BTreeSet<String>,
}

fn tags(owner: &Owner) -> Value {
    json!([
        { "Key": INSTANCE, "Value": owner.uid.to_string() },
        { "Key": NAME, "Value": owner.name },
        { "Key": STORE, "Value": owner.store.to_string() },
    ])
}

/// Which word of a spec CloudFormation would put something else in place of: it resolves such references in any text of a template,
/// and knows no way to write one that is meant as it stands.
pub fn resolved(spec: &InstanceSpec) -> Option<&str> {
    let words = spec.env.iter().flat_map(|(k, v)| [k, v]).chain(&spec.entrypoint).chain(&spec.args);
    let path = spec.probe.iter().map(|p| &p.path);
    words.chain(path).map(String::as_str).find(|w| w.contains("{{resolve:"))
}

/// A template, and its digest, which is in its metadata too. A spec with something [`resolved`] is refused before.
pub fn render(owner: &Owner, spec: &InstanceSpec, site: &Site) -> (String, String) {
    let mut resources = BTreeMap::from([
        ("AlbSecurityGroup", front::group(owner, site)),
        ("Cluster", service::cluster(owner)),
        ("ExecutionRole", task::role(owner, site)),
        ("HttpRedirectListener", front::redirect()),
        ("HttpsListener", front::listener(site)),
        ("LoadBalancer", front::load_balancer(owner, site)),
        ("LogGroup", task::log_group(owner)),
        ("Service", service::service(owner, spec, site)),
        ("TargetGroup", front::target_group(owner, site)),
        ("TaskDefinition", task::task(owner, spec, site)),
        ("TaskSecurityGroup", service::task_group(owner, site)),
    ]);
    if !site.zone.is_empty() {
        resources.insert("DnsRecord", front::record(site));
    }
    let scaling = spec.scaling.unwrap_or_default();
    if scaling.max > scaling.min {
        resources.insert("ScalableTarget", service::scalable(scaling.min.max(1), scaling.max));
        resources.insert("ScaleOnCpu", service::scale_on_cpu(owner, scaling.target_cpu));
    }
    let mut out = json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": format!("sypctl instance {} ({})", owner.name, owner.uid),
        "Resources": resources,
        // ARNs and not full names: an emulator drops all outputs when it lacks one of them; CloudWatch's dimensions are their tails
        "Outputs": {
            "Endpoint": { "Value": format!("https://{}", site.domain) },
            "LoadBalancerDns": { "Value": get("LoadBalancer", "DNSName") },
            "LoadBalancerArn": { "Value": reference("LoadBalancer") },
            "TargetGroupArn": { "Value": reference("TargetGroup") },
            "ClusterName": { "Value": reference("Cluster") },
            "ServiceName": { "Value": get("Service", "Name") },
            "TaskDefinitionArn": { "Value": reference("TaskDefinition") },
        },
    });
    let digest = hex::encode(&Sha256::digest(out.to_string())[..8]);
    out["Metadata"] = json!({ TEMPLATE: digest });
    (out.to_string(), digest)
}

/// What a stack is made of first. A service begins with one task, and AWS raises one that is below the least of its range only when an
/// alarm calls for more (ECS developer guide, "Automatically scale your Amazon ECS service"): a stack that is new says the least. Later
/// templates say no number, which leaves AWS the one that it has chosen.
pub fn first(template: &str) -> String {
    let Ok(mut t) = serde_json::from_str::<Value>(template) else { return template.to_owned() };
    let least = t["Resources"]["ScalableTarget"]["Properties"]["MinCapacity"].clone();
    if least.is_null() {
        return template.to_owned();
    }
    t["Resources"]["Service"]["Properties"]["DesiredCount"] = least;
    t.to_string()
}

fn reference(what: &str) -> Value {
    json!({ "Ref": what })
}

fn get(what: &str, attribute: &str) -> Value {
    json!({ "Fn::GetAtt": [what, attribute] })
}

#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod tests;
