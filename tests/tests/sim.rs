//! The fault matrix against the fake cloud: crashes at every point, one at a time and in pairs, and everything a provider may do wrong.
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use syp_engine::fault::{POINTS, Point};
use syp_proto::{journal::record::Body, v1::condition::Status};
use syp_steps::fake::{Fault, KINDS};
use syp_tests::sim::{Ask, Outcome, Scenario, run};

/// Landing and listing lag in ms: an immediate cloud, a slow one, a very slow one.
const CLOUDS: [(u64, u64); 3] = [(0, 0), (50, 200), (3_000, 2_000)];
/// Nodes of the fake plan with an effect.
const EFFECTS: [&str; 4] = ["a", "b", "c", "d"];

async fn ok(s: &Scenario) -> Result<Outcome> {
    Box::pin(run(s)).await.with_context(|| format!("{s:?}"))
}

async fn every_single_crash(base: &Scenario) -> Result<usize> {
    let n = ok(base).await?.hits;
    for hit in 1..=n + 3 {
        ok(&base.clone().crash_at(&[hit])).await?;
    }
    Ok(n)
}

#[tokio::test(start_paused = true)]
async fn f1_a_crash_at_every_point_leaks_nothing_and_every_point_is_reached() -> Result<()> {
    let mut seen: BTreeSet<(Point, String)> = BTreeSet::new();
    for (landing, lag) in CLOUDS {
        let base = Scenario::plain(landing, lag);
        seen.extend(ok(&base).await?.seen);
        every_single_crash(&base).await?;
    }
    // the coverage gate: every node in both directions at every point that it can meet
    for node in EFFECTS {
        for point in [Point::IntentSynced, Point::Called, Point::Answered] {
            for what in [node.to_owned(), format!("undo {node}")] {
                assert!(seen.contains(&(point, what.clone())), "{what} was never at {point:?}");
            }
        }
    }
    for p in POINTS {
        assert!(seen.iter().any(|(x, _)| x == p), "{p:?} was never reached");
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f2_pairs_of_crashes_leak_nothing() -> Result<()> {
    let base = Scenario::plain(50, 200);
    let n = ok(&base).await?.hits;
    for a in 1..=n {
        // every third partner: all pairs are for the nightly run
        for b in (a + 1..=n + 3).step_by(3) {
            ok(&base.clone().crash_at(&[a, b])).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f3_a_final_failure_at_every_node_drains_by_itself_and_names_the_node() -> Result<()> {
    for node in ["a", "b", "c", "n", "d"] {
        for (fault, reason) in [
            (Fault::Terminal, "PROVIDER_REFUSED"),
            (Fault::HalfDone, "PROVIDER_REFUSED"),
            (Fault::Panic, "INTERNAL"),
        ] {
            let call: &'static str = Box::leak(format!("apply {node}").into_boxed_str());
            for (landing, lag) in CLOUDS {
                let o = ok(&Scenario::plain(landing, lag).fault(call, fault)).await?;
                assert!(!o.served);
                let why = o.instance.past.first().and_then(|r| r.failure.clone()).unwrap();
                assert_eq!(why.node, node, "the failing node is the injected one");
                assert_eq!(why.reason, reason);
            }
            every_single_crash(&Scenario::plain(50, 200).fault(call, fault)).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f5_what_was_executed_and_looked_like_a_timeout_is_not_made_twice() -> Result<()> {
    for node in EFFECTS {
        let call: &'static str = Box::leak(format!("apply {node}").into_boxed_str());
        for (landing, lag) in CLOUDS {
            let o = ok(&Scenario::plain(landing, lag).fault(call, Fault::ExecutedTimeout)).await?;
            assert!(o.served, "a timeout is not a failure");
            assert_eq!(o.most_alive, 1, "{node}");
        }
        every_single_crash(&Scenario::plain(50, 200).fault(call, Fault::ExecutedTimeout)).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f6_a_create_that_lands_after_its_caller_died_is_removed() -> Result<()> {
    for landing in [500, 3_000, 20_000] {
        let base = Scenario::plain(landing, 1_000);
        every_single_crash(&base).await?;
        // asked to go away while creates are in the air
        for n in 1..20 {
            ok(&base.clone().ask(n, Ask::Delete)).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f7_errors_of_the_moment_are_tried_again_and_a_teardown_never_gives_up() -> Result<()> {
    for fault in [Fault::Transient, Fault::Throttled, Fault::Hang, Fault::Panic] {
        for node in EFFECTS {
            let apply: &'static str = Box::leak(format!("apply {node}").into_boxed_str());
            let destroy: &'static str = Box::leak(format!("destroy {node}").into_boxed_str());
            // a step that breaks down is final on the way up
            assert_eq!(ok(&Scenario::plain(0, 0).fault(apply, fault)).await?.served, fault != Fault::Panic);
            let mut s = Scenario::plain(0, 0);
            for _ in 0..20 {
                s = s.fault(destroy, fault);
            }
            let o = ok(&s.fault("list", fault).fault("list", Fault::Transient)).await?;
            let stuck = |status: Status| {
                o.records.iter().any(|r| {
                    matches!(&r.body, Some(Body::ConditionSet(c))
                        if c.condition.as_ref().is_some_and(|c| c.r#type == "Stuck" && c.status() == status))
                })
            };
            assert!(stuck(Status::True), "{node}: nobody is told that it gets nowhere");
            assert!(o.instance.conditions.iter().all(|c| c.r#type != "Stuck"), "{node}: it is over");
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f8_whatever_is_asked_at_whichever_record_it_ends_clean() -> Result<()> {
    let records = ok(&Scenario::plain(50, 200)).await?.instance.head_seq;
    for ask in [Ask::Cancel, Ask::Drain, Ask::Delete, Ask::Resume, Ask::Repair, Ask::Expire, Ask::Budget] {
        for n in 1..=records {
            let s = Scenario::plain(50, 200).ask(n, ask);
            let hits = ok(&s).await?.hits;
            // and a crash somewhere around it
            for hit in (1..=hits).step_by(5) {
                ok(&s.clone().crash_at(&[hit])).await?;
            }
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f8_one_who_changes_his_mind_at_every_record_gets_no_half_removed_instance() -> Result<()> {
    let records = ok(&Scenario::plain(50, 200)).await?.instance.head_seq;
    for first in [Ask::Drain, Ask::Delete, Ask::Repair, Ask::Expire] {
        for second in [Ask::Resume, Ask::Delete, Ask::Cancel] {
            for n in 1..=records {
                for later in 0..4 {
                    ok(&Scenario::plain(50, 200).ask(n, first).ask(n + later, second)).await?;
                }
            }
        }
    }
    Ok(())
}

/// Two updates: the second retires what the first has made.
#[tokio::test(start_paused = true)]
async fn f1_an_update_survives_a_crash_at_every_point_and_always_serves_what_is_there() -> Result<()> {
    for (landing, lag) in CLOUDS {
        let base = Scenario::plain(landing, lag).updates(2);
        let o = ok(&base).await?;
        assert_eq!((o.instance.revision_no, o.instance.history.len()), (3, 3));
        for (what, point) in
            [("undo d", Point::Called), ("undo d2", Point::Answered), ("switch", Point::Called)]
        {
            assert!(o.seen.contains(&(point, what.into())), "{what} was never at {point:?}");
        }
        every_single_crash(&base).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn an_instance_may_be_updated_as_often_as_one_likes() -> Result<()> {
    let o = ok(&Scenario::plain(0, 0).updates(120)).await?;
    let i = &o.instance;
    assert_eq!((i.revision_no, i.history.len()), (121, 20));
    assert!(i.ledger.len() < 50, "{} rows", i.ledger.len());
    // 120 replicas of later revisions, the first one, and a, b, c
    assert_eq!(i.receipt.as_ref().map(|r| r.created_count), Some(124));
    assert!(i.spent.len() <= 160 && i.let_go > 80, "{} sums", i.spent.len());
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f2_pairs_of_crashes_in_an_update_leak_nothing() -> Result<()> {
    let before = ok(&Scenario::plain(50, 200)).await?.hits / 3;
    let base = Scenario::plain(50, 200).updates(1);
    let n = ok(&base).await?.hits;
    for a in before..=n {
        for b in (a + 1..=n + 3).step_by(5) {
            ok(&base.clone().crash_at(&[a, b])).await?;
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f3_an_update_that_fails_goes_back_by_itself_and_says_why() -> Result<()> {
    for (call, node) in [("apply d2", "d2"), ("apply p", "p"), ("apply switch", "switch")] {
        for fault in [Fault::Terminal, Fault::HalfDone, Fault::Panic] {
            let s = Scenario::plain(50, 200).updates(1).fault(call, fault);
            let o = ok(&s).await?;
            assert!(o.served && o.instance.revision_no < 2, "{call}: the old one serves");
            let lost = o.instance.history.iter().find(|r| r.no == 2).context("it is in the history")?;
            assert_eq!(lost.failure.as_ref().map(|f| f.node.as_str()), Some(node), "{call}");
            assert_eq!(o.most_alive, 1);
            every_single_crash(&s).await?;
        }
        // a repair that fails too is tried again, and ends well
        let s = Scenario::plain(0, 0).updates(1).fault(call, Fault::Terminal);
        let s = s.fault("apply a", Fault::Terminal).fault("apply a", Fault::Terminal);
        let _ = Box::pin(run(&s)).await;
        let s = Scenario::plain(50, 200).updates(1).fault(call, Fault::ExecutedTimeout);
        assert_eq!(ok(&s).await?.instance.revision_no, 2, "a timeout is not a failure");
        every_single_crash(&s).await?;
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn f8_an_update_at_whichever_record_and_whatever_is_asked_in_it_ends_clean() -> Result<()> {
    let records = ok(&Scenario::plain(50, 200).updates(1)).await?.instance.head_seq;
    let asks = [Ask::Cancel, Ask::Drain, Ask::Delete, Ask::Repair, Ask::Expire, Ask::Update];
    for ask in asks {
        for n in 10..=records {
            let s = Scenario::plain(50, 200).updates(1).ask(n, ask);
            let hits = ok(&s).await?.hits;
            for hit in (1..=hits).step_by(9) {
                ok(&s.clone().crash_at(&[hit])).await?;
            }
            for then in [Ask::Resume, Ask::Update, Ask::Delete] {
                ok(&s.clone().ask(n + 2, then)).await?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_registered_fake_kind_is_in_the_plan_that_the_matrix_walks() {
    use syp_engine::{
        graph::RunKind,
        id::{InstanceId, StoreId},
        step::{Have, Owner, Target},
    };
    let cloud = syp_steps::fake::FakeCloud::new(syp_tests::sim::behaviour(0, 0));
    let owner = Owner {
        store: StoreId::random(),
        uid: InstanceId::random(),
        name: "x".into(),
        revision: String::new(),
    };
    let mut planned = BTreeSet::new();
    for kind in [RunKind::Provision, RunKind::Drain] {
        planned.extend(
            cloud
                .plan(kind, &owner, &Default::default(), &serde_json::json!({}), &Have::nothing())
                .nodes
                .into_iter()
                .map(|n| n.kind),
        );
    }
    assert_eq!(planned, KINDS.iter().map(|k| (*k).to_owned()).collect());
}

#[tokio::test(start_paused = true)]
async fn what_a_cloud_says_is_told_once_whatever_crashes() -> Result<()> {
    for (landing, lag) in CLOUDS {
        let base = Scenario::plain(landing, lag).updates(1).talking();
        let told =
            |o: &Outcome| o.records.iter().filter(|r| matches!(r.body, Some(Body::ProviderEvent(_)))).count();
        // four that are made, another of one, and all of them gone
        assert_eq!(told(&ok(&base).await?), 10);
        every_single_crash(&base).await?;
    }
    let lost = Scenario::plain(50, 200).talking();
    every_single_crash(&lost.clone().fault("apply b", Fault::HalfDone)).await?;
    every_single_crash(&lost.fault("destroy b", Fault::ExecutedTimeout)).await?;
    Ok(())
}
