//! `sypctl server uninstall`: removes all that `server install` made, and what its engine made beside instances.
use super::{
    Ctx,
    install::{Made, call, may_change_services},
};
use crate::{
    client::{Client, Start},
    exit,
    failure::{Done, Failure},
    service::{NAME, Places},
};
use nix::unistd::User;
use std::{fs, io, path::Path};
use syp_proto::v1::{ListInstancesRequest, instances_client::InstancesClient};

/// Arguments of `server uninstall`.
#[derive(Debug, clap::Args)]
pub struct Uninstall {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// Leave the data directory (store, keys, receipts) and its user, for another installation; instances may go on
    #[arg(long)]
    keep_data: bool,
}

/// Removes it.
///
/// # Errors
/// Instances are left (nothing was removed then); what the system said.
pub async fn uninstall(ctx: &Ctx<'_>, a: Uninstall) -> Done {
    may_change_services("uninstall")?;
    let places = Places::below(Path::new("/"));
    let Some(made) = Made::read(&places) else {
        return Err(Failure::new(
            exit::NOT_FOUND,
            "NOT_INSTALLED",
            "no service of 'server install' is here",
            "'sypctl server stop' ends a local engine",
        ));
    };
    let data = places.data.display().to_string();
    // interrupted after its unit was gone: nothing was left then
    if !a.keep_data && places.unit.exists() {
        nothing_is_left(ctx, &places).await?;
    }
    let what = if a.keep_data { String::new() } else { format!(", with all records and receipts in {data}") };
    if !a.yes && ctx.out.may_ask() && !ctx.out.ask(&format!("Remove the service {NAME}{what}?"), false) {
        return Err(Failure::new(exit::INTERRUPTED, "CANCELLED", "nothing was removed", ""));
    }
    if places.unit.exists() {
        call("systemctl", &["disable", "--quiet", "--now", NAME])?;
        fs::remove_file(&places.unit)?;
    }
    call("systemctl", &["daemon-reload"])?;
    // a service that never failed has nothing to be forgotten
    let _ = call("systemctl", &["reset-failed", NAME]);
    let mut removed = vec![places.unit.display().to_string()];
    if !a.keep_data {
        removed.extend(gate_images(ctx).await);
        gone(fs::remove_dir_all(&places.data))?;
        removed.push(data);
        if made.user && User::from_name(NAME).map_err(io::Error::from)?.is_some() {
            call("userdel", &[NAME])?;
            removed.push(format!("user {NAME}"));
        }
    }
    if made.command && fs::read_link(&places.command).is_ok_and(|to| to == places.lib.join("sypctl")) {
        fs::remove_file(&places.command)?;
        removed.push(places.command.display().to_string());
    }
    // last: until here this command could be run again
    gone(fs::remove_dir_all(&places.lib))?;
    removed.push(places.lib.display().to_string());
    let text = format!("removed: {}", removed.join(", "));
    ctx.out.summary(&serde_json::json!({ "removed": removed }), &text, NAME)?;
    Ok(exit::OK)
}

fn gone(done: io::Result<()>) -> io::Result<()> {
    done.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
}

/// Nobody would know any more how to take down what is left.
async fn nothing_is_left(ctx: &Ctx<'_>, places: &Places) -> Result<(), Failure> {
    call("systemctl", &["start", NAME])?;
    let mut global = ctx.global.clone();
    (global.data_dir, global.server) = (Some(places.data.clone()), None);
    let client = Client::open(&global, Start::Never).await?;
    let request = ListInstancesRequest { parent: "projects/-".into(), page_size: 1000, ..Default::default() };
    let all = client
        .call(request, |ch, r| async move { InstancesClient::new(ch).list_instances(r).await })
        .await?
        .instances;
    if all.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = all.iter().take(10).map(|i| i.display_name.clone()).collect();
    Err(Failure::new(
        exit::NOT_ALLOWED,
        "INSTANCES_LEFT",
        format!("{} instances are there: {}", all.len(), names.join(", ")),
        format!(
            "'sypctl --data-dir {} --project - down --all' takes them down; --keep-data lets them be",
            places.data.display()
        ),
    ))
}

/// Images of gates that no container uses.
async fn gate_images(ctx: &Ctx<'_>) -> Vec<String> {
    match syp_steps::docker::remove_gate_images(&std::env::var("DOCKER_HOST").unwrap_or_default()).await {
        Ok(names) => names,
        Err(f) => {
            ctx.out
                .note(format!("images of gates may be left: {}; 'docker image rm' removes them", f.message));
            Vec::new()
        }
    }
}
