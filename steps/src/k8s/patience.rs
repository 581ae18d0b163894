//! How long an answer of the API server is waited for. One that accepts and then says nothing must not hold a step, a worker or
//! a caller for ever; kube's own read time-out would cut watches, logs that are followed and port-forwards too.
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Either, Full};
use hyper::{Request, Response, Uri, header};
use kube::client::Body;
use std::{
    task::{Context, Poll},
    time::Duration,
};
use tower::{BoxError, Layer, Service};

/// A single call takes no longer, its answer included. Admission webhooks may take half of it.
pub const CALL: Duration = Duration::from_secs(30);

/// It did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the API server did not answer within {} s", .0.as_secs())]
pub struct Silent(Duration);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The whole answer.
    All,
    /// That it begins: what follows may take as long as it likes.
    Beginning,
    /// Nothing: it begins when there is something to say.
    Nothing,
}

/// What a request asks for says how long its answer may be on its way. Pure.
fn awaited(uri: &Uri, upgrade: bool) -> Awaited {
    let says = |name: &str| {
        uri.query().into_iter().flat_map(|q| q.split('&')).any(|p| {
            p.strip_prefix(name).and_then(|v| v.strip_prefix('=')).is_some_and(|v| matches!(v, "true" | "1"))
        })
    };
    match () {
        // an app that prints nothing has a log that does not begin
        () if says("follow") => Awaited::Nothing,
        () if upgrade || says("watch") || uri.path().ends_with("/log") => Awaited::Beginning,
        () => Awaited::All,
    }
}

/// Puts [`Patient`] around the way to an API server.
pub struct Patience(pub Duration);

/// A way to an API server on which nothing is waited for without end.
pub struct Patient<S> {
    inner: S,
    call: Duration,
}

// === impl Patience ===

impl<S> Layer<S> for Patience {
    type Service = Patient<S>;

    fn layer(&self, inner: S) -> Patient<S> {
        Patient { inner, call: self.0 }
    }
}

// === impl Patient ===

impl<S, B> Service<Request<Body>> for Patient<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: hyper::body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Either<Full<Bytes>, B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let awaited = awaited(request.uri(), request.headers().contains_key(header::UPGRADE));
        let limit = self.call;
        let answer = self.inner.call(request);
        Box::pin(async move {
            let whole = async {
                let (parts, body) = answer.await.map_err(Into::into)?.into_parts();
                if awaited != Awaited::All {
                    return Ok(Response::from_parts(parts, Either::Right(body)));
                }
                // whoever asked would collect it anyway
                let bytes = body.collect().await.map_err(Into::into)?.to_bytes();
                Ok(Response::from_parts(parts, Either::Left(Full::new(bytes))))
            };
            if awaited == Awaited::Nothing {
                return whole.await;
            }
            tokio::time::timeout(limit, whole).await.map_err(|_| Silent(limit))?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::client::failed;
    use k8s_openapi::api::core::v1::Pod;
    use kube::{
        Api, Client, Config,
        api::{ListParams, LogParams, WatchParams},
        client::ClientBuilder,
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    #[test]
    fn what_is_asked_for_says_what_is_waited_for() {
        let of = |path: &str| awaited(&path.parse().unwrap(), false);
        assert_eq!(of("/api/v1/pods?limit=1"), Awaited::All);
        assert_eq!(of("/api/v1/pods?labelSelector=watch%3Dtrue"), Awaited::All);
        assert_eq!(of("/api/v1/pods?&watch=true&timeoutSeconds=290"), Awaited::Beginning);
        assert_eq!(of("/api/v1/namespaces/n/pods/p/log?&tailLines=5"), Awaited::Beginning);
        assert_eq!(of("/api/v1/namespaces/n/pods/p/log?&follow=true"), Awaited::Nothing);
        let forward = "/api/v1/namespaces/n/pods/p/portforward?&ports=1".parse().unwrap();
        assert_eq!(awaited(&forward, true), Awaited::Beginning);
    }

    /// An API server that says `words` to every request, and then nothing more.
    async fn server(words: &'static str) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut s, _)) = listener.accept().await {
                let _ = s.read(&mut [0; 4096]).await;
                s.write_all(words.as_bytes()).await.unwrap();
                held.push(s);
            }
        });
        let config = Config::new(format!("http://{at}").parse().unwrap());
        let limit = Duration::from_secs(3);
        ClientBuilder::try_from(config).unwrap().with_layer(&Patience(limit)).build()
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_holds_nobody() {
        let api: Api<Pod> = Api::namespaced(server("").await, "n");
        let f = failed(&api.get("p").await.unwrap_err());
        assert_eq!(f.reason, "PROVIDER_UNREACHABLE");
        assert!(f.message.contains("did not answer within"), "{}", f.message);
        assert!(api.watch(&WatchParams::default(), "0").await.is_err(), "not even the watch began");
        assert!(api.portforward("p", &[1]).await.is_err());
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_in_the_middle_holds_nobody() {
        let begun = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{";
        let api: Api<Pod> = Api::namespaced(server(begun).await, "n");
        let f = failed(&api.list(&ListParams::default()).await.unwrap_err());
        assert!(f.message.contains("did not answer within"), "{}", f.message);
    }

    #[tokio::test]
    async fn watches_and_logs_may_be_silent_for_as_long_as_they_like() {
        let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let api: Api<Pod> = Api::namespaced(server(begun).await, "n");
        let long = Duration::from_secs(6);
        let mut news = Box::pin(api.watch(&WatchParams::default(), "0").await.unwrap());
        let next = tokio::time::timeout(long, futures_util::StreamExt::next(&mut news)).await;
        assert!(next.is_err(), "the watch goes on: {next:?}");
        let api: Api<Pod> = Api::namespaced(server("").await, "n");
        let how = LogParams { follow: true, ..Default::default() };
        let followed = tokio::time::timeout(long, api.log_stream("p", &how)).await;
        assert!(followed.is_err(), "the log of a silent app is waited for");
    }
}
