//! What listens in this namespace, told by the kernel's `sock_diag`.
//!
//! `/proc/net/tcp` would be simpler, but to read it the kernel walks the connections of the whole machine: 10 ms of a core on one with
//! 24 GB, and this is asked once a second for each replica. It is read where `sock_diag` can't be asked (a kernel without `inet_diag`).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use syp_auth::door::Listener;

/// What the kernel sends at a time is at most this (`Documentation/userspace-api/netlink/intro.rst`).
const PART: usize = 32 * 1024;

/// All TCP listeners, sorted, each once.
#[must_use]
pub fn all() -> Vec<Listener> {
    let mut found = asked().unwrap_or_else(|_| read());
    found.sort();
    found.dedup();
    found
}

/// Those that the kernel tells of.
fn asked() -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        socket.send(&request(family, any), 0)?;
        dump(&socket, &mut found)?;
    }
    Ok(found)
}

fn request(family: u8, any: SocketId) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let wanted = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        // of these alone the kernel has a table of its own
        states: StateFlags::LISTEN,
        socket_id: any,
    };
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(wanted).into());
    message.finalize();
    let mut out = vec![0; message.buffer_len()];
    message.serialize(&mut out);
    out
}

/// Parts come until one says that it was the last.
fn dump(socket: &Socket, found: &mut Vec<Listener>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(PART);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            let length = message.header.length as usize;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(e) => return Err(e.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(r)) => {
                    let id = &r.header.socket_id;
                    let address = id.source_address.to_canonical();
                    found.push(Listener { address, port: id.source_port });
                }
                _ => {}
            }
            // each begins at a multiple of four
            rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Those of the files.
fn read() -> Vec<Listener> {
    // no such file: no such protocol
    let text = |file| std::fs::read_to_string(file).unwrap_or_default();
    let files = [text("/proc/net/tcp"), text("/proc/net/tcp6")];
    files.iter().flat_map(|f| f.lines().skip(1).filter_map(parse)).collect()
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
    use super::{asked, parse, read};
    use std::net::TcpListener;

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

    #[test]
    fn the_kernel_and_its_files_tell_the_same() {
        let mine = ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"].map(|a| TcpListener::bind(a).unwrap());
        let asked = asked().unwrap();
        for l in &mine {
            let at = l.local_addr().unwrap();
            let told =
                |found: &[super::Listener]| found.iter().any(|f| (f.address, f.port) == (at.ip(), at.port()));
            assert!(told(&asked) && told(&read()), "{at}: {asked:?}");
        }
        let connected = std::net::TcpStream::connect(mine[0].local_addr().unwrap()).unwrap();
        let own = connected.local_addr().unwrap().port();
        assert!(super::all().iter().all(|l| l.port != own), "a connection is no listener");
    }
}
