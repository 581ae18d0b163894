//! Private images on a cluster: pinned to what the tag is when the revision is made, pulled by its nodes with the engine's login.
use anyhow::{Context, Result, ensure};
use std::{collections::BTreeSet, path::Path, process::Command};
use syp_tests::{
    conformance::{Bed, Cluster},
    product::{binary, get, sh},
    registry::Registry,
};

const ALICE: &str = "user:alice@example.com";
const PASSWORD: &str = "a-secret-of-alice";

/// Another image than the one before, under one name.
fn push(login: &str, image: &str, change: &str) -> Result<()> {
    let made = sh("docker", &["create", "syp-test/hello"])?;
    let tagged = sh("docker", &["commit", "-c", change, made.trim(), image]);
    sh("docker", &["rm", made.trim()])?;
    tagged?;
    sh("docker", &["--config", login, "push", "-q", image])?;
    sh("docker", &["rmi", image]).map(drop)
}

/// The images of the app's containers, one a pod.
fn running(c: &Cluster, uid: &str) -> Result<Vec<String>> {
    let form = "jsonpath={range .items[*]}{.spec.containers[0].image}{\"\\n\"}{end}";
    let label = format!("syp.dev/instance={uid},syp.dev/step!=isolation");
    let all = c.kubectl(&["get", "pods", "-A", "-l", &label, "-o", form])?;
    Ok(all.lines().map(str::to_owned).collect())
}

/// What their containers may, each once.
fn allowed(c: &Cluster, uid: &str) -> Result<BTreeSet<String>> {
    let form = "jsonpath={range .items[*]}{.spec.containers[0].securityContext}{\"\\n\"}{end}";
    let label = format!("syp.dev/instance={uid},syp.dev/step!=isolation");
    let all = c.kubectl(&["get", "pods", "-A", "-l", &label, "-o", form])?;
    Ok(all.lines().map(str::to_owned).collect())
}

fn holds(dir: &Path, words: &str) -> Result<bool> {
    let found = Command::new("grep").args(["-rlF", words]).arg(dir).output()?;
    Ok(!found.stdout.is_empty())
}

#[test]
fn a_private_image_is_pinned_and_pulled_with_the_engines_login() -> Result<()> {
    let (Some(sypctl), Some(c)) = (binary(), Cluster::from_env()?) else { return Ok(()) };
    let node = c.kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let Some(r) = Registry::beside(node.trim())? else { return Ok(()) };
    let login = r.login(PASSWORD)?;
    let image = format!("{}/shop:1", r.host);
    push(&login, &image, "USER 65534:65534")?;
    let engine = |config: &str| Ok::<_, anyhow::Error>(c.engine(&sypctl)?.with("DOCKER_CONFIG", config));
    let up =
        ["up", "shop", "--image", &image, "--on", "k8s", "--port", "8080", "--isolation", "none", "--yes"];
    let allow = [&up[..], &["--allow", ALICE]].concat();
    let with = [&allow[..], &["--pull-login"]].concat();

    // nothing to hand on
    let nobody = r.dir().join("nobody").display().to_string();
    let stranger = engine(&nobody)?;
    let said = stranger.run(&with)?;
    ensure!(
        said.code != 0 && said.err.contains("IMAGE_AUTH_FAILED") && said.err.contains("docker login"),
        "{said:?}"
    );
    ensure!(c.left(&stranger.store_id()?)?.is_empty(), "nothing was made");
    stranger.ok(&["server", "stop"])?;

    let e = engine(&login)?;
    let mut gone = with.clone();
    let none = format!("{}/gone:1", r.host);
    gone[3] = &none;
    let said = e.run(&gone)?;
    ensure!(said.code != 0 && said.err.contains("IMAGE_NOT_FOUND"), "{said:?}");
    ensure!(c.left(&e.store_id()?)?.is_empty(), "nothing was made");
    // the engine may ask, the nodes may not pull
    let said = e.run(&allow)?;
    ensure!(
        said.code != 0 && said.err.contains("IMAGE_AUTH_FAILED") && said.err.contains("--pull-login"),
        "{said:?}"
    );

    e.ok(&with)?;
    let (url, token) = (e.endpoint("shop")?, e.token("shop", Some(ALICE))?);
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "it serves");
    let shown = e.json(&["show", "shop"])?;
    let uid = shown["uid"].as_str().context("uid")?.to_owned();
    let first = shown["imageDigest"].as_str().context("digest")?.to_owned();
    let pinned = format!("{}/shop@{first}", r.host);
    ensure!(running(&c, &uid)? == [pinned.clone()], "{first}: {:?}", running(&c, &uid)?);

    // who does not run as root is held to that, and to the strictest of Pod Security
    let may = allowed(&c, &uid)?;
    let strict = |may: &str| may.contains("\"runAsNonRoot\":true") && may.contains("\"drop\":[\"ALL\"]");
    ensure!(may.len() == 1 && may.iter().all(|m| strict(m)), "{may:?}");

    // the tag moves: more of the same are the same
    push(&login, &image, "LABEL n=2")?;
    e.ok(&["scale", "shop", "--replicas", "2", "--yes"])?;
    ensure!(running(&c, &uid)? == [pinned.clone(), pinned.clone()], "{:?}", running(&c, &uid)?);
    // and whoever names it again gets what it is now
    e.ok(&["set", "shop", "--image", &image, "--yes"])?;
    let (now, may) = (running(&c, &uid)?, allowed(&c, &uid)?);
    ensure!(may.len() == 1 && !may.iter().any(|m| strict(m)), "it runs as root: {may:?}");
    ensure!(now.len() == 2 && now[0] == now[1] && now[0] != pinned, "{now:?}");
    e.ok(&["rollback", "shop", "--yes"])?;
    ensure!(running(&c, &uid)?.iter().all(|i| *i == pinned), "the very image: {:?}", running(&c, &uid)?);

    ensure!(!holds(e.dir(), PASSWORD)?, "the engine wrote the password down");
    e.down("shop")?;
    ensure!(c.left(&e.store_id()?)?.is_empty(), "{:?}", c.left(&e.store_id()?)?);
    Ok(())
}
