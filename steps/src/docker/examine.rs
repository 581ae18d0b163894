//! What an `up` would meet at the Docker engine, before anybody needs it: the preflight's own judgement of all but the image.
use super::{Shared, client::failed, preflight};
use syp_engine::examined::Examined;
use syp_proto::{journal::Failure, v1};

/// Looks at everything.
pub(super) async fn examine(s: &Shared, spec: &v1::InstanceSpec) -> Examined {
    let mut out = Examined::default();
    if let Err(f) = look(s, spec, &mut out).await {
        out.fail("reachable", f);
    }
    out
}

async fn look(s: &Shared, spec: &v1::InstanceSpec, out: &mut Examined) -> Result<(), Failure> {
    let (version, info) = tokio::join!(s.docker.version(), s.docker.info());
    let (version, info) = (version.map_err(|e| failed(&e))?, info.map_err(|e| failed(&e))?);
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    out.identity = format!("Docker {} (API {})", text(&version.version), text(&version.api_version));
    out.ok("reachable", out.identity.clone());
    match s.gate_image.name().await {
        Ok(image) => out.ok("gate's image", image),
        Err(f) => out.fail("gate's image", f),
    }
    let (cores, bytes) = (info.ncpu.unwrap_or(0), info.mem_total.unwrap_or(0));
    let host = format!("{}, {cores} cores, {} MiB", text(&version.arch), bytes >> 20);
    out.judge("host", preflight::within(spec, cores, bytes), host);
    out.ok("a replica costs", s.tariffs.read().now().replica_in_words(spec));
    Ok(())
}
