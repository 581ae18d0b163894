//! Points and heads as the store has them.
use super::{Counters, Head, Point, Tier};
use crate::{
    clock::Millis,
    energy::{Meter, Package, Reading},
};
use syp_auth::histogram::{BUCKETS, Histogram};
use syp_proto::journal::{
    SeriesChunk, SeriesCounters, SeriesEnergy, SeriesHead, SeriesLatency, SeriesPackage, SeriesPoint,
    SeriesReplica,
};

fn latency(h: &Histogram) -> Option<SeriesLatency> {
    if h.buckets.is_empty() {
        return None;
    }
    let mut last = 0;
    let step = |b: &u16| u32::from(*b) - std::mem::replace(&mut last, u32::from(*b));
    Some(SeriesLatency {
        steps: h.buckets.keys().map(step).collect(),
        counts: h.buckets.values().copied().collect(),
        sum_us: h.sum_us,
    })
}

fn histogram(l: &SeriesLatency) -> Histogram {
    let mut out = Histogram { sum_us: l.sum_us, ..Default::default() };
    let mut bucket = 0_u32;
    for (step, count) in l.steps.iter().zip(&l.counts) {
        bucket = bucket.saturating_add(*step);
        match u16::try_from(bucket) {
            Ok(b) if usize::from(b) < BUCKETS => out.add(b, *count),
            _ => break,
        }
    }
    out
}

fn counters(c: &Counters) -> Option<SeriesCounters> {
    if *c == Counters::default() {
        return None;
    }
    // zeros at the end are left out
    let used = c.classes.iter().rposition(|n| *n > 0).map_or(0, |n| n + 1);
    Some(SeriesCounters {
        classes: c.classes[..used].to_vec(),
        denied_401: c.denied_401,
        denied_403: c.denied_403,
        bytes_in: c.bytes_in,
        bytes_out: c.bytes_out,
        latency: latency(&c.latency),
    })
}

fn counters_of(c: Option<&SeriesCounters>) -> Counters {
    let Some(c) = c else { return Counters::default() };
    let mut classes = [0; 6];
    classes.iter_mut().zip(&c.classes).for_each(|(to, n)| *to = *n);
    Counters {
        classes,
        denied_401: c.denied_401,
        denied_403: c.denied_403,
        bytes_in: c.bytes_in,
        bytes_out: c.bytes_out,
        latency: c.latency.as_ref().map(histogram).unwrap_or_default(),
    }
}

/// A chunk that begins at `start`; every point lies in it.
pub fn to_chunk<'a>(tier: Tier, start: Millis, points: impl IntoIterator<Item = &'a Point>) -> SeriesChunk {
    let points = points.into_iter().map(|p| SeriesPoint {
        slot: u32::try_from((p.at - start) / tier.step_ms()).unwrap_or(0),
        early_ms: u64::try_from(p.early_ms).unwrap_or(0),
        counted_ms: p.counted_ms,
        counters: counters(&p.counters),
        gate_samples: p.gate_samples,
        in_flight_sum: p.in_flight_sum,
        in_flight_max: p.in_flight_max,
        ready_min: p.ready_min,
        cpu_ms: p.cpu_ms,
        cpu_us: p.cpu_us,
        replica_samples: p.replica_samples,
        memory_sum: p.memory_sum,
        memory_max: p.memory_max,
        restarts: p.restarts,
    });
    SeriesChunk { points: points.collect() }
}

/// The points of a chunk that begins at `start`.
pub fn from_chunk(tier: Tier, start: Millis, chunk: &SeriesChunk) -> Vec<Point> {
    let point = |p: &SeriesPoint| Point {
        at: start + Millis::from(p.slot) * tier.step_ms(),
        early_ms: Millis::try_from(p.early_ms).unwrap_or(0),
        counted_ms: p.counted_ms,
        counters: counters_of(p.counters.as_ref()),
        gate_samples: p.gate_samples,
        in_flight_sum: p.in_flight_sum,
        in_flight_max: p.in_flight_max,
        ready_min: p.ready_min,
        cpu_ms: p.cpu_ms,
        cpu_us: p.cpu_us,
        replica_samples: p.replica_samples,
        memory_sum: p.memory_sum,
        memory_max: p.memory_max,
        restarts: p.restarts,
    };
    chunk.points.iter().map(point).collect()
}

/// A head as the store has it.
pub fn to_head(h: &Head) -> SeriesHead {
    let replica = |(id, (started_ms, cpu_us)): (&String, &(Millis, u64))| SeriesReplica {
        id: id.clone(),
        started_ms: *started_ms,
        cpu_us: *cpu_us,
    };
    SeriesHead {
        gate_ms: h.gate_ms,
        gate_started_ms: h.gate_started_ms,
        gate: counters(&h.gate),
        carried: counters(&h.carried),
        replicas: h.replicas.iter().map(replica).collect(),
        cpu_ms: h.cpu_ms,
        cpu_us: h.cpu_us,
        restarts: h.restarts,
        written_ms: h.written,
        minutes_ms: h.minutes,
        hours_ms: h.hours,
        energy: (h.energy.from != 0).then(|| to_energy(&h.energy)),
    }
}

/// A head from the store.
pub fn head_of(h: &SeriesHead) -> Head {
    Head {
        gate_ms: h.gate_ms,
        gate_started_ms: h.gate_started_ms,
        gate: counters_of(h.gate.as_ref()),
        carried: counters_of(h.carried.as_ref()),
        replicas: h.replicas.iter().map(|r| (r.id.clone(), (r.started_ms, r.cpu_us))).collect(),
        cpu_ms: h.cpu_ms,
        cpu_us: h.cpu_us,
        restarts: h.restarts,
        written: h.written_ms,
        minutes: h.minutes_ms,
        hours: h.hours_ms,
        energy: h.energy.as_ref().map(energy_of).unwrap_or_default(),
    }
}

/// Energy as the store has it.
pub fn to_energy(m: &Meter) -> SeriesEnergy {
    let package = |p: &Package| SeriesPackage { name: p.name.clone(), uj: p.uj, range_uj: p.range_uj };
    SeriesEnergy {
        from_ms: m.from,
        at_ms: m.at,
        boot: m.base.boot.clone(),
        busy_us: m.base.busy_us,
        packages: m.base.packages.iter().map(package).collect(),
        why: m.base.why.clone(),
        measured_uj: m.measured_uj.to_string(),
        modelled_uj: m.modelled_uj.to_string(),
        idle_uj: m.idle_uj.to_string(),
        priced: m.priced.to_string(),
        currency: m.currency.clone(),
        share: m.share.to_string(),
    }
}

/// Energy from the store.
pub fn energy_of(e: &SeriesEnergy) -> Meter {
    let number = |text: &str| text.parse().unwrap_or_default();
    let package = |p: &SeriesPackage| Package { name: p.name.clone(), uj: p.uj, range_uj: p.range_uj };
    Meter {
        from: e.from_ms,
        at: e.at_ms,
        base: Reading {
            boot: e.boot.clone(),
            busy_us: e.busy_us,
            packages: e.packages.iter().map(package).collect(),
            why: e.why.clone(),
        },
        measured_uj: number(&e.measured_uj),
        modelled_uj: number(&e.modelled_uj),
        idle_uj: number(&e.idle_uj),
        priced: number(&e.priced),
        currency: e.currency.clone(),
        share: number(&e.share),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Kind, MAX_BYTES, encode};

    fn full() -> Counters {
        let mut c = Counters { classes: [u64::MAX / 2; 6], bytes_out: u64::MAX / 2, ..Default::default() };
        (0..BUCKETS).for_each(|b| c.latency.add(u16::try_from(b).unwrap(), 1 << 33));
        c
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut c = Counters { classes: [0, 0, 3, 0, 1, 0], denied_401: 1, ..Default::default() };
        [5, 5, 900, 70_000].into_iter().for_each(|us| c.latency.record(us));
        let p = |at, counters| Point {
            at,
            counted_ms: 10_000,
            counters,
            ready_min: Some(2),
            ..Default::default()
        };
        let all = vec![p(600_000, c.clone()), p(610_000, Counters::default()), p(650_000, full())];
        let chunk = to_chunk(Tier::Seconds, 600_000, &all);
        assert_eq!(from_chunk(Tier::Seconds, 600_000, &chunk), all);
        let head = Head {
            gate: c,
            carried: full(),
            replicas: [("app-0".to_owned(), (5, 7))].into(),
            energy: Meter {
                from: 3,
                base: Reading {
                    boot: "b".into(),
                    packages: vec![Package { name: "package-0".into(), uj: 5, range_uj: 9 }],
                    ..Default::default()
                },
                priced: rust_decimal::Decimal::new(15, 1),
                ..Default::default()
            },
            written: 660_000,
            ..Default::default()
        };
        assert_eq!(head_of(&to_head(&head)), head);
    }

    #[test]
    fn a_row_of_the_largest_points_fits_and_one_of_nothing_is_tiny() {
        for tier in Tier::ALL {
            let n = tier.chunk_ms() / tier.step_ms();
            let points = |counters: Counters| -> Vec<Point> {
                let p =
                    |i| Point { at: i * tier.step_ms(), counters: counters.clone(), ..Default::default() };
                (0..n).map(p).collect()
            };
            let size = |c| encode(Kind::SeriesChunk, &to_chunk(tier, 0, &points(c))).map(|b| b.len());
            assert!(size(full()).unwrap() < MAX_BYTES, "{tier:?}");
            assert!(size(Counters::default()).unwrap() < 100, "{tier:?}");
        }
    }

    #[test]
    fn buckets_that_no_histogram_has_are_not_read() {
        let l = SeriesLatency { steps: vec![3, u32::MAX, 1], counts: vec![1, 1, 1], sum_us: 3 };
        assert_eq!(histogram(&l).count, 1);
    }
}
