//! F4: everything twice and in the wrong order, for each kind of step that a target has. A kind without a case fails.
use anyhow::{Context, Result};
use std::{collections::BTreeSet, time::Duration};
use syp_engine::{clock::Clock, step::Target};
use syp_proto::v1;
use syp_steps::{
    docker::{DEFAULT_POOL, DockerTarget, Options},
    fake::{Behaviour, FakeCloud},
    prices::local::Tariffs,
};
use syp_tests::{product::binary, steps::twice};

fn spec(target: &str, image: &str) -> v1::InstanceSpec {
    // two replicas, so that one can go
    let scaling = Some(v1::Scaling { min: 2, max: 2, ..Default::default() });
    let secrets = vec![v1::SecretRef { file: "/run/key".into(), value: b"x".into(), ..Default::default() }];
    v1::InstanceSpec {
        target: target.into(),
        image: image.into(),
        port: 8080,
        scaling,
        secrets,
        ..Default::default()
    }
}

fn all(target: &dyn Target) -> BTreeSet<String> {
    target.kinds().into_iter().map(str::to_owned).collect()
}

#[tokio::test(start_paused = true)]
async fn the_fake_cloud_bears_everything_twice() -> Result<()> {
    let cloud = FakeCloud::new(Behaviour {
        latency: Duration::from_millis(10),
        landing: Duration::ZERO,
        lag: Duration::ZERO,
    });
    assert_eq!(twice(&cloud, spec("fake", "x")).await?, all(&cloud), "a registered step has no case");
    Ok(())
}

#[tokio::test]
async fn docker_bears_everything_twice() -> Result<()> {
    if binary().is_none() {
        return Ok(());
    }
    let docker = DockerTarget::new(Options {
        host: std::env::var("DOCKER_HOST").unwrap_or_default(),
        gate_binary: std::env::var_os("SYP_TEST_GATE").context("SYP_TEST_GATE")?.into(),
        key: vec![7; 32].into(),
        pool: DEFAULT_POOL.into(),
        tariffs: Tariffs::default(),
        power: syp_steps::power::Host::default(),
        clock: Clock::System,
    });
    let docker = docker.map_err(|f| anyhow::anyhow!(f.message))?;
    // an image with a volume has every kind
    assert_eq!(
        twice(&docker, spec("docker", "syp-test/volume")).await?,
        all(&docker),
        "a registered step has no case"
    );
    Ok(())
}
