//! The whole product on stacks that CloudFormations of others keep: an instance comes, changes and goes, and what each of them tells is in
//! `sypctl events`, all of it and each once. Tasks and load balancers are the bed's: no emulator runs any.
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use syp_tests::{
    aws_bed::Program,
    conformance::{Aws, Bed},
    product::{Engine, binary, get},
};

/// What `sypctl events` has of the stack: the status and the logical id of each event, sorted.
fn told(e: &Engine) -> Result<Vec<String>> {
    let all = e.json(&["events", "shop"])?;
    let of = |x: &&Value| x["type"] == "provider_event" && x["step"] == "stack";
    let all = all["events"].as_array().context("events")?.iter().filter(of);
    let mut told: Vec<String> = all
        .map(|x| {
            let logical = x["message"].as_str().and_then(|m| m.split(' ').next()).unwrap_or_default();
            format!("{} {logical}", x["reason"].as_str().unwrap_or_default())
        })
        .collect();
    told.sort();
    Ok(told)
}

fn lives_and_goes(sypctl: &std::path::Path, program: Program, resources: bool) -> Result<()> {
    let Some(aws) = Aws::kept_by(sypctl, program)? else { return Ok(()) };
    let e = aws.engine(sypctl)?;
    let domain = Aws::domain(&e, "shop");
    let name = ["--image", aws.image(), "--port", "8080", "--on", aws.on(), "--domain", &domain];
    let up = [&["up", "shop"][..], &name, &["--allow", "user:alice@example.com", "--yes"]].concat();
    e.ok(&up)?;
    ensure!(e.state("shop")? == "SERVING", "it serves");
    aws.found(&e, "shop")?;
    let url = format!("https://{domain}/");
    ensure!(get(&url, None, &[])?.0 == 401, "nobody gets in without a token");
    e.ok(&["set", "shop", "--env", "LEVEL=debug"])?;
    // an engine that is killed tells nothing twice, and misses nothing of what goes on meanwhile
    e.ok(&["down", "shop", "--no-wait"])?;
    e.kill9()?;
    e.ok(&["wait", "shop", "--for", "state=destroyed", "--timeout", "300s"])?;
    let receipt = e.ok(&["receipt", "shop", "--verify"])?;
    ensure!(receipt.contains(" 0 left"), "{receipt}");
    ensure!(aws.left(&e.store_id()?)?.is_empty(), "left behind");

    let mut kept = aws.bed.kept(&e.store_id()?)?;
    kept.sort();
    let told = told(&e)?;
    ensure!(told == kept, "{program:?} tells {kept:#?}, and 'sypctl events' {told:#?}");
    for status in ["CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"] {
        let stack = format!("{status} sypctl-{}-", e.store_id()?);
        ensure!(told.iter().any(|t| t.starts_with(&stack)), "{stack}: {told:#?}");
    }
    if resources {
        for event in ["CREATE_COMPLETE Service", "DELETE_COMPLETE LoadBalancer"] {
            ensure!(told.iter().any(|t| t == event), "{event}: {told:#?}");
        }
    }
    println!("{program:?}: {} events, all of them in 'sypctl events'", told.len());
    Ok(())
}

#[test]
fn one_that_has_events_of_resources() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    lives_and_goes(&sypctl, Program::Ministack, true)
}

#[test]
fn one_that_makes_stacks_at_once() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    lives_and_goes(&sypctl, Program::Moto, false)
}
