//! HTTP calls of our own: `sypctl curl` and the token endpoint of an identity provider. Redirects are not followed.
use crate::failure::Failure;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{
            HttpConnector,
            dns::{GaiResolver, Name},
        },
    },
    rt::TokioExecutor,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

/// A client for http and https.
pub type Http = Client<HttpsConnector<HttpConnector<Names>>, Full<Bytes>>;

/// Names below `localhost` are this machine (RFC 6761), whatever the system's resolver makes of them.
#[derive(Clone)]
pub struct Names(GaiResolver);

impl tower_service::Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        if name.as_str().ends_with(".localhost") {
            let here = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
            return Box::pin(std::future::ready(Ok(here.into_iter())));
        }
        let asked = self.0.call(name);
        Box::pin(async move { Ok(asked.await?.collect::<Vec<_>>().into_iter()) })
    }
}

/// Whom a client believes.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// The system's authorities.
    System,
    /// Those of a file, and no others.
    File(&'a Path),
    /// One that the engine named for an endpoint, PEM, and no others.
    Endpoint(&'a str),
}

// === impl Trust ===

impl<'a> Trust<'a> {
    /// A file where one is named.
    pub fn of(file: Option<&'a Path>) -> Self {
        file.map_or(Self::System, Self::File)
    }
}

/// The certificates of a file of authorities, DER.
///
/// # Errors
/// When it can't be read, or has none.
pub fn authorities(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let wrong = |why: String| Failure::usage(format!("--ca-file {}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|e| wrong(e.to_string()))?;
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&pem).map(|c| c.map(|c| c.as_ref().to_vec())).collect();
    match all {
        Ok(all) if all.is_empty() => Err(wrong("it has no certificate".to_owned())),
        Ok(all) => Ok(all),
        Err(e) => Err(wrong(e.to_string())),
    }
}

/// A client that trusts whom it should.
///
/// # Errors
/// When the file or the system's store can't be read.
pub fn client(trust: Trust<'_>) -> Result<Http, Failure> {
    let builder = HttpsConnectorBuilder::new();
    let only = |pem: &[u8], whose: &str| {
        let wrong = |e: &dyn std::fmt::Display| Failure::usage(format!("{whose}: {e}"));
        let mut roots = rustls::RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(pem) {
            roots.add(cert.map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
        }
        Ok::<_, Failure>(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    };
    let builder = match trust {
        Trust::System => builder
            .with_native_roots()
            .map_err(|e| anyhow::anyhow!("the system's certificate authorities: {e}"))?,
        Trust::File(file) => {
            let whose = format!("--ca-file {}", file.display());
            let pem = std::fs::read(file).map_err(|e| Failure::usage(format!("{whose}: {e}")))?;
            builder.with_tls_config(only(&pem, &whose)?)
        }
        Trust::Endpoint(pem) => builder.with_tls_config(only(pem.as_bytes(), "the endpoint's authority")?),
    };
    let mut tcp = HttpConnector::new_with_resolver(Names(GaiResolver::new()));
    tcp.enforce_http(false);
    let https = builder.https_or_http().enable_all_versions().wrap_connector(tcp);
    Ok(Client::builder(TokioExecutor::new()).build(https))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_service::Service as _;

    #[tokio::test]
    async fn names_below_localhost_are_this_machine() {
        let mut names = Names(GaiResolver::new());
        let of = |n: &str| n.parse::<Name>().unwrap();
        let got: Vec<_> = names.call(of("shop.localhost")).await.unwrap().collect();
        assert_eq!(got, [SocketAddr::from((Ipv4Addr::LOCALHOST, 0))]);
        // a name that only looks like it is asked for
        assert!(names.call(of("shop.notlocalhost.invalid")).await.is_err());
    }
}
