//! The engine comes in by the way of the callers, where it has no other (a cloud's load balancer): the paths of the admin port under
//! `/_syp/admin`, each request signed ([`syp_auth::remote`]). Without a good signature they are paths like all others that are reserved.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use syp_auth::remote::{HOST, PREFIX, Signed, verify};
use tokio::runtime::Handle;

use crate::admin::{self, MAX_CONFIG};
use crate::body::Download;
use crate::state::State;

/// How it is known, and where it is answered.
pub struct Remote {
    /// What it signs with.
    pub token: String,
    /// The control runtime, on which configurations are applied.
    pub control: Handle,
}

// === impl Remote ===

impl Remote {
    /// The path that the engine asks for, when it has signed this head.
    #[must_use]
    pub fn signed<'a, B>(&self, target: &'a str, request: &Request<B>) -> Option<(&'a str, Signed)> {
        let path = target.strip_prefix(PREFIX)?;
        let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
        let (one, none) = (given.next()?.to_str().ok()?, given.next());
        let method = request.method().as_str();
        let signed = verify(&self.token, method, path, one, syp_auth::unix_now())?;
        // to leave is not for whichever gate an address leads to: sent again, it would reach another
        (none.is_none() && path != "/leave").then_some((path, signed))
    }

    /// Answers it. The body is read only now that its sender is known.
    pub async fn answer(
        &self,
        state: &Arc<State>,
        path: &str,
        signed: &Signed,
        request: Request<Incoming>,
    ) -> Response<Download> {
        let method = request.method().clone();
        let body = Limited::new(request.into_body(), MAX_CONFIG).collect().await.map(|b| b.to_bytes());
        let Some(body) = body.ok().filter(|body| signed.holds(body)) else {
            return short(StatusCode::BAD_REQUEST, "the body is not the one that was signed\n");
        };
        let host = HeaderValue::from_str(state.host()).ok();
        let (state, path) = (state.clone(), path.to_owned());
        let work = self.control.spawn(async move { admin::asked(&state, None, &method, &path, body).await });
        let Ok(answer) = work.await else {
            return short(StatusCode::SERVICE_UNAVAILABLE, "the gate ends\n");
        };
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let mut response = Response::from_parts(parts, Download::text(bytes, None));
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // behind one address there may be many: who has heard it?
        response.headers_mut().extend(host.map(|h| (HeaderName::from_static(HOST), h)));
        response
    }
}

fn short(status: StatusCode, text: &'static str) -> Response<Download> {
    let mut response = Response::new(Download::text(text, None));
    *response.status_mut() = status;
    response
}
