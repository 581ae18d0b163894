//! Why an operation of the engine was refused. The API turns each into a `google.rpc.Status` with details.
use crate::{graph::State, id::InstanceId, store};
use syp_proto::journal::Failure;

/// A refusal; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name belongs to a live instance.
    #[error("the name is in use")]
    NameInUse(InstanceId),
    /// The name of a shared secret is taken.
    #[error("{0} exists")]
    SecretExists(String),
    /// A shared secret that instances use.
    #[error("the secret '{name}' is used by {}", .users.join(", "))]
    SecretInUse {
        /// Which.
        name: String,
        /// Who uses it, in words.
        users: Vec<String>,
    },
    /// No such instance, operation or receipt.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The request can't be right, whatever the state. Field and words.
    #[error("{field}: {message}")]
    Invalid {
        /// Which field.
        field: String,
        /// What to write instead.
        message: String,
    },
    /// The graph has no such edge now.
    #[error("{from:?} can't become {to:?}")]
    NotAllowed {
        /// Now.
        from: State,
        /// Wanted.
        to: State,
        /// What is possible.
        allowed: Vec<State>,
        /// Why, when it is not the graph.
        why: String,
    },
    /// `--if-state` does not hold.
    #[error("it is {}", .0.as_str_name())]
    StateDiffers(State),
    /// An operation is open; its name.
    #[error("{0} is still open")]
    InProgress(String),
    /// The etag is not the current one.
    #[error("it changed meanwhile")]
    EtagMismatch,
    /// The request id was used for another request.
    #[error("the request id was used for another request")]
    RequestIdReused,
    /// The target or preflight said no.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// The instance's records can't be read.
    #[error("its records can't be read: {0}")]
    Corrupt(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A bug.
    #[error("internal: {0}")]
    Internal(String),
}
