//! What an engine is told by flags: the same for `server run` and for the service of `server install`.
use crate::{failure::Failure, parse};
use std::{net::SocketAddr, path::PathBuf};

/// Flags of an engine.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Flags {
    /// TCP address beside the Unix socket; off loopback with TLS files
    #[arg(long, value_parser = parse::listen, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// HTTP address where Prometheus scrapes /metrics with a viewer's token; off loopback with TLS files
    #[arg(long, value_parser = parse::listen, env = "SYP_METRICS_LISTEN", value_name = "ADDR:PORT")]
    pub metrics_listen: Option<SocketAddr>,
    /// Certificate chain, PEM
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// An identity provider whose tokens are taken
    #[arg(long, value_parser = parse::issuer, value_name = "URL")]
    pub issuer: Vec<String>,
    /// Authorities of providers with certificates of their own, beside the public ones; PEM
    #[arg(long, requires = "issuer", value_name = "FILE")]
    pub issuer_ca: Option<PathBuf>,
    /// Audience that its tokens carry for the instances
    #[arg(long, value_parser = parse::audience, value_name = "NAME")]
    pub audience: Option<String>,
    /// Who may do everything: user: group: domain: sub: claim:
    #[arg(long, value_parser = parse::member, value_name = "MEMBER")]
    pub admin: Vec<String>,
}

// === impl Flags ===

impl Flags {
    /// With paths that mean the same from everywhere.
    ///
    /// # Errors
    /// Off loopback without TLS: tokens must not cross a network in clear.
    pub fn checked(mut self) -> Result<Self, Failure> {
        let open = [self.listen, self.metrics_listen].into_iter().flatten().any(|a| !a.ip().is_loopback());
        if open && self.tls_cert.is_none() {
            return Err(Failure::usage("off loopback TLS is required: --tls-cert and --tls-key"));
        }
        for file in [&mut self.tls_cert, &mut self.tls_key, &mut self.issuer_ca] {
            *file = file.take().map(std::path::absolute).transpose()?;
        }
        Ok(self)
    }

    /// Certificate and key, where there are any.
    pub fn tls(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.tls_cert.as_ref().zip(self.tls_key.as_ref())
    }
}
