//! What listens in this namespace, from `/proc/net/tcp` and `/proc/net/tcp6`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use syp_auth::door::Listener;

/// All TCP listeners, sorted, each once.
#[must_use]
pub fn all() -> Vec<Listener> {
    let mut found = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // no such file: no such protocol
        let text = std::fs::read_to_string(file).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(parse));
    }
    found.sort();
    found.dedup();
    found
}

/// One line; `None` when it is no listener.
fn parse(line: &str) -> Option<Listener> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (columns.next()?, columns.next()?, columns.next()?);
    if state != "0A" {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Listener { address: read_address(address)?, port })
}

/// The kernel prints 32-bit words in the machine's byte order.
fn read_address(hex: &str) -> Option<IpAddr> {
    let word = |n: usize| Some(u32::from_str_radix(hex.get(n * 8..n * 8 + 8)?, 16).ok()?.to_ne_bytes());
    match hex.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for n in 0..4 {
                bytes[n * 4..n * 4 + 4].copy_from_slice(&word(n)?);
            }
            let address = Ipv6Addr::from(bytes);
            Some(address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn listeners_are_read_and_connections_are_not() {
        let seen = |line: &str| parse(line).map(|l| format!("{} {}", l.address, l.port));
        let v4 = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100 0 0 10 0";
        assert_eq!(seen(v4).as_deref(), Some("127.0.0.1 8080"));
        assert_eq!(seen(&v4.replace(" 0A ", " 01 ")), None);
        let v6 = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1 1 0";
        assert_eq!(seen(v6).as_deref(), Some("::1 80"));
        let any = "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 1 1 0";
        assert_eq!(seen(any).as_deref(), Some(":: 80"));
    }
}
