//! Commands that bring another revision, or change what lives beside revisions: asked, planned, followed in one way.
use crate::{
    args::Work,
    client::Client,
    cmd::{Ctx, get, up},
    exit,
    failure::{Done, Failure},
    follow, parse, plan, render,
};
use syp_proto::{
    google::longrunning::Operation,
    v1::{
        Instance, RollbackInstanceRequest, UpdateInstanceRequest, condition::Status,
        instances_client::InstancesClient, plan_instance_request::Action,
    },
};

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Change {
    /// Fields.
    Update(Box<UpdateInstanceRequest>),
    /// An earlier revision.
    Rollback(RollbackInstanceRequest),
}

// === impl Change ===

impl Change {
    /// As a plan asks for it.
    pub fn action(&self) -> Action {
        match self {
            Self::Update(r) => Action::Update(UpdateInstanceRequest::clone(r)),
            Self::Rollback(r) => Action::Rollback(r.clone()),
        }
    }

    /// Sends it.
    ///
    /// # Errors
    /// What the engine said.
    pub async fn send(self, c: &Client) -> Result<Operation, Failure> {
        match self {
            Self::Update(r) => {
                c.call_provider(*r, |ch, r| async move { InstancesClient::new(ch).update_instance(r).await })
                    .await
            }
            Self::Rollback(r) => {
                c.call_provider(r, |ch, r| async move { InstancesClient::new(ch).rollback_instance(r).await })
                    .await
            }
        }
    }
}

/// Plans, or asks, sends and follows.
///
/// # Errors
/// What the engine said, or what the work failed with.
pub async fn run(ctx: &Ctx<'_>, change: Change, name: &str, only_plan: bool, work: Work) -> Done {
    let client = ctx.client().await?;
    if only_plan {
        return plan::show(ctx, &client, change.action()).await;
    }
    if !work.yes && ctx.out.may_ask() {
        let p = plan::ask(&client, change.action()).await?;
        ctx.out.note(plan::text(&p, false));
        if !p.no_change && !ctx.out.ask(&format!("Change {name}?"), true) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
    }
    let hold = matches!(&change, Change::Update(r) if r.rollout.is_some_and(|r| r.hold));
    let mut op = change.send(&client).await?;
    if work.no_wait {
        return up::accepted(ctx, &op, name);
    }
    if hold && !op.done {
        op = follow::to_pause(&client, ctx.out, &op.name, ctx.limit()).await?;
        if !op.done {
            let words = format!(
                "{name}: the new revision is ready and waits; the old one serves\nLet it serve with: sypctl op resume {name}\nTake it back with:  sypctl op cancel {name}"
            );
            ctx.out.document(&op, || words, || follow::short(&op.name).to_owned())?;
            return Ok(exit::OK);
        }
    }
    let i = finish(ctx, &client, op, name).await?;
    ctx.out.document(&i, || in_words(&i), || name.to_owned())?;
    Ok(exit::OK)
}

/// Follows a change to its end. One that fails is taken back by the engine: waits for that too, so that it can be said.
///
/// # Errors
/// What the work failed with.
pub async fn finish(ctx: &Ctx<'_>, c: &Client, op: Operation, name: &str) -> Result<Instance, Failure> {
    let op = if op.done { op } else { follow::operation(c, ctx.out, &op.name, ctx.limit()).await? };
    if let Err(f) = follow::outcome(&op) {
        if let Ok(i) = get(c, ctx.full(name)).await {
            taken_back(ctx, c, &i, &op.name).await;
        }
        return Err(f);
    }
    get(c, ctx.full(name)).await
}

async fn taken_back(ctx: &Ctx<'_>, c: &Client, i: &Instance, failed: &str) {
    if !i.current_operation.is_empty() && i.current_operation != failed {
        ctx.out.note("taking back what was made ...");
        let back = follow::operation(c, ctx.out, &i.current_operation, ctx.limit()).await;
        if !back.is_ok_and(|o| follow::outcome(&o).is_ok()) {
            let op = follow::short(&i.current_operation).to_owned();
            return ctx.out.note(format!("still being taken back: sypctl op watch {op}"));
        }
    }
    ctx.out.note(format!("{} served all the time and serves on", i.active_revision));
}

/// One line after a change.
pub fn in_words(i: &Instance) -> String {
    let ready = i.conditions.iter().any(|c| c.r#type == "Ready" && c.status() == Status::True);
    let cost = i.cost.clone().unwrap_or_default();
    format!(
        "{} serves revision {}{}, {} an hour",
        parse::short_name(&i.name),
        i.active_revision,
        if ready { "" } else { " (not ready)" },
        render::rate(&cost)
    )
}
