//! The access log: one JSON line on stdout for each request. It never makes a request wait: when stdout is slow, lines are
//! dropped and counted.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use syp_auth::Identity;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::metrics::Metrics;
use crate::replica::Replica;

/// How many lines may wait for stdout: a tenth of a second of the most a gate can do.
const DEPTH: usize = 4096;
/// Lines are gathered for this long, so that the thread is not woken for each of them.
const GATHER: Duration = Duration::from_millis(5);

/// What is known when a request is over. Turned into text by the log's own thread.
pub struct Entry {
    /// When it ended.
    pub time: SystemTime,
    /// The id that the caller was told (`x-request-id`, `reason_id`).
    pub id: http::HeaderValue,
    /// Stable reason, such as `OK` or `TOKEN_EXPIRED`.
    pub reason: &'static str,
    /// The rule that decided, if one did.
    pub rule: Option<Arc<str>>,
    /// Status, 0 when the client went away before there was one.
    pub status: u16,
    /// Method.
    pub method: http::Method,
    /// Target; only its path is written, a query may hold secrets.
    pub target: http::Uri,
    /// Who called, if the token was good.
    pub identity: Option<Arc<Identity>>,
    /// First bytes of the token's SHA-256.
    pub token: Option<[u8; 6]>,
    /// How long it took.
    pub duration_us: u64,
    /// The replica that answered.
    pub upstream: Option<Arc<Replica>>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// The caller's address.
    pub peer: std::net::IpAddr,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    time: String,
    reason_id: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    status: u16,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    duration_us: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
    bytes_in: u64,
    bytes_out: u64,
    peer: std::net::IpAddr,
}

/// The way into the log.
#[derive(Clone)]
pub struct AccessLog {
    // boxed: the queue's places are there from the start, whether they are used or not
    queue: Option<SyncSender<Box<Entry>>>,
    ended: Arc<Mutex<Option<Receiver<()>>>>,
}

impl AccessLog {
    /// Starts the log's thread, which ends when the last handle is gone.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(out: Option<Box<dyn std::io::Write + Send>>) -> std::io::Result<Self> {
        let Some(out) = out else { return Ok(Self { queue: None, ended: Arc::default() }) };
        let (queue, entries) = sync_channel(DEPTH);
        let (end, ended) = sync_channel(0);
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_all(&entries, out);
            drop(end);
        })?;
        Ok(Self { queue: Some(queue), ended: Arc::new(Mutex::new(Some(ended))) })
    }

    /// What to call [`Ended::wait`] on when the last handle is gone.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended(self.ended.lock().take())
    }

    /// Adds a line, or counts that it could not.
    pub fn add(&self, entry: Entry, metrics: &Metrics) {
        if let Some(queue) = &self.queue
            && queue.try_send(Box::new(entry)).is_err()
        {
            metrics.log_dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The end of the log's thread.
pub struct Ended(Option<Receiver<()>>);

impl Ended {
    /// Waits until every line is written, for a moment: a stdout that nobody reads must not keep the process.
    pub fn wait(self) {
        if let Some(ended) = self.0 {
            let _: Result<(), RecvTimeoutError> = ended.recv_timeout(Duration::from_millis(500));
        }
    }
}

fn write_all(entries: &Receiver<Box<Entry>>, mut out: Box<dyn std::io::Write + Send>) {
    let mut buffer = Vec::with_capacity(16 * 1024);
    let mut behind = false;
    while let Ok(first) = entries.recv() {
        write_one(&mut buffer, &first);
        if !behind {
            // nobody unparks this thread: it sleeps
            std::thread::park_timeout(GATHER);
        }
        // what waits goes out in one write
        behind = loop {
            let Ok(next) = entries.try_recv() else { break false };
            write_one(&mut buffer, &next);
            if buffer.len() >= 64 * 1024 {
                break true;
            }
        };
        // a log that cannot be written must not stop the door
        let _ = out.write_all(&buffer).and_then(|()| out.flush());
        buffer.clear();
    }
}

fn write_one(buffer: &mut Vec<u8>, entry: &Entry) {
    let who = entry.identity.as_deref();
    let hex = |bytes: [u8; 6]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    let line = Line {
        event: "access",
        time: OffsetDateTime::from(entry.time).format(&Rfc3339).unwrap_or_default(),
        reason_id: entry.id.to_str().unwrap_or_default(),
        reason: entry.reason,
        rule: entry.rule.as_deref(),
        status: entry.status,
        method: entry.method.as_str(),
        path: entry.target.path(),
        user: who.and_then(|i| i.email.as_deref()),
        sub: who.map(|i| i.subject.as_str()),
        token: entry.token.map(hex),
        duration_us: entry.duration_us,
        upstream: entry.upstream.as_ref().map(|r| r.id.as_str()),
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
        peer: entry.peer,
    };
    if serde_json::to_writer(&mut *buffer, &line).is_ok() {
        buffer.push(b'\n');
    }
}
