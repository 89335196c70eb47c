//! Small ones that need the host's chance, environment or nothing at all:
//! `rand`, `uuid`, `lookupSID`, `expand`.

use std::collections::BTreeMap;

use vql::{ArgType, Error, Registry, Signature};

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
}

/// `%NAME%`, `$NAME` and `${NAME}`; what is not known becomes empty, what is no name stays.
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
            let word = |c: char| c.is_ascii_alphanumeric() || "_()".contains(c);
            match rest.split_once('%') {
                Some((name, after)) if !name.is_empty() && name.chars().all(word) => {
                    out.push_str(&known(name).unwrap_or_default());
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
            ("%ProgramFiles(x86)%%a b%", "%a b%"),
            ("50% of 10%", "50% of 10%"),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text, &known), expected, "{text}");
        }
    }
}
