//! The port of this host at which an instance is reached. One that was asked for is the only one. Any other is chosen when the gate
//! is made and tried by starting it: a port that was free at the plan is often somebody else's when fifty instances begin at once.
//! Once an endpoint was told it is kept for the instance's life.
use super::names::TRAFFIC;
use bollard::models::ContainerInspectResponse;
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    ops::Range,
};
use syp_engine::{
    failure::{Class, failure},
    id::InstanceId,
    step::StepCx,
};
use syp_proto::{journal::Failure, v1};

/// Below the ports that the kernel gives to whoever asks for any, Kubernetes' node ports and, for kind's, above those.
const RANGE: Range<u16> = 26_000..30_000;
/// Free ports tried before giving up: each refusal means that somebody else has it though we could bind it.
pub(super) const TRIES: usize = 32;

/// Where an instance listens: an address of this host.
///
/// # Errors
/// `INVALID_ARGUMENT` for text that is no address.
pub(super) fn address(spec: &v1::InstanceSpec) -> Result<IpAddr, Failure> {
    match spec.publish.as_ref().map_or("", |p| &p.address) {
        "" => Ok(Ipv4Addr::LOCALHOST.into()),
        a => a.parse().map_err(|_| {
            failure(
                Class::Terminal,
                "INVALID_ARGUMENT",
                format!("'{a}' is no address"),
                "--publish ADDRESS:PORT",
            )
        }),
    }
}

/// The port that the user asked for, or 0.
///
/// # Errors
/// `PORT_TAKEN` where it is not free now, or its address is not this host's.
pub(super) fn asked(spec: &v1::InstanceSpec) -> Result<u16, Failure> {
    let wanted = spec.publish.as_ref().and_then(|p| u16::try_from(p.port).ok()).unwrap_or(0);
    let at = SocketAddr::new(address(spec)?, wanted);
    match TcpListener::bind(at) {
        Ok(_) => Ok(wanted),
        // Docker may have a port that we may not
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Ok(wanted),
        Err(e) => Err(failure(
            Class::Terminal,
            "PORT_TAKEN",
            format!("{at} can't be used: {e}"),
            "choose another port with --publish, or stop what uses it ('ss -ltnp' shows it)",
        )),
    }
}

/// The port that can't be another any more: asked for, or told as the endpoint by an earlier run.
pub(super) fn fixed(cx: &StepCx) -> Option<u16> {
    let told = || cx.output(&cx.node, "endpoint")?.rsplit(':').next()?.parse().ok();
    cx.facts["port"].as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).or_else(told)
}

/// Ports that are free at this moment; from where the instance's uid says, so that two engines seldom try the same ones.
pub(super) fn free(at: IpAddr, uid: InstanceId) -> impl Iterator<Item = u16> {
    around(uid).filter(move |p| TcpListener::bind(SocketAddr::new(at, *p)).is_ok()).take(TRIES)
}

/// Each port of the range once.
fn around(uid: InstanceId) -> impl Iterator<Item = u16> {
    let bytes = uid.as_bytes();
    let len = RANGE.end - RANGE.start;
    let first = u16::from_be_bytes([bytes[0], bytes[1]]) % len;
    (0..len).map(move |n| RANGE.start + (first + n) % len)
}

/// The port that a gate's container has.
pub(super) fn of(c: &ContainerInspectResponse) -> Option<u16> {
    let bindings = c.host_config.as_ref()?.port_bindings.as_ref()?;
    bindings.get(&format!("{TRAFFIC}/tcp"))?.as_ref()?.iter().find_map(|b| b.host_port.as_ref()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_begins_elsewhere_and_would_try_all() {
        let (a, b) = (InstanceId::random(), InstanceId::random());
        let all: BTreeSet<_> = around(a).collect();
        assert_eq!(all, RANGE.collect());
        assert_eq!(around(a).next(), around(a).next(), "the same after a crash");
        let firsts: BTreeSet<_> = (0..50).filter_map(|_| around(InstanceId::random()).next()).collect();
        assert!(firsts.len() > 40, "{firsts:?} and {:?}", around(b).next());
    }

    #[test]
    fn one_that_somebody_has_is_not_offered() {
        let uid = InstanceId::random();
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let first = free(localhost, uid).next().unwrap();
        let held = TcpListener::bind((localhost, first)).unwrap();
        let next = free(localhost, uid).next().unwrap();
        assert_ne!(first, next);
        drop(held);
    }

    #[test]
    fn one_that_was_asked_for_must_be_free() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let spec = |address: &str, port: u16| v1::InstanceSpec {
            publish: Some(v1::Publish { address: address.into(), port: port.into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(asked(&spec("", port)).unwrap_err().reason, "PORT_TAKEN");
        assert_eq!(asked(&spec("127.0.0.1", 0)).unwrap(), 0, "none in particular");
        assert_eq!(asked(&spec("192.0.2.1", 0)).unwrap_err().reason, "PORT_TAKEN", "no address of this host");
        assert_eq!(asked(&spec("nowhere", 0)).unwrap_err().reason, "INVALID_ARGUMENT");
    }
}
