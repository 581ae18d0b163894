//! Routing rules that leave one way in: the gate's.
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

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};
use rtnetlink::{Handle, IpVersion};

use super::Egress;

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
    #[error("the kernel refuses to {what}: {source} (the holder needs NET_ADMIN and a kernel from 4.17 on)")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        source: rtnetlink::Error,
    },
    /// No network.
    #[error("there is no interface with an address of the gate's family besides loopback")]
    NoInterface,
    /// The app's own connections would use ports that are closed.
    #[error(
        "net.ipv4.ip_local_port_range is {found}; start the container with --sysctl net.ipv4.ip_local_port_range='49152 65534'"
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
    /// Its address of the gate's family.
    pub address: IpAddr,
}

/// Sets all rules and looks whether they are in place. May be called again.
///
/// # Errors
/// [`Error`]: not sealed.
pub async fn seal(gate: IpAddr, port: u16, egress: Egress) -> Result<Outside, Error> {
    check_port_range(egress)?;
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let sealed = seal_with(&handle, gate, port, egress).await;
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
    let found = async { outside(&handle, &interfaces(&handle).await?, gate).await }.await;
    driver.abort();
    found
}

async fn seal_with(handle: &Handle, gate: IpAddr, port: u16, egress: Egress) -> Result<Outside, Error> {
    let interfaces = interfaces(handle).await?;
    let outside = outside(handle, &interfaces, gate).await?;
    let has_v6 = std::path::Path::new("/proc/net/if_inet6").exists();
    for version in [IpVersion::V4, IpVersion::V6] {
        if matches!(version, IpVersion::V6) && !has_v6 {
            continue;
        }
        let rules = rules(&version, interfaces.iter().map(|(_, name)| name.as_str()), gate, port, egress);
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
    gate: IpAddr,
    port: u16,
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
    let of_gate = gate.is_ipv4() == v4;
    let bits = if v4 { 32 } else { 128 };
    let mut out = Vec::new();
    for name in interfaces {
        let iif = || RuleAttribute::Iifname(name.to_owned());
        if of_gate {
            let mut first = rule(1, RuleAction::ToTable, LOCAL, vec![iif(), RuleAttribute::Source(gate)]);
            first.header.src_len = bits;
            out.push(first);
        }
        for protocol in [IpProtocol::Tcp, IpProtocol::Udp] {
            let to = |ports| {
                vec![iif(), RuleAttribute::IpProtocol(protocol), RuleAttribute::DestinationPortRange(ports)]
            };
            if port >= ANSWERS.start {
                let own = RulePortRange { start: port, end: port };
                out.push(rule(2, RuleAction::Blackhole, 0, to(own)));
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
        if of_gate {
            let mut back = rule(6, RuleAction::ToTable, MAIN, vec![RuleAttribute::Destination(gate)]);
            back.header.dst_len = bits;
            out.push(back);
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

async fn outside(handle: &Handle, interfaces: &[(u32, String)], gate: IpAddr) -> Result<Outside, Error> {
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
            if address.is_ipv4() == gate.is_ipv4() && !link_local && first {
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
