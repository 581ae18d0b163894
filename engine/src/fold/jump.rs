//! The host's clock jumped: two times were one moment.
use super::over;
use crate::{clock::Millis, meter};
use syp_proto::journal::{ClockJumped, Instance};

/// Times at which something goes on, and from which durations count.
pub(super) fn jumped(i: &mut Instance, j: &ClockJumped) {
    let (from, to) = (j.from_ms, j.to_ms);
    let billed: Vec<_> = i.ledger.iter().filter(|r| r.billed && !over(r)).map(|r| r.ordinal).collect();
    for ordinal in billed {
        meter::settle(i, ordinal, from);
    }
    let shift = |t: &mut Millis| {
        if *t != 0 {
            *t += to - from;
        }
    };
    for row in i.ledger.iter_mut().filter(|r| !over(r)) {
        if row.billed {
            row.settled_ms = to;
        }
        [&mut row.retry_at_ms, &mut row.attempt_ms].into_iter().for_each(shift);
    }
    if let Some(run) = &mut i.run {
        [&mut run.deadline_ms, &mut run.next_listing_ms, &mut run.paused_ms].into_iter().for_each(shift);
        for node in &mut run.nodes {
            [&mut node.retry_at_ms, &mut node.first_ms].into_iter().for_each(shift);
        }
    }
    [&mut i.gate_retry_ms, &mut i.revert_ms].into_iter().for_each(shift);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{accrued, money};
    use rust_decimal::Decimal;
    use syp_proto::journal::{LedgerRow, Node, Run, ledger_row};

    const HOUR: Millis = 3_600_000;

    /// One hour at 1 an hour, a jump, then half an hour: it costs 1.5, whichever way the clock went.
    #[test]
    fn a_jump_costs_nothing_and_what_waits_waits_as_long() {
        for jump in [24 * HOUR, -24 * HOUR, 3_000, -3_000] {
            let begin = 1_800_000_000_000;
            let (from, to) = (begin + HOUR, begin + HOUR + jump);
            let row = LedgerRow {
                billed: true,
                hourly: Some(money(Decimal::ONE, "EUR")),
                intent_ms: begin,
                retry_at_ms: from + 5_000,
                state: ledger_row::State::Exists as i32,
                ..Default::default()
            };
            let node = Node { retry_at_ms: from + 7_000, ..Default::default() };
            let run = Run { nodes: vec![node], deadline_ms: from + HOUR, ..Default::default() };
            let mut i = Instance { ledger: vec![row], run: Some(run), expire_ms: 5, ..Default::default() };
            jumped(&mut i, &ClockJumped { from_ms: from, to_ms: to });
            assert_eq!(accrued(&i, to + HOUR / 2), Decimal::new(15, 1), "{jump}");
            let run = i.run.unwrap();
            assert_eq!((i.ledger[0].retry_at_ms, run.nodes[0].retry_at_ms), (to + 5_000, to + 7_000));
            assert_eq!((run.deadline_ms, run.next_listing_ms, i.expire_ms), (to + HOUR, 0, 5));
        }
    }
}
