//! The instance's stack: network rules, load balancer, cluster, service and log group, as one effect. While AWS works on it, its events and
//! its tasks' last words are what is waited on; an app that ends again and again ends the wait long before AWS gives up.
use super::{
    Shared, change_set, definitions,
    facts::Facts,
    names,
    stack::{self, Stacks, Wanted},
    status::Held,
    tasks,
    template::{LIMIT, render},
};
use aws_sdk_ecs::types::Task;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use syp_engine::{
    clock::Millis,
    events::{Event, Recorder},
    failure::{Class, failure},
    scaling,
    step::{Done, Observed, Owner, Rehearsed, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::plan::Change,
};

pub(super) struct Stack(pub Arc<Shared>);

/// Its node.
pub(super) const NODE: &str = "stack";
/// How often tasks that have ended are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Tasks whose app has ended by itself before it is given up.
const ENDED: usize = 3;
/// In each so manyth look it is asked whether a task could be begun at all.
const PLACED: u32 = 5;
const EVENTS: &str =
    "AWS takes two to five minutes; the stack's events in the CloudFormation console say more";

/// What tasks came to while AWS worked.
#[derive(Clone, Default)]
struct Seen {
    /// By themselves.
    ended: Vec<Task>,
    /// One could not be begun, and none has ended since. What a roll-back says then takes nothing of it back.
    unplaced: Option<String>,
    /// It is so now.
    full: bool,
}

/// What it shall be.
fn template(s: &Shared, cx: &StepCx) -> Result<(String, String), Failure> {
    let facts = Facts::read(&cx.facts)?;
    let site = facts.site(s, cx);
    let (text, digest) = render(&cx.owner, &cx.spec, &site);
    if text.len() > LIMIT {
        return Err(failure(
            Class::Terminal,
            "SPEC_TOO_LARGE",
            format!("the template would have {} bytes; AWS takes {LIMIT}", text.len()),
            "make it shorter: variables and arguments are in it (secrets are not)",
        ));
    }
    Ok((text, digest))
}

/// Its ARN and CloudFormation's events, into the journal. AWS never had a secret's value: templates have ARNs of them.
fn record(events: &Recorder, s: &stack::Stack) {
    events.handle(&s.id);
    for e in &s.story.events {
        let kind = if e.of_stack { "" } else { e.kind.as_str() };
        let words: Vec<_> = [&*e.logical, kind, &*e.reason].into_iter().filter(|w| !w.is_empty()).collect();
        events.record(Event { at_ms: e.at_ms, id: &e.id, reason: &e.status, message: &words.join(" ") });
    }
}

/// The same for each attempt of a run.
fn token(cx: &StepCx, digest: &str) -> String {
    format!("{}-r{}-{digest}", names::id(&cx.owner), cx.run)
}

// === impl Stack ===

impl Stack {
    async fn stacks(&self, pause: Duration) -> Result<Stacks, Failure> {
        let c = self.0.clients().await?;
        Ok(Stacks::new(c.stacks.clone(), &self.0.role().await?, pause))
    }

    /// Tasks that have ended, but for these.
    async fn ended(&self, cx: &StepCx, before: &BTreeSet<String>) -> Result<Vec<Task>, Failure> {
        let name = names::stack(&cx.owner);
        let all = tasks::list(&self.0, tasks::Of { cluster: &name, service: &name }, true).await?;
        // one that a deployment has replaced has not failed
        let new = |t: &Task| {
            t.task_arn().is_some_and(|a| !before.contains(a))
                && !t.stopped_reason().is_some_and(|r| r.starts_with("Scaling activity"))
        };
        let mut all: Vec<Task> = all.into_iter().filter(new).collect();
        all.sort_by_key(|t| t.stopped_at().map(aws_sdk_ecs::primitives::DateTime::as_nanos));
        Ok(all)
    }

    /// Ends when the app can't run, with why; else says what tasks say.
    async fn hopeless(&self, cx: &StepCx, before: &BTreeSet<String>, seen: &Mutex<Seen>) -> Failure {
        let begun = self.0.clock.now();
        for n in 1_u32.. {
            tokio::time::sleep(LOOK).await;
            // what can't be asked now is asked again
            let Ok(ended) = self.ended(cx, before).await else { continue };
            let Some(last) = ended.last() else {
                if n.is_multiple_of(PLACED) {
                    self.placed(cx, begun, seen).await;
                }
                continue;
            };
            // a roll-back takes away what it was seen by
            *seen.lock() = Seen { ended: ended.clone(), ..Seen::default() };
            let words = tasks::ending(last);
            cx.waiting.on(&cx.node, "PROBING", format!("a task ended: {words}"), EVENTS, self.0.clock.now());
            if let Some(f) = self.why(cx, &ended, ENDED).await {
                return f;
            }
        }
        std::future::pending().await
    }

    /// Where no task could be begun: with which words.
    async fn placed(&self, cx: &StepCx, begun: Millis, seen: &Mutex<Seen>) {
        let name = names::stack(&cx.owner);
        let of = tasks::Of { cluster: &name, service: &name };
        let Ok(words) = tasks::unplaced(&self.0, of, begun).await else { return };
        seen.lock().full = words.is_some();
        if let Some(words) = words {
            let f = super::verdict::unplaced(&words);
            cx.waiting.on(&cx.node, &f.reason, f.message, &f.hint, self.0.clock.now());
            seen.lock().unplaced = Some(words);
        }
    }

    /// What tasks that have ended come to.
    async fn why(&self, cx: &StepCx, ended: &[Task], limit: usize) -> Option<Failure> {
        let f = super::verdict::of(&ended.iter().collect::<Vec<_>>(), limit)?;
        let lines = super::logs::last_lines(&self.0, cx, ended.last()?).await;
        Some(crate::verdict::with_lines(f, &lines))
    }
}

impl Step for Stack {
    fn kind(&self) -> &'static str {
        "aws.stack@1"
    }

    async fn observe(&self, cx: &StepCx, _: &str) -> Result<Observed, Failure> {
        let held = self.stacks(Duration::ZERO).await?.look(&cx.owner, None).await?;
        Ok(held.map_or(Observed::Absent, |s| observed(&s.id, &s.held, cx.output(NODE, "digest"))))
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let (text, digest) = template(&self.0, cx)?;
        let token = token(cx, &digest);
        let wanted = Wanted { owner: &cx.owner, template: &text, digest: &digest, token: &token };
        let seen = Mutex::<Seen>::default();
        let say = |s: &stack::Stack| {
            record(&cx.events, s);
            // why no task comes says more than that the stack does not
            if s.held.rests() || seen.lock().full {
                return;
            }
            cx.waiting.on(&cx.node, "PROVIDER_BUSY", stack::going_on(s), EVENTS, self.0.clock.now());
        };
        let stacks = self.stacks(self.0.pause).await?;
        // those of before say nothing of this revision
        let before = self.ended(cx, &BTreeSet::new()).await?;
        let before = before.iter().filter_map(|t| t.task_arn().map(str::to_owned)).collect();
        let made = tokio::select! {
            made = stacks.bring(&wanted, &say) => match made {
                Ok(made) => made,
                // AWS says of a service only that it did not come up
                Err(f) if f.reason == "STACK_FAILED" => {
                    let Seen { ended, unplaced, .. } = seen.lock().clone();
                    let why = self.why(cx, &ended, 1).await;
                    return Err(why.or_else(|| Some(super::verdict::unplaced(&unplaced?))).unwrap_or(f));
                }
                Err(f) => return Err(f),
            },
            f = self.hopeless(cx, &before, &seen) => return Err(f),
            () = cx.cancel.cancelled() => return Err(failure(Class::Transient, "CANCELLED", "cancelled", "")),
        };
        // revisions that no service runs any more
        definitions::sweep(&self.0, &cx.owner).await?;
        let output = |name: &str| made.outputs.get(name).cloned().unwrap_or_default();
        let domain = cx.spec.domains.first().cloned().unwrap_or_default();
        let outputs = json!({
            "endpoint": format!("https://{domain}"),
            "domain": domain,
            "digest": digest,
            "dns": output("LoadBalancerDns"),
            "load_balancer": output("LoadBalancerArn"),
            "target_group": output("TargetGroupArn"),
            "cluster": output("ClusterName"),
            "service": output("ServiceName"),
            "task_definition": output("TaskDefinitionArn"),
        });
        Ok(Done { handle: made.id, outputs })
    }

    async fn rehearse(&self, cx: &StepCx, key: &str) -> Result<Option<Rehearsed>, Failure> {
        let (wanted, digest) = template(&self.0, cx)?;
        let stacks = self.stacks(self.0.pause).await?;
        let there = stacks.look(&cx.owner, None).await?.filter(|s| s.held.ours);
        let held = match &there {
            Some(s) => stacks.template(&s.id).await?,
            None => String::new(),
        };
        let pretty = |text: &str| {
            let value: Value = serde_json::from_str(text).unwrap_or_default();
            if value.is_null() {
                String::new()
            } else {
                serde_json::to_string_pretty(&value).unwrap_or_default()
            }
        };
        let (before, after) = (pretty(&held), pretty(&wanted));
        let change = match (held.is_empty(), held.contains(&digest)) {
            (true, _) => Change::Create,
            (_, true) => Change::Keep,
            _ => Change::Update,
        };
        let diff = similar::TextDiff::from_lines(&before, &after);
        let mut diff = diff.unified_diff().context_radius(3).header(key, key).to_string();
        // one that AWS works on can't be asked
        if let Some(s) = there.filter(|s| change == Change::Update && s.held.rests()) {
            let name = format!("sypctl-plan-{digest}-{}", self.0.clock.now());
            let w = Wanted { owner: &cx.owner, template: &wanted, digest: &digest, token: &name };
            let told = match stacks.preview(&s.id, &name, &w).await {
                Ok(all) => change_set::told(all),
                // what AWS has against it is the answer; what it can't say now does not keep anybody from the rest
                Err(f) if f.reason == "STACK_FAILED" => return Err(f),
                Err(f) => format!("AWS could not say what it would change: {}: {}\n", f.reason, f.message),
            };
            diff.insert_str(0, &told);
        }
        Ok(Some(Rehearsed { change, diff }))
    }

    async fn inspect(&self, cx: &StepCx, _: &str) -> Result<Vec<String>, Failure> {
        let stacks = self.stacks(self.0.pause).await?;
        match stacks.look(&cx.owner, None).await?.filter(|s| s.held.ours) {
            Some(s) => {
                let mut found = stacks.drift(&s.id).await?;
                if scaling::is_elastic(&cx.spec) {
                    // the stack began with a number, which is AWS' to change
                    found.retain(|f| !f.starts_with("Service/DesiredCount "));
                }
                Ok(found)
            }
            None => Ok(vec![]),
        }
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, events: &Recorder) -> Result<bool, Failure> {
        let id = Some(row.handle.as_str()).filter(|h| !h.is_empty());
        let stacks = self.stacks(self.0.pause).await?;
        let say = |s: &stack::Stack| record(events, s);
        let (was, left) = stacks.remove_all(owner, id, row.ever_in_doubt, &say).await?;
        if !left.is_empty() {
            // the listing finds them, and says so until they are gone
            tracing::warn!(stack = row.key, ?left, "AWS could not remove these with the stack");
        }
        definitions::sweep(&self.0, owner).await?;
        Ok(was)
    }
}

/// `digest`: of the template that it was brought to. Pure.
fn observed(id: &str, held: &Held, digest: Option<&str>) -> Observed {
    let handle = id.to_owned();
    match held.status.as_str() {
        "DELETE_COMPLETE" => Observed::Absent,
        _ if !held.ours => Observed::Present { handle, ours: false, healthy: false },
        // not 'busy': whoever goes on after a crash waits with it, and knows its ARN from here on
        s if s.ends_with("_IN_PROGRESS") => Observed::Changed { handle, by: format!("it is in {s}") },
        _ if held.rests() => {
            if digest.is_some_and(|d| d != held.digest) {
                let by = "the stack has another template".to_owned();
                return Observed::Changed { handle, by };
            }
            Observed::Present { handle, ours: true, healthy: true }
        }
        _ => Observed::Present { handle, ours: true, healthy: false },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_what_its_status_its_tags_and_its_template_say() {
        let held = |status: &str, ours, digest: &str| Held {
            status: status.into(),
            ours,
            digest: digest.into(),
            ..Held::default()
        };
        let of = |h: &Held| observed("arn", h, Some("d"));
        assert_eq!(of(&held("DELETE_COMPLETE", true, "d")), Observed::Absent);
        let at_work = of(&held("UPDATE_IN_PROGRESS", true, ""));
        assert!(matches!(&at_work, Observed::Changed { handle, .. } if handle == "arn"), "{at_work:?}");
        let present = |ours, healthy| Observed::Present { handle: "arn".into(), ours, healthy };
        assert_eq!(of(&held("CREATE_COMPLETE", true, "d")), present(true, true));
        assert_eq!(of(&held("CREATE_COMPLETE", false, "d")), present(false, false));
        assert_eq!(of(&held("ROLLBACK_COMPLETE", true, "d")), present(true, false));
        assert!(matches!(of(&held("UPDATE_COMPLETE", true, "other")), Observed::Changed { .. }));
        // one that was just adopted: nobody has said yet which it should be
        assert_eq!(observed("arn", &held("CREATE_COMPLETE", true, "d"), None), present(true, true));
    }
}
