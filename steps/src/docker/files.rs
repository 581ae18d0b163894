//! Secrets that an app wants as files: in memory on this host, in a folder that only the engine's user enters, and bound one by one
//! into the replica. The bytes never reach a disk, and `docker inspect` shows a path.
//!
//! # Assumptions
//! The Docker engine is on this host (preflight and the gate's address ask for that anyway). After a reboot the folder is gone;
//! the repair that brings the instance back makes it again.
use super::client::{failed_io, key};
use bollard::models::{Mount, MountType};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use secrecy::ExposeSecret;
use serde_json::json;
use std::{
    fs::{DirBuilder, Metadata, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    id::{InstanceId, StoreId},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, Found, LedgerRow},
    v1,
};

pub(super) struct Files;

/// Memory that every Linux has as a file system.
const MEMORY: &str = "/dev/shm";
/// Kind of the step.
pub(super) const KIND: &str = "docker.files@1";

/// The files that a spec wants, each with its number.
fn wanted(spec: &v1::InstanceSpec) -> impl Iterator<Item = (usize, &v1::SecretRef)> {
    spec.secrets.iter().filter(|r| !r.file.is_empty()).enumerate()
}

/// Does a replica of this spec need any?
pub(super) fn needed(spec: &v1::InstanceSpec) -> bool {
    wanted(spec).next().is_some()
}

fn folder(key: &str) -> PathBuf {
    Path::new(MEMORY).join(key)
}

/// How the files get into a replica.
pub(super) fn mounts(cx: &StepCx, replica: i64) -> Vec<Mount> {
    let from = folder(&key(&cx.owner, &format!("files-{replica}")));
    wanted(&cx.spec)
        .map(|(n, r)| Mount {
            target: Some(r.file.clone()),
            source: Some(from.join(n.to_string()).to_string_lossy().into_owned()),
            typ: Some(MountType::BIND),
            read_only: Some(true),
            ..Default::default()
        })
        .collect()
}

/// Refuses where memory is not memory.
///
/// # Errors
/// `SECRET_FILES_UNSUPPORTED`.
pub(super) fn check(spec: &v1::InstanceSpec) -> Result<(), Failure> {
    if !needed(spec) || statfs(MEMORY).is_ok_and(|s| s.filesystem_type() == TMPFS_MAGIC) {
        return Ok(());
    }
    Err(failure(
        Class::Terminal,
        "SECRET_FILES_UNSUPPORTED",
        format!("{MEMORY} of this host is not in memory: a secret would be written to a disk"),
        "mount a tmpfs there, or hand the secret over as a variable: --secret NAME=@FILE",
    ))
}

/// A folder of ours: made by this user, and no link to somewhere else.
fn is_ours(m: &Metadata) -> bool {
    m.is_dir() && m.uid() == nix::unistd::geteuid().as_raw()
}

fn look(path: &Path) -> Result<Option<Metadata>, Failure> {
    match std::fs::symlink_metadata(path) {
        Ok(m) => Ok(Some(m)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed_io(path, &e)),
    }
}

fn write(path: &Path, value: &[u8]) -> std::io::Result<()> {
    // whoever the app runs as must read it; nobody else gets into the folder
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(path)?;
    file.write_all(value)
}

fn remove(path: &Path) -> Result<bool, Failure> {
    match look(path)? {
        Some(m) if is_ours(&m) => {
            std::fs::remove_dir_all(path).map_err(|e| failed_io(path, &e))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

impl Step for Files {
    fn kind(&self) -> &'static str {
        KIND
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        let path = folder(key);
        let Some(m) = look(&path)? else { return Ok(Observed::Absent) };
        let healthy = wanted(&cx.spec).all(|(n, _)| path.join(n.to_string()).exists());
        Ok(Observed::Present { handle: key.into(), ours: is_ours(&m), healthy })
    }

    async fn apply(&self, cx: &StepCx, key: &str) -> Result<Done, Failure> {
        let path = folder(key);
        match look(&path)? {
            Some(m) if !is_ours(&m) => return Err(syp_engine::name_conflict(&path.to_string_lossy())),
            Some(_) => {}
            None => DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed_io(&path, &e))?,
        }
        for (n, r) in wanted(&cx.spec) {
            let at = path.join(n.to_string());
            let value = cx.secrets.get(r).await?;
            // one that is there may be bound into a replica that runs: it is left alone when it is the same
            if std::fs::read(&at).is_ok_and(|held| held == value.expose_secret()) {
                continue;
            }
            if at.exists() {
                std::fs::remove_file(&at).map_err(|e| failed_io(&at, &e))?;
            }
            write(&at, value.expose_secret()).map_err(|e| failed_io(&at, &e))?;
        }
        Ok(Done { handle: key.into(), outputs: json!({}) })
    }

    async fn destroy(&self, _: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        remove(&folder(&row.key))
    }
}

/// Folders of a store, or of one instance of it: the listing asks the host, not our records.
///
/// # Errors
/// The host can't be asked.
pub(super) fn list(store: &StoreId, uid: Option<InstanceId>) -> Result<Vec<Found>, Failure> {
    let prefix = uid.map_or_else(|| format!("syp-{store}-"), |u| format!("syp-{store}-{}-", u.short()));
    let at = Path::new(MEMORY);
    let entries = match std::fs::read_dir(at) {
        Ok(entries) => entries,
        // without it no file can be there
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(failed_io(at, &e)),
    };
    let mut out = Vec::new();
    for e in entries {
        let e = e.map_err(|e| failed_io(at, &e))?;
        let name = e.file_name().to_string_lossy().into_owned();
        let (Some(node), Ok(m)) = (name.strip_prefix(&prefix), std::fs::symlink_metadata(e.path())) else {
            continue;
        };
        if is_ours(&m) && node.contains("files-") {
            let node = node.to_owned();
            out.push(Found { kind: KIND.into(), key: name.clone(), handle: name, node });
        }
    }
    Ok(out)
}

/// Removes one find of a listing.
///
/// # Errors
/// The host's.
pub(super) fn remove_found(f: &Found) -> Result<(), Failure> {
    remove(&folder(&f.key)).map(drop)
}
