//! `sypctl server install`: the engine as a service of systemd, under a user of its own.
use super::Ctx;
use crate::{
    exit,
    failure::{Done, Failure},
    local, paths,
    server::Flags,
    service::{NAME, Places, Unit},
};
use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// Arguments of `server install`.
#[derive(Debug, clap::Args)]
pub struct Install {
    /// For the engine
    #[command(flatten)]
    flags: Flags,
    /// Only print the unit
    #[arg(long)]
    print: bool,
}

/// What was made, so that all of it can be removed and nothing else is.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Made {
    pub user: bool,
    pub command: bool,
}

/// Its place among the binaries.
const MADE: &str = "installed.json";
const BINARIES: [&str; 2] = ["sypctl", "syp-gate"];

// === impl Made ===

impl Made {
    /// What an installation made; none where nothing is installed.
    pub fn read(places: &Places) -> Option<Self> {
        serde_json::from_slice(&fs::read(places.lib.join(MADE)).ok()?).ok()
    }

    fn write(self, places: &Places) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(&self).map_err(anyhow::Error::from)?;
        Ok(paths::write_private(&places.lib.join(MADE), &bytes)?)
    }
}

/// Installs it, or brings what is installed to this version and these flags.
///
/// # Errors
/// Before anything is touched: no systemd, not root, files that are not there, a unit that somebody else made.
pub async fn install(ctx: &Ctx<'_>, a: Install) -> Done {
    let places = Places::below(Path::new("/"));
    let unit = Unit { docker_group: docker_group(), flags: a.flags.checked()? };
    for file in unit.flags.tls().into_iter().flat_map(|(cert, key)| [cert, key]) {
        fs::File::open(file).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))?;
    }
    if a.print {
        ctx.out.data(unit.text(&places));
        return Ok(exit::OK);
    }
    may_change_services("install")?;
    let binaries = binaries()?;
    let before = Made::read(&places);
    if before.is_none() && places.unit.exists() {
        return Err(Failure::new(
            exit::CONFLICT,
            "SERVICE_CONFLICT",
            format!("{} is there, and 'server install' did not make it", places.unit.display()),
            "remove it first, or keep it and run the engine yourself",
        ));
    }
    let mut made = before.unwrap_or_default();
    // its list first: what is interrupted here can be uninstalled
    fs::create_dir_all(&places.lib)?;
    made.user |= User::from_name(NAME).map_err(std::io::Error::from)?.is_none();
    made.command |= fs::symlink_metadata(&places.command).is_err_and(|e| e.kind() == ErrorKind::NotFound);
    made.write(&places)?;
    if made.user && User::from_name(NAME).map_err(std::io::Error::from)?.is_none() {
        let home = places.data.display().to_string();
        call(
            "useradd",
            &[
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir",
                &home,
                "--shell",
                "/usr/sbin/nologin",
                NAME,
            ],
        )?;
    }
    for (name, from) in BINARIES.iter().zip(&binaries) {
        replaced(from, &places.lib.join(name))?;
    }
    if made.command && fs::symlink_metadata(&places.command).is_err() {
        places.command.parent().map_or(Ok(()), fs::create_dir_all)?;
        std::os::unix::fs::symlink(places.lib.join("sypctl"), &places.command)?;
    }
    fs::write(&places.unit, unit.text(&places))?;
    fs::set_permissions(&places.unit, fs::Permissions::from_mode(0o644))?;
    call("systemctl", &["daemon-reload"])?;
    call("systemctl", &["enable", "--quiet", NAME])?;
    ctx.out.note("starting the service");
    if call("systemctl", &["restart", NAME]).is_err() {
        return Err(not_started());
    }
    if local::connect(&paths::socket_path(&places.data)).await.is_err() {
        return Err(not_started());
    }
    let data = places.data.display();
    let word = if before.is_some() { "brought up to date" } else { "installed" };
    let doc = serde_json::json!({
        "unit": places.unit, "binaries": places.lib, "data": places.data, "user": NAME, "command": places.command,
    });
    ctx.out.summary(
        &doc,
        &format!("{word}: the service {NAME}, its data in {data}, its user {NAME}"),
        NAME,
    )?;
    ctx.out.note(format!(
        "as root: 'sypctl --data-dir {data} ls' (or SYP_DATA_DIR={data}); its log: 'journalctl -u {NAME}'; docker logins for its pulls \
         belong into {data}/.docker"
    ));
    if unit.flags.listen.is_none() {
        ctx.out.note("only this machine's root reaches it: with --listen and --issuer others do, with their own sign-on");
    }
    Ok(exit::OK)
}

/// A way to systemd, and the right to use it.
///
/// # Errors
/// `NO_SYSTEMD`, `PERMISSION_DENIED`.
pub(super) fn may_change_services(what: &str) -> Result<(), Failure> {
    if !sd_notify::booted().unwrap_or(false) {
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            "NO_SYSTEMD",
            "systemd does not run this machine",
            "let your own supervisor run 'sypctl server run'; 'sypctl server install --print' shows what it should set",
        ));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::new(
            exit::NOT_ALLOWED,
            "PERMISSION_DENIED",
            "services of this machine belong to root",
            format!(
                "'sudo sypctl server {what}'; without root the local engine needs no installation: any command starts it"
            ),
        ));
    }
    Ok(())
}

/// Whose members may use the Docker engine.
fn docker_group() -> Option<String> {
    let of_socket = fs::metadata("/var/run/docker.sock").ok().filter(|m| m.mode() & 0o060 == 0o060);
    let group = match of_socket {
        Some(m) => Group::from_gid(m.gid().into()),
        None => Group::from_name("docker"),
    };
    group.ok().flatten().map(|g| g.name).filter(|name| name != "root")
}

/// `sypctl` and `syp-gate`, both of this version.
fn binaries() -> Result<[PathBuf; 2], Failure> {
    let me = fs::canonicalize(std::env::current_exe()?)?;
    let gate = std::env::var_os("SYP_GATE").map_or_else(|| me.with_file_name("syp-gate"), PathBuf::from);
    if !gate.is_file() {
        return Err(Failure::new(
            exit::FAILED,
            "GATE_BINARY",
            format!("{} is not there", gate.display()),
            "the binary syp-gate must lie beside sypctl: ./quickstart builds both",
        ));
    }
    Ok([me, gate])
}

/// Puts a program in its place at once: one that runs goes on as it is.
fn replaced(from: &Path, to: &Path) -> Result<(), Failure> {
    if fs::canonicalize(to).is_ok_and(|t| t == from) {
        return Ok(());
    }
    let new = to.with_extension("new");
    fs::copy(from, &new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    Ok(fs::rename(&new, to)?)
}

/// Runs a program of the system.
///
/// # Errors
/// What it said.
pub(super) fn call(program: &str, args: &[&str]) -> Result<(), Failure> {
    let what = format!("{program} {}", args.join(" "));
    let failed = |why: String| {
        Failure::new(
            exit::FAILED,
            "SERVICE_FAILED",
            format!("'{what}' failed: {}", why.trim()),
            "once that works, run this command again: it goes on where it stopped",
        )
    };
    let out = Command::new(program).args(args).output().map_err(|e| failed(e.to_string()))?;
    if out.status.success() {
        return Ok(());
    }
    Err(failed(String::from_utf8_lossy(&out.stderr).into_owned()))
}

fn not_started() -> Failure {
    let lines = Command::new("journalctl").args(["-u", NAME, "-n", "10", "-o", "cat", "--no-pager"]).output();
    let lines = lines.map(|o| String::from_utf8_lossy(&o.stdout).trim_end().to_owned()).unwrap_or_default();
    Failure::new(
        exit::UNAVAILABLE,
        "ENGINE_START_FAILED",
        format!("the service does not start. Its last lines:\n{lines}"),
        "put that right and run 'sypctl server install' again; 'sypctl server uninstall' takes it away",
    )
}
