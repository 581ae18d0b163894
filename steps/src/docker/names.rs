//! Addresses inside an instance's network and ports inside its containers.
use std::net::Ipv4Addr;

/// Where the gate takes traffic inside its container.
pub const TRAFFIC: u16 = 8080;
/// Where the gate takes its configuration.
pub const ADMIN: u16 = 9901;
/// Where a holder tells about itself (to the gate only).
pub const HOLDER: u16 = 49_150;

/// A subnet of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    base: u32,
    prefix: u8,
}

// === impl Subnet ===

impl Subnet {
    /// Reads `10.1.2.0/28`.
    pub fn parse(text: &str) -> Option<Self> {
        let (base, prefix) = text.split_once('/')?;
        let (base, prefix) = (u32::from(base.parse::<Ipv4Addr>().ok()?), prefix.parse().ok()?);
        (prefix <= 32).then(|| Self { base: base & mask(prefix), prefix })
    }

    /// The `n`th subnet of `prefix` in this pool.
    pub fn nth(self, prefix: u8, n: u32) -> Option<Self> {
        let count = 1u32.checked_shl(u32::from(prefix.checked_sub(self.prefix)?))?;
        (n < count).then(|| Self { base: self.base + (n << (32 - prefix)), prefix })
    }

    /// How many subnets of `prefix` the pool has.
    pub fn count(self, prefix: u8) -> u32 {
        prefix.checked_sub(self.prefix).map_or(0, |d| 1u32.checked_shl(u32::from(d)).unwrap_or(0))
    }

    /// Do they share an address?
    pub fn overlaps(self, other: Self) -> bool {
        let m = mask(self.prefix.min(other.prefix));
        self.base & m == other.base & m
    }

    /// The address at a place: 1 is the host, 2 the gate, 3 and on the replicas.
    pub fn address(self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + place)
    }

    /// Is the address in it?
    pub fn contains(self, a: Ipv4Addr) -> bool {
        u32::from(a) & mask(self.prefix) == self.base
    }

    /// Smallest subnet for so many replicas and, beside them, as many of their next revision: and host, gate, network and
    /// broadcast address.
    pub fn prefix_for(replicas: u32) -> u8 {
        (0..=28).rev().find(|p| (1u64 << (32 - p)) >= 2 * u64::from(replicas) + 4).unwrap_or(16)
    }

    /// How many replicas it has addresses for.
    pub fn replicas(self) -> u32 {
        (!mask(self.prefix)).saturating_sub(3)
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Networks to which this host has a route that is not the default one.
pub fn local_routes(proc_net_route: &str) -> Vec<Subnet> {
    proc_net_route
        .lines()
        .skip(1)
        .filter_map(|l| {
            let f: Vec<_> = l.split_whitespace().collect();
            let hex = |s: &str| u32::from_str_radix(s, 16).ok().map(u32::swap_bytes);
            let (base, m) = (hex(f.get(1)?)?, hex(f.get(7)?)?);
            let prefix = u8::try_from(m.leading_ones()).ok()?;
            (prefix > 0).then_some(Subnet { base, prefix })
        })
        .collect()
}

/// Which route of this host (`/proc/net/route`) takes all of a pool, if any.
///
/// # Errors
/// The pool is no network.
#[allow(clippy::result_unit_err)]
pub fn pool_conflict(pool: &str, proc_net_route: &str) -> Result<Option<String>, ()> {
    let pool = Subnet::parse(pool).ok_or(())?;
    let takes = |r: &Subnet| r.prefix <= pool.prefix && r.overlaps(pool);
    Ok(local_routes(proc_net_route).into_iter().find(takes).map(|r| r.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_takes_the_whole_pool_is_a_conflict() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
        let all = format!("{head}tun0 0000000A 00000000 0003 0 0 0 000000FF 0 0 0\n");
        let part = format!("{head}br0 0000D50A 00000000 0001 0 0 0 F0FFFFFF 0 0 0\n");
        assert_eq!(pool_conflict("10.213.0.0/16", &all), Ok(Some("10.0.0.0/8".into())));
        assert_eq!(pool_conflict("10.213.0.0/16", &part), Ok(None), "a network of an instance");
        assert_eq!(pool_conflict("10.213.0.0", &part), Err(()));
    }

    #[test]
    fn subnets_of_a_pool() {
        let pool = Subnet::parse("10.213.0.0/16").unwrap();
        assert_eq!(pool.nth(28, 17).unwrap().to_string(), "10.213.1.16/28");
        assert_eq!(pool.count(28), 4096);
        assert!(pool.nth(28, 4096).is_none());
        let a = Subnet::parse("10.213.1.16/28").unwrap();
        assert!(a.overlaps(Subnet::parse("10.213.1.0/24").unwrap()));
        assert!(!a.overlaps(Subnet::parse("10.213.1.32/28").unwrap()));
        assert_eq!(a.address(2).to_string(), "10.213.1.18");
        assert_eq!(Subnet::prefix_for(1), 28);
        assert_eq!(Subnet::prefix_for(6), 28);
        assert_eq!(Subnet::prefix_for(7), 27);
        assert_eq!(Subnet::prefix_for(64), 24);
        assert_eq!(a.replicas(), 12);
    }

    #[test]
    fn routes_are_read_and_the_default_one_is_not_local() {
        let text = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\nbr-1\t1001D50A\t0\t1\t0\t0\t0\tF0FFFFFF\t0\neth0\t00000000\t0101A8C0\t3\t0\t0\t0\t00000000\t0\n";
        let r = local_routes(text);
        assert_eq!(r.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.213.1.16/28"]);
    }
}
