//! The data directory and what lies in it, and the binaries.
use super::{Check, Verdict, check, ok};
use crate::{backup, paths};
use nix::sys::statfs::{self, FsType};
use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
};

/// How much of the end of a log is looked at.
const LOG_TAIL: u64 = 16 << 10;

pub(super) fn checks(dir: &Path) -> Vec<Check> {
    let mut all = vec![gate(), command(), directory(dir)];
    if dir.is_dir() {
        all.push(file_system(dir));
        all.push(keys(dir));
        all.push(restore(dir));
        all.push(log(dir));
    }
    all.push(socket(dir));
    all
}

fn gate() -> Check {
    const NEXT: &str = "the binary syp-gate must lie beside sypctl: ./quickstart builds both";
    let beside = std::env::current_exe().ok().and_then(|e| e.parent().map(|p| p.join("syp-gate")));
    let path = std::env::var_os("SYP_GATE").map(PathBuf::from).or(beside).unwrap_or_default();
    let here = path.display();
    if !path.is_file() {
        return check("gate", Verdict::Fail, format!("{here} is not there"), NEXT);
    }
    let said = match Command::new(&path).arg("--version").output() {
        Err(e) => return check("gate", Verdict::Fail, format!("{here} does not run: {e}"), NEXT),
        Ok(o) => String::from_utf8_lossy(&o.stdout).trim().to_owned(),
    };
    let version = said.strip_prefix("syp-gate ").unwrap_or_default();
    if version != crate::client::VERSION {
        let found = format!("{here} is of version '{version}', sypctl of {}", crate::client::VERSION);
        return check("gate", Verdict::Fail, found, "both come from one build: ./quickstart makes it");
    }
    ok("gate", format!("{here}, {version}"))
}

/// Is it this one that a shell would run?
fn command() -> Check {
    let Ok(me) = std::env::current_exe().and_then(fs::canonicalize) else { return ok("command", "unknown") };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let first = std::env::split_paths(&path).map(|d| d.join("sypctl")).find(|p| p.is_file());
    match first.and_then(|p| fs::canonicalize(p).ok()) {
        Some(other) if other != me => check(
            "command",
            Verdict::Warn,
            format!("this is {}, and 'sypctl' alone runs {}", me.display(), other.display()),
            "remove one of them, or change PATH: two versions on one data directory are confusing",
        ),
        _ => ok("command", me.display().to_string()),
    }
}

fn directory(dir: &Path) -> Check {
    if !dir.exists() {
        return ok("data", format!("{} will be made", dir.display()));
    }
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    if let Err(e) = fs::write(&probe, b"") {
        return check(
            "data",
            Verdict::Fail,
            format!("{}: {e}", dir.display()),
            "make it writable for you, or choose another with --data-dir",
        );
    }
    let _ = fs::remove_file(&probe);
    let mode = fs::metadata(dir).map_or(0, |m| m.permissions().mode() & 0o777);
    let open = mode & 0o077 != 0;
    check(
        "data",
        if open { Verdict::Warn } else { Verdict::Ok },
        format!("{}, mode {mode:03o}", dir.display()),
        "others can look into it: chmod 700",
    )
}

/// Where a lock or a sync may mean less than it says, or where a reboot takes all of it.
fn file_system(dir: &Path) -> Check {
    // linux/magic.h, and cifs and 9p of their own headers
    const SHARED: [FsType; 4] =
        [statfs::NFS_SUPER_MAGIC, statfs::SMB_SUPER_MAGIC, FsType(0xff53_4d42), FsType(0x0102_1997)];
    let Ok(found) = statfs::statfs(dir) else { return ok("data's disk", "unknown") };
    let kind = found.filesystem_type();
    if SHARED.contains(&kind) {
        return check(
            "data's disk",
            Verdict::Warn,
            "a network file system: locks and syncs may not hold what the store relies on",
            "keep the data directory on a disk of this machine",
        );
    }
    if kind == statfs::TMPFS_MAGIC {
        return check(
            "data's disk",
            Verdict::Warn,
            "memory: a reboot takes all records and keys, and what serves goes on unknown",
            "choose a directory on a disk with --data-dir",
        );
    }
    ok("data's disk", "local")
}

/// Without its keys a store is worth little.
fn keys(dir: &Path) -> Check {
    const RESTORE: &str = "bring it back from a backup ('sypctl server restore'); without it sealed secrets can't be opened, and gates that run don't know the engine";
    let key = dir.join("engine.key");
    let bad = |found: String, next: &str| check("keys", Verdict::Fail, found, next);
    match fs::metadata(&key) {
        Err(_) if dir.join("store/db").exists() => {
            return bad(format!("there is a store and no {}", key.display()), RESTORE);
        }
        Err(_) => return ok("keys", "will be made"),
        Ok(m) if m.len() != 32 => {
            return bad(format!("{} has {} bytes, not 32", key.display(), m.len()), RESTORE);
        }
        Ok(_) => {}
    }
    for name in ["engine.key", "local-issuer.key", "login.json", "token"] {
        let Ok(m) = fs::metadata(dir.join(name)) else { continue };
        if m.mode() & 0o077 != 0 {
            let found =
                format!("{} can be read by others (mode {:03o})", dir.join(name).display(), m.mode() & 0o777);
            return bad(found, "chmod 600, and think about who may have read it");
        }
    }
    ok("keys", "there, and only for their owner")
}

fn restore(dir: &Path) -> Check {
    if backup::unfinished(dir) {
        return check(
            "restore",
            Verdict::Fail,
            "a restore was interrupted: no engine starts on what is half",
            "run 'sypctl server restore FILE' once more",
        );
    }
    ok("restore", "none is open")
}

/// The last thing that the local engine said.
fn log(dir: &Path) -> Check {
    let path = dir.join("engine.log");
    let read = || -> std::io::Result<String> {
        let mut f = fs::File::open(&path)?;
        let len = f.metadata()?.len();
        f.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        f.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let Some(last) = text.lines().rfind(|l| !l.trim().is_empty()) else { return ok("log", "empty") };
    let v: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
    let panicked = text.lines().rev().take(20).any(|l| l.contains("panicked at"));
    let message = v["error"]["message"].as_str().map(str::to_owned);
    let Some(message) = message.or_else(|| panicked.then(|| "a panic: please report it".to_owned())) else {
        return ok("log", path.display().to_string());
    };
    check(
        "log",
        Verdict::Warn,
        format!("the local engine's last words: {message}"),
        format!("{} has what came before; 'sypctl explain REASON' has what to do", path.display()),
    )
}

fn socket(dir: &Path) -> Check {
    let s = paths::socket_path(dir);
    let near = s.starts_with(dir);
    let found = if near {
        s.display().to_string()
    } else {
        format!("{} (the data directory's path is too long for a socket)", s.display())
    };
    if s.as_os_str().len() > 107 {
        return check("socket", Verdict::Fail, found, "choose a shorter --data-dir");
    }
    let owner = s.parent().and_then(|p| fs::metadata(p).ok()).map(|m| m.uid());
    let me = nix::unistd::getuid().as_raw();
    if owner.is_some_and(|o| o != me && me != 0) {
        return check(
            "socket",
            Verdict::Fail,
            format!("{found}: its folder belongs to somebody else"),
            "use your own --data-dir, or the engine's address with --server",
        );
    }
    ok("socket", found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_data_directory_is_a_warning() {
        let d = tempfile::tempdir().unwrap();
        let p = d.path().join("x");
        assert_eq!(directory(&p).verdict, Verdict::Ok);
        fs::create_dir(&p).unwrap();
        fs::set_permissions(&p, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(directory(&p).verdict, Verdict::Warn);
        fs::set_permissions(&p, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(directory(&p).verdict, Verdict::Ok);
    }
}
