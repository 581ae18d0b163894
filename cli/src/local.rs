//! The local engine: is it there, and if not, start it. Two commands at once start one.
use crate::{exit, failure::Failure, output, paths, server::log::put_aside};
use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::{net::UnixStream, time::Instant};

const WAIT: Duration = Duration::from_secs(20);
/// An engine that is told to stop takes up to 20 s to reach its next record.
const STOPPING: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Whoever waits longer is told for what.
const SOON: Duration = Duration::from_secs(1);
/// How often the kernel's list of locks is read before nobody is said to have one.
const LOOKS: usize = 3;
/// Another command may wait for an old engine and then start one, twice at the worst.
const TURN: Duration = Duration::from_secs(90);
/// Between two starts, where the store is held by a process that can't be seen.
const AGAIN: Duration = Duration::from_millis(500);

/// Connects to the engine's socket. Only an engine of our own user (or root's) is believed; root believes that of whose folder
/// it was told to use, such as the service's.
///
/// # Errors
/// When nobody answers, or somebody else.
pub async fn connect(socket: &Path) -> io::Result<UnixStream> {
    let s = UnixStream::connect(socket).await?;
    let theirs = s.peer_cred()?.uid();
    let own = nix::unistd::getuid().as_raw();
    let owner = || Some(fs::metadata(socket.parent()?).ok()?.uid());
    if theirs != own && theirs != 0 && !(own == 0 && owner() == Some(theirs)) {
        return Err(io::Error::other(format!("{} belongs to another user ({theirs})", socket.display())));
    }
    Ok(s)
}

/// The process that has the store open: an engine that is coming up, at work, stopping, or stuck. The lock on the
/// store says so, not a file that could be old.
pub fn holder(data_dir: &Path) -> Option<i32> {
    // the kernel gives its list of locks a page at a time: one that moves between two pages is not in what is read
    (0..LOOKS).find_map(|_| listed(data_dir))
}

fn listed(data_dir: &Path) -> Option<i32> {
    let files: Vec<_> = fs::read_dir(data_dir.join("store"))
        .ok()?
        .filter_map(|e| fs::metadata(e.ok()?.path()).ok())
        .filter(fs::Metadata::is_file)
        .map(|m| (m.dev(), m.ino()))
        .collect();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let held = locks.lines().filter_map(lock).filter(|(_, ino)| files.iter().any(|f| f.1 == *ino));
    held.map(|(pid, _)| pid).find(|pid| has_open(*pid, &files))
}

/// Process and file of a line such as `1: FLOCK  ADVISORY  WRITE 708 08:01:5678 0 EOF`.
fn lock(line: &str) -> Option<(i32, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let &[_, _, _, "WRITE", pid, file, ..] = words.as_slice() else { return None };
    Some((pid.parse().ok().filter(|p| *p > 0)?, file.rsplit(':').next()?.parse().ok()?))
}

/// Numbers of files are used again on other disks: does it really have one of these open?
fn has_open(pid: i32, files: &[(u64, u64)]) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|e| fs::metadata(e.path()).ok()).any(|m| files.contains(&(m.dev(), m.ino())))
}

/// Why nobody answers on the socket, where nothing may be started.
pub fn not_there(data_dir: &Path) -> Failure {
    let Some(pid) = holder(data_dir) else { return not_running(data_dir) };
    Failure::new(
        exit::UNAVAILABLE,
        "ENGINE_NOT_ANSWERING",
        format!("the local engine (pid {pid}) is starting or stopping: it takes no calls"),
        patience(data_dir),
    )
}

/// What to say when it was asked and has not answered.
pub fn silent(data_dir: &Path, limit: Duration) -> Failure {
    let who = holder(data_dir).map_or_else(String::new, |pid| format!(" (pid {pid})"));
    Failure::new(
        exit::UNAVAILABLE,
        "ENGINE_NOT_ANSWERING",
        format!("the local engine{who} has not answered within {}", humantime::format_duration(limit)),
        patience(data_dir),
    )
}

/// What to do with an engine that says nothing.
fn patience(data_dir: &Path) -> String {
    format!(
        "its log is {}; give it more time with --timeout, or end it with 'sypctl server stop --force': instances go on \
         serving, and the work goes on at its next start",
        data_dir.join("engine.log").display()
    )
}

/// What to say when it does not run and may not be started.
pub fn not_running(data_dir: &Path) -> Failure {
    Failure::new(
        exit::UNAVAILABLE,
        "ENGINE_NOT_RUNNING",
        format!("no local engine runs on {}", data_dir.display()),
        "any other command starts it, such as 'sypctl ls'",
    )
}

/// Makes sure that an engine answers on the socket.
///
/// # Errors
/// With exit code 11 and the end of the engine's log when it does not come up.
pub async fn ensure(data_dir: &Path, socket: &Path, quiet: bool) -> Result<(), Failure> {
    if connect(socket).await.is_ok() {
        return Ok(());
    }
    paths::private_dir(data_dir)
        .map_err(|e| failed(data_dir, &format!("{}: {e}", data_dir.display()), ""))?;
    let (begun, mut told) = (Instant::now(), false);
    let lock = paths::append_private(&data_dir.join("start.lock"))?;
    // who has the lock starts it; the others wait for the socket or for the lock
    while let Err(e) = lock.try_lock() {
        if let TryLockError::Error(e) = e {
            return Err(e.into());
        }
        if connect(socket).await.is_ok() {
            return Ok(());
        }
        if begun.elapsed() > SOON {
            tell_once(&mut told, quiet, "another command, which starts the local engine");
        }
        if begun.elapsed() > TURN {
            return Err(failed(data_dir, "another command is starting it and does not get on", ""));
        }
        tokio::time::sleep(POLL).await;
    }
    let begun = Instant::now();
    loop {
        if connect(socket).await.is_ok() || old_one(data_dir, socket, begun, &mut told, quiet).await? {
            return Ok(());
        }
        let end = Instant::now() + WAIT;
        let log = data_dir.join("engine.log");
        let from = prepare_log(&log)?;
        let mut child = spawn(data_dir, &log)?;
        match await_socket(&mut child, socket, &log, from, end, data_dir).await? {
            Start::Up(pid) => {
                if pid == Some(child.id()) {
                    let what = format!(
                        "started the local engine (pid {}, data in {})",
                        child.id(),
                        data_dir.display()
                    );
                    output::talk(quiet, &what);
                }
                return Ok(());
            }
            Start::Busy(said) if begun.elapsed() > STOPPING => {
                return Err(failed(data_dir, "its store is in use", &said));
            }
            Start::Busy(_) => {
                tell_once(&mut told, quiet, "an engine that is ending, or whoever else has the store");
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

/// Waits for an engine that has the store but takes no calls: it comes up (true), or ends (false).
async fn old_one(
    data_dir: &Path,
    socket: &Path,
    begun: Instant,
    told: &mut bool,
    quiet: bool,
) -> Result<bool, Failure> {
    while let Some(pid) = holder(data_dir) {
        if connect(socket).await.is_ok() {
            return Ok(true);
        }
        if begun.elapsed() > STOPPING {
            return Err(not_there(data_dir));
        }
        if begun.elapsed() > SOON {
            let who = format!("the local engine (pid {pid}), which is starting or stopping");
            tell_once(told, quiet, &who);
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(false)
}

fn tell_once(told: &mut bool, quiet: bool, who: &str) {
    if !std::mem::replace(told, true) {
        output::talk(quiet, &format!("waiting for {who}"));
    }
}

/// What became of a start.
enum Start {
    /// An engine answers: its pid.
    Up(Option<u32>),
    /// Another process has the store, one that comes up or ends: what the start said of it.
    Busy(String),
}

async fn await_socket(
    child: &mut Child,
    socket: &Path,
    log: &Path,
    from: u64,
    end: Instant,
    data_dir: &Path,
) -> Result<Start, Failure> {
    loop {
        if let Ok(s) = connect(socket).await {
            let pid = s.peer_cred().ok().and_then(|c| c.pid());
            return Ok(Start::Up(pid.and_then(|p| u32::try_from(p).ok())));
        }
        if child.try_wait()?.is_some() {
            let said = tail(log, from);
            if said.contains("STORE_BUSY") {
                return Ok(Start::Busy(said));
            }
            return Err(failed(data_dir, "it ended at once", &said));
        }
        if Instant::now() > end {
            return Err(failed(
                data_dir,
                &format!("no answer within {} s", WAIT.as_secs()),
                &tail(log, from),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn failed(data_dir: &Path, why: &str, said: &str) -> Failure {
    let said = said.trim_end();
    let message = if said.is_empty() { String::new() } else { format!("\n{said}") };
    Failure::new(
        exit::UNAVAILABLE,
        "ENGINE_START_FAILED",
        format!("the local engine did not start: {why}{message}"),
        format!(
            "the whole log is {}; 'sypctl doctor' looks for causes",
            data_dir.join("engine.log").display()
        ),
    )
}

fn spawn(data_dir: &Path, log: &Path) -> Result<Child, Failure> {
    let exe = std::env::current_exe()?;
    let inherited = inherited_descriptors();
    // std closes nothing that our own caller left open without close-on-exec (flock -> 9, test harnesses -> 3): a
    // shell does, so that nobody waits for the engine to end
    let mut c = if inherited.is_empty() {
        Command::new(&exe)
    } else {
        let closing: String = inherited.iter().map(|n| format!(" {n}>&-")).collect();
        let mut c = Command::new("/bin/sh");
        c.arg("-c").arg(format!("exec \"$0\" \"$@\"{closing}")).arg(&exe);
        c
    };
    c.args(["server", "run", "--data-dir"]).arg(data_dir).current_dir("/");
    for name in ["SYPCTL_SERVER", "SYPCTL_TOKEN", "SYP_SERVER", "SYP_TOKEN"] {
        c.env_remove(name);
    }
    c.stdin(Stdio::null()).stdout(Stdio::null()).stderr(paths::append_private(log)?).process_group(0);
    Ok(c.spawn()?)
}

/// Descriptors from 3 to 9 that a child would inherit.
fn inherited_descriptors() -> Vec<u32> {
    const CLOEXEC: u32 = 0o2_000_000;
    let keeps = |n: &u32| {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{n}")).ok()?;
        let flags = info.lines().find_map(|l| l.strip_prefix("flags:"))?;
        Some(u32::from_str_radix(flags.trim(), 8).ok()? & CLOEXEC == 0)
    };
    (3..10).filter(|n| keeps(n) == Some(true)).collect()
}

/// Where this start begins in the log.
fn prepare_log(log: &Path) -> io::Result<u64> {
    if put_aside(log)? { Ok(0) } else { Ok(fs::metadata(log).map_or(0, |m| m.len())) }
}

/// The last lines of the log from a place on.
fn tail(log: &Path, from: u64) -> String {
    let read = || -> io::Result<String> {
        let mut f = File::open(log)?;
        let end = f.metadata()?.len();
        f.seek(SeekFrom::Start(from.max(end.saturating_sub(8_192))))?;
        let mut bytes = Vec::new();
        f.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let lines: Vec<_> = text.lines().map(plain).collect();
        Ok(lines[lines.len().saturating_sub(20)..].join("\n"))
    };
    read().unwrap_or_default()
}

/// A line of the log in words: the engine writes JSON for programs.
fn plain(line: &str) -> String {
    let Ok(v) = serde_json::from_str::<serde_json::Value>(line) else { return line.to_owned() };
    let text = |v: &serde_json::Value| v.as_str().map(str::to_owned).filter(|s| !s.is_empty());
    if let Some(message) = text(&v["error"]["message"]) {
        let reason = text(&v["error"]["reason"]).map_or_else(String::new, |r| format!(" (reason: {r})"));
        return format!("error: {message}{reason}");
    }
    match (text(&v["level"]), text(&v["fields"]["message"])) {
        (Some(level), Some(message)) => format!("{}: {message}", level.to_lowercase()),
        _ => line.to_owned(),
    }
}

/// Is there such a process? One that is over and only not yet collected by its parent is none.
fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, s)| !s.starts_with(['Z', 'X']))
}

/// Waits until the process has ended; another engine may answer then. Without a process: until nobody answers.
pub async fn gone(socket: &Path, pid: Option<i32>, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    while match pid {
        Some(pid) => lives(pid),
        None => connect(socket).await.is_ok(),
    } {
        if Instant::now() > end {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_begins_where_this_start_began() {
        let d = tempfile::tempdir().unwrap();
        let log = d.path().join("engine.log");
        fs::write(&log, "old\n").unwrap();
        let from = prepare_log(&log).unwrap();
        fs::write(&log, "old\nnew 1\nnew 2\n").unwrap();
        assert_eq!(tail(&log, from), "new 1\nnew 2");
    }

    #[test]
    fn the_log_is_told_in_words() {
        assert_eq!(plain("as it is"), "as it is");
        assert_eq!(
            plain(r#"{"error":{"message":"it is busy","reason":"STORE_BUSY"}}"#),
            "error: it is busy (reason: STORE_BUSY)"
        );
        assert_eq!(
            plain(r#"{"level":"INFO","fields":{"message":"engine started","version":"1"}}"#),
            "info: engine started"
        );
    }

    #[test]
    fn the_holder_of_a_store_is_who_locked_it() {
        let d = tempfile::tempdir().unwrap();
        fs::create_dir(d.path().join("store")).unwrap();
        let f = File::create(d.path().join("store/db")).unwrap();
        assert_eq!(holder(d.path()), None);
        f.try_lock().unwrap();
        assert_eq!(holder(d.path()), i32::try_from(std::process::id()).ok());
        drop(f);
        assert_eq!(holder(d.path()), None);
        assert!(lives(i32::try_from(std::process::id()).unwrap()) && !lives(i32::MAX));
        assert_eq!(lock("1: FLOCK  ADVISORY  WRITE 708 08:01:5678 0 EOF"), Some((708, 5678)));
        assert_eq!(lock("1: -> FLOCK  ADVISORY  WRITE 708 08:01:5678 0 EOF"), None, "one that waits");
    }

    #[tokio::test]
    async fn nobody_answers_on_a_stale_socket() {
        let d = tempfile::tempdir().unwrap();
        let path = d.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(connect(&path).await.is_err());
    }
}
