//! The bed that stands for AWS, held against what the target asks of it: stacks of the product's own template come, serve behind their
//! gate, change without a caller noticing, are taken back, and go without a trace.
#[path = "aws_bed/shop.rs"]
mod shop;

use anyhow::{Context, Result, ensure};
use aws_sdk_resourcegroupstagging::types::TagFilter;
use shop::{Callers, Shop, bed, exit_code, spec};
use std::{
    collections::BTreeSet,
    net::TcpStream,
    time::{Duration, Instant},
};
use syp_proto::v1::{InstanceSpec, Scaling, SecretRef};
use syp_steps::aws::stack::Stack;
use syp_tests::{
    aws_bed::{Bed, Fault},
    product::{pause, sh},
};

/// Asks again until it is so.
fn until(what: &str, mut asked: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !asked()? {
        ensure!(Instant::now() < end, "it does not come: {what}");
        pause(100);
    }
    Ok(())
}

/// A caller gets the app's answer.
fn serves(shop: &Shop, bed: &Bed) -> Result<()> {
    let (code, said) = shop.ask(bed, "/", &[])?;
    ensure!(code == 200, "{} answers {code}: {said}", shop.site.domain);
    Ok(())
}

#[test]
fn a_stack_comes_serves_changes_is_taken_back_and_goes() -> Result<()> {
    let Some((bed, gate)) = bed()? else { return Ok(()) };
    let shop = Shop::new(&bed, &gate, "shop.example.com")?;
    let made = shop.bring(&spec("one", 8080, 1), "syp-test/hello", "one")?;
    ensure!(made.held.status == "CREATE_COMPLETE", "{made:?}");
    let at = bed.front("shop.example.com").context("a load balancer")?;
    ensure!(made.outputs["LoadBalancerDns"] == at.to_string(), "{:?}", made.outputs);
    ensure!(shop.ask_as_stranger(&bed, "/", &[])?.0 == 401, "nobody comes in without a token");
    let (code, said) = shop.ask(&bed, "/", &[])?;
    ensure!(code == 200 && said.contains("hello from syp"), "{code}: {said}");
    let status = shop.status(&bed)?;
    ensure!(status.upstreams.iter().all(|u| u.ready), "{status:?}");
    let before = shop.tasks(&made, "RUNNING")?;
    ensure!(before.len() == 1 && before[0].last_status() == Some("RUNNING"), "{before:?}");

    // an update is a new task, and nobody notices
    let callers = Callers::start(&shop, &bed)?;
    let changed = shop.bring(&spec("two", 8080, 1), "syp-test/hello", "two")?;
    callers.end()?;
    ensure!((&changed.id, changed.held.status.as_str()) == (&made.id, "UPDATE_COMPLETE"), "{changed:?}");
    let now = shop.status(&bed)?;
    ensure!(now.host != status.host, "the same task still answers: {}", now.host);
    ensure!(bed.task_addresses("shop.example.com").len() == 1);
    ensure!(env_of(&shop, &changed)?.contains("REVISION=two"), "it has its environment");

    // one that does not work is given up, and the old one serves on
    let callers = Callers::start(&shop, &bed)?;
    let why = shop.fails(&spec("three", 8080, 1), "syp-test/crash", "three")?;
    callers.end()?;
    ensure!(why.contains("UPDATE_ROLLBACK_COMPLETE") && why.contains("Circuit Breaker"), "{why}");
    ensure!(shop.status(&bed)?.host == now.host, "the old task answers");
    let stopped = shop.tasks(&changed, "STOPPED")?;
    let crashed: Vec<_> = stopped.iter().filter(|t| exit_code(t) == Some(3)).collect();
    ensure!(crashed.len() >= 3, "{stopped:?}");
    ensure!(crashed[0].stopped_reason() == Some("Essential container in task exited"), "{:?}", crashed[0]);
    let lines = shop.lines("app/")?;
    ensure!(lines.iter().any(|l| l == "fatal: no database configured"), "{lines:?}");
    ensure!(!shop.lines("gate/")?.is_empty(), "the gate's are there too");

    // more of them
    shop.bring(&spec("two", 8080, 2), "syp-test/hello", "four")?;
    ensure!(bed.task_addresses("shop.example.com").len() == 2);
    let hosts = |_| Ok(shop.status(&bed)?.host);
    let hosts: BTreeSet<String> = (0..8).map(hosts).collect::<Result<_>>()?;
    ensure!(hosts.len() == 2 && hosts.contains(&now.host), "both answer: {hosts:?}");
    goes(&shop, &bed)?;
    ensure!(TcpStream::connect((at, 443)).is_err(), "nothing answers there any more");
    Ok(())
}

/// Variables of the app's container, as Docker has them.
fn env_of(shop: &Shop, stack: &Stack) -> Result<String> {
    let tasks = shop.tasks(stack, "RUNNING")?;
    let containers = tasks.first().context("a task")?.containers();
    let app = containers.iter().find(|c| c.name() == Some("app")).context("an app")?;
    sh("docker", &["inspect", "-f", "{{.Config.Env}}", app.runtime_id().context("an id")?])
}

/// It is there for whoever asks by tags, then it goes, and nothing is left.
fn goes(shop: &Shop, bed: &Bed) -> Result<()> {
    let store = shop.owner.store.as_str();
    let filter = TagFilter::builder().key("syp.dev/store").values(store).build();
    let tagged = shop.runtime.block_on(shop.tags.get_resources().tag_filters(filter).send())?;
    let left = bed.left(store)?;
    let arns = left.iter().filter(|l| l.starts_with("arn:")).count();
    ensure!(arns > 8 && tagged.resource_tag_mapping_list().len() == arns, "{tagged:?}");
    ensure!(left.iter().any(|l| l.starts_with("container ")), "{left:?}");
    shop.remove()?;
    ensure!(bed.left(store)?.is_empty(), "{:?}", bed.left(store)?);
    Ok(())
}

#[test]
fn what_goes_wrong_is_told_as_aws_tells_it() -> Result<()> {
    let Some((bed, gate)) = bed()? else { return Ok(()) };
    let (shop, other) =
        (Shop::new(&bed, &gate, "flask.example.com")?, Shop::new(&bed, &gate, "ws.example.com")?);
    // its answer is lost, and whoever asks again finds what it made
    bed.fault("cloudformation:CreateStack", 0, Fault::Lost);
    bed.fault("cloudformation:DescribeStacks", 1, Fault::Reset);
    let made = shop.bring(&spec("one", 5000, 1), "syp-test/flask", "one")?;
    ensure!(
        bed.calls().iter().filter(|c| *c == "cloudformation:CreateStack").count() == 2,
        "{:?}",
        bed.calls()
    );
    let (code, headers) = shop.ask(&bed, "/headers", &["-H", "X-Forwarded-For: 192.0.2.1"])?;
    ensure!(code == 200 && headers.to_lowercase().contains("x-forwarded-proto"), "{code}: {headers}");

    // an app that ends is replaced
    let first = shop.tasks(&made, "RUNNING")?[0].task_arn().context("an ARN")?.to_owned();
    let host = shop.status(&bed)?.host;
    let _ = shop.ask(&bed, "/exit?code=7", &[]);
    // an answer of it is not enough: for a moment others may still come from where there was none
    until("another task serves", || {
        let another = shop.status(&bed).is_ok_and(|s| s.host != host);
        Ok(another && bed.task_addresses("flask.example.com").len() == 1)
    })?;
    serves(&shop, &bed)?;
    let gone = shop.tasks(&made, "STOPPED")?;
    ensure!(gone.iter().any(|t| t.task_arn() == Some(&first) && exit_code(t) == Some(7)), "{gone:?}");

    // what can't be begun with
    shop.fails(&spec("two", 5000, 1), "registry.example.com/none:1", "two")?;
    let secret =
        SecretRef { env: "NONE".into(), secret: "own".into(), version: "1".into(), ..Default::default() };
    let unknown = InstanceSpec { secrets: vec![secret], ..spec("three", 5000, 1) };
    let mut wrong = Shop::new(&bed, &gate, "flask.example.com")?;
    wrong.owner = shop.owner.clone();
    wrong.site.app_secret = shop.site.gate_secret.clone();
    wrong.fails(&unknown, "syp-test/flask", "three")?;
    let stopped = shop.tasks(&made, "STOPPED")?;
    for word in ["CannotPullContainerError", "ResourceInitializationError"] {
        let of = |t: &aws_sdk_ecs::types::Task| t.stopped_reason().is_some_and(|r| r.starts_with(word));
        let all: Vec<_> = stopped.iter().filter(|t| of(t)).collect();
        ensure!(
            all.len() >= 3 && all[0].stop_code().is_some_and(|c| c.as_str() == "TaskFailedToStart"),
            "{stopped:?}"
        );
    }
    ensure!(shop.ask(&bed, "/env/REVISION", &[])?.1.contains("one"), "the first one serves on");

    // a connection that becomes another, on a stack beside
    other.bring(&spec("one", 8765, 1), "syp-test/ws", "one")?;
    let upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"];
    let mut args: Vec<&str> = upgrade.iter().flat_map(|h| ["-H", *h]).collect();
    args.extend(["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "--http1.1", "-m", "2"]);
    until("it is upgraded", || Ok(other.ask(&bed, "/", &args)?.0 == 101))?;
    other.remove()?;
    serves(&shop, &bed)
}

/// All that a template can have, and an app that is never ready.
#[test]
fn a_full_one_serves_and_what_never_listens_is_given_up() -> Result<()> {
    let Some((bed, gate)) = bed()? else { return Ok(()) };
    let shop = Shop::new(&bed, &gate, "full.example.com")?;
    let app =
        "touch /www/x && exit 3; touch /tmp/x || exit 4; echo \"$QUOTE\"; exec httpd -f -p 8080 -h /www";
    let full = InstanceSpec {
        env: [("QUOTE".to_owned(), "\"$HOME\" a\nb".to_owned())].into(),
        entrypoint: vec!["/bin/sh".into()],
        args: vec!["-c".into(), app.into()],
        read_only_root: true,
        scaling: Some(Scaling { min: 2, max: 3, ..Default::default() }),
        ..spec("one", 8080, 1)
    };
    let made = shop.bring(&full, "syp-test/hello", "one")?;
    serves(&shop, &bed)?;
    // the least of a range from the beginning, and what is chosen stays through a change
    ensure!(shop.tasks(&made, "RUNNING")?.len() == 2, "{:?}", shop.tasks(&made, "RUNNING")?);
    let mut changed = full;
    changed.env.insert("LEVEL".into(), "debug".into());
    let made = shop.bring(&changed, "syp-test/hello", "changed")?;
    until("two of the new revision", || Ok(shop.tasks(&made, "RUNNING")?.len() == 2))?;
    serves(&shop, &bed)?;
    // in two lines, as it was given; what is said on the other output may come between
    let lines = shop.lines("app/")?;
    ensure!(["\"$HOME\" a", "b"].iter().all(|l| lines.iter().any(|said| said == l)), "{lines:?}");
    shop.fails(&spec("two", 8080, 1), "syp-test/silent", "two")?;
    let stopped = shop.tasks(&made, "STOPPED")?;
    let unhealthy = |r: &str| r.starts_with("Task failed ELB health checks");
    let all = stopped.iter().filter(|t| t.stopped_reason().is_some_and(unhealthy)).count();
    ensure!(all >= 3 && shop.ask(&bed, "/", &[])?.0 == 200, "{stopped:?}");
    Ok(())
}

#[test]
fn it_can_be_left_in_the_middle_of_anything() -> Result<()> {
    let Some((bed, gate)) = bed()? else { return Ok(()) };
    let shop = Shop::new(&bed, &gate, "shop.example.com")?;
    bed.slow(Duration::from_millis(500));
    // told to go while it comes
    let store = shop.owner.store.as_str().to_owned();
    begin(&shop, &bed, "one", "syp-test/silent")?;
    until("it comes", || Ok(bed.left(&store)?.iter().filter(|l| l.starts_with("container ")).count() > 3))?;
    let away = async || shop.stacks.remove(&shop.owner, None, &|_| {}).await;
    shop.soon(away())?.map_err(|f| anyhow::anyhow!("{f:?}"))?;
    let left = bed.left(&store)?;
    ensure!(left.iter().all(|l| l.contains(":task-definition/") || l.contains(":secret:")), "{left:?}");

    // and while it changes
    shop.bring(&spec("two", 8080, 1), "syp-test/hello", "two")?;
    begin(&shop, &bed, "three", "syp-test/silent")?;
    until("it changes", || Ok(bed.left(&store)?.iter().filter(|l| l.contains(":task/")).count() > 1))?;
    shop.remove()?;
    ensure!(bed.calls().iter().any(|c| c == "cloudformation:CancelUpdateStack"), "{:?}", bed.calls());
    ensure!(bed.left(&store)?.is_empty(), "{:?}", bed.left(&store)?);

    // whatever is there goes with the bed
    let shop = Shop::new(&bed, &gate, "shop.example.com")?;
    begin(&shop, &bed, "four", "syp-test/hello")?;
    until("it comes", || Ok(bed.front("shop.example.com").is_some()))?;
    let filter = format!("label=syp.test/bed={}", bed.id());
    let there = |what: &str| {
        let args: Vec<&str> = what.split(' ').chain(["-q", "--filter", &filter]).collect();
        Ok::<_, anyhow::Error>(!sh("docker", &args)?.trim().is_empty())
    };
    ensure!(there("ps -a")? && there("network ls")?);
    drop(bed);
    ensure!(!there("ps -a")? && !there("network ls")?);
    Ok(())
}

/// Asks for it, and does not wait.
fn begin(shop: &Shop, bed: &Bed, token: &str, image: &str) -> Result<()> {
    let changes = ["cloudformation:CreateStack", "cloudformation:UpdateStack"];
    let asked = || bed.calls().iter().filter(|c| changes.contains(&c.as_str())).count();
    let before = asked();
    until("it is asked for", || {
        let soon = shop.bring_for(Duration::from_secs(1), &spec(token, 8080, 1), image, token);
        ensure!(soon.is_err(), "{image} is not there at once");
        Ok(asked() > before)
    })
}
