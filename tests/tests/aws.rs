//! What a user of AWS meets before anything is made: the check, the plan, what is refused and in which words; and how often AWS is asked.
use anyhow::{Context, Result, ensure};
use rust_decimal::Decimal;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use syp_engine::{clock::Clock, id::StoreId, step::Target};
use syp_steps::{
    aws::{AwsTarget, Options},
    prices::aws::Catalogue,
};
use syp_tests::{
    conformance::{Aws, Bed},
    product::{Engine, binary, get, pause, sh},
    registry::Registry,
};

const ALICE: &str = "user:alice@example.com";

fn up<'a>(aws: &Aws, more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec!["up", "shop", "--image", aws.image(), "--on", aws.on(), "--allow", ALICE, "--yes"];
    all.extend(more);
    all
}

/// Of a region that the program does not know: read from AWS' list, and kept over another start.
fn priced(aws: &Aws, e: &Engine) -> Result<()> {
    let check = e.ok(&["provider", "check", aws.on()])?;
    let words = format!("sypctl prices refresh {}", aws.on());
    ensure!(
        check.lines().any(|l| l.contains("prices") && l.contains("warn")) && check.contains(&words),
        "{check}"
    );
    ensure!(e.ok(&["prices", "show", aws.on()])?.contains(&words), "none are known yet");
    let plan = e.json(&["prices", "refresh", aws.on(), "--plan"])?;
    ensure!(plan["prices"]["prices"].as_array().is_some_and(|p| p.len() == 10), "{plan}");
    ensure!(
        e.json(&["prices", "show", aws.on()])?["prices"].as_array().is_none_or(Vec::is_empty),
        "only shown"
    );
    e.ok(&["prices", "refresh", aws.on()])?;
    e.kill9()?;
    let held = e.json(&["prices", "show", aws.on()])?;
    let of = |key: &str| {
        let mut all = held["prices"].as_array().into_iter().flatten();
        all.find(|p| p["key"] == key).and_then(|p| p["amount"].as_str()).unwrap_or_default().to_owned()
    };
    // not Windows', not what is left over, not a network's load balancer, not what is free
    let want = [
        ("fargate_vcpu_hour", "0.04048"),
        ("alb_hour", "0.0252"),
        ("alarm_month", "0.1"),
        ("logs_ingest_gb", "0.57"),
    ];
    for (key, amount) in want {
        ensure!(of(key) == amount, "{key}: {held}");
    }
    let other = e.run(&["prices", "refresh", "docker"])?;
    ensure!(other.code != 0 && other.err.contains("has no list prices"), "{}", other.err);
    Ok(())
}

/// A line of the check says that all is there, and a name without a certificate what to do.
fn checked(aws: &Aws, e: &Engine) -> Result<()> {
    let good = e.run(&["provider", "check", aws.on(), "--domain", "shop.example.com"])?;
    let all = [
        "reachable",
        "identity",
        "bootstrap",
        "gate's image",
        "network",
        "certificate",
        "prices",
        "changes that are about nothing, are allowed",
        "0 of 4000 vCPU",
        "0 of 50",
    ];
    for what in all {
        let line =
            good.out.lines().find(|l| l.contains(what)).with_context(|| format!("{what}: {}", good.out))?;
        ensure!(line.contains("ok"), "{line}");
    }
    ensure!(good.code == 0, "{}", good.err);
    let bad = e.run(&["provider", "check", aws.on(), "--domain", "shop.example.net"])?;
    ensure!(bad.code != 0 && bad.out.contains("request-certificate"), "{} {}", bad.out, bad.err);
    Ok(())
}

/// Whatever was asked of AWS in a life, the policy that the repository gives the engine has it.
fn within_rights(aws: &Aws) -> Result<()> {
    let text = include_str!("../../deploy/aws/bootstrap.yaml");
    let (_, rest) = text.split_once("  OperatorPolicy:").context("the policy")?;
    let (policy, _) = rest.split_once("  OperatorRole:").context("its end")?;
    let words = |c: char| !(c.is_ascii_alphanumeric() || c == ':' || c == '-');
    let given: BTreeSet<&str> = policy.split(words).collect();
    let asked: BTreeSet<String> = aws.bed.calls().into_iter().collect();
    ensure!(asked.len() > 20, "{asked:?}");
    let beyond: Vec<_> = asked.iter().filter(|c| !given.contains(c.as_str())).collect();
    ensure!(beyond.is_empty(), "asked for, and not in OperatorPolicy: {beyond:?}");
    Ok(())
}

/// Tasks that could never be placed are refused; those that can't be now are told of while AWS tries, and given up with its words.
#[test]
fn what_has_no_room_is_refused_or_says_so_while_it_waits() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(aws) = Aws::start(&sypctl)? else { return Ok(()) };
    let e = aws.engine(&sypctl)?;
    let of = |name: &'static str, domain: &'static str, more: &[&'static str]| {
        let all = ["up", name, "--image", aws.image(), "--on", aws.on(), "--allow", ALICE, "--yes"];
        [&all[..], &["--port", "8080", "--domain", domain], more].concat()
    };
    aws.bed.room(0.5, 0.0)?;
    let said = e.run(&of("big", "big.example.com", &["--cpu", "2"]))?;
    ensure!(
        said.code != 0 && said.err.contains("QUOTA_EXCEEDED") && said.err.contains("L-3032A538"),
        "{said:?}"
    );
    ensure!(aws.left(&e.store_id()?)?.is_empty(), "nothing was made");
    aws.bed.room(0.5, 0.4)?;
    let check = e.ok(&["provider", "check", aws.on()])?;
    let line = check.lines().find(|l| l.contains("0.4 of 0.5 vCPU")).context("the quota's line")?;
    ensure!(line.contains("warn") && check.contains("until others end"), "{check}");
    e.ok(&of("tight", "tight.example.com", &["--no-wait"]))?;
    let tight = || e.json(&["show", "tight"]);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while !tight()?["waitingOn"].to_string().contains("limit on the number of vCPUs") {
        ensure!(std::time::Instant::now() < end, "it does not say what it waits on: {}", tight()?);
        pause(200);
    }
    let known = e.json(&["events", "tight"])?;
    let known = known["events"].as_array().into_iter().flatten().find(|x| x["type"] == "step_progress");
    let arn = known.and_then(|x| x["message"].as_str()).unwrap_or_default();
    ensure!(arn.starts_with("arn:aws:cloudformation:"), "its ARN is known before it is complete: {arn}");
    let said = e.run(&["wait", "tight", "--for", "state=serving", "--timeout", "120s"])?;
    ensure!(said.code != 0 && said.err.contains("QUOTA_EXCEEDED"), "{said:?} {}", tight()?);
    e.down("tight")?;
    ensure!(aws.left(&e.store_id()?)?.is_empty(), "left behind");
    Ok(())
}

/// Nothing of it has made anything.
fn refused(aws: &Aws, e: &Engine) -> Result<()> {
    let before = aws.bed.calls().len();
    let domain = ["--port", "8080", "--domain", "shop.example.com"];
    let with = |more: &[&'static str]| [&domain[..], more].concat();
    for (more, reason, words) in [
        (vec!["--port", "8080"], "NOT_SUPPORTED", "--domain"),
        (
            vec!["--port", "8080", "--domain", "shop.example.net"],
            "CERTIFICATE_UNSUITABLE",
            "shop.example.net",
        ),
        (
            with(&["--certificate", "arn:aws:acm:eu-west-1:1:certificate/none"]),
            "CERTIFICATE_UNSUITABLE",
            "none",
        ),
        (with(&["--subnet", "subnet-none", "--subnet", "subnet-other"]), "", "subnet"),
        (with(&["--egress", "none"]), "NOT_SUPPORTED", "--egress"),
        (with(&["--replicas", "1-3", "--target-rps", "5"]), "NOT_SUPPORTED", "--target-cpu"),
        (with(&["--env", "X={{resolve:ssm:/prod/db}}"]), "NOT_SUPPORTED", "--secret"),
        (with(&["--cpu", "64"]), "RESOURCES_EXCEED_HOST", "16 cores"),
        (with(&["--budget", "5EUR/day:drain"]), "INVALID_ARGUMENT", "USD"),
        (vec!["--domain", "shop.example.com"], "PORT_UNKNOWN", "--port"),
    ] {
        let said = e.run(&up(aws, &more))?;
        ensure!(
            said.code != 0 && said.err.contains(reason) && said.err.contains(words),
            "{more:?}: {}",
            said.err
        );
    }
    let elsewhere = e.run(&[
        "up",
        "shop",
        "--image",
        "syp-test/hello",
        "--port",
        "8080",
        "--domain",
        "a.b",
        "--zone",
        "Z1",
        "--yes",
    ])?;
    ensure!(elsewhere.code != 0 && elsewhere.err.contains("aws targets"), "{}", elsewhere.err);
    let plan = e.ok(&up(aws, &with(&["--plan", "--secret", "PW=@/etc/hostname"])))?;
    for part in ["AWS::ECS::Service", "sypctl/", "PER MONTH", "1 x 0.0252 USD/h", "18.396 USD", "by use"] {
        ensure!(plan.contains(part), "{part}: {plan}");
    }
    ensure!(aws.left(&e.store_id()?)?.is_empty(), "nothing was made");
    let made =
        aws.bed.calls().into_iter().skip(before).filter(|c| c.contains(":Create") || c.contains(":Put"));
    ensure!(made.count() == 0, "nothing was asked for");
    Ok(())
}

/// What lives is no orphan, whoever sweeps; what nobody knows any more is one.
fn swept(aws: &Aws, e: &Engine) -> Result<()> {
    let said = e.json(&["sweep", "--provider", aws.on()])?;
    ensure!(said["orphans"].as_array().is_none_or(Vec::is_empty), "what lives is no orphan: {said}");
    e.ok(&["sweep", "--provider", aws.on(), "--delete", "--yes"])?;
    ensure!(e.state("shop")? == "SERVING" && !aws.left(&e.store_id()?)?.is_empty(), "it lives on");
    Ok(())
}

/// An instance of which the engine knows nothing any more, since its store is one of before it.
fn orphaned(aws: &Aws, e: &Engine) -> Result<()> {
    let away = tempfile::tempdir()?;
    let path = away.path().join("b").to_string_lossy().into_owned();
    e.ok(&["server", "backup", &path])?;
    let (domain, store) = (Aws::domain(e, "lost"), e.store_id()?);
    let before = aws.left(&store)?.len();
    let mut lost = up(aws, &["--port", "8080", "--domain", &domain, "--secret", "PW=@/etc/hostname"]);
    lost[1] = "lost";
    e.ok(&lost)?;
    let uid = e.json(&["show", "lost"])?["uid"].as_str().unwrap_or_default().to_owned();
    e.ok(&["server", "stop"])?;
    e.ok(&["server", "restore", "--replace", &path])?;
    let said = e.json(&["sweep", "--provider", aws.on()])?;
    let orphans: Vec<String> =
        said["orphans"].as_array().into_iter().flatten().map(|o| o["step"].to_string()).collect();
    ensure!(
        !orphans.is_empty() && orphans.iter().all(|o| o.contains(&uid)),
        "{uid} is one, all of it: {said}"
    );
    e.ok(&["sweep", "--provider", aws.on(), "--delete", "--yes"])?;
    let left = aws.left(&store)?;
    ensure!(left.len() == before, "all of the orphan is gone, and nothing else: {left:?}");
    ensure!(e.state("shop")? == "SERVING", "what lives lives on");
    Ok(())
}

/// What an update would do is told by AWS itself; what somebody changed by hand is found when asked for.
fn drifted(aws: &Aws, e: &Engine) -> Result<()> {
    let before = aws.bed.calls().len();
    let plan = e.ok(&["set", "shop", "--env", "A=b", "--plan"])?;
    ensure!(plan.contains("AWS replaces    TaskDefinition (AWS::ECS::TaskDefinition): Properties"), "{plan}");
    let of = |call: &str| aws.bed.calls().iter().skip(before).filter(|c| *c == call).count();
    let (made, deleted) = (of("cloudformation:CreateChangeSet"), of("cloudformation:DeleteChangeSet"));
    ensure!(made == 1 && deleted == 1 && of("cloudformation:ExecuteChangeSet") == 0, "a plan does nothing");
    ensure!(e.ok(&["drift", "shop"])?.contains("nothing differs"), "nothing was changed");
    aws.bed.tamper("TaskSecurityGroup", "/SecurityGroupIngress/0/FromPort", "1");
    let found = e.run(&["drift", "shop"])?;
    let words = "was changed: TaskSecurityGroup/SecurityGroupIngress/0/FromPort is 1, not ";
    ensure!(found.code == 1 && found.out.contains(words) && found.err.contains("REVERT_DRIFT"), "{found:?}");
    // that is not the engine's to bring back, and it does not say so
    let fixed = e.run(&["drift", "shop", "--fix", "--yes"])?;
    ensure!(fixed.code == 1 && fixed.out.contains(words) && !fixed.out.contains("brought back"), "{fixed:?}");
    let updates = of("cloudformation:UpdateStack");
    ensure!(updates == 0, "nothing was touched");
    aws.bed.tamper("TaskSecurityGroup", "", "");
    ensure!(e.ok(&["drift", "shop"])?.contains("nothing differs"), "whoever changed it has changed it back");
    ensure!(e.state("shop")? == "SERVING", "it served all the time");
    Ok(())
}

/// What CloudWatch has is told beside what the gates count, and asked for once a minute whoever looks.
fn measured(aws: &Aws, e: &Engine) -> Result<()> {
    aws.bed.measured(41.0, 12.5)?;
    let asked = || aws.bed.calls().iter().filter(|c| *c == "cloudwatch:GetMetricData").count();
    let before = asked();
    let said = e.ok(&["metrics", "shop"])?;
    for line in ["requests at the load balancer  41", "CPU of what tasks have  12.5 %", "0.01 USD a thousand"]
    {
        let squeezed = |t: &str| t.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(squeezed(&said).contains(&squeezed(line)), "{line}: {said}");
    }
    ensure!(
        e.json(&["metrics", "shop", "--since", "1h"])?["provider"]["source"] == "CloudWatch",
        "also as JSON"
    );
    ensure!(asked() == before + 1, "asked {} times", asked() - before);
    Ok(())
}

/// What is paid by use is asked about once more when nothing is left, and is in what it has cost.
fn used(aws: &Aws, e: &Engine) -> Result<()> {
    let of = |u: &Value, key: &str| u[key].as_str().unwrap_or_default().to_owned();
    let listed = e.json(&["prices", "show", aws.on()])?;
    let price = |key: &str| -> Result<Decimal> {
        let p = listed["prices"].as_array().and_then(|a| a.iter().find(|p| p["key"] == key));
        Ok(of(p.with_context(|| format!("no {key} in {listed}"))?, "amount").parse()?)
    };
    let cost = e.json(&["cost", "shop"])?;
    let uses = cost["uses"].as_array().cloned().unwrap_or_default();
    let amount = |kind: &str| -> Result<(String, Decimal)> {
        let u = uses.iter().find(|u| u["kind"] == kind).with_context(|| format!("no {kind}: {cost}"))?;
        let nanos = Decimal::new(u["cost"]["nanos"].as_i64().unwrap_or(0), 9);
        let units: Decimal = u["cost"]["units"].as_str().unwrap_or("0").parse()?;
        Ok((of(u, "quantity"), units + nanos))
    };
    // 2.5 GB in an hour are 2.5 capacity units of it
    ensure!(
        amount("load balancer")? == ("2.5".into(), price("alb_lcu_hour")? * Decimal::new(25, 1)),
        "{cost}"
    );
    ensure!(
        amount("log lines")? == ("0.25".into(), price("logs_ingest_gb")? * Decimal::new(25, 2)),
        "{cost}"
    );
    ensure!(amount("these questions")?.1 == Decimal::new(4, 5), "asked once: {cost}");
    let said = e.ok(&["cost", "shop"])?;
    ensure!(
        said.contains("for 2.5 LCU-hours of load balancer") && said.contains("in what is accrued"),
        "{said}"
    );
    ensure!(e.ok(&["events", "shop"])?.contains("2.5 LCU-hours of load balancer"), "events");
    Ok(())
}

/// What CloudFormation has said of each operation is kept with the instance, each of it once, when the stack is gone too.
fn events(e: &Engine) -> Result<()> {
    let all = e.json(&["events", "shop"])?;
    let all: Vec<&Value> = all["events"].as_array().into_iter().flatten().collect();
    let told: Vec<String> = all
        .iter()
        .filter(|x| x["type"] == "provider_event" && x["step"] == "stack")
        .map(|x| format!("{} {}", x["reason"].as_str().unwrap_or(""), x["message"].as_str().unwrap_or("")))
        .collect();
    let at = |words: &str| {
        let at = told.iter().position(|t| t.starts_with(words));
        at.with_context(|| format!("'{words}' is not told: {told:#?}"))
    };
    let order = [
        at("CREATE_COMPLETE LoadBalancer AWS::ElasticLoadBalancingV2::LoadBalancer")?,
        at("CREATE_COMPLETE sypctl-")?,
        at("UPDATE_IN_PROGRESS sypctl-")?,
        at("UPDATE_COMPLETE sypctl-")?,
        at("DELETE_IN_PROGRESS sypctl-")?,
        at("DELETE_COMPLETE sypctl-")?,
    ];
    ensure!(order.is_sorted(), "{order:?}: {told:#?}");
    let once: BTreeSet<_> = all
        .iter()
        .filter(|x| x["type"] == "provider_event")
        .map(|x| format!("{} {} {}", x["time"], x["reason"], x["message"]))
        .collect();
    ensure!(once.len() == told.len(), "something is told twice: {all:#?}");
    Ok(())
}

/// The store whose bill a process is asked for that has a region's environment.
const BILL_OF: &str = "SYP_TEST_BILL_OF";

/// In a process of its own, where the environment says where AWS is.
#[tokio::test]
async fn a_bill_of_a_store() -> Result<()> {
    let Ok(store) = std::env::var(BILL_OF) else { return Ok(()) };
    let target = AwsTarget::new(Options {
        region: "eu-west-1".into(),
        gate_image: None,
        key: vec![0; 32].into(),
        prices: Catalogue::built_in().map_err(anyhow::Error::msg)?,
        clock: Clock::System,
    });
    let bill = target.billed(&StoreId::from_stored(store), Clock::System.now()).await;
    let bill = bill.map_err(|f| anyhow::anyhow!("{}: {}", f.reason, f.message))?;
    println!("\nBILL {} {}", bill.currency, serde_json::to_string(&bill.amounts)?);
    Ok(())
}

/// Cost Explorer is not asked of what is younger than it knows; what it says is by instance.
fn billed(aws: &Aws, e: &Engine) -> Result<()> {
    let cost = e.ok(&["cost", "shop"])?;
    ensure!(cost.contains("none yet: Cost Explorer knows of a day's use a day later"), "{cost}");
    ensure!(!aws.bed.calls().iter().any(|c| c.starts_with("ce:")), "a question that costs and has no answer");
    let o = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "a_bill_of_a_store", "--nocapture"])
        .envs(aws.bed.env())
        .env(BILL_OF, e.store_id()?)
        .output()?;
    let said = String::from_utf8_lossy(&o.stdout).into_owned();
    let line = said.lines().find_map(|l| l.strip_prefix("BILL USD ")).with_context(|| said.clone())?;
    let amounts: BTreeMap<String, Decimal> = serde_json::from_str(line)?;
    let uid = e.json(&["show", "shop"])?["uid"].as_str().unwrap_or_default().to_owned();
    ensure!(amounts.len() == 1 && amounts.get(&uid).is_some_and(|a| a.is_sign_positive()), "{uid}: {line}");
    Ok(())
}

const PASSWORD: &str = "a-secret-of-alice";

/// An image that its registry gives to who has a login: refused before anything is made, or handed to the tasks, revision by revision.
#[test]
fn a_private_image_is_pulled_with_the_engines_login() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let (Some(aws), Some(r)) = (Aws::start(&sypctl)?, Registry::start()?) else { return Ok(()) };
    let (login, image) = (r.login(PASSWORD)?, format!("{}/shop:1", r.host));
    sh("docker", &["tag", "syp-test/hello", &image])?;
    let pushed = sh("docker", &["--config", &login, "push", "-q", &image]);
    sh("docker", &["rmi", "--no-prune", &image])?;
    pushed?;
    let engine = |config: &str| Ok::<_, anyhow::Error>(aws.engine(&sypctl)?.with("DOCKER_CONFIG", config));
    let e = engine(&login)?;
    let domain = Aws::domain(&e, "shop");
    let mut without = up(&aws, &["--port", "8080", "--domain", &domain]);
    without[3] = &image;
    let with = [&without[..], &["--pull-login"]].concat();

    let stranger = engine(&r.dir().join("nobody").display().to_string())?;
    for (engine, args, words) in [
        (&stranger, &without, ["pull without a login", "--pull-login"]),
        (&stranger, &with, ["has no login", "docker login"]),
        (&e, &without, ["pull without a login", "--pull-login"]),
    ] {
        let said = engine.run(args)?;
        ensure!(said.code != 0 && said.err.contains("IMAGE_AUTH_FAILED"), "{said:?}");
        ensure!(words.iter().all(|w| said.err.contains(w)), "{words:?}: {said:?}");
    }
    let made = aws.bed.calls().into_iter().filter(|c| c.contains(":Create") || c.contains(":Put"));
    ensure!(made.count() == 0, "nothing was asked for");
    stranger.ok(&["server", "stop"])?;

    let plan = e.ok(&[&with[..], &["--plan"]].concat())?;
    ensure!(
        plan.contains("RepositoryCredentials")
            && plan.contains("/pull-")
            && plan.contains("2 x 0.4 USD/month"),
        "{plan}"
    );
    e.ok(&with)?;
    aws.found(&e, "shop")?;
    let (url, token) = (e.endpoint("shop")?, e.token("shop", Some(ALICE))?);
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "it serves");
    let logins = || -> Result<Vec<String>> {
        let all = aws.left(&e.store_id()?)?.into_iter().filter(|l| l.contains("/pull-"));
        Ok(all.collect())
    };
    let first = logins()?;
    ensure!(first.len() == 1, "{first:?}");
    e.ok(&["set", "shop", "--env", "A=1", "--yes"])?;
    ensure!(logins()? == first, "{:?}", logins()?);
    // the tasks keep the login that they have, also where the engine has lost it
    std::fs::remove_file(std::path::Path::new(&login).join("config.json"))?;
    e.ok(&["scale", "shop", "--replicas", "2", "--yes"])?;
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "it serves");
    // an image that needs none takes it away, and one that cannot be had is told of
    let gone = e.run(&["set", "shop", "--image", &format!("{}/gone:1", r.host), "--yes"])?;
    ensure!(gone.code != 0 && gone.err.contains("IMAGE_AUTH_FAILED"), "{gone:?}");
    e.ok(&["set", "shop", "--image", aws.image(), "--yes"])?;
    ensure!(logins()?.is_empty(), "{:?}", logins()?);
    ensure!(get(&url, Some(&token), &[])?.0 == 200, "it serves");

    let held = sh("grep", &["-rlF", PASSWORD, &e.dir().display().to_string()]);
    ensure!(held.is_err(), "the engine wrote the password down: {held:?}");
    // the next engine reads the same events again
    let mut down = e.spawn(&["down", "shop", "--yes"])?;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(120);
    loop {
        // before it is asked: its last word may come in between
        let over = down.try_wait()?.is_some();
        if e.ok(&["events", "shop"])?.contains("DELETE_IN_PROGRESS") {
            break;
        }
        ensure!(!over && std::time::Instant::now() < end, "it does not say what AWS deletes");
        pause(50);
    }
    e.kill9()?;
    if !down.wait()?.success() {
        e.down("shop")?;
    }
    events(&e)?;
    ensure!(aws.left(&e.store_id()?)?.is_empty(), "{:?}", aws.left(&e.store_id()?)?);
    // an engine that nobody has asked about this region knows from its store where something was
    e.ok(&["server", "stop"])?;
    ensure!(e.ok(&["sweep", "--provider", "aws"])?.contains("nothing of ours"), "each region");
    within_rights(&aws)?;
    Ok(())
}

/// How often each call was made since `before`.
fn since(aws: &Aws, before: usize) -> BTreeMap<String, usize> {
    let mut out = BTreeMap::new();
    for call in aws.bed.calls().into_iter().skip(before) {
        *out.entry(call).or_default() += 1;
    }
    out
}

#[test]
fn what_is_said_before_anything_is_made_and_how_often_aws_is_asked() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(aws) = Aws::start(&sypctl)? else { return Ok(()) };
    let e = aws.engine(&sypctl)?;
    priced(&aws, &e)?;
    checked(&aws, &e)?;
    refused(&aws, &e)?;
    let count = || aws.bed.calls().len();
    let domain = Aws::domain(&e, "shop");
    let begun = count();
    e.ok(&up(&aws, &["--port", "8080", "--domain", &domain]))?;
    let of_up = since(&aws, begun);
    let begun = count();
    pause(60_000);
    let resting = since(&aws, begun);
    billed(&aws, &e)?;
    measured(&aws, &e)?;
    drifted(&aws, &e)?;
    swept(&aws, &e)?;
    orphaned(&aws, &e)?;
    // longer ago than what is put into it
    pause(30_000);
    aws.bed.used(2.5e9, 2.5e8)?;
    let begun = count();
    e.down("shop")?;
    used(&aws, &e)?;
    let of_down = since(&aws, begun);
    for (what, calls) in [("up", &of_up), ("a minute of serving", &resting), ("down", &of_down)] {
        println!("calls of {what}: {} ({calls:?})", calls.values().sum::<usize>());
    }
    ensure!(of_up["cloudformation:CreateStack"] == 1 && of_down["cloudformation:DeleteStack"] == 1);
    ensure!(resting.values().sum::<usize>() <= 30, "it asks too often while nothing happens: {resting:?}");
    ensure!(aws.left(&e.store_id()?)?.is_empty(), "left behind");
    Ok(())
}
