//! Accessors whose files are values: `data`, whose path is its own content, and `scope`, whose
//! path names a variable or a member of one.

use std::io::{self, Cursor};

use vql::{Reply, Scope, Str, Value};

use super::OsPath;
use super::accessor::{Accessor, FileInfo, ReadSeek, UNKNOWN};
use super::path::Kind;

/// See the module.
pub enum Content {
    /// The path itself.
    Literal,
    /// What a variable has. Its path is the name, followed by the content, if there is any.
    Variable,
}

impl Accessor for Content {
    fn parse(&self, scope: &Scope, text: &Str) -> OsPath {
        let mut path = OsPath::raw(text.as_bytes());
        if let Content::Variable = self {
            match found(scope, &text.to_text()) {
                Some(Value::Null) => path.components.push("Null".into()),
                Some(value) => path.components.push(value.to_str()),
                None => path.components.clear(),
            }
        }
        path
    }

    fn kind(&self) -> Kind {
        Kind::Raw
    }

    fn read(&self, text: &[u8]) -> OsPath {
        OsPath::raw(text)
    }

    fn open(&self, path: &OsPath) -> io::Result<Box<dyn ReadSeek>> {
        Ok(Box::new(Cursor::new(content(path)?.to_vec())))
    }

    fn lstat(&self, path: &OsPath) -> io::Result<FileInfo> {
        let plain = FileInfo::plain(path.clone(), content(path)?.len() as u64);
        Ok(FileInfo { times: [UNKNOWN; 4], mode: 0o100_644, ..plain })
    }
}

fn content(path: &OsPath) -> io::Result<&[u8]> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "there is no such variable");
    path.components.last().map(Str::as_bytes).ok_or_else(none)
}

/// The value `a.b.c` names, as far as it can be told without waiting.
fn found(scope: &Scope, name: &str) -> Option<Value> {
    let mut parts = name.split('.');
    let first = parts.next().unwrap_or_default();
    let mut value = match vql::variable(first, scope) {
        Reply::Ready(value) => value?,
        Reply::Pending(_) => scope.resolve(first)?,
    };
    for part in parts {
        value = match (&value, part.parse::<usize>()) {
            (Value::List(items), Ok(at)) => items.get(at)?.clone(),
            _ => vql::member(&value, part)?,
        };
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vql::Dict;

    fn text(name: &str) -> Option<(String, String)> {
        let scope = vql::ScopeBuilder::new(std::sync::Arc::new(vql::Registry::standard())).build();
        scope.set("X", Dict::new().with("Data", "MZ").with("List", vec![Value::Int(7)]));
        scope.set("Nothing", Value::Null);
        let path = Content::Variable.parse(&scope, &name.into());
        let mut file = Content::Variable.open(&path).ok()?;
        let mut out = String::new();
        file.read_to_string(&mut out).unwrap();
        Some((path.to_text(), out))
    }

    #[test]
    fn a_path_names_a_variable_or_a_member() {
        let file = |name: &str, content: &str| Some((name.to_owned(), content.to_owned()));
        assert_eq!(text("X.Data"), file("X.Data", "MZ"));
        assert_eq!(text("X.List.0"), file("X.List.0", "7"));
        assert_eq!(text("X"), file("X", r#"{"Data":"MZ","List":[7]}"#));
        assert_eq!(text("Nothing"), file("Nothing", "Null"));
        assert_eq!(text("Y"), None);
        assert_eq!(text("X.Y"), None);
    }
}
