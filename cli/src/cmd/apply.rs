//! `sypctl apply`: instances as files say, created or changed; applied twice it does nothing.
use super::{Ctx, get, request_id, set};
use crate::{
    args::Work,
    change::{self, Change},
    client::Client,
    exit,
    failure::{Done, Failure},
    follow, manifest,
    manifest::Manifest,
    output, parse, plan,
};
use std::path::PathBuf;
use syp_proto::{
    google::longrunning::Operation,
    v1::{
        CreateInstanceRequest, Instance, instance::State, instances_client::InstancesClient,
        plan_instance_request::Action,
    },
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl apply -f syp.yaml
  sypctl apply -f deploy/            (every .yaml, .yml and .json file in it)
  sypctl apply -f syp.yaml --plan
  cat syp.yaml | sypctl apply -f -

A file holds one instance or several ('---' between them):
  apiVersion: syp.v1
  kind: Instance
  name: shop
  labels: {team: ml}
  allow: [user:alice@example.com, group:ml@example.com]
  secrets: [{env: PASSWORD, from: ./pw}, {file: /run/tls.key, secret: tls-key}]
  spec:
    image: nginx:1.27
    port: 80
    target: docker
    scaling: {min: 2}

What a file does not say of a revision goes back to its default. Access, operators, time to live and protection that it does not
name stay as they are. All files are read and checked before anything is changed.")]
pub struct Args {
    /// A file, a folder, or - for standard input; may be repeated
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Only show what would change and what it would cost
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
}

/// What is to be done for one manifest.
enum Step {
    Create(Box<CreateInstanceRequest>),
    Change(Change),
}

/// Runs it.
///
/// # Errors
/// What a file is wrong in, what the engine said, or what the work failed with: the worst of several.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let manifests = manifest::read(&a.files)?;
    let client = ctx.client().await?;
    let mut steps = Vec::new();
    for m in manifests {
        let there = get(&client, ctx.full(&m.name)).await;
        let there = there.is_ok_and(|i| i.state() != State::Destroyed);
        steps.push((m.name.clone(), step(ctx, m, there)));
    }
    // everything is looked at before anything is changed
    let mut plans = Vec::new();
    for (name, s) in &steps {
        let action = match s {
            Step::Create(r) => Action::Create(CreateInstanceRequest::clone(r)),
            Step::Change(change) => change.action(),
        };
        plans.push(plan::ask(&client, action).await.map_err(|f| f.about(name))?);
    }
    if a.plan {
        if let [p] = &plans[..] {
            ctx.out.document(p, || plan::text(p, ctx.out.colours), || plan::names(p))?;
            return Ok(exit::OK);
        }
        return all_plans(ctx, &steps, &plans);
    }
    if !a.work.yes && ctx.out.may_ask() && plans.iter().any(|p| !p.no_change) {
        for ((name, _), p) in steps.iter().zip(&plans) {
            ctx.out.note(format!("{name}:\n{}", plan::text(p, false)));
        }
        if !ctx.out.ask("Apply?", true) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
    }
    let unchanged: Vec<bool> = plans.iter().map(|p| p.no_change).collect();
    go(ctx, &client, steps, &unchanged, a.work.no_wait).await
}

fn step(ctx: &Ctx<'_>, m: Manifest, there: bool) -> Step {
    if there {
        let i = Instance { labels: m.labels, spec: Some(m.spec), ..Default::default() };
        return Step::Change(Change::Update(Box::new(set::update(ctx.full(&m.name), i, vec!["*".into()]))));
    }
    Step::Create(Box::new(CreateInstanceRequest {
        parent: ctx.parent(),
        instance_id: m.name,
        instance: Some(Instance { labels: m.labels, spec: Some(m.spec), ..Default::default() }),
        request_id: request_id(),
        validate_only: false,
    }))
}

fn all_plans(ctx: &Ctx<'_>, steps: &[(String, Step)], plans: &[syp_proto::v1::Plan]) -> Done {
    if matches!(ctx.out.format, output::Format::Json | output::Format::Yaml) {
        let all: Result<Vec<_>, _> = plans.iter().map(output::json).collect();
        ctx.out.value(&serde_json::json!({ "plans": all? }))?;
        return Ok(exit::OK);
    }
    for ((name, _), p) in steps.iter().zip(plans) {
        ctx.out.data(format!("{name}:\n{}", plan::text(p, ctx.out.colours)));
    }
    Ok(exit::OK)
}

/// All are begun before the first one is waited for; one that fails does not keep the others from being told.
async fn go(
    ctx: &Ctx<'_>,
    c: &Client,
    steps: Vec<(String, Step)>,
    unchanged: &[bool],
    no_wait: bool,
) -> Done {
    let mut begun: Vec<(String, Result<Operation, Failure>)> = Vec::new();
    for (name, s) in steps {
        let op = match s {
            Step::Create(r) => {
                c.call_provider(*r, |ch, r| async move { InstancesClient::new(ch).create_instance(r).await })
                    .await
            }
            Step::Change(change) => change.send(c).await,
        };
        begun.push((name, op));
    }
    let (mut done, mut worst) = (Vec::new(), None::<Failure>);
    for ((name, op), same) in begun.into_iter().zip(unchanged) {
        let ended = match op {
            Ok(op) if no_wait => {
                ctx.out.note(format!("{name}: accepted, sypctl op watch {}", follow::short(&op.name)));
                get(c, ctx.full(&name)).await
            }
            Ok(op) => change::finish(ctx, c, op, &name).await,
            Err(f) => Err(f),
        };
        match ended {
            Ok(i) => {
                if matches!(ctx.out.format, output::Format::Table) {
                    let words = if *same { "is so already: " } else { "" };
                    ctx.out.data(format!("{words}{}", change::in_words(&i)));
                } else if ctx.out.format == output::Format::Name {
                    ctx.out.data(parse::short_name(&i.name));
                }
                done.push(i);
            }
            Err(f) if matches!(f.exit(), exit::INTERRUPTED) => return Err(f),
            Err(f) => {
                if let Some(earlier) = worst.replace(f.about(&name)) {
                    ctx.out.failure(&earlier);
                }
            }
        }
    }
    if matches!(ctx.out.format, output::Format::Json | output::Format::Yaml) {
        match &done[..] {
            [one] if worst.is_none() => ctx.out.document(one, String::new, String::new)?,
            all => {
                let all: Result<Vec<_>, _> = all.iter().map(output::json).collect();
                ctx.out.value(&serde_json::json!({ "instances": all? }))?;
            }
        }
    }
    worst.map_or(Ok(exit::OK), Err)
}
