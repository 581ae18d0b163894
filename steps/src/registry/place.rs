//! Where an image is to be: `REGISTRY/NAME[:TAG]`.
use oci_client::Reference;
use std::net::IpAddr;

/// A registry, a name in it and a tag; understood before anything is sent.
#[derive(Clone, Debug)]
pub struct Place(pub(super) Reference);

// === impl Place ===

impl Place {
    /// Of its text; without a tag it has the one of this version.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str, version: &str) -> Result<Self, String> {
        let form = |why: &str| {
            format!("{why}: write REGISTRY/NAME[:TAG], such as registry.example.com/team/syp-gate")
        };
        if text.contains("://") {
            return Err(form("a name of an image has no 'https://'"));
        }
        if text.contains('@') {
            return Err(form("the digest is what comes out, it can't be asked for"));
        }
        let (registry, name) = text.split_once('/').unwrap_or(("", text));
        if !is_registry(registry) {
            return Err(form("the registry is missing"));
        }
        // a build's '+' is not for tags
        let tag = version.replace('+', "-");
        let whole = if name.contains(':') { text.to_owned() } else { format!("{text}:{tag}") };
        let parsed = Reference::try_from(whole).map_err(|e| form(&e.to_string()))?;
        // names of the hub are completed: what is pushed should be what was written
        if parsed.tag().is_none() || !parsed.repository().ends_with(name.split(':').next().unwrap_or(name)) {
            return Err(form("that is no name of an image"));
        }
        Ok(Self(parsed))
    }

    /// With a digest, as a cluster is told it.
    pub fn by_digest(&self, digest: &str) -> String {
        format!("{}/{}@{digest}", self.0.registry(), self.0.repository())
    }

    /// With its tag.
    pub fn by_tag(&self) -> String {
        self.0.whole()
    }

    /// Its registry, as it was written.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// Whether it is on this machine, where plain HTTP is heard by nobody else.
    pub(super) fn is_here(&self) -> bool {
        let registry = self.registry();
        let host = match registry.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => registry,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// As Docker tells a registry from the first part of a name.
pub(super) fn is_registry(first: &str) -> bool {
    first.contains('.') || first.contains(':') || first == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_a_registry_a_name_and_a_tag() {
        let of = |text: &str| Place::parse(text, "1.2.3+dirty").map(|p| p.by_tag());
        for (text, want) in [
            ("registry.example.com/syp-gate", "registry.example.com/syp-gate:1.2.3-dirty"),
            ("registry.example.com:5000/a/b/gate:new", "registry.example.com:5000/a/b/gate:new"),
            ("localhost/gate:1", "localhost/gate:1"),
            ("docker.io/alice/gate", "docker.io/alice/gate:1.2.3-dirty"),
        ] {
            assert_eq!(of(text).unwrap(), want);
        }
        for (text, why) in [
            ("syp-gate", "the registry is missing"),
            ("team/syp-gate:1", "the registry is missing"),
            ("https://registry.example.com/gate", "has no 'https://'"),
            ("registry.example.com/gate@sha256:00", "digest is what comes out"),
            ("registry.example.com/Gate", "write REGISTRY/NAME"),
            ("registry.example.com/gate:a b", "write REGISTRY/NAME"),
            ("registry.example.com/gate:", "write REGISTRY/NAME"),
            ("registry.example.com/", "write REGISTRY/NAME"),
            ("registry.example.com/a//b", "write REGISTRY/NAME"),
            ("", "the registry is missing"),
        ] {
            let said = of(text).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
        let place = Place::parse("localhost:5000/gate:1", "").unwrap();
        assert_eq!(place.by_digest("sha256:00"), "localhost:5000/gate@sha256:00");
    }

    #[test]
    fn only_this_machine_is_spoken_to_in_the_clear() {
        for (registry, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("kind.localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9:1", true),
            ("10.0.0.1:5000", false),
            ("localhost.example.com", false),
            ("notlocalhost:80", false),
            ("127.0.0.1.example.com", false),
        ] {
            let place = Place::parse(&format!("{registry}/gate:1"), "").unwrap();
            assert_eq!(place.is_here(), want, "{registry}");
        }
    }
}
