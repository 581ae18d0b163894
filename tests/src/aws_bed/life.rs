//! How a stack comes, changes and goes, and what is done about what fails on the way.
use super::{
    definition,
    operation::{Operation, Step, Stop},
    scheduler, template,
    world::{Resource, Shape, Shared},
};
use std::{collections::BTreeSet, sync::Arc};

/// Makes it; `keep`: what fails stays as it is.
pub fn create(shared: &Arc<Shared>, id: &str, token: &str, keep: bool) {
    Operation::begin(shared, id, token, "CREATE_IN_PROGRESS").run(move |o| async move {
        o.lasts().await?;
        for logical in order(&o)? {
            if let Err(stop) = o.make(&logical).await {
                let words = failed(&o, &logical, "CREATE_FAILED", stop)?;
                if keep {
                    return o.status("CREATE_FAILED", &words).await;
                }
                o.status("ROLLBACK_IN_PROGRESS", &format!("{words} Rollback requested by user.")).await?;
                return away(&o, &BTreeSet::new(), "ROLLBACK_COMPLETE").await;
            }
        }
        o.outputs()?;
        o.status("CREATE_COMPLETE", "").await
    });
}

/// Changes it to what it shall be by now.
pub fn update(shared: &Arc<Shared>, id: &str, token: &str) {
    Operation::begin(shared, id, token, "UPDATE_IN_PROGRESS").run(|o| async move {
        o.lasts().await?;
        for logical in order(&o)? {
            if let Err(stop) = change(&o, &logical).await {
                let words = failed(&o, &logical, "UPDATE_FAILED", stop)?;
                return back(&o, &words, &BTreeSet::new()).await;
            }
        }
        o.outputs()?;
        o.status("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "").await?;
        clean(&o).await?;
        o.status("UPDATE_COMPLETE", "").await
    });
}

/// Goes on with a rollback of an update, without these.
pub fn roll_back(shared: &Arc<Shared>, id: &str, token: &str, skip: BTreeSet<String>) {
    Operation::begin(shared, id, token, "UPDATE_ROLLBACK_IN_PROGRESS")
        .run(|o| async move { restore(&o, &skip).await });
}

/// Goes on with the rollback of a create.
pub fn take_back(shared: &Arc<Shared>, id: &str, token: &str) {
    Operation::begin(shared, id, token, "ROLLBACK_IN_PROGRESS")
        .run(|o| async move { away(&o, &BTreeSet::new(), "ROLLBACK_COMPLETE").await });
}

/// Takes it away, whatever is under way.
pub fn delete(shared: &Arc<Shared>, id: &str, token: &str) {
    Operation::begin(shared, id, token, "DELETE_IN_PROGRESS").run(|o| async move {
        o.lasts().await?;
        o.alone().await?;
        let kept = o.stack(|s| s.retained.clone())?;
        away(&o, &kept, "DELETE_COMPLETE").await
    });
}

fn order(o: &Operation) -> Step<Vec<String>> {
    o.stack(|s| template::order(&s.shape.template))?.map_err(Stop::Failed)
}

/// Tells what has failed; the words with which the stack tells it.
fn failed(o: &Operation, logical: &str, status: &str, stop: Stop) -> Step<String> {
    let Stop::Failed(words) = stop else { return Err(stop) };
    o.tell(logical, status, &words)?;
    let what = if status == "CREATE_FAILED" { "create" } else { "update" };
    Ok(format!("The following resource(s) failed to {what}: [{logical}]."))
}

/// Everything that it has, in the other order.
async fn away(o: &Operation, kept: &BTreeSet<String>, end: &str) -> Step<()> {
    let mut order = order(o)?;
    // what only an earlier template had
    let all: Vec<String> = o.stack(|s| s.shape.resources.keys().cloned().collect())?;
    order.extend(all.into_iter().filter(|n| !order.contains(n)).collect::<Vec<_>>());
    for logical in order.iter().rev() {
        if kept.contains(logical) {
            o.tell(logical, "DELETE_SKIPPED", "")?;
        } else {
            o.unmake(logical).await?;
        }
    }
    o.stack(|s| s.shape.outputs.clear())?;
    o.status(end, "").await
}

/// Changes one resource, if it is not as it shall be.
async fn change(o: &Operation, logical: &str) -> Step<()> {
    let Some(was) = o.stack(|s| s.shape.resources.get(logical).cloned())? else {
        return o.make(logical).await;
    };
    let (_, properties) = o.wanted(logical)?;
    if o.stack(|s| s.cancelled)? {
        return Err(Stop::Failed("Resource update cancelled".into()));
    }
    if properties == was.properties {
        return Ok(());
    }
    let replaced = was.kind == "AWS::ECS::TaskDefinition";
    let why = "Requested update requires the creation of a new physical resource; hence creating one.";
    o.tell(logical, "UPDATE_IN_PROGRESS", if replaced { why } else { "" })?;
    let mut r = Resource { properties, ..was.clone() };
    if replaced {
        r.physical = o.register(logical, &r.properties)?;
        o.stack(|s| s.made.push((logical.to_owned(), was.physical)))?;
    }
    put(o, logical, r).await?;
    o.tell(logical, "UPDATE_COMPLETE", "")
}

/// A resource as it shall be; a service, until it is.
async fn put(o: &Operation, logical: &str, r: Resource) -> Step<()> {
    let service = (r.kind == "AWS::ECS::Service").then(|| r.clone());
    o.stack(|s| s.shape.resources.insert(logical.to_owned(), r))?;
    if let Some(r) = service {
        o.shared.with(|w| scheduler::change(w, &r));
        o.settled(&r.physical).await?;
    }
    Ok(())
}

async fn back(o: &Operation, words: &str, skip: &BTreeSet<String>) -> Step<()> {
    let cancelled = o.stack(|s| s.cancelled)?;
    let words = if cancelled { "Update cancelled by user" } else { words };
    o.status("UPDATE_ROLLBACK_IN_PROGRESS", words).await?;
    restore(o, skip).await
}

/// What it had before the update.
async fn restore(o: &Operation, skip: &BTreeSet<String>) -> Step<()> {
    o.lasts().await?;
    let Some(before) = o.stack(|s| {
        s.cancelled = false;
        s.before.clone()
    })?
    else {
        return o.status("UPDATE_ROLLBACK_COMPLETE", "").await;
    };
    o.stack(|s| {
        let resources = s.shape.resources.clone();
        s.shape = Shape { resources, ..before.clone() };
    })?;
    for logical in order(o)?.iter().filter(|l| !skip.contains(*l)) {
        if let Err(stop) = restored(o, logical, before.resources.get(logical)).await {
            let words = failed(o, logical, "UPDATE_FAILED", stop)?;
            return o.status("UPDATE_ROLLBACK_FAILED", &words).await;
        }
    }
    // what was made for the update goes now
    o.stack(|s| {
        let held: Vec<String> = s.shape.resources.values().map(|r| r.physical.clone()).collect();
        s.made.retain(|(_, arn)| !held.contains(arn));
    })?;
    o.status("UPDATE_ROLLBACK_COMPLETE_CLEANUP_IN_PROGRESS", "").await?;
    clean(o).await?;
    o.status("UPDATE_ROLLBACK_COMPLETE", "").await
}

async fn restored(o: &Operation, logical: &str, was: Option<&Resource>) -> Step<()> {
    let Some(was) = was else { return Ok(()) };
    let now = o.stack(|s| s.shape.resources.get(logical).cloned())?;
    if now.as_ref() == Some(was) {
        return Ok(());
    }
    o.tell(logical, "UPDATE_IN_PROGRESS", "")?;
    if let Some(now) = now.filter(|n| n.physical != was.physical) {
        o.stack(|s| s.made.push((logical.to_owned(), now.physical)))?;
    }
    put(o, logical, was.clone()).await?;
    o.tell(logical, "UPDATE_COMPLETE", "")
}

/// What is no longer in the template, and revisions that nobody has any more.
async fn clean(o: &Operation) -> Step<()> {
    let gone = o.stack(|s| {
        let wanted = &s.shape.template["Resources"];
        s.shape.resources.keys().filter(|k| wanted[k.as_str()].is_null()).cloned().collect::<Vec<_>>()
    })?;
    for logical in gone.iter().rev() {
        o.unmake(logical).await?;
    }
    for (logical, arn) in o.stack(|s| std::mem::take(&mut s.made))? {
        o.tell(&logical, "DELETE_IN_PROGRESS", "")?;
        o.shared.with(|w| definition::deregister(w, &arn));
        o.tell(&logical, "DELETE_COMPLETE", "")?;
    }
    o.stack(|s| s.before = None)
}
