//! A path as a value: components, not text. Components are bytes, since file
//! names need not be UTF-8.

use std::any::Any;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use vql::{Key, Object, Str, Value};

/// How the text of a path is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/` separates; empty components, `.` and `..` are dropped.
    Linux,
    /// The text is the content and is never split.
    Raw,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsPath {
    /// Outermost directory first.
    pub components: Vec<Str>,
    /// Text form.
    pub kind: Kind,
}

impl OsPath {
    /// Reads a native path.
    pub fn linux(text: &[u8]) -> OsPath {
        let parts = text.split(|b| *b == b'/');
        let real = |p: &&[u8]| !p.is_empty() && *p != b"." && *p != b"..";
        OsPath { components: parts.filter(real).map(Str::from).collect(), kind: Kind::Linux }
    }

    /// Content used as a path.
    pub fn raw(content: &[u8]) -> OsPath {
        OsPath { components: vec![content.into()], kind: Kind::Raw }
    }

    /// The path of a value: a path, text, a list of components.
    pub fn of(value: &Value) -> OsPath {
        if let Some(p) = value.downcast::<OsPath>() {
            return p.clone();
        }
        match value {
            Value::List(items) if items.len() == 1 => OsPath::of(&items[0]),
            Value::List(items) => {
                OsPath { components: items.iter().map(Value::to_str).collect(), kind: Kind::Linux }
            }
            Value::Dict(d) => d.get("Path").map(OsPath::of).unwrap_or_else(|| OsPath::linux(b"")),
            other => OsPath::linux(other.to_str().as_bytes()),
        }
    }

    /// This path with one more component.
    #[must_use]
    pub fn join(&self, name: impl Into<Str>) -> OsPath {
        let mut out = self.clone();
        out.components.push(name.into());
        out
    }

    /// The text, bytes as they are.
    pub fn bytes(&self) -> Vec<u8> {
        match self.kind {
            Kind::Raw => self.components.first().map(|c| c.as_bytes().to_vec()).unwrap_or_default(),
            Kind::Linux if self.components.is_empty() => b"/".to_vec(),
            Kind::Linux => {
                let mut out = Vec::new();
                for c in &self.components {
                    out.push(b'/');
                    out.extend_from_slice(c.as_bytes());
                }
                out
            }
        }
    }

    /// The native path below `root`.
    pub fn native(&self, root: &std::path::Path) -> PathBuf {
        let mut out = root.as_os_str().as_bytes().to_vec();
        while out.last() == Some(&b'/') {
            out.pop();
        }
        out.extend_from_slice(&self.bytes());
        PathBuf::from(OsStr::from_bytes(&out))
    }

    /// The last component.
    pub fn basename(&self) -> String {
        self.components.last().map(|c| c.to_text().into_owned()).unwrap_or_default()
    }

    /// Components as text.
    pub fn texts(&self) -> Vec<String> {
        self.components.iter().map(|c| c.to_text().into_owned()).collect()
    }

    /// The text, invalid bytes replaced.
    pub fn to_text(&self) -> String {
        vql::lossy(&self.bytes()).into_owned()
    }
}

const MEMBERS: [&str; 11] = [
    "Components",
    "Basename",
    "Dirname",
    "Path",
    "PathSpec",
    "DelegatePath",
    "DelegateAccessor",
    "Delegate",
    "String",
    "HumanString",
    "DescribeType",
];

impl Object for OsPath {
    fn type_name(&self) -> &'static str {
        "*accessors.OSPath"
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn members(&self) -> Vec<Key> {
        MEMBERS.into_iter().map(Key::from).collect()
    }

    fn member(&self, name: &str) -> Option<Value> {
        Some(match name {
            "Components" => self.components.iter().cloned().collect(),
            "Basename" => self.components.last().cloned().map_or("".into(), Value::Str),
            "Dirname" => {
                let mut up = self.clone();
                up.components.pop();
                Value::object(up)
            }
            "Path" | "String" | "HumanString" => Value::Str(self.bytes().into()),
            "PathSpec" => vql::Dict::new().with("Path", self.to_text()).into(),
            "DelegatePath" | "DelegateAccessor" => "".into(),
            "Delegate" => Value::Null,
            "DescribeType" => match self.kind {
                Kind::Linux => "LinuxPath".into(),
                Kind::Raw => "RawPath".into(),
            },
            _ => return None,
        })
    }

    fn index(&self, index: i64) -> Option<Value> {
        let n = self.components.len() as i64;
        let at = if index < 0 { index + n } else { index };
        self.components.get(usize::try_from(at).ok()?).cloned().map(Value::Str)
    }

    fn text(&self) -> Option<String> {
        Some(self.to_text())
    }

    fn truth(&self) -> bool {
        !self.components.is_empty()
    }

    fn equals(&self, other: &Value) -> bool {
        other.downcast::<OsPath>().is_some_and(|o| o == self)
    }

    fn less(&self, other: &Value) -> Option<bool> {
        other.downcast::<OsPath>().map(|o| self.bytes() < o.bytes())
    }

    fn add(&self, other: &Value) -> Option<Value> {
        let more = match other {
            Value::Null => return None,
            Value::List(items) => items.iter().map(Value::to_str).collect(),
            other => OsPath::of(other).components,
        };
        let mut out = self.clone();
        out.components.extend(more);
        Some(Value::object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_members() {
        let p = OsPath::linux(b"/usr//./bin/../x y");
        assert_eq!(p.to_text(), "/usr/bin/x y");
        assert_eq!(p.member("Basename").unwrap().to_text(), "x y");
        assert_eq!(p.member("Dirname").unwrap().to_json(), "\"/usr/bin\"");
        assert_eq!(p.index(-1).unwrap().to_text(), "x y");
        assert_eq!(p.add(&"a/b".into()).unwrap().to_json(), "\"/usr/bin/x y/a/b\"");
        assert_eq!(OsPath::linux(b"").to_text(), "/");
        assert!(!OsPath::linux(b"/").truth());
        assert_eq!(p.native("/root".as_ref()).to_str(), Some("/root/usr/bin/x y"));
    }
}
