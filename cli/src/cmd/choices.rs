//! Flags with a few words to choose from, for 'up' and 'set' alike.
use syp_proto::v1::{Scaling, instance_spec};

/// How the gate talks to the app.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Protocol {
    /// Try h2c once a replica, else HTTP/1.1
    Auto,
    /// HTTP/1.1
    Http1,
    /// HTTP/2 without TLS (gRPC)
    H2c,
}

/// The app's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Egress {
    /// Open
    On,
    /// Closed
    None,
}

/// The seal of the app's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Isolation {
    /// Only the gate reaches the app; tried before serving
    Enforced,
    /// The same by routing rules in the app's own network namespace, where a cluster enforces no NetworkPolicy
    Rules,
    /// Not tried; stays visible as condition Isolated=False
    None,
}

/// The image's own files, as the app sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Root {
    /// It may write anywhere
    Writable,
    /// It may write to /tmp and the image's volumes alone
    ReadOnly,
}

/// What differs from what was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum OnDrift {
    /// It is put back within seconds
    Repair,
    /// It is told (condition Drifted) and left; what does not run is started all the same
    Report,
}

/// As the API has it.
pub fn scaling((min, max): (i32, i32), target_cpu: Option<i32>, target_rps: Option<f64>) -> Scaling {
    let (target_cpu, target_rps) = (target_cpu.unwrap_or(0), target_rps.unwrap_or(0.0));
    Scaling { min, max, target_cpu, target_rps, ..Default::default() }
}

// === impl Protocol ===

impl Protocol {
    /// As the API has it.
    pub fn asked(self) -> instance_spec::Protocol {
        match self {
            Self::Auto => instance_spec::Protocol::Auto,
            Self::Http1 => instance_spec::Protocol::Http1,
            Self::H2c => instance_spec::Protocol::H2c,
        }
    }
}

// === impl Egress ===

impl Egress {
    /// As the API has it.
    pub fn asked(self) -> instance_spec::Egress {
        match self {
            Self::On => instance_spec::Egress::On,
            Self::None => instance_spec::Egress::Off,
        }
    }
}

// === impl Isolation ===

impl Isolation {
    /// As the API has it.
    pub fn asked(self) -> instance_spec::Isolation {
        match self {
            Self::Enforced => instance_spec::Isolation::Enforced,
            Self::Rules => instance_spec::Isolation::Rules,
            Self::None => instance_spec::Isolation::NotEnforced,
        }
    }
}

// === impl Root ===

impl Root {
    /// As the API has it.
    pub fn is_read_only(self) -> bool {
        self == Self::ReadOnly
    }
}

// === impl OnDrift ===

impl OnDrift {
    /// As the API has it.
    pub fn reports(self) -> bool {
        self == Self::Report
    }
}
