//! What a target costs. Local machines: watts times a tariff. Nodes of a cluster: what is requested times a tariff.
//! AWS: what is provisioned times list prices.
pub mod aws;
pub mod aws_use;
pub mod local;
pub mod nodes;
