//! The clients of one region, made once.
use super::{client, query::Query};
use aws_config::SdkConfig;
use syp_proto::journal::Failure;

/// All of them.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Who we are.
    pub sts: aws_sdk_sts::Client,
    /// Stacks.
    pub stacks: aws_sdk_cloudformation::Client,
    /// Tasks.
    pub ecs: aws_sdk_ecs::Client,
    /// Values.
    pub secrets: aws_sdk_secretsmanager::Client,
    /// Certificates.
    pub acm: aws_sdk_acm::Client,
    /// What carries which tag.
    pub tags: aws_sdk_resourcegroupstagging::Client,
    /// Networks, roles and lines.
    pub query: Query,
}

// === impl Clients ===

impl Clients {
    /// Of a region, with the credentials of the SDK's chain.
    ///
    /// # Errors
    /// The system's certificate authorities can't be read.
    pub async fn new(region: &str) -> Result<Self, Failure> {
        Self::of(&client::config(region).await, region)
    }

    /// Asked in this way.
    ///
    /// # Errors
    /// As above.
    pub fn of(config: &SdkConfig, region: &str) -> Result<Self, Failure> {
        Ok(Self {
            sts: aws_sdk_sts::Client::new(config),
            stacks: aws_sdk_cloudformation::Client::new(config),
            ecs: aws_sdk_ecs::Client::new(config),
            secrets: aws_sdk_secretsmanager::Client::new(config),
            acm: aws_sdk_acm::Client::new(config),
            tags: aws_sdk_resourcegroupstagging::Client::new(config),
            query: Query::new(config, region)?,
        })
    }
}
