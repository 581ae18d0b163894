//! Answers that end when the caller's token does, and when the engine stops: a stream that nobody ends would keep both for ever.
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{Status, body::Body};

/// A body that is cut, with a status that says why, as soon as a future says so.
pub struct Ending {
    inner: Body,
    end: BoxFuture<'static, Status>,
    over: bool,
}

// === impl Ending ===

impl Ending {
    /// Bodies that are over already stay as they are.
    pub fn of(inner: Body, end: impl Future<Output = Status> + Send + 'static) -> Body {
        if inner.is_end_stream() {
            return inner;
        }
        Body::new(Self { inner, end: Box::pin(end), over: false })
    }
}

impl http_body::Body for Ending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Poll::Ready(why) = self.end.as_mut().poll(cx) {
            self.over = true;
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(why.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
