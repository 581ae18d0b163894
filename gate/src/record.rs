//! One request from its head to its end: what the log line and the counters are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use syp_auth::Identity;

use crate::access_log::Entry;
use crate::caller::Denied;
use crate::conn::Conn;
use crate::open::Open;
use crate::replica::Replica;

/// Dropping it ends the request: counters and log are written then, whatever way it ended.
pub struct Record {
    conn: Arc<Conn>,
    started: Instant,
    /// The id the caller is told.
    pub id: http::HeaderValue,
    /// Method.
    pub method: http::Method,
    /// Path, in bytes of its own: those that it came in belong to a whole read buffer.
    pub path: Arc<str>,
    /// Status; 0 until there is one.
    pub status: u16,
    /// Stable reason.
    pub reason: &'static str,
    /// The rule that decided.
    pub rule: Option<Arc<str>>,
    /// Who called.
    pub identity: Option<Arc<Identity>>,
    /// First bytes of the token's SHA-256.
    pub token: Option<[u8; 6]>,
    /// Whether the caller was let in.
    pub admitted: bool,
    /// On the list of what is under way, when the caller was let in.
    pub open: Option<Arc<Open>>,
    /// Bytes of the request's body.
    pub bytes_in: Option<Arc<AtomicU64>>,
    bytes_out: u64,
    upstream: Option<Arc<Replica>>,
}

impl Record {
    /// A request has arrived.
    #[must_use]
    pub fn new(conn: Arc<Conn>, method: http::Method, path: &str) -> Self {
        conn.metrics().in_flight.fetch_add(1, Relaxed);
        let (id, started) = (conn.next_id(), Instant::now());
        let (rule, identity, token, open, bytes_in, upstream) = Default::default();
        let (status, reason, admitted, bytes_out) = (0, "CLIENT_GONE", false, 0);
        Self {
            conn,
            started,
            id,
            method,
            path: path.into(),
            status,
            reason,
            rule,
            identity,
            token,
            admitted,
            open,
            bytes_in,
            bytes_out,
            upstream,
        }
    }

    /// It goes to this replica now (and no longer to another).
    pub fn goes_to(&mut self, replica: &Arc<Replica>) {
        self.leaves();
        replica.in_flight.fetch_add(1, Relaxed);
        self.upstream = Some(replica.clone());
    }

    fn leaves(&mut self) -> Option<Arc<Replica>> {
        let replica = self.upstream.take()?;
        replica.in_flight.fetch_sub(1, Relaxed);
        Some(replica)
    }

    /// So many bytes of the response went out.
    pub fn sent(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
        self.conn.metrics().bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    /// What `work` gives, unless the request may not go on before.
    ///
    /// # Errors
    /// It may not.
    pub async fn unless_denied<T>(&self, work: impl Future<Output = T> + Unpin) -> Result<T, Denied> {
        match &self.open {
            Some(open) => open.unless_denied(work).await,
            None => Ok(work.await),
        }
    }

    /// The connection it came by.
    #[must_use]
    pub fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let upstream = self.leaves();
        if self.reason == "CLIENT_GONE" && self.conn.state.overdue() {
            self.reason = "DRAINED";
        }
        let took = self.started.elapsed();
        let bytes_in = self.bytes_in.as_ref().map_or(0, |b| b.load(Relaxed));
        let counters = self.conn.metrics();
        counters.in_flight.fetch_sub(1, Relaxed);
        counters.bytes_in.fetch_add(bytes_in, Relaxed);
        counters.finished(self.status, self.admitted.then_some(took));
        let entry = Entry {
            time: SystemTime::now(),
            id: &self.id,
            reason: self.reason,
            rule: self.rule.as_deref(),
            status: self.status,
            method: &self.method,
            path: &self.path,
            identity: self.identity.as_deref(),
            token: self.token,
            duration_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            upstream: upstream.as_deref(),
            bytes_in,
            bytes_out: self.bytes_out,
            peer: self.conn.peer.ip(),
        };
        self.conn.state.log.add(self.conn.worker, &entry, &self.conn.state.metrics);
    }
}
