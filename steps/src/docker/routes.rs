//! Where the gate sends requests: frozen in a plan, known to the engine as it stands.
use super::names::{HOLDER, Subnet};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};
use syp_auth::door::{Probe, Protocol, Upstream};
use syp_engine::door;
use syp_proto::v1;

/// First address of a replica in an instance's subnet.
pub(super) const FIRST_PLACE: u32 = 3;

/// All replicas that the gate knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Routes {
    pub replicas: Vec<Route>,
    /// How long a request waits when no replica is ready.
    #[serde(default)]
    pub hold_ms: u64,
}

/// One replica: its place, and how its revision is spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Route {
    pub slot: u32,
    pub port: u16,
    /// No new requests.
    pub closed: bool,
    pub protocol: Protocol,
    pub probe: Probe,
}

// === impl Routes ===

impl Routes {
    /// As stored; an instance of a former version has none, and as many open replicas as its spec says.
    pub fn read(stored: &Value, spec: Option<&v1::InstanceSpec>) -> Self {
        if let Ok(routes) = serde_json::from_value(stored.clone()) {
            return routes;
        }
        let Some(spec) = spec else { return Self::default() };
        Self { replicas: (0..wanted(spec)).map(|slot| Route::of(slot, spec, false)).collect(), hold_ms: 0 }
    }

    /// As the gate is told.
    pub fn upstreams(&self, subnet: Subnet) -> Vec<Upstream> {
        let upstream = |r: &Route| {
            let ip = IpAddr::V4(subnet.address(r.slot + FIRST_PLACE));
            Upstream {
                id: r.slot.to_string(),
                address: SocketAddr::new(ip, r.port),
                holder: Some(SocketAddr::new(ip, HOLDER)),
                closed: r.closed,
                protocol: Some(r.protocol),
                probe: Some(r.probe.clone()),
            }
        };
        self.replicas.iter().map(upstream).collect()
    }

    /// As stored.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

// === impl Route ===

impl Route {
    /// To a replica of this spec.
    pub fn of(slot: u32, spec: &v1::InstanceSpec, closed: bool) -> Self {
        let port = u16::try_from(spec.port).unwrap_or(0);
        Self { slot, port, closed, protocol: door::protocol(spec), probe: door::probe(spec) }
    }
}

/// How many replicas a spec wants.
pub(super) fn wanted(spec: &v1::InstanceSpec) -> u32 {
    syp_engine::scaling::range(spec).0
}

/// The slot of a node such as `app-3`.
pub(super) fn slot(node: &str, of: &str) -> Option<u32> {
    node.strip_prefix(of)?.strip_prefix('-')?.parse().ok()
}
