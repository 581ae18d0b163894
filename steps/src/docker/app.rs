//! The user's image, in the sealed namespace of its holder. Nothing is asked of it.
use super::{
    Shared,
    client::{self, inspect, key, labels, running, started_at},
    container, files,
};
use crate::labels::TMP;
use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use syp_engine::{
    api::validate,
    events::Recorder,
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};

pub(super) struct App(pub Arc<Shared>);

/// Time an app has to end by itself once it is told to.
const STOP_GRACE_S: i32 = 10;

// === impl App ===

impl App {
    async fn body(&self, cx: &StepCx) -> Result<ContainerCreateBody, Failure> {
        let holder = cx.params["holder"].as_str().unwrap_or("holder-0");
        let replica = cx.params["replica"].as_i64().unwrap_or(0);
        let r = cx.spec.resources.clone().unwrap_or_default();
        let volumes = cx.facts["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let volumes = volumes.enumerate().map(|(n, path)| Mount {
            target: Some(path.to_owned()),
            source: Some(key(&cx.owner, &format!("volume-{replica}-{n}"))),
            typ: Some(MountType::VOLUME),
            ..Default::default()
        });
        let mounts = volumes.chain(files::mounts(cx, replica));
        let mut env: Vec<String> = cx.spec.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        for r in cx.spec.secrets.iter().filter(|r| !r.env.is_empty()) {
            let value = cx.secrets.get(r).await?;
            env.push(format!("{}={}", r.env, String::from_utf8_lossy(value.expose_secret())));
        }
        env.sort();
        let given = |v: &[String]| (!v.is_empty()).then(|| v.to_vec());
        Ok(ContainerCreateBody {
            // the digest that preflight saw: a tag may move between two replicas
            image: Some(cx.facts["image"].as_str().unwrap_or(&cx.spec.image).to_owned()),
            env: Some(env),
            entrypoint: given(&cx.spec.entrypoint),
            cmd: given(&cx.spec.args),
            labels: Some(labels(&cx.owner, &cx.node)),
            host_config: Some(HostConfig {
                network_mode: Some(format!("container:{}", key(&cx.owner, holder))),
                nano_cpus: nano_cpus(&r.cpu),
                memory: validate::memory_bytes(&r.memory).and_then(|b| i64::try_from(b).ok()),
                mounts: Some(mounts.collect()),
                readonly_rootfs: cx.spec.read_only_root.then_some(true),
                tmpfs: scratch(cx),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

/// Where an app under a read-only root may write, in memory that counts as its own. An image that has a volume there keeps it.
fn scratch(cx: &StepCx) -> Option<HashMap<String, String>> {
    let held = cx.facts["volumes"].as_array().is_some_and(|v| v.iter().any(|path| path == TMP));
    (cx.spec.read_only_root && !held)
        .then(|| HashMap::from([(TMP.to_owned(), "rw,exec,nosuid,nodev,mode=1777".to_owned())]))
}

/// In billionths of a core; `None`: no limit.
fn nano_cpus(cpu: &str) -> Option<i64> {
    i64::try_from(validate::cpu_millis(cpu)?).ok()?.checked_mul(1_000_000)
}

impl Step for App {
    fn kind(&self) -> &'static str {
        "docker.app@1"
    }

    async fn observe(&self, cx: &StepCx, key: &str) -> Result<Observed, Failure> {
        container::observe(&self.0, &cx.owner, key).await
    }

    async fn apply(&self, cx: &StepCx, name: &str) -> Result<Done, Failure> {
        let holder = key(&cx.owner, cx.params["holder"].as_str().unwrap_or("holder-0"));
        let (mut c, made) = container::ensure(&self.0, cx, name, async || self.body(cx).await).await?;
        if !made {
            // an app is bound to the namespace of the holder that it was made with
            let h = inspect(&self.0.docker, &holder).await?;
            let mode = c.host_config.as_ref().and_then(|h| h.network_mode.clone()).unwrap_or_default();
            let id = h.as_ref().and_then(|h| h.id.clone()).unwrap_or_default();
            let same = mode == format!("container:{id}") || mode == format!("container:{holder}");
            let older = running(&c) && h.as_ref().is_some_and(|h| started_at(h) > started_at(&c));
            if !same || older {
                client::remove(&self.0.docker, name, Some(STOP_GRACE_S)).await?;
                (c, _) = container::ensure(&self.0, cx, name, async || self.body(cx).await).await?;
            }
        }
        if !running(&c) {
            client::start(&self.0.docker, name).await?;
        }
        Ok(Done { handle: c.id.unwrap_or_default(), outputs: json!({}) })
    }

    async fn destroy(&self, owner: &Owner, row: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        container::destroy(&self.0, owner, row, Some(STOP_GRACE_S)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_exact_or_none() {
        assert_eq!(nano_cpus(".25"), Some(250_000_000));
        assert_eq!((nano_cpus(""), nano_cpus("99999999999999")), (None, None));
    }
}
