//! Why something did not work: a stable reason, words, what to do next, and a class that decides what the engine does.
use syp_proto::journal::Failure;

/// What a failure means for the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Worth trying again as it is: network, 5xx.
    Transient,
    /// The provider asks to go slower.
    Throttled,
    /// Something else holds it; look again.
    Conflict,
    /// The call's end was not seen: it may have worked.
    Timeout,
    /// Trying again can't help.
    Terminal,
}

// === impl Class ===

impl Class {
    /// The word in the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
            Self::Terminal => "terminal",
        }
    }

    /// From the journal; unknown words are retried, because giving up is the answer that can leak.
    pub fn parse(word: &str) -> Self {
        match word {
            "throttled" => Self::Throttled,
            "conflict" => Self::Conflict,
            "timeout" => Self::Timeout,
            "terminal" => Self::Terminal,
            _ => Self::Transient,
        }
    }
}

/// Builds a failure: `reason` is UPPER_SNAKE and has a page in `sypctl explain`.
pub fn failure(class: Class, reason: &str, message: impl Into<String>, hint: impl Into<String>) -> Failure {
    Failure {
        reason: reason.to_owned(),
        message: message.into(),
        hint: hint.into(),
        class: class.as_str().to_owned(),
        node: String::new(),
    }
}

/// Full jitter: base 0.5 s, doubled each attempt, at most 60 s; `unit` is a random number in 0..1.
pub fn backoff_ms(attempt: u32, class: Class, unit: f64) -> i64 {
    let cap = 60_000.0_f64;
    let base = if class == Class::Throttled { 2_000.0 } else { 500.0 };
    let top = (base * 2f64.powi(i32::try_from(attempt.min(16)).unwrap_or(16) - 1)).min(cap);
    // never zero: a retry in the same millisecond is a hot loop
    #[allow(clippy::cast_possible_truncation)]
    {
        (top * (0.1 + 0.9 * unit)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_is_bounded_and_never_zero() {
        assert!(backoff_ms(1, Class::Transient, 0.0) >= 50);
        assert!(backoff_ms(1, Class::Transient, 1.0) <= 500);
        assert!(backoff_ms(3, Class::Transient, 1.0) == 2_000);
        assert!(backoff_ms(60, Class::Throttled, 1.0) == 60_000);
    }
}
