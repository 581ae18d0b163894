//! `up` and `down` on AWS, as far as a machine without an account can have it, beside the bare SDK: the same template and secrets, in turn.
//!
//! `SYP_TEST_AWS=1 cargo run -p syp-tests --bin bench_aws [ROUNDS]` with the environment of `tests/testbed/aws_suites.sh`.
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};
use syp_tests::{
    conformance::{Aws, Bed},
    product::binary,
};

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn median(all: &[u64]) -> u64 {
    let mut all = all.to_vec();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

/// Runs `benches/aws_bare.py`, in the Python that has the SDK.
fn bare(aws: &Aws, what: &str, file: &Path) -> Result<String> {
    let emulator = PathBuf::from(std::env::var_os("SYP_TEST_MINISTACK").context("SYP_TEST_MINISTACK")?);
    let o = Command::new(emulator.with_file_name("python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/aws_bare.py"))
        .args([what, aws.bed.url(), "eu-west-1"])
        .arg(file)
        .output()?;
    ensure!(o.status.success(), "{what}: {}", String::from_utf8_lossy(&o.stderr));
    Ok(String::from_utf8(o.stdout)?)
}

fn main() -> Result<()> {
    let rounds: usize = std::env::args().nth(1).map_or(Ok(5), |n| n.parse())?;
    let sypctl = binary().context("SYP_TEST_SYPCTL, SYP_TEST_DOCKER")?;
    let aws = Aws::start(&sypctl)?.context("the bed is not to be had: it was said why")?;
    let e = aws.engine(&sypctl)?;
    let file = e.dir().join("bare.json");
    let calls = || aws.bed.calls().len();
    let (mut ours, mut theirs) = ((vec![], vec![]), (vec![], vec![]));
    let (mut asked, mut they) = (vec![], vec![]);
    for round in 0..=rounds {
        let domain = Aws::domain(&e, "bench");
        let up = ["up", "bench", "--image", aws.image(), "--on", aws.on(), "--port", "8080", "--yes"];
        let (begun, before) = (Instant::now(), calls());
        e.ok(&[&up[..], &["--domain", &domain]].concat())?;
        let took = millis(begun);
        let of_up = calls() - before;
        bare(&aws, "take", &file)?;
        let (begun, before) = (Instant::now(), calls());
        e.down("bench")?;
        let (down, of_down) = (millis(begun), calls() - before);
        let before = calls();
        let said = bare(&aws, "life", &file)?;
        let all: Vec<u64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        let [bare_up, bare_down] = all[..] else { anyhow::bail!("two times: {said}") };
        println!("{round}: up {took} bare {bare_up}; down {down} bare {bare_down}");
        // the first one reads price lists and images
        if round > 0 {
            ours.0.push(took);
            ours.1.push(down);
            theirs.0.push(bare_up);
            theirs.1.push(bare_down);
            asked.push((of_up + of_down) as u64);
            they.push((calls() - before) as u64);
        }
    }
    for (what, us, them) in
        [("up, ms", &ours.0, &theirs.0), ("down, ms", &ours.1, &theirs.1), ("calls of both", &asked, &they)]
    {
        let (us, them) = (median(us), median(them));
        println!("{what}: {us} beside {them}, ratio {:.2}", us as f64 / them as f64);
    }
    Ok(())
}
