//! What every store must do. Called by the tests of each implementation with a function that opens the same data again.
use super::{Commit, Error, Store};
use crate::{
    graph::State,
    id::InstanceId,
    series::{Point, Row, Tier, to_chunk},
};
use std::sync::Arc;
use syp_proto::journal::{Answer, Audit, Created, Edited, Instance, Record, SeriesHead, record::Body};

fn record(seq: u64, body: Body) -> Record {
    Record {
        seq,
        at_ms: 1_000 + i64::try_from(seq).unwrap_or(0),
        epoch: 1,
        actor: "t".into(),
        body: Some(body),
    }
}

fn creation(name: &str) -> Body {
    Body::Created(Created { project: "p".into(), name: name.into(), ..Default::default() })
}

fn create(id: InstanceId, name: &str) -> Option<Commit> {
    let r = record(1, creation(name));
    let mut i = Instance { uid: id.to_string(), ..Default::default() };
    crate::fold::fold(&mut i, &r).ok()?;
    Some(Commit { id: Some(id), records: vec![r], checkpoint: Some(i), ..Default::default() })
}

fn edit(id: InstanceId, head: u64) -> Commit {
    let r = record(head + 1, Body::Edited(Edited { set_expire: true, expire_ms: 7, ..Default::default() }));
    Commit { id: Some(id), expect_head: head, records: vec![r], ..Default::default() }
}

/// Runs the suite; `Err` says which promise was broken.
///
/// # Errors
/// The promise in words.
pub async fn run(open: impl AsyncFn() -> Result<Arc<dyn Store>, Error>) -> Result<(), String> {
    let fail = |what: &str, e: &dyn std::fmt::Debug| Err(format!("{what}: {e:?}"));
    let store = open().await.map_err(|e| e.to_string())?;
    let (store_id, epoch) = (store.store_id().clone(), store.boot_epoch());
    let (a, b) = (InstanceId::random(), InstanceId::random());
    for (id, name) in [(a, "one"), (b, "two")] {
        let c = create(id, name).ok_or("creation does not fold")?;
        store.commit(c).await.map_err(|e| e.to_string())?;
    }
    // a stale head is refused and leaves nothing
    match store.commit(edit(a, 0)).await {
        Err(Error::HeadMoved) => {}
        other => return fail("a commit with an old head must be refused", &other),
    }
    for head in 1..=20 {
        store.commit(edit(a, head)).await.map_err(|e| e.to_string())?;
    }
    // request ids
    let answer = Answer { operation: "operations/x-1".into(), ..Default::default() };
    let with = |head| Commit { answer: Some(("caller|id".into(), answer.clone())), ..edit(b, head) };
    store.commit(with(1)).await.map_err(|e| e.to_string())?;
    match store.commit(with(2)).await {
        Err(Error::AnswerExists) => {}
        other => return fail("a request id is answered once", &other),
    }
    // two writers, one head: exactly one wins
    let racers = futures_util::future::join_all((0..8).map(|_| store.commit(edit(b, 2)))).await;
    let won = racers.iter().filter(|r| r.is_ok()).count();
    if won != 1 {
        return fail("of eight writers with one head exactly one must win", &racers);
    }
    store.commit(series(a)).await.map_err(|e| e.to_string())?;
    // too large is refused and nothing is written
    let mut huge = edit(a, 21);
    // nothing that packing could make small
    let noise = std::iter::repeat_with(|| char::from(rand::random_range(b' '..b'~')));
    huge.records[0].actor = noise.take(200_000).collect();
    match store.commit(huge).await {
        Err(Error::TooLarge(_)) => {}
        other => return fail("an oversized record must be refused", &other),
    }
    drop(store);
    let store = open().await.map_err(|e| e.to_string())?;
    if *store.store_id() != store_id || store.boot_epoch() != epoch + 1 {
        return fail("identity stays and the epoch grows by one", &(store.store_id(), store.boot_epoch()));
    }
    let live = store.load_live(None).await.map_err(|e| e.to_string())?;
    let heads: Vec<_> = live.iter().map(|l| (l.id, l.instance.as_ref().map(|i| i.head_seq))).collect();
    if heads.len() != 2 || !heads.contains(&(a, Ok(21))) || !heads.contains(&(b, Ok(3))) {
        return fail("everything acknowledged is there after opening again", &heads);
    }
    let first = live.first().map(|l| l.id);
    let rest = store.load_live(first).await.map_err(|e| e.to_string())?;
    if rest.iter().map(|l| l.id).ne(live.iter().skip(1).map(|l| l.id)) {
        return fail("a page goes on after the last one", &rest);
    }
    let events = store.events(a, 5, 3).await.map_err(|e| e.to_string())?;
    if events.iter().map(|r| r.seq).ne(6..9) {
        return fail("events continue after a number", &events);
    }
    if store.answer("caller|id").await.map_err(|e| e.to_string())? != Some(answer) {
        return Err("the answer to a request id survives".into());
    }
    match store.commit(edit(a, 20)).await {
        Err(Error::HeadMoved) => {}
        other => return fail("heads survive opening again", &other),
    }
    let (records, bad) = store.fsck().await.map_err(|e| e.to_string())?;
    if records != 24 || !bad.is_empty() {
        return fail("fsck agrees", &(records, bad));
    }
    points_stay_for_their_time(&*store, a, b).await?;
    settings_are_listed(&*store).await?;
    destroyed_moves_aside(&*store, a).await?;
    what_is_old_goes(&*store, a, b).await
}

const DAY: i64 = 24 * 3_600_000;

/// A point of each resolution on the second day, and a head.
fn series(id: InstanceId) -> Commit {
    let mut series: Vec<_> = Tier::ALL
        .into_iter()
        .map(|tier| {
            let p = Point { at: DAY, counted_ms: 7, ..Default::default() };
            Row::Chunk { tier, start_ms: DAY, id, points: to_chunk(tier, DAY, [&p]) }
        })
        .collect();
    series.push(Row::Head(id, Some(Box::new(SeriesHead { gate_ms: 5, ..Default::default() }))));
    Commit { series, ..Default::default() }
}

/// `seen` has points, `other` has none.
async fn points_stay_for_their_time(
    store: &dyn Store,
    seen: InstanceId,
    other: InstanceId,
) -> Result<(), String> {
    let text = |e: Error| e.to_string();
    let count = async |id, tier: Tier| {
        let there = store.series(id, tier, DAY, DAY + 1).await.map_err(text)?;
        if there.iter().all(|p| p.at == DAY && p.counted_ms == 7) {
            Ok(there.len())
        } else {
            Err(format!("{there:?}"))
        }
    };
    for tier in Tier::ALL {
        if count(seen, tier).await? != 1 || count(other, tier).await? != 0 {
            return Err(format!("points are there again after opening, of their instance alone: {tier:?}"));
        }
        if !store.series(seen, tier, DAY + tier.chunk_ms(), 2 * DAY).await.map_err(text)?.is_empty() {
            return Err(format!("points are where they were put: {tier:?}"));
        }
    }
    let head = store.series_head(seen).await.map_err(text)?;
    if head.is_none_or(|h| h.gate_ms != 5) || store.series_heads().await.map_err(text)? != [seen] {
        return Err("the head of an instance is there again after opening".into());
    }
    let gone = Commit { series: vec![Row::Head(seen, None)], ..Default::default() };
    store.commit(gone).await.map_err(text)?;
    if store.series_head(seen).await.map_err(text)?.is_some() {
        return Err("a head can be removed".into());
    }
    let all = async || -> Result<Vec<usize>, String> {
        let mut out = Vec::new();
        for tier in Tier::ALL {
            out.push(count(seen, tier).await?);
        }
        Ok(out)
    };
    for (now, left) in [(DAY + 3_600_000, [1, 1, 1]), (DAY + 2 * 3_600_000, [0, 1, 1]), (3 * DAY, [0, 0, 1])]
    {
        while store.trim_series(now).await.map_err(text)? > 0 {}
        let there = all().await?;
        if there != left {
            return Err(format!("each resolution has its time: {there:?}, not {left:?}"));
        }
    }
    while store.trim(40 * DAY).await.map_err(text)? > 0 {}
    if all().await? != [0, 0, 0] {
        return Err("nothing is left after a month".into());
    }
    Ok(())
}

/// `gone` is destroyed since the beginning of time, `live` is not.
async fn what_is_old_goes(store: &dyn Store, gone: InstanceId, live: InstanceId) -> Result<(), String> {
    let day = 24 * 3_600_000;
    let text = |e: Error| e.to_string();
    let row = |at_ms| Audit { at_ms, ..Default::default() };
    let answer = |expires_ms| Answer { expires_ms, ..Default::default() };
    let old = Commit {
        audit: vec![row(day), row(99 * day)],
        answer: Some(("caller|old".into(), answer(day))),
        ..Default::default()
    };
    store.commit(old).await.map_err(text)?;
    let young = Commit { answer: Some(("caller|young".into(), answer(200 * day))), ..Default::default() };
    store.commit(young).await.map_err(text)?;
    let now = 100 * day;
    while store.trim(now).await.map_err(text)? > 0 {}
    let has = async |k: &str| store.answer(k).await.map(|a| a.is_some()).map_err(text);
    if has("caller|old").await? || !has("caller|young").await? {
        return Err("answers go when they expire, and not before".into());
    }
    let audit = store.audit(None, 10).await.map_err(text)?;
    if audit.iter().map(|a| a.audit.at_ms).ne([99 * day]) {
        return Err(format!("audit rows stay 90 days: {audit:?}"));
    }
    if !store.events(gone, 0, 10).await.map_err(text)?.is_empty()
        || store.load(gone).await.map_err(text)?.is_none_or(|l| l.instance.is_err())
    {
        return Err("of one long gone the journal goes and the rest stays".into());
    }
    if store.events(live, 0, 10).await.map_err(text)?.is_empty() {
        return Err("the journal of a live one stays".into());
    }
    let (_, bad) = store.fsck().await.map_err(text)?;
    if bad.is_empty() { Ok(()) } else { Err(format!("fsck after trimming: {bad:?}")) }
}

async fn settings_are_listed(store: &dyn Store) -> Result<(), String> {
    let text = |e: Error| e.to_string();
    let set = |name: &str, value: &[u8]| (name.to_owned(), value.to_vec());
    let all = vec![set("x|b", b"2"), set("x|a", b"1"), set("x", b"0"), set("y|a", b"3")];
    store.commit(Commit { settings: all, ..Default::default() }).await.map_err(text)?;
    if store.settings("x|").await.map_err(text)? != [set("x|a", b"1"), set("x|b", b"2")] {
        return Err("settings are listed by the beginning of their names, in order".into());
    }
    let sealed = vec![(b"key".to_vec(), Some(b"sealed".to_vec()))];
    store.commit(Commit { sealed, ..Default::default() }).await.map_err(text)?;
    let over = Commit {
        settings: vec![set("x|a", b"")],
        sealed: vec![(b"key".to_vec(), None)],
        ..Default::default()
    };
    store.commit(over).await.map_err(text)?;
    if store.settings("x|").await.map_err(text)? != [set("x|b", b"2")]
        || store.sealed(b"key").await.map_err(text)?.is_some()
    {
        return Err("an empty setting and a sealed value without one are removed".into());
    }
    Ok(())
}

async fn destroyed_moves_aside(store: &dyn Store, id: InstanceId) -> Result<(), String> {
    let loaded = store.load(id).await.map_err(|e| e.to_string())?.ok_or("gone")?;
    let mut i = loaded.instance?;
    i.set_state(State::Destroyed);
    let other = InstanceId::random();
    let key = |id| [crate::vault::prefix(id), b"env|A|1".to_vec()].concat();
    let sealed = [id, other].map(|id| (key(id), Some(b"sealed".to_vec()))).to_vec();
    store.commit(Commit { sealed, ..Default::default() }).await.map_err(|e| e.to_string())?;
    if store.sealed(&key(id)).await.map_err(|e| e.to_string())?.as_deref() != Some(&b"sealed"[..]) {
        return Err("a sealed secret comes back as it is".into());
    }
    let c = Commit { checkpoint: Some(i), ..edit(id, 21) };
    store.commit(c).await.map_err(|e| e.to_string())?;
    let there = async |id| store.sealed(&key(id)).await.map(|s| s.is_some()).map_err(|e| e.to_string());
    if there(id).await? || !there(other).await? {
        return Err("secrets end with their instance, and only with it".into());
    }
    let live = store.load_live(None).await.map_err(|e| e.to_string())?;
    if live.iter().any(|l| l.id == id) {
        return Err("a destroyed instance is no longer among the live ones".into());
    }
    if store.incarnations("p", "one").await.map_err(|e| e.to_string())? != [id] {
        return Err("a destroyed instance is still found by its name".into());
    }
    Ok(())
}
