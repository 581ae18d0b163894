//! The bed of `tests/src/aws_bed.rs` by itself, for a walk by hand: it writes what the command line needs in its environment, tells of each
//! load balancer that comes, and goes with all that is on it when its input ends.
//!
//! `SYP_TEST_AWS=1 cargo run -p syp-tests --bin hold_aws_bed FILE` with the environment of `tests/testbed/aws_suites.sh`; then `. FILE`.
use anyhow::{Context, Result};
use std::{
    collections::BTreeSet,
    io::Read,
    sync::atomic::{AtomicBool, Ordering},
};
use syp_tests::{
    conformance::{Aws, Bed},
    product::{binary, pause},
};

static OVER: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    let file = std::env::args().nth(1).filter(|f| !f.starts_with('-')).context("which file?")?;
    let sypctl = binary().context("SYP_TEST_SYPCTL, SYP_TEST_DOCKER")?;
    let aws = Aws::start(&sypctl)?.context("the bed is not to be had: it was said why")?;
    let lines = aws.env().into_iter().map(|(name, value)| format!("export {name}='{value}'\n"));
    std::fs::write(&file, lines.collect::<String>())?;
    println!(
        "{} serves {} and {}; certificate {}",
        aws.on(),
        aws.image(),
        aws.broken(),
        aws.bed.certificate()
    );
    println!(
        "'. {file}' in a shell, and 'curl --cacert \"$SSL_CERT_FILE\" --resolve DOMAIN:443:ADDRESS https://DOMAIN/'"
    );
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut vec![]);
        OVER.store(true, Ordering::Relaxed);
    });
    let mut known = BTreeSet::new();
    while !OVER.load(Ordering::Relaxed) {
        let now = aws.bed.fronts();
        for (domain, address) in now.difference(&known) {
            println!("{domain} is at {address}");
        }
        known = now;
        pause(200);
    }
    Ok(())
}
