//! A client's connection as hyper reads it: bytes that were read to tell the protocol come again, framing is watched, and the
//! end waits a moment for the client.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::framing::Framing;

/// A client that was told the end has this long to stop sending.
const LINGER: Duration = Duration::from_secs(1);
/// How an HTTP/2 connection begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The stream with what was read of it already.
pub struct ClientIo<S> {
    stream: S,
    read: Bytes,
    framing: Option<Arc<Mutex<Framing>>>,
    lingers: Option<Pin<Box<Sleep>>>,
}

/// Reads until it is clear whether this is HTTP/2.
///
/// # Errors
/// The connection failed or ended.
pub async fn detect<S: AsyncRead + Unpin>(stream: &mut S) -> std::io::Result<(bool, Bytes)> {
    let mut seen = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let same = seen.iter().zip(PREFACE).take_while(|(a, b)| a == b).count();
        if same == PREFACE.len() {
            return Ok((true, seen.into()));
        }
        if same < seen.len() {
            return Ok((false, seen.into()));
        }
    }
}

impl<S> ClientIo<S> {
    /// Continues a connection of which `read` has been read.
    pub fn new(stream: S, read: Bytes, framing: Option<Arc<Mutex<Framing>>>) -> Self {
        if let Some(framing) = &framing {
            framing.lock().saw(&read);
        }
        Self { stream, read, framing, lingers: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if !self.read.is_empty() {
            let n = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read[..n]);
            self.read.advance(n);
            if self.read.is_empty() {
                // all of it is copied: the buffer can go
                self.read = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if let Some(framing) = &self.framing {
            framing.lock().saw(&buf.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Says goodbye, then reads on for a moment: closing a socket with bytes unread resets the connection, and the client
    /// loses the last answer (a 400, say) that it has not read yet.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if this.lingers.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            // a side of a tunnel that only stops sending still listens
            if this.framing.as_ref().is_some_and(|f| f.lock().is_tunnel()) {
                return Poll::Ready(Ok(()));
            }
        }
        let limit = this.lingers.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        let mut trash = [0; 4096];
        while limit.as_mut().poll(cx).is_pending() {
            let mut trash = ReadBuf::new(&mut trash);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut trash)) {
                Ok(()) if !trash.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
