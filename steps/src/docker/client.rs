//! The Docker API with our names, labels and words.
use super::podman::understood;
use bollard::{
    Docker,
    container::LogOutput,
    errors::Error,
    models::{ContainerInspectResponse, ContainerState},
    query_parameters::{InspectContainerOptions, LogsOptions, RemoveContainerOptions, StopContainerOptions},
};
use futures_util::StreamExt;
use std::collections::HashMap;
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

pub use crate::labels::{INSTANCE, NAME, REVISION, STEP, STORE, TEMPLATE, is_ours, key, labels};

/// A file of this host that can't be used.
pub fn failed_io(path: &std::path::Path, e: &std::io::Error) -> Failure {
    let disk = e.kind() == std::io::ErrorKind::StorageFull;
    let (reason, hint) = if disk {
        ("DISK_FULL", "make room, then try again")
    } else {
        ("PROVIDER_ERROR", "the engine tries again; its user must be allowed to use the folder")
    };
    failure(Class::Transient, reason, format!("{}: {e}", path.display()), hint)
}

/// The status code, when the daemon answered at all.
pub fn code(e: &Error) -> Option<u16> {
    match e {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// `Ok(None)` for 404.
///
/// # Errors
/// Everything else, in our words.
pub fn optional<T>(r: Result<T, Error>) -> Result<Option<T>, Failure> {
    match r {
        Ok(v) => Ok(Some(v)),
        Err(e) if code(&e) == Some(404) => Ok(None),
        Err(e) => Err(failed(&e)),
    }
}

/// An error of the daemon as a failure with a reason and a way out.
pub fn failed(e: &Error) -> Failure {
    let (status, message) = match e {
        Error::DockerResponseServerError { status_code, message } => (*status_code, message.clone()),
        Error::DockerStreamError { error } => (500, error.clone()),
        Error::RequestTimeoutError => {
            return failure(
                Class::Timeout,
                "STEP_TIMEOUT",
                "the Docker engine did not answer in time",
                "the engine looks again by itself",
            );
        }
        Error::JsonDataError { message, .. } => {
            return failure(
                Class::Transient,
                "PROVIDER_ERROR",
                format!("an answer of the Docker engine can't be understood: {message}"),
                "the engine tries again by itself; 'docker version' shows which engine this is",
            );
        }
        other => {
            return failure(
                Class::Transient,
                "PROVIDER_UNREACHABLE",
                format!("the Docker engine can't be reached: {other}"),
                "start it ('sudo systemctl start docker'), or set DOCKER_HOST to where it is",
            );
        }
    };
    let text = message.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&["no space left"]) {
        return failure(
            Class::Terminal,
            "DISK_FULL",
            message,
            "free space where Docker keeps its data: 'docker system df'",
        );
    }
    if has(&["port is already allocated", "address already in use", "failed to bind host port"]) {
        return failure(
            Class::Terminal,
            "PORT_TAKEN",
            message,
            "choose another port with --publish, or stop what uses it",
        );
    }
    if has(&["pool overlaps"]) {
        return failure(Class::Conflict, "SUBNET_TAKEN", message, "the engine tries the next one by itself");
    }
    if has(&[
        "unauthorized",
        "denied: requested access",
        "no basic auth credentials",
        "authentication required",
    ]) {
        return failure(
            Class::Terminal,
            "IMAGE_AUTH_FAILED",
            message,
            "'docker login' to that registry as the user that runs the engine",
        );
    }
    match status {
        404 => failure(Class::Transient, "NOT_FOUND", message, ""),
        409 => failure(Class::Conflict, "PROVIDER_BUSY", message, "the engine looks again by itself"),
        400 => failure(
            Class::Terminal,
            "PROVIDER_REFUSED",
            message,
            "the message is Docker's own: change what it names, then try again",
        ),
        429 => failure(Class::Throttled, "PROVIDER_THROTTLED", message, "the engine slows down by itself"),
        _ => failure(
            Class::Transient,
            "PROVIDER_ERROR",
            message,
            "the engine tries again by itself; 'docker info' shows how Docker is",
        ),
    }
}

/// A container by name, if it is there.
///
/// # Errors
/// The daemon's.
pub async fn inspect(d: &Docker, name: &str) -> Result<Option<ContainerInspectResponse>, Failure> {
    optional(understood(d.inspect_container(name, None::<InspectContainerOptions>).await))
}

/// Is it running?
pub fn running(c: &ContainerInspectResponse) -> bool {
    c.state.as_ref().and_then(|s| s.running) == Some(true)
}

/// Labels of a container.
pub fn labels_of(c: &ContainerInspectResponse) -> Option<&HashMap<String, String>> {
    c.config.as_ref()?.labels.as_ref()
}

/// When it was started, as Docker writes it (sorts as text).
pub fn started_at(c: &ContainerInspectResponse) -> String {
    c.state.as_ref().and_then(|s| s.started_at.clone()).unwrap_or_default()
}

/// Stops (with `grace` for its own end) and removes a container with its anonymous volumes; false if it was not there.
///
/// # Errors
/// The daemon's.
pub async fn remove(d: &Docker, name: &str, grace_s: Option<i32>) -> Result<bool, Failure> {
    if let Some(t) = grace_s {
        let stop = StopContainerOptions { t: Some(t), signal: None };
        if optional(d.stop_container(name, Some(stop)).await.or_else(not_modified))?.is_none() {
            return Ok(false);
        }
    }
    let how = RemoveContainerOptions { v: true, force: true, link: false };
    match d.remove_container(name, Some(how)).await {
        Ok(()) => Ok(true),
        Err(e) if code(&e) == Some(404) => Ok(false),
        Err(e) => Err(failed(&e)),
    }
}

/// 304 means that it is so already.
fn not_modified(e: Error) -> Result<(), Error> {
    if code(&e) == Some(304) { Ok(()) } else { Err(e) }
}

/// Starts a container; being started already is fine.
///
/// # Errors
/// The daemon's.
pub async fn start(d: &Docker, name: &str) -> Result<(), Failure> {
    d.start_container(name, None).await.or_else(not_modified).map_err(|e| failed(&e))
}

/// The last lines that a container wrote, for errors.
pub async fn last_lines(d: &Docker, name: &str, lines: u32) -> String {
    let how = LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..Default::default() };
    let out: Vec<_> = d.logs(name, Some(how)).filter_map(|l| async { l.ok() }).collect().await;
    let text: String = out.iter().map(LogOutput::to_string).collect();
    let text = text.trim_end();
    // a record holds a tail, not a log
    let from = text.len().saturating_sub(4_000);
    let from = (from..=text.len()).find(|n| text.is_char_boundary(*n)).unwrap_or(0);
    text[from..].to_owned()
}

/// `exited (3)` and the like.
pub fn state_words(s: Option<&ContainerState>) -> String {
    let Some(s) = s else { return "unknown".into() };
    if s.oom_killed == Some(true) {
        return "killed because it used more memory than its limit".into();
    }
    format!("exited with code {}", s.exit_code.unwrap_or_default())
}
