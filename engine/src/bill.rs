//! What a provider has billed: its own figure, beside the meter's. It comes late and each question costs, so the provider is asked while
//! somebody looks, once a day, for all instances of the store at once; what it said is kept.
use crate::{
    clock::{Millis, timestamp},
    cost::money,
    engine::Engine,
    error::Error,
    failure::Class,
    step::{Biller, Target},
    store::Commit,
};
use prost::Message;
use rust_decimal::Decimal;
use std::{collections::HashMap, sync::Arc, time::Duration};
use syp_proto::{
    journal::{Bill, Instance},
    v1::CostSummary,
};
use tokio::sync::oneshot;

const HOUR_MS: Millis = 3_600_000;
/// Before the next question; and so long a provider needs to know of an hour.
const DAY_MS: Millis = 24 * HOUR_MS;

/// Questions under way, by what they are about.
pub(crate) type Asking = parking_lot::Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>;

fn setting(b: &Biller) -> String {
    format!("bill/{}", b.key)
}

/// When the provider may be asked next. What it has refused cost nothing and is soon repaired; a question of which nobody heard the
/// answer is paid.
fn next(b: &Bill) -> Millis {
    let refused = b.trouble.as_ref().is_some_and(|f| match Class::parse(&f.class) {
        Class::Terminal => ["RIGHTS_MISSING", "CREDENTIALS"].contains(&f.reason.as_str()),
        class => class == Class::Throttled,
    });
    b.asked_ms + if refused { HOUR_MS } else { DAY_MS }
}

fn due(b: &Bill, now: Millis) -> bool {
    // a clock that was set back holds up nothing
    b.asked_ms == 0 || now < b.asked_ms || now >= next(b)
}

fn at(ms: Millis) -> String {
    timestamp(ms).map(|t| t.to_string()).unwrap_or_default()
}

/// What is known, in the instance's figures. `asking`: somebody asks just now.
fn put(i: &Instance, b: &Bill, biller: &Biller, asking: bool, out: &mut CostSummary) {
    let said = b.amounts.get(&i.uid).and_then(|a| a.parse::<Decimal>().ok());
    out.billed = said.map(|amount| money(amount, &b.currency));
    out.billed_as_of = timestamp(b.answered_ms).filter(|_| said.is_some());
    let (name, price) = (biller.name, biller.price);
    let again = || format!("it is asked again from {} on", at(next(b)));
    out.billed_note = match (&b.trouble, said) {
        _ if asking => format!("{name} is being asked: look again in a moment"),
        (Some(f), _) if Class::parse(&f.class) == Class::Terminal => {
            format!("{name}: {}; {}; {}", f.message, f.hint, again())
        }
        (Some(f), _) => format!("{name}: {}; {}", f.message, again()),
        (None, _) if b.answered_ms < b.asked_ms => {
            format!("the answer of {name} was lost; {}, since each costs ({price})", again())
        }
        (None, Some(_)) => {
            format!(
                "by {name}, of what carries the instance's tags, in the last year; of a day's use it knows a day later; {price}"
            )
        }
        (None, None) if b.answered_ms < i.create_ms + DAY_MS => {
            format!("none yet: {name} knows of a day's use a day later; {}", again())
        }
        (None, None) => format!("none: {name} has no figure for it; {}", biller.unknown),
    };
}

// === impl Engine ===

impl Engine {
    /// Puts what the provider has billed into an instance's figures. `patience`: for a question that is due.
    ///
    /// # Errors
    /// The store's. What the provider refuses is said in the figures.
    pub async fn put_bill(
        &self,
        i: &Instance,
        out: &mut CostSummary,
        patience: Duration,
    ) -> Result<(), Error> {
        let Ok(target) = self.inner.target(i) else { return Ok(()) };
        let Some(biller) = target.biller() else { return Ok(()) };
        let known = i.create_ms + DAY_MS;
        if self.clock().now() < known {
            let (name, price) = (biller.name, biller.price);
            out.billed_note = format!(
                "none yet: {name} knows of a day's use a day later, and is asked from {} on ({price})",
                at(known)
            );
            return Ok(());
        }
        if due(&self.bill(&biller).await?, self.clock().now()) {
            // it goes on without us
            let _ = tokio::time::timeout(patience, self.begin_asking(target, biller)).await;
        }
        let asking = self.alone(&setting(&biller)).try_lock().is_err();
        put(i, &self.bill(&biller).await?, &biller, asking, out);
        Ok(())
    }

    /// Held by who asks a provider about something, so that nobody asks the same beside it.
    pub(crate) fn alone(&self, about: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.inner.asking.lock().entry(about.into()).or_default())
    }

    async fn bill(&self, biller: &Biller) -> Result<Bill, Error> {
        let bytes = self.store().setting(&setting(biller)).await?.unwrap_or_default();
        // it can be asked for anew
        Ok(Bill::decode(bytes.as_slice()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the bill of {} can't be read", biller.name);
            Bill::default()
        }))
    }

    /// Resolves, with an error that means nothing, when the question has been answered by whoever asked it.
    fn begin_asking(&self, target: Arc<dyn Target>, biller: Biller) -> oneshot::Receiver<()> {
        let (e, (done, answered)) = (self.clone(), oneshot::channel());
        self.spawn(async move {
            if let Err(error) = e.ask(&*target, &biller).await {
                tracing::warn!(target = target.name(), %error, "the bill is not kept");
            }
            // whoever waits hears that it is gone
            drop(done);
        });
        answered
    }

    async fn ask(&self, target: &dyn Target, biller: &Biller) -> Result<(), Error> {
        let alone = self.alone(&setting(biller));
        let _alone = alone.lock().await;
        let (held, now) = (self.bill(biller).await?, self.clock().now());
        if !due(&held, now) {
            return Ok(());
        }
        // first: who is killed in the question has paid for it
        let asked = Bill { asked_ms: now, trouble: None, ..held };
        self.keep(biller, &asked).await?;
        let answered = match target.billed(self.store().store_id(), now).await {
            Ok(b) => Bill {
                answered_ms: self.clock().now(),
                currency: b.currency,
                amounts: b.amounts.into_iter().map(|(uid, amount)| (uid, amount.to_string())).collect(),
                ..asked
            },
            Err(f) => Bill { trouble: Some(f), ..asked },
        };
        self.keep(biller, &answered).await
    }

    async fn keep(&self, biller: &Biller, b: &Bill) -> Result<(), Error> {
        let settings = vec![(setting(biller), b.encode_to_vec())];
        Ok(self.store().commit(Commit { settings, ..Default::default() }).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::failure;

    fn refused(class: Class, reason: &str) -> Bill {
        let trouble = Some(failure(class, reason, "it may not", "let it"));
        Bill { asked_ms: 10, trouble, ..Default::default() }
    }

    #[test]
    fn it_is_asked_once_a_day_and_after_a_refusal_in_an_hour() {
        let at = |asked_ms| Bill { asked_ms, ..Default::default() };
        assert!(due(&at(0), 5), "never yet");
        assert!(!due(&at(10), 10 + DAY_MS - 1), "whether it was answered or not");
        assert!(due(&at(10), 10 + DAY_MS));
        assert!(due(&at(10), 9), "the clock was set back");
        for (class, reason) in [(Class::Terminal, "RIGHTS_MISSING"), (Class::Throttled, "PROVIDER_THROTTLED")]
        {
            let b = refused(class, reason);
            assert!(!due(&b, 10 + HOUR_MS - 1) && due(&b, 10 + HOUR_MS), "{reason}");
        }
        for (class, reason) in
            [(Class::Terminal, "PROVIDER_ERROR"), (Class::Transient, "PROVIDER_UNREACHABLE")]
        {
            assert!(!due(&refused(class, reason), 10 + HOUR_MS), "{reason}: it may have been paid");
        }
    }

    #[test]
    fn what_is_not_known_is_said_in_words_and_never_0() {
        let biller = Biller { key: "x", name: "Their Bills", price: "1 USD", unknown: "tag it" };
        let i = Instance { uid: "u".into(), ..Default::default() };
        let of = |b: &Bill, asking: bool| {
            let mut out = CostSummary::default();
            put(&i, b, &biller, asking, &mut out);
            (out.billed.map(|m| (m.units, m.nanos)), out.billed_note)
        };
        let asked = Bill { asked_ms: 2 * DAY_MS, ..Default::default() };
        assert!(of(&asked, true).1.contains("in a moment"));
        let lost = "the answer of Their Bills was lost; it is asked again from 1970-01-04T00:00:00Z on";
        assert!(of(&asked, false).1.starts_with(lost));
        let answered = Bill { answered_ms: 2 * DAY_MS, currency: "USD".into(), ..asked };
        assert_eq!(of(&answered, false), (None, "none: Their Bills has no figure for it; tag it".into()));
        let young = Bill { answered_ms: HOUR_MS, asked_ms: HOUR_MS, ..answered.clone() };
        assert!(of(&young, false).1.starts_with("none yet: "), "its tags may be fine");
        let amounts = [("u".to_owned(), "1.25".to_owned())].into();
        let known = Bill { amounts, ..answered };
        assert_eq!(of(&known, false).0, Some((1, 250_000_000)));
        let trouble = refused(Class::Terminal, "RIGHTS_MISSING").trouble;
        let (held, words) = of(&Bill { trouble, ..known.clone() }, false);
        assert!(
            held.is_some() && words.starts_with("Their Bills: it may not; let it; it is asked again"),
            "{words}"
        );
        let trouble = refused(Class::Transient, "PROVIDER_UNREACHABLE").trouble;
        assert!(!of(&Bill { trouble, ..known }, false).1.contains("let it"), "nobody tries again by itself");
    }
}
