//! The access log: one JSON line on stdout for each request. It never makes a request wait: when stdout is slow, lines are
//! dropped and counted. A line is made at once, into the buffer of its worker: what waits is text, and holds no part of a request.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde::Serialize;
use syp_auth::Identity;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::metrics::Metrics;
use crate::replica::Replica;

/// How many bytes of one worker may wait for stdout.
const WAITING: usize = 512 * 1024;
/// What a buffer keeps when it is empty again.
const KEPT: usize = 64 * 1024;
/// Lines are gathered for this long, so that the thread is not woken for each of them.
const GATHER: Duration = Duration::from_millis(5);

/// What is known when a request is over.
pub struct Entry<'a> {
    /// When it ended.
    pub time: SystemTime,
    /// The id that the caller was told (`x-request-id`, `reason_id`).
    pub id: &'a http::HeaderValue,
    /// Stable reason, such as `OK` or `TOKEN_EXPIRED`.
    pub reason: &'static str,
    /// The rule that decided, if one did.
    pub rule: Option<&'a str>,
    /// Status, 0 when the client went away before there was one.
    pub status: u16,
    /// Method.
    pub method: &'a http::Method,
    /// Path; a query may hold secrets.
    pub path: &'a str,
    /// Who called, if the token was good.
    pub identity: Option<&'a Identity>,
    /// First bytes of the token's SHA-256.
    pub token: Option<[u8; 6]>,
    /// How long it took.
    pub duration_us: u64,
    /// The replica that answered.
    pub upstream: Option<&'a Replica>,
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
pub struct AccessLog {
    buffers: Arc<[Mutex<Vec<u8>>]>,
    wake: Option<SyncSender<()>>,
    ended: Mutex<Option<Receiver<()>>>,
}

impl AccessLog {
    /// Starts the log's thread, which ends when the log is dropped.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(workers: usize, out: Option<Box<dyn Write + Send>>) -> std::io::Result<Self> {
        let buffers: Arc<[Mutex<Vec<u8>>]> = (0..workers).map(|_| Mutex::default()).collect();
        let Some(out) = out else { return Ok(Self { buffers, wake: None, ended: Mutex::default() }) };
        let (wake, woken) = sync_channel(1);
        let (end, ended) = sync_channel(0);
        let from = buffers.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write_all(&woken, &from, out);
            drop(end);
        })?;
        Ok(Self { buffers, wake: Some(wake), ended: Mutex::new(Some(ended)) })
    }

    /// What to call [`Ended::wait`] on when the log was dropped.
    #[must_use]
    pub fn ended(&self) -> Ended {
        Ended(self.ended.lock().take())
    }

    /// Adds a line of this worker, or counts that it could not.
    pub fn add(&self, worker: usize, entry: &Entry<'_>, metrics: &Metrics) {
        let Some(wake) = &self.wake else { return };
        let mut buffer = self.buffers[worker].lock();
        if buffer.len() > WAITING {
            metrics.log_dropped.fetch_add(1, Relaxed);
            return;
        }
        let first = buffer.is_empty();
        write_one(&mut buffer, entry);
        drop(buffer);
        if first {
            // full: it is to be woken already
            let _ = wake.try_send(());
        }
    }
}

/// The end of the log's thread.
pub struct Ended(Option<Receiver<()>>);

impl Ended {
    /// Waits until every line is written, for a moment: a stdout that nobody reads must not keep the process.
    pub fn wait(self) {
        if let Some(ended) = self.0 {
            // nothing is ever sent: it ends with the thread, or with the time
            let _ = ended.recv_timeout(Duration::from_millis(500));
        }
    }
}

fn write_all(woken: &Receiver<()>, buffers: &[Mutex<Vec<u8>>], mut out: Box<dyn Write + Send>) {
    let mut lines = Vec::new();
    let mut goes_on = true;
    while goes_on {
        goes_on = woken.recv().is_ok();
        if goes_on {
            // nobody unparks this thread: it sleeps
            std::thread::park_timeout(GATHER);
        }
        for buffer in buffers {
            std::mem::swap(&mut lines, &mut *buffer.lock());
            // a log that cannot be written must not stop the door
            let _ = out.write_all(&lines).and_then(|()| out.flush());
            lines.clear();
            lines.shrink_to(KEPT);
        }
    }
}

fn write_one(buffer: &mut Vec<u8>, entry: &Entry<'_>) {
    let who = entry.identity;
    let hex = |bytes: [u8; 6]| format!("{:012x}", bytes.iter().fold(0_u64, |n, b| n << 8 | u64::from(*b)));
    let line = Line {
        event: "access",
        time: OffsetDateTime::from(entry.time).format(&Rfc3339).unwrap_or_default(),
        reason_id: entry.id.to_str().unwrap_or_default(),
        reason: entry.reason,
        rule: entry.rule,
        status: entry.status,
        method: entry.method.as_str(),
        path: entry.path,
        user: who.and_then(|i| i.email.as_deref()),
        sub: who.map(|i| i.subject.as_str()),
        token: entry.token.map(hex),
        duration_us: entry.duration_us,
        upstream: entry.upstream.map(|r| r.id.as_str()),
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
        peer: entry.peer,
    };
    let before = buffer.len();
    match serde_json::to_writer(&mut *buffer, &line) {
        Ok(()) => buffer.push(b'\n'),
        // half a line would spoil the next one
        Err(_) => buffer.truncate(before),
    }
}
