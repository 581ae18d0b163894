//! The connection to the engine: where it is, the token of every call, retries, versions.
use crate::{
    args::Global,
    channel, exit,
    failure::Failure,
    local,
    login::{self, Login},
    output, paths,
};
use futures_util::future::LocalBoxFuture;
use prost::Message;
use serde::{Deserialize, Serialize};
use std::{
    error::Error as _,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use syp_proto::{
    google::rpc,
    v1::{IssueLocalTokenRequest, IssueLocalTokenResponse, access_client::AccessClient},
};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Channel};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const TRIES: u32 = 5;
/// How long an answer of the engine may take when nothing is said.
const UNARY: Duration = Duration::from_secs(30);
/// The same where the engine itself has to ask.
const PROVIDER: Duration = Duration::from_secs(150);
/// A token is renewed this long before it ends.
const MARGIN_S: i64 = 60;

/// May the local engine be started for this command?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// When nobody answers.
    IfNeeded,
    /// Never: the command is about the engine itself.
    Never,
}

enum Place {
    Local(PathBuf),
    Remote,
}

/// A connection.
pub struct Client {
    channel: Channel,
    place: Place,
    data_dir: PathBuf,
    ca_file: Option<PathBuf>,
    start: Start,
    bearer: tokio::sync::Mutex<Option<String>>,
    timeout: Option<Duration>,
    told: AtomicBool,
    quiet: bool,
}

#[derive(Serialize, Deserialize)]
struct Cached {
    token: String,
    expires: i64,
}

// === impl Client ===

impl Client {
    /// Connects; starts the local engine when no server is configured and nobody answers.
    ///
    /// # Errors
    /// With exit code 11 when nobody can be reached.
    pub async fn open(g: &Global, start: Start) -> Result<Self, Failure> {
        let data_dir = paths::data_dir(g.data_dir.as_deref())?;
        let (channel, place) = match g.server.as_deref().filter(|s| !s.is_empty()) {
            Some(url) => (channel::remote(url, g.ca_file.as_deref())?, Place::Remote),
            None => {
                let socket = paths::socket_path(&data_dir);
                match start {
                    Start::IfNeeded => local::ensure(&data_dir, &socket, g.quiet).await?,
                    Start::Never if local::connect(&socket).await.is_err() => {
                        return Err(local::not_there(&data_dir));
                    }
                    Start::Never => {}
                }
                (channel::unix(socket.clone()), Place::Local(socket))
            }
        };
        Ok(Self {
            channel,
            place,
            data_dir,
            ca_file: g.ca_file.clone(),
            start,
            bearer: tokio::sync::Mutex::default(),
            timeout: g.timeout,
            told: AtomicBool::new(false),
            quiet: g.quiet,
        })
    }

    /// Is it the engine of this data directory, over its socket?
    pub fn is_local(&self) -> bool {
        matches!(self.place, Place::Local(_))
    }

    /// A unary call: with token and version, repeated with the same message when the connection broke.
    ///
    /// # Errors
    /// What the server said.
    pub fn call<'a, M, R, F, Fut>(&'a self, message: M, f: F) -> LocalBoxFuture<'a, Result<R, Failure>>
    where
        M: Clone + 'a,
        R: 'a,
        F: Fn(Channel, Request<M>) -> Fut + 'a,
        Fut: Future<Output = Result<Response<R>, Status>> + 'a,
    {
        self.call_for(UNARY, message, f)
    }

    /// The same for a call in which the engine asks a provider or a registry: it may take longer.
    ///
    /// # Errors
    /// What the server said.
    pub fn call_provider<'a, M, R, F, Fut>(
        &'a self,
        message: M,
        f: F,
    ) -> LocalBoxFuture<'a, Result<R, Failure>>
    where
        M: Clone + 'a,
        R: 'a,
        F: Fn(Channel, Request<M>) -> Fut + 'a,
        Fut: Future<Output = Result<Response<R>, Status>> + 'a,
    {
        self.call_for(PROVIDER, message, f)
    }

    /// The same with a limit of its own; `--timeout` comes first.
    ///
    /// # Errors
    /// What the server said; that it said nothing.
    pub fn call_for<'a, M, R, F, Fut>(
        &'a self,
        limit: Duration,
        message: M,
        f: F,
    ) -> LocalBoxFuture<'a, Result<R, Failure>>
    where
        M: Clone + 'a,
        R: 'a,
        F: Fn(Channel, Request<M>) -> Fut + 'a,
        Fut: Future<Output = Result<Response<R>, Status>> + 'a,
    {
        let work = self.stream(message, f);
        Box::pin(async move {
            let limit = self.timeout.unwrap_or(limit);
            tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(self.silent(limit)))
        })
    }

    /// What to say when no answer came in time.
    fn silent(&self, limit: Duration) -> Failure {
        if self.timeout.is_some() {
            return Failure::new(
                exit::TIMED_OUT,
                "DEADLINE_EXCEEDED",
                format!("no answer within {}", humantime::format_duration(limit)),
                "ask again, or give it more time with --timeout",
            );
        }
        if self.is_local() {
            return local::silent(&self.data_dir, limit);
        }
        Failure::new(
            exit::UNAVAILABLE,
            "ENGINE_NOT_ANSWERING",
            format!("the server has not answered within {}", humantime::format_duration(limit)),
            "look whether it is well; give it more time with --timeout",
        )
    }

    /// The same without a time limit: opens a stream. Boxed, as the futures of large messages are large.
    ///
    /// # Errors
    /// What the server said.
    pub fn stream<'a, M, R, F, Fut>(&'a self, message: M, f: F) -> LocalBoxFuture<'a, Result<R, Failure>>
    where
        M: Clone + 'a,
        R: 'a,
        F: Fn(Channel, Request<M>) -> Fut + 'a,
        Fut: Future<Output = Result<Response<R>, Status>> + 'a,
    {
        Box::pin(self.attempts(message, f))
    }

    async fn attempts<M, R, F, Fut>(&self, message: M, f: F) -> Result<R, Failure>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let (mut renewed, mut tries) = (false, 1);
        loop {
            let mut request = Request::new(message.clone());
            let bearer = self.bearer(false).await?;
            sign(&mut request, &bearer)?;
            let status = match f(self.channel.clone(), request).await {
                Ok(r) => {
                    self.compare(r.metadata());
                    return Ok(r.into_inner());
                }
                Err(s) => s,
            };
            self.compare(status.metadata());
            if status.code() == Code::Unauthenticated && !renewed {
                renewed = true;
                if self.bearer(true).await? != bearer {
                    continue;
                }
            }
            if !is_broken(&status) || tries >= TRIES {
                let lost = is_broken(&status);
                let f = Failure::from(status);
                return Err(if lost { unreachable(&f, self.is_local()) } else { f });
            }
            tries += 1;
            self.revive(tries).await?;
        }
    }

    /// Waits a moment; the local engine is started again if it is gone.
    ///
    /// # Errors
    /// When it can't be started.
    pub async fn revive(&self, tries: u32) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(50 << tries.min(5))).await;
        match (&self.place, self.start) {
            (Place::Local(socket), Start::IfNeeded) => {
                local::ensure(&self.data_dir, socket, self.quiet).await
            }
            _ => Ok(()),
        }
    }

    /// A token for an instance's data plane.
    ///
    /// # Errors
    /// When there is none to be had.
    pub async fn data_token(
        &self,
        request: IssueLocalTokenRequest,
    ) -> Result<IssueLocalTokenResponse, Failure> {
        if self.is_local() {
            return self.issue(request).await;
        }
        if !(request.email.is_empty() && request.subject.is_empty() && request.groups.is_empty()) {
            return Err(Failure::usage(
                "only the local engine's own issuer makes tokens for others: --as and --group don't go with --server",
            ));
        }
        let token = match self.login().filter(|_| !request.audience.is_empty()) {
            Some(login) => login.for_apps(&self.data_dir, self.ca_file.as_deref()).await?,
            None => self.bearer(false).await?,
        };
        Ok(IssueLocalTokenResponse { token, ..Default::default() })
    }

    /// The login that calls are made with, unless a token was given.
    fn login(&self) -> Option<Login> {
        token_given().is_none().then(|| Login::load(&self.data_dir))?
    }

    /// A token of the local engine's issuer; like every call it is made again when the engine went away in the middle.
    async fn issue(&self, r: IssueLocalTokenRequest) -> Result<IssueLocalTokenResponse, Failure> {
        let mut tries = 1;
        loop {
            let mut request = Request::new(r.clone());
            set(request.metadata_mut(), "syp-client-version", VERSION)?;
            match AccessClient::new(self.channel.clone()).issue_local_token(request).await {
                Ok(answer) => {
                    self.compare(answer.metadata());
                    return Ok(answer.into_inner());
                }
                Err(s) if !is_broken(&s) => return Err(s.into()),
                Err(s) if tries >= TRIES => return Err(unreachable(&s.into(), self.is_local())),
                Err(_) => {
                    tries += 1;
                    self.revive(tries).await?;
                }
            }
        }
    }

    /// The token of calls. `renew`: the one we had was refused.
    async fn bearer(&self, renew: bool) -> Result<String, Failure> {
        let mut held = self.bearer.lock().await;
        if let Some(t) = held.as_ref().filter(|_| !renew) {
            return Ok(t.clone());
        }
        let token = match &self.place {
            // a machine token is good at one engine alone; a person's may be for another server
            Place::Local(_) => match token_given().filter(|t| syp_auth::machine::is_machine(t)) {
                Some(token) => token,
                None => self.local_token(renew).await?,
            },
            Place::Remote => self.remote_token(renew).await?,
        };
        *held = Some(token.clone());
        Ok(token)
    }

    async fn local_token(&self, renew: bool) -> Result<String, Failure> {
        let file = self.data_dir.join("token");
        let kept = std::fs::read(&file).ok().and_then(|b| serde_json::from_slice::<Cached>(&b).ok());
        if let Some(c) = kept.filter(|c| !renew && c.expires - MARGIN_S > now_s()) {
            return Ok(c.token);
        }
        let answer = self.issue(IssueLocalTokenRequest::default()).await?;
        let expires = answer.expire_time.map_or(0, |t| t.seconds);
        let cached = Cached { token: answer.token, expires };
        if let Ok(bytes) = serde_json::to_vec(&cached) {
            // a cache only: without it the next call asks again
            let _ = paths::write_private(&file, &bytes);
        }
        Ok(cached.token)
    }

    async fn remote_token(&self, renew: bool) -> Result<String, Failure> {
        if let Some(t) = token_given() {
            return Ok(t);
        }
        let Some(mut l) = Login::load(&self.data_dir) else {
            return Err(login::needed());
        };
        if renew || l.expires - MARGIN_S < now_s() {
            l = l.renewed(self.ca_file.as_deref()).await?;
            l.save(&self.data_dir)?;
        }
        Ok(l.bearer().to_owned())
    }

    /// One line when client and server are of different versions.
    fn compare(&self, m: &MetadataMap) {
        let Some(theirs) = m.get("syp-server-version").and_then(|v| v.to_str().ok()) else { return };
        if let Some(line) = versions_differ(VERSION, theirs, self.is_local())
            && !self.told.swap(true, Ordering::Relaxed)
        {
            output::talk(self.quiet, &line);
        }
    }
}

/// The token of the environment.
pub fn token_given() -> Option<String> {
    // the second is the name of earlier versions
    let set = |name| std::env::var(name).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    set("SYPCTL_TOKEN").or_else(|| set("SYP_TOKEN"))
}

fn unreachable(f: &Failure, local: bool) -> Failure {
    let hint = if local {
        "run 'sypctl doctor'; the engine's log is engine.log in the data directory"
    } else {
        "check --server, and that it is running"
    };
    Failure::new(
        exit::UNAVAILABLE,
        "ENGINE_UNREACHABLE",
        format!("the engine can't be reached: {}", f.message()),
        hint,
    )
}

fn sign<M>(request: &mut Request<M>, bearer: &str) -> Result<(), Failure> {
    let m = request.metadata_mut();
    set(m, "authorization", &format!("Bearer {bearer}"))?;
    set(m, "syp-client-version", VERSION)
}

fn set(m: &mut MetadataMap, key: &'static str, value: &str) -> Result<(), Failure> {
    let value = value
        .parse()
        .map_err(|_| Failure::usage(format!("the value for '{key}' has characters that can't be sent")))?;
    m.insert(key, value);
    Ok(())
}

/// A stream that can be opened again where it ended: the connection broke, or a server is being started again. The local engine
/// that was told to stop is not: opening would start it.
pub fn can_resume(client: &Client, s: &Status) -> bool {
    let rich = rpc::Status::decode(s.details()).unwrap_or_default();
    let stops = crate::failure::error_info(&rich).is_some_and(|i| i.reason == "ENGINE_STOPPING");
    is_broken(s) || (stops && !client.is_local())
}

/// The connection is at fault, not the request; a status with a reason is the server's decision.
pub fn is_broken(s: &Status) -> bool {
    let rich = rpc::Status::decode(s.details()).unwrap_or_default();
    match (s.code(), crate::failure::error_info(&rich)) {
        (Code::Unavailable, None) => true,
        (Code::Unavailable, Some(i)) => i.reason == "STORE_STOPPED",
        (Code::Unknown | Code::Internal | Code::Cancelled, None) => s.source().is_some(),
        _ => false,
    }
}

/// What to say when major.minor differ.
pub fn versions_differ(ours: &str, theirs: &str, local: bool) -> Option<String> {
    let key = |v: &str| {
        let mut n = v.split('.').map(|p| p.parse::<u32>().unwrap_or(0));
        (n.next().unwrap_or(0), n.next().unwrap_or(0))
    };
    let (a, b) = (key(ours), key(theirs));
    if a == b {
        return None;
    }
    let (newer, next) = match (a > b, local) {
        (true, true) => ("sypctl", "restart the local engine: 'sypctl server stop', then any command"),
        (true, false) => ("sypctl", "upgrade the server, or use a sypctl of its version"),
        (false, _) => ("the engine", "upgrade sypctl"),
    };
    Some(format!("note: {newer} is newer (sypctl {ours}, engine {theirs}); {next}"))
}

/// Seconds since 1970.
pub fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_of_versions_says_who_is_newer() {
        assert_eq!(versions_differ("0.1.0", "0.1.9", true), None);
        assert!(versions_differ("0.2.0", "0.1.9", true).unwrap().contains("server stop"));
        assert!(versions_differ("0.2.0", "1.0.0", false).unwrap().contains("upgrade sypctl"));
    }

    #[test]
    fn only_a_broken_connection_is_retried() {
        assert!(is_broken(&Status::unavailable("x")));
        assert!(!is_broken(&Status::not_found("x")));
        assert!(!is_broken(&Status::internal("said by the server")));
    }
}
