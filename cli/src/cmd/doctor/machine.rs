//! The machine: room, clock, limits.
use super::{Check, Verdict, check, ok};
use crate::render;
use nix::sys::{
    resource::{Resource, getrlimit},
    statvfs::statvfs,
};
use std::{fs, path::Path};
use syp_engine::store;

/// An engine of many instances has a handful of files for each.
const FILES: u64 = 1024;
/// A gate and a holder take a few MiB each, an image what it takes.
const MEMORY_KIB: u64 = 256 << 10;
/// 2025-01-01.
const LONG_AGO: i64 = 1_735_689_600;

pub(super) fn checks(dir: &Path) -> Vec<Check> {
    let at = dir.ancestors().find(|d| d.exists()).unwrap_or(dir);
    vec![
        room("disk", at, "free some space: the store needs it, and images more"),
        inodes(at),
        memory(),
        files(),
        shared_memory(Path::new("/dev/shm")),
        clock(dir),
        ports(),
    ]
}

/// Free space of the file system of a path.
pub(super) fn room(what: &'static str, at: &Path, next: &'static str) -> Check {
    match store::room(at) {
        Ok(free) => {
            let verdict = match free >> 20 {
                0..100 => Verdict::Fail,
                100..1024 => Verdict::Warn,
                _ => Verdict::Ok,
            };
            let free = render::bytes(i64::try_from(free).unwrap_or(i64::MAX));
            check(what, verdict, format!("{free} free at {}", at.display()), next)
        }
        Err(e) => check(what, Verdict::Warn, format!("{}: {e}", at.display()), next),
    }
}

fn inodes(at: &Path) -> Check {
    let Ok(s) = statvfs(at) else { return ok("inodes", "unknown") };
    // some file systems have no fixed number
    if s.files() > 0 && s.files_available() < 1000 {
        return check(
            "inodes",
            Verdict::Fail,
            format!("{} files can still be made at {}", s.files_available(), at.display()),
            "remove what has very many small files: 'du --inodes -x / | sort -n | tail'",
        );
    }
    ok("inodes", "enough")
}

fn memory() -> Check {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:")?.split_whitespace().next()?.parse::<u64>().ok());
    let Some(kib) = free else { return ok("memory", "unknown") };
    let found = format!("{} available", render::bytes(i64::try_from(kib << 10).unwrap_or(i64::MAX)));
    let verdict = if kib < MEMORY_KIB { Verdict::Warn } else { Verdict::Ok };
    check("memory", verdict, found, "end something, or give instances a limit with --memory")
}

fn files() -> Check {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return ok("open files", "unknown") };
    let verdict = if soft < FILES { Verdict::Warn } else { Verdict::Ok };
    check(
        "open files",
        verdict,
        format!("{soft} at once"),
        "raise the limit: 'ulimit -n 65536', then 'sypctl server stop'",
    )
}

/// Secret files of instances lie there.
fn shared_memory(at: &Path) -> Check {
    const NEXT: &str = "mount a tmpfs there; until then use --secret (variables) instead of --secret-file";
    let is_memory =
        nix::sys::statfs::statfs(at).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    if !is_memory {
        return check(
            "secret files",
            Verdict::Warn,
            format!("{} is no memory file system", at.display()),
            NEXT,
        );
    }
    let probe = at.join(format!("syp-doctor-{}", std::process::id()));
    if let Err(e) = fs::write(&probe, b"") {
        return check("secret files", Verdict::Warn, format!("{}: {e}", at.display()), NEXT);
    }
    let _ = fs::remove_file(&probe);
    ok("secret files", at.display().to_string())
}

/// A clock that is behind the data it wrote, or behind this program, refuses good tokens and takes old ones.
fn clock(dir: &Path) -> Check {
    const NEXT: &str = "set the clock (NTP): tokens are good only for their time";
    let now = render::now_ms() / 1000;
    let newest =
        ["engine.log", "token"].iter().filter_map(|f| fs::metadata(dir.join(f)).ok()?.modified().ok()).max();
    let newest = newest
        .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok())
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(0));
    let found = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
    if now < LONG_AGO {
        return check("clock", Verdict::Fail, format!("{found}: that is long ago"), NEXT);
    }
    let behind = newest - now;
    if behind > 60 {
        let found = format!("{found}: {behind} s behind files that were written here");
        return check("clock", Verdict::Fail, found, NEXT);
    }
    ok("clock", found)
}

/// Gates are published on loopback; any free port will do.
fn ports() -> Check {
    match std::net::TcpListener::bind(("127.0.0.1", 0)) {
        Ok(_) => ok("ports", "127.0.0.1 has free ports"),
        Err(e) => check(
            "ports",
            Verdict::Fail,
            format!("127.0.0.1: {e}"),
            "gates are published there: free some ports, or bring up the loopback interface",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_and_no_memory_file_system_are_found() {
        assert_eq!(room("disk", Path::new("/proc"), "x").verdict, Verdict::Fail);
        assert_eq!(shared_memory(Path::new("/proc")).verdict, Verdict::Warn);
        let d = tempfile::tempdir().unwrap();
        assert_eq!(clock(d.path()).verdict, Verdict::Ok);
    }
}
