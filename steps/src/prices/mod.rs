//! What a target costs. Local machines: watts times a tariff.
pub mod local;
