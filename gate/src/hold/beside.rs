//! `syp-gate seal`: closes the namespace once, for a gate that will be in it beside the app. Nobody holds it afterwards: it lives
//! as long as the pod, and neither gate nor app may have the right to change it (NET_ADMIN).

use super::seal::{self, Door};
use super::{Egress, Error};

/// Leaves these ports open, sets the rules and says so when they are in place. May be called again.
///
/// # Errors
/// [`Error`]: not sealed.
pub async fn seal(gate: &[u16], app: Option<u16>, egress: Egress) -> Result<(), Error> {
    // a rule can't name port 65535
    if let Some(port) = gate.iter().chain(&app).find(|port| [0, u16::MAX].contains(port)) {
        return Err(Error::Port(*port));
    }
    if let Some(port) = app.filter(|port| gate.contains(port)) {
        return Err(Error::Shared(port));
    }
    let outside = seal::seal(Door::Ports(gate), app, egress).await?;
    let line = serde_json::json!({
        "event": "sealed", "interface": outside.name, "address": outside.address, "ports": gate,
        "egress": if egress == Egress::On { "on" } else { "none" },
    });
    println!("{line}");
    Ok(())
}
