//! Paths as policy sees them: one reading that no server behind the gate can read differently.

/// A request path that has exactly one reading, percent-decoded into bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normal(Vec<u8>);

impl Normal {
    /// Reads a raw path (no query). `None` when it is ambiguous: another server could resolve it to another resource.
    ///
    /// Ambiguous are: empty or `.`/`..` segments, encoded or plain `\`, `;`, control bytes, an encoded `/`, `.`, `%`, `?`,
    /// `#`, NUL, an encoded letter or digit (`/%61dmin`), a broken escape, and anything that does not begin with `/`.
    #[must_use]
    pub fn read(raw: &str) -> Option<Self> {
        let raw = raw.as_bytes();
        if raw.first() != Some(&b'/') {
            return None;
        }
        let mut out = Vec::with_capacity(raw.len());
        let mut i = 0;
        while let Some(&byte) = raw.get(i) {
            i += 1;
            if byte == b'%' {
                let decoded = hex_pair(raw.get(i).copied()?, raw.get(i + 1).copied()?)?;
                i += 2;
                if !may_be_encoded(decoded) {
                    return None;
                }
                out.push(decoded);
            } else if byte < 0x20 || matches!(byte, 0x7f | b'\\' | b';' | b'?' | b'#') {
                return None;
            } else {
                out.push(byte);
            }
        }
        let last = out.split(|b| *b == b'/').count() - 1;
        for (n, segment) in out.split(|b| *b == b'/').enumerate() {
            // the piece before the first '/' and the one after a last '/' are empty by nature
            let empty = segment.is_empty() && n != 0 && n != last;
            if empty || segment == b"." || segment == b".." {
                return None;
            }
        }
        Some(Self(out))
    }

    /// Whether the path is `prefix` or lies below it (`/a` holds `/a` and `/a/b`, never `/ab`).
    #[must_use]
    pub fn is_under(&self, prefix: &Normal, ignore_case: bool) -> bool {
        let want = prefix.0.strip_suffix(b"/").unwrap_or(&prefix.0);
        let Some(head) = self.0.get(..want.len()) else { return false };
        let same = if ignore_case { head.eq_ignore_ascii_case(want) } else { head == want };
        same && matches!(self.0.get(want.len()), None | Some(b'/'))
    }
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |b: u8| (b as char).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

// what must be, or harmlessly is, encoded: bytes above ASCII, space and delimiters with no meaning inside a path
fn may_be_encoded(byte: u8) -> bool {
    byte >= 0x80
        || matches!(byte, b' ' | b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}')
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::Normal;

    #[test]
    fn ambiguous_paths_have_no_reading() {
        for raw in [
            "",
            "a",
            "*",
            "//",
            "/a//b",
            "/a/./b",
            "/a/../b",
            "/..",
            "/.",
            "/a/%2e%2e/b",
            "/%2E/a",
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a;x=1/b",
            "/%61dmin",
            "/a%00",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%25b",
            "/a%3fb",
            "/a%23b",
            "/a%3bb",
            "/a\u{7f}",
            "/a\nb",
            "/a#b",
            "/a?b",
            "/%30",
            "/a%0a",
            "/%7e",
        ] {
            assert_eq!(Normal::read(raw), None, "{raw:?}");
        }
    }

    #[test]
    fn plain_paths_are_read() {
        for raw in ["/", "/a", "/a/", "/a/b.c", "/caf%C3%A9", "/a%20b", "/~a/-_.b", "/...", "/a:b@c", "/a+b"]
        {
            assert!(Normal::read(raw).is_some(), "{raw:?}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let under = |path, prefix, ignore| {
            Normal::read(path).unwrap().is_under(&Normal::read(prefix).unwrap(), ignore)
        };
        assert!(under("/admin", "/admin", false));
        assert!(under("/admin/x", "/admin", false));
        assert!(under("/admin/x", "/admin/", false));
        assert!(under("/admin", "/admin/", false));
        assert!(under("/x", "/", false));
        assert!(under("/ADMIN/x", "/admin", true));
        assert!(!under("/ADMIN/x", "/admin", false));
        assert!(!under("/administrator", "/admin", false));
        assert!(!under("/a", "/admin", false));
    }
}
