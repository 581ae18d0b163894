//! Completion as a real bash asks for it, with an engine and without.
use anyhow::{Context, Result, ensure};
use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::halted::halt;
use syp_tests::product::{Engine, binary, left_of, pause};

/// What comes later than the product waits is an empty list: it is asked for again for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What bash offers for a line whose last word is being written; stderr must stay empty.
fn offered(e: &Engine, words: &[&str]) -> Result<Vec<String>> {
    // as readline does it: the words, where the cursor is, then the function with command, word and the one before
    let script = r#"
        source <("$0" completion bash) || exit 9
        COMP_WORDS=(sypctl "$@"); COMP_CWORD=$#; COMP_TYPE=9
        COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE}
        _clap_complete_sypctl sypctl "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}""#;
    let mut c = Command::new("bash");
    c.args(["--norc", "-c", script]).arg(e.sypctl()).args(words);
    let o = c.env("SYP_DATA_DIR", e.dir()).stdin(Stdio::null()).output().context("bash")?;
    let said = String::from_utf8_lossy(&o.stderr);
    // bash itself: 'compopt' works only while a key is handled
    let said: Vec<_> = said.lines().filter(|l| !l.contains("compopt")).collect();
    ensure!(o.status.success() && said.is_empty(), "{words:?}: {} {said:?}", o.status);
    let out = String::from_utf8_lossy(&o.stdout);
    // flags are offered behind the names
    Ok(out.lines().filter(|l| !l.is_empty() && !l.starts_with('-')).map(str::to_owned).collect())
}

#[test]
fn bash_completes_the_names_that_the_engine_has() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    e.up("shop", "syp-test/hello", &["--port", "8080"])?;
    let until = |words: &[&str], wanted: &str, fine: &dyn Fn(&[String]) -> bool| -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = offered(&e, words)?;
            if fine(&found) {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{words:?}: {found:?}, not {wanted}");
            pause(200);
        }
    };
    let is = |words: &[&str], wanted: &[&str]| until(words, &format!("{wanted:?}"), &|found| found == wanted);
    is(&["show", ""], &["shop"])?;
    is(&["down", "sh"], &["shop"])?;
    is(&["show", "x"], &[])?;
    is(&["rollback", "shop", ""], &["shop-1"])?;
    is(&["up", "x", "--on", ""], &["docker", "kind", "kind-ingress"])?;
    is(&["sweep", "--provider", "d"], &["docker"])?;
    is(&["ls", "--project", ""], &["default"])?;
    is(&["transition", "shop", "--to", "d"], &["draining", "destroyed"])?;
    is(&["wait", "shop", "--for", "del"], &["deleted"])?;
    is(&["explain", "PORT_N"], &["PORT_NOT_LISTENING"])?;
    // of a project that has none
    is(&["--project", "other", "show", ""], &[])?;
    let op = e.json(&["op", "ls"])?["operations"][0]["name"].as_str().context("operation")?.to_owned();
    let op = op.trim_start_matches("operations/");
    until(&["op", "watch", ""], "the operation", &|found| found.iter().any(|o| o == op))?;
    e.ok(&["token", "create", "shop", "--name", "ci", "--ttl", "1h"])?;
    let id = e.ok(&["token", "ls", "-o", "name"])?.trim().to_owned();
    is(&["token", "revoke", ""], &[&id])?;

    // an engine that hangs holds the key for half a second, any other command for half a minute; and what it said a
    // moment ago is not asked again
    let pid = e.pid()?;
    let halted = halt(&pid)?;
    let begun = Instant::now();
    let hanging = offered(&e, &["graph", ""]).and_then(|g| Ok((g, offered(&e, &["token", "revoke", ""])?)));
    let took = begun.elapsed();
    drop(halted);
    let (graph, tokens) = hanging?;
    ensure!(took < Duration::from_secs(25), "two keys took {took:?}");
    ensure!(tokens.is_empty() || tokens == [id], "{tokens:?}");
    ensure!(graph.is_empty() || graph == ["shop"], "{graph:?}");

    e.down("shop")?;
    is(&["drain", ""], &[])?;
    is(&["receipt", ""], &["shop"])?;
    let store = e.store_id()?;
    drop(e);
    ensure!(left_of(&store)?.is_empty(), "left behind");
    Ok(())
}

#[test]
fn completion_starts_no_engine_and_makes_nothing() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = Engine::new(&sypctl)?;
    for words in
        [&["show", ""][..], &["rollback", "shop", ""], &["token", "revoke", ""], &["up", "x", "--on", ""]]
    {
        let found = offered(&e, words)?;
        ensure!(found.is_empty(), "{words:?}: {found:?}");
    }
    ensure!(offered(&e, &["explain", "CRASH"])? == ["CRASH_LOOP"], "what needs no engine is there");
    ensure!(e.run(&["server", "status"])?.code == 11, "no engine runs");
    let made: Vec<_> = std::fs::read_dir(e.dir())?.flatten().map(|f| f.file_name()).collect();
    ensure!(made.is_empty(), "made: {made:?}");
    Ok(())
}

#[test]
fn a_shell_that_is_not_known_is_told_nothing_on_stderr() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let o = Command::new(&sypctl).args(["--", "sypctl", ""]).env("SYPCTL_COMPLETE", "tcsh").output()?;
    ensure!(!o.status.success() && o.stdout.is_empty() && o.stderr.is_empty(), "{o:?}");
    Ok(())
}
