//! Serving: over the Unix socket of the engine's user, and over TCP (TLS off loopback).
use super::{
    Api,
    layer::{Guard, Peer},
    scrape,
    tls::Tls,
};
use crate::error::Error;
use futures_util::StreamExt;
use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use syp_proto::{
    google::longrunning::operations_server::OperationsServer,
    v1::{
        access_server::AccessServer, audit_server::AuditServer, costs_server::CostsServer,
        instances_server::InstancesServer, metrics_server::MetricsServer,
        operation_events_server::OperationEventsServer, providers_server::ProvidersServer,
        secrets_server::SecretsServer, server_server::ServerServer,
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener, UnixStream},
};
use tonic::transport::{
    Server,
    server::{Connected, Router},
};

/// Answers that are under way when the engine stops get so long.
const LAST_ANSWERS: Duration = Duration::from_secs(3);

/// Where to listen.
#[derive(Clone, Debug, Default)]
pub struct Listen {
    /// The engine user's socket.
    pub socket: Option<PathBuf>,
    /// Also over TCP.
    pub tcp: Option<SocketAddr>,
    /// Where Prometheus scrapes `GET /metrics`, over HTTP.
    pub metrics: Option<SocketAddr>,
    /// Certificate and key; required off loopback.
    pub tls: Option<Tls>,
    /// The user whose calls over the socket are the engine's own.
    pub own_uid: u32,
}

/// Serves until [`Api::shutdown`] is cancelled.
///
/// # Errors
/// An address that can't be used, or TCP off loopback without TLS.
pub async fn serve(api: Api, listen: Listen) -> Result<(), Error> {
    let open = [listen.tcp, listen.metrics].into_iter().flatten().find(|t| !t.ip().is_loopback());
    if let (Some(tcp), None) = (open, &listen.tls) {
        return Err(Error::Invalid {
            field: "listen".into(),
            message: format!(
                "{tcp} is not loopback: give --tls-cert and --tls-key, tokens must not cross a network in clear"
            ),
        });
    }
    api.identities.machines().load(&**api.engine.store()).await?;
    let guard = Guard::new(
        Arc::clone(&api.identities),
        Arc::clone(api.engine.store()),
        api.engine.clock().clone(),
        listen.own_uid,
        api.shutdown.clone(),
    );
    let io_error = |what: &str, e: &dyn std::fmt::Display| Error::Invalid {
        field: "listen".into(),
        message: format!("{what}: {e}"),
    };
    let mut tasks = tokio::task::JoinSet::new();
    let mut scrapes = tokio::task::JoinSet::new();
    if let Some(to) = listen.metrics {
        let listener = TcpListener::bind(to).await.map_err(|e| io_error(&to.to_string(), &e))?;
        let tls = listen.tls.as_ref().map(|t| t.acceptor(&[]));
        let own = if to.ip().is_loopback() { guard.clone() } else { guard.clone().off_loopback() };
        let (stop, scraped) = (api.shutdown.clone(), scrape::serve(api.clone(), own, listener, tls));
        scrapes.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = scraped => {}
            }
        });
    }
    if let Some(tcp) = listen.tcp {
        let listener = TcpListener::bind(tcp).await.map_err(|e| io_error(&tcp.to_string(), &e))?;
        let stop = api.shutdown.clone();
        let own = guard.clone();
        let own = if tcp.ip().is_loopback() { own } else { own.off_loopback() };
        let router = routes(builder().layer(own), &api);
        let tls = listen.tls.clone();
        tasks.spawn(async move {
            let stopped = async move { stop.cancelled().await };
            match tls {
                Some(tls) => {
                    let incoming = tls.accepted(listener);
                    Box::pin(router.serve_with_incoming_shutdown(incoming, stopped)).await
                }
                None => {
                    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
                    Box::pin(router.serve_with_incoming_shutdown(incoming, stopped)).await
                }
            }
        });
    }
    if let Some(path) = &listen.socket {
        let listener = bind_private(path).map_err(|e| io_error(&path.display().to_string(), &e))?;
        let stop = api.shutdown.clone();
        let router = routes(builder().layer(guard), &api);
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener).map(|s| s.map(Local));
        tasks.spawn(async move {
            router.serve_with_incoming_shutdown(incoming, async move { stop.cancelled().await }).await
        });
    }
    let stop = api.shutdown.clone();
    let all = async {
        while let Some(t) = tasks.join_next().await {
            t.map_err(|e| Error::Internal(e.to_string()))?.map_err(|e| io_error("server", &e))?;
        }
        while scrapes.join_next().await.is_some() {}
        Ok(())
    };
    tokio::select! {
        ended = all => ended,
        // a client that does not take its answer can't keep the engine from stopping
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
    }
}

fn builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .tcp_nodelay(true)
}

type Layered = tower::layer::util::Stack<Guard, tower::layer::util::Identity>;

fn routes(mut server: Server<Layered>, api: &Api) -> Router<Layered> {
    let (health, health_service) = tonic_health::server::health_reporter();
    drop(tokio::spawn(async move {
        health.set_serving::<InstancesServer<Api>>().await;
    }));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(syp_proto::DESCRIPTORS)
        .build_v1();
    let mut router = server
        .add_service(InstancesServer::new(api.clone()))
        .add_service(OperationsServer::new(api.clone()))
        .add_service(OperationEventsServer::new(api.clone()))
        .add_service(CostsServer::new(api.clone()))
        .add_service(MetricsServer::new(api.clone()))
        .add_service(AccessServer::new(api.clone()))
        .add_service(ProvidersServer::new(api.clone()))
        .add_service(SecretsServer::new(api.clone()))
        .add_service(ServerServer::new(api.clone()))
        .add_service(AuditServer::new(api.clone()))
        .add_service(health_service);
    if let Ok(reflection) = reflection {
        router = router.add_service(reflection);
    }
    router
}

/// A socket that only its owner can open. The store's lock says that no other engine is using it.
fn bind_private(path: &PathBuf) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A connection over the socket; it knows who is at the other end.
struct Local(UnixStream);

impl Connected for Local {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        Peer { uid: self.0.peer_cred().ok().map(|c| c.uid()), address: None }
    }
}

impl AsyncRead for Local {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Local {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
