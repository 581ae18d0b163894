//! What suites need that kill the real engine at each step's turn: a list of points that are still to come, and patience.
use crate::product::{Engine, pause};
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// Longest time between two things that happen, engines that die included.
const PATIENCE: Duration = Duration::from_secs(300);

/// Lines of a file: the points that are still to come.
pub struct Points(tempfile::NamedTempFile);

// === impl Points ===

impl Points {
    /// None yet.
    ///
    /// # Errors
    /// No such file can be made.
    pub fn none() -> Result<Self> {
        Ok(Self(tempfile::NamedTempFile::new()?))
    }

    /// What the engine is told: it dies at the first of them that it comes to, and takes it from the list.
    pub fn at(&self, point: &str) -> String {
        format!("{point}:@{}", self.0.path().display())
    }

    /// These are to come.
    ///
    /// # Errors
    /// The file's.
    pub fn are(&self, all: &[&str]) -> Result<()> {
        Ok(std::fs::write(self.0.path(), all.iter().map(|p| format!("{p}\n")).collect::<String>())?)
    }

    /// At which it did not die.
    ///
    /// # Errors
    /// The file's.
    pub fn left(&self) -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(self.0.path())?.lines().map(str::to_owned).collect())
    }
}

/// Asks until it is so; an engine that dies while it is asked is started anew by the next question.
///
/// # Errors
/// It never was.
pub fn until(e: &Engine, name: &str, what: &str, so: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
    let (end, mut last) = (Instant::now() + PATIENCE, String::new());
    while Instant::now() < end {
        match e.json(&["show", name]) {
            Ok(i) if so(&i) => return Ok(()),
            Ok(i) => last = format!("{} {} {}", i["state"], i["conditions"], i["waitingOn"]),
            Err(f) => last = format!("{f:#}"),
        }
        pause(150);
    }
    anyhow::bail!("{what}: not within {} s; the last word was {last}", PATIENCE.as_secs())
}

/// A change whose engine may die under it: asked for until it is under way or done.
///
/// # Errors
/// It was refused for too long.
pub fn ask(
    e: &Engine,
    name: &str,
    args: &[&str],
    under_way: impl Fn(&serde_json::Value) -> bool,
) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let said = e.run(args)?;
        if said.code == 0 || e.json(&["show", name]).is_ok_and(|i| under_way(&i)) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "{}: {}", args.join(" "), said.err);
        pause(150);
    }
}

/// Is it in this state, and nothing under way?
pub fn rests(i: &serde_json::Value, state: &str) -> bool {
    i["state"] == state && i["reconciling"] != true
}
