//! Tries the app's own port where a task has an address that anybody can reach: its network rules must drop what is sent there.
use super::{
    Shared, names,
    query::EC2,
    tasks::{self, Of},
};
use aws_sdk_ecs::types::Task;
use serde::Deserialize;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use syp_engine::{
    events::Recorder,
    failure::{Class, failure},
    step::{Done, Observed, Owner, Step, StepCx},
};
use syp_proto::journal::{Failure, LedgerRow};
use tokio::net::TcpStream;

pub(super) struct Isolation(pub Arc<Shared>);

/// What is dropped is not answered within this.
const DROPPED: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
struct Interfaces {
    #[serde(rename = "networkInterfaceSet", default)]
    set: Set,
}

#[derive(Default, Deserialize)]
struct Set {
    #[serde(rename = "item", default)]
    items: Vec<Interface>,
}

#[derive(Deserialize)]
struct Interface {
    association: Option<Association>,
}

#[derive(Deserialize)]
struct Association {
    #[serde(rename = "publicIp")]
    address: Option<IpAddr>,
}

/// Its network interface. Pure.
fn interface(t: &Task) -> Option<&str> {
    let details = t.attachments().iter().flat_map(|a| a.details());
    details.into_iter().find(|d| d.name() == Some("networkInterfaceId"))?.value()
}

impl Step for Isolation {
    fn kind(&self) -> &'static str {
        "aws.isolation@1"
    }

    async fn observe(&self, _: &StepCx, _: &str) -> Result<Observed, Failure> {
        Ok(Observed::Absent)
    }

    async fn apply(&self, cx: &StepCx, _: &str) -> Result<Done, Failure> {
        let name = names::stack(&cx.owner);
        let all = tasks::list(&self.0, Of { cluster: &name, service: &name }, false).await?;
        let Some(id) = all.iter().find_map(interface) else {
            let what = "no task of it runs any more";
            return Err(failure(Class::Transient, "PROBING", what, "the engine looks again by itself"));
        };
        let c = self.0.clients().await?;
        let of = [("NetworkInterfaceId.1", id)];
        let said: Interfaces = c.query.read(EC2, "DescribeNetworkInterfaces", &of).await?;
        let address = said.set.items.iter().find_map(|i| i.association.as_ref()?.address);
        let Some(address) = address else {
            let words = "its tasks have no address that others than the load balancer could reach";
            return Ok(Done::condition("Isolated", true, "TRIED", words));
        };
        let port = u16::try_from(cx.spec.port).unwrap_or(0);
        match tokio::time::timeout(DROPPED, TcpStream::connect(SocketAddr::new(address, port))).await {
            // an answer of either kind has come past the rules
            Ok(Ok(_)) => Err(open(address, port, "accepts")),
            Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(open(address, port, "refuses"))
            }
            // there is no way from here to anything out there: nothing was tried, and nothing is claimed
            Ok(Err(e)) => {
                tracing::info!(%address, "the app's own port can't be tried from here: {e}");
                Ok(Done::default())
            }
            Err(_) => {
                let words =
                    format!("the app's own port {port} does not answer at the task's address {address}");
                Ok(Done::condition("Isolated", true, "TRIED", &words))
            }
        }
    }

    async fn destroy(&self, _: &Owner, _: &LedgerRow, _: &Recorder) -> Result<bool, Failure> {
        Ok(false)
    }
}

fn open(address: IpAddr, port: u16, how: &str) -> Failure {
    failure(
        Class::Terminal,
        "ISOLATION_NOT_ENFORCED",
        format!("{address}:{port} {how} connections past the gate"),
        "something in the account has changed the task's security group: look at it in the EC2 console",
    )
}
