//! Requests under way, so that one whose caller loses access ends: a stream, a gRPC call, a download, an upload, a tunnel.
//!
//! Expected flow: a request that was let in is put on its worker's list. At each new configuration, and at a slow beat for what
//! comes without one (a token's end, keys that an issuer dropped or that became too old), the worker asks for each of them what
//! was asked at its start. One that may not go on is marked, and whoever waits for its bytes is woken and ends it.
//!
//! Guarantees: nothing more of it is taken from the app or from the client once it is marked.
//!
//! A request may outlive its token by [`OUTLIVES`]: many a provider's tokens live five minutes, and a download or a long answer
//! that began with a good one is not to break off by chance. All else is asked of it as ever. A tunnel ends with its token.
//!
//! Caveats: bytes that are on their way to a client already (in buffers of the system, and up to a few hundred KiB of hyper's)
//! still arrive. A request costs an allocation and an entry in a list that no other thread looks at; no timer, no task.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::stream::iter;
use futures_util::task::AtomicWaker;
use http::Method;
use parking_lot::Mutex;
use syp_auth::Request as PolicyRequest;
use syp_auth::verify::Error;

use crate::caller::{Caller, Denied, may_go_on, still_may};
use crate::conn::Conn;
use crate::state::State;

/// For how long a request that is under way, and no tunnel, may go on after its token's end.
pub const OUTLIVES: Duration = Duration::from_secs(3600);
/// How often is looked for ended tokens. A request that took less than this is never ended by the end of its token.
const BEAT: Duration = Duration::from_secs(1);
/// Tokens are looked at again after this: keys that an issuer dropped come with no new configuration.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The requests under way of one worker.
#[derive(Default)]
pub struct List {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Weak<Open>>>,
}

/// A request under way; it leaves the list when nobody holds it any more.
pub struct Open {
    id: u64,
    conn: Arc<Conn>,
    caller: Arc<Caller>,
    method: Method,
    path: Arc<str>,
    began: Instant,
    /// In seconds since the epoch.
    ends: u64,
    /// The configuration under which it was last let in.
    seen: AtomicU64,
    denied: OnceLock<(Denied, Instant)>,
    down: AtomicWaker,
    up: AtomicWaker,
}

// === impl List ===

impl List {
    fn all(&self) -> Vec<Arc<Open>> {
        self.open.lock().values().filter_map(Weak::upgrade).collect()
    }
}

// === impl Open ===

impl Open {
    /// Puts a request that was let in on its worker's list.
    #[must_use]
    pub fn new(
        conn: &Arc<Conn>,
        caller: Arc<Caller>,
        method: &Method,
        path: &Arc<str>,
        tunnel: bool,
    ) -> Arc<Self> {
        let more = if tunnel { 0 } else { conn.state.outlives.as_secs() };
        let id = conn.open.next.fetch_add(1, Relaxed);
        let open = Arc::new(Self {
            id,
            conn: conn.clone(),
            method: method.clone(),
            path: path.clone(),
            began: Instant::now(),
            ends: caller.identity.expires_at.saturating_add(more),
            seen: AtomicU64::new(caller.serial),
            caller,
            denied: OnceLock::new(),
            down: AtomicWaker::new(),
            up: AtomicWaker::new(),
        });
        conn.open.open.lock().insert(id, Arc::downgrade(&open));
        open
    }

    /// Why the answer, or the wait for it, may not go on; else the task is woken when that changes.
    pub fn poll_denied(&self, cx: &Context<'_>) -> Poll<Denied> {
        self.poll(&self.down, cx)
    }

    /// As [`Open::poll_denied`], for the request's body, which another task reads.
    pub fn poll_upload_denied(&self, cx: &Context<'_>) -> Poll<Denied> {
        self.poll(&self.up, cx)
    }

    fn poll(&self, waker: &AtomicWaker, cx: &Context<'_>) -> Poll<Denied> {
        waker.register(cx.waker());
        self.denied.get().map_or(Poll::Pending, |(denied, _)| Poll::Ready(*denied))
    }

    /// What `work` gives, unless the request may not go on before.
    ///
    /// # Errors
    /// It may not.
    pub async fn unless_denied<T>(&self, mut work: impl Future<Output = T> + Unpin) -> Result<T, Denied> {
        poll_fn(|cx| match self.poll_denied(cx) {
            Poll::Ready(denied) => Poll::Ready(Err(denied)),
            Poll::Pending => Pin::new(&mut work).poll(cx).map(Ok),
        })
        .await
    }

    fn end(&self, denied: Denied) {
        // the first reason stays
        let _ = self.denied.set((denied, Instant::now()));
        self.down.wake();
        self.up.wake();
    }

    fn is_due(&self, serial: u64, all: bool) -> bool {
        all || self.seen.load(Relaxed) != serial || self.token_ended() || self.denied.get().is_some()
    }

    /// Its token is over, and so is what it may outlive that.
    fn token_ended(&self) -> bool {
        self.began.elapsed() >= BEAT && self.ends <= syp_auth::unix_now()
    }

    /// Whether the token was over before the request began: the tolerance for clocks let it in, and says how long it holds.
    fn began_late(&self) -> bool {
        let began = SystemTime::now().checked_sub(self.began.elapsed());
        let began = began.and_then(|t| t.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        began >= Duration::from_secs(self.ends)
    }

    async fn look(&self, state: &State) {
        if let Some((_, since)) = self.denied.get() {
            // marked long ago, and its client takes nothing: an HTTP/1 connection has no other request
            if since.elapsed() >= BEAT && !self.conn.http2 {
                self.conn.cut.notify_one();
            }
            return;
        }
        if self.token_ended() && !self.began_late() {
            return self.end(Denied::token("TOKEN_EXPIRED"));
        }
        let Some(active) = state.active() else { return };
        let asked = PolicyRequest { path: &self.path, method: self.method.as_str() };
        let answer = match may_go_on(state, &active, &self.caller, &asked).await {
            // of a token that is not good in another way too, something else is said
            Err(over) if over.reason == Error::Expired.reason() && self.ends > syp_auth::unix_now() => {
                still_may(state, &active, &self.caller.identity, &asked)
            }
            answer => answer,
        };
        match answer {
            Ok(()) => self.seen.store(active.serial, Relaxed),
            Err(denied) => self.end(denied),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.conn.open.open.lock().remove(&self.id);
    }
}

/// Looks after one worker's requests for as long as the worker runs.
pub async fn watch(state: Arc<State>, list: Arc<List>) {
    let mut phase = state.phase.subscribe();
    let mut last = Instant::now();
    loop {
        tokio::select! {
            changed = phase.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(BEAT) => {}
        }
        let Some(serial) = state.serial() else { continue };
        let all = last.elapsed() >= LOOK_AGAIN;
        if all {
            last = Instant::now();
        }
        let due = list.all().into_iter().filter(|open| open.is_due(serial, all));
        // all at once: one token may have to wait for its issuer's keys; and each gives way, as thousands may be due
        let look = async |open: Arc<Open>| {
            tokio::task::yield_now().await;
            open.look(&state).await;
        };
        iter(due).for_each_concurrent(None, look).await;
    }
}
