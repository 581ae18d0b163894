//! Exit codes: one pure function from a gRPC code and a reason, so that scripts can rely on them.
use tonic::Code;

/// It worked.
pub const OK: u8 = 0;
/// It was tried and failed.
pub const FAILED: u8 = 1;
/// The command line or the request can't be right.
pub const USAGE: u8 = 2;
/// No token, or not a good one.
pub const UNAUTHENTICATED: u8 = 4;
/// No such thing.
pub const NOT_FOUND: u8 = 5;
/// Not in this state, or not by this caller.
pub const NOT_ALLOWED: u8 = 6;
/// Somebody else was first: another operation, another spec, another etag.
pub const CONFLICT: u8 = 7;
/// The wait timed out; the work goes on.
pub const TIMED_OUT: u8 = 8;
/// Something is left after a teardown.
pub const RESIDUALS: u8 = 9;
/// Blocked by budget or quota.
pub const BLOCKED: u8 = 10;
/// The engine or the provider can't be reached.
pub const UNAVAILABLE: u8 = 11;
/// Ctrl-C; the work goes on.
pub const INTERRUPTED: u8 = 130;

/// What each means, for people.
pub const MEANINGS: &[(u8, &str)] = &[
    (OK, "It worked."),
    (FAILED, "It was tried and failed."),
    (USAGE, "The command line, a file or the request can't be right."),
    (UNAUTHENTICATED, "Not authenticated: no token, or not a good one."),
    (NOT_FOUND, "No such thing."),
    (NOT_ALLOWED, "Not allowed now, or not to you."),
    (CONFLICT, "A conflict: another operation, another spec or another change came first."),
    (TIMED_OUT, "The wait timed out; the work goes on."),
    (RESIDUALS, "Something is left after a teardown."),
    (BLOCKED, "A budget or a quota is in the way."),
    (UNAVAILABLE, "The engine or the provider can't be reached."),
    (INTERRUPTED, "Interrupted; the work goes on."),
];

/// The exit code of a refused call.
pub fn of_call(code: Code, reason: &str) -> u8 {
    if let Some(exit) = of_reason(reason) {
        return exit;
    }
    match code {
        Code::Ok => OK,
        Code::InvalidArgument | Code::OutOfRange => USAGE,
        Code::Unauthenticated => UNAUTHENTICATED,
        Code::NotFound => NOT_FOUND,
        Code::FailedPrecondition | Code::PermissionDenied => NOT_ALLOWED,
        Code::Aborted | Code::AlreadyExists => CONFLICT,
        Code::DeadlineExceeded => TIMED_OUT,
        Code::ResourceExhausted => BLOCKED,
        Code::Unavailable => UNAVAILABLE,
        Code::Cancelled | Code::Unknown | Code::Unimplemented | Code::Internal | Code::DataLoss => FAILED,
    }
}

/// The exit code of an operation that ended badly: its code says less than a refused call's does.
pub fn of_operation(code: Code, reason: &str) -> u8 {
    match (of_reason(reason), code) {
        (Some(exit), _) => exit,
        (None, Code::ResourceExhausted) => BLOCKED,
        (None, Code::Unavailable) => UNAVAILABLE,
        (None, _) => FAILED,
    }
}

/// Reasons that say more than the code they come with.
fn of_reason(reason: &str) -> Option<u8> {
    Some(match reason {
        "BUDGET_EXCEEDED" | "QUOTA_EXCEEDED" => BLOCKED,
        "RESIDUAL_RESOURCES" => RESIDUALS,
        "PROVIDER_UNREACHABLE"
        | "REGISTRY_UNREACHABLE"
        | "STORE_BUSY"
        | "ENGINE_NOT_ANSWERING"
        | "ENGINE_NOT_RUNNING"
        | "ENGINE_START_FAILED" => UNAVAILABLE,
        "SELF_LOCKOUT" | "PERMISSION_DENIED" => NOT_ALLOWED,
        "NAME_IN_USE" | "SECRET_EXISTS" => CONFLICT,
        // the thing was tried and does not work: that is not "not allowed now"
        "IMAGE_NOT_FOUND"
        | "IMAGE_AUTH_FAILED"
        | "IMAGE_ARCH_MISMATCH"
        | "PORT_NOT_LISTENING"
        | "PROBE_FAILED"
        | "CRASH_LOOP"
        | "PORT_TAKEN"
        | "RESOURCES_EXCEED_HOST"
        | "ISOLATION_NOT_ENFORCED"
        | "DISK_FULL"
        | "STORE_IO"
        | "STEP_TIMEOUT"
        | "NAME_CONFLICT" => FAILED,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        for (code, reason, want) in [
            (Code::Ok, "", 0),
            (Code::Internal, "", 1),
            (Code::InvalidArgument, "INVALID_ARGUMENT", 2),
            (Code::Unauthenticated, "TOKEN_EXPIRED", 4),
            (Code::NotFound, "NOT_FOUND", 5),
            (Code::FailedPrecondition, "TRANSITION_NOT_ALLOWED", 6),
            (Code::PermissionDenied, "", 6),
            (Code::Aborted, "ETAG_MISMATCH", 7),
            (Code::AlreadyExists, "NAME_IN_USE", 7),
            (Code::DeadlineExceeded, "", 8),
            (Code::FailedPrecondition, "RESIDUAL_RESOURCES", 9),
            (Code::FailedPrecondition, "BUDGET_EXCEEDED", 10),
            (Code::Unavailable, "PROVIDER_UNREACHABLE", 11),
            (Code::FailedPrecondition, "IMAGE_NOT_FOUND", 1),
        ] {
            assert_eq!(of_call(code, reason), want, "{code:?} {reason}");
        }
    }

    #[test]
    fn a_failed_operation_is_1_unless_its_reason_says_more() {
        assert_eq!(of_operation(Code::FailedPrecondition, "CRASH_LOOP"), 1);
        assert_eq!(of_operation(Code::FailedPrecondition, "SOMETHING_NEW"), 1);
        assert_eq!(of_operation(Code::FailedPrecondition, "QUOTA_EXCEEDED"), 10);
        assert_eq!(of_operation(Code::FailedPrecondition, "PROVIDER_UNREACHABLE"), 11);
    }
}
