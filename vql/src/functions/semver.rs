//! semver(): a version, comparable with others and with their text.

use crate::error::Error;
use crate::registry::Registry;
use crate::signature::{ArgType, Signature};
use crate::value::{Key, Object, Value};
use std::any::Any;
use std::cmp::Ordering;

pub(super) fn register(registry: &mut Registry) {
    let semver = Signature::new("semver", "A semantic version; it compares with others.");
    let semver = semver.required("version", ArgType::String, "The version.");
    registry.function_sync(semver, |_, args| {
        let text = args.string("version")?;
        let version = Version::parse(&text);
        version.map(Value::object).ok_or_else(|| Error::failed(format!("{text} is no version")))
    });
}

/// Parts that are not there are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    core: [u64; 3],
    pre: String,
}

impl Version {
    fn parse(text: &str) -> Option<Version> {
        let text = text.trim();
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split('+').next().unwrap_or_default();
        let (numbers, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut core = [0; 3];
        let parts: Vec<&str> = numbers.split('.').collect();
        if parts.len() > core.len() {
            return None;
        }
        for (slot, part) in core.iter_mut().zip(parts) {
            *slot = part.parse().ok()?;
        }
        Some(Version { core, pre: pre.to_owned() })
    }

    /// The version of a value: one, or a text that is one.
    fn of(value: &Value) -> Option<Version> {
        match value {
            Value::Str(text) => Version::parse(&text.to_text()),
            other => other.downcast::<Version>().cloned(),
        }
    }

    fn order(&self, other: &Version) -> Ordering {
        let by_core = self.core.cmp(&other.core);
        by_core.then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            // What is released comes after what led to it.
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => pre_order(&self.pre, &other.pre),
        })
    }
}

/// Numbers come before words and compare as numbers.
fn pre_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                (Err(_), Err(_)) => a.cmp(b),
            },
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

impl Object for Version {
    fn type_name(&self) -> &'static str {
        "*functions.SemVer"
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn members(&self) -> Vec<Key> {
        ["Major", "Minor", "Patch", "Prerelease", "Version"].map(Key::from).to_vec()
    }
    fn member(&self, name: &str) -> Option<Value> {
        let [major, minor, patch] = self.core;
        Some(match name {
            "Major" => major.into(),
            "Minor" => minor.into(),
            "Patch" => patch.into(),
            "Prerelease" => self.pre.as_str().into(),
            "Version" => {
                let dash = if self.pre.is_empty() { "" } else { "-" };
                format!("{major}.{minor}.{patch}{dash}{}", self.pre).into()
            }
            _ => return None,
        })
    }
    fn truth(&self) -> bool {
        true
    }
    fn equals(&self, other: &Value) -> bool {
        Version::of(other).is_some_and(|o| self.order(&o) == Ordering::Equal)
    }
    fn less(&self, other: &Value) -> Option<bool> {
        Some(self.order(&Version::of(other)?) == Ordering::Less)
    }
    fn greater(&self, other: &Value) -> Option<bool> {
        Some(self.order(&Version::of(other)?) == Ordering::Greater)
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::value;

    #[test]
    fn versions_compare() {
        for yes in [
            "semver(version='v1.2.3-dev').Version = '1.2.3-dev'",
            "semver(version='1.2.3') = '1.2.3'",
            "semver(version='1') = semver(version='1.0.0')",
            "semver(version='1.10.0') > '1.9'",
            "semver(version='1.2.3') >= '1.2.3'",
            "semver(version='1.0.0-rc.2') < semver(version='1.0.0-rc.10')",
            "semver(version='1.0.0-rc') < semver(version='1.0.0')",
            "semver(version='1.2.3') != '1.2.4'",
        ] {
            assert_eq!(value(yes), "true", "{yes}");
        }
        assert_eq!(value("semver(version='1.2.x')"), "null");
        assert_eq!(value("semver(version='2.0.0') < '1.0.0'"), "false");
    }
}
