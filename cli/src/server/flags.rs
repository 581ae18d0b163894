//! What an engine is told by flags: the same for `server run` and for the service of `server install`.
use crate::{exit, failure::Failure, parse};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use syp_engine::api::Tls;

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

    /// Says of files that can't be used which one it is, before anything is opened.
    ///
    /// # Errors
    /// `TLS_FILE`.
    pub fn check_files(&self) -> Result<(), Failure> {
        if let Some((cert, key)) = self.tls() {
            let both = format!("--tls-cert {} and --tls-key {}", cert.display(), key.display());
            Tls::new(&read("--tls-cert", cert)?, &read("--tls-key", key)?)
                .map_err(|e| unusable(&both, &e))?;
        }
        if let Some(ca) = &self.issuer_ca {
            let authorities = read("--issuer-ca", ca)?;
            let what = format!("--issuer-ca {}", ca.display());
            super::fetcher(Some(&authorities)).map_err(|e| unusable(&what, &e))?;
        }
        Ok(())
    }

    /// Certificate and key, where there are any.
    pub fn tls(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.tls_cert.as_ref().zip(self.tls_key.as_ref())
    }
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(file).map_err(|e| unusable(&format!("{flag} {}", file.display()), &e))
}

fn unusable(what: &str, e: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        exit::FAILED,
        "TLS_FILE",
        format!("{what}: {e}"),
        "give PEM files that the engine's user can read: 'sypctl explain TLS_FILE' has how to look at them",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_can_not_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("text"), "no PEM").unwrap();
        let said = |f: &Flags| {
            let e = f.check_files().unwrap_err();
            assert_eq!(e.reason(), "TLS_FILE");
            e.message().to_owned()
        };
        let tls =
            |cert: &str| Flags { tls_cert: Some(at(cert)), tls_key: Some(at("text")), ..Default::default() };
        assert!(said(&tls("none")).starts_with("--tls-cert "), "not there");
        assert!(said(&tls("text")).contains("there is no certificate"), "not PEM");
        let ca = |file: &str| Flags { issuer_ca: Some(at(file)), ..Default::default() };
        assert!(said(&ca("none")).contains("No such file"), "not there");
        assert!(said(&ca("text")).contains("not PEM"), "not PEM");
        assert!(Flags::default().check_files().is_ok());
    }
}
