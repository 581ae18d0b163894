//! AWS: one CloudFormation stack an instance (ECS Fargate behind a load balancer of its own, the gate as sidecar). It is being built:
//! what is here is rendered and linted, and no target yet.
pub mod names;
pub mod size;
pub mod status;
pub mod template;
#[cfg(any(test, feature = "test-util"))]
pub mod variants;
