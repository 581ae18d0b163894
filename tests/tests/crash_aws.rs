//! `kill -9` of the real engine at every step of an instance on AWS, in both directions; and in the middle of a stack that takes its time.
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use syp_steps::aws::names::pull;
use syp_tests::{
    conformance::{Aws, Bed},
    crash::{self, Points, rests},
    product::{Engine, binary, get, pause},
};

const NAME: &str = "phoenix";
const ALICE: &str = "user:alice@example.com";
const UP: [&str; 8] = ["config", "values-1", PULL, "stack", "probe", "isolation", "check", "domain"];
const UPDATE: [&str; 9] =
    ["config", "values-2", PULL, "stack", "probe", "isolation", "check", "domain", "undo values-1"];
const DOWN: [&str; 5] = ["drain", "undo stack", PULL_GONE, "undo values-2", "undo config"];
/// The login for the bed's registry, which is at another port each time.
const PULL: &str = "pull";
const PULL_GONE: &str = "undo pull";

fn up<'a>(aws: &Aws, domain: &'a str, secret: &'a str) -> Vec<&'a str> {
    let mut all = vec!["up", NAME, "--image", aws.image(), "--on", aws.on(), "--domain", domain];
    all.extend([
        "--port",
        "8080",
        "--secret",
        secret,
        "--allow",
        ALICE,
        "--pull-login",
        "--no-wait",
        "--yes",
    ]);
    all
}

fn are(points: &Points, aws: &Aws, all: &[&str]) -> Result<()> {
    let node = pull(aws.registry());
    let all: Vec<String> = all
        .iter()
        .map(|p| match *p {
            PULL => node.clone(),
            PULL_GONE => format!("undo {node}"),
            other => other.to_owned(),
        })
        .collect();
    points.are(&all.iter().map(String::as_str).collect::<Vec<_>>())
}

fn engine(aws: &Aws, sypctl: &std::path::Path) -> Result<Engine> {
    Ok(aws.engine(sypctl)?.with("DOCKER_CONFIG", aws.login()))
}

fn serves(aws: &Aws, e: &Engine) -> Result<()> {
    aws.found(e, NAME)?;
    let (url, token) = (e.endpoint(NAME)?, e.token(NAME, Some(ALICE))?);
    ensure!(get(&url, None, &[])?.0 == 401, "without a token");
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "with one");
    Ok(())
}

fn value(text: &str) -> Result<(tempfile::NamedTempFile, String)> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let flag = format!("TOKEN=@{}", file.path().display());
    Ok((file, flag))
}

fn clean(aws: &Aws, e: &Engine) -> Result<()> {
    e.ok(&["receipt", NAME, "--verify"])?;
    let left = aws.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
    Ok(())
}

fn life(aws: &Aws, point: &str) -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let points = Points::none()?;
    let e = engine(aws, &sypctl)?.with("SYP_CRASH_AT", &points.at(point));
    let (domain, (_one, first), (_two, second)) = (Aws::domain(&e, NAME), value("one")?, value("two")?);
    let mut missed = Vec::new();
    are(&points, aws, &UP)?;
    crash::ask(&e, NAME, &up(aws, &domain, &first), |_| true)?;
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    serves(aws, &e)?;
    missed.extend(points.left()?.into_iter().map(|p| format!("up {p}")));

    are(&points, aws, &UPDATE)?;
    let set = ["set", NAME, "--env", "A=1", "--secret", &second, "--no-wait", "--yes"];
    crash::ask(&e, NAME, &set, |i| i["spec"]["env"]["A"] == "1")?;
    crash::until(&e, NAME, "set", |i| rests(i, "SERVING") && i["activeRevision"] == "phoenix-2")?;
    serves(aws, &e)?;
    missed.extend(points.left()?.into_iter().map(|p| format!("update {p}")));

    are(&points, aws, &DOWN)?;
    crash::ask(&e, NAME, &["down", NAME, "--no-wait", "--yes"], |i| i["state"] != "SERVING")?;
    crash::until(&e, NAME, "down", |i| rests(i, "DESTROYED"))?;
    missed.extend(points.left()?.into_iter().map(|p| format!("down {p}")));
    clean(aws, &e)?;
    ensure!(missed.is_empty(), "engines never died at {missed:?}");
    Ok(())
}

/// What AWS takes minutes for goes on without us; whoever comes next finds it under way.
fn in_the_middle(aws: &Aws) -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let e = engine(aws, &sypctl)?;
    let (domain, (_one, secret)) = (Aws::domain(&e, NAME), value("one")?);
    aws.bed.slow(Duration::from_secs(4));
    e.ok(&up(aws, &domain, &secret))?;
    let under_way = |status: &str| -> Result<()> {
        crash::until(&e, NAME, status, |i| i["waitingOn"].to_string().contains(status))
    };
    under_way("CREATE_IN_PROGRESS")?;
    e.kill9()?;
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    serves(aws, &e)?;
    e.ok(&["set", NAME, "--env", "A=1", "--no-wait", "--yes"])?;
    under_way("UPDATE_IN_PROGRESS")?;
    e.kill9()?;
    crash::until(&e, NAME, "set", |i| rests(i, "SERVING") && i["activeRevision"] == "phoenix-2")?;
    // and one that is taken down while it is changed
    e.ok(&["set", NAME, "--env", "A=2", "--no-wait", "--yes"])?;
    under_way("UPDATE_IN_PROGRESS")?;
    e.ok(&["down", NAME, "--no-wait", "--yes"])?;
    pause(2_000);
    e.kill9()?;
    crash::until(&e, NAME, "down", |i| rests(i, "DESTROYED"))?;
    clean(aws, &e)
}

/// One bed, and each way to die beside the others: it is an account for all of them.
#[test]
fn killed_at_each_step_and_in_the_middle_of_a_stack() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(aws) = Aws::start(&sypctl)? else { return Ok(()) };
    std::thread::scope(|s| {
        let all = ["CP3", "CP4", "CP5"].map(|point| (point, s.spawn(|| life(&aws, point))));
        for (point, ran) in all {
            ran.join().map_err(|_| anyhow::anyhow!("broke down"))?.context(point)?;
        }
        in_the_middle(&aws).context("in the middle")
    })
}
