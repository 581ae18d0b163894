//! `sypctl set`: another image, other settings, without a lost request.
use super::{Ctx, choices, get, request_id};
use crate::{
    args::Work,
    change::{self, Change},
    failure::{Done, Failure},
    parse, secrets,
};
use prost_types::FieldMask;
use std::{path::PathBuf, time::Duration};
use syp_proto::v1::{Instance, InstanceSpec, Probe, Resources, Rollout, UpdateInstanceRequest};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  sypctl set shop --image nginx:1.29
  sypctl set shop --env LEVEL=debug --unset-env OLD --memory 512Mi
  sypctl set shop --image my/shop:2 --plan
  sypctl set shop --secret PASSWORD=@./new          (a new value restarts only this instance)
  sypctl set shop --ttl 8h -l team=ml
  sypctl set shop --cors https://app.example.com
  sypctl set shop --on-drift report                 (changes by others are told, not put back)

A new image, port, size, environment, probe or command makes a revision: its replicas are started beside the old ones and
proven before they get requests. One that does not become ready is taken back by itself; the old one serves all the time.
Who may call is changed with 'sypctl access'.")]
pub struct Args {
    /// Name
    #[arg(value_parser = parse::name)]
    name: String,
    /// The image
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// The port the image listens on
    #[arg(long, value_parser = parse::port, allow_negative_numbers = true)]
    port: Option<u16>,
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
    /// Take a variable away
    #[arg(long, value_name = "NAME")]
    unset_env: Vec<String>,
    #[command(flatten)]
    secrets: secrets::Flags,
    /// Take a secret away, by its variable or path
    #[arg(long, value_name = "NAME")]
    unset_secret: Vec<String>,
    /// How the gate talks to the image
    #[arg(long, value_enum)]
    protocol: Option<choices::Protocol>,
    /// The image's own way out
    #[arg(long, value_enum)]
    egress: Option<choices::Egress>,
    /// Whether only the gate may reach the image
    #[arg(long, value_enum)]
    isolation: Option<choices::Isolation>,
    /// Whether it may change its own files
    #[arg(long, value_enum)]
    root: Option<choices::Root>,
    /// Ready when this path answers; an empty one: when the port accepts
    #[arg(long, value_parser = probe, value_name = "/PATH")]
    probe: Option<String>,
    /// Instead of the image's entry point
    #[arg(long, value_name = "WORD")]
    entrypoint: Vec<String>,
    /// Take it down by itself after this time, from now on
    #[arg(long, value_parser = parse::duration, value_name = "TIME", conflicts_with = "no_ttl")]
    ttl: Option<Duration>,
    /// Let it live until 'down'
    #[arg(long)]
    no_ttl: bool,
    /// What it may cost, and what happens then: 5EUR/day:drain (notify, drain or destroy)
    #[arg(long, value_parser = parse::budget, value_name = "BUDGET", conflicts_with = "no_budget")]
    budget: Option<syp_proto::v1::Budget>,
    /// Take the budget away
    #[arg(long)]
    no_budget: bool,
    /// Refuse to take it down without --force
    #[arg(long, conflicts_with = "no_protect")]
    protect: bool,
    /// Take the protection away
    #[arg(long)]
    no_protect: bool,
    /// When somebody else changes or removes what was made for it
    #[arg(long, value_enum)]
    on_drift: Option<choices::OnDrift>,
    /// Let browser apps of these origins call it, and of no others (they still need a token)
    #[arg(long, value_parser = parse::origin, value_name = "ORIGIN", conflicts_with = "no_cors")]
    cors: Vec<String>,
    /// Let browser apps of no other origin call it
    #[arg(long)]
    no_cors: bool,
    /// A label; NAME- takes it away
    #[arg(short = 'l', long = "label", value_parser = label, value_name = "NAME=VALUE")]
    labels: Vec<(String, Option<String>)>,
    /// Only when nothing has changed since this etag ('sypctl show -o json' has it)
    #[arg(long, default_value = "")]
    etag: String,
    /// Make the new revision and prove it, and wait before it serves: 'sypctl op resume' lets it
    #[arg(long)]
    hold: bool,
    /// Only show what would change and what it would cost
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    work: Work,
    /// Arguments for the image, instead of its own
    #[arg(last = true)]
    args: Vec<String>,
}

fn probe(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { parse::path(text) }
}

fn label(text: &str) -> Result<(String, Option<String>), String> {
    match text.strip_suffix('-') {
        Some(key) if !text.contains('=') && !key.is_empty() => Ok((key.to_owned(), None)),
        _ => parse::key_value(text).map(|(k, v)| (k, Some(v))),
    }
}

/// Runs it.
///
/// # Errors
/// What the engine said, or what the work failed with.
pub async fn run(ctx: &Ctx<'_>, a: Args) -> Done {
    let mut r = request(ctx, &a)?;
    if !a.secrets.is_empty() || !a.unset_secret.is_empty() {
        let new = a.secrets.read()?;
        let held = get(&ctx.client().await?, ctx.full(&a.name)).await?.spec.unwrap_or_default().secrets;
        let spec = r.instance.get_or_insert_default().spec.get_or_insert_default();
        spec.secrets = secrets::merged(&held, new, &a.unset_secret);
        r.update_mask.get_or_insert_default().paths.push("spec.secrets".into());
    }
    change::run(ctx, Change::Update(Box::new(r)), &a.name, a.plan, a.work).await
}

/// A request that changes these fields and no others.
pub fn update(name: String, instance: Instance, paths: Vec<String>) -> UpdateInstanceRequest {
    UpdateInstanceRequest {
        instance: Some(Instance { name, ..instance }),
        update_mask: Some(FieldMask { paths }),
        request_id: request_id(),
        ..Default::default()
    }
}

fn request(ctx: &Ctx<'_>, a: &Args) -> Result<UpdateInstanceRequest, Failure> {
    let mut spec = InstanceSpec::default();
    let mut paths: Vec<String> = Vec::new();
    let mut set = |path: &str| paths.push(format!("spec.{path}"));
    if let Some(image) = &a.image {
        spec.image.clone_from(image);
        set("image");
    }
    if let Some(port) = a.port {
        spec.port = i32::from(port);
        set("port");
    }
    let (cpu, memory) = (a.cpu.clone(), a.memory.clone());
    cpu.iter().for_each(|_| set("resources.cpu"));
    memory.iter().for_each(|_| set("resources.memory"));
    let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
    spec.resources = Some(Resources { cpu, memory, ..Default::default() });
    if let Some(r) = a.replicas {
        spec.scaling = Some(choices::scaling(r, a.target_cpu, a.target_rps));
        set("scaling");
    }
    let from_file = a.env_file.as_ref().map(|f| parse::env_file(f)).transpose();
    let from_file = from_file.map_err(|e| Failure::usage(format!("--env-file {e}")))?.unwrap_or_default();
    spec.env = from_file.into_iter().chain(a.env.iter().cloned()).collect();
    if let Some(both) = a.unset_env.iter().find(|k| spec.env.contains_key(*k)) {
        return Err(Failure::usage(format!("'{both}' is set and unset in one command")));
    }
    spec.env.keys().chain(&a.unset_env).for_each(|k| set(&format!("env.{k}")));
    if let Some(p) = a.protocol {
        spec.protocol = p.asked() as i32;
        set("protocol");
    }
    if let Some(e) = a.egress {
        spec.egress = e.asked() as i32;
        set("egress");
    }
    if let Some(i) = a.isolation {
        spec.isolation = i.asked() as i32;
        set("isolation");
    }
    if let Some(r) = a.root {
        spec.read_only_root = r.is_read_only();
        set("read_only_root");
    }
    if let Some(path) = &a.probe {
        spec.probe = Some(Probe { path: path.clone(), ..Default::default() });
        set("probe.path");
    }
    if !a.entrypoint.is_empty() {
        spec.entrypoint.clone_from(&a.entrypoint);
        set("entrypoint");
    }
    if !a.args.is_empty() {
        spec.args.clone_from(&a.args);
        set("args");
    }
    if a.ttl.is_some() || a.no_ttl {
        spec.ttl = a.ttl.map(parse::proto_duration);
        set("ttl");
    }
    if a.budget.is_some() || a.no_budget {
        spec.budget.clone_from(&a.budget);
        set("budget");
    }
    if a.protect || a.no_protect {
        spec.protect = a.protect;
        set("protect");
    }
    if let Some(d) = a.on_drift {
        spec.report_drift = d.reports();
        set("report_drift");
    }
    if !a.cors.is_empty() || a.no_cors {
        spec.cors_origins.clone_from(&a.cors);
        set("cors_origins");
    }
    paths.extend(a.labels.iter().map(|(k, _)| format!("labels.{k}")));
    if paths.is_empty() && a.secrets.is_empty() && a.unset_secret.is_empty() {
        return Err(Failure::usage("say what to change, such as --image; 'sypctl set --help' has all of it"));
    }
    let labels = a.labels.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect();
    let instance = Instance { spec: Some(spec), labels, etag: a.etag.clone(), ..Default::default() };
    let rollout = a.hold.then(|| Rollout { hold: true, ..Default::default() });
    Ok(UpdateInstanceRequest { rollout, ..update(ctx.full(&a.name), instance, paths) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        args::{Cli, Command},
        output::{Format, Out},
    };
    use clap::Parser;

    fn parsed(words: &str) -> Result<UpdateInstanceRequest, Failure> {
        let cli = Cli::try_parse_from(words.split_whitespace()).unwrap();
        let out = Out::new(Format::Json, true);
        match &cli.command {
            Command::Set(a) => request(&Ctx { global: &cli.global, out: &out }, a),
            _ => panic!("not set"),
        }
    }

    #[test]
    fn flags_become_fields_and_a_mask_that_names_only_them() {
        let r = parsed(
            "sypctl set shop --image b --cpu .5 --env A=1 --unset-env OLD -l team=x -l gone- --no-ttl -- -x",
        )
        .unwrap();
        assert_eq!(
            r.update_mask.unwrap().paths,
            [
                "spec.image",
                "spec.resources.cpu",
                "spec.env.A",
                "spec.env.OLD",
                "spec.args",
                "spec.ttl",
                "labels.team",
                "labels.gone"
            ]
        );
        let i = r.instance.unwrap();
        assert_eq!((i.name.as_str(), i.labels.len()), ("projects/default/instances/shop", 1));
        assert_eq!(i.spec.unwrap().args, ["-x"]);
        assert!(parsed("sypctl set shop").is_err());
        assert!(parsed("sypctl set shop --env A=1 --unset-env A").is_err());
    }
}
