//! A program that hangs: it is there and does not answer.
use crate::product::{pause, sh};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// A process that was made to stand still; it goes on when this is dropped, also where a test fails.
pub struct Halted(String);

/// SIGSTOP, and the wait until each of its threads stands: one of them takes the signal, and on a busy machine the
/// others answer a request or two before they hear of it.
///
/// # Errors
/// There is no such process, or it has not stopped within 10 s.
pub fn halt(pid: &str) -> Result<Halted> {
    sh("kill", &["-STOP", pid])?;
    let halted = Halted(pid.to_owned());
    let stands = |task: std::fs::DirEntry| {
        // a thread that has ended meanwhile stands as well
        std::fs::read_to_string(task.path().join("stat")).map_or(true, |s| s.contains(") T "))
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten().all(stands) {
        ensure!(Instant::now() < end, "process {pid} has not stopped");
        pause(5);
    }
    Ok(halted)
}

impl Drop for Halted {
    fn drop(&mut self) {
        let _ = sh("kill", &["-CONT", &self.0]);
    }
}
