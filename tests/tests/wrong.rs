//! Wrong inputs, each with the code, the reason and the words that it gets; nothing is left of any of them.
//! The tables are checked in as `docs/wrong-inputs.md`; `SYP_BLESS=1` writes it anew.
#[path = "wrong/api.rs"]
mod api;
#[path = "wrong/changes.rs"]
mod changes;
#[path = "wrong/files.rs"]
mod files;
#[path = "wrong/words.rs"]
mod words;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fmt::Write as _, fs, path::Path, sync::Mutex};
use syp_tests::product::{Engine, Said, binary, left_of};

/// What a wrong input has to get: exit code, reason, and a part of the message.
type Expected = (i32, &'static str, &'static str);

/// A line of the table.
struct Line {
    input: String,
    code: String,
    reason: String,
    message: String,
    next: String,
}

/// Compares a section of the document with what was said, or writes it.
fn compare(title: &str, lines: &[Line]) -> Result<()> {
    static ONE_WRITES: Mutex<()> = Mutex::new(());
    const HEAD: &str = "| input | code | reason | message | next |\n|---|---|---|---|---|\n";
    let mut table = format!("## {title}\n\n{HEAD}");
    let cell = |t: &str| t.replace('|', "\\|").replace('\n', " ");
    for l in lines {
        let cells = [&format!("`{}`", l.input), &l.code, &l.reason, &l.message, &l.next].map(|c| cell(c));
        writeln!(table, "| {} |", cells.join(" | "))?;
    }
    println!("{table}");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/wrong-inputs.md");
    let _one = ONE_WRITES.lock();
    let held = fs::read_to_string(&file).unwrap_or_default();
    let mut parts: Vec<String> =
        held.split("\n## ").skip(1).map(|p| format!("## {}\n", p.trim_end())).collect();
    let at = parts.iter().position(|p| p.starts_with(&format!("## {title}\n")));
    if std::env::var("SYP_BLESS").as_deref() != Ok("1") {
        let held = at.and_then(|n| parts.get(n)).map_or("", String::as_str);
        let other = table.lines().find(|l| !held.contains(l));
        ensure!(other.is_none(), "not in docs/wrong-inputs.md (SYP_BLESS=1 writes it): {other:?}");
        let gone = held.lines().find(|l| !table.contains(l));
        ensure!(gone.is_none(), "in docs/wrong-inputs.md, and not said: {gone:?}");
        return Ok(());
    }
    match at {
        Some(n) => parts[n] = table,
        None => parts.push(table),
    }
    parts.sort();
    let head = "# Wrong inputs, and what they get\n\nMade by `tests/tests/wrong.rs`, which compares it. Nothing is left of any of them: no \
                instance, no operation, no record, nothing on Docker.\n";
    fs::create_dir_all(file.parent().context("docs")?)?;
    Ok(fs::write(file, format!("{head}\n{}", parts.join("\n")))?)
}

/// All that a wrong input could have changed: instances, revisions, records, operations, tokens, tariffs, policies, and
/// what is on Docker.
fn everything(e: &Engine) -> Result<String> {
    let mut out = String::new();
    for words in [
        "ls --project - -o name",
        "show shop -o json",
        "events shop -o json",
        "revisions shop -o json",
        "op ls -o json",
        "token ls -o name",
        "tariff show -o json",
        "access show shop -o json",
        "access show - --plane control -o json",
    ] {
        let text = e.ok(&words.split(' ').collect::<Vec<_>>())?;
        // what goes on by itself
        let still = |l: &&str| {
            !["cost", "accrued", "units", "nanos", "AsOf", "asOf", "window"].iter().any(|w| l.contains(w))
        };
        writeln!(out, "{words}\n{}", text.lines().filter(still).collect::<Vec<_>>().join("\n"))?;
    }
    let mut left = e.left()?;
    left.sort();
    writeln!(out, "{}", left.join("\n"))?;
    Ok(out)
}

/// What, why and what next, with the expected code and reason.
fn judge(input: &str, s: &Said, wanted: Expected) -> Result<Line> {
    let (code, reason, says) = wanted;
    let last = s.err.lines().last().unwrap_or_default();
    let v: Value = serde_json::from_str(last).with_context(|| format!("{input}: no failure in {s:?}"))?;
    let part = |k: &str| v["error"][k].as_str().unwrap_or_default().to_owned();
    let line = Line {
        input: input.to_owned(),
        code: s.code.to_string(),
        reason: part("reason"),
        message: part("message"),
        next: part("next"),
    };
    ensure!(
        s.code == code && line.reason == reason,
        "{input}: expected {code} {reason}, got {}: {last}",
        s.code
    );
    ensure!(line.message.contains(says), "{input}: expected '{says}' in: {}", line.message);
    ensure!(line.message.len() > 12 && line.next.len() > 12, "{input}: what, why and what next: {last}");
    ensure!(s.out.is_empty(), "{input}: data was printed: {}", s.out);
    Ok(line)
}

#[test]
fn wrong_words_and_files_are_refused_and_leave_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    let dir = tempfile::tempdir()?;
    e.up("shop", "syp-test/hello", &["--port", "8080", "--allow", "user:alice@example.com"])?;
    let before = everything(&e)?;
    // what differs between machines, users and versions of Docker
    let differs: Vec<_> = [
        ("[0-9a-f]{32}", "UID"),
        ("host has [0-9]+Mi", "host has SOME"),
        ("(registry does not answer|invalid reference format): .*", "$1: ..."),
        (r"(/proc/none[^:]*: )[^(]*\(os error \d+\)", "${1}..."),
    ]
    .into_iter()
    .map(|(r, word)| Ok((regex::Regex::new(r)?, word)))
    .collect::<Result<_>>()?;
    let plain = |t: &str| {
        let t = t.replace(&dir.path().display().to_string(), "DIR");
        let t = t.replace(&e.dir().display().to_string(), "DATA");
        differs.iter().fold(t, |t, (r, word)| r.replace_all(&t, *word).into_owned())
    };
    let all = |table: Vec<(String, Vec<String>, Expected)>| -> Result<Vec<Line>> {
        let (mut lines, mut wrong) = (Vec::new(), Vec::new());
        for (input, args, wanted) in table {
            let said = e.run(&args.iter().map(String::as_str).collect::<Vec<_>>())?;
            match judge(&input, &said, wanted) {
                Ok(l) => lines.push(Line { message: plain(&l.message), next: plain(&l.next), ..l }),
                Err(e) => wrong.push(format!("{e:#}")),
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(lines)
    };
    let (words, files) = (all(words::table(dir.path())?)?, all(files::table(dir.path())?)?);
    ensure!(everything(&e)? == before, "something has changed: {}\nit was: {before}", everything(&e)?);
    let store = e.store_id()?;
    e.down("shop")?;
    drop(e);
    ensure!(left_of(&store)?.is_empty(), "left behind: {:?}", left_of(&store)?);
    ensure!(words.len() + files.len() >= 40, "the table is long enough");
    compare("Command line", &words)?;
    compare("Files of apply", &files)
}

#[tokio::test]
async fn wrong_calls_are_refused_and_leave_nothing() -> Result<()> {
    let lines = Box::pin(api::lines()).await?;
    compare("API", &lines)
}
