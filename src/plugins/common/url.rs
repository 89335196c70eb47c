//! `url`: a URL from its parts, or its parts. Texts are taken apart the way the stock program's
//! library does, which reads relative ones too and keeps what it would write differently.

use std::any::Any;
use std::collections::BTreeMap;

use vql::{ArgType, Args, Dict, Error, Key, Object, Registry, Signature, Value};

/// Adds `url`.
pub fn register(registry: &mut Registry) {
    let mut url =
        Signature::new("url", "A URL from its parts, or its parts.").refused(false).version(2);
    for part in ["scheme", "host", "path", "fragment"] {
        url = url.arg(part, ArgType::String, "A part.");
    }
    let url = url
        .arg("query", ArgType::Any, "The query: text, or a dict of names and values.")
        .arg("parse", ArgType::String, "A URL to take apart.");
    registry.function_sync(url, |scope, args| {
        let url = match args.opt_string("parse")? {
            None => built(args)?,
            Some(text) => match parse(&text) {
                Ok(url) => url,
                Err(why) => {
                    scope.log(vql::Level::Default, format!("url: parse {text:?}: {why}"));
                    return Ok(false.into());
                }
            },
        };
        Ok(Value::object(url))
    });
}

/// The URL of the parts that were given.
fn built(args: &Args) -> Result<Url, Error> {
    let path = args.string("path")?;
    let path = match path.trim_start_matches('/') {
        "" => path.get(..1).unwrap_or_default().to_owned(),
        rest => format!("/{rest}"),
    };
    let query = match args.any("query") {
        Value::Null => String::new(),
        Value::Dict(dict) => written(&dict),
        text => text.to_text(),
    };
    let [scheme, host, fragment] = ["scheme", "host", "fragment"].map(|part| args.string(part));
    Ok(Url { scheme: scheme?, host: host?, path, query, fragment: fragment?, ..Url::default() })
}

/// The text of a query: names in order, lists as the name again and again, nothing for NULL.
fn written(dict: &Dict) -> String {
    let mut all: Vec<(&Key, &Value)> = dict.iter().collect();
    all.sort_by(|a, b| a.0.cmp(b.0));
    let mut parts = Vec::new();
    for (name, value) in all {
        let values = match value {
            Value::Null => Vec::new(),
            Value::List(items) => items.iter().map(Value::to_text).collect(),
            other => vec![other.to_text()],
        };
        let name = escape(name, &|_| false).replace("%20", "+");
        for value in values {
            parts.push(format!("{name}={}", escape(&value, &|_| false).replace("%20", "+")));
        }
    }
    parts.join("&")
}

/// A URL taken apart. Path and fragment are decoded; `raw_` has them as they were written where
/// they would now be written differently.
#[derive(Debug, Default)]
struct Url {
    scheme: String,
    opaque: String,
    user: Option<String>,
    host: String,
    path: String,
    raw_path: String,
    query: String,
    force_query: bool,
    fragment: String,
    raw_fragment: String,
    omit_host: bool,
}

fn parse(text: &str) -> Result<Url, String> {
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL".into());
    }
    let mut url = Url::default();
    let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
    url.fragment = unescape(fragment, false)?;
    if escape(&url.fragment, &in_fragment) != fragment {
        url.raw_fragment = fragment.into();
    }
    let (scheme, rest) = scheme_of(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    url.query = query.into();
    url.force_query = query.is_empty() && text.ends_with('?');
    let mut path = rest;
    if !rest.starts_with('/') {
        if !scheme.is_empty() {
            url.opaque = rest.into();
            return Ok(url);
        }
        if rest.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err("first path segment in URL cannot contain colon".into());
        }
    } else if let Some(after) = rest.strip_prefix("//") {
        let end = after.find('/').unwrap_or(after.len());
        let authority = &after[..end];
        path = &after[end..];
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user.to_owned()), host),
            None => (None, authority),
        };
        url.user = user;
        url.host = host_of(host)?;
    } else {
        url.omit_host = !scheme.is_empty();
    }
    url.path = unescape(path, false)?;
    if escape(&url.path, &in_path) != path {
        url.raw_path = path.into();
    }
    Ok(url)
}

/// The scheme, which may be missing, and what follows it.
fn scheme_of(text: &str) -> Result<(&str, &str), String> {
    let Some((scheme, rest)) = text.split_once(':') else { return Ok(("", text)) };
    let legal = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    match scheme.chars().next() {
        None => Err("missing protocol scheme".into()),
        Some(first) if first.is_ascii_alphabetic() && scheme.chars().all(legal) => {
            Ok((scheme, rest))
        }
        _ => Ok(("", text)),
    }
}

fn host_of(text: &str) -> Result<String, String> {
    let host = unescape(text, false)?;
    if let Some(bad) = text.chars().find(|c| *c == ' ' || "\\^`{|}".contains(*c)) {
        return Err(format!("invalid character {:?} in host name", bad.to_string()));
    }
    let after = text.rfind(']').map_or(text, |end| &text[end + 1..]);
    if let Some(at) = after.find(':') {
        let port = &after[at..];
        if !port[1..].bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("invalid port {port:?} after host"));
        }
    }
    if text.starts_with('[') && !text.contains(']') {
        return Err("missing ']' in host".into());
    }
    Ok(host)
}

/// Decodes `%xx`, and `+` when it stands for a space.
fn unescape(text: &str, plus: bool) -> Result<String, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'%' => {
                let digits = after.get(..2).and_then(|d| std::str::from_utf8(d).ok());
                let hex = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let byte = hex.and_then(|d| u8::from_str_radix(d, 16).ok());
                let shown = || String::from_utf8_lossy(&after[..after.len().min(2)]).into_owned();
                out.push(byte.ok_or_else(|| format!("invalid URL escape \"%{}\"", shown()))?);
                rest = &after[2..];
            }
            b'+' if plus => out.push(b' '),
            byte => out.push(*byte),
        }
    }
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn escape(text: &str, also: &dyn Fn(char) -> bool) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_alphanumeric() || "-_.~".contains(c) || also(c) {
            out.push(c);
        } else {
            let mut buffer = [0; 4];
            out.extend(c.encode_utf8(&mut buffer).bytes().map(|b| format!("%{b:02X}")));
        }
    }
    out
}

fn in_path(c: char) -> bool {
    "$&+,/:;=@".contains(c)
}

fn in_fragment(c: char) -> bool {
    in_path(c) || "?!()*".contains(c)
}

fn in_host(c: char) -> bool {
    "!$&'()*+,;=:[]<>\"".contains(c)
}

impl Url {
    fn escaped_path(&self) -> String {
        let spare = |c: char| c.is_ascii_alphanumeric() || "-_.~%!'()*[]".contains(c) || in_path(c);
        if !self.raw_path.is_empty() && self.raw_path.chars().all(spare) {
            return self.raw_path.clone();
        }
        if self.path == "*" { "*".into() } else { escape(&self.path, &in_path) }
    }

    /// Without the fragment: what a request asks for.
    fn request_uri(&self) -> String {
        let mut uri = match self.opaque.is_empty() {
            true => self.escaped_path(),
            false => self.opaque.clone(),
        };
        if uri.is_empty() {
            uri.push('/');
        }
        self.add_query(&mut uri);
        uri
    }

    fn add_query(&self, to: &mut String) {
        if self.force_query || !self.query.is_empty() {
            to.push('?');
            to.push_str(&self.query);
        }
    }

    /// The whole text, with what stands for the user.
    fn write(&self, user: Option<&str>) -> String {
        let mut out = String::new();
        if !self.scheme.is_empty() {
            out = format!("{}:", self.scheme);
        }
        if !self.opaque.is_empty() {
            out.push_str(&self.opaque);
        } else {
            let authority = !self.host.is_empty() || user.is_some();
            let slashes = !self.scheme.is_empty() && !self.path.is_empty() && !self.omit_host;
            if authority || slashes {
                out.push_str("//");
            }
            out.extend(user.map(|user| format!("{user}@")));
            out.push_str(&escape(&self.host, &in_host));
            let path = self.escaped_path();
            if !path.is_empty() && !path.starts_with('/') && !self.host.is_empty() {
                out.push('/');
            }
            out.push_str(&path);
        }
        self.add_query(&mut out);
        if !self.fragment.is_empty() {
            out.push('#');
            out.push_str(&escape(&self.fragment, &in_fragment));
        }
        out
    }

    fn query_values(&self) -> Value {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let parts = self.query.split('&').filter(|part| !part.is_empty() && !part.contains(';'));
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if let (Ok(name), Ok(value)) = (unescape(name, true), unescape(value, true)) {
                values.entry(name).or_default().push(value);
            }
        }
        values.into_iter().fold(Dict::new(), |dict, (name, all)| dict.with(name, all)).into()
    }

    /// The host's name and its port.
    fn host_and_port(&self) -> (&str, &str) {
        let end = self.host.rfind(']').map_or(0, |end| end + 1);
        let colon = self.host[end..].find(':').map(|at| at + end);
        let (name, port) = match colon {
            Some(at) => (&self.host[..at], &self.host[at + 1..]),
            None => (self.host.as_str(), ""),
        };
        (name.trim_start_matches('[').trim_end_matches(']'), port)
    }
}

const MEMBERS: [&str; 11] = [
    "Scheme",
    "Opaque",
    "User",
    "Host",
    "Path",
    "Fragment",
    "RawQuery",
    "RawPath",
    "RawFragment",
    "ForceQuery",
    "OmitHost",
];

impl Object for Url {
    fn type_name(&self) -> &'static str {
        "*url.URL"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        MEMBERS.map(Key::from).to_vec()
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "Scheme" => self.scheme.as_str().into(),
            "Opaque" => self.opaque.as_str().into(),
            // Shown without what it says, which may be a password.
            "User" => self.user.as_ref().map(|_| Dict::new()).into(),
            "Host" => self.host.as_str().into(),
            "Path" => self.path.as_str().into(),
            "Fragment" => self.fragment.as_str().into(),
            "RawQuery" => self.query.as_str().into(),
            "RawPath" => self.raw_path.as_str().into(),
            "RawFragment" => self.raw_fragment.as_str().into(),
            "ForceQuery" => self.force_query.into(),
            "OmitHost" => self.omit_host.into(),
            "String" => self.write(self.user.as_deref()).into(),
            "Redacted" => {
                let user = self.user.as_deref();
                let hidden = user.map(|user| match user.split_once(':') {
                    Some((name, _)) => format!("{name}:xxxxx"),
                    None => user.to_owned(),
                });
                self.write(hidden.as_deref()).into()
            }
            "Query" => self.query_values(),
            "Hostname" => self.host_and_port().0.into(),
            "Port" => self.host_and_port().1.into(),
            "IsAbs" => (!self.scheme.is_empty()).into(),
            "RequestURI" => self.request_uri().into(),
            "EscapedPath" => self.escaped_path().into(),
            "EscapedFragment" => escape(&self.fragment, &in_fragment).into(),
            _ => return None,
        })
    }

    fn text(&self) -> Option<String> {
        Some(self.write(self.user.as_deref()))
    }

    fn to_plain(&self) -> Value {
        let member =
            |name: &&'static str| (Key::from(*name), self.member(name).unwrap_or_default());
        MEMBERS.iter().map(member).collect::<Dict>().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, member: &str) -> String {
        parse(text).unwrap().member(member).unwrap_or_default().to_text()
    }

    #[test]
    fn parts_and_the_whole() {
        let cases = [
            ("https://u:p@h.com:8080/a/b%20c?x=1#f", "Path", "/a/b c"),
            ("https://u:p@h.com:8080/a?x=1&x=2", "Query", r#"{"x":["1","2"]}"#),
            ("https://u:p@h.com:8080/a", "Hostname", "h.com"),
            ("https://u:p@h.com:8080/a", "Redacted", "https://u:xxxxx@h.com:8080/a"),
            ("http://[::1]:80/x", "Hostname", "::1"),
            ("http://h/a%2fb", "RawPath", "/a%2fb"),
            ("http://h/é", "String", "http://h/%C3%A9"),
            ("mailto:a@b?q", "Opaque", "a@b"),
            ("//h/x", "Host", "h"),
            ("a b", "Path", "a b"),
            ("http://h/a?", "String", "http://h/a?"),
            ("http:/x", "String", "http:/x"),
            ("?x=y+z", "Query", r#"{"x":["y z"]}"#),
        ];
        for (text, member, expected) in cases {
            assert_eq!(of(text, member), expected, "{text} {member}");
        }
    }

    #[test]
    fn what_is_no_url() {
        for text in [":x", "http://[x", "http://h:x/", "http://a b/", "1http://x", "http://h/%zz"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
