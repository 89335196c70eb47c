//! Where a client can go instead: the other nodes by the URLs that agents have.

use std::collections::{BTreeMap, BTreeSet};

/// The URLs of the deployment (`Client.server_urls`), seen from one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Agents may have this node's own URL.
    direct: bool,
    /// Other nodes' base URLs for HTTPS, by the name of the node.
    others: BTreeMap<String, String>,
}

/// The name of the node behind a URL (`<host>-<port>`), and the URL as a client
/// over HTTPS uses it. A stock agent that is given a `wss` URL could not be sent on
/// from there.
fn node_of(url: &str) -> Option<(String, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let (plain, port) = match scheme {
        "https" | "wss" => ("https", 443),
        "http" | "ws" => ("http", 80),
        _ => return None,
    };
    let authority = rest.split('/').next()?;
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, port),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Some((format!("{host}-{port}"), format!("{plain}://{rest}")))
}

impl Ways {
    /// Of the node called `<host>-<port>`.
    pub fn new(host: &str, port: u16, urls: &[String]) -> Ways {
        let own = format!("{host}-{port}");
        let mut ways = Ways::default();
        for (name, url) in urls.iter().filter_map(|u| node_of(u)) {
            match name == own {
                true => ways.direct = true,
                false => drop(ways.others.insert(name, url)),
            }
        }
        ways
    }

    /// Agents connect to this node by its own URL and know another one. If not, a
    /// balancer is in front of it, or it is the only one.
    pub fn direct(&self) -> bool {
        self.direct && !self.others.is_empty()
    }

    /// URLs of the nodes among `nodes`; `None`: of all others.
    pub fn to(&self, nodes: Option<&BTreeSet<String>>) -> Vec<&str> {
        if !self.direct {
            return Vec::new();
        }
        let good = self.others.iter().filter(|(name, _)| nodes.is_none_or(|n| n.contains(*name)));
        good.map(|(_, url)| url.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(all: &[&str]) -> Vec<String> {
        all.iter().map(|u| (*u).to_owned()).collect()
    }

    #[test]
    fn nodes_are_known_by_their_urls() {
        let all = urls(&["https://a:8000/", "wss://b:8000/x/", "https://c/", "ftp://d/"]);
        let w = Ways::new("a", 8000, &all);
        assert!(w.direct());
        assert_eq!(w.to(None), ["https://b:8000/x/", "https://c/"]);
        let good = ["c-443".to_owned(), "z-1".to_owned()].into();
        assert_eq!(w.to(Some(&good)), ["https://c/"]);
        assert!(w.to(Some(&BTreeSet::new())).is_empty());
    }

    #[test]
    fn behind_a_balancer_nobody_is_sent_to_a_node() {
        let w = Ways::new("a", 8000, &urls(&["https://balancer/"]));
        assert!(!w.direct() && w.to(None).is_empty());
        let w = Ways::new("a", 8000, &urls(&["https://a:8000/"]));
        assert!(!w.direct() && w.to(None).is_empty(), "the only one");
    }

    #[test]
    fn addresses_of_version_6() {
        let all = urls(&["https://[::1]:8000/", "https://[::2]:8000/", "https://[::3]/"]);
        let w = Ways::new("::1", 8000, &all);
        assert_eq!(w.to(None), ["https://[::2]:8000/", "https://[::3]/"]);
    }
}
