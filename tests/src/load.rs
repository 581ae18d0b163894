//! Callers who never stop for long, and count what was not answered as it should be.
use crate::trust;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// Longest answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two requests of a caller: what is looked for is a request that is lost, not a machine with no time for anything else.
const PAUSE: Duration = Duration::from_millis(4);
/// Failures of one caller after which it has seen enough.
const ENOUGH: usize = 20;

/// Callers under way, on a thread of their own.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    thread: thread::JoinHandle<Vec<String>>,
}

/// What they saw.
#[derive(Debug)]
pub struct Seen {
    /// Requests.
    pub sent: usize,
    /// What was not answered 200, and how.
    pub lost: Vec<String>,
}

#[derive(Clone)]
struct Caller {
    /// Host and port.
    address: String,
    /// Where the endpoint speaks TLS.
    tls: Option<Arc<ClientConfig>>,
    path: String,
    token: String,
    /// A connection for each request.
    anew: bool,
}

// === impl Load ===

impl Load {
    /// `callers` of them, half on one connection each, half on a new one each time.
    ///
    /// # Errors
    /// The endpoint is neither `http://ADDRESS` nor `https://NAME`.
    pub fn start(endpoint: &str, path: &str, token: &str, callers: usize) -> Result<Self> {
        let (scheme, address) = endpoint.split_once("://").context("an address")?;
        let tls = if scheme == "https" { Some(trust::client()?) } else { None };
        let address = match tls {
            Some(_) if !address.contains(':') => format!("{address}:443"),
            _ => address.to_owned(),
        };
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let base = Caller { address, tls, path: path.into(), token: token.into(), anew: false };
        let (s, n) = (Arc::clone(&stop), Arc::clone(&sent));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            let all = (0..callers).map(|i| Caller { anew: i % 2 == 0, ..base.clone() }.run(&s, &n));
            runtime.block_on(join_all(all)).into_iter().flatten().collect()
        });
        Ok(Self { stop, sent, thread })
    }

    /// Requests so far.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends it.
    ///
    /// # Errors
    /// The callers broke down.
    pub fn end(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let lost = self.thread.join().map_err(|_| anyhow::anyhow!("the callers broke down"))?;
        Ok(Seen { sent: self.sent.load(Ordering::Relaxed), lost })
    }
}

// === impl Seen ===

impl Seen {
    /// # Errors
    /// Something was lost, or next to nothing was sent.
    pub fn nothing_lost(&self) -> Result<()> {
        ensure!(self.lost.is_empty(), "{} of {} lost: {:?}", self.lost.len(), self.sent, self.lost);
        ensure!(self.sent > 100, "only {} requests: the load was none", self.sent);
        Ok(())
    }
}

// === impl Caller ===

impl Caller {
    async fn run(self, stop: &AtomicBool, sent: &AtomicUsize) -> Vec<String> {
        let (mut lost, mut held) = (Vec::new(), None);
        while !stop.load(Ordering::Relaxed) && lost.len() < ENOUGH {
            if self.anew {
                held = None;
            }
            sent.fetch_add(1, Ordering::Relaxed);
            let once = tokio::time::timeout(PATIENCE, self.once(&mut held)).await;
            match once.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer"))) {
                Ok(200) => {}
                Ok(other) => lost.push(format!("status {other}")),
                Err(e) => {
                    lost.push(format!("{e:#}"));
                    held = None;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        lost
    }

    async fn once(&self, held: &mut Option<http1::SendRequest<Empty<Bytes>>>) -> Result<u16> {
        let mut sender = match held.take() {
            Some(s) if !s.is_closed() => s,
            _ => {
                match &self.tls {
                    None => handshake(TcpStream::connect(&self.address).await.context("connect")?).await?,
                    Some(tls) => {
                        let (name, port) = self.address.rsplit_once(':').context("a port")?;
                        // names below localhost are this machine
                        let to = (trust::address(name).unwrap_or(Ipv4Addr::LOCALHOST), port.parse()?);
                        let stream = TcpStream::connect(to).await.context("connect")?;
                        let server = ServerName::try_from(name.to_owned())?;
                        let tls = TlsConnector::from(Arc::clone(tls));
                        handshake(tls.connect(server, stream).await.context("TLS")?).await?
                    }
                }
            }
        };
        sender.ready().await.context("a connection that was open")?;
        let request = Request::get(&self.path)
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Empty::new())?;
        let response = sender.send_request(request).await.context("request")?;
        let (status, closes) = (response.status().as_u16(), closes(response.headers()));
        response.into_body().collect().await.context("body")?;
        if !closes {
            *held = Some(sender);
        }
        Ok(status)
    }
}

async fn handshake<S>(stream: S) -> Result<http1::SendRequest<Empty<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    drop(tokio::spawn(connection));
    Ok(sender)
}

fn closes(headers: &hyper::HeaderMap) -> bool {
    headers.get(header::CONNECTION).is_some_and(|c| c.as_bytes().eq_ignore_ascii_case(b"close"))
}
