//! From memory to disk, and from fine to coarse: which rows a store gets.
use super::{Head, Point, Row, Tier, regroup, tier::floor, to_chunk};
use crate::{
    clock::Millis,
    id::InstanceId,
    store::{Error, Store},
};
use std::collections::{BTreeMap, BTreeSet};

/// Rows that are to be written together.
struct Gathering<'a> {
    store: &'a dyn Store,
    id: InstanceId,
    rows: BTreeMap<(Tier, Millis), Vec<Point>>,
}

/// The rows that bring `points` to disk, and all that is over before `until` to coarser resolutions. The head moves on with them:
/// it is to be written in the same commit.
///
/// # Errors
/// What the store says; the head may have moved then, so that it must not be used.
pub async fn gather(
    store: &dyn Store,
    id: InstanceId,
    head: &mut Head,
    points: &[Point],
    until: Millis,
) -> Result<Vec<Row>, Error> {
    let mut g = Gathering { store, id, rows: BTreeMap::new() };
    g.add(Tier::Seconds, points.iter().cloned()).await?;
    let old = head.written;
    if let Some(last) = points.last() {
        head.written = head.written.max(last.at + Tier::Seconds.step_ms());
    }
    // what was rolled up last, and what there is since then
    let (quarter, hour) = (Tier::Minutes.chunk_ms(), Tier::Hours.step_ms());
    let quarters = over(head.minutes, old, points, quarter, until);
    for start in &quarters {
        let fine = g.read(Tier::Seconds, *start, start + quarter).await?;
        g.rows.insert((Tier::Minutes, *start), regroup(fine, Tier::Minutes.step_ms()));
    }
    let minutes = head.minutes;
    head.minutes = head.minutes.max(floor(until.min(head.written), quarter));
    let hours_until = if until == Millis::MAX { until } else { floor(head.minutes, hour) };
    let mut hours = over(head.hours, minutes, points, hour, hours_until);
    hours.extend(quarters.iter().map(|q| floor(*q, hour)).filter(|h| *h < hours_until));
    for start in hours {
        let fine = g.read(Tier::Minutes, start, start + hour).await?;
        g.put(Tier::Hours, regroup(fine, hour)).await?;
    }
    head.hours = head.hours.max(floor(head.minutes, hour));
    Ok(g.rows())
}

/// Beginnings of the intervals of `step` with points in them, from `from` to the last one on disk, and of new points; only those
/// that are over before `until`.
fn over(from: Millis, on_disk: Millis, new: &[Point], step: Millis, until: Millis) -> BTreeSet<Millis> {
    let mut out = BTreeSet::new();
    let mut at = floor(from, step);
    while from > 0 && at < on_disk {
        out.insert(at);
        at += step;
    }
    out.extend(new.iter().map(|p| floor(p.at, step)));
    out.retain(|at| at.saturating_add(step) <= until);
    out
}

// === impl Gathering ===

impl Gathering<'_> {
    /// What is there, with what is to be written.
    async fn read(&self, tier: Tier, from: Millis, to: Millis) -> Result<Vec<Point>, Error> {
        let mut out = self.store.series(self.id, tier, from, to).await?;
        let chunk = |p: &Point| (tier, floor(p.at, tier.chunk_ms()));
        out.retain(|p| !self.rows.contains_key(&chunk(p)));
        out.extend(self.rows.range((tier, from)..(tier, to)).flat_map(|(_, points)| points.iter().cloned()));
        out.retain(|p| (from..to).contains(&p.at));
        Ok(out)
    }

    /// The chunk of a point as it is now.
    async fn chunk(&mut self, tier: Tier, at: Millis) -> Result<&mut Vec<Point>, Error> {
        let start = floor(at, tier.chunk_ms());
        let there = self.read(tier, start, start + tier.chunk_ms()).await?;
        Ok(self.rows.entry((tier, start)).or_insert(there))
    }

    /// Adds points to those that are there.
    async fn add(&mut self, tier: Tier, points: impl Iterator<Item = Point>) -> Result<(), Error> {
        for p in points {
            let chunk = self.chunk(tier, p.at).await?;
            match chunk.iter_mut().find(|old| old.at == p.at) {
                Some(old) => old.merge(&p),
                None => chunk.push(p),
            }
        }
        Ok(())
    }

    /// Puts points in the place of those that are there: they were made of all that there is.
    async fn put(&mut self, tier: Tier, points: Vec<Point>) -> Result<(), Error> {
        for p in points {
            let chunk = self.chunk(tier, p.at).await?;
            chunk.retain(|old| old.at != p.at);
            chunk.push(p);
        }
        Ok(())
    }

    fn rows(self) -> Vec<Row> {
        let id = self.id;
        let row = |((tier, start_ms), mut points): ((Tier, Millis), Vec<Point>)| {
            points.sort_by_key(|p| p.at);
            Row::Chunk { tier, start_ms, id, points: to_chunk(tier, start_ms, &points) }
        };
        self.rows.into_iter().filter(|(_, points)| !points.is_empty()).map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        series::{Live, Range, Series, to_head},
        step::Stats,
        store::{Commit, MemKv, open_inline},
    };
    use std::sync::Arc;
    use syp_auth::door::GateMetrics;

    const START: Millis = 1_800_000_000_000;

    #[tokio::test]
    async fn a_clock_that_is_set_back_puts_more_into_what_is_there_and_nothing_is_told_twice() {
        let store = open_inline(Arc::new(MemKv::default())).unwrap();
        let (id, mut live, mut asked) = (InstanceId::random(), Live::default(), 0);
        let mut g = GateMetrics { started_at_ms: 1, ..Default::default() };
        // three hours, of which the last two come twice
        let times = (1..=1_080).chain(361..=1_100).map(|n| START + n * 10_000);
        for (n, now) in times.enumerate() {
            g.requests_by_class[2] += 1;
            asked += 1;
            live.see(&Stats { gate: Some(g.clone()), ..Default::default() }, now);
            if n % 6 == 5 || n == 1_819 {
                let until = floor(now - 10_000, Tier::Minutes.chunk_ms());
                let points = std::mem::take(&mut live.points);
                let mut series = gather(&*store, id, &mut live.head, &points, until).await.unwrap();
                series.push(Row::Head(id, Some(Box::new(to_head(&live.head)))));
                store.commit(Commit { series, ..Default::default() }).await.unwrap();
            }
        }
        let now = START + 1_100 * 10_000;
        for step in [60_000, 3_600_000] {
            let range = Range::new(Some(START - 60_000), None, Some(step), now).unwrap();
            let told = range.read(&*store, &Series::default(), id).await.unwrap();
            let sum: u64 = told.iter().map(|p| p.counters.requests()).sum();
            assert_eq!(sum, asked, "by {step} ms");
        }
    }
}
