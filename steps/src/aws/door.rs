//! The gates behind a load balancer, reached as callers reach them: by TLS under the domain's name, each request signed. Which gate
//! answers is the load balancer's choice, so what all of them shall hear is said until as many have heard it as there are.
use crate::admin;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, header};
use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, pki_types::ServerName};
use secrecy::{ExposeSecret, SecretString};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use syp_auth::{
    door::{GateMetrics, GateStatus},
    jwks::Wanted,
    remote,
};
use syp_engine::{
    failure::{Class, failure},
    step::StepCx,
};
use syp_proto::journal::Failure;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

const HTTPS: u16 = 443;
/// A connection takes no longer.
const CONNECT: Duration = Duration::from_secs(5);
/// A gate that is healthy behind its load balancer is asked within this, however many there are.
const ALL: Duration = Duration::from_secs(20);
/// Requests for each gate that is looked for, at least: which one answers is chance where connections are spread by it.
const TRIES: usize = 8;
/// Before another try after one that failed: a load balancer hears of a task that comes or goes within moments.
const AGAIN: Duration = Duration::from_millis(200);
/// Names the gate that has answered.
const HOST: &str = remote::HOST;

/// What callers come through.
#[derive(Clone, Debug)]
pub(super) struct Front {
    /// The load balancer's own name.
    dns: String,
    /// The name under which callers come.
    domain: String,
}

/// What the gates of an instance say, by host.
pub(super) type Told = BTreeMap<String, (Option<GateMetrics>, Option<GateStatus>)>;

fn unreachable(what: impl std::fmt::Display) -> Failure {
    failure(
        Class::Transient,
        "ENDPOINT_UNREACHABLE",
        format!("the load balancer does not lead to the gate: {what}"),
        "the engine tries again by itself; the stack's target group in the EC2 console shows which tasks are healthy",
    )
}

// === impl Front ===

impl Front {
    /// Of the stack that a step sees; `None`: there is none yet.
    pub fn of(cx: &StepCx) -> Option<Self> {
        Some(Self {
            dns: cx.output(super::stack_step::NODE, "dns")?.to_owned(),
            domain: cx.output(super::stack_step::NODE, "domain")?.to_owned(),
        })
    }

    /// Its addresses now.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, Failure> {
        let found = tokio::net::lookup_host((self.dns.as_str(), HTTPS)).await;
        let all: Vec<_> = found.map_err(|e| unreachable(format_args!("{}: {e}", self.dns)))?.collect();
        if all.is_empty() {
            Err(unreachable(format_args!("{} has no address yet", self.dns)))
        } else {
            Ok(all)
        }
    }

    /// Does the domain's name lead here?
    pub async fn named(&self) -> Result<bool, Failure> {
        let here = self.addresses().await?;
        let named = tokio::net::lookup_host((self.domain.as_str(), HTTPS)).await;
        // an alias gives the same addresses; a proxy in front of it would not, and is its owner's
        Ok(named.is_ok_and(|mut all| all.any(|a| here.contains(&a))))
    }

    /// Where it should lead.
    pub fn dns(&self) -> &str {
        &self.dns
    }

    async fn connect(&self, to: SocketAddr) -> Result<TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(self.domain.clone()).map_err(unreachable)?;
        let connected = async {
            let way = TcpStream::connect(to).await.map_err(unreachable)?;
            TlsConnector::from(trust()?)
                .connect(name, way)
                .await
                .map_err(|e| unreachable(format_args!("TLS: {e}")))
        };
        tokio::time::timeout(CONNECT, connected)
            .await
            .map_err(|_| unreachable(format_args!("{to} does not answer")))?
    }

    /// One signed request: which gate answered, how, and with what.
    async fn ask(
        &self,
        to: SocketAddr,
        token: &SecretString,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(String, u16, Bytes), Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let signed = remote::sign(token.expose_secret(), method.as_str(), path, now, &body);
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", remote::PREFIX))
            .header(header::HOST, &self.domain)
            .header(header::AUTHORIZATION, signed)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(unreachable)?;
        admin::exchange_named(self.connect(to).await?, request, HOST).await
    }

    /// Status of a request without a token.
    pub async fn anonymous(&self) -> Result<u16, Failure> {
        let to = self.addresses().await?;
        let way = self.connect(to[0]).await?;
        admin::anonymous_at(way, &self.domain).await
    }

    /// Puts a configuration into `need` gates. One that has a newer one is fine.
    pub async fn configure(&self, token: &SecretString, config: &str, need: usize) -> Result<(), Failure> {
        let mut told = BTreeMap::new();
        self.each(
            need,
            |to| {
                let body = Bytes::from(config.to_owned());
                async move {
                    let (host, status, answer) = self.ask(to, token, Method::PUT, "/config", body).await?;
                    match status {
                        200..=299 | 409 => Ok((host, ())),
                        500..=599 => Err(unreachable(status)),
                        _ => Err(failure(
                            Class::Terminal,
                            "GATE_REFUSED",
                            format!(
                                "the gate refused its configuration ({status}): {}",
                                String::from_utf8_lossy(&answer)
                            ),
                            "check the access policy with 'sypctl access show'",
                        )),
                    }
                }
            },
            &mut told,
        )
        .await
    }

    /// What gates say of themselves; of as many as answer.
    pub async fn look(&self, token: &SecretString, need: usize) -> Result<Told, Failure> {
        let (mut metrics, mut status) = (BTreeMap::new(), BTreeMap::new());
        let (a, b) = tokio::join!(
            self.each(need, |to| self.read::<GateMetrics>(to, token, "/metrics.json"), &mut metrics),
            self.each(need, |to| self.read::<GateStatus>(to, token, "/status"), &mut status),
        );
        if metrics.is_empty() && status.is_empty() {
            a.and(b)?;
        }
        let mut out = Told::new();
        for (host, m) in metrics {
            out.entry(host).or_default().0 = Some(m);
        }
        for (host, s) in status {
            out.entry(host).or_default().1 = Some(s);
        }
        Ok(out)
    }

    /// A key that one of the gates lacks, as soon as a token names one.
    pub async fn wanted(&self, token: &SecretString) -> Result<Option<Wanted>, Failure> {
        let to = self.addresses().await?;
        Ok(self.read(to[0], token, "/wanted").await?.1)
    }

    async fn read<T: serde::de::DeserializeOwned>(
        &self,
        to: SocketAddr,
        token: &SecretString,
        path: &str,
    ) -> Result<(String, T), Failure> {
        let (host, status, answer) = self.ask(to, token, Method::GET, path, Bytes::new()).await?;
        if status != 200 {
            return Err(unreachable(format_args!("{path} is answered {status}")));
        }
        Ok((host, serde_json::from_slice(&answer).map_err(unreachable)?))
    }

    /// Asks until `need` gates have answered.
    ///
    /// # Errors
    /// The last one, when so many have not; what has is in `out`.
    async fn each<T, F>(
        &self,
        need: usize,
        ask: impl Fn(SocketAddr) -> F,
        out: &mut BTreeMap<String, T>,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(String, T), Failure>>,
    {
        let (all, end) = (self.addresses().await?, Instant::now() + ALL);
        let mut last = None;
        for to in all.iter().cycle().take(need.max(1) * TRIES * all.len()) {
            if out.len() >= need || Instant::now() >= end {
                break;
            }
            match ask(*to).await {
                Ok((host, said)) => drop(out.insert(host, said)),
                Err(f) if Class::parse(&f.class) == Class::Terminal => return Err(f),
                Err(f) => {
                    last = Some(f);
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        if out.len() >= need {
            return Ok(());
        }
        Err(last.unwrap_or_else(|| unreachable(format_args!("{} of {need} gates have answered", out.len()))))
    }
}

/// Whom the system trusts, read once.
fn trust() -> Result<Arc<ClientConfig>, Failure> {
    static TRUST: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(held) = TRUST.get() {
        return Ok(Arc::clone(held));
    }
    let (mut roots, found) = (RootCertStore::empty(), rustls_native_certs::load_native_certs());
    // some of them may be unreadable; with none at all nobody is trusted, which should have its own words
    if found.certs.is_empty() {
        return Err(unreachable(format_args!(
            "the system has no certificate authorities: {:?}",
            found.errors
        )));
    }
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unreachable)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::clone(TRUST.get_or_init(|| Arc::new(config))))
}
