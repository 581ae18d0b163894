//! Conditions that did not hold when a run tried them, and may since: somebody has made the record that was missing. Looked at once a
//! minute while the instance serves, so that what is told does not grow old. That one holds no more only a run says: it tries.
use crate::{
    calls,
    cell::Cell,
    engine::{Caller, Engine},
    error::Error,
    failure::{Class, failure},
    graph::State,
    scheduler::condition,
};
use std::sync::Arc;
use syp_proto::{
    journal::Instance,
    v1::{Condition, condition::Status},
};

/// Between two looks at one instance.
pub(crate) const AGAIN_MS: i64 = 60_000;

/// What does not hold, of an instance at rest.
pub(crate) fn missing(i: &Instance) -> impl Iterator<Item = &Condition> {
    let rests = i.state() == State::Serving && i.run.is_none();
    i.conditions.iter().filter(move |c| rests && c.status() == Status::False)
}

// === impl Engine ===

impl Engine {
    /// Asks the target about each of them and writes down what holds by now.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn mend(&self, cell: &Arc<Cell>) -> Result<(), Error> {
        if cell.blocked().is_some() {
            return Ok(());
        }
        let i = cell.get();
        let Ok(target) = self.inner.target(&i) else { return Ok(()) };
        let cx = self.context(cell);
        for c in missing(&i) {
            let Some(asked) = target.holds_now(&cx, &c.r#type) else { continue };
            let words = match calls::limit(AGAIN_MS, asked).await {
                Ok(Some(words)) => words,
                Ok(None) => continue,
                Err(f) => {
                    tracing::debug!(instance = i.name, condition = c.r#type, reason = f.reason, "not known");
                    continue;
                }
            };
            let _guard = cell.writer.lock().await;
            // a run that has begun meanwhile tries by itself
            if !missing(&cell.get()).any(|now| now.r#type == c.r#type) {
                continue;
            }
            let holds = condition(&c.r#type, Status::True, &failure(Class::Transient, "TRIED", words, ""));
            let who = Caller { actor: "engine".into(), ..Default::default() };
            self.append_locked(cell, vec![holds], &who, None).await?;
        }
        Ok(())
    }
}
