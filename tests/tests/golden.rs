//! The main screens, word for word: what users see is changed on purpose or not at all.
//!
//! Times, ids, ports and money are replaced by words, runs of spaces by two. `SYP_BLESS=1` writes `tests/golden/*.out` anew.
use anyhow::{Context, Result, ensure};
use regex::Regex;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, Instant},
};
use syp_tests::product::{Engine, Said, binary, left_of, pause};

const UP: &str = "up shop --image syp-test/hello --port 8080 --allow user:alice@example.com --allow group:ml@example.com \
                  --cpu .5 --memory 64Mi --env LEVEL=info -l team=ml --yes";

/// What differs from run to run, and what is written in its place; in this order.
const DIFFERS: &[(&str, &str)] = &[
    // measured or modelled, by what the machine has; two lines or three
    (r"(?m)^Energy  .*\n(  +.*\n)*", "Energy  ...\n"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "TIME"),
    (r"sha256:[0-9a-f]{64}", "sha256:DIGEST"),
    (r"[0-9a-f]{32}", "UID"),
    (r"\b[0-9a-f]{12}\b", "ID"),
    (r"@[0-9a-f]{8}\b", "@UID"),
    // versions of Docker have words of their own
    (r"registry does not answer: .*", "registry does not answer: ..."),
    // what the image prints comes on two streams
    (r"(?m)(^(starting up|fatal: no database configured)\n)+", "LINES\n"),
    (r"127\.0\.0\.1:\d+", "127.0.0.1:PORT"),
    (r"\b10\.\d+\.\d+\.\d+", "ADDRESS"),
    (r"\d+(\.\d+)? EUR", "MONEY EUR"),
    (r"\b\d+(\.\d+)? ([KMG]i)?B\b", "SIZE"),
    (r"\b\d+(\.\d+)?/s\b", "RATE"),
    (r"\b\d+(\.\d+)?(ns|us|ms|s|m|h|d)\b", "SPAN"),
    (r"\d+\.\d+ cores", "N cores"),
    // by how many cores a machine has
    (r"[\d.]+ of the host's [\d.]+ idle W", "SHARE of the host's idle W"),
    (r"(the first start +MONEY EUR +\S+ +\S+ +)\S+", "${1}IDLE"),
    (r"\b[45]xx \d+", "4xx N"),
    (r"\(\d+ in all\)", "(N in all)"),
    (r"\bPid  +\d+", "Pid  PID"),
    (r"uid:\d+", "uid:ME"),
    (r"\b[\w.-]+@localhost", "ME@localhost"),
    (r"\b\d+ records", "N records"),
    (r"(Version|sypctl|engine)( +)\d+\.\d+\.\d+", "${1}${2}VERSION"),
];

/// Screens of one file.
struct Screens<'a> {
    engine: &'a Engine,
    differs: &'a [(Regex, &'static str)],
    text: String,
}

// === impl Screens ===

impl Screens<'_> {
    /// Runs a command and keeps what it prints; of talk only a failure.
    fn run(&mut self, words: &str) -> Result<()> {
        self.with(words, str::to_owned)
    }

    /// The same, with the data made comparable first.
    fn with(&mut self, words: &str, tidy: impl FnOnce(&str) -> String) -> Result<()> {
        let s = self.engine.run(&words.split_whitespace().collect::<Vec<_>>())?;
        self.keep(words, &s, tidy)
    }

    /// Keeps it when it has what a busy Docker engine may need a while for.
    fn once_it_has(&mut self, word: &str, words: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(180);
        loop {
            let s = self.engine.run(&words.split_whitespace().collect::<Vec<_>>())?;
            if s.out.contains(word) {
                return self.keep(words, &s, str::to_owned);
            }
            ensure!(Instant::now() < end, "no {word} in what '{words}' says: {s:?}");
            pause(200);
        }
    }

    fn keep(&mut self, words: &str, s: &Said, tidy: impl FnOnce(&str) -> String) -> Result<()> {
        let out = self.plain(&tidy(&s.out));
        write!(self.text, "$ sypctl {}\n{out}", words.split_whitespace().collect::<Vec<_>>().join(" "))?;
        if s.code != 0 {
            let said = self.plain(&failure(s).unwrap_or_default());
            writeln!(self.text, "{said}[exit {}]", s.code)?;
        }
        self.text.push('\n');
        Ok(())
    }

    fn plain(&self, text: &str) -> String {
        let text = text.replace(&self.engine.dir().display().to_string(), "DATA");
        let text = self.differs.iter().fold(text, |t, (r, word)| r.replace_all(&t, *word).into_owned());
        // columns are as wide as what was replaced
        let line = |l: &str| {
            let words = l.trim_start();
            let indent = &l[..l.len() - words.len()];
            let words: Vec<_> = words.split("  ").map(str::trim).filter(|w| !w.is_empty()).collect();
            format!("{indent}{}\n", words.join("  "))
        };
        text.lines().map(line).collect()
    }

    /// Compares them with the file, or writes it.
    fn end(&mut self, file: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(file);
        let text = std::mem::take(&mut self.text);
        if std::env::var("SYP_BLESS").as_deref() == Ok("1") {
            fs::write(&path, &text)?;
        }
        expectorate::assert_contents(path, &text);
        Ok(())
    }
}

/// A failure on a piped stderr, line by line.
fn failure(s: &Said) -> Option<String> {
    let v: Value = serde_json::from_str(s.err.lines().last()?).ok()?;
    let part = |k: &str| v["error"][k].as_str().filter(|t| !t.is_empty()).map(|t| format!("{k}: {t}\n"));
    let parts: Vec<_> = ["message", "step", "reason", "next"].into_iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| parts.concat())
}

/// Steps that run beside each other end in any order, and numbers go with it.
fn events(text: &str) -> String {
    let words = |l: &str| l.trim_start().split_once(' ').map_or("", |(_, l)| l).trim_start().to_owned();
    let mut lines: Vec<_> = text.lines().map(words).collect();
    let kind = |l: &str| l.split("  ").nth(1).unwrap_or_default().to_owned();
    let rest = |l: &str| l.split_once("  ").map_or("", |(_, l)| l).to_owned();
    for block in lines.chunk_by_mut(|a, b| kind(a).starts_with("step_") && kind(b).starts_with("step_")) {
        block.sort_by_key(|l| rest(l));
    }
    lines.into_iter().map(|l| format!("{l}\n")).collect()
}

/// Which fields are there, without their values.
fn fields(text: &str) -> String {
    fn walk(v: &Value, path: &str, out: &mut BTreeSet<String>) {
        match v {
            Value::Object(o) => o.iter().for_each(|(k, v)| walk(v, &format!("{path}.{k}"), out)),
            Value::Array(a) => a.iter().for_each(|v| walk(v, &format!("{path}[]"), out)),
            _ => drop(out.insert(path.trim_start_matches('.').to_owned())),
        }
    }
    let mut out = BTreeSet::new();
    walk(&serde_json::from_str(text).unwrap_or_default(), "", &mut out);
    out.into_iter().map(|l| format!("{l}\n")).collect()
}

/// What is looked at, not what was found.
fn checks(text: &str) -> String {
    let name = |l: &str| Some(l.split_once(' ')?.1.trim_start().split("  ").next()?.to_owned());
    // what only some machines have
    let here = |n: &String| !["proxy", "service"].contains(&n.as_str());
    text.lines().filter_map(name).filter(here).map(|n| format!("VERDICT  {n}\n")).collect()
}

#[test]
fn screens_are_as_they_are_checked_in() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let differs: Vec<_> = DIFFERS.iter().map(|(r, w)| Ok((Regex::new(r)?, *w))).collect::<Result<_>>()?;
    let mut s = Screens { engine: &e, differs: &differs, text: String::new() };

    s.run(&UP.replace("--yes", "--plan"))?;
    s.run(UP)?;
    s.end("up.out")?;

    s.run("ls")?;
    s.run("ls -o name")?;
    s.once_it_has("Memory", "show shop")?;
    s.with("show shop -o json", fields)?;
    s.once_it_has("Energy", "cost shop")?;
    s.run("cost --by instance")?;
    s.with("events shop", events)?;
    s.run("op ls")?;
    s.end("look.out")?;

    s.run("set shop --env LEVEL=debug --plan")?;
    s.run("set shop --env LEVEL=debug --yes")?;
    s.run("set shop --env LEVEL=debug --yes")?;
    s.run("revisions shop")?;
    s.run("op show shop")?;
    s.run("graph shop")?;
    s.run("scale shop --replicas 2 --plan")?;
    s.run("rollback shop --plan")?;
    s.end("change.out")?;

    s.run("access show shop")?;
    s.run("access test shop --as user:alice@example.com --path /a")?;
    s.run("access test shop --as user:bob@example.com,group:x")?;
    s.run("access deny shop user:bob@example.com --plan")?;
    s.run("access deny shop user:bob@example.com")?;
    s.run("access test shop --as user:bob@example.com,group:ml@example.com")?;
    s.run("access history shop")?;
    s.run("token create shop --name ci --ttl 30d --plan")?;
    s.with("token create shop --name ci --ttl 30d", |_| "TOKEN\n".into())?;
    s.run("token ls shop")?;
    s.end("access.out")?;

    s.run("whoami")?;
    s.run("version")?;
    s.run("server status")?;
    s.run("tariff show")?;
    s.run("sweep")?;
    s.run("fsck")?;
    s.with("doctor", checks)?;
    s.run("explain CRASH_LOOP")?;
    s.end("engine.out")?;

    s.run("show nope")?;
    s.run("up shop --image syp-test/hello --port 8081 --yes")?;
    s.run("up other --image localhost:1/none --port 80 --yes")?;
    s.run("up other --image syp-test/crash --port 8080 --yes")?;
    s.run("shwo shop")?;
    s.run("transition shop --to draining --if-state draining")?;
    s.run("explain IMAGE_LOST")?;
    s.end("errors.out")?;

    s.run("drain shop --yes")?;
    s.run("down shop --yes")?;
    s.with("receipt shop", |t| {
        // the ledger's order is that in which parallel steps began
        let (mut rows, rest): (Vec<_>, Vec<_>) = t.lines().skip(1).partition(|l| l.starts_with("docker."));
        rows.sort_unstable();
        let head = t.lines().next();
        head.into_iter().chain(rows).chain(rest).map(|l| format!("{l}\n")).collect()
    })?;
    s.run("ls")?;
    s.run("show shop")?;
    s.end("end.out")?;

    let store = e.store_id().context("store")?;
    drop(e);
    ensure!(left_of(&store)?.is_empty(), "left behind");
    Ok(())
}
