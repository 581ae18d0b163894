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
use crate::open::Open;
use crate::record::Record;
use crate::replica::Lease;
use crate::reply::grpc_trailers;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The other side failed.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The client sent nothing for too long.
    #[error("the request's body did not arrive in time")]
    Idle,
    /// The caller lost access.
    #[error("the caller may not go on")]
    Denied,
}

/// A request's body on its way to the app; most requests have none.
pub struct Upload(Option<Box<Passing>>);

struct Passing {
    incoming: Incoming,
    count: Arc<AtomicU64>,
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    open: Option<Arc<Open>>,
}

impl Upload {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Self(None)
    }

    /// The body of this request. It fails when nothing arrives for as long as `idle`, or when its caller loses access.
    #[must_use]
    pub fn new(incoming: Incoming, record: &mut Record, idle: Option<Duration>) -> Self {
        let count = record.bytes_in.insert(Arc::default()).clone();
        let idle = idle.map(|limit| (limit, Box::pin(tokio::time::sleep(limit))));
        Self(Some(Box::new(Passing { incoming, count, idle, open: record.open.clone() })))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Some(this) = &mut self.0 else { return Poll::Ready(None) };
        if this.open.as_ref().is_some_and(|open| open.poll_upload_denied(cx).is_ready()) {
            return Poll::Ready(Some(Err(Error::Denied)));
        }
        if let Poll::Ready(mut frame) = Pin::new(&mut this.incoming).poll_frame(cx) {
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
        self.0.as_ref().is_none_or(|p| p.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |p| p.incoming.size_hint())
    }
}

/// A response's body on its way to the client. When it is dropped the request is over: its record goes to the log.
pub struct Download {
    source: Source,
    record: Option<Record>,
}

enum Source {
    Text(Option<Bytes>),
    App { incoming: Incoming, lease: Option<Lease>, grpc: bool },
}

impl Download {
    /// A short text of our own.
    #[must_use]
    pub fn text(text: impl Into<Bytes>, record: Option<Record>) -> Self {
        let text = text.into();
        Self { source: Source::Text((!text.is_empty()).then_some(text)), record }
    }

    /// The app's body; the connection it comes from goes back to the pool when it ends well. `grpc`: it has trailers that say
    /// how it ended.
    #[must_use]
    pub fn app(incoming: Incoming, lease: Option<Lease>, record: Record, grpc: bool) -> Self {
        let mut body = Self { source: Source::App { incoming, lease, grpc }, record: Some(record) };
        if body.is_end_stream() {
            body.ended();
        }
        body
    }

    fn ended(&mut self) {
        let Source::App { lease, .. } = &mut self.source else { return };
        if let Some(record) = &mut self.record {
            record.reason = "OK";
        }
        if let Some(lease) = lease.take() {
            lease.give_back();
        }
    }

    /// The frame it ends with when its caller lost access. What the app has still to say is dropped, and its connection with it.
    fn poll_denied(&mut self, cx: &Context<'_>) -> Poll<Result<Frame<Bytes>, Error>> {
        let Source::App { grpc, .. } = self.source else { return Poll::Pending };
        let Some(record) = &mut self.record else { return Poll::Pending };
        let Some(open) = &record.open else { return Poll::Pending };
        let denied = ready!(open.poll_denied(cx));
        record.reason = denied.reason;
        self.source = Source::Text(None);
        Poll::Ready(if grpc {
            Ok(Frame::trailers(grpc_trailers(denied.failure)))
        } else {
            Err(Error::Denied)
        })
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
        if let Poll::Ready(last) = this.poll_denied(cx) {
            return Poll::Ready(Some(last));
        }
        let frame = match &mut this.source {
            Source::Text(text) => text.take().map(|t| Ok(Frame::data(t))),
            Source::App { incoming, .. } => {
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
            Source::App { incoming, .. } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            Source::App { incoming, .. } => incoming.size_hint(),
        }
    }
}
