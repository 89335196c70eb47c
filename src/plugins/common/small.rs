//! Small ones that need the host's chance, environment or nothing at all:
//! `rand`, `uuid`, `lookupSID`, `expand`, `url`.

use std::collections::BTreeMap;

use url::Url;
use vql::{ArgType, Dict, Error, Registry, Signature, Value};

use super::remap::Remapped;
use crate::env::Env;

/// Adds the callables of this module.
pub fn register(registry: &mut Registry) {
    let rand =
        Signature::new("rand", "A number from 0 up to, not including, range.").refused(false);
    registry.function_sync(rand.arg("range", ArgType::Int, "How many numbers."), |scope, args| {
        let env = scope.extension::<Env>();
        let env = env.ok_or_else(|| Error::failed("no environment in this scope"))?;
        let range = u64::try_from(args.int("range")?).ok().filter(|n| *n > 0);
        Ok(env.entropy.below(range.unwrap_or(i64::MAX as u64)).into())
    });

    let uuid = Signature::new("uuid", "A random identifier, version 4.");
    registry.function_sync(uuid, |scope, _| {
        let env = scope.extension::<Env>();
        let env = env.ok_or_else(|| Error::failed("no environment in this scope"))?;
        let mut bytes = [0; 16];
        env.entropy.fill(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let digits = hex::encode(bytes);
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
        Ok(parts.join("-").into())
    });

    let doc = "The name of an account of Windows; on other systems the identifier itself.";
    let sid = Signature::new("lookupSID", doc);
    registry.function_sync(sid.required("sid", ArgType::String, "The identifier."), |_, args| {
        Ok(args.string("sid")?.into())
    });

    let expand = Signature::new("expand", "Puts environment variables into a path.");
    registry.function_sync(expand.required("path", ArgType::String, "The path."), |scope, args| {
        let all: BTreeMap<String, String> = match Remapped::env(scope) {
            Some(seen) => seen.iter().map(|(k, v)| (k.to_uppercase(), v.clone())).collect(),
            None => std::env::vars_os()
                .map(|(k, v)| {
                    (k.to_string_lossy().to_uppercase(), v.to_string_lossy().into_owned())
                })
                .collect(),
        };
        Ok(expanded(&args.string("path")?, &|name| all.get(&name.to_uppercase()).cloned()).into())
    });

    let mut url =
        Signature::new("url", "A URL from its parts, or its parts.").refused(false).version(2);
    for part in ["scheme", "host", "path", "fragment"] {
        url = url.arg(part, ArgType::String, "A part.");
    }
    let url = url
        .arg("query", ArgType::Any, "The query: text, or a dict of names and values.")
        .arg("parse", ArgType::String, "A URL to take apart.");
    registry.function_sync(url, |_, args| {
        if let Some(text) = args.opt_string("parse")? {
            return parts(&text);
        }
        let path = args.string("path")?;
        let text = format!("{}://{}", args.string("scheme")?, args.string("host")?);
        let mut built = Url::parse(&text).map_err(|e| Error::failed(format!("{text}: {e}")))?;
        built.set_path(&path);
        match args.any("query") {
            Value::Null => {}
            Value::Dict(dict) => {
                built
                    .query_pairs_mut()
                    .extend_pairs(dict.iter().map(|(k, v)| (k.as_str(), v.to_text())));
            }
            text => built.set_query(Some(&text.to_text())),
        }
        built.set_fragment(args.opt_string("fragment")?.as_deref());
        parts(built.as_str())
    });
}

/// The parts of a URL under the names Go gives them.
fn parts(text: &str) -> Result<Value, Error> {
    let url = Url::parse(text).map_err(|e| Error::failed(format!("{text}: {e}")))?;
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut query: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in url.query_pairs() {
        query.entry(name.into_owned()).or_default().push(value.into_owned());
    }
    let query: Dict = query.into_iter().fold(Dict::new(), |d, (k, v)| d.with(k, v));
    Ok(Dict::new()
        .with("Scheme", url.scheme())
        .with("Host", host)
        .with("Path", if url.path() == "/" && !text.contains("//") { "" } else { url.path() })
        .with("Fragment", url.fragment().unwrap_or_default())
        .with("Query", query)
        .with("RawQuery", url.query().unwrap_or_default())
        .with("String", text)
        .into())
}

/// `%NAME%`, `$NAME` and `${NAME}`; in per cent signs what is not known stays,
/// after a dollar it becomes empty.
fn expanded(text: &str, known: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['%', '$']) {
        out.push_str(&rest[..at]);
        let mark = &rest[at..=at];
        rest = &rest[at + 1..];
        let name_end =
            |s: &str| s.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(s.len());
        if mark == "%" {
            match rest.split_once('%').map(|(n, after)| (n, known(n), after)) {
                // A name of nothing leaves nothing; what is no name stays.
                Some((name, value, after))
                    if value.is_some() || !name.is_empty() && name_end(name) == name.len() =>
                {
                    out.push_str(&value.unwrap_or_default());
                    rest = after;
                }
                _ => out.push('%'),
            }
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
            out.push_str(&known(name).unwrap_or_default());
            rest = after;
        } else {
            let end = name_end(rest);
            match end {
                0 => out.push('$'),
                _ => out.push_str(&known(&rest[..end]).unwrap_or_default()),
            }
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_paths() {
        let known = |name: &str| (name.eq_ignore_ascii_case("home")).then(|| "/root".to_owned());
        let cases = [
            ("$HOME/x", "/root/x"),
            ("%Home%\\x%", "/root\\x%"),
            ("${HOME}x$", "/rootx$"),
            ("%unknown%/$unknown/", "//"),
            ("50% of 10%", "50% of 10%"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text, &known), expected, "{text}");
        }
    }

    #[test]
    fn parts_of_a_url() {
        let v = parts("https://a.example:8000/p/q?x=1&x=2#f").unwrap().to_json();
        assert!(
            v.contains(
                r#""Host":"a.example:8000","Path":"/p/q","Fragment":"f","Query":{"x":["1","2"]}"#
            ),
            "{v}"
        );
        assert!(parts("nothing").is_err());
    }
}
