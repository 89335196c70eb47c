//! From where people may come: networks, and the header of a proxy that says where
//! somebody is. Pure.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};

/// A network: an address and how many of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u8,
}

/// Networks that are let in; none lets everybody in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    allowed: Vec<Network>,
    header: Option<HeaderName>,
}

/// An IPv4 address inside of an IPv6 one is that.
fn plain(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(a) => a.to_ipv4_mapped().map_or(IpAddr::V6(a), IpAddr::V4),
        v4 => v4,
    }
}

fn number(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
        IpAddr::V6(a) => (a.to_bits(), 128),
    }
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, bits) = text.trim().split_once('/')?;
        let (address, bits) = (address.parse().ok()?, bits.parse().ok()?);
        (bits <= number(address).1).then_some(Self { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let ((own, width), (other, other_width)) = (number(self.address), number(address));
        let shift = u32::from(width - self.bits);
        width == other_width
            && own.checked_shr(shift).unwrap_or(0) == other.checked_shr(shift).unwrap_or(0)
    }
}

impl Networks {
    /// `allowed` as `10.0.0.0/8`; `header` is set by a proxy in front. An error names
    /// what is no network or no header.
    pub fn new(allowed: &[String], header: &str) -> Result<Self, String> {
        let one = |t: &String| Network::parse(t).ok_or_else(|| format!("`{t}` is no network"));
        let allowed = allowed.iter().map(one).collect::<Result<_, _>>()?;
        let header = match header.trim() {
            "" => None,
            h => Some(h.parse().map_err(|_| format!("`{h}` is no name of a header"))?),
        };
        Ok(Self { allowed, header })
    }

    /// Where somebody is: at the other end of the connection, or where the proxy says.
    /// `None` if it does not say. Of several addresses the last is the proxy's own word.
    pub fn address(&self, peer: IpAddr, headers: &HeaderMap) -> Option<IpAddr> {
        let Some(name) = &self.header else { return Some(plain(peer)) };
        let said = headers.get_all(name).iter().next_back()?.to_str().ok()?;
        said.rsplit(',').next()?.trim().parse().ok().map(plain)
    }

    /// Whether somebody from there is let in.
    pub fn allow(&self, address: Option<IpAddr>) -> bool {
        let inside = |a: IpAddr| self.allowed.iter().any(|n| n.contains(a));
        self.allowed.is_empty() || address.is_some_and(inside)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(allowed: &[&str], header: &str) -> Networks {
        let all: Vec<String> = allowed.iter().map(|a| a.to_string()).collect();
        Networks::new(&all, header).unwrap()
    }

    #[test]
    fn networks_contain_their_addresses() {
        let n = networks(&["10.0.0.0/8", "192.168.1.4/32", "fd00::/8"], "");
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.168.1.4", true),
            ("192.168.1.5", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("::ffff:10.0.0.9", true),
        ] {
            let address = n.address(address.parse().unwrap(), &HeaderMap::new());
            assert_eq!(n.allow(address), inside, "{address:?}");
        }
        let any = networks(&["0.0.0.0/0"], "");
        assert!(any.allow("1.2.3.4".parse().ok()) && !any.allow("::1".parse().ok()));
        assert!(Networks::default().allow(None));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "10.0.0.0/-1", ""] {
            assert!(Networks::new(&[bad.to_owned()], "").is_err(), "{bad}");
        }
        assert!(Networks::new(&[], "no header").is_err());
    }

    #[test]
    fn a_proxy_says_where_somebody_is() {
        let n = networks(&["10.0.0.0/8"], "X-Forwarded-For");
        let at = |said: Option<&str>| {
            let mut h = HeaderMap::new();
            if let Some(s) = said {
                h.insert("x-forwarded-for", s.parse().unwrap());
            }
            n.allow(n.address("10.0.0.1".parse().unwrap(), &h))
        };
        // What somebody wrote themselves stands before what the proxy added.
        assert!(at(Some("10.1.1.1")) && at(Some("8.8.8.8, 10.1.1.1")));
        assert!(!at(Some("10.1.1.1, 8.8.8.8")) && !at(Some("nonsense")) && !at(None));
    }
}
