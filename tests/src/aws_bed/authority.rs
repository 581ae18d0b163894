//! Certificates of the load balancers, by an authority that lives as long as the bed.
use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The authority.
pub struct Authority {
    pem: String,
    key: KeyPair,
    /// Callers that believe the authorities of several beds find an authority by its name.
    bed: String,
}

fn itself(bed: &str) -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name.push(DnType::CommonName, format!("syp test bed {bed}"));
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    p
}

// === impl Authority ===

impl Authority {
    /// A new one, of this bed.
    pub fn new(bed: &str) -> Result<Self> {
        let key = KeyPair::generate()?;
        Ok(Self { pem: itself(bed).self_signed(&key)?.pem(), key, bed: bed.to_owned() })
    }

    /// Its certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Certificate and key for a name, PEM.
    pub fn sign(&self, name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let mut p = CertificateParams::new(vec![name.to_owned()])?;
        p.distinguished_name.push(DnType::CommonName, name);
        p.is_ca = IsCa::ExplicitNoCa;
        let cert = p.signed_by(&key, &Issuer::from_params(&itself(&self.bed), &self.key))?;
        Ok((cert.pem(), key.serialize_pem()))
    }
}
