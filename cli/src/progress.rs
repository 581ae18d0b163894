//! An operation while it runs: a live tree of steps on a terminal, JSON lines when piped.
use crate::{
    output::{Out, json},
    render::{millis, now_ms, took},
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::{io::Write as _, time::Duration};
use syp_proto::v1::{
    OperationEvent,
    operation_event::Event,
    operation_metadata::{Step, StepState},
};

/// How progress is shown.
pub enum Progress {
    /// Not at all.
    Quiet,
    /// Every event as a JSON line on stderr.
    Json,
    /// One line a step, redrawn.
    Tree(Tree),
}

/// The lines of a terminal.
pub struct Tree {
    all: MultiProgress,
    steps: Vec<(Step, ProgressBar)>,
    ascii: bool,
}

// === impl Progress ===

impl Progress {
    /// For this output.
    pub fn new(out: &Out) -> Self {
        if out.quiet {
            Self::Quiet
        } else if out.live {
            Self::Tree(Tree { all: MultiProgress::new(), steps: Vec::new(), ascii: !utf8() })
        } else {
            Self::Json
        }
    }

    /// An event of the operation.
    pub fn event(&mut self, e: &OperationEvent) {
        match self {
            Self::Quiet => {}
            Self::Json => {
                if let Ok(v) = json(e) {
                    let _ = writeln!(std::io::stderr(), "{v}");
                }
            }
            Self::Tree(t) => match &e.event {
                Some(Event::Snapshot(m)) => m.steps.iter().for_each(|s| t.step(s)),
                Some(Event::Step(s)) => t.step(s),
                _ => {}
            },
        }
    }

    /// Time has passed.
    pub fn tick(&mut self) {
        if let Self::Tree(t) = self {
            t.draw();
        }
    }

    /// How often to call [`Progress::tick`].
    pub fn pace(&self) -> Duration {
        Duration::from_millis(if matches!(self, Self::Tree(_)) { 100 } else { 60_000 })
    }

    /// It is over: the lines stay.
    pub fn end(&mut self) {
        if let Self::Tree(t) = self {
            t.draw();
            t.steps.drain(..).for_each(|(_, bar)| bar.abandon());
        }
    }
}

// === impl Tree ===

impl Tree {
    fn step(&mut self, s: &Step) {
        if let Some(at) = self.steps.iter().position(|(have, _)| have.id == s.id) {
            self.steps[at].0 = s.clone();
        } else {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            self.steps.push((s.clone(), self.all.add(bar)));
        }
        self.draw();
    }

    fn draw(&self) {
        let now = now_ms();
        for (s, bar) in &self.steps {
            bar.set_message(line(s, now, self.ascii));
        }
    }
}

fn utf8() -> bool {
    let set = |k: &str| std::env::var(k).ok().filter(|v| !v.is_empty());
    let locale =
        set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG")).unwrap_or_default().to_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// One step in one line.
pub fn line(s: &Step, now: i64, ascii: bool) -> String {
    let (good, bad, busy, idle) = if ascii { ("+", "x", "...", ".") } else { ("✓", "✗", "…", "·") };
    let start = s.start_time.as_ref().map(millis);
    let until =
        |end: Option<i64>| start.map_or(String::new(), |a| format!(" {}", took(end.unwrap_or(now) - a)));
    let done = until(s.end_time.as_ref().map(millis));
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    match s.state() {
        StepState::Succeeded | StepState::Compensated => format!("{good} {}{done}", s.id),
        StepState::Skipped => format!("{idle} {} skipped", s.id),
        StepState::Failed => {
            let why = s.last_error.as_ref().map_or(String::new(), |e| format!(" {}", first(&e.message)));
            format!("{bad} {}{done}{why}", s.id)
        }
        StepState::Running | StepState::Waiting => {
            let why = s
                .waiting_on
                .as_ref()
                .map(|w| first(&w.message))
                .filter(|m| !m.is_empty() && m != "being done");
            let why = why.or_else(|| s.last_error.as_ref().map(|e| first(&e.message)));
            let again = if s.attempt > 1 { format!(" (attempt {})", s.attempt) } else { String::new() };
            format!(
                "{busy} {}{}{again}{}",
                s.id,
                until(None),
                why.map_or(String::new(), |w| format!(" waiting on {w}"))
            )
        }
        StepState::Queued | StepState::Unspecified => format!("{idle} {}", s.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost_types::Timestamp;
    use syp_proto::v1::WaitingOn;

    fn step(state: StepState) -> Step {
        Step {
            id: "app-0".into(),
            state: state as i32,
            attempt: 1,
            start_time: Some(Timestamp { seconds: 10, nanos: 0 }),
            ..Default::default()
        }
    }

    #[test]
    fn a_step_is_one_line() {
        let mut s = step(StepState::Succeeded);
        s.end_time = Some(Timestamp { seconds: 10, nanos: 100_000_000 });
        assert_eq!(line(&s, 99_000, false), "✓ app-0 0.1s");
        assert_eq!(line(&s, 99_000, true), "+ app-0 0.1s");
        let mut s = step(StepState::Running);
        s.waiting_on = Some(WaitingOn { message: "the port\nmore".into(), ..Default::default() });
        assert_eq!(line(&s, 13_200, false), "… app-0 3.2s waiting on the port");
        s.waiting_on = Some(WaitingOn { message: "being done".into(), ..Default::default() });
        s.attempt = 2;
        assert_eq!(line(&s, 13_200, true), "... app-0 3.2s (attempt 2)");
        assert_eq!(line(&Step { start_time: None, ..step(StepState::Queued) }, 0, false), "· app-0");
        let mut s = step(StepState::Failed);
        s.last_error =
            Some(syp_proto::google::rpc::Status { message: "exited with 3".into(), ..Default::default() });
        assert_eq!(line(&s, 11_000, false), "✗ app-0 1.0s exited with 3");
    }
}
