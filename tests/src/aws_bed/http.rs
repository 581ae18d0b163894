//! Requests of the bed itself, each on a connection of its own.
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, client::conn::http1};
use hyper_util::rt::TokioIo;
use std::{io, net::SocketAddr, time::Duration};
use tokio::net::TcpStream;

/// Sends it there and reads the whole answer.
pub async fn send(to: SocketAddr, request: Request<Full<Bytes>>) -> io::Result<Response<Full<Bytes>>> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    drop(tokio::spawn(connection));
    let (parts, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(Response::from_parts(parts, Full::new(body)))
}

/// Status and text of a GET within some time.
pub async fn get(to: SocketAddr, path: &str, limit: Duration) -> io::Result<(u16, String)> {
    let request = Request::get(path).header(hyper::header::HOST, to.to_string()).body(Full::default());
    let answer = tokio::time::timeout(limit, send(to, request.map_err(io::Error::other)?)).await??;
    let (status, body) = (answer.status().as_u16(), text(answer).await);
    Ok((status, body))
}

/// The body of an answer.
pub async fn text(answer: Response<Full<Bytes>>) -> String {
    // it is all there already
    let bytes =
        answer.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
