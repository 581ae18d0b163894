//! The app beside this gate, in the same network namespace: the one replica of every configuration, whatever that says.
//!
//! Who made the namespace (a Kubernetes pod) knows where the app is, and only this process sees what listens there.

use std::net::SocketAddr;

use syp_auth::door::{GateConfig, Listener, Probe, Protocol, Upstream, UpstreamStatus};

use crate::agent::Agent;
use crate::hold::listeners;

/// The name that it has in `/status`.
pub const ID: &str = "app";

/// Where the app is, and what is known of it before any configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks; else what the configuration says.
    pub protocol: Option<Protocol>,
    /// What is asked to see whether it is ready; else as configured.
    pub probe_path: Option<String>,
    /// Time between two probes; else as configured.
    pub probe_period_ms: Option<u64>,
    /// How long one may take; else as configured.
    pub probe_timeout_ms: Option<u64>,
}

/// The app, and the ports in its namespace that are this gate's own.
#[derive(Debug)]
pub struct Beside {
    /// The app.
    pub app: App,
    /// Who knows what it uses.
    pub agent: Option<Agent>,
    /// Ports on which this gate listens.
    pub own: [u16; 2],
}

// === impl App ===

impl App {
    /// How it is probed where a configuration says this.
    #[must_use]
    pub fn probe(&self, configured: &Probe) -> Probe {
        Probe {
            path: self.probe_path.clone().or_else(|| configured.path.clone()),
            period_ms: self.probe_period_ms.unwrap_or(configured.period_ms),
            timeout_ms: self.probe_timeout_ms.unwrap_or(configured.timeout_ms),
        }
    }

    /// The configuration with this app as its only replica.
    #[must_use]
    pub fn in_place(&self, config: GateConfig) -> GateConfig {
        let upstream = Upstream {
            id: ID.to_owned(),
            address: self.address,
            holder: None,
            closed: false,
            protocol: self.protocol,
            probe: Some(self.probe(&config.probe)),
        };
        GateConfig { upstreams: vec![upstream], ..config }
    }
}

// === impl Beside ===

impl Beside {
    /// Adds what can only be seen from here.
    pub fn tell(&self, status: &mut UpstreamStatus) {
        status.listeners = listeners::all();
        status.listeners.retain(|l| !self.own.contains(&l.port));
        if !status.ready
            && let Some(words) = elsewhere(self.app.address, &status.listeners)
        {
            status.detail = format!("{}; {words}", status.detail);
        }
    }
}

/// Says so when the port is listened on, but by other addresses than the one that is asked.
fn elsewhere(app: SocketAddr, listeners: &[Listener]) -> Option<String> {
    let there: Vec<&Listener> = listeners.iter().filter(|l| l.port == app.port()).collect();
    let reached = there.iter().any(|l| l.address == app.ip() || l.address.is_unspecified());
    if there.is_empty() || reached {
        return None;
    }
    let places: Vec<String> = there.iter().map(|l| SocketAddr::new(l.address, l.port).to_string()).collect();
    Some(format!("the app listens on {} only, and is asked at {app}", places.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::{App, elsewhere};
    use syp_auth::door::{Listener, Probe};

    fn listener(text: &str) -> Listener {
        let at: std::net::SocketAddr = text.parse().unwrap();
        Listener { address: at.ip(), port: at.port() }
    }

    #[test]
    fn only_a_port_that_is_listened_on_somewhere_else_is_worth_a_word() {
        let said = |at: &[&str]| {
            let listeners: Vec<Listener> = at.iter().map(|t| listener(t)).collect();
            elsewhere("127.0.0.1:80".parse().unwrap(), &listeners)
        };
        assert_eq!(said(&[]), None);
        assert_eq!(said(&["0.0.0.0:5000"]), None, "another port is in the list of listeners");
        assert_eq!(said(&["127.0.0.1:80", "[::1]:80"]), None);
        assert_eq!(said(&["[::]:80"]), None, "which takes IPv4 too, as a rule");
        let words = said(&["10.1.2.3:80", "[::1]:80", "127.0.0.1:81"]).unwrap();
        assert!(words.contains("10.1.2.3:80 and [::1]:80 only"), "{words}");
    }

    #[test]
    fn a_probe_is_given_in_parts() {
        let configured = Probe { path: Some("/a".to_owned()), period_ms: 100, timeout_ms: 200 };
        let mut app = App {
            address: "127.0.0.1:80".parse().unwrap(),
            protocol: None,
            probe_path: None,
            probe_period_ms: None,
            probe_timeout_ms: None,
        };
        assert_eq!(app.probe(&configured), configured);
        (app.probe_path, app.probe_period_ms) = (Some("/b".to_owned()), Some(7));
        assert_eq!(
            app.probe(&configured),
            Probe { path: Some("/b".to_owned()), period_ms: 7, timeout_ms: 200 }
        );
    }
}
