//! Certificates of a test authority, by `openssl`.
use crate::product::sh;
use anyhow::Result;
use std::net::IpAddr;

/// A certificate for an address, with the authority that made it. PEM files.
pub struct Certificate {
    dir: tempfile::TempDir,
}

// === impl Certificate ===

impl Certificate {
    /// For one address or name.
    ///
    /// # Errors
    /// There is no `openssl`.
    pub fn of(address: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = |f: &str| dir.path().join(f).display().to_string();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
        let (ca, ca_key, cert, own_key) = (at("ca.pem"), at("ca.key"), at("cert.pem"), at("key.pem"));
        let mut args =
            vec!["req", "-x509", "-subj", "/CN=syp test authority", "-out", &ca, "-keyout", &ca_key];
        args.extend(key);
        sh("openssl", &args)?;
        let kind = if address.parse::<IpAddr>().is_ok() { "IP" } else { "DNS" };
        let san = format!("subjectAltName={kind}:{address}");
        let mut args =
            vec!["req", "-x509", "-subj", "/CN=syp test engine", "-out", &cert, "-keyout", &own_key];
        args.extend(key);
        args.extend(["-CA", &ca, "-CAkey", &ca_key, "-addext", &san, "-addext"]);
        args.push("basicConstraints=critical,CA:FALSE");
        sh("openssl", &args)?;
        Ok(Self { dir })
    }

    /// One of its files: `ca.pem`, `cert.pem`, `key.pem`.
    pub fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }
}
