//! Bodies on their way through: counted, never gathered.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::headers;
use crate::record::Record;
use crate::replica::Lease;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The client sent nothing for too long.
    #[error("the request's body did not arrive in time")]
    Idle,
}

/// A request's body on its way to the app.
pub struct Upload {
    incoming: Option<Incoming>,
    count: Arc<AtomicU64>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Upload {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self { incoming: None, count: Arc::default(), idle: None }
    }

    /// A body that is counted in `count` and fails when nothing arrives for as long as `idle`.
    #[must_use]
    pub fn new(incoming: Incoming, count: Arc<AtomicU64>, idle: Option<Duration>) -> Self {
        let idle = idle.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        Self { incoming: Some(incoming), count, idle }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Some(incoming) = &mut this.incoming else { return Poll::Ready(None) };
        if let Poll::Ready(mut frame) = Pin::new(incoming).poll_frame(cx) {
            if let Some(trailers) = frame.as_mut().and_then(|f| f.as_mut().ok()).and_then(Frame::trailers_mut)
            {
                headers::strip_trailers(trailers);
            }
            if let Some(Ok(data)) = frame.as_ref().map(|f| f.as_ref().map(Frame::data_ref)) {
                this.count.fetch_add(data.map_or(0, |d| d.len() as u64), Relaxed);
            }
            if let Some((limit, sleep)) = &mut this.idle {
                sleep.as_mut().reset(Instant::now() + *limit);
            }
            return Poll::Ready(frame.map(|f| f.map_err(Error::from)));
        }
        if let Some((_, sleep)) = &mut this.idle {
            ready!(sleep.as_mut().poll(cx));
            return Poll::Ready(Some(Err(Error::Idle)));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body on its way to the client. When it is dropped the request is over: its record goes to the log.
pub struct Download {
    source: Source,
    record: Option<Record>,
}

enum Source {
    Text(Option<Bytes>),
    App(Incoming, Option<Lease>),
}

impl Download {
    /// A short text of our own.
    #[must_use]
    pub fn text(text: impl Into<Bytes>, record: Option<Record>) -> Self {
        let text = text.into();
        Self { source: Source::Text((!text.is_empty()).then_some(text)), record }
    }

    /// The app's body; the connection it comes from goes back to the pool when it ends well.
    #[must_use]
    pub fn app(incoming: Incoming, lease: Option<Lease>, record: Record) -> Self {
        let mut body = Self { source: Source::App(incoming, lease), record: Some(record) };
        if body.is_end_stream() {
            body.ended();
        }
        body
    }

    fn ended(&mut self) {
        let Source::App(_, lease) = &mut self.source else { return };
        if let Some(record) = &mut self.record {
            record.reason = "OK";
        }
        if let Some(lease) = lease.take() {
            lease.give_back();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Text(text) => text.take().map(|t| Ok(Frame::data(t))),
            Source::App(incoming, _) => {
                ready!(Pin::new(incoming).poll_frame(cx)).map(|f| f.map_err(Error::from))
            }
        };
        match (&frame, &mut this.record) {
            (Some(Ok(frame)), Some(record)) => {
                record.sent(frame.data_ref().map_or(0, Bytes::len));
            }
            (Some(Err(_)), Some(record)) => record.reason = "UPSTREAM_BROKE_OFF",
            _ => {}
        }
        if frame.is_none() || matches!(frame, Some(Ok(_))) && this.is_end_stream() {
            this.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::App(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Source::App(incoming, _) => incoming.size_hint(),
        }
    }
}
