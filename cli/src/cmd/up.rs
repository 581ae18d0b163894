//! `sypctl up`: an image becomes an instance.
use super::{Ctx, aws::Aws, choices, get, kubernetes::Kubernetes, request_id};
use crate::{
    args::Work,
    client::Client,
    exit,
    failure::{Done, Failure},
    follow, parse, plan, render, secrets,
};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};
use syp_proto::{
    google::longrunning::Operation,
    v1::{
        self, AccessPolicy, CreateInstanceRequest, Instance, InstanceSpec, Probe, Publish, Resources,
        access_policy::Effect, instance::State, instances_client::InstancesClient,
        plan_instance_request::Action,
    },
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl up shop --image nginx:1.27 --port 80 --on docker --allow user:alice@example.com
  sypctl up api --image my/api --port 8080 --replicas 2 --cpu .5 --memory 256Mi --env LEVEL=debug --ttl 8h -l team=ml
  sypctl up db --image my/db --port 5432 --secret PASSWORD=@./pw --secret-file /run/tls.key=@./key
  sypctl up shop --image shop:dev --on kind
  sypctl up shop --image nginx:1.27 --port 80 --on k8s:my-cluster --namespace web
  sypctl up shop --image nginx:1.27 --port 80 --on aws:eu-west-1 --domain shop.example.com
  sypctl up job --image my/job --port 9000 --protocol h2c --egress none -- --listen :9000

The same spec on a name that exists attaches to it; another spec is a conflict (exit code 7): 'sypctl set' changes what serves.")]
pub struct Args {
    /// Name of the instance
    #[arg(value_parser = parse::name)]
    name: String,
    /// The image
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// The port the image listens on [default: the one it exposes]
    #[arg(long, value_parser = parse::port, allow_negative_numbers = true)]
    port: Option<u16>,
    /// Where it runs: docker, k8s for the current cluster of your kubeconfig, k8s:CONTEXT, or aws:REGION
    #[arg(long, default_value = "docker", value_name = "TARGET")]
    on: String,
    #[command(flatten)]
    kubernetes: Kubernetes,
    #[command(flatten)]
    aws: Aws,
    /// Who may call it: user: group: domain: sub: claim: [default: only you]
    #[arg(long, value_parser = parse::member, value_name = "MEMBER")]
    allow: Vec<String>,
    /// Who may control it [default: only you]
    #[arg(long, value_parser = parse::member, value_name = "MEMBER")]
    operator: Vec<String>,
    /// Cores of a replica: 0.5 or 500m
    #[arg(long, value_parser = parse::cpu, allow_negative_numbers = true)]
    cpu: Option<String>,
    /// Memory of a replica: 256Mi
    #[arg(long, value_parser = parse::memory, allow_negative_numbers = true)]
    memory: Option<String>,
    /// How many of it; on a cluster also a range in which the cluster chooses, such as 1-5
    #[arg(long, value_parser = parse::range, value_name = "N|MIN-MAX", allow_negative_numbers = true)]
    replicas: Option<(i32, i32)>,
    /// With a range: how busy the app shall be, in percent of its --cpu [default: 70]
    #[arg(long, value_parser = parse::percent, value_name = "PERCENT", requires = "replicas", allow_negative_numbers = true)]
    target_cpu: Option<i32>,
    /// With a range: how many admitted requests a second a replica shall get; the cluster needs an external metrics API
    #[arg(long, value_parser = parse::rps, value_name = "N", requires = "replicas", allow_negative_numbers = true)]
    target_rps: Option<f64>,
    /// A variable for the image
    #[arg(long, value_parser = parse::variable, value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,
    /// Variables from a file, NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    #[command(flatten)]
    secrets: secrets::Flags,
    /// How the gate talks to the image
    #[arg(long, value_enum, default_value = "auto")]
    protocol: choices::Protocol,
    /// The image's own way out
    #[arg(long, value_enum, default_value = "on")]
    egress: choices::Egress,
    /// Whether only the gate may reach the image
    #[arg(long, value_enum, default_value = "enforced")]
    isolation: choices::Isolation,
    /// Whether it may change its own files
    #[arg(long, value_enum, default_value = "writable")]
    root: choices::Root,
    /// Ready when this path answers [default: when the port accepts]
    #[arg(long, value_parser = parse::path, value_name = "/PATH")]
    probe: Option<String>,
    /// Take it down by itself after this time
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    ttl: Option<Duration>,
    /// What it may cost, and what happens then: 5EUR/day:drain (notify, drain or destroy)
    #[arg(long, value_parser = parse::budget, value_name = "BUDGET")]
    budget: Option<syp_proto::v1::Budget>,
    /// How long requests in flight may take when it drains
    #[arg(long, value_parser = parse::duration, value_name = "TIME")]
    grace: Option<Duration>,
    /// Instead of the image's entry point
    #[arg(long, value_name = "WORD")]
    entrypoint: Vec<String>,
    /// A label
    #[arg(short = 'l', long = "label", value_parser = parse::key_value, value_name = "NAME=VALUE")]
    labels: Vec<(String, String)>,
    /// Publish the gate here instead of on 127.0.0.1; off loopback with TLS files
    #[arg(long, value_parser = parse::publish, value_name = "ADDR[:PORT]")]
    publish: Option<(String, u16)>,
    /// Certificate of the gate, PEM, on the engine's host
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Hand the caller's token to the image (it is stripped otherwise)
    #[arg(long)]
    forward_token: bool,
    /// Let browser apps of this origin call it (they still need a token)
    #[arg(long, value_parser = parse::origin, value_name = "ORIGIN")]
    cors: Vec<String>,
    /// Refuse to take it down without --force
    #[arg(long)]
    protect: bool,
    /// When somebody else changes or removes what was made for it
    #[arg(long, value_enum, default_value = "repair")]
    on_drift: choices::OnDrift,
    /// Only show what would be made and what it would cost
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
    /// Arguments for the image, instead of its own
    #[arg(last = true)]
    args: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// What it failed with.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let request = CreateInstanceRequest {
        parent: ctx.parent(),
        instance_id: a.name.clone(),
        instance: Some(instance(&a)?),
        request_id: request_id(),
        validate_only: false,
    };
    let client = ctx.client().await?;
    if a.plan {
        let p = plan::ask(&client, Action::Create(request)).await?;
        ctx.out.document(&p, || plan::text(&p, ctx.out.colours), || plan::names(&p))?;
        return Ok(exit::OK);
    }
    if !a.work.yes && ctx.out.may_ask() && !exists(&client, ctx.full(&a.name)).await {
        let p = plan::ask(&client, Action::Create(request.clone())).await?;
        ctx.out.note(plan::text(&p, false));
        if !ctx.out.ask(&format!("Serve {} as {}?", a.image, a.name), true) {
            return Err(Failure::new(exit::FAILED, "", "nothing was done", ""));
        }
    }
    let op = client
        .call_provider(request, |ch, r| async move { InstancesClient::new(ch).create_instance(r).await })
        .await?;
    if a.work.no_wait {
        return accepted(ctx, &op, &a.name);
    }
    let op = if op.done { op } else { follow::operation(&client, ctx.out, &op.name, ctx.limit()).await? };
    if let Err(f) = follow::outcome(&op) {
        cleaned(ctx, &client, &op).await;
        return Err(f);
    }
    let i = get(&client, ctx.full(&a.name)).await?;
    ctx.out.document(&i, || summary(&i), || a.name.clone())?;
    Ok(exit::OK)
}

async fn exists(c: &Client, name: String) -> bool {
    get(c, name).await.is_ok_and(|i| i.state() != State::Destroyed)
}

/// With `--no-wait`: the operation is the document.
///
/// # Errors
/// When it can't be printed.
pub fn accepted(ctx: &Ctx<'_>, op: &Operation, name: &str) -> Done {
    let table = || format!("{name}: accepted\nWatch it with: sypctl op watch {}", follow::short(&op.name));
    ctx.out.document(op, table, || follow::short(&op.name).to_owned())?;
    Ok(exit::OK)
}

/// A failed first `up` drains by itself: waits for that, so that it can be said.
async fn cleaned(ctx: &Ctx<'_>, c: &Client, failed: &Operation) {
    let uid = follow::uid(&failed.name);
    let Ok(i) = by_uid(ctx, c, failed, uid).await else { return };
    if i.state() == State::Serving || i.current_operation.is_empty() || i.current_operation == failed.name {
        return;
    }
    ctx.out.note("taking down what was made ...");
    match follow::operation(c, ctx.out, &i.current_operation, ctx.limit()).await {
        Ok(o) if follow::outcome(&o).is_ok() => ctx.out.note("taken down: nothing is left of it"),
        _ => ctx
            .out
            .note(format!("still being taken down: sypctl op watch {}", follow::short(&i.current_operation))),
    }
}

async fn by_uid(ctx: &Ctx<'_>, c: &Client, op: &Operation, uid: &str) -> Result<Instance, Failure> {
    let target = super::op::metadata(op).target;
    let name = parse::short_name(&target).to_owned();
    get(c, ctx.full(&format!("{name}@{uid}"))).await
}

fn instance(a: &Args) -> Result<Instance, Failure> {
    let mut env: BTreeMap<_, _> = match &a.env_file {
        Some(f) => {
            parse::env_file(f).map_err(|e| Failure::usage(format!("--env-file {e}")))?.into_iter().collect()
        }
        None => BTreeMap::new(),
    };
    env.extend(a.env.iter().cloned());
    let spec = InstanceSpec {
        image: a.image.clone(),
        port: i32::from(a.port.unwrap_or(0)),
        target: a.on.clone(),
        resources: (a.cpu.is_some() || a.memory.is_some()).then(|| Resources {
            cpu: a.cpu.clone().unwrap_or_default(),
            memory: a.memory.clone().unwrap_or_default(),
            ..Default::default()
        }),
        scaling: a.replicas.map(|r| choices::scaling(r, a.target_cpu, a.target_rps)),
        probe: a.probe.clone().map(|path| Probe { path, ..Default::default() }),
        env,
        secrets: a.secrets.read()?,
        access: policy(&a.allow, v1::Role::User),
        operators: policy(&a.operator, v1::Role::Operator),
        ttl: a.ttl.map(parse::proto_duration),
        budget: a.budget.clone(),
        drain_grace: a.grace.map(parse::proto_duration),
        protect: a.protect,
        report_drift: a.on_drift.reports(),
        entrypoint: a.entrypoint.clone(),
        args: a.args.clone(),
        protocol: a.protocol.asked() as i32,
        egress: a.egress.asked() as i32,
        isolation: a.isolation.asked() as i32,
        read_only_root: a.root.is_read_only(),
        publish: published(a)?,
        forward_token: a.forward_token,
        cors_origins: a.cors.clone(),
        domains: a.kubernetes.domain.clone(),
        kubernetes: a.kubernetes.asked(&a.on),
        aws: a.aws.asked(a.kubernetes.pulls_on_aws(&a.on)),
        ..Default::default()
    };
    Ok(Instance { labels: a.labels.iter().cloned().collect(), spec: Some(spec), ..Default::default() })
}

fn published(a: &Args) -> Result<Option<Publish>, Failure> {
    if a.publish.is_none() && a.tls_cert.is_none() {
        return Ok(None);
    }
    let file = |f: &Option<PathBuf>| -> Result<String, Failure> {
        let Some(f) = f else { return Ok(String::new()) };
        Ok(std::path::absolute(f)?.to_string_lossy().into_owned())
    };
    let (address, port) = a.publish.clone().unwrap_or_default();
    Ok(Some(Publish {
        address,
        port: i32::from(port),
        tls_cert_file: file(&a.tls_cert)?,
        tls_key_file: file(&a.tls_key)?,
    }))
}

fn policy(members: &[String], role: v1::Role) -> Option<AccessPolicy> {
    let rules = parse::rules(members, Effect::Allow, role, &[]);
    (!rules.is_empty()).then(|| AccessPolicy { rules, etag: String::new() })
}

fn summary(i: &Instance) -> String {
    let name = parse::short_name(&i.name);
    let tried =
        i.conditions.iter().any(|c| c.r#type == "AuthEnforced" && c.status() == v1::condition::Status::True);
    let endpoint =
        if tried { format!("{}   (401 without a token: verified)", i.endpoint) } else { i.endpoint.clone() };
    let spec = i.spec.clone().unwrap_or_default();
    let cost = i.cost.clone().unwrap_or_default();
    let cost = match &cost.rate_per_hour {
        None if cost.accuracy() == v1::cost_summary::Accuracy::UnknownPrice => cost.price_source,
        _ => format!(
            "{} an hour, {} a month if always on",
            render::rate(&cost),
            render::money_or(cost.projected_month.as_ref())
        ),
    };
    render::fields([
        (name, render::state(i.state).to_owned()),
        ("Endpoint", endpoint),
        ("Callers", render::callers(spec.access.as_ref())),
        ("Cost", cost),
        ("Until", i.expire_time.as_ref().map_or_else(String::new, |t| render::time(Some(t)))),
        ("Call it", format!("sypctl curl {name} /")),
        ("Take down", format!("sypctl down {name}")),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;
    use syp_proto::{google::r#type::Money, v1::instance_spec};

    fn parsed(words: &str) -> Instance {
        match Cli::try_parse_from(words.split_whitespace()).unwrap().command {
            Command::Up(a) => instance(&a).unwrap(),
            _ => panic!("not up"),
        }
    }

    #[test]
    fn flags_become_the_spec() {
        let i = parsed(
            "sypctl up shop --image x:1 --port 80 --allow a@x.org --allow claim:dept=rd --cpu .5 --replicas 2 --env K=V --egress none --isolation none --probe /h --ttl 8h --entrypoint sh -l team=a --publish 0.0.0.0:8443 --tls-cert /c --tls-key /k -- -c x",
        );
        let s = i.spec.unwrap();
        assert_eq!((s.image.as_str(), s.port, s.target.as_str()), ("x:1", 80, "docker"));
        assert_eq!(s.access.unwrap().rules.len(), 2);
        assert_eq!((s.operators, s.ttl.unwrap().seconds), (None, 8 * 3600));
        assert_eq!((s.scaling.unwrap().max, s.args.len(), s.entrypoint.len()), (2, 2, 1));
        assert_eq!(
            (s.egress, s.isolation),
            (instance_spec::Egress::Off as i32, instance_spec::Isolation::NotEnforced as i32)
        );
        let p = s.publish.unwrap();
        assert_eq!((p.address.as_str(), p.port, p.tls_key_file.as_str()), ("0.0.0.0", 8443, "/k"));
        assert_eq!((s.env["K"].as_str(), i.labels["team"].as_str()), ("V", "a"));
    }

    #[test]
    fn the_end_of_up_says_where_who_how_much_and_how_to_end_it() {
        let m = |nanos| Some(Money { currency_code: "EUR".into(), units: 0, nanos });
        let i = Instance {
            name: "projects/default/instances/shop".into(),
            state: State::Serving as i32,
            endpoint: "http://127.0.0.1:9000".into(),
            cost: Some(v1::CostSummary {
                rate_per_hour: m(2_100_000),
                projected_month: m(153_000_000),
                ..Default::default()
            }),
            spec: Some(InstanceSpec {
                access: policy(&["user:a@x.org".into()], v1::Role::User),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(
            summary(&i),
            "shop       SERVING\nEndpoint   http://127.0.0.1:9000\nCallers    user:a@x.org\nCost       0.0021 EUR an hour, 0.153 EUR a month if always on\nCall it    sypctl curl shop /\nTake down  sypctl down shop"
        );
    }
}
