//! Authorities that the callers of a test believe: those that engines under test made for their endpoints; and names that they know.
use anyhow::{Context, Result};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    collections::BTreeMap,
    io::Write,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

/// One file, since `curl` wants one.
static FILE: Mutex<Option<tempfile::NamedTempFile>> = Mutex::new(None);

/// Names that no name server knows.
static NAMES: Mutex<BTreeMap<String, Ipv4Addr>> = Mutex::new(BTreeMap::new());

/// From now on this one (PEM) is believed too.
///
/// # Errors
/// No temporary file.
pub fn add(pem: &str) -> Result<()> {
    let mut held = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    if held.is_none() {
        *held = Some(tempfile::NamedTempFile::new()?);
    }
    let file = held.as_mut().context("a file")?;
    if !std::fs::read_to_string(file.path())?.contains(pem) {
        file.write_all(pem.as_bytes())?;
        file.flush()?;
    }
    Ok(())
}

/// From now on this name leads there.
pub fn at(name: &str, address: Ipv4Addr) {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), address);
}

/// Where a name leads; `None`: nobody has said.
pub fn address(name: &str) -> Option<Ipv4Addr> {
    NAMES.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
}

/// Where they are; `None`: there are none.
pub fn file() -> Option<String> {
    let held = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    held.as_ref().map(|f| f.path().display().to_string())
}

/// TLS that believes them alone.
///
/// # Errors
/// One of them is none.
pub fn client() -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file() {
        for cert in CertificateDer::pem_file_iter(file)? {
            roots.add(cert?)?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
