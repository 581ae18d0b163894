//! What a target costs. Local machines: watts times a tariff. Nodes of a cluster: what is requested times a tariff.
pub mod local;
pub mod nodes;
