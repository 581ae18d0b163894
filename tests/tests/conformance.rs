//! The conformance suite, one line a target.
use syp_tests::{conformance, product::binary};

#[test]
fn docker() -> anyhow::Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    conformance::run(&conformance::Docker, &sypctl)
}

#[test]
fn k8s() -> anyhow::Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(cluster) = conformance::Cluster::from_env()? else { return Ok(()) };
    conformance::run(&cluster, &sypctl)
}

#[test]
fn kind() -> anyhow::Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(kind) = conformance::Kind::from_env(false) else { return Ok(()) };
    conformance::run(&kind, &sypctl)
}

#[test]
fn kind_ingress() -> anyhow::Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(kind) = conformance::Kind::from_env(true) else { return Ok(()) };
    conformance::run(&kind, &sypctl)
}

#[test]
fn aws() -> anyhow::Result<()> {
    let Some(sypctl) = binary() else { return Ok(()) };
    let Some(aws) = conformance::Aws::start(&sypctl)? else { return Ok(()) };
    conformance::run(&aws, &sypctl)
}
