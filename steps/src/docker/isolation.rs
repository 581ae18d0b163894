//! Tries the app's own address from this host: only silence will do.
//!
//! A sealed namespace drops the packet; an unsealed one answers, with a refusal as long as nothing listens. So the try says
//! the truth before the app has started, and costs no time beside its start. With `--isolation none` nothing is tried, and the
//! condition says so for as long as the instance lives.
use super::admin;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::{
    journal::{Failure, LedgerRow},
    v1::instance_spec::Isolation as Wanted,
};
use tokio::net::TcpStream;

pub(super) struct Isolation;

/// An address on a local bridge answers within a fraction of this.
const PATIENCE: Duration = Duration::from_millis(120);

impl Step for Isolation {
    fn kind(&self) -> &'static str {
        "docker.isolation@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        if cx.spec.isolation() == Wanted::NotEnforced {
            let words = "by --isolation none: whoever shares its network reaches the app past the gate";
            return Ok(Done::condition("Isolated", false, "ISOLATION_NOT_ENFORCED", words));
        }
        let holder = cx.params["holder"].as_str().unwrap_or("holder-0");
        let ip: Option<IpAddr> = cx.output(holder, "address").and_then(|a| a.parse().ok());
        let ip = ip.ok_or_else(|| {
            failure(Class::Terminal, "INTERNAL", "the holder left no address", "please report this bug")
        })?;
        admin::local(ip).await?;
        let to = SocketAddr::new(ip, u16::try_from(cx.spec.port).unwrap_or(0));
        let answered = tokio::time::timeout(PATIENCE, TcpStream::connect(to)).await;
        if answered.is_err() {
            return Ok(Done::condition(
                "Isolated",
                true,
                "TRIED",
                "the app's own address does not answer this host",
            ));
        }
        Err(failure(
            Class::Terminal,
            "ISOLATION_NOT_ENFORCED",
            format!("{to} answers this host past the gate"),
            "nothing was served; --isolation none accepts it and stays visible as a condition",
        ))
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}
