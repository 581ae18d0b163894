//! Routing rules that leave one way in: the gate's. It comes from an address of its own, or listens in this namespace itself.
//!
//! For IPv4 and IPv6, on each interface that is not loopback (measured on Debian's Docker 20.10 and a kernel without netfilter):
//! ```text
//! 1  iif eth0 from GATE                     lookup local      the gate may do anything
//! 2  iif eth0 tcp|udp dport PORT            blackhole         the app's own port, where it lies among those of rule 3
//! 3  iif eth0 tcp|udp dport 49152-65534     lookup local      answers to what the app asked for itself
//! 4  iif eth0 tcp|udp|dccp|sctp|udplite     blackhole         everybody else
//! 5                                         lookup local      loopback, ARP, ICMP; the kernel's own rule 0 is deleted
//! ```
//! Rule 4 names no port: the kernel does not look for ports in fragments, so a rule `dport 1-49151 blackhole` lets a fragmented
//! packet through, which is put together again behind the rules. For the same reason a fragment meets neither rule 2 nor 3. ARP
//! and ICMP have no rule and pass. With `--egress none` rule 3 is left out, and:
//! ```text
//! 6  to GATE lookup main                    7  blackhole
//! ```
//! A gate in this namespace (beside the app, in a pod) is a port and not an address; then these are others, in both families:
//! ```text
//! 1  iif eth0 tcp dport GATE                lookup local      whoever calls the gate
//! 6  tcp sport GATE lookup main                               its answers to them
//! ```
//! Without a way out such a gate reaches nobody of its own accord either: no name server, no issuer.

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Handle, IpVersion};

use super::Egress;

/// Where the gate comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door<'a> {
    /// From this address, to any port.
    From(IpAddr),
    /// It listens in this namespace: from anywhere, to these ports.
    Ports(&'a [u16]),
}

// === impl Door ===

impl Door<'_> {
    /// Whether there is a way in by IPv4, or by IPv6.
    fn is_in(self, v4: bool) -> bool {
        match self {
            Self::From(gate) => gate.is_ipv4() == v4,
            Self::Ports(_) => true,
        }
    }
}

const LOCAL: u8 = 255;
const MAIN: u8 = 254;
/// Where answers to the app's own questions arrive: `net.ipv4.ip_local_port_range` must lie in it. A rule cannot name port 65535.
const ANSWERS: RulePortRange = RulePortRange { start: 49_152, end: 65_534 };
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Why the namespace is not sealed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's routing interface cannot be reached.
    #[error("opening the kernel's routing interface: {0}")]
    Open(#[from] std::io::Error),
    /// The kernel refuses a rule.
    #[error("the kernel refuses to {what}: {source} (this needs NET_ADMIN and a kernel from 4.17 on)")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        source: rtnetlink::Error,
    },
    /// No network.
    #[error(
        "there is no interface by which the gate could be reached: none has an address of its family besides loopback"
    )]
    NoInterface,
    /// The app's own connections would use ports that are closed.
    #[error(
        "net.ipv4.ip_local_port_range is {found}; start the container with --sysctl net.ipv4.ip_local_port_range='49152 65534' (in a pod: securityContext.sysctls)"
    )]
    PortRange {
        /// What it is.
        found: String,
    },
    /// The rules are not there after all.
    #[error("the rules were set but are not in place")]
    NotInPlace,
}

/// The interface by which the gate comes in.
#[derive(Debug, Clone)]
pub struct Outside {
    /// Its name.
    pub name: String,
    /// Its address, of the gate's family.
    pub address: IpAddr,
}

/// Sets all rules and looks whether they are in place. May be called again.
///
/// # Errors
/// [`Error`]: not sealed.
pub async fn seal(gate: Door<'_>, app: Option<u16>, egress: Egress) -> Result<Outside, Error> {
    check_port_range(egress)?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let sealed = seal_with(&handle, gate, app, egress).await;
    driver.abort();
    sealed
}

/// The interface alone, where nothing shall be sealed.
///
/// # Errors
/// [`Error`]: there is none.
pub async fn outside_of(gate: IpAddr) -> Result<Outside, Error> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let found = async { outside(&handle, &interfaces(&handle).await?, Door::From(gate)).await }.await;
    driver.abort();
    found
}

async fn seal_with(
    handle: &Handle,
    gate: Door<'_>,
    app: Option<u16>,
    egress: Egress,
) -> Result<Outside, Error> {
    let interfaces = interfaces(handle).await?;
    let outside = outside(handle, &interfaces, gate).await?;
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    for version in [IpVersion::V4, IpVersion::V6] {
        if matches!(version, IpVersion::V6) && !has_v6 {
            continue;
        }
        let rules = rules(&version, interfaces.iter().map(|(_, name)| name.as_str()), gate, app, egress);
        for rule in &rules {
            add(handle, rule).await?;
        }
        // only when ours are in: there is no moment without a way to the local table
        delete_rule_0(handle, version.clone()).await?;
        let held = list(handle, version).await?;
        let all = rules.iter().all(|want| held.iter().any(|have| same(want, have)));
        if !all || held.iter().any(|r| priority(r) == 0) {
            return Err(Error::NotInPlace);
        }
    }
    Ok(outside)
}

/// The names of all interfaces but loopback now; the watcher compares with this later.
#[must_use]
pub fn interface_names() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names =
        text.lines().skip(2).filter_map(|l| l.split_once(':')).map(|(name, _)| name.trim().to_owned());
    names.filter(|name| name != "lo").collect()
}

fn check_port_range(egress: Egress) -> Result<(), Error> {
    let read = || std::fs::read_to_string(PORT_RANGE).unwrap_or_default();
    let good = |text: &str| {
        let mut numbers = text.split_ascii_whitespace().map(str::parse::<u16>);
        matches!((numbers.next(), numbers.next()), (Some(Ok(low)), Some(Ok(_))) if low >= ANSWERS.start)
    };
    if egress == Egress::None || good(&read()) {
        return Ok(());
    }
    // possible where /proc/sys is writable
    let _ = std::fs::write(PORT_RANGE, format!("{} {}", ANSWERS.start, ANSWERS.end));
    let found = read();
    if good(&found) { Ok(()) } else { Err(Error::PortRange { found: found.trim().to_owned() }) }
}

fn rules<'a>(
    version: &IpVersion,
    interfaces: impl Iterator<Item = &'a str>,
    gate: Door<'_>,
    app: Option<u16>,
    egress: Egress,
) -> Vec<RuleMessage> {
    let v4 = matches!(version, IpVersion::V4);
    let rule = |priority: u32, action: RuleAction, table: u8, attributes: Vec<RuleAttribute>| {
        let mut message = RuleMessage::default();
        message.header.family = if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 };
        (message.header.action, message.header.table) = (action, table);
        message.attributes = attributes;
        message.attributes.push(RuleAttribute::Priority(priority));
        message
    };
    let bits = if v4 { 32 } else { 128 };
    let tcp = || RuleAttribute::IpProtocol(IpProtocol::Tcp);
    let one = |port| RulePortRange { start: port, end: port };
    let mut out = Vec::new();
    for name in interfaces {
        let iif = || RuleAttribute::Iifname(name.to_owned());
        match gate {
            Door::From(gate) if gate.is_ipv4() == v4 => {
                let mut first = rule(1, RuleAction::ToTable, LOCAL, vec![iif(), RuleAttribute::Source(gate)]);
                first.header.src_len = bits;
                out.push(first);
            }
            Door::From(_) => {}
            Door::Ports(ports) => out.extend(ports.iter().map(|port| {
                let to = vec![iif(), tcp(), RuleAttribute::DestinationPortRange(one(*port))];
                rule(1, RuleAction::ToTable, LOCAL, to)
            })),
        }
        for protocol in [IpProtocol::Tcp, IpProtocol::Udp] {
            let to = |ports| {
                vec![iif(), RuleAttribute::IpProtocol(protocol), RuleAttribute::DestinationPortRange(ports)]
            };
            if let Some(port) = app.filter(|port| *port >= ANSWERS.start) {
                out.push(rule(2, RuleAction::Blackhole, 0, to(one(port))));
            }
            // without a way out there is nothing to be answered
            if egress == Egress::On {
                out.push(rule(3, RuleAction::ToTable, LOCAL, to(ANSWERS)));
            }
        }
        // in IPv6 also packets whose headers the kernel gave up reading before it came to a protocol with ports
        let unread: &[u8] = if v4 { &[] } else { &[43, 44, 51, 60, 135, 139, 140] };
        for protocol in [6, 17, 33, 132, 136].iter().chain(unread) {
            let attributes = vec![iif(), RuleAttribute::IpProtocol(IpProtocol::from(i32::from(*protocol)))];
            out.push(rule(4, RuleAction::Blackhole, 0, attributes));
        }
    }
    out.push(rule(5, RuleAction::ToTable, LOCAL, Vec::new()));
    if egress == Egress::None {
        match gate {
            Door::From(gate) if gate.is_ipv4() == v4 => {
                let mut back = rule(6, RuleAction::ToTable, MAIN, vec![RuleAttribute::Destination(gate)]);
                back.header.dst_len = bits;
                out.push(back);
            }
            Door::From(_) => {}
            Door::Ports(ports) => out.extend(ports.iter().map(|port| {
                let from = vec![tcp(), RuleAttribute::SourcePortRange(one(*port))];
                rule(6, RuleAction::ToTable, MAIN, from)
            })),
        }
        out.push(rule(7, RuleAction::Blackhole, 0, Vec::new()));
    }
    out
}

fn refused(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |source| Error::Refused { what, source }
}

async fn interfaces(handle: &Handle) -> Result<Vec<(u32, String)>, Error> {
    let mut found = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(refused("list interfaces"))? {
        let name = link.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        if let Some(name) = name
            && !link.header.flags.contains(LinkFlags::Loopback)
        {
            found.push((link.header.index, name));
        }
    }
    found.sort();
    Ok(found)
}

async fn outside(handle: &Handle, interfaces: &[(u32, String)], gate: Door<'_>) -> Result<Outside, Error> {
    let mut addresses = handle.address().get().execute();
    let mut best: Option<(u32, Outside)> = None;
    while let Some(message) = addresses.try_next().await.map_err(refused("list addresses"))? {
        let Some((index, name)) = interfaces.iter().find(|(index, _)| *index == message.header.index) else {
            continue;
        };
        for attribute in &message.attributes {
            let AddressAttribute::Address(address) = attribute else { continue };
            let link_local = matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
            let first = best.as_ref().is_none_or(|(held, _)| index < held);
            if gate.is_in(address.is_ipv4()) && !link_local && first {
                best = Some((*index, Outside { name: name.clone(), address: *address }));
            }
        }
    }
    best.map(|(_, outside)| outside).ok_or(Error::NoInterface)
}

async fn add(handle: &Handle, rule: &RuleMessage) -> Result<(), Error> {
    let mut request = handle.rule().add();
    *request.message_mut() = rule.clone();
    match request.execute().await {
        // a second start finds its rules there
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -17 => Ok(()),
        other => other.map_err(refused(format!("add rule {}", priority(rule)))),
    }
}

async fn list(handle: &Handle, version: IpVersion) -> Result<Vec<RuleMessage>, Error> {
    handle.rule().get(version).execute().try_collect().await.map_err(refused("list rules"))
}

fn priority(rule: &RuleMessage) -> u32 {
    // the kernel does not print a priority of 0
    rule.attributes
        .iter()
        .find_map(|a| if let RuleAttribute::Priority(p) = a { Some(*p) } else { None })
        .unwrap_or(0)
}

fn same(want: &RuleMessage, have: &RuleMessage) -> bool {
    let heads = want.header.action == have.header.action && want.header.src_len == have.header.src_len;
    heads
        && want.header.dst_len == have.header.dst_len
        && want.attributes.iter().all(|a| have.attributes.contains(a))
}

/// In a request to delete, priority 0 means 'any': so the rule must be there, and named as the kernel names it.
async fn delete_rule_0(handle: &Handle, version: IpVersion) -> Result<(), Error> {
    for rule in list(handle, version).await?.into_iter().filter(|r| priority(r) == 0) {
        handle.rule().del(rule).execute().await.map_err(refused("delete rule 0"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `ip rule` prints them, roughly.
    fn lines(version: IpVersion, gate: Door<'_>, app: Option<u16>, egress: Egress) -> Vec<String> {
        let words = |a: &RuleAttribute| match a {
            RuleAttribute::Priority(_) => String::new(),
            RuleAttribute::Iifname(name) => format!("iif {name} "),
            RuleAttribute::Source(ip) => format!("from {ip} "),
            RuleAttribute::Destination(ip) => format!("to {ip} "),
            RuleAttribute::IpProtocol(protocol) => format!("{} ", i32::from(*protocol)),
            RuleAttribute::SourcePortRange(p) => format!("sport {}-{} ", p.start, p.end),
            RuleAttribute::DestinationPortRange(p) => format!("dport {}-{} ", p.start, p.end),
            other => format!("{other:?} "),
        };
        let line = |r: RuleMessage| {
            let table = if r.header.action == RuleAction::Blackhole { 0 } else { r.header.table };
            let text: String = r.attributes.iter().map(words).collect();
            format!("{}: {text}{table}", priority(&r))
        };
        rules(&version, ["eth0"].into_iter(), gate, app, egress).into_iter().map(line).collect()
    }

    #[test]
    fn a_gate_elsewhere_is_an_address_of_one_family() {
        let gate = Door::From("10.0.0.1".parse().unwrap());
        let v4 = lines(IpVersion::V4, gate, Some(50_051), Egress::None);
        let all = |v: &[String]| v.iter().filter(|l| !l.starts_with('4')).cloned().collect::<Vec<_>>();
        let closed = ["2: iif eth0 6 dport 50051-50051 0", "2: iif eth0 17 dport 50051-50051 0"];
        let want =
            ["1: iif eth0 from 10.0.0.1 255", closed[0], closed[1], "5: 255", "6: to 10.0.0.1 254", "7: 0"];
        assert_eq!(all(&v4), want);
        let v6 = lines(IpVersion::V6, gate, Some(50_051), Egress::None);
        assert_eq!(all(&v6), [closed[0], closed[1], "5: 255", "7: 0"]);
    }

    #[test]
    fn a_gate_beside_is_its_ports_in_both_families() {
        for version in [IpVersion::V4, IpVersion::V6] {
            let on = lines(version.clone(), Door::Ports(&[8080, 9901]), None, Egress::On);
            assert_eq!(on[0], "1: iif eth0 6 dport 8080-8080 255");
            assert_eq!(on[1], "1: iif eth0 6 dport 9901-9901 255");
            assert_eq!(on[2], "3: iif eth0 6 dport 49152-65534 255");
            let last = on.last().map(String::as_str);
            assert!(on.contains(&"4: iif eth0 6 0".to_owned()) && last == Some("5: 255"), "{on:?}");
            let none = lines(version, Door::Ports(&[8080]), Some(80), Egress::None);
            assert!(!none.iter().any(|l| l.starts_with(['2', '3'])), "{none:?}");
            assert_eq!(none[none.len() - 3..], ["5: 255", "6: 6 sport 8080-8080 254", "7: 0"]);
        }
    }
}
