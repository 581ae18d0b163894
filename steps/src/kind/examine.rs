//! What an `up` on kind would meet, before anybody needs it: the preflight's own judgement of all but the image.
use super::{Cluster, nodes::Look, program};
use crate::{
    docker::{client::failed, preflight::within},
    k8s::Shared,
};
use syp_engine::examined::Examined;
use syp_proto::{journal::Failure, v1};

/// Looks at everything.
pub(crate) async fn examine(s: &Shared, cluster: &Cluster, spec: &v1::InstanceSpec) -> Examined {
    let mut out = Examined::default();
    if let Err(f) = look(s, cluster, spec, &mut out).await {
        out.fail("reachable", f);
    }
    out
}

/// With less than this a few clusters are too many.
const INOTIFY: u32 = 512;

fn inotify() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").ok()?.trim().parse().ok()
}

async fn look(
    s: &Shared,
    cluster: &Cluster,
    spec: &v1::InstanceSpec,
    out: &mut Examined,
) -> Result<(), Failure> {
    let d = cluster.docker();
    let (version, info) = tokio::join!(d.version(), d.info());
    let (version, info) = (version.map_err(|e| failed(&e))?, info.map_err(|e| failed(&e))?);
    out.ok("reachable", format!("Docker {}", version.version.unwrap_or_default()));
    match program::version().await {
        Ok(v) => {
            out.identity.clone_from(&v);
            out.ok("kind", v);
        }
        Err(f) => out.fail("kind", f),
    }
    let (cores, bytes) = (info.ncpu.unwrap_or(0), info.mem_total.unwrap_or(0));
    let host = format!("{cores} cores, {} MiB", bytes >> 20);
    out.judge("host", within(spec, cores, bytes), host);
    match cluster.gate().await {
        Ok((image, _)) => out.ok("gate's image", format!("{image}, loaded when it is needed")),
        Err(f) => out.fail("gate's image", f),
    }
    let words = match cluster.look().await? {
        Look::Absent => "not there: made with the first instance",
        Look::Half => "half made: made anew with the next instance",
        Look::Stopped => "its nodes don't run: started with the next instance",
        Look::Running => "runs",
    };
    out.note("cluster", format!("{}: {words}", cluster.name));
    if let Some(limit) = inotify().filter(|l| *l < INOTIFY) {
        out.warn(
            "kernel",
            format!("fs.inotify.max_user_instances is {limit}: a kind cluster takes about 30 of them"),
            format!(
                "'sudo sysctl fs.inotify.max_user_instances={INOTIFY}' before there are several clusters"
            ),
        );
    }
    if let Some(image) = &cluster.node_image {
        match crate::docker::client::optional(d.inspect_image(image).await)? {
            Some(_) => out.ok("node image", image.clone()),
            None => out.warn(
                "node image",
                format!("{image} is not here"),
                "Docker pulls it when the cluster is made",
            ),
        }
    }
    out.ok("a replica costs", s.tariffs.read().now().replica_in_words(spec));
    Ok(())
}
