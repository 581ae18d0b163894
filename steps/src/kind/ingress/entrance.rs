//! Comes in as a caller does: by name, through the ingress, with TLS that only the local authority vouches for, and without a token.
use super::{Authority, Doors};
use crate::{admin, k8s::Shared};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{net::Ipv4Addr, sync::Arc, time::Duration};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::TlsConnector;

pub(crate) struct Entrance(pub Arc<Shared>, pub Arc<Authority>);

/// The controller hears of a new name within seconds.
const HEARD: Duration = Duration::from_secs(45);

fn not_ready(what: impl std::fmt::Display) -> Failure {
    failure(
        Class::Transient,
        "INGRESS_NOT_READY",
        format!("the ingress does not lead to the gate yet: {what}"),
        "the engine tries again; 'kubectl -n syp-ingress logs deployment/traefik' with the kubeconfig in the data directory shows what the controller says",
    )
}

/// How a request without a token is answered.
async fn status(doors: Doors, name: &str, ca: &str) -> Result<u16, Failure> {
    let mut roots = RootCertStore::empty();
    let cert = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(not_ready)?;
    roots.add(cert).map_err(not_ready)?;
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(not_ready)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let to = TcpStream::connect((Ipv4Addr::LOCALHOST, doors.https)).await.map_err(not_ready)?;
    let server = ServerName::try_from(name.to_owned()).map_err(not_ready)?;
    let way = TlsConnector::from(Arc::new(config)).connect(server, to).await.map_err(not_ready)?;
    admin::anonymous_at(way, name).await
}

impl Step for Entrance {
    fn kind(&self) -> &'static str {
        "kind.entrance@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let doors = cx.outputs.get("cluster").and_then(|o| serde_json::from_value(o["doors"].clone()).ok());
        let doors: Doors = doors.ok_or_else(|| not_ready("no port of this machine leads to it"))?;
        let ca = self.1.certificate().await?;
        let end = Instant::now() + HEARD;
        for name in &cx.spec.domains {
            loop {
                let seen = status(doors, name, &ca).await;
                match seen {
                    Ok(401) => break,
                    // a controller that has not heard of the name answers 404, one whose endpoints are not there yet 503
                    Ok(s) if Instant::now() >= end && [404, 502, 503, 504].contains(&s) => {
                        return Err(not_ready(format!("{name} is answered {s}")));
                    }
                    Ok(s) if Instant::now() >= end => return admin::enforced(s),
                    Err(f) if Instant::now() >= end => return Err(f),
                    // each try says something else: what is waited for stays the same
                    _ => cx.waiting.on(
                        &cx.node,
                        "INGRESS_NOT_READY",
                        format!("{name} does not lead to the gate yet at port {}", doors.https),
                        "the ingress controller hears of a new name within seconds",
                        self.0.clock.now(),
                    ),
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        admin::enforced(401)
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
