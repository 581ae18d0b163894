//! What the user of a cluster's instance has of it: secrets that reach the app and nobody else, lines that are told apart by replica
//! and run, and a teardown that says what holds it and finds what its ledger does not have.
use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, read_to_string},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{Engine, binary, pause},
};

const LIMIT: Duration = Duration::from_secs(180);
/// Nobody removes it but this test.
const HOLD: &str = "syp-test.example/hold";
/// A cluster takes the half of it for references of its own, where nobody tells it otherwise.
const PLAIN: &str = "$$5 of $(OTHER)";
/// Serves, and writes down which process it is.
const SERVE: &str = "echo $$ >/tmp/pid; trap 'exit 0' TERM; httpd -f -p 8080 -h /www & wait";
/// Says which pod and which run it is, prints what it is given in a file, and ends when it is told to.
const TALK: &str = "run=$(cat /proc/sys/kernel/random/uuid); echo begins $(hostname) $run; \
                    trap 'echo ends $(hostname) $run; exit 3' TERM; \
                    (while sleep 1; do [ -f /tmp/say ] && cat /tmp/say && rm /tmp/say; done) & \
                    httpd -f -p 8080 -h /www & wait";

fn ground() -> Result<Option<(PathBuf, Cluster)>> {
    Ok(binary().zip(Cluster::from_env()?))
}

/// Asks until it is so; what can't be asked just now is asked again.
fn until(what: &str, mut seen: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        match seen() {
            Ok(true) => return Ok(()),
            said => ensure!(Instant::now() < end, "{what}: not within {} s: {said:?}", LIMIT.as_secs()),
        }
        pause(300);
    }
}

/// An instance.
struct World<'a> {
    engine: Engine,
    cluster: &'a Cluster,
    namespace: String,
    /// Of all that is its own.
    label: String,
}

impl<'a> World<'a> {
    fn up(cluster: &'a Cluster, engine: Engine, more: &[&str]) -> Result<Self> {
        let up = ["up", "shop", "--image", "syp-test/hello:latest", "--port", "8080", "--on", "k8s"];
        engine.ok(&[&up[..], &["--isolation", "rules", "--yes"], more].concat())?;
        let shown = engine.json(&["show", "shop"])?;
        let label = format!("syp.dev/instance={}", shown["uid"].as_str().context("uid")?);
        let form = "jsonpath={.items[0].metadata.namespace}";
        let namespace = cluster.kubectl(&["get", "pods", "-A", "-l", &label, "-o", form])?;
        Ok(Self { engine, cluster, namespace: namespace.trim().to_owned(), label })
    }

    fn k(&self, args: &[&str]) -> Result<String> {
        let all = [&["-n", &self.namespace], args].concat();
        self.cluster.kubectl(&all)
    }

    /// The app's pods that stay, each with how often its app was started again.
    fn pods(&self) -> Result<BTreeMap<String, i64>> {
        let of = format!("{},syp.dev/step!=isolation", self.label);
        let words =
            "{.metadata.name} {.status.containerStatuses[0].restartCount} {.metadata.deletionTimestamp}";
        let form = format!("jsonpath={{range .items[*]}}{words}{{\"\\n\"}}{{end}}");
        let said = self.k(&["get", "pods", "-l", &of, "-o", &form])?;
        let pod = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [name, restarts] => Some((name.to_owned(), restarts.parse::<i64>().ok()?)),
            _ => None,
        };
        Ok(said.lines().filter_map(pod).collect())
    }

    fn in_app(&self, pod: &str, script: &str) -> Result<String> {
        self.k(&["exec", pod, "-c", "app", "--", "/bin/busybox", "sh", "-c", script])
    }

    /// What a script says in the app's container, the only one.
    fn read(&self, script: &str) -> Result<String> {
        let pods = self.pods()?;
        let (Some((pod, _)), 1) = (pods.first_key_value(), pods.len()) else { bail!("one pod: {pods:?}") };
        self.in_app(pod, script)
    }

    /// What they see who may look at the instance, but not at Secrets.
    fn seen(&self) -> Result<String> {
        let mut all = self.k(&["get", "deployments,replicasets,pods", "-l", &self.label, "-o", "yaml"])?;
        ensure!(all.contains("secretKeyRef"), "there is something to look at: {all}");
        all += &self.k(&["get", "events", "-o", "yaml"])?;
        for what in [&["show"][..], &["events"], &["revisions"], &["logs"], &["op", "ls"]] {
            all += &self.engine.ok(&[what, &["shop", "-o", "json"]].concat())?;
        }
        Ok(all)
    }

    fn logs(&self, more: &[&str]) -> Result<Vec<(String, String)>> {
        self.engine.ok(&[&["logs", "shop", "-o", "json"], more].concat())?.lines().map(line).collect()
    }

    fn nothing_left(&self) -> Result<()> {
        let left = self.cluster.left(&self.engine.store_id()?)?;
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

/// A value that is nowhere else, in a file that its owner alone may read; and how flags name that file.
fn secret(dir: &Path, name: &str) -> Result<[String; 2]> {
    let (value, path) = (format!("{name}-{}", uuid::Uuid::new_v4().simple()), dir.join(name));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(value.as_bytes())?;
    Ok([value, format!("@{}", path.display())])
}

#[test]
fn each_secret_reaches_the_app_under_its_own_name_and_is_seen_nowhere_else() -> Result<()> {
    let Some((sypctl, c)) = ground()? else { return Ok(()) };
    let dir = tempfile::tempdir()?;
    let made = |name: &str| secret(dir.path(), name);
    let ([password, a], [key, b], [tls, d]) = (made("password")?, made("key")?, made("tls")?);
    let [next, n] = made("next")?;
    let flags = [format!("PASSWORD={a}"), format!("KEY={b}"), format!("/run/tls.key={d}")];
    let secrets = ["--secret", &flags[0], "--secret", &flags[1], "--secret-file", &flags[2]];
    let plain = format!("PLAIN={PLAIN}");
    let plain = ["--env", "OTHER=x", "--env", &plain, "--entrypoint", "/bin/sh", "--", "-c", SERVE];
    let w = World::up(&c, c.engine(&sypctl)?, &[&secrets[..], &plain[..]].concat())?;
    let e = &w.engine;
    let given = || w.read("echo $PASSWORD; echo $KEY; cat /run/tls.key");
    ensure!(given()? == format!("{password}\n{key}\n{tls}"), "{}", given()?);

    // the one that changes is last in the list from now on: each is still under its own name
    let before = w.pods()?;
    e.ok(&["set", "shop", "--secret", &format!("PASSWORD={n}"), "--yes"])?;
    ensure!(w.pods()?.keys().all(|p| !before.contains_key(p)), "{before:?} {:?}", w.pods()?);
    ensure!(given()? == format!("{next}\n{key}\n{tls}"), "{}", given()?);

    let base64 = |value: &String| BASE64_STANDARD.encode(value);
    let held = w.k(&["get", "secrets", "-l", &w.label, "-o", "yaml"])?;
    for value in [&next, &key, &tls] {
        ensure!(held.contains(&base64(value)), "the cluster has {value}");
    }
    ensure!(!held.contains(&base64(&password)), "what no revision has is gone from the cluster");

    e.ok(&["rollback", "shop", "--yes"])?;
    ensure!(given()? == format!("{password}\n{key}\n{tls}"), "back again: {}", given()?);
    let seen = w.seen()?;
    for value in [&password, &next, &key, &tls] {
        let at = seen.lines().find(|l| l.contains(value) || l.contains(&base64(value)));
        ensure!(at.is_none(), "{at:?}");
        let kept = Command::new("grep").args(["-rlF", value]).arg(e.dir()).output()?.stdout;
        ensure!(kept.is_empty(), "the engine wrote it down: {}", String::from_utf8_lossy(&kept));
    }

    // nobody asked for the cluster's references: a variable and an argument are what they were
    let plain = w.read("echo \"$PLAIN\"; cat /tmp/pid")?;
    ensure!(plain == format!("{PLAIN}\n1\n"), "as they were given: {plain}");
    e.down("shop")?;
    w.nothing_left()
}

/// The replica that printed it, and what it printed.
fn line(json: &str) -> Result<(String, String)> {
    let all: Value = serde_json::from_str(json).with_context(|| json.to_owned())?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    Ok((text(&all["replica"]), text(&all["line"])))
}

/// The first run of a pod among lines, as that pod's own replica says it.
fn run_of(lines: &[(String, String)], pod: &str) -> Option<String> {
    let begins = format!("begins {pod} ");
    let mut own = lines.iter().filter(|(replica, _)| !replica.is_empty() && pod.ends_with(replica.as_str()));
    own.find_map(|(_, l)| l.strip_prefix(begins.as_str()).map(str::to_owned))
}

/// `logs -f` into a file; it ends with the engine, where a test ends before.
fn follow(e: &Engine, into: File) -> Result<Child> {
    let mut logs = Command::new(e.sypctl());
    logs.args(["logs", "shop", "-f"]).env("SYP_DATA_DIR", e.dir()).stdin(Stdio::null()).stdout(into);
    Ok(logs.spawn()?)
}

#[test]
fn lines_are_told_apart_by_replica_and_run_and_followed_while_they_come() -> Result<()> {
    let Some((sypctl, c)) = ground()? else { return Ok(()) };
    let more = ["--replicas", "2", "--entrypoint", "/bin/sh", "--", "-c", TALK];
    let w = World::up(&c, c.engine(&sypctl)?, &more)?;
    let pods: Vec<String> = w.pods()?.into_keys().collect();
    let [a, b] = pods.as_slice() else { bail!("two pods: {pods:?}") };
    let runs = || w.logs(&[]).map(|l| (run_of(&l, a), run_of(&l, b)));
    until("each replica says that it begins", || Ok(matches!(runs()?, (Some(_), Some(_)))))?;
    let (Some(first), Some(other)) = runs()? else { bail!("{:?}", w.logs(&[])?) };
    let (replica, _) = w.logs(&[])?.into_iter().find(|(_, l)| l.contains(&first)).context("its replica")?;
    let own = w.logs(&["--replica", &replica])?;
    ensure!(!own.is_empty() && own.iter().all(|(r, _)| *r == replica), "of {replica} alone: {own:?}");
    let none = w.engine.run(&["logs", "shop", "--previous"])?;
    ensure!(none.code == 5 && none.err.contains("NO_PREVIOUS_RUN") && none.out.is_empty(), "{none:?}");

    let heard = tempfile::NamedTempFile::new()?;
    let mut follow = follow(&w.engine, heard.reopen()?)?;
    let hears = |words: &str| -> Result<bool> { Ok(read_to_string(heard.path())?.contains(words)) };
    until("what was printed is heard", || Ok(hears(&first)? && hears(&other)?))?;
    // the app may look while it is written
    let say = |pod: &str, word: &str| w.in_app(pod, &format!("echo {word} >/tmp/it && mv /tmp/it /tmp/say"));
    say(a, "later-of-a")?;
    until("and what comes later", || hears("later-of-a"))?;

    // the container takes this command along when it ends
    let _ = w.in_app(a, "kill 1");
    until("it was started again", || Ok(w.pods()?.get(a) == Some(&1)))?;
    let (previous, ends) = (|| w.logs(&["--previous"]), format!("ends {a} {first}"));
    until("the last words of the run before", || Ok(previous()?.iter().any(|(_, l)| *l == ends)))?;
    let before = previous()?;
    ensure!(run_of(&before, a).as_ref() == Some(&first), "{before:?}");
    ensure!(before.iter().all(|(r, _)| *r == replica), "the other has run no other run: {before:?}");
    until("the run that is has its own lines", || {
        let (now, still) = runs()?;
        Ok(now.is_some_and(|now| now != first) && still.as_ref() == Some(&other))
    })?;
    // one that begins anew is no reason to hear nothing more of the others
    say(b, "later-of-b")?;
    until("and the other is still followed", || hears("later-of-b"))?;
    follow.kill()?;
    follow.wait()?;
    w.engine.down("shop")?;
    w.nothing_left()
}

/// What `kubectl` does in the end, also where a test fails.
struct Finally<'a>(&'a Cluster, String);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        let _ = self.0.kubectl(&self.1.split(' ').collect::<Vec<_>>());
    }
}

#[test]
fn a_teardown_says_what_holds_it_and_takes_along_what_its_ledger_does_not_have() -> Result<()> {
    let Some((sypctl, c)) = ground()? else { return Ok(()) };
    // in a namespace that stays nothing goes by itself; an engine with just its own rights may not look for ConfigMaps
    let ns = format!("syp-test-{}", uuid::Uuid::new_v4().simple());
    c.kubectl(&["create", "namespace", &ns])?;
    let _away = Finally(&c, format!("delete namespace {ns} --wait=false"));
    let w = World::up(&c, Engine::new(&sypctl)?, &["--namespace", &ns])?;
    let e = &w.engine;
    w.k(&["create", "configmap", "left"])?;
    w.k(&["label", "configmap", "left", &format!("syp.dev/store={}", e.store_id()?), &w.label])?;
    w.k(&["create", "configmap", "others"])?;
    let svc = w.k(&["get", "services", "-l", &w.label, "-o", "name"])?.trim().to_owned();
    let patch =
        |f: &str| format!(r#"-n {ns} patch {svc} --type merge -p {{"metadata":{{"finalizers":{f}}}}}"#);
    let held = Finally(&c, patch("null"));
    c.kubectl(&patch(&format!("[\"{HOLD}\"]")).split(' ').collect::<Vec<_>>())?;

    e.ok(&["down", "shop", "--yes", "--no-wait"])?;
    let mut why = Value::Null;
    until("what holds it is named", || {
        let shown = e.json(&["show", "shop"])?;
        let mut all = shown["waitingOn"].as_array().into_iter().flatten();
        why = all.find(|w| w["message"].to_string().contains(HOLD)).cloned().unwrap_or_default();
        Ok(!why.is_null())
    })?;
    let said = |field: &str, words: &str| why[field].to_string().contains(words);
    let name = svc.rsplit('/').next().unwrap_or_default();
    ensure!(said("message", &format!("Service {name} is being removed")), "{why}");
    ensure!(why["reason"] == "DELETING" && said("hint", "kubectl describe"), "{why}");
    let shown = e.ok(&["show", "shop"])?;
    ensure!(shown.contains(HOLD) && shown.contains("kubectl describe"), "and people read it: {shown}");
    ensure!(e.run(&["receipt", "shop"])?.code != 0, "no receipt before it is gone");
    // what the cluster itself still does for a removal ends by itself
    let by = || w.k(&["get", &svc, "-o", "jsonpath={.metadata.finalizers}"]);
    until("nothing else holds it", || Ok(by()?.trim() == format!("[\"{HOLD}\"]")))?;
    drop(held);
    e.wait_state("shop", "DESTROYED", LIMIT)?;

    let receipt = e.json(&["receipt", "shop", "--verify"])?;
    ensure!(receipt["residuals"].as_array().is_none_or(Vec::is_empty), "{receipt}");
    ensure!(receipt["createdCount"] == receipt["verifiedGoneCount"], "{receipt}");
    let all = receipt["resources"].as_array().context("resources")?;
    let found = all.iter().find(|r| r["deterministicId"] == "left").context("it was found")?;
    ensure!(found["kind"] == "k8s.object" && found["phase"] == "GONE", "{found}");
    let maps = w.k(&["get", "configmaps", "-o", "name"])?;
    ensure!(!maps.contains("/left") && maps.contains("/others"), "what is not labelled stays: {maps}");
    w.nothing_left()
}
