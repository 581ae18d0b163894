//! The way into the cluster by name: an ingress controller of the cluster's own, certificates of an authority of this engine's own, and
//! two ports of this machine.
mod authority;
mod controller;
mod entrance;
mod tls;

pub use authority::{Authority, DOMAIN};
pub(crate) use entrance::Entrance;
pub(crate) use tls::{NODE as TLS, Tls};

/// The ports of this machine that lead to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Doors {
    /// Sends everybody to the other.
    pub http: u16,
    /// TLS.
    pub https: u16,
}

/// The class of the Ingress objects that the controller looks at.
pub(crate) const CLASS: &str = "syp";
