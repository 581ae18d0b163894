//! What preflight found out and the steps build on, frozen with the revision.
use super::{config, names, network::Place, size::Size, target::boundary, template::Site};
use crate::aws::Shared;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use syp_engine::{
    failure::{Class, failure},
    step::StepCx,
};
use syp_proto::journal::Failure;

/// All of it, but for the price.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The account.
    pub account: String,
    /// `aws`, `aws-cn`, ...
    pub partition: String,
    /// Where in it.
    #[serde(flatten)]
    pub place: Place,
    /// ARN.
    pub certificate: String,
    /// By digest.
    pub image: String,
    /// Of the image.
    #[serde(default)]
    pub digest: String,
    /// ARN of its repository, in this account.
    #[serde(default)]
    pub repository: String,
    /// The gate's.
    pub gate_image: String,
    /// ARN of its repository, in this account.
    #[serde(default)]
    pub gate_repository: String,
    /// Tasks pull with the engine's login for the image's registry.
    #[serde(default)]
    pub login: bool,
    /// What both are made for.
    pub arm: bool,
    /// Of a task, in units of 1/1024 of a core.
    pub cpu: u32,
    /// Of a task, MiB.
    pub memory: u32,
}

// === impl Facts ===

impl Facts {
    /// As they were frozen.
    ///
    /// # Errors
    /// `INTERNAL`: another version wrote them.
    pub fn read(facts: &Value) -> Result<Self, Failure> {
        serde_json::from_value(facts.clone()).map_err(|e| {
            failure(Class::Terminal, "INTERNAL", format!("facts: {e}"), "this is a bug: please report it")
        })
    }

    /// Of the instance's tasks.
    pub fn size(&self) -> Size {
        Size { cpu: self.cpu, memory: self.memory }
    }

    /// Where the stack is rendered for, with what the steps before it have made.
    pub fn site(&self, s: &Shared, cx: &StepCx) -> Site {
        let aws = cx.spec.aws.clone().unwrap_or_default();
        // in a plan it is not made yet: its last six letters are AWS' to choose
        let made = |node: &str, name: String| match cx.output(node, "arn") {
            Some(arn) => arn.to_owned(),
            None => format!(
                "arn:{}:secretsmanager:{}:{}:secret:{name}-??????",
                self.partition, s.region, self.account
            ),
        };
        let revision = cx.params["revision"].as_u64().unwrap_or(1);
        let of = |param: &str, name: Option<String>| match cx.params[param].as_str() {
            Some(node) => made(node, names::secret(&cx.owner, name.as_deref().unwrap_or(node))),
            None => String::new(),
        };
        let (app_secret, pull_secret) = (of("secret", Some(format!("app-{revision}"))), of("pull", None));
        Site {
            vpc: self.place.vpc.clone(),
            subnets: self.place.subnets.clone(),
            public_ip: true,
            certificate: self.certificate.clone(),
            domain: cx.spec.domains.first().cloned().unwrap_or_default(),
            zone: aws.zone,
            boundary: boundary(&self.partition, &self.account),
            image: self.image.clone(),
            gate_image: self.gate_image.clone(),
            arm: self.arm,
            size: self.size(),
            gate_secret: made(config::NODE, config::key(&cx.owner)),
            app_secret,
            pull_secret,
            repositories: [&self.repository, &self.gate_repository]
                .into_iter()
                .filter(|r| !r.is_empty())
                .cloned()
                .collect(),
        }
    }
}
