//! Reading: which range was asked for, and its points from disk and memory.
use super::{Head, Point, Series, Tier, head_of, regroup, tier::floor};
use crate::{
    clock::Millis,
    id::InstanceId,
    store::{Error, Store},
};

/// At most so many points, when the step is ours to choose.
const WANTED: Millis = 60;
/// Steps that are chosen when none was asked for.
const STEPS: [Millis; 9] =
    [10_000, 30_000, 60_000, 300_000, 900_000, 3_600_000, 10_800_000, 43_200_000, 86_400_000];

/// An open range goes on a little: points are put behind those that are on disk.
const OPEN_MS: Millis = 600_000;

/// A range of time and a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// From, a multiple of the step.
    pub start: Millis,
    /// Before this.
    pub end: Millis,
    /// Length of a point.
    pub step: Millis,
}

/// What there is of an instance beside its rows.
#[derive(Clone, Debug, Default)]
struct There {
    written: Millis,
    minutes: Millis,
    hours: Millis,
    points: Vec<Point>,
}

// === impl Range ===

impl Range {
    /// What was asked for, with what was left to us: the last hour, until now, in at most 60 points.
    ///
    /// # Errors
    /// The field that can't be, and why in words.
    pub fn new(
        start: Option<Millis>,
        end: Option<Millis>,
        step: Option<Millis>,
        now: Millis,
    ) -> Result<Self, (&'static str, String)> {
        let last = end.unwrap_or(now);
        let start = start.unwrap_or_else(|| last.saturating_sub(3_600_000));
        if start >= last {
            return Err(("start_time", "must be before end_time, which is now unless it is given".into()));
        }
        let start = start.max(now - Tier::Hours.keep_ms());
        // a minute of grace: what was just within reach when it was asked for still is
        let tier = Tier::ALL.into_iter().find(|t| start >= now - t.keep_ms() - 60_000);
        let tier = tier.unwrap_or(Tier::Hours);
        let fits = |s: &Millis| s % tier.step_ms() == 0 && (last.saturating_sub(start)) / s <= WANTED;
        let step = step.or_else(|| STEPS.into_iter().find(fits)).unwrap_or(STEPS[8]);
        if step <= 0 || step % Tier::Seconds.step_ms() != 0 {
            return Err(("step", "a multiple of 10s".into()));
        }
        if step % tier.step_ms() != 0 {
            let (finer, age) =
                Tier::ALL.into_iter().find(|t| step % t.step_ms() == 0).map_or(("", ""), Tier::words);
            let (coarse, _) = tier.words();
            return Err((
                "step",
                format!(
                    "steps of {finer} are kept for {age}: for this start_time use a multiple of {coarse}"
                ),
            ));
        }
        if step > Tier::Hours.keep_ms() {
            return Err(("step", "at most 31 days".into()));
        }
        Ok(Self { start: floor(start, step), end: end.unwrap_or(now + OPEN_MS), step })
    }

    /// The points of an instance in this range; where nothing is known, there is none.
    ///
    /// # Errors
    /// What the store says.
    pub async fn read(self, store: &dyn Store, all: &Series, id: InstanceId) -> Result<Vec<Point>, Error> {
        let there = There::of(store, all, id).await?;
        let base = Tier::ALL.into_iter().rev().filter(|t| self.step % t.step_ms() == 0);
        let (mut from, mut out) = (self.start, Vec::new());
        for tier in base {
            let until = there.until(tier).min(self.end);
            if from < until {
                let rows = store.series(id, tier, from, until).await?;
                out.extend(rows.into_iter().filter(|p| (from..until).contains(&p.at)));
                from = until;
            }
        }
        out.extend(there.points.into_iter().filter(|p| (from..self.end).contains(&p.at)));
        Ok(regroup(out, self.step))
    }
}

// === impl There ===

impl There {
    /// Taken at once, before anything is read: rows that are written meanwhile are not counted twice.
    async fn of(store: &dyn Store, all: &Series, id: InstanceId) -> Result<Self, Error> {
        if let Some(live) = all.get(id) {
            let live = live.lock();
            return Ok(Self::at(&live.head, live.points.clone()));
        }
        let head = store.series_head(id).await?;
        // one that is over is there in every resolution
        let over = Self { written: Millis::MAX, minutes: Millis::MAX, hours: Millis::MAX, points: vec![] };
        Ok(head.map_or(over, |h| Self::at(&head_of(&h), vec![])))
    }

    fn at(h: &Head, points: Vec<Point>) -> Self {
        Self { written: h.written, minutes: h.minutes, hours: h.hours, points }
    }

    /// Rows of a resolution go up to here.
    fn until(&self, tier: Tier) -> Millis {
        match tier {
            Tier::Seconds => self.written,
            Tier::Minutes => self.minutes,
            Tier::Hours => self.hours,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_800_000_000_000;
    const H: Millis = 3_600_000;

    #[test]
    fn what_is_left_open_is_the_last_hour_in_minutes() {
        let r = Range::new(None, None, None, NOW).unwrap();
        assert_eq!(r, Range { start: NOW - H, end: NOW + OPEN_MS, step: 60_000 });
        let step = |back| Range::new(Some(NOW - back), None, None, NOW).unwrap().step;
        assert_eq!(step(600_000), 10_000);
        assert_eq!(step(24 * H), 3_600_000);
        assert_eq!(step(31 * 24 * H), 43_200_000 * 2);
        let ages_ago = Range::new(Some(0), None, Some(H), NOW).unwrap();
        assert_eq!(ages_ago.start, NOW - 31 * 24 * H, "nothing older is kept");
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_field_and_words() {
        let no = |start, end, step| Range::new(start, end, step, NOW).unwrap_err();
        assert_eq!(no(Some(NOW), Some(NOW), None).0, "start_time");
        assert_eq!(no(Some(NOW + 5), None, None).0, "start_time");
        for step in [0, -60_000, 15_000, 10_001] {
            assert_eq!(no(None, None, Some(step)), ("step", "a multiple of 10s".into()));
        }
        let (field, words) = no(Some(NOW - 2 * H), None, Some(10_000));
        assert_eq!(field, "step");
        assert_eq!(words, "steps of 10s are kept for an hour: for this start_time use a multiple of 1m");
        assert!(no(Some(NOW - 48 * H), None, Some(60_000)).1.contains("multiple of 1h"));
        assert_eq!(no(Some(NOW - 48 * H), None, Some(365 * 24 * H)).0, "step");
        assert!(Range::new(Some(NOW - H - 2_000), None, Some(10_000), NOW).is_ok(), "just within reach");
    }
}
