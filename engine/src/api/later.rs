//! What the API has a place for and this version does not do: it says so.
use super::status::refuse;
use tonic::{Code, Status};

pub(super) fn later(what: &str) -> Status {
    refuse(
        Code::Unimplemented,
        "NOT_SUPPORTED",
        format!("{what} is not part of this version"),
        "see the CHANGELOG for what is",
    )
}
