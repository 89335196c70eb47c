//! Which HTTP proxy a URL goes through.

use regex::Regex;
use url::Url;

/// Sends URLs that match to a proxy, or directly.
#[derive(Clone, Debug)]
pub struct ProxyRule {
    /// Searched for in the whole URL.
    pub pattern: Regex,
    /// `http://[user:password@]host:port`; `None` goes directly.
    pub proxy: Option<Url>,
}

/// Proxy settings. The first rule that matches decides, then the scheme's
/// proxy. Local addresses and `no_proxy` hosts go directly.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    /// Decide before all else.
    pub rules: Vec<ProxyRule>,
    /// For `http` and `ws`.
    pub http: Option<Url>,
    /// For `https` and `wss`.
    pub https: Option<Url>,
    /// Hosts, `.suffixes` or `*`.
    pub no_proxy: Vec<String>,
}

impl Proxies {
    /// One proxy for everything (`Client.proxy`).
    pub fn single(proxy: Url) -> Self {
        Self { http: Some(proxy.clone()), https: Some(proxy), ..Self::default() }
    }

    /// The conventional variables, read by `get` (`HTTPS_PROXY`, `HTTP_PROXY`,
    /// `NO_PROXY`, upper case first). Values that are no URLs are ignored, as
    /// is conventional, with a warning.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Self {
        let var = |name: &str| {
            get(name).or_else(|| get(&name.to_lowercase())).filter(|v| !v.trim().is_empty())
        };
        let proxy = |name: &str| {
            let v = var(name)?;
            parse(&v).or_else(|| {
                tracing::warn!(variable = name, "not a proxy URL, ignored");
                None
            })
        };
        let no_proxy = var("NO_PROXY").unwrap_or_default();
        Self {
            rules: Vec::new(),
            http: proxy("HTTP_PROXY"),
            https: proxy("HTTPS_PROXY"),
            no_proxy: no_proxy.split(',').map(|s| s.trim().to_lowercase()).collect(),
        }
    }

    /// The proxy for a URL.
    pub(super) fn choose(&self, url: &Url) -> Option<&Url> {
        if let Some(rule) = self.rules.iter().find(|r| r.pattern.is_match(url.as_str())) {
            return rule.proxy.as_ref();
        }
        let host = url.host_str()?.trim_matches(['[', ']']).to_lowercase();
        let local = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if local || self.no_proxy.iter().any(|n| excluded(n, &host)) {
            return None;
        }
        match url.scheme() {
            "https" | "wss" => self.https.as_ref(),
            _ => self.http.as_ref(),
        }
    }
}

fn excluded(rule: &str, host: &str) -> bool {
    let name = rule.trim_start_matches('.');
    match rule {
        "" => false,
        "*" => true,
        _ => host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')),
    }
}

/// Reads a proxy URL; a bare `host:port` means `http`.
pub(super) fn parse(text: &str) -> Option<Url> {
    let text = text.trim();
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    Url::parse(&full).ok().filter(|u| u.host_str().is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conventional_choice() {
        let p = Proxies::from_variables(|name| match name {
            "HTTPS_PROXY" => Some("http://u:p@proxy:3128".into()),
            "http_proxy" => Some("plain:80".into()),
            "NO_PROXY" => Some("inside.example, .corp".into()),
            _ => None,
        });
        let choose = |u: &str| p.choose(&Url::parse(u).unwrap()).map(|p| p.host_str().unwrap());
        assert_eq!(choose("https://out.example/"), Some("proxy"));
        assert_eq!(choose("wss://out.example/"), Some("proxy"));
        assert_eq!(choose("http://out.example/"), Some("plain"));
        for direct in [
            "https://inside.example/",
            "https://a.inside.example/",
            "https://x.corp/",
            "https://localhost/",
            "https://127.0.0.1/",
            "https://[::1]/",
        ] {
            assert_eq!(choose(direct), None, "{direct}");
        }
        assert_eq!(choose("https://notinside.example/"), Some("proxy"));
    }

    #[test]
    fn rules_come_first() {
        let mut p = Proxies::single(parse("all:1").unwrap());
        p.rules.push(ProxyRule { pattern: Regex::new("^https://a").unwrap(), proxy: None });
        assert!(p.choose(&Url::parse("https://a.example/").unwrap()).is_none());
        assert!(p.choose(&Url::parse("https://b.example/").unwrap()).is_some());
    }
}
