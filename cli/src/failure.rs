//! What went wrong: message, reason, what to do next, and the exit code.
use crate::{exit, misread};
use prost::{Message, Name};
use serde_json::json;
use std::fmt::Write as _;
use syp_proto::google::rpc;
use tonic::{Code, Status};

/// The outcome of a command: its exit code, or a failure.
pub type Done = Result<u8, Failure>;

/// A failure (boxed: results stay small).
#[derive(Clone, Debug)]
pub struct Failure(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    exit: u8,
    code: Code,
    message: String,
    reason: String,
    hint: String,
    step: String,
    from_server: bool,
}

// === impl Failure ===

impl Failure {
    /// A failure found by the command line itself.
    pub fn new(exit: u8, reason: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            exit,
            code: Code::Unknown,
            message: message.into(),
            reason: reason.into(),
            hint: hint.into(),
            step: String::new(),
            from_server: false,
        }))
    }

    /// Wrong usage that clap could not see.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, "INVALID_ARGUMENT", message, misread::help())
    }

    /// The wait is over, the work is not.
    pub fn timed_out(what: &str, resume: String) -> Self {
        Self::new(exit::TIMED_OUT, "DEADLINE_EXCEEDED", format!("{what}; the work goes on"), resume)
    }

    /// An operation that ended badly.
    pub fn of_operation(status: &rpc::Status) -> Self {
        let mut f = Self::of_rpc(status, Code::from_i32(status.code));
        f.0.exit = exit::of_operation(f.0.code, &f.0.reason);
        f
    }

    fn of_rpc(status: &rpc::Status, code: Code) -> Self {
        let info = error_info(status);
        let from_server = info.is_some();
        let info = info.unwrap_or_default();
        let meta = |k: &str| info.metadata.get(k).cloned().unwrap_or_default();
        let message = if status.message.is_empty() { format!("{code:?}") } else { status.message.clone() };
        Self(Box::new(Inner {
            exit: exit::of_call(code, &info.reason),
            code,
            message,
            // of a field the API says less than the help of the command
            hint: Some(meta("hint"))
                .filter(|h| !h.is_empty() && info.reason != "INVALID_ARGUMENT")
                .unwrap_or_else(|| usual_hint(&info.reason)),
            step: meta("step"),
            reason: info.reason,
            from_server,
        }))
    }

    /// With the name of what it is about, where several are worked on.
    #[must_use]
    pub fn about(mut self, name: &str) -> Self {
        self.0.message = format!("{name}: {}", self.0.message);
        self
    }

    /// The exit code.
    pub fn exit(&self) -> u8 {
        self.0.exit
    }

    /// The gRPC code, `Unknown` for failures of our own.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The stable reason; may be empty.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// In words.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do next.
    pub fn hint(&self) -> &str {
        &self.0.hint
    }

    /// The server itself has said so (it was reached and has decided).
    pub fn is_decision(&self) -> bool {
        self.0.from_server
    }

    /// For people: `error:`, then where it was, why and what next.
    pub fn text(&self) -> String {
        let i = &self.0;
        let mut out = format!("error: {}\n", i.message.trim_end());
        for (word, value) in [("step", &i.step), ("reason", &i.reason), ("next", &i.hint)] {
            if !value.is_empty() {
                let _ = writeln!(out, "{word}: {value}");
            }
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> serde_json::Value {
        let i = &self.0;
        json!({"error": {
            "message": i.message, "reason": i.reason, "next": i.hint, "step": i.step, "code": code_name(i.code), "exitCode": i.exit,
        }})
    }
}

impl From<Status> for Failure {
    fn from(s: Status) -> Self {
        let rich = rpc::Status::decode(s.details()).unwrap_or_default();
        let status =
            rpc::Status { code: s.code() as i32, message: s.message().to_owned(), details: rich.details };
        Self::of_rpc(&status, s.code())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(e: anyhow::Error) -> Self {
        Self::new(exit::FAILED, "INTERNAL", format!("{e:#}"), usual_hint("INTERNAL"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Self::new(exit::FAILED, "LOCAL_IO", e.to_string(), usual_hint("LOCAL_IO"))
    }
}

/// What to do where the server left it open.
fn usual_hint(reason: &str) -> String {
    match reason {
        "INVALID_ARGUMENT" => format!("put right what the message names; {}", misread::help()),
        "" => String::new(),
        _ => format!("'sypctl explain {reason}' says what it means"),
    }
}

/// The `ErrorInfo` of a status.
pub fn error_info(status: &rpc::Status) -> Option<rpc::ErrorInfo> {
    let any = status.details.iter().find(|d| d.type_url.ends_with(&rpc::ErrorInfo::full_name()))?;
    rpc::ErrorInfo::decode(any.value.as_slice()).ok()
}

/// `NOT_FOUND` and so on.
fn code_name(code: Code) -> String {
    let mut out = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> rpc::Status {
        let info = rpc::ErrorInfo {
            reason: "CRASH_LOOP".into(),
            domain: "syp.dev".into(),
            metadata: [("hint".to_owned(), "look".to_owned()), ("step".to_owned(), "app-0".to_owned())]
                .into(),
        };
        let any = prost_types::Any {
            type_url: "type.googleapis.com/google.rpc.ErrorInfo".into(),
            value: info.encode_to_vec(),
        };
        rpc::Status { code: 9, message: "it exits with 3".into(), details: vec![any] }
    }

    #[test]
    fn a_failed_operation_shows_step_reason_and_hint() {
        let f = Failure::of_operation(&status());
        assert_eq!(f.text(), "error: it exits with 3\nstep: app-0\nreason: CRASH_LOOP\nnext: look\n");
        assert_eq!((f.exit(), f.is_decision()), (1, true));
    }

    #[test]
    fn a_status_brings_its_details_along() {
        let s = Status::with_details(Code::NotFound, "gone", status().encode_to_vec().into());
        let f = Failure::from(s);
        assert_eq!((f.reason(), f.message()), ("CRASH_LOOP", "gone"));
        assert_eq!(f.json()["error"]["code"], "NOT_FOUND");
        assert!(!Failure::from(Status::unavailable("x")).is_decision());
    }
}
