//! A life on AWS in which calls of every name fail: answers are lost, connections break, AWS asks to come later. Each ends as it would
//! without, and nothing is left.
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use syp_tests::{
    aws_bed::Fault,
    conformance::{Aws, Bed},
    crash::{self, rests},
    product::{binary, get},
};

const NAME: &str = "phoenix";
const ALICE: &str = "user:alice@example.com";
const FAULTS: [(&str, Fault); 4] = [
    ("lost", Fault::Lost),
    ("reset", Fault::Reset),
    ("throttled", Fault::Refused("ThrottlingException", 400)),
    ("broken", Fault::Refused("InternalFailure", 500)),
];

/// Calls of each name that met the fault, by part of the life.
type Met = BTreeMap<&'static str, BTreeMap<String, usize>>;

fn life(aws: &Aws, fault: Fault) -> Result<Met> {
    let Some(sypctl) = binary() else { return Ok(Met::new()) };
    let e = aws.engine(&sypctl)?;
    let (domain, mut met) = (Aws::domain(&e, NAME), Met::new());
    let secret = tempfile::NamedTempFile::new()?;
    std::fs::write(secret.path(), "one")?;
    let secret = format!("TOKEN=@{}", secret.path().display());
    let serves = |what: &str| -> Result<()> {
        aws.found(&e, NAME)?;
        let (url, token) = (e.endpoint(NAME)?, e.token(NAME, Some(ALICE))?);
        ensure!(get(&url, None, &[])?.0 == 401, "{what}: without a token");
        ensure!(get(&url, Some(&token), &[])?.0 == 200, "{what}: with one");
        Ok(())
    };

    aws.bed.plague(Some(fault));
    let mut up = vec!["up", NAME, "--image", aws.image(), "--on", aws.on(), "--domain", &domain];
    up.extend(["--port", "8080", "--secret", &secret, "--allow", ALICE, "--no-wait", "--yes"]);
    crash::ask(&e, NAME, &up, |_| true)?;
    crash::until(&e, NAME, "up", |i| rests(i, "SERVING"))?;
    met.insert("up", aws.bed.plague(None));
    serves("up")?;

    aws.bed.plague(Some(fault));
    let set = ["set", NAME, "--env", "A=1", "--no-wait", "--yes"];
    crash::ask(&e, NAME, &set, |i| i["spec"]["env"]["A"] == "1")?;
    crash::until(&e, NAME, "set", |i| rests(i, "SERVING") && i["activeRevision"] == "phoenix-2")?;
    met.insert("set", aws.bed.plague(None));
    serves("set")?;

    aws.bed.plague(Some(fault));
    crash::ask(&e, NAME, &["down", NAME, "--no-wait", "--yes"], |i| i["state"] != "SERVING")?;
    crash::until(&e, NAME, "down", |i| rests(i, "DESTROYED"))?;
    met.insert("down", aws.bed.plague(None));

    e.ok(&["receipt", NAME, "--verify"])?;
    ensure!(e.ok(&["fsck"])?.contains("0 problems"), "fsck");
    let left = aws.left(&e.store_id()?)?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(met)
}

#[test]
fn calls_of_every_name_may_fail_and_nothing_is_left() -> Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    // a bed for each: what is asked of one is not asked of the other, and much of a life is a pause before another try
    let all = std::thread::scope(|s| {
        let begun = FAULTS.map(|(name, fault)| {
            let sypctl = sypctl.clone();
            let one = move || Aws::start(&sypctl)?.map(|aws| life(&aws, fault)).transpose();
            (name, s.spawn(one))
        });
        begun.map(|(name, ran)| (name, ran.join().unwrap_or_else(|_| Err(anyhow::anyhow!("broke down")))))
    });
    let mut table = vec![];
    for (name, met) in all {
        let Some(met) = met.context(name)? else { return Ok(()) };
        let of = |part: &str, call: &str| met.get(part).is_some_and(|calls| calls.contains_key(call));
        ensure!(of("up", "cloudformation:CreateStack"), "{name}: {met:?}");
        ensure!(of("set", "cloudformation:UpdateStack"), "{name}: {met:?}");
        ensure!(of("down", "cloudformation:DeleteStack"), "{name}: {met:?}");
        table.push((name, met));
    }
    let calls: BTreeSet<&String> =
        table.iter().flat_map(|(_, met)| met.values().flat_map(|m| m.keys())).collect();
    println!(
        "each fault to the first calls of each name: how many in up/set/down. All of them served, were updated and are gone; left: 0"
    );
    println!("{:<44}{}", "", table.iter().map(|(name, _)| format!("{name:>12}")).collect::<String>());
    for call in calls {
        let cell = |met: &Met| {
            let n = |part| {
                met.get(part).and_then(|m| m.get(call)).map_or_else(|| "-".to_owned(), usize::to_string)
            };
            format!("{:>12}", format!("{}/{}/{}", n("up"), n("set"), n("down")))
        };
        println!("{call:<44}{}", table.iter().map(|(_, met)| cell(met)).collect::<String>());
    }
    Ok(())
}
