//! The authority that signs the certificates of local names. Its key never leaves the data directory; whoever trusts its certificate
//! trusts what this engine's user signs, for names below `localhost` alone.
use crate::kind::failed_io;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, NameConstraints,
};
use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;
use time::{Duration, OffsetDateTime};

/// What it signs.
pub struct Pair {
    /// Certificate, PEM.
    pub cert: String,
    /// Private key, PEM.
    pub key: secrecy::SecretString,
}

/// Names that it may sign: an authority that somebody trusts in a browser must be good for nothing else.
pub const DOMAIN: &str = "localhost";
/// It is trusted by hand, so it lasts.
const YEARS: i64 = 10;
/// Longest that browsers take from an authority added by hand.
const DAYS: i64 = 825;

/// The local authority.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    /// Made once, by whoever needs it first.
    made: tokio::sync::Mutex<()>,
}

fn wrong(e: &rcgen::Error) -> Failure {
    failure(
        Class::Terminal,
        "LOCAL_CA",
        format!("the local certificate authority can't be used: {e}"),
        "move the folder 'ca' of the data directory away: the engine makes a new one, which then has to be trusted anew",
    )
}

/// What is the same in every certificate of the authority itself; whom it signs for is told by this and its key.
fn itself() -> CertificateParams {
    let mut p = CertificateParams::default();
    p.distinguished_name.push(DnType::CommonName, "Serve Yourself Private: local names of this machine");
    p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    p.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    p.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(DOMAIN.into())],
        excluded_subtrees: vec![],
    });
    p
}

/// A file whose content is there as a whole or not at all.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let part = path.with_extension("part");
    let write = || {
        let mut f =
            std::fs::File::options().create(true).truncate(true).write(true).mode(0o600).open(&part)?;
        f.write_all(text.as_bytes())?;
        f.sync_all()?;
        std::fs::rename(&part, path)
    };
    write().map_err(|e| failed_io(path, &e))
}

fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed_io(path, &e)),
    }
}

// === impl Authority ===

impl Authority {
    /// In a folder; nothing is made yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, made: tokio::sync::Mutex::new(()) }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Its certificate, PEM; made when there is none.
    ///
    /// # Errors
    /// `LOCAL_CA`, or its files can't be used.
    pub async fn certificate(&self) -> Result<String, Failure> {
        Ok(self.load().await?.0)
    }

    /// Certificate and key, PEM. The key is written first: a certificate without one would be trusted for nothing.
    async fn load(&self) -> Result<(String, KeyPair), Failure> {
        let _held = self.made.lock().await;
        let (cert, key) = (self.at("ca.pem"), self.at("ca.key"));
        if let (Some(cert), Some(key)) = (read(&cert)?, read(&key)?) {
            return Ok((cert, KeyPair::from_pem(&key).map_err(|e| wrong(&e))?));
        }
        std::fs::create_dir_all(&self.dir).map_err(|e| failed_io(&self.dir, &e))?;
        let pair = KeyPair::generate().map_err(|e| wrong(&e))?;
        let mut p = itself();
        p.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        p.not_after = OffsetDateTime::now_utc() + Duration::days(365 * YEARS);
        let signed = p.self_signed(&pair).map_err(|e| wrong(&e))?;
        write(&key, &pair.serialize_pem())?;
        write(&cert, &signed.pem())?;
        Ok((signed.pem(), pair))
    }

    /// A certificate for names, and until when it holds (Unix seconds).
    ///
    /// # Errors
    /// `LOCAL_CA`, or its files can't be used.
    pub async fn sign(&self, names: &[String]) -> Result<(Pair, i64), Failure> {
        let issuer = Issuer::new(itself(), self.load().await?.1);
        let pair = KeyPair::generate().map_err(|e| wrong(&e))?;
        let mut p = CertificateParams::new(names.to_vec()).map_err(|e| wrong(&e))?;
        p.distinguished_name.push(DnType::CommonName, names.first().map_or("", String::as_str));
        p.is_ca = IsCa::ExplicitNoCa;
        p.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        p.use_authority_key_identifier_extension = true;
        let until = OffsetDateTime::now_utc() + Duration::days(DAYS);
        p.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        p.not_after = until;
        let cert = p.signed_by(&pair, &issuer).map_err(|e| wrong(&e))?;
        Ok((Pair { cert: cert.pem(), key: pair.serialize_pem().into() }, until.unix_timestamp()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };
    use std::sync::Arc;

    fn accepts(ca: &str, cert: &str, name: &str) -> bool {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let v = WebPkiServerVerifier::builder(Arc::new(roots)).build().unwrap();
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        v.verify_server_cert(&cert, &[], &name, &[], UnixTime::now()).is_ok()
    }

    #[tokio::test]
    async fn it_signs_local_names_and_is_good_for_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let a = Authority::new(dir.path().join("ca"));
        let ca = a.certificate().await.unwrap();
        assert_eq!(ca, Authority::new(dir.path().join("ca")).certificate().await.unwrap(), "made once");
        let (pair, until) = a.sign(&["shop.localhost".into()]).await.unwrap();
        assert!(accepts(&ca, &pair.cert, "shop.localhost"));
        assert!(!accepts(&ca, &pair.cert, "other.localhost"));
        assert!(until > OffsetDateTime::now_utc().unix_timestamp() + 800 * 86_400);
        // whoever got its key could still not be a bank
        let (pair, _) = a.sign(&["bank.example.com".into()]).await.unwrap();
        assert!(!accepts(&ca, &pair.cert, "bank.example.com"));
    }

    #[tokio::test]
    async fn its_key_is_for_its_user_alone() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Authority::new(dir.path().into()).certificate().await.unwrap();
        let mode = std::fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
