//! A path as a value: components, not text. Components are bytes, since file
//! names need not be UTF-8.

use std::any::Any;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use vql::{Dict, Key, Object, Str, Value};

/// How the text of a path is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/` separates; empty components, `.` and `..` are dropped.
    Linux,
    /// The text is the content and is never split.
    Raw,
    /// `\\` and `/` separate, `\\` joins; the drive or device is the first
    /// component.
    Windows,
    /// As Windows; a drive is named as the device it is on.
    Ntfs,
    /// As Windows, with the usual short names of the first component; what has a
    /// separator in it is quoted.
    Registry,
    /// Both separate, `/` joins and begins; what has a separator in it is quoted.
    Generic,
    /// As Generic with `\\`: inside a registry file.
    Hive,
    /// As Generic behind `fs:`: a file of a server's datastore.
    Store,
    /// As Generic behind `ds:`: a record of a server's datastore.
    Records,
}

impl Kind {
    /// The kind of a named type; `None` when the name is not known.
    pub fn named(name: &str) -> Option<Kind> {
        Some(match name {
            "" | "auto" | "file" | "linux" | "zip" | "ext4" | "raw_ext4" | "process" => Kind::Linux,
            "generic" => Kind::Generic,
            "fs" => Kind::Store,
            "ds" => Kind::Records,
            "windows" => Kind::Windows,
            "ntfs" | "raw_ntfs" | "mft" | "fat" => Kind::Ntfs,
            "registry" | "reg" => Kind::Registry,
            "raw_reg" => Kind::Hive,
            "data" | "scope" | "raw" | "raw_file" | "pathspec" | "ranged" | "sparse" => Kind::Raw,
            _ => return None,
        })
    }

    /// Kinds by the number that stands for them in bytes.
    const ALL: [Kind; 9] = [
        Kind::Linux,
        Kind::Raw,
        Kind::Windows,
        Kind::Ntfs,
        Kind::Registry,
        Kind::Generic,
        Kind::Hive,
        Kind::Store,
        Kind::Records,
    ];

    /// The text of components.
    fn parse(self, text: &[u8]) -> Vec<Str> {
        match self {
            Kind::Linux => OsPath::linux(text).components,
            Kind::Raw => vec![text.into()],
            Kind::Windows => OsPath::windows(text).components,
            Kind::Generic | Kind::Hive => quoted_parts(text),
            Kind::Store => quoted_parts(text.strip_prefix(b"fs:").unwrap_or(text)),
            Kind::Records => quoted_parts(text.strip_prefix(b"ds:").unwrap_or(text)),
            Kind::Ntfs => {
                let mut parts = OsPath::windows(text).components;
                if let Some(drive) = parts.first_mut()
                    && matches!(drive.as_bytes(), [letter, b':'] if letter.is_ascii_alphabetic())
                {
                    *drive = [&b"\\\\.\\"[..], drive.as_bytes()].concat().as_slice().into();
                }
                parts
            }
            Kind::Registry => {
                let mut parts = quoted_parts(text);
                if let Some(root) = parts.first_mut() {
                    let upper = root.to_text().to_ascii_uppercase();
                    match upper.as_str() {
                        "HKLM" => *root = "HKEY_LOCAL_MACHINE".into(),
                        "HKCU" => *root = "HKEY_CURRENT_USER".into(),
                        "HKU" => *root = "HKEY_USERS".into(),
                        known if known.starts_with("HKEY_") => *root = known.into(),
                        _ => {}
                    }
                }
                parts
            }
        }
    }

    fn join(self, components: &[Str]) -> Vec<u8> {
        let quoted = || components.iter().map(|c| quote(c.as_bytes())).collect::<Vec<_>>();
        let plain = || components.iter().map(Str::as_bytes).collect::<Vec<_>>();
        match self {
            Kind::Raw => components.first().map(|c| c.as_bytes().to_vec()).unwrap_or_default(),
            // A device has separators in it; what has them after it is one name all the same.
            Kind::Windows | Kind::Ntfs => {
                let rest = quoted().into_iter().skip(1);
                let first = components.first().map(|c| c.as_bytes().to_vec());
                first.into_iter().chain(rest).collect::<Vec<_>>().join(&b'\\')
            }
            Kind::Registry => quoted().join(&b'\\'),
            Kind::Linux => [&b"/"[..], &plain().join(&b'/')].concat(),
            Kind::Generic => [&b"/"[..], &quoted().join(&b'/')].concat(),
            Kind::Store => behind(b"fs:", &quoted()),
            Kind::Records => behind(b"ds:", &quoted()),
            Kind::Hive => [&b"\\"[..], &quoted().join(&b'\\')].concat(),
        }
    }

    /// Whether names are compared without case.
    pub fn ignores_case(self) -> bool {
        !matches!(self, Kind::Linux | Kind::Raw | Kind::Generic | Kind::Store | Kind::Records)
    }
}

/// Parts with a slash before each, behind a prefix.
fn behind(prefix: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    let parts = parts.iter().flat_map(|p| [&b"/"[..], p]);
    std::iter::once(prefix).chain(parts).collect::<Vec<_>>().concat()
}

/// Splits at both separators but those in double quotes; two quotes are one.
fn quoted_parts(text: &[u8]) -> Vec<Str> {
    let (mut out, mut part, mut at) = (Vec::new(), Vec::new(), 0);
    while at < text.len() {
        match text[at] {
            b'"' if part.is_empty() => {
                at += 1;
                while at < text.len() {
                    if text[at] == b'"' {
                        if text.get(at + 1) != Some(&b'"') {
                            break;
                        }
                        at += 1;
                    }
                    part.push(text[at]);
                    at += 1;
                }
            }
            b'/' | b'\\' => out.push(std::mem::take(&mut part)),
            c => part.push(c),
        }
        at += 1;
    }
    out.push(part);
    let real = |p: &Vec<u8>| !matches!(p.as_slice(), b"" | b"." | b"..");
    out.into_iter().filter(real).map(|p| p.as_slice().into()).collect()
}

fn quote(part: &[u8]) -> Vec<u8> {
    if !part.iter().any(|b| matches!(b, b'/' | b'\\' | b'"')) {
        return part.to_vec();
    }
    let mut out = vec![b'"'];
    for b in part {
        out.push(*b);
        if *b == b'"' {
            out.push(b'"');
        }
    }
    out.push(b'"');
    out
}

/// What a path is inside of: an archive, an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegate {
    /// How to read it.
    pub accessor: String,
    /// Its path, itself perhaps inside of something.
    pub path: String,
    /// Whether it was given as a path with parts of its own; its text shows that.
    pub nested: bool,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OsPath {
    /// Outermost directory first.
    pub components: Vec<Str>,
    /// Text form.
    pub kind: Kind,
    /// What it is inside of.
    pub delegate: Option<Arc<Delegate>>,
}

impl OsPath {
    /// Reads a native path.
    pub fn linux(text: &[u8]) -> OsPath {
        let parts = text.split(|b| *b == b'/');
        let real = |p: &&[u8]| !p.is_empty() && *p != b"." && *p != b"..";
        let components = parts.filter(real).map(Str::from).collect();
        OsPath { components, kind: Kind::Linux, delegate: None }
    }

    /// Bytes from which [`OsPath::from_bytes`] makes the same path.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let kind = Kind::ALL.iter().position(|k| *k == self.kind)? as u8;
        let mut out = vec![
            kind,
            match &self.delegate {
                None => 0,
                Some(d) => 1 + u8::from(d.nested),
            },
        ];
        let mut part = |bytes: &[u8]| {
            out.extend((bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        if let Some(delegate) = &self.delegate {
            part(delegate.accessor.as_bytes());
            part(delegate.path.as_bytes());
        }
        self.components.iter().for_each(|c| part(c.as_bytes()));
        Some(out)
    }

    /// See [`OsPath::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<OsPath> {
        let (head, mut rest) = bytes.split_at_checked(2)?;
        let kind = *Kind::ALL.get(usize::from(head[0]))?;
        let mut parts = Vec::new();
        while !rest.is_empty() {
            let (length, behind) = rest.split_at_checked(4)?;
            let length = u32::from_le_bytes(length.try_into().ok()?);
            let (part, behind) = behind.split_at_checked(length as usize)?;
            parts.push(part);
            rest = behind;
        }
        let mut parts = parts.into_iter();
        let delegate = match head[1] {
            0 => None,
            form => {
                let mut text = || Some(String::from_utf8_lossy(parts.next()?).into_owned());
                let (accessor, path) = (text()?, text()?);
                Some(Arc::new(Delegate { accessor, path, nested: form == 2 }))
            }
        };
        Some(OsPath { components: parts.map(Str::from).collect(), kind, delegate })
    }

    /// Reads a path of Windows or its registry.
    pub fn windows(text: &[u8]) -> OsPath {
        let device = [&b"\\\\.\\"[..], b"\\\\?\\"].into_iter().find(|d| text.starts_with(d));
        let (prefix, rest) = text.split_at(device.map_or(0, <[u8]>::len));
        let parts = rest.split(|b| matches!(b, b'\\' | b'/'));
        let real = |p: &&[u8]| !p.is_empty() && *p != b"." && *p != b"..";
        let mut components: Vec<Str> = match rest.contains(&b'"') {
            true => quoted_parts(rest),
            false => parts.filter(real).map(Str::from).collect(),
        };
        if let (Some(first), false) = (components.first_mut(), prefix.is_empty()) {
            *first = [prefix, first.as_bytes()].concat().as_slice().into();
        }
        // A shadow copy is one device.
        let global = components.first().is_some_and(|c| c.as_bytes().ends_with(b"\\GLOBALROOT"));
        if global && !prefix.is_empty() && components.len() >= 3 {
            let device: Vec<&[u8]> = components[..3].iter().map(Str::as_bytes).collect();
            let device = Str::from(device.join(&b'\\').as_slice());
            drop(components.splice(..3, [device]));
        }
        OsPath { components, kind: Kind::Windows, delegate: None }
    }

    /// Reads a path of a named type; `None` when the name is not known.
    pub fn parse_as(kind: &str, text: &[u8]) -> Option<OsPath> {
        Some(OsPath::of_kind(Kind::named(kind)?, text))
    }

    /// Reads a path of a kind.
    pub fn of_kind(kind: Kind, text: &[u8]) -> OsPath {
        OsPath { components: kind.parse(text), kind, delegate: None }
    }

    /// The same with its text read and written as another kind.
    #[must_use]
    pub fn as_kind(mut self, kind: Kind) -> OsPath {
        if self.kind != kind {
            self.components = kind.parse(&self.kind.join(&self.components));
            self.kind = kind;
        }
        self
    }

    /// The path that a JSON text with `Path` and what it is inside of means;
    /// `None` for any other text.
    pub fn from_spec(text: &[u8]) -> Option<OsPath> {
        if !text.starts_with(b"{") {
            return None;
        }
        let spec: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(text).ok()?;
        const KNOWN: [&str; 4] = ["Path", "DelegateAccessor", "DelegatePath", "Delegate"];
        if spec.is_empty() || spec.keys().any(|k| !KNOWN.contains(&k.as_str())) {
            return None;
        }
        let text = |name: &str| match spec.get(name) {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(s)) => s.clone(),
            Some(other) => other.to_string(),
        };
        let path = OsPath::linux(text("Path").as_bytes());
        let accessor = text("DelegateAccessor");
        Some(match spec.contains_key("Delegate") {
            true => path.inside_of(&accessor, &text("Delegate")),
            false => path.inside(&accessor, &text("DelegatePath")),
        })
    }

    /// This path inside of something; with empty texts it is by itself.
    #[must_use]
    pub fn inside(mut self, accessor: &str, path: &str) -> OsPath {
        let (accessor, path) = (accessor.to_owned(), path.to_owned());
        let some = !accessor.is_empty() || !path.is_empty();
        self.delegate = some.then(|| Arc::new(Delegate { accessor, path, nested: false }));
        self
    }

    /// As [`OsPath::inside`], of what is given as a path with parts of its own.
    #[must_use]
    pub fn inside_of(self, accessor: &str, path: &str) -> OsPath {
        let mut out = self.inside(accessor, path);
        if let Some(delegate) = &mut out.delegate {
            Arc::make_mut(delegate).nested = !path.is_empty();
        }
        out
    }

    /// Content used as a path.
    pub fn raw(content: &[u8]) -> OsPath {
        OsPath { components: vec![content.into()], kind: Kind::Raw, delegate: None }
    }

    /// The path of a value: a path, text, a list of components.
    pub fn of(value: &Value) -> OsPath {
        if let Some(p) = value.downcast::<OsPath>() {
            return p.clone();
        }
        match value {
            Value::List(items) if items.len() == 1 => OsPath::of(&items[0]),
            Value::List(items) => {
                let components = items.iter().map(Value::to_str).collect();
                OsPath { components, kind: Kind::Linux, delegate: None }
            }
            Value::Dict(d) => OsPath::from_spec(value.to_json().as_bytes())
                .or_else(|| d.get("Path").map(OsPath::of))
                .unwrap_or_else(|| OsPath::linux(b"")),
            other => {
                let text = other.to_str();
                OsPath::from_spec(text.as_bytes()).unwrap_or_else(|| OsPath::linux(text.as_bytes()))
            }
        }
    }

    /// This path with one more component.
    #[must_use]
    pub fn join(&self, name: impl Into<Str>) -> OsPath {
        let mut out = self.clone();
        out.components.push(name.into());
        out
    }

    /// The text, bytes as they are; of a path inside of something JSON.
    pub fn bytes(&self) -> Vec<u8> {
        match &self.delegate {
            Some(_) => self.spec().to_json().into_bytes(),
            None => self.inner_bytes(),
        }
    }

    /// The path with what it is inside of; empty members are left out.
    fn spec(&self) -> Value {
        let mut spec = Dict::new();
        if let Some(d) = &self.delegate {
            if !d.accessor.is_empty() {
                spec.set("DelegateAccessor", d.accessor.as_str());
            }
            if d.nested {
                spec.set("Delegate", OsPath::of(&d.path.as_str().into()).spec());
            } else if !d.path.is_empty() {
                spec.set("DelegatePath", d.path.as_str());
            }
        }
        if !self.components.is_empty() {
            spec.set("Path", Value::Str(self.inner_bytes().into()));
        }
        spec.into()
    }

    /// The text of the path alone.
    pub fn inner_bytes(&self) -> Vec<u8> {
        self.kind.join(&self.components)
    }

    /// The native path below `root`.
    pub fn native(&self, root: &std::path::Path) -> PathBuf {
        let mut out = root.as_os_str().as_bytes().to_vec();
        while out.last() == Some(&b'/') {
            out.pop();
        }
        out.extend_from_slice(&self.inner_bytes());
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

    /// The last part; of what is not taken apart the whole.
    pub fn name(&self) -> Option<&Str> {
        match self.kind {
            Kind::Raw => self.components.first(),
            _ => self.components.last(),
        }
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
            "Basename" => self.name().cloned().map_or("".into(), Value::Str),
            "Dirname" => {
                let mut up = self.clone();
                up.components.pop();
                Value::object(up)
            }
            // Of a file of the datastore it has no beginning.
            "Path" if matches!(self.kind, Kind::Store | Kind::Records) => {
                let text = self.inner_bytes();
                Value::Str(text.get(4..).unwrap_or_default().into())
            }
            "Path" => Value::Str(self.inner_bytes().into()),
            "String" => Value::Str(self.bytes().into()),
            "HumanString" => match &self.delegate {
                None => Value::Str(self.bytes().into()),
                Some(d) => {
                    let mut outer = OsPath::of(&d.path.as_str().into());
                    // Read as its accessor reads paths.
                    if outer.delegate.is_some()
                        && let Some(known) = OsPath::parse_as(&d.accessor, b"")
                    {
                        outer.kind = if known.kind == Kind::Raw { outer.kind } else { known.kind };
                    }
                    let outer = outer.member("HumanString").unwrap_or_default().to_text();
                    format!("{outer} -> {}", vql::lossy(&self.inner_bytes())).into()
                }
            },
            "PathSpec" => self.spec(),
            "DelegatePath" => self.delegate.as_ref().map_or("", |d| &d.path).into(),
            "DelegateAccessor" => self.delegate.as_ref().map_or("", |d| &d.accessor).into(),
            "Delegate" => match &self.delegate {
                Some(d) => Value::object(OsPath::of(&d.path.as_str().into())),
                None => Value::Null,
            },
            "DescribeType" => match self.kind {
                Kind::Linux => "LinuxPath".into(),
                Kind::Raw => "RawPath".into(),
                Kind::Windows => "WindowsPath".into(),
                Kind::Ntfs => "NTFSPath".into(),
                Kind::Registry => "RegistryPath".into(),
                Kind::Generic | Kind::Hive => "Generic".into(),
                Kind::Store | Kind::Records => "FileStorePath".into(),
            },
            _ => return None,
        })
    }

    fn index(&self, index: i64) -> Option<Value> {
        let n = self.components.len() as i64;
        let at = if index < 0 { index + n } else { index };
        self.components.get(usize::try_from(at).ok()?).cloned().map(Value::Str)
    }

    fn slice(&self, from: Option<i64>, to: Option<i64>) -> Option<Value> {
        let n = self.components.len() as i64;
        let clamp = |i: i64| (if i < 0 { i.saturating_add(n) } else { i }).clamp(0, n) as usize;
        let (from, to) = (from.map_or(0, clamp), to.map_or(n as usize, clamp));
        let mut part = self.clone();
        part.components = self.components[from..to.max(from)].to_vec();
        Some(Value::object(part))
    }

    fn text(&self) -> Option<String> {
        Some(self.to_text())
    }

    fn truth(&self) -> bool {
        !self.components.is_empty() || self.delegate.is_some()
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
            // Text is read as this path is.
            Value::Str(text) if !text.as_bytes().starts_with(b"{") && self.kind != Kind::Raw => {
                match self.kind {
                    Kind::Ntfs => Kind::Windows.parse(text.as_bytes()),
                    Kind::Registry => Kind::Hive.parse(text.as_bytes()),
                    kind => kind.parse(text.as_bytes()),
                }
            }
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
        let w = OsPath::windows(b"C:\\Users\\x/y");
        assert_eq!((w.to_text().as_str(), w.components.len()), ("C:\\Users\\x\\y", 4));
        assert_eq!(OsPath::windows(b"\\\\.\\C:\\a").to_text(), "\\\\.\\C:\\a");
        assert_eq!(OsPath::linux(b"").to_text(), "/");
        let inner = OsPath { components: ["foo", "\\\\.\\C:", "a"].map(Str::from).into(), ..w };
        assert_eq!(inner.to_text(), "foo\\\"\\\\.\\C:\"\\a");
        assert_eq!(OsPath::windows(inner.to_text().as_bytes()), inner);
        let f = OsPath::of_kind(Kind::Store, b"fs:/clients/C.1/a b");
        let of = |m: &str| f.member(m).unwrap().to_text();
        assert_eq!(
            (of("String"), of("Path")),
            ("fs:/clients/C.1/a b".into(), "clients/C.1/a b".into())
        );
        assert_eq!((of("Dirname"), of("Basename")), ("fs:/clients/C.1".into(), "a b".into()));
        let root = OsPath::of_kind(Kind::Store, b"/");
        assert_eq!(
            (root.to_text().as_str(), root.member("Path").unwrap().to_text()),
            ("fs:", String::new())
        );
        let record = OsPath::of_kind(Kind::Records, b"ds:/a.db");
        assert_eq!(OsPath::from_bytes(&record.to_bytes().unwrap()).unwrap(), record);
        assert!(!OsPath::linux(b"/").truth());
        assert_eq!(p.native("/root".as_ref()).to_str(), Some("/root/usr/bin/x y"));
    }

    #[test]
    fn kinds() {
        for (kind, text, shown, parts) in [
            ("registry", "hkcu/Console/x", "HKEY_CURRENT_USER\\Console\\x", 3),
            ("registry", "HKEY_users\\\"a/b\"", "HKEY_USERS\\\"a/b\"", 2),
            ("ntfs", "D:\\x", "\\\\.\\D:\\x", 2),
            ("ntfs", "a/b", "a\\b", 2),
            ("generic", "\"p/q\"\\r", "/\"p/q\"/r", 2),
            ("generic", "\"say \"\"x\"\"\"/y", "/\"say \"\"x\"\"\"/y", 2),
            ("raw_reg", "/Root/k", "\\Root\\k", 2),
            ("raw_reg", "", "\\", 0),
            ("windows", "", "", 0),
        ] {
            let path = OsPath::parse_as(kind, text.as_bytes()).unwrap();
            assert_eq!((path.to_text().as_str(), path.components.len()), (shown, parts), "{text}");
            assert_eq!(OsPath::from_bytes(&path.to_bytes().unwrap()), Some(path));
        }
        assert!(OsPath::parse_as("teletype", b"x").is_none());
        let added = |kind, base: &str, more: &str| {
            let path = OsPath::parse_as(kind, base.as_bytes()).unwrap();
            path.add(&more.into()).unwrap().to_text()
        };
        assert_eq!(added("windows", "C:\\a", "\\b/c"), "C:\\a\\b\\c");
        assert_eq!(added("registry", "HKLM", "hklm/x"), "HKEY_LOCAL_MACHINE\\hklm\\x");
        assert_eq!(added("linux", "/a", "b\\c"), "/a/b\\c");
        let hive = OsPath::linux(b"/a/b").as_kind(Kind::Hive);
        assert_eq!(hive.to_text(), "\\a\\b");
    }

    #[test]
    fn paths_inside_of_others() {
        let inner = OsPath::linux(b"/tmp/a.zip").inside("", "");
        assert!(inner.delegate.is_none());
        let p = OsPath::linux(b"m/n").inside("file", "/tmp/a.zip");
        let text = r#"{"DelegateAccessor":"file","DelegatePath":"/tmp/a.zip","Path":"/m/n"}"#;
        assert_eq!(p.to_text(), text);
        assert_eq!(OsPath::of(&text.into()), p);
        assert_eq!(p.member("HumanString").unwrap().to_text(), "/tmp/a.zip -> /m/n");
        let up = p.member("Dirname").unwrap();
        assert_eq!(up.downcast::<OsPath>().unwrap().delegate, p.delegate);
        let nested = OsPath::linux(b"x").inside("zip", text);
        assert_eq!(OsPath::of(&nested.to_text().as_str().into()), nested);
        assert!(nested.member("HumanString").unwrap().to_text().ends_with("/m/n -> /x"));
        assert_eq!(OsPath::of(&"{not a spec}".into()).to_text(), "/{not a spec}");
    }
}
