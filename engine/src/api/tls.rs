//! The certificate of the listeners. It can be exchanged while they listen: certificates live shorter than engines.
use crate::error::Error;
use arc_swap::ArcSwap;
use futures_util::Stream;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{fmt::Display, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A client has so long for its handshake.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Handshakes at once; more wait.
const MOST: usize = 256;
/// After a connection that could not be taken, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// A certificate and its key. All copies share what they hold.
#[derive(Clone, Debug)]
pub struct Tls(Arc<Held>);

#[derive(Debug)]
struct Held(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Held {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

// === impl Tls ===

impl Tls {
    /// Of a certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// [`Error::Invalid`] when they can't be used, or don't belong together.
    pub fn new(cert: &[u8], key: &[u8]) -> Result<Self, Error> {
        Ok(Self(Arc::new(Held(ArcSwap::from_pointee(read(cert, key)?)))))
    }

    /// Connections from now on get this one; those that are open stay.
    ///
    /// # Errors
    /// As [`Tls::new`]; the former one stays then.
    pub fn exchange(&self, cert: &[u8], key: &[u8]) -> Result<(), Error> {
        self.0.0.store(Arc::new(read(cert, key)?));
        Ok(())
    }

    /// For clients that speak one of these protocols; none: any.
    pub(super) fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let held: Arc<dyn ResolvesServerCert> = Arc::clone(&self.0) as _;
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(held);
        config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Connections whose handshake went well. One that takes its time keeps no other waiting.
    pub(super) fn accepted(
        &self,
        listener: TcpListener,
    ) -> impl Stream<Item = std::io::Result<TlsStream<TcpStream>>> + use<> {
        let acceptor = self.acceptor(&["h2"]);
        async_stream::stream! {
            let mut under_way = JoinSet::new();
            loop {
                tokio::select! {
                    new = listener.accept(), if under_way.len() < MOST => match new {
                        Ok((stream, _)) => {
                            // small messages go at once
                            let _ = stream.set_nodelay(true);
                            under_way.spawn(tokio::time::timeout(PATIENCE, acceptor.accept(stream)));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a client could not be let in");
                            tokio::time::sleep(PAUSE).await;
                        }
                    },
                    // who does not speak TLS is not answered
                    Some(done) = under_way.join_next() => if let Ok(Ok(Ok(stream))) = done {
                        yield Ok(stream);
                    },
                }
            }
        }
    }
}

fn read(cert: &[u8], key: &[u8]) -> Result<CertifiedKey, Error> {
    fn wrong(e: &dyn Display) -> Error {
        Error::Invalid { field: "listen".into(), message: format!("TLS files: {e}") }
    }
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(cert).collect::<Result<_, _>>().map_err(|e| wrong(&e))?;
    if chain.is_empty() {
        return Err(wrong(&"there is no certificate in the first one"));
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| wrong(&e))?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|e| wrong(&e))
}
