//! How AWS is asked, and what its refusals mean. Credentials are the SDK's chain (environment, profile with SSO, web identity, container,
//! instance): nothing of them is kept.
use aws_config::{AppName, BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_cloudformation::error::{ProvideErrorMetadata, SdkError};
use std::{error::Error, time::Duration};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

/// The SDK tries so often by itself; every call of ours may land twice.
const TRIES: u32 = 5;
const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(30);

/// For the clients of one region.
pub async fn config(region: &str) -> SdkConfig {
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(ANSWER).build();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
        .timeout_config(timeouts);
    if let Ok(name) = AppName::new("sypctl") {
        loader = loader.app_name(name);
    }
    loader.load().await
}

/// Of an error that AWS has answered with; empty for all others.
pub fn code<E: ProvideErrorMetadata>(e: &SdkError<E>) -> &str {
    e.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default()
}

/// There is no such stack: CloudFormation has no code of its own for it.
pub fn no_such_stack<E: ProvideErrorMetadata>(e: &SdkError<E>) -> bool {
    code(e) == "ValidationError" && words(e).contains("does not exist")
}

/// What AWS said about it; empty where it has not answered.
pub fn words<E: ProvideErrorMetadata>(e: &SdkError<E>) -> &str {
    e.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default()
}

/// What failed, of the call of this name (`cloudformation:CreateStack`: the right that it needs).
pub fn failed<E>(call: &str, e: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match e {
        SdkError::ServiceError(s) => {
            let (code, words) = (code(e), words(e));
            refused(call, code, words, s.raw().status().as_u16())
        }
        _ if has_no_credentials(e) => credentials(&chain(e)),
        SdkError::TimeoutError(_) => no_answer(Class::Timeout, call, "no answer in time"),
        // it may have been done all the same
        SdkError::ResponseError(_) => no_answer(Class::Timeout, call, &chain(e)),
        _ => unreachable(call, &chain(e)),
    }
}

/// What became of a call that no client of the SDK made.
#[derive(Debug)]
pub enum Refusal {
    /// AWS said no.
    Said {
        /// Its word for it.
        code: String,
        /// Its sentence.
        words: String,
        /// HTTP's.
        status: u16,
    },
    /// Nobody knows.
    Lost(String),
    /// It was not made.
    Credentials(String),
}

// === impl Refusal ===

impl Refusal {
    /// No answer.
    pub fn lost(e: &(dyn Error + 'static)) -> Self {
        Self::Lost(chain(e))
    }

    /// Is it worth another try at once?
    pub fn passes(&self) -> bool {
        match self {
            Self::Said { code, status, .. } => *status >= 500 || throttled(code),
            Self::Lost(_) => true,
            Self::Credentials(_) => false,
        }
    }

    /// In words.
    pub fn failure(&self, call: &str) -> Failure {
        match self {
            Self::Said { code, words, status } => refused(call, code, words, *status),
            Self::Lost(why) => unreachable(call, why),
            Self::Credentials(why) => credentials(why),
        }
    }
}

/// The partition of a region, and the domain of its endpoints (general reference, "AWS service endpoints").
pub fn partition(region: &str) -> (&'static str, &'static str) {
    match region {
        r if r.starts_with("cn-") => ("aws-cn", "amazonaws.com.cn"),
        r if r.starts_with("us-gov-") => ("aws-us-gov", "amazonaws.com"),
        _ => ("aws", "amazonaws.com"),
    }
}

/// AWS can't be reached.
pub fn unreachable(call: &str, why: &str) -> Failure {
    no_answer(Class::Transient, call, why)
}

fn no_answer(class: Class, call: &str, why: &str) -> Failure {
    let next = "the engine tries again by itself; 'aws sts get-caller-identity' shows whether AWS can be reached from here";
    failure(class, "PROVIDER_UNREACHABLE", format!("AWS did not answer {call}: {why}"), next)
}

fn credentials(why: &str) -> Failure {
    // a person logs in again, and it goes on
    let next = "log in again ('aws sso login'); the engine goes on by itself";
    failure(
        Class::Transient,
        "CREDENTIALS",
        format!("AWS has no credentials of ours that it accepts: {why}"),
        next,
    )
}

/// Pure. Source of the codes: CloudFormation API reference, "Common Errors"; botocore's list of throttling codes.
fn refused(call: &str, code: &str, words: &str, status: u16) -> Failure {
    let said = format!("AWS refused {call}: {code}: {words}");
    match code {
        code if throttled(code) => {
            failure(Class::Throttled, "PROVIDER_THROTTLED", said, "the engine slows down by itself")
        }
        "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "AuthFailure"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken"
        | "RequestExpired" => credentials(&said),
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" | "NotAuthorized" => {
            let next = format!("whoever administers the account must allow {call}");
            failure(Class::Terminal, "RIGHTS_MISSING", said, next)
        }
        "LimitExceeded" | "LimitExceededException" | "ServiceQuotaExceededException" => {
            let next = "remove what is not needed, or ask for a higher quota in the Service Quotas console";
            failure(Class::Terminal, "QUOTA_EXCEEDED", said, next)
        }
        "OperationInProgressException" | "OperationInProgress" | "TokenAlreadyExistsException" => {
            failure(Class::Conflict, "PROVIDER_BUSY", said, "the engine looks again by itself")
        }
        _ if status >= 500 => {
            failure(Class::Transient, "PROVIDER_ERROR", said, "the engine tries again by itself")
        }
        _ => {
            let next = "the message is AWS' own: change what it names, then try again";
            failure(Class::Terminal, "PROVIDER_REFUSED", said, next)
        }
    }
}

/// Source: botocore's list of throttling codes.
fn throttled(code: &str) -> bool {
    let all = [
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "SlowDown",
    ];
    all.contains(&code)
}

fn has_no_credentials(e: &(dyn Error + 'static)) -> bool {
    causes(e).any(|e| e.is::<CredentialsError>())
}

fn causes<'a>(e: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(e), |e| (*e).source())
}

/// All causes in one line; no request is in it.
pub(crate) fn chain(e: &(dyn Error + 'static)) -> String {
    causes(e).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_pass_is_tried_again_and_what_a_person_must_change_is_not() {
        for (code, status, class, reason) in [
            ("Throttling", 400, Class::Throttled, "PROVIDER_THROTTLED"),
            ("ExpiredToken", 403, Class::Transient, "CREDENTIALS"),
            ("AccessDenied", 403, Class::Terminal, "RIGHTS_MISSING"),
            ("LimitExceededException", 400, Class::Terminal, "QUOTA_EXCEEDED"),
            ("ValidationError", 400, Class::Terminal, "PROVIDER_REFUSED"),
            ("InternalFailure", 500, Class::Transient, "PROVIDER_ERROR"),
            ("", 503, Class::Transient, "PROVIDER_ERROR"),
        ] {
            let f = refused("cloudformation:CreateStack", code, "words", status);
            assert_eq!((f.class.as_str(), f.reason.as_str()), (class.as_str(), reason), "{code}");
            assert!(f.message.contains("cloudformation:CreateStack") && !f.hint.is_empty(), "{f:?}");
        }
    }
}
