//! Refusals as `google.rpc.Status`: always an `ErrorInfo` with a stable reason, and what to do next.
use crate::{error::Error, failure::Class, store};
use std::collections::HashMap;
use syp_proto::journal::Failure;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Domain of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "syp.dev";

/// A status with a reason and a hint.
pub fn refuse(code: Code, reason: &str, message: impl Into<String>, hint: &str) -> Status {
    refuse_with(code, reason, message, hint, HashMap::new())
}

/// The same with more for programs to read.
pub fn refuse_with(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    hint: &str,
    mut metadata: HashMap<String, String>,
) -> Status {
    if !hint.is_empty() {
        metadata.insert("hint".to_owned(), hint.to_owned());
    }
    let mut details = ErrorDetails::new();
    details.set_error_info(reason, DOMAIN, metadata);
    Status::with_error_details(code, message, details)
}

/// A field that can't be right.
pub fn invalid(field: &str, message: &str) -> Status {
    let mut details = ErrorDetails::new();
    details
        .set_error_info(
            "INVALID_ARGUMENT",
            DOMAIN,
            HashMap::from([("hint".to_owned(), format!("put '{field}' right and call again"))]),
        )
        .add_bad_request_violation(field, message);
    Status::with_error_details(Code::InvalidArgument, format!("{field}: {message}"), details)
}

/// A failure of a target.
pub fn of_failure(f: &Failure) -> Status {
    let code = match (f.reason.as_str(), Class::parse(&f.class)) {
        ("PROVIDER_UNREACHABLE" | "UNSUPPORTED_VERSION", _) => Code::Unavailable,
        ("QUOTA_EXCEEDED" | "BUDGET_EXCEEDED", _) => Code::ResourceExhausted,
        ("NO_PREVIOUS_RUN", _) => Code::NotFound,
        ("TARGET_UNKNOWN" | "INVALID_ARGUMENT", _) => Code::InvalidArgument,
        (_, Class::Terminal) => Code::FailedPrecondition,
        _ => Code::Unavailable,
    };
    refuse(code, &f.reason, &f.message, &f.hint)
}

impl From<Error> for Status {
    fn from(e: Error) -> Self {
        let text = e.to_string();
        match e {
            Error::NameInUse(id) => refuse(
                Code::AlreadyExists,
                "NAME_IN_USE",
                format!("the name belongs to instance {id}"),
                "choose another name, or take it down first: 'sypctl down'",
            ),
            Error::SecretExists(_) => refuse(
                Code::AlreadyExists,
                "SECRET_EXISTS",
                text,
                "add a version: 'sypctl secret add NAME=@FILE'; or choose another name",
            ),
            Error::SecretInUse { .. } => refuse(
                Code::FailedPrecondition,
                "SECRET_IN_USE",
                text,
                "take it from them first ('sypctl set NAME --unset-secret ...') or take them down",
            ),
            Error::NotFound(what) if what.contains("/secrets/") => {
                refuse(Code::NotFound, "NOT_FOUND", text, "'sypctl secret ls' shows what is there")
            }
            Error::NotFound(what) => refuse(
                Code::NotFound,
                "NOT_FOUND",
                text,
                &format!("'sypctl {}' shows what is there", lists(&what)),
            ),
            Error::Invalid { field, message } => invalid(&field, &message),
            Error::NotAllowed { from, to, allowed, why } => {
                not_allowed(from.as_str_name(), to.as_str_name(), &allowed, &why)
            }
            Error::StateDiffers(_) => {
                refuse(Code::FailedPrecondition, "STATE_DIFFERS", text, "look again with 'sypctl show'")
            }
            Error::InProgress(_) => refuse(
                Code::Aborted,
                "OPERATION_IN_PROGRESS",
                text,
                "wait for it or cancel it: 'sypctl op ls'",
            ),
            Error::EtagMismatch => {
                refuse(Code::Aborted, "ETAG_MISMATCH", text, "read it again, then repeat the change")
            }
            Error::RequestIdReused => {
                refuse(Code::InvalidArgument, "REQUEST_ID_REUSED", text, "use a new request id")
            }
            Error::Refused(f) => of_failure(&f),
            Error::Corrupt(_) => refuse(Code::DataLoss, "STORE_CORRUPT", text, "run 'sypctl doctor'"),
            Error::Store(s) => of_store(&s),
            Error::Internal(_) => refuse(Code::Internal, "INTERNAL", text, "this is a bug: please report it"),
        }
    }
}

/// The command that shows things of a kind.
fn lists(name: &str) -> &'static str {
    match name {
        n if n.starts_with("tokens/") || n.contains("/tokens/") => "token ls",
        n if n.starts_with("operations/") => "op ls",
        _ => "ls",
    }
}

fn not_allowed(from: &str, to: &str, allowed: &[crate::graph::State], why: &str) -> Status {
    let allowed = allowed.iter().map(|s| s.as_str_name().to_lowercase()).collect::<Vec<_>>().join(", ");
    let (from, to) = (from.to_lowercase(), to.to_lowercase());
    let mut message = format!("{from} can't become {to} now");
    if !why.is_empty() {
        message = format!("{message}: {why}");
    }
    let next = if allowed.is_empty() {
        "nothing is possible any more".to_owned()
    } else {
        format!("possible now: {allowed}")
    };
    let mut details = ErrorDetails::new();
    details
        .set_error_info("TRANSITION_NOT_ALLOWED", DOMAIN, HashMap::from([("hint".to_owned(), next.clone())]))
        .add_precondition_failure_violation("STATE", from, next);
    Status::with_error_details(Code::FailedPrecondition, message, details)
}

fn of_store(e: &store::Error) -> Status {
    let (code, reason, hint) = match e {
        store::Error::HeadMoved => (Code::Aborted, "ETAG_MISMATCH", "try again"),
        store::Error::AnswerExists => (Code::Aborted, "REQUEST_ID_REUSED", "use a new request id"),
        store::Error::TooLarge(_) => {
            (Code::InvalidArgument, "SPEC_TOO_LARGE", "make env, args or policy smaller")
        }
        store::Error::Io(_) => {
            (Code::Unavailable, "STORE_IO", "free space on the disk of the data directory")
        }
        store::Error::Stopped => (Code::Unavailable, "STORE_STOPPED", "start the engine again"),
        store::Error::Behind => {
            (Code::Aborted, "BACKUP_TOO_SLOW", "write it to a faster disk, or when less is being changed")
        }
        _ => (Code::DataLoss, "STORE_CORRUPT", "run 'sypctl doctor'"),
    };
    refuse(code, reason, e.to_string(), hint)
}
