//! The harness: a simulated world for exhaustive crashes, and real testbeds for everything else.
pub mod api;
pub mod aws_bed;
pub mod certificate;
pub mod conformance;
pub mod crash;
pub mod dice;
pub mod disk;
pub mod halted;
pub mod load;
pub mod oidc;
pub mod product;
pub mod registry;
pub mod relay;
pub mod sim;
pub mod steps;
pub mod trust;
pub mod watched;
