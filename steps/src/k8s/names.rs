//! Ports and paths inside a pod, and where an instance's objects are.
use serde_json::Value;
use syp_engine::step::StepCx;
use syp_proto::journal::LedgerRow;

/// Where the gate takes traffic in a pod: beside the app, whose own port may be any below.
pub const TRAFFIC: u16 = 49_151;
/// Where the gate takes its configuration, on loopback alone: only by a port-forward of the API server.
pub const ADMIN: u16 = 49_149;
/// The gate's program in its image.
pub const PROGRAM: &str = "/syp-gate";
/// Where the gate's Secret is mounted.
pub const GATE_FILES: &str = "/etc/syp";
/// Where the gate keeps what it was told, in memory.
pub const KEPT: &str = "/run/syp";
/// Port of the Service.
pub const PORT: u16 = 80;
/// The gate's user: one that no image has. It shares its ports among its own threads, and whoever had its user could join them.
pub const GATE_USER: i64 = 64_151;

/// The namespace of a running step.
pub fn namespace(cx: &StepCx) -> &str {
    cx.facts["namespace"].as_str().unwrap_or("default")
}

/// The namespace of what a row made.
pub fn namespace_of(row: &LedgerRow) -> String {
    let params: Value = serde_json::from_str(&row.params).unwrap_or_default();
    match params["namespace"].as_str() {
        Some(namespace) => namespace.to_owned(),
        // a listing found it, and its handle says where
        None => row.handle.split('|').nth(4).unwrap_or("default").to_owned(),
    }
}

/// `app-3` is of revision 3.
pub fn revision_of(node: &str, of: &str) -> Option<u32> {
    node.strip_prefix(of)?.strip_prefix('-')?.parse().ok()
}
