//! The one task that looks at all instances: every 10 s, so many at a time, and nobody waits for it.
use super::{EVERY_MS, Head, Live, Row, Tier, energy, gather::gather, head_of, tier::floor, to_head};
use crate::{
    calls,
    cell::Cell,
    clock::Millis,
    cost,
    engine::Engine,
    graph::State,
    id::InstanceId,
    mended,
    store::{Commit, RESERVE},
    used,
};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use std::{collections::HashSet, sync::Arc, time::Duration};
use syp_proto::journal::Instance;
use tokio_util::sync::CancellationToken;

/// Instances that are looked at at once.
const AT_ONCE: usize = 32;
/// One that does not answer in this time is a gap.
const PATIENCE: Duration = Duration::from_secs(5);
/// Points wait so long for the disk: what a `kill -9` makes coarser.
const FLUSH_MS: Millis = 60_000;
/// How often those that drain are looked at: what their gate counts last is gone with it.
const LEAVING: Duration = Duration::from_secs(1);
/// Rows of one commit.
const BATCH: usize = 200;
/// Points of an hour.
const HOUR: usize = 360;
/// How often points that are over their time are removed.
const TRIM_MS: Millis = 300_000;

/// Who looks at the instances. One at a time: what it writes has one writer.
pub struct Sampler {
    engine: Engine,
    watched: HashSet<InstanceId>,
    /// The last change of an instance that was taken in.
    seen: Option<u64>,
    trimmed: Millis,
    /// Those whose gate may be gone at the next look.
    leaving: HashSet<InstanceId>,
}

// === impl Engine ===

impl Engine {
    /// Looks at every instance that serves or drains, every 10 s, until the engine stops.
    pub fn follow_figures(&self) {
        let (e, kill) = (self.clone(), self.inner.kill.clone());
        drop(self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = kill.cancelled() => {}
                () = Sampler::new(&e).run() => {}
            }
        }));
    }
}

// === impl Sampler ===

impl Sampler {
    /// Of an engine. There must be one only.
    pub fn new(engine: &Engine) -> Self {
        Self {
            engine: engine.clone(),
            watched: HashSet::new(),
            seen: None,
            trimmed: 0,
            leaving: HashSet::new(),
        }
    }

    async fn run(mut self) {
        let (stop, mut news) = (self.engine.inner.stop.clone(), self.engine.changes().subscribe());
        // at once: whoever has just started the engine wants to see something
        self.look().await;
        loop {
            let now = self.engine.clock().now();
            // at the end of each interval of the clock, so that a look covers one
            let wait = Duration::from_millis(u64::try_from(EVERY_MS - now.rem_euclid(EVERY_MS)).unwrap_or(1));
            let soon = if self.leaving.is_empty() { wait } else { wait.min(LEAVING) };
            tokio::select! {
                () = tokio::time::sleep(soon) => {
                    if soon == wait {
                        self.look().await;
                    } else {
                        self.sample(self.leaving.iter().copied().collect()).await;
                    }
                }
                _ = news.changed() => {
                    let leaving = self.follow().await;
                    self.sample(leaving).await;
                }
                () = stop.cancelled() => {
                    self.flush(|l| !l.points.is_empty()).await;
                    return;
                }
            }
        }
    }

    /// Looks at all instances once, and brings to disk what has waited long enough.
    pub async fn look(&mut self) {
        self.follow().await;
        self.sample(self.watched.iter().copied().collect()).await;
        if self.engine.inner.stop.is_cancelled() {
            return;
        }
        let now = self.engine.clock().now();
        self.flush(|l| l.is_behind(quarter(now)) || !l.points.is_empty() && now - l.flushed >= FLUSH_MS)
            .await;
        if (now - self.trimmed).abs() >= TRIM_MS {
            self.trimmed = now;
            self.trim(now).await;
        }
    }

    async fn sample(&self, ids: Vec<InstanceId>) {
        let e = &self.engine;
        tokio::select! {
            () = stream::iter(ids).for_each_concurrent(AT_ONCE, |id| async move { sample(e, id).await }) => {}
            // only here: what is being written is finished
            () = e.inner.stop.cancelled() => {}
        }
    }

    /// Takes in what changed; those that have just begun to leave. All are only looked through at the start.
    async fn follow(&mut self) -> Vec<InstanceId> {
        let e = self.engine.clone();
        let last = e.changes().last();
        let (mut over, mut leaving) = (Vec::new(), Vec::new());
        let ids = match self.seen.map(|n| e.changes().after(n)) {
            Some(Some(changed)) => changed.into_iter().map(|(_, id)| id).collect(),
            first => {
                if first.is_none() {
                    // what ended while nobody looked
                    let heads = e.store().series_heads().await.unwrap_or_default();
                    over.extend(heads.into_iter().filter(|id| e.cell(*id).is_none()));
                }
                over.extend(self.watched.iter().filter(|id| e.cell(**id).is_none()));
                e.cells().iter().map(|c| c.id).collect::<Vec<_>>()
            }
        };
        self.seen = Some(last);
        for id in ids {
            match e.cell(id) {
                None if self.watched.contains(&id) => over.push(id),
                Some(cell) if cell.blocked().is_none() => {
                    let i = cell.get();
                    if matches!(i.state(), State::Serving | State::Draining) && self.watched.insert(id) {
                        self.begin(id, &i).await;
                    }
                    // at rest in its drain it keeps its gate
                    if i.state() != State::Draining || i.run.is_none() {
                        self.leaving.remove(&id);
                    } else if self.leaving.insert(id) {
                        leaving.push(id);
                    }
                }
                _ => {}
            }
        }
        for id in over {
            self.finish(id).await;
        }
        leaving
    }

    /// Goes on where an earlier engine stopped.
    async fn begin(&self, id: InstanceId, i: &Instance) {
        let (store, now) = (self.engine.store(), self.engine.clock().now());
        let mut live = Live { project: i.project.clone(), name: i.name.clone(), ..Default::default() };
        // not all at the same moment
        live.flushed = now - Millis::from(id.as_bytes()[15]) * FLUSH_MS / 256;
        match store.series_head(id).await {
            Ok(Some(head)) => live.head = head_of(&head),
            // the first look is brought to disk at once: what comes after it is a difference that nothing takes away
            _ => live.flushed = 0,
        }
        self.engine.series().put(id, live);
    }

    /// The last points of an instance, in every resolution.
    async fn finish(&mut self, id: InstanceId) {
        self.watched.remove(&id);
        self.leaving.remove(&id);
        let live = self.engine.series().remove(id).map(|l| l.lock().clone());
        let mut live = match live {
            Some(live) => live,
            None => match self.engine.store().series_head(id).await {
                Ok(Some(h)) => Live { head: head_of(&h), ..Default::default() },
                _ => return,
            },
        };
        if live.head == Head::default() {
            return;
        }
        let store = self.engine.store();
        let written = match gather(&**store, id, &mut live.head, &live.points, Millis::MAX).await {
            Ok(mut series) => {
                series.push(Row::Head(id, None));
                let settings = energy::last(id, &live.head.energy).into_iter().collect();
                store.commit(Commit { series, settings, ..Default::default() }).await
            }
            Err(e) => Err(e),
        };
        if let Err(error) = written {
            tracing::warn!(instance = %id, %error, "the last points are not written");
        }
    }

    /// Brings the points of those that are due to disk, many in one commit.
    pub async fn flush(&self, due: impl Fn(&Live) -> bool) {
        let mut batch = Vec::new();
        let mut written = Vec::new();
        for (id, live) in self.engine.series().all() {
            let now = self.engine.clock().now();
            // a copy: nobody waits for the disk
            let mut copy = {
                let l = live.lock();
                if !due(&l) {
                    continue;
                }
                l.clone()
            };
            match gather(&**self.engine.store(), id, &mut copy.head, &copy.points, quarter(now)).await {
                Ok(rows) => batch.extend(rows),
                Err(error) => {
                    tracing::warn!(instance = %id, %error, "points are not written yet");
                    continue;
                }
            }
            batch.push(Row::Head(id, Some(Box::new(to_head(&copy.head)))));
            written.push((live, copy, now));
            if batch.len() >= BATCH {
                self.commit(std::mem::take(&mut batch), std::mem::take(&mut written)).await;
            }
        }
        self.commit(batch, written).await;
    }

    async fn commit(&self, series: Vec<Row>, written: Vec<(Arc<Mutex<Live>>, Live, Millis)>) {
        // figures are the first to go without; an hour of them waits for room
        if self.engine.store().room().is_some_and(|left| left < RESERVE / 2) {
            for (live, ..) in written {
                let points = &mut live.lock().points;
                points.drain(..points.len().saturating_sub(HOUR));
            }
            return;
        }
        if series.is_empty() {
            return;
        }
        if let Err(error) = self.engine.store().commit(Commit { series, ..Default::default() }).await {
            // they stay where they are, and are written with the next ones
            tracing::warn!(%error, "points are not written yet");
            return;
        }
        for (live, copy, now) in written {
            let mut l = live.lock();
            (l.head, l.flushed) = (copy.head, now);
            l.points.clear();
        }
    }

    async fn trim(&self, now: Millis) {
        loop {
            match self.engine.store().trim_series(now).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "old points stay");
                    return;
                }
            }
        }
    }
}

/// What lies before this is over: no point comes there any more.
fn quarter(now: Millis) -> Millis {
    floor(now - EVERY_MS, Tier::Minutes.chunk_ms())
}

/// Looks at one instance. Whoever does not answer leaves a gap.
async fn sample(e: &Engine, id: InstanceId) {
    let (Some(cell), Some(live)) = (e.cell(id), e.series().get(id)) else { return };
    let i = cell.get();
    let Ok(target) = e.inner.target(&i) else { return };
    ask_use(e, &cell, &live);
    mend(e, &cell, &live);
    let cx = calls::context(&e.inner, &cell, &i, "", serde_json::Value::Null, CancellationToken::new());
    match tokio::time::timeout(PATIENCE, target.stats(&cx)).await {
        Ok(Ok(s)) => {
            if let Err(error) = e.counted(&cell, s.running, s.blind.as_deref()).await {
                tracing::warn!(instance = %id, %error, "how many replicas there are is not written down");
            }
            let i = cell.get();
            let mut l = live.lock();
            let rate = i.hourly_rate.as_ref().filter(|_| cost::Pricing::of(&i).is_priced());
            l.hourly = rate.map(|m| cost::money(cost::rate(&i), &m.currency_code));
            l.see(&s, e.clock().now());
        }
        Ok(Err(f)) => tracing::debug!(instance = %id, reason = f.reason, "no figures"),
        Err(_) => tracing::debug!(instance = %id, "no figures in time"),
    }
}

/// Once an hour, and nobody waits for it.
fn ask_use(e: &Engine, cell: &Arc<Cell>, live: &Mutex<Live>) {
    let (mut l, now) = (live.lock(), e.clock().now());
    let Some(until) = used::due(&cell.get(), l.use_asked, now) else { return };
    l.use_asked = now;
    let (e, cell) = (e.clone(), Arc::clone(cell));
    e.clone().spawn(async move {
        if let Err(error) = e.take_use(&cell, until).await {
            tracing::warn!(instance = %cell.id, %error, "what it has used is not written down");
        }
    });
}

/// What did not hold, once a minute; nobody waits for it.
fn mend(e: &Engine, cell: &Arc<Cell>, live: &Mutex<Live>) {
    let (mut l, now) = (live.lock(), e.clock().now());
    if (now - l.mended).abs() < mended::AGAIN_MS || mended::missing(&cell.get()).next().is_none() {
        return;
    }
    l.mended = now;
    let (e, cell) = (e.clone(), Arc::clone(cell));
    e.clone().spawn(async move {
        if let Err(error) = e.mend(&cell).await {
            tracing::warn!(instance = %cell.id, %error, "what holds by now is not written down");
        }
    });
}
