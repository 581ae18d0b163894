//! Watches HTTP/1 message framing on the wire, for what hyper does not tell: did a head carry both `Content-Length` and
//! `Transfer-Encoding`, or a length twice? hyper silently drops one of the two; a server behind another proxy may drop the other,
//! so such a request is refused. This changes nothing that hyper reads; when it loses track it finds nothing.

use std::collections::VecDeque;

/// The longest head looked at; hyper refuses longer ones.
const MAX_HEAD: usize = 128 * 1024;

/// Follows the bytes of one connection.
#[derive(Default)]
pub struct Framing {
    at: At,
    head: Vec<u8>,
    /// For each head seen and not yet asked for: why it is refused.
    found: VecDeque<Option<&'static str>>,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum At {
    #[default]
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    Trailers,
    /// HTTP/2, or something hyper refuses: nothing more to follow.
    Lost,
    /// Upgraded: what comes is the tunnel's.
    Tunnel,
}

impl Framing {
    /// Why the next request in line is refused, if it is.
    pub fn next_refusal(&mut self) -> Option<&'static str> {
        self.found.pop_front().flatten()
    }

    /// The connection was upgraded.
    pub fn tunnel(&mut self) {
        *self = Self { at: At::Tunnel, ..Self::default() };
    }

    /// Whether it was.
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.at == At::Tunnel
    }

    /// Whether a part of a head has arrived and its end has not.
    #[must_use]
    pub fn is_in_head(&self) -> bool {
        self.at == At::Head && !self.head.is_empty()
    }

    /// Follows bytes as they arrive.
    pub fn saw(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let used = match self.at {
                At::Lost | At::Tunnel => return,
                At::Body(left) => {
                    let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - n as u64;
                    self.at = if left == 0 { At::Head } else { At::Body(left) };
                    n
                }
                // the two bytes of the line end after the data count as data
                At::ChunkData(left) => {
                    let n = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let left = left - n as u64;
                    self.at = if left == 0 { At::ChunkSize } else { At::ChunkData(left) };
                    n
                }
                At::Head | At::ChunkSize | At::Trailers => self.saw_line_part(bytes),
            };
            bytes = &bytes[used..];
        }
    }

    fn saw_line_part(&mut self, bytes: &[u8]) -> usize {
        let end = bytes.iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| n + 1);
        self.head.extend_from_slice(&bytes[..end]);
        if self.head.len() > MAX_HEAD {
            self.at = At::Lost;
        } else if self.head.ends_with(b"\n") {
            self.line_ended();
        }
        end
    }

    fn line_ended(&mut self) {
        match self.at {
            At::ChunkSize => {
                let size = self.head.split(|b| matches!(b, b';' | b'\r' | b'\n' | b' ' | b'\t')).next();
                let size = size
                    .and_then(|s| std::str::from_utf8(s).ok())
                    .and_then(|s| u64::from_str_radix(s, 16).ok());
                self.at = match size {
                    Some(0) => At::Trailers,
                    Some(n) => n.checked_add(2).map_or(At::Lost, At::ChunkData),
                    None => At::Lost,
                };
                self.head.clear();
            }
            At::Trailers => {
                if matches!(self.head.as_slice(), b"\n" | b"\r\n") {
                    self.at = At::Head;
                }
                self.head.clear();
            }
            // empty lines before a request line are skipped, as hyper does
            At::Head if matches!(self.head.as_slice(), b"\n" | b"\r\n") => self.head.clear(),
            At::Head if self.head.ends_with(b"\n\r\n") || self.head.ends_with(b"\n\n") => self.head_ended(),
            _ => {}
        }
    }

    fn head_ended(&mut self) {
        let (mut length, mut lengths, mut has_encoding) = (0, 0, false);
        for line in self.head.split(|b| *b == b'\n').skip(1) {
            let mut parts = line.splitn(2, |b| *b == b':');
            let name = parts.next().unwrap_or_default().trim_ascii();
            let value = parts.next().unwrap_or_default().trim_ascii();
            if name.eq_ignore_ascii_case(b"content-length") {
                lengths += 1;
                let number = std::str::from_utf8(value).ok().and_then(|v| v.parse().ok());
                length = number.unwrap_or(u64::MAX);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                has_encoding = true;
            }
        }
        let http2 = self.head.starts_with(b"PRI ");
        self.head.clear();
        let found = match () {
            () if lengths > 0 && has_encoding => Some("REQUEST_LENGTH_AND_ENCODING"),
            () if lengths > 1 => Some("REQUEST_LENGTH_TWICE"),
            () => None,
        };
        self.found.push_back(found);
        self.at = match () {
            // the connection ends with a refused request
            () if http2 || found.is_some() || self.found.len() > 1024 => At::Lost,
            () if has_encoding => At::ChunkSize,
            () if length > 0 => At::Body(length),
            () => At::Head,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::Framing;

    const BOTH: Option<&str> = Some("REQUEST_LENGTH_AND_ENCODING");
    const TWICE: Option<&str> = Some("REQUEST_LENGTH_TWICE");

    fn answers(wire: &[u8], step: usize) -> Vec<Option<&'static str>> {
        let mut framing = Framing::default();
        wire.chunks(step).for_each(|c| framing.saw(c));
        framing.found.into()
    }

    #[test]
    fn both_is_seen_however_the_bytes_are_cut() {
        let wire = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\
            POST / HTTP/1.1\r\ncontent-length: 40\r\n\r\nContent-Length: 1\nTransfer-Encoding: x\n\n\n\
            POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n\
            \r\nPOST / HTTP/1.1\r\nContent-Length: 3\r\nTRANSFER-ENCODING : chunked\r\n\r\n0\r\n\r\n";
        for step in 1..wire.len() {
            assert_eq!(answers(wire, step), [None, None, None, BOTH], "in steps of {step}");
        }
    }

    #[test]
    fn a_wish_for_an_upgrade_hides_nothing_and_a_granted_one_ends_the_watch() {
        let wish = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
        let evil = b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n";
        assert_eq!(answers(&[&wish[..], evil].concat(), 7), [None, BOTH]);
        let mut framing = Framing::default();
        framing.saw(wish);
        assert_eq!(framing.next_refusal(), None);
        framing.tunnel();
        framing.saw(evil);
        assert!(framing.is_tunnel() && framing.next_refusal().is_none());
    }

    #[test]
    fn equal_lengths_are_two_all_the_same() {
        let wire = b"POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\nx";
        assert_eq!(answers(wire, 5), [TWICE]);
    }
}
