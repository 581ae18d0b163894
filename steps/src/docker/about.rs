//! What a Docker engine tells about itself, for whoever looks whether it is one that we can work with.
use super::{client::failed, connect};
use std::{path::PathBuf, time::Duration};
use syp_engine::failure::{Class, failure};
use syp_proto::journal::Failure;

const LIMIT: Duration = Duration::from_secs(5);

/// An engine that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Version of its API, such as `1.41`.
    pub api: String,
    /// The system of its containers, and their architecture.
    pub containers: String,
    /// This host has no route to its containers.
    pub rootless: bool,
    /// Where it keeps images and containers.
    pub root: Option<PathBuf>,
}

/// Asks the engine at a host (as `DOCKER_HOST` says it; empty: the usual socket).
///
/// # Errors
/// It can't be reached, or does not answer as a Docker engine does.
pub async fn about(host: &str) -> Result<About, Failure> {
    let d = connect(host)?;
    let ask = async {
        let version = d.version().await.map_err(|e| failed(&e))?;
        let info = d.info().await.map_err(|e| failed(&e))?;
        let words = [info.os_type, info.architecture].map(Option::unwrap_or_default).join(" ");
        let security = info.security_options.unwrap_or_default();
        Ok(About {
            api: version.api_version.unwrap_or_default(),
            containers: words.trim().to_owned(),
            rootless: security.iter().any(|o| o.contains("rootless")),
            root: info.docker_root_dir.filter(|d| !d.is_empty()).map(PathBuf::from),
        })
    };
    tokio::time::timeout(LIMIT, ask).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", LIMIT.as_secs());
        Err(failure(Class::Transient, "PROVIDER_UNREACHABLE", what, ""))
    })
}
