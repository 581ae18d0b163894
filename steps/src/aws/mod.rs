//! AWS: one CloudFormation stack an instance (ECS Fargate behind a load balancer of its own, the gate as sidecar), and the secrets
//! that its tasks begin with. What is rendered is here in any case; the target needs the cargo feature `aws`.
pub mod names;
pub mod size;
pub mod status;
pub mod story;
pub mod template;
#[cfg(any(test, feature = "test-util"))]
pub mod variants;

#[cfg(feature = "aws")]
mod bill;
#[cfg(feature = "aws")]
mod certificate;
#[cfg(feature = "aws")]
pub mod change_set;
#[cfg(feature = "aws")]
mod check;
#[cfg(feature = "aws")]
pub mod client;
#[cfg(feature = "aws")]
mod clients;
#[cfg(feature = "aws")]
mod cloudwatch;
#[cfg(feature = "aws")]
mod config;
#[cfg(feature = "aws")]
mod definitions;
#[cfg(feature = "aws")]
mod domain;
#[cfg(feature = "aws")]
mod door;
#[cfg(feature = "aws")]
mod drain;
#[cfg(feature = "aws")]
mod drift;
#[cfg(feature = "aws")]
mod examine;
#[cfg(feature = "aws")]
mod facts;
#[cfg(feature = "aws")]
mod figures;
#[cfg(feature = "aws")]
mod isolation;
#[cfg(feature = "aws")]
mod kept;
#[cfg(feature = "aws")]
mod list_prices;
#[cfg(feature = "aws")]
mod listing;
#[cfg(feature = "aws")]
mod logs;
#[cfg(feature = "aws")]
mod network;
#[cfg(feature = "aws")]
mod observe;
#[cfg(feature = "aws")]
mod other;
#[cfg(feature = "aws")]
mod plan;
#[cfg(feature = "aws")]
mod preflight;
#[cfg(feature = "aws")]
mod price;
#[cfg(feature = "aws")]
mod probe;
#[cfg(feature = "aws")]
mod pull;
#[cfg(feature = "aws")]
mod query;
#[cfg(feature = "aws")]
mod quotas;
#[cfg(feature = "aws")]
pub mod stack;
#[cfg(feature = "aws")]
mod stack_step;
#[cfg(feature = "aws")]
mod target;
#[cfg(feature = "aws")]
mod tasks;
#[cfg(feature = "aws")]
mod used;
#[cfg(feature = "aws")]
mod values;
#[cfg(feature = "aws")]
mod verdict;
#[cfg(feature = "aws")]
mod writes;

#[cfg(feature = "aws")]
use target::Shared;
#[cfg(feature = "aws")]
pub use target::{AwsTarget, Options};
