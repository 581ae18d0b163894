//! What is paid by use: a provider counts it, and knows of it some minutes later. It is asked each hour about the hours that are over,
//! and once more when nothing is left, while it still knows. What it says is a record, so that it is spent like all else: by day, by
//! revision, within a budget; and no hour is counted twice, whoever is killed.
use crate::{
    calls,
    cell::Cell,
    clock::Millis,
    cost,
    engine::{Caller, Engine},
    error::Error,
    graph::{RunKind, State},
    id::InstanceId,
    inner::Inner,
    meter::HOUR_MS,
    step::Use,
};
use rust_decimal::Decimal;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use syp_proto::{
    journal::{self, Failure, Instance, record::Body},
    v1,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// So much later than an hour it is known.
const KNOWN_MS: Millis = 5 * 60_000;
/// Not all instances ask at the same moment.
const SPREAD_MS: Millis = 5 * 60_000;
/// After a question, answered or not.
const AGAIN_MS: Millis = 10 * 60_000;
const MINUTE_MS: Millis = 60_000;
/// Nobody waits longer for an answer; the next question is about the same time.
const PATIENCE_MS: Millis = 20_000;
/// The last question has no next one: where it fails it is asked once more after this.
const ONCE_MORE: Duration = Duration::from_secs(3);
/// An instance that lives is asked about before that, whatever is in the way of one question.
const LATE_MS: Millis = 2 * HOUR_MS;

/// From when on nothing was asked about.
fn from(i: &Instance) -> Millis {
    let begun = if i.used_until_ms == 0 { i.create_ms } else { i.used_until_ms };
    begun - begun.rem_euclid(MINUTE_MS)
}

/// The hours that are over: their end, where there is one to be asked about. `asked`: when that was done last.
pub(crate) fn due(i: &Instance, asked: Millis, now: Millis) -> Option<Millis> {
    let leaves = i.run.as_ref().is_some_and(|r| r.kind() == RunKind::Teardown);
    let spread = InstanceId::parse(&i.uid).map_or(0, |id| Millis::from(id.as_bytes()[15]) * SPREAD_MS / 256);
    let known = now - KNOWN_MS - spread;
    let until = known - known.rem_euclid(HOUR_MS);
    let lives = matches!(i.state(), State::Serving | State::Draining) && !leaves;
    // a clock that was set back holds up nothing
    let rested = asked == 0 || now < asked || now - asked >= AGAIN_MS;
    (lives && rested && until > from(i)).then_some(until)
}

/// The record of what was used until then; `None`: nothing is paid by use there.
async fn asked(e: &Inner, i: &Instance, until: Millis) -> Result<Option<journal::Used>, Failure> {
    let mut cx = calls::planned(e, i, "use", Value::Null);
    // of what is gone too: its provider still knows what it did
    cx.outputs = Arc::new(calls::outputs(i, |_| true));
    let from = from(i);
    let target = e.target(i)?;
    // what has no price is not asked about: the answer costs, and nobody could count it
    if !cost::Pricing::of(i).is_priced() {
        return Ok(None);
    }
    let Some(question) = target.used(&cx, from, until) else { return Ok(None) };
    // as every call of a provider: caught where it is made, and not for ever
    let uses = calls::limit(PATIENCE_MS, question).await?;
    if uses.is_empty() {
        return Ok(None);
    }
    let uses = uses.into_iter().map(Into::into).collect();
    Ok(Some(journal::Used { from_ms: from.max(i.used_until_ms), until_ms: until, uses }))
}

/// When nothing is left: until now. A provider that does not answer holds up a teardown for twice [`PATIENCE_MS`] and little longer.
pub(crate) async fn last(e: &Inner, i: &Instance) -> Option<Body> {
    let now = e.clock.now();
    let until = now - now.rem_euclid(MINUTE_MS);
    // what nobody could use
    if i.serving_ms == 0 && i.ledger.iter().all(|r| r.outputs.is_empty()) || until <= from(i) {
        return None;
    }
    let mut said = asked(e, i, until).await;
    if said.is_err() {
        tokio::time::sleep(ONCE_MORE).await;
        said = asked(e, i, until).await;
    }
    match said {
        Ok(said) => said.map(Body::Used),
        Err(f) => {
            tracing::warn!(
                instance = i.name,
                reason = f.reason,
                "what it used last is not known: {}",
                f.message
            );
            None
        }
    }
}

/// What of its use is not in what it has cost, in words; empty: nothing. `always`: some of it is paid by use in any case.
pub(crate) fn missing(i: &Instance, always: bool, now: Millis) -> String {
    if (i.used.is_empty() && !always) || i.serving_ms == 0 {
        return String::new();
    }
    let since = from(i);
    let (until, most) = if i.destroy_ms == 0 { (now, LATE_MS) } else { (i.destroy_ms, 2 * MINUTE_MS) };
    match (until - since > most, i.destroy_ms) {
        (false, _) => String::new(),
        (true, 0) => {
            format!("what was used since {} is not in it yet: its provider has not told", moment(since))
        }
        (true, _) => format!("what was used after {} is not in it: its provider did not tell", moment(since)),
    }
}

fn moment(at: Millis) -> String {
    let known = OffsetDateTime::from_unix_timestamp(at / 1_000).ok().and_then(|t| t.format(&Rfc3339).ok());
    known.unwrap_or_else(|| format!("{at} ms"))
}

/// A quantity for people: a seventh digit says nothing.
pub(crate) fn quantity(u: &journal::Use) -> String {
    u.quantity.parse::<Decimal>().unwrap_or_default().round_dp(6).normalize().to_string()
}

/// As the API shows it.
pub(crate) fn shown(i: &Instance, currency: &str) -> Vec<v1::cost_summary::Use> {
    let one = |u: &journal::Use| v1::cost_summary::Use {
        kind: u.kind.clone(),
        quantity: quantity(u),
        unit: u.unit.clone(),
        cost: u.amount.parse().ok().map(|a| cost::money(a, currency)),
    };
    i.used.iter().map(one).collect()
}

// === impl Engine ===

impl Engine {
    /// Asks about hours that are over and writes down the answer.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn take_use(&self, cell: &Arc<Cell>, until: Millis) -> Result<(), Error> {
        if cell.blocked().is_some() {
            return Ok(());
        }
        let used = match asked(&self.inner, &cell.get(), until).await {
            Ok(Some(used)) => used,
            Ok(None) => return Ok(()),
            Err(f) => {
                tracing::warn!(
                    instance = cell.get().name,
                    reason = f.reason,
                    "its use is not known: {}",
                    f.message
                );
                return Ok(());
            }
        };
        let _guard = cell.writer.lock().await;
        let i = cell.get();
        // somebody else told of it while we asked
        if used.from_ms < i.used_until_ms || i.state() == State::Destroyed {
            return Ok(());
        }
        let who = Caller { actor: "engine".into(), ..Default::default() };
        self.append_locked(cell, vec![Body::Used(used)], &who, None).await?;
        // a line of a budget may be crossed
        self.kick(cell);
        Ok(())
    }
}

// === impl Use ===

impl From<Use> for journal::Use {
    fn from(u: Use) -> Self {
        Self {
            kind: u.kind.into(),
            unit: u.unit.into(),
            quantity: u.quantity.normalize().to_string(),
            amount: u.amount.normalize().to_string(),
            day: u.day,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_told_is_said() {
        let mut i = Instance { create_ms: HOUR_MS, serving_ms: HOUR_MS, ..Default::default() };
        let late = HOUR_MS + LATE_MS;
        assert_eq!(missing(&i, true, late), "");
        assert_eq!(missing(&i, false, late + 1), "", "nothing is paid by use there");
        let words = missing(&i, true, late + 1);
        assert!(words.contains("since 1970-01-01T01:00:00Z is not in it yet"), "{words}");
        i.used = vec![journal::Use::default()];
        assert_eq!(missing(&i, false, late + 1), words);
        i.used_until_ms = 2 * HOUR_MS;
        assert_eq!(missing(&i, false, late + 1), "");
        // its end asks once more, up to the minute
        i.destroy_ms = 2 * HOUR_MS + 2 * MINUTE_MS;
        assert_eq!(missing(&i, false, 100 * HOUR_MS), "");
        i.destroy_ms += 1;
        assert!(missing(&i, false, 100 * HOUR_MS).contains("after 1970-01-01T02:00:00Z"));
        i.serving_ms = 0;
        assert_eq!(missing(&i, true, 100 * HOUR_MS), "", "nobody could use it");
    }

    #[test]
    fn hours_that_are_over_are_asked_about_when_the_provider_knows_of_them() {
        let mut i = Instance {
            uid: format!("{}80", "0".repeat(30)),
            create_ms: 90 * MINUTE_MS,
            ..Default::default()
        };
        i.set_state(State::Serving);
        // 0x80 is half of 256
        let spread = SPREAD_MS / 2;
        let known = 2 * HOUR_MS + KNOWN_MS + spread;
        assert_eq!((due(&i, 0, known - 1), due(&i, 0, known)), (None, Some(2 * HOUR_MS)));
        assert_eq!(from(&i), 90 * MINUTE_MS);
        assert_eq!(due(&i, known, known + AGAIN_MS - 1), None, "asked a moment ago");
        assert_eq!(due(&i, known, known + AGAIN_MS), Some(2 * HOUR_MS));
        assert_eq!(due(&i, known + 1, known), Some(2 * HOUR_MS), "the clock was set back");
        i.used_until_ms = 2 * HOUR_MS;
        assert_eq!(due(&i, 0, known + AGAIN_MS), None, "counted");
        assert_eq!(due(&i, 0, known + 5 * HOUR_MS), Some(7 * HOUR_MS), "all that was missed");
        i.run = Some(journal::Run { kind: RunKind::Teardown as i32, ..Default::default() });
        assert_eq!(due(&i, 0, known + 5 * HOUR_MS), None, "its end asks");
    }
}
